"""The package's exception family.

Every mistake a user can make ends in one of these, with one sentence that names the file, line or
key at fault and the way out. The command line prints that sentence and exits with status 2; any
other exception is a defect of the package and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class HellmError(Exception):
    """Base class of every error this package raises on purpose."""


class ConfigError(HellmError):
    """An option, model or dataset name is unknown, or a value does not fit."""


class DataError(HellmError):
    """Interactions or item tables are missing, malformed or inconsistent."""


class FeatureError(HellmError):
    """Item features are missing, do not cover the items, or hold values that cannot be used."""


class BackboneError(HellmError):
    """A language-model backbone cannot be built or loaded."""


class RunError(HellmError):
    """A run directory or checkpoint cannot be used."""


class BusyError(RunError):
    """A run is being trained by another process."""


class DivergenceError(RunError):
    """Training leads to values that are no numbers.

    Parameters
    ----------
    what, way_out : str
        The two parts of the sentence.
    """

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(what, way_out)
        self.what, self.way_out = what, way_out

    def __str__(self) -> str:
        return f"{self.what}; {self.way_out}."


class StorageError(HellmError):
    """A file cannot be written: the disk is full, or the folder is read-only."""


class UnknownOptionError(ConfigError):
    """A key that is no option of a model.

    Parameters
    ----------
    key, model : str
    known : iterable of str
        The options among which it may be meant.
    """

    def __init__(self, key: str, model: str, known: Iterable[str]) -> None:
        super().__init__(key, model, frozenset(known))
        self.key = key

    def __str__(self) -> str:
        key, model, known = self.args
        return (
            f"Unknown option '{key}' for model {model}{nearest(key, sorted(known))} "
            f"`recbole-hellm run --model={model} --help` lists all options."
        )

    def beside(self, more: Iterable[str]) -> UnknownOptionError:
        """The same, where it may be one of `more` that is meant."""
        key, model, known = self.args
        return UnknownOptionError(key, model, {*known, *more})


def reason(error: BaseException) -> str:
    """The first sentence of another error's text, for use in parentheses."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return (lines or [type(error).__name__])[0].split(". ")[0].rstrip(".: ")


def without_passwords(text: str) -> str:
    """A text whose addresses have lost what stands before the host."""
    return re.sub(r"//[^@/\s]*@", "//...@", text)


def install_extra(extra: str) -> str:
    """How to get the packages of one of this package's extras, as a part of a sentence."""
    return f"run `pip install 'recbole-hellm[{extra}]'`"


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean …?);`` for the known names close to `name`, else ``;``."""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
    if not close:
        return ";"
    return f" (did you mean {' or '.join(lowered[match] for match in close)}?);"
