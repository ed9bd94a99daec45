"""Logging of this package's programs."""

from __future__ import annotations

import logging


def configure_logging() -> None:
    """Log this package's progress to standard error, and only warnings of other packages."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("recbole_hellm").setLevel(logging.INFO)
