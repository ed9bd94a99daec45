"""``python -m recbole_hellm``."""

import sys

from recbole_hellm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
