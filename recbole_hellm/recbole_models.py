"""RecBole's models by name, read off its files: importing RecBole takes seconds."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from recbole_hellm.errors import ConfigError, RunError, reason

logger = logging.getLogger(__name__)

VERSION = "1.2.1"
FAMILIES = (
    "general_recommender",
    "sequential_recommender",
    "context_aware_recommender",
    "knowledge_aware_recommender",
)
_OWN_LOOP = "is trained by RecBole's {}Trainer, whose own loop this package does not drive yet"
_HELD_OUT = "reads the held-out items when RecBole scores it, so it cannot be evaluated fairly"
REFUSED = {
    "GRU4RecCPR": _HELD_OUT,
    "NCL": _OWN_LOOP,
    "RaCT": _OWN_LOOP,
    "S3Rec": _OWN_LOOP,
    "SASRecCPR": _HELD_OUT,
}
"""Models that cannot run here, and why."""
DIVISIBLE = frozenset(
    {
        *("BPR", "CORE", "Caser", "DMF", "FISM", "FPMC", "GRU4Rec", "HRM", "LightSANs", "MultiDAE"),
        *("NAIS", "NARM", "NPE", "NeuMF", "NextItNet", "RepeatNet", "SASRec", "SINE", "STAMP"),
    }
)
"""Models whose loss is a mean over the rows of a batch, beside terms that do not depend on rows.

Others normalise over a batch, count something, or take norms or negatives of a whole batch.
"""


def folder() -> Path:
    """RecBole's folder; raises :class:`ConfigError` if RecBole is not installed."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        # docs/installing.md, RecBole and Ray
        why, option = "", ""
        if sys.version_info >= (3, 12):
            why, option = " (from Python 3.12 on, it takes a command of its own)", "--no-deps "
        raise ConfigError(
            f"RecBole is not installed{why}; run `pip install {option}recbole=={VERSION}`."
        )
    return Path(spec.submodule_search_locations[0])


@functools.cache
def modules() -> dict[str, str]:
    """Module of each model; a file defines the model whose lower-case name it has."""
    found = {}
    for family in FAMILIES:
        for path in sorted((folder() / "model" / family).glob("[!_]*.py")):
            text = path.read_text(encoding="utf-8")
            for name in re.findall(r"^class (\w+)\(", text, flags=re.MULTILINE):
                if name.lower() == path.stem:
                    found[name] = f"recbole.model.{family}.{path.stem}"
    return found


def by_family() -> dict[str, list[str]]:
    """Names of the models that run here, by family."""
    return {
        family: sorted(
            name
            for name, module in modules().items()
            if module.split(".")[2] == family and name not in REFUSED
        )
        for family in FAMILIES
    }


def check_runs(name: str) -> None:
    """Raise :class:`ConfigError` if a model of RecBole cannot run here, see :data:`REFUSED`."""
    if name in REFUSED:
        raise ConfigError(f"Model '{name}' {REFUSED[name].format(name)}; choose another model.")


@contextlib.contextmanager
def reading(dataset: str) -> Iterator[None]:
    """Tell in one sentence of an error inside RecBole's code of data sets.

    It does not check the types of its settings.

    Parameters
    ----------
    dataset : str
        The data set that the block loads.

    Raises
    ------
    ConfigError
        If RecBole's code raises an error.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if not _is_in(error, "data"):
            raise
        logger.debug("RecBole's error", exc_info=error)
        raise ConfigError(
            f"RecBole cannot load dataset '{dataset}' with these settings "
            f"({type(error).__name__}: {reason(error)}); correct load_col, val_interval or "
            "whichever of its settings for data you have changed."
        ) from error


@contextlib.contextmanager
def failing(name: str) -> Iterator[None]:
    """Tell in one sentence of an error inside the code of RecBole's models.

    Some of them fail on data sets of a few users or items. Errors in other models pass, although
    these are built on RecBole's classes.

    Parameters
    ----------
    name : str
        The model that the block trains.

    Raises
    ------
    RunError
        If RecBole's code raises an error, or memory does not suffice.
    """
    try:
        yield
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        # A model of this package derives from RecBole's; its errors are its own.
        in_model = name in modules() and any(
            Path(file).is_relative_to(folder() / "model") for file in files
        )
        if not in_model and not _is_in(error, "data", "sampler"):
            raise
        logger.debug("RecBole's error", exc_info=error)
        if isinstance(error, _out_of_memory()):
            raise RunError(
                f"{name} needs more memory than there is ({reason(error)}); choose a smaller "
                "train_batch_size, or smaller sizes of the model."
            ) from error
        raise RunError(
            f"RecBole's code of {name} fails on this dataset with these settings "
            f"({type(error).__name__}: {reason(error)}); choose other settings, a larger dataset "
            "or another model."
        ) from error


def _out_of_memory() -> type[Exception]:
    import torch  # takes a second

    error: type[Exception] = torch.OutOfMemoryError
    return error


def _is_in(error: BaseException, *parts: str) -> bool:
    """Whether RecBole's code in one of its folders raised an error, or called what raised it."""
    inside = (folder(), Path(__file__).parent)
    files = (Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__))
    ours = [file for file in files if any(file.is_relative_to(place) for place in inside)]
    return any(ours[-1].is_relative_to(folder() / part) for part in parts)
