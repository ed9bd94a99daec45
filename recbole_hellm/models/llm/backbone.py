"""Backbones: a small LLaMA trained whole, or a pre-trained decoder with LoRA adapters."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedModel, PreTrainedTokenizerBase

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.adapters import Targets, add_adapters, find_targets
from recbole_hellm.models.llm.attention import ATTENTION
from recbole_hellm.models.llm.feed_forward import replace_layers
from recbole_hellm.models.llm.gguf import GgufFile, describe_gguf
from recbole_hellm.models.llm.item_texts import check_reads_words
from recbole_hellm.models.llm.loading import load_pretrained
from recbole_hellm.models.llm.prompt import template_tokenizer
from recbole_hellm.models.llm.settings import TINY_LAYERS, LLMSettings


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A decoder trunk without its language-model head, and its dimensions.

    Attributes
    ----------
    model : PreTrainedModel
        The trunk; its forward takes ``prefix_context``.
    name : str
        The value of the setting `backbone`.
    hidden_size, n_layers, n_heads, n_kv_heads, head_dim : int
        Shape.
    attention_layers : list of nn.Module
        Attention modules by layer.
    trained : bool
        Whether the trunk's own weights are trained; otherwise they are frozen.
    embedding_dropout : float
        Dropout on item tokens.
    tokenizer : PreTrainedTokenizerBase, optional
        ``None`` if the prompt needs none.
    targets : Targets, optional
        Of LoRA; ``None`` without it.
    positions : int, optional
        Number of learned positions; ``None`` if positions are computed, which has no end.
    file : GgufFile, optional
        Name and checksum of the GGUF file that the weights are from.
    """

    model: PreTrainedModel
    name: str
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    attention_layers: list[nn.Module]
    trained: bool
    embedding_dropout: float = 0.0
    tokenizer: PreTrainedTokenizerBase | None = None
    targets: Targets | None = None
    positions: int | None = None
    file: GgufFile | None = None


def build_backbone(
    settings: LLMSettings, device: torch.device | str | None = None, outline: bool = False
) -> Backbone:
    """Build or load the backbone that the settings name.

    The model stays on the CPU unless it is quantised, which happens on the GPU.

    Parameters
    ----------
    settings : LLMSettings
        Settings of the network.
    device : torch.device or str, optional
        Where the model will run; determines the type of pre-trained weights under
        ``backbone_dtype=auto``. Default: a GPU if available.
    outline : bool
        Build the backbone on the meta device without reading pre-trained weights.

    Returns
    -------
    Backbone
        With LoRA adapters if its weights are frozen.

    Raises
    ------
    BackboneError
        If the model cannot be loaded, or is not a decoder that prefixes can reach.
    """
    settings = settings.resolved()
    check_reads_words(settings)
    tokenizer: PreTrainedTokenizerBase | None
    if settings.tiny:
        tokenizer = template_tokenizer() if settings.prompt == "alpaca" else None
        return wrap_backbone(_tiny_model(settings, tokenizer), settings, tokenizer)
    model, tokenizer = load_pretrained(settings, device, outline)
    backbone = wrap_backbone(model, settings, tokenizer)
    if settings.random_backbone:
        return backbone
    return dataclasses.replace(backbone, file=describe_gguf(settings.backbone))


def wrap_backbone(
    model: PreTrainedModel,
    settings: LLMSettings,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Backbone:
    """Prepare a decoder trunk for prefixes: attention function, freezing, LoRA, dropout.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder-only trunk; changed in place.
    settings : LLMSettings
        Settings of the network.
    tokenizer : PreTrainedTokenizerBase, optional
        Its tokenizer.

    Raises
    ------
    BackboneError
        If the model is not a decoder that prefixes can reach, or has none of the LoRA targets.
    """
    settings = settings.resolved()
    name, config = settings.backbone, model.config
    layers = _attention_layers(model)
    heads, n_layers = getattr(config, "num_attention_heads", 0), len(layers)
    reachable = getattr(model, "_supports_attention_backend", False)
    # Features outside PyTorch's fused attention (such as attention sinks) are not supported, except
    # capped scores.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    reachable = reachable and (capped or getattr(model, "_supports_sdpa", False))
    if not reachable or n_layers == 0 or n_layers != getattr(config, "num_hidden_layers", 0):
        raise BackboneError(
            f"backbone={name} ({config.model_type}) is not a decoder whose every layer attends "
            "through transformers' attention interface, so prefixes cannot reach it; use a model "
            "of the LLaMA, Mistral, Qwen or Gemma families."
        )
    _require_scaled_words(model, name)
    model.set_attn_implementation(ATTENTION)
    targets = None
    if settings.train_backbone:
        model.requires_grad_(True)
    else:
        targets = _freeze(model, layers, settings)
    if not (settings.tiny or settings.train_backbone):
        replace_layers(model, layers)
    if not settings.reads_words:
        # Without words, word embeddings are unused, and unused trained parameters stall DDP.
        model.get_input_embeddings().requires_grad_(False)
    if settings.tiny:
        _add_residual_dropout(model, settings.backbone_dropout)
    if settings.gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    return Backbone(
        model=model,
        name=name,
        hidden_size=config.hidden_size,
        n_layers=n_layers,
        n_heads=heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        attention_layers=layers,
        trained=bool(settings.train_backbone),
        embedding_dropout=settings.item_dropout or 0.0,
        tokenizer=tokenizer,
        targets=targets,
        positions=_learned_positions(model),
    )


def omit_frozen_from_checkpoints(network: nn.Module, part: str) -> None:
    """Leave frozen weights of a sub-module out of state dicts, and accept their absence on load.

    Parameters
    ----------
    network : nn.Module
        The module whose state dicts omit them, also as a part of other modules.
    part : str
        Name of the sub-module.
    """

    def frozen() -> tuple[str, ...]:
        # By key rather than parameter: quantised weights store their scales under further keys.
        module = network.get_submodule(part)
        trained = {name for name, value in module.named_parameters() if value.requires_grad}
        return tuple(f"{part}.{key}" for key in module.state_dict() if key not in trained)

    def drop(_: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
        for key in frozen():
            state.pop(prefix + key, None)

    def expect(_: nn.Module, incompatible: Any) -> None:
        # These keys carry the path from the module that is loaded.
        absent = frozen()
        missing = [key for key in incompatible.missing_keys if not key.endswith(absent)]
        incompatible.missing_keys[:] = missing

    network.register_state_dict_post_hook(drop)
    network.register_load_state_dict_post_hook(expect)


def _tiny_model(
    settings: LLMSettings, tokenizer: PreTrainedTokenizerBase | None
) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=1 if tokenizer is None else len(tokenizer),
        hidden_size=settings.backbone_hidden_size,
        intermediate_size=settings.backbone_intermediate_size,
        num_hidden_layers=settings.backbone_layers or TINY_LAYERS,
        num_attention_heads=settings.backbone_heads,
        attention_dropout=settings.backbone_dropout,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    model = LlamaModel(config)
    # transformers' RMSNorm always computes in float32.
    for name, _ in list(model.named_modules()):
        if name.rpartition(".")[2] in ("norm", "input_layernorm", "post_attention_layernorm"):
            model.set_submodule(name, nn.RMSNorm(config.hidden_size, config.rms_norm_eps))
    return model


def _add_residual_dropout(model: PreTrainedModel, rate: float) -> None:
    for name, module in model.named_modules():
        if name.endswith((".o_proj", ".down_proj")):
            module.register_forward_hook(functools.partial(_dropped, rate))


def _dropped(rate: float, module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return F.dropout(output, rate, module.training)


def _freeze(
    model: PreTrainedModel, layers: list[nn.Module], settings: LLMSettings
) -> Targets | None:
    """Freeze the trunk, and add LoRA if it is asked for."""
    model.requires_grad_(False)
    if not settings.tiny:
        # A frozen trunk runs as in evaluation while its adapters train: disable its dropout.
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = 0.0  # type: ignore[assignment]
    if settings.lora_r == 0:
        return None
    targets = find_targets(model, layers, settings)
    add_adapters(model, settings, targets)
    return targets


def _attention_layers(model: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in model.modules()
        if hasattr(module, "layer_idx") and getattr(module, "is_causal", False) is True
    ]


def _learned_positions(model: PreTrainedModel) -> int | None:
    """Rows of a table of learned positions, such as GPT-2's; OPT's has two rows more."""
    limit = getattr(model.config, "max_position_embeddings", None)
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.endswith(("wpe", "embed_positions"))
    ]
    return min([limit, *(table.num_embeddings for table in tables)]) if limit and tables else None


def _require_scaled_words(model: PreTrainedModel, name: str) -> None:
    """Refuse decoders that scale word embeddings themselves: they would scale item tokens too.

    Gemma scales its words. Early releases of transformers 5 do so in the decoder.
    """
    families = ("gemma", "gemma2")
    if model.config.model_type in families and not hasattr(
        model.get_input_embeddings(), "embed_scale"
    ):
        raise BackboneError(
            f"backbone={name} ({model.config.model_type}) would scale item tokens like words under "
            f"transformers {transformers.__version__}; update it: pip install -U transformers."
        )
