"""Logging of the programs of this package."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

_NAME = __name__.partition(".")[0]
_TIME = "%H:%M:%S"


def configure_logging(level: int = logging.INFO) -> None:
    """Log this package's progress to standard error, and only warnings of other packages.

    Parameters
    ----------
    level : int
        The least that is logged of this package.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt=_TIME, level=logging.WARNING)
    logging.getLogger(_NAME).setLevel(level)


class _LogFile(logging.FileHandler):
    """A log whose failures end the log alone; whatever else is written there fails by itself."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message; the first one opens the file, outside of what the base class catches."""
        try:
            if not self.failed:
                super().emit(record)
        except OSError:
            self.failed = True

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Write no more; other handlers show the message."""
        self.failed = True


class _Above(logging.Handler):
    """Hands on what a logger would have handed to those above it."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().callHandlers(record)


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append this package's messages to a file as well, progress included.

    Elsewhere they are shown as before: a program that shows warnings alone sees no more of them.

    Parameters
    ----------
    path : Path
        Its folder has to be there by the time of the first message.
    """
    logger = logging.getLogger(_NAME)
    file = _LogFile(path, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    file.setLevel(logging.INFO)
    level, shown, propagate = logger.level, logger.getEffectiveLevel(), logger.propagate
    handlers: list[logging.Handler] = [file]
    if shown > logging.INFO:
        logger.setLevel(logging.INFO)
        if propagate:
            logger.propagate = False
            handlers.append(_Above(shown))
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        file.close()
        logger.setLevel(level)
        logger.propagate = propagate
