"""Which models can do what the settings of histories ask of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.utils import ModelType

from recbole_hellm import registry
from recbole_hellm.errors import ConfigError


def check_histories(entry: registry.ModelEntry, settings: Mapping[str, Any]) -> None:
    """Check ``bucket_by_length``, ``first_item_target`` and ``split_order`` against a model.

    Parameters
    ----------
    entry : ModelEntry
    settings : Mapping of str to object
        The final settings of a run.

    Raises
    ------
    ConfigError
        If the model reads padding, which the first would cut off, or if what it makes of an empty
        history is not known, from which the second learns, or if it reads the order of items, which
        the third takes away.
    """
    if settings["split_order"] == "random" and settings["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        raise ConfigError(
            f"split_order=random leaves no order of items, which {entry.name} reads; use "
            "split_order=time, or a general model such as BPR."
        )
    trimmable = registry.trimmable(entry)
    if settings["bucket_by_length"] and not trimmable:
        raise ConfigError(
            f"bucket_by_length=True would change the results of {entry.name}; remove it, or "
            f"use it with {', '.join(registry.TRIMMABLE)}."
        )
    if settings["first_item_target"] and not (trimmable or _reads_empty(entry)):
        names = [*registry.TRIMMABLE]
        names += [name for name, own in registry.OWN_MODELS.items() if _reads_empty(own)]
        raise ConfigError(
            f"first_item_target=True needs a model that learns from an empty history "
            f"({', '.join(sorted(names))}), which {entry.name} does not; remove it, or set it for "
            "one model alone (--SASRec.first_item_target=True)."
        )


def _reads_empty(entry: registry.ModelEntry) -> bool:
    """Whether the model's class says that it reads histories of padding alone."""
    return entry.kind == "sequential" and bool(getattr(entry.load(), "reads_empty", False))
