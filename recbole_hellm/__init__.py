"""HeLLM and the methods it is compared with, as an extension of RecBole."""

from __future__ import annotations

from typing import Any

from recbole_hellm import compat

__version__ = "0.1.0"
__all__ = ["__version__", "load_run", "recommend", "run"]

compat.supply_numpy_aliases()


def __getattr__(name: str) -> Any:
    # Deferred so that models.llm, graph and models.losses import without RecBole.
    if name in ("run", "load_run"):
        from recbole_hellm import quick_start

        return getattr(quick_start, name)
    if name == "recommend":
        from recbole_hellm import recommending

        return recommending.recommend
    raise AttributeError(f"module 'recbole_hellm' has no attribute {name!r}")
