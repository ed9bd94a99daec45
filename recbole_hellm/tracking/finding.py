"""Trackers by name: this package's, those of installed packages, those of the user's modules."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable
from typing import Any, cast

from recbole_hellm.errors import ConfigError, install_extra, nearest, reason
from recbole_hellm.extensions import installed, is_import_path, load_object
from recbole_hellm.tracking.tracker import Tracker

GROUP = "recbole_hellm.trackers"
"""The entry points by which installed packages offer trackers."""
BUILT_IN = {
    "tensorboard": "recbole_hellm.tracking.tensorboard:TensorBoardTracker",
    "mlflow": "recbole_hellm.tracking.mlflow:MLflowTracker",
    "wandb": "recbole_hellm.tracking.wandb:WandbTracker",
}
EXTRAS = ("mlflow", "wandb")
"""Trackers whose package is an extra of the same name."""
METHODS = ("start", "curves", "results", "artefact", "finish")


def check_trackers(names: Iterable[str]) -> None:
    """Check that all trackers can be had, without importing those of this package.

    Raises
    ------
    ConfigError
        If one cannot be had.
    """
    for name in names:
        if name in BUILT_IN:
            _check_package(name)
        else:
            find_tracker(name)


def find_tracker(name: str) -> type[Tracker]:
    """The class of a tracker.

    Parameters
    ----------
    name : str
        A name of :data:`BUILT_IN`, that of an entry point of :data:`GROUP`, or an import path
        ``package.module:Name``.

    Raises
    ------
    ConfigError
        If there is none, a package that it needs is missing, or it lacks a method.
    """
    offered = {**installed(GROUP), **BUILT_IN}
    if name not in offered and not is_import_path(name):
        known = ", ".join(sorted(offered))
        raise ConfigError(
            f"There is no tracker named '{name}'{nearest(name, offered)} use some of {known}, or "
            "the import path of your own, such as my_module:MyTracker."
        )
    _check_package(name)
    path = offered.get(name, name)
    loaded = _loaded(name, path)
    missing = [method for method in METHODS if not callable(getattr(loaded, method, None))]
    if not inspect.isclass(loaded) or missing:
        lacking = f"lacks {', '.join(missing)}" if missing else "is no class"
        raise ConfigError(
            f"The tracker {path} {lacking}; derive a class from Tracker in "
            "recbole_hellm.tracking.tracker."
        )
    return cast("type[Tracker]", loaded)


def _check_package(name: str) -> None:
    """Refuse a tracker of this package whose own package is missing."""
    if name not in EXTRAS:
        return
    found = importlib.util.find_spec(name)
    # A folder that the tracker made where the program was started looks like a package, too.
    if found is None or found.origin is None:
        raise ConfigError(
            f"The tracker {name} needs the package '{name}', which is not installed; "
            f"{install_extra(name)}."
        )


def _loaded(name: str, path: str) -> Any:
    try:
        return load_object(path, "tracker")
    except ImportError as error:  # a package that is there, but does not fit another one
        if name not in EXTRAS:
            raise
        raise ConfigError(
            f"The tracker {name} needs the package '{name}', which cannot be imported "
            f"({reason(error)}); {install_extra(name)}."
        ) from error


def make_trackers(names: Iterable[str]) -> dict[str, Tracker]:
    """New trackers by name; see :func:`find_tracker`.

    Raises
    ------
    ConfigError
        If one cannot be had.
    """
    made = {}
    for name in names:
        try:
            made[name] = find_tracker(name)()
        except TypeError as error:
            raise ConfigError(
                f"The tracker {name} cannot be made without arguments ({error}); give its "
                "parameters defaults."
            ) from error
    return made
