"""HeLLM and the methods it is compared with, as an extension of RecBole."""

from __future__ import annotations

import importlib
from typing import Any

from recbole_hellm import compat, recbole_models
from recbole_hellm.version import __version__

__all__ = ["__version__", "compare", "load_run", "recommend", "run"]

_PUBLIC = {
    "compare": "recbole_hellm.comparisons",
    "load_run": "recbole_hellm.runs.results",
    "recommend": "recbole_hellm.runs.recommending",
    "run": "recbole_hellm.runs.running",
}

compat.supply_numpy_aliases()


def __getattr__(name: str) -> Any:
    # Deferred so that models.llm, graph and models.losses import without RecBole.
    if name in _PUBLIC:
        recbole_models.folder()  # one sentence where RecBole is not installed
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'recbole_hellm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
