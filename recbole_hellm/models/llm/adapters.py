"""LoRA on a frozen backbone: the layers that it may adapt, and targets that name none of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from recbole_hellm.errors import BackboneError, nearest
from recbole_hellm.models.llm.settings import LLMSettings

logger = logging.getLogger(__name__)

LINEAR = (nn.Linear, Conv1D)


@dataclasses.dataclass(frozen=True)
class Targets:
    """The targets of LoRA among the layers of a backbone.

    Attributes
    ----------
    names : tuple of str
        Names of all its linear layers, without those of the modules that hold them.
    feed_forward : tuple of str
        Targets that match the linear layers outside attention, and no others.
    unmatched : tuple of str
        Targets that match no layer.
    """

    names: tuple[str, ...]
    feed_forward: tuple[str, ...]
    unmatched: tuple[str, ...]

    @property
    def advice(self) -> str:
        """An option that adapts the feed-forward layers, as the paper does."""
        return f"--lora_targets='[{', '.join(self.feed_forward or self.names)}]'"


def find_targets(
    model: PreTrainedModel, attention: Collection[nn.Module], settings: LLMSettings
) -> Targets:
    """Compare the targets that the settings name with the layers of an unadapted trunk.

    Parameters
    ----------
    model : PreTrainedModel
    attention : collection of nn.Module
        Its attention modules.
    settings : LLMSettings
    """
    inside = {id(part) for module in attention for part in module.modules()}
    linear = {path: part for path, part in model.named_modules() if isinstance(part, LINEAR)}
    attending = {_last(path) for path, part in linear.items() if id(part) in inside}
    others = [path for path, part in linear.items() if id(part) not in inside]
    # A name that attention has, too, is told apart by the module that holds the layer.
    distinct = (_last(path, 2 if _last(path) in attending else 1) for path in others)
    # peft also adapts embeddings.
    layers = [path for path, part in model.named_modules() if isinstance(part, nn.Embedding)]
    return Targets(
        names=tuple(dict.fromkeys(map(_last, linear))),
        feed_forward=tuple(dict.fromkeys(distinct)),
        unmatched=tuple(
            target
            for target in settings.lora_targets
            if not any(f".{path}".endswith(f".{target}") for path in [*linear, *layers])
        ),
    )


def add_adapters(model: PreTrainedModel, settings: LLMSettings, targets: Targets) -> None:
    """Put LoRA on the targets; only the adapters are trained, in float32.

    Raises
    ------
    BackboneError
        If no target matches a layer, or one matches a module that LoRA cannot adapt.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets),
        # The weights of GPT-2's layers are stored transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    try:
        inject_adapter_in_model(lora, model)
    except ValueError as error:
        wanted = list(targets.unmatched or settings.lora_targets)
        raise BackboneError(
            f"lora_targets={wanted} must name linear layers of backbone={settings.backbone} "
            f"({model.config.model_type}) and nothing else; its linear layers are "
            f"{', '.join(targets.names)}, and {targets.advice} adapts the feed-forward layers."
        ) from error
    for name, parameter in model.named_parameters():
        is_adapter = "lora_" in name
        parameter.requires_grad_(is_adapter)
        if is_adapter:
            parameter.data = parameter.data.float()


def check_targets(targets: Targets, settings: LLMSettings) -> None:
    """Check that each target matches a layer; of the default targets some may match none.

    A finished run whose targets match in part can be loaded, so only training checks this.

    Raises
    ------
    BackboneError
        If a target matches no layer.
    """
    if not targets.unmatched:
        return
    name, wanted = settings.backbone, settings.lora_targets
    if wanted != LLMSettings.declarations()["lora_targets"].default:
        target = targets.unmatched[0]
        raise BackboneError(
            f"lora_targets: backbone={name} has no layer '{target}'"
            f"{nearest(target, targets.names)} its linear layers are {', '.join(targets.names)}."
        )
    matched = [target for target in wanted if target not in targets.unmatched]
    logger.warning(
        "Of the default lora_targets, backbone=%s has only %s, so LoRA adapts a part of its "
        "feed-forward layers; %s adapts all of them.",
        name,
        ", ".join(matched),
        targets.advice,
    )


def _last(path: str, parts: int = 1) -> str:
    return ".".join(path.split(".")[-parts:])
