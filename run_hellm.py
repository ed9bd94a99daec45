"""Train and evaluate a model: ``python run_hellm.py --model=HeLLM --dataset=Beauty``."""

import sys

from recbole_hellm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
