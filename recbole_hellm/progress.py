"""Progress bars, where somebody can see them: in a terminal or a notebook."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm.auto import tqdm

# None: only where they can be seen.
_wanted: contextvars.ContextVar[bool | None] = contextvars.ContextVar("bars", default=None)


@contextlib.contextmanager
def bars(shown: bool | None) -> Iterator[None]:
    """Show all bars within, or none, whatever standard error is.

    Parameters
    ----------
    shown : bool or None
        None shows them where standard error is a terminal, and in notebooks.
    """
    token = _wanted.set(shown)
    try:
        yield
    finally:
        _wanted.reset(token)


@contextlib.contextmanager
def transformers_bars() -> Iterator[None]:
    """Show bars of transformers, which reads or writes weights within, where `bars` allows it."""
    from transformers.utils import logging

    if bars_visible() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def progress_bar(
    iterable: Iterable[Any] | None = None, *, show: bool = True, **options: Any
) -> tqdm[Any]:
    """A bar of `tqdm`.

    Parameters
    ----------
    iterable : iterable, optional
        What is gone through.
    show : bool
        False shows no bar, True one where :class:`bars` allows it.
    **options
        As for `tqdm`.
    """
    from tqdm.auto import tqdm  # no work at the start of every command

    return tqdm(iterable, disable=not (show and bars_visible()), **options)


def bars_visible() -> bool:
    """Whether bars are shown now."""
    wanted = _wanted.get()
    if wanted is not None:
        return wanted
    # A notebook's standard error is no terminal; its kernel shows bars all the same.
    return "ipykernel" in sys.modules or sys.stderr.isatty()
