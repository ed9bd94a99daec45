"""Classes and functions that others bring: by import path, or by name from an installed package.

Models, metrics, dataset families and item inputs of the LLM stage are all found here, so that all
of them take the same kinds of names.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from importlib import metadata
from typing import Any

from recbole_hellm.errors import ConfigError


def is_import_path(name: str) -> bool:
    """Whether `name` is written ``package.module:Name``."""
    module, colon, attribute = name.partition(":")
    return (
        bool(colon) and attribute.isidentifier() and all(map(str.isidentifier, module.split(".")))
    )


def load_object(path: str, what: str) -> Any:
    """The object that an import path ``package.module:Name`` names.

    Modules of the working directory are found, too, however the program was started.

    Parameters
    ----------
    path : str
    what : str
        What it should be, for messages: ``model``, for example.

    Raises
    ------
    ConfigError
        If there is no such module, or it has no such name.
    """
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:  # a console script has its own folder there instead
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"The {what} {path} needs the package '{error.name}', which is not installed."
            ) from error
        raise ConfigError(
            f"There is no module '{error.name}' for the {what} {path}; start in the folder that "
            "holds it, or put that folder on PYTHONPATH."
        ) from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{module.__name__} has no {attribute!r}, which {what}={path} names.")
    return getattr(module, attribute)


@functools.cache
def installed(group: str) -> dict[str, str]:
    """Import paths of what installed packages offer, by name.

    Parameters
    ----------
    group : str
        A group of entry points, such as ``recbole_hellm.models``.
    """
    return {entry.name: entry.value for entry in metadata.entry_points(group=group)}
