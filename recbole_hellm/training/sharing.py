"""Which models several processes train together."""

from __future__ import annotations

from recbole_hellm import recbole_models
from recbole_hellm.errors import ConfigError
from recbole_hellm.registry import ModelEntry


def data_parallel(entry: ModelEntry) -> bool:
    """Whether several processes can share the training of a model.

    A class says so in its attribute ``data_parallel``, and :data:`recbole_models.DIVISIBLE` of
    RecBole's models. A derived class may have another loss, so it has to say so again, except for
    one that derives from HeLLM.

    Raises
    ------
    ConfigError
        If the class says so, and has a new loss beside its parent's ``portion_loss``.
    """
    cls = entry.load()
    if entry.kind == "LLM":
        return bool(getattr(cls, "data_parallel", False))
    recboles = recbole_models.modules().get(entry.name) == entry.module
    known = recboles and entry.name in recbole_models.DIVISIBLE
    shared = bool(vars(cls).get("data_parallel", known))
    defined = ({"calculate_loss", "portion_loss"} & vars(base).keys() for base in cls.__mro__)
    nearest_losses = next(names for names in defined if names)
    if shared and hasattr(cls, "portion_loss") and "portion_loss" not in nearest_losses:
        raise ConfigError(
            f"{entry.name} has a calculate_loss of its own, but its parent's portion_loss; define "
            "both, or leave data_parallel out."
        )
    return shared
