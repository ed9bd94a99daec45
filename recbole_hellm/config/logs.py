"""What a program of this package tells while it works."""

from __future__ import annotations

import logging


def configure_logging() -> None:
    """Tell this package's progress on standard error, and of others no more than warnings."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("recbole_hellm").setLevel(logging.INFO)
