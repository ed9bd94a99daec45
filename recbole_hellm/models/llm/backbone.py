"""Backbones: a small LLaMA trained whole, or a pre-trained decoder with LoRA adapters."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.attention import ATTENTION
from recbole_hellm.models.llm.prompt import template_tokenizer
from recbole_hellm.models.llm.settings import LLMSettings

LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, ImportError, RuntimeError),
    *(SafetensorError, StrictDataclassError),
)
ALTERNATIVE = "name a local folder that holds the model, or use --backbone=tiny."


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A decoder trunk without its language-model head, and the facts others need.

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
        ``None`` where the model has none.
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


def build_backbone(settings: LLMSettings, device: torch.device | str | None = None) -> Backbone:
    """Build or load the backbone that the settings name, on the CPU.

    Parameters
    ----------
    settings : LLMSettings
        See there.
    device : torch.device or str, optional
        Where the model will run, which decides the type of pre-trained weights under
        ``backbone_dtype=auto``; by default a GPU if there is one.

    Returns
    -------
    Backbone
        With LoRA adapters if its weights are frozen.

    Raises
    ------
    BackboneError
        If the model cannot be had or is no decoder that prefixes can reach.
    """
    settings = settings.resolved()
    if settings.tiny:
        tokenizer = template_tokenizer() if settings.prompt == "alpaca" else None
        return wrap_backbone(_tiny_model(settings, tokenizer), settings, tokenizer)
    model = _pretrained_model(settings, _weight_dtype(settings, device))
    return wrap_backbone(model, settings, _pretrained_tokenizer(settings.backbone))


def wrap_backbone(
    model: PreTrainedModel,
    settings: LLMSettings,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Backbone:
    """Make a decoder trunk fit for prefixes: attention function, freezing, LoRA, dropout.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder-only trunk; changed in place.
    settings : LLMSettings
        See there.
    tokenizer : PreTrainedTokenizerBase, optional
        Its tokenizer.

    Raises
    ------
    BackboneError
        If the model is no decoder that prefixes can reach, or has none of the LoRA targets.
    """
    settings = settings.resolved()
    name, config = settings.backbone, model.config
    layers = _attention_layers(model)
    heads, n_layers = getattr(config, "num_attention_heads", 0), len(layers)
    reachable = getattr(model, "_supports_attention_backend", False)
    reachable = reachable and getattr(config, "attn_logit_softcapping", None) is None
    if not reachable or n_layers == 0 or n_layers != getattr(config, "num_hidden_layers", 0):
        raise BackboneError(
            f"backbone={name} ({config.model_type}) is not a decoder whose every layer attends "
            "through transformers' attention interface, so prefixes cannot reach it; use a model "
            "of the LLaMA, Mistral, Qwen or Gemma families."
        )
    model.set_attn_implementation(ATTENTION)
    if settings.train_backbone:
        model.requires_grad_(True)
    else:
        _freeze(model, settings)
    if settings.prompt == "none":
        # Without words the word embeddings are never used, and unused parameters stall DDP.
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
        embedding_dropout=settings.backbone_dropout if settings.tiny else 0.0,
        tokenizer=tokenizer,
    )


def omit_frozen_from_checkpoints(network: nn.Module, part: str) -> None:
    """Leave frozen weights of a sub-module out of state dicts, and do not miss them on loading.

    Parameters
    ----------
    network : nn.Module
        The module whose state dicts are concerned, also as a part of others.
    part : str
        Name of the sub-module.
    """

    def frozen() -> tuple[str, ...]:
        parameters = network.get_submodule(part).named_parameters()
        return tuple(f"{part}.{name}" for name, value in parameters if not value.requires_grad)

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
        num_hidden_layers=settings.backbone_layers,
        num_attention_heads=settings.backbone_heads,
        attention_dropout=settings.backbone_dropout,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    model = LlamaModel(config)
    # transformers' own RMSNorm computes in float32 whatever the weights' type.
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


def _freeze(model: PreTrainedModel, settings: LLMSettings) -> None:
    model.requires_grad_(False)
    if not settings.tiny:
        # A frozen trunk runs as in evaluation, though its adapters train: drop nothing in it.
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = 0.0  # type: ignore[assignment]
    if settings.lora_r == 0:
        return
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets),
    )
    try:
        inject_adapter_in_model(lora, model)
    except ValueError as error:
        raise BackboneError(
            f"lora_targets={list(settings.lora_targets)} names no module of "
            f"backbone={settings.backbone}; name linear layers that it has, for example q_proj."
        ) from error
    for name, parameter in model.named_parameters():
        is_adapter = "lora_" in name
        parameter.requires_grad_(is_adapter)
        if is_adapter:
            parameter.data = parameter.data.float()


def _attention_layers(model: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in model.modules()
        if hasattr(module, "layer_idx") and getattr(module, "is_causal", False) is True
    ]


def _weight_dtype(settings: LLMSettings, device: torch.device | str | None) -> torch.dtype:
    if settings.train_backbone or settings.backbone_dtype == "float32":
        return torch.float32
    if settings.backbone_dtype == "bfloat16":
        return torch.bfloat16
    on_gpu = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
    return torch.bfloat16 if on_gpu else torch.float32


def _pretrained_model(settings: LLMSettings, dtype: torch.dtype) -> PreTrainedModel:
    name = settings.backbone
    source = _source(name)
    looks_like_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if looks_like_path and not Path(source).is_dir():
        raise BackboneError(f"backbone={name} is not a folder; {ALTERNATIVE}")
    try:
        config = AutoConfig.from_pretrained(source)
        if getattr(config, "is_encoder_decoder", False):
            raise BackboneError(
                f"backbone={name} ({config.model_type}) is an encoder-decoder, and HeLLM needs a "
                "decoder-only model, for example Qwen/Qwen3-0.6B."
            )
        model, report = AutoModel.from_pretrained(
            source, config=config, dtype=dtype, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        raise BackboneError(_reason(name, error)) from error
    if report["missing_keys"]:
        raise BackboneError(
            f"backbone={name} lacks {len(report['missing_keys'])} of its weights, for example "
            f"{min(report['missing_keys'])}; fetch the model anew or use --backbone=tiny."
        )
    decoder = model.get_decoder()
    return decoder if isinstance(decoder, PreTrainedModel) else model


def _pretrained_tokenizer(name: str) -> PreTrainedTokenizerBase | None:
    try:
        return AutoTokenizer.from_pretrained(
            str(Path(name).expanduser()) if name[0] == "~" else name
        )
    except LOADING_ERRORS:
        # A prompt that needs one says so when it is built.
        return None


def _source(name: str) -> str:
    return str(Path(name).expanduser()) if name.startswith("~") else name


def _reason(name: str, error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
    if "gated" in str(error).lower():
        return (
            f"backbone={name} is gated on Hugging Face: accept its licence on its page and log in "
            f"with `hf auth login`, {ALTERNATIVE}"
        )
    return (
        f"backbone={name} cannot be loaded ({cause}); check its name and the network, {ALTERNATIVE}"
    )
