"""Loading of pre-trained backbones by Hugging Face name or folder: precision and quantisation."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.item_texts import check_reads_words
from recbole_hellm.models.llm.prompt import PromptTemplate
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.models.pretrained import (
    LOADING_ERRORS,
    NO_CODE,
    Pretrained,
    cause,
    computes_in_bfloat16,
    has_words,
    needs_code,
)

HALVES = (torch.float16, torch.bfloat16)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(
    settings: LLMSettings, device: torch.device | str | None = None, outline: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a decoder trunk, and its tokenizer if the prompt needs one.

    Parameters
    ----------
    settings : LLMSettings
        Settings of the network.
    device : torch.device or str, optional
        Where the model will run; by default a GPU if available. A quantised model is placed
        there; any other model stays on the CPU.
    outline : bool
        Build the trunk on the meta device from its configuration, without reading weights.

    Returns
    -------
    tuple
        The trunk, and its tokenizer where words are read.

    Raises
    ------
    BackboneError
        If the model or its tokenizer cannot be loaded, the model is an encoder-decoder, or it
        cannot be quantised.
    """
    settings = settings.resolved()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if (settings.load_in_4bit or settings.load_in_8bit) and not outline:
        _require_quantisation(settings, device)
    model = _load_model(settings, device, outline)
    if not settings.reads_words:
        return model, None
    return model, load_tokenizer(settings.backbone, titles=settings.item_text != "none")


def load_tokenizer(name: str, titles: bool = False) -> PreTrainedTokenizerBase:
    """Load a backbone's tokenizer.

    Parameters
    ----------
    name : str
        Hugging Face name or folder.
    titles : bool
        Whether it is for titles, too, and not for a prompt alone.

    Raises
    ------
    BackboneError
        If no tokenizer knows the prompt's words.
    """
    advice, way = "which prompt=alpaca needs", "use --prompt=none"
    if titles:
        advice, way = "which item_text=title needs", "name another backbone"
    advice += f"; put its tokenizer files into the folder or {way}."
    try:
        tokenizer = AutoTokenizer.from_pretrained(_backbone(name).source, **NO_CODE)
    except LOADING_ERRORS as error:
        if needs_code(error):
            raise _backbone(name).failure(error) from error
        raise BackboneError(
            f"backbone={name} has no tokenizer that can be loaded ({cause(error)}), {advice}"
        ) from error
    if not has_words(tokenizer, PromptTemplate().instruction):
        raise BackboneError(f"backbone={name} has no tokenizer beside its weights, {advice}")
    return tokenizer


def weight_dtype(
    settings: LLMSettings, checkpoint: torch.dtype | None, device: torch.device
) -> torch.dtype:
    """The type of a pre-trained backbone's weights.

    Trained weights are float32. ``backbone_dtype=auto`` means float32 on a CPU. On a GPU it means
    the checkpoint's half precision, or bfloat16 for a float32 checkpoint, since it has float32's
    range. A GPU without bfloat16 uses float16 instead of bfloat16.

    Parameters
    ----------
    settings : LLMSettings
        Settings of the network.
    checkpoint : torch.dtype, optional
        The type of the saved weights.
    device : torch.device
        Where the model will run.
    """
    if settings.train_backbone:
        return torch.float32
    if settings.backbone_dtype != "auto":
        return DTYPES[settings.backbone_dtype]
    if device.type == "cpu":
        return torch.float32
    half = checkpoint if checkpoint in HALVES else torch.bfloat16
    if device.type == "cuda" and half == torch.bfloat16 and not computes_in_bfloat16(device):
        return torch.float16
    return half


def quantisation(settings: LLMSettings, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Configuration of bitsandbytes: 4-bit NF4 with double quantisation, or 8-bit.

    Parameters
    ----------
    settings : LLMSettings
        Settings of the network.
    dtype : torch.dtype
        Compute type of 4-bit layers.

    Returns
    -------
    BitsAndBytesConfig or None
        ``None`` without quantisation.
    """
    if settings.load_in_4bit:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if settings.load_in_8bit else None


def _require_quantisation(settings: LLMSettings, device: torch.device) -> None:
    key = "load_in_4bit" if settings.load_in_4bit else "load_in_8bit"
    if device.type == "cpu":
        raise BackboneError(
            f"{key}=True needs a GPU, but the model runs on the CPU; leave it out and halve the "
            "memory by --backbone_dtype=bfloat16."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError(
            f"{key}=True needs the package bitsandbytes, which is not installed; run "
            "`pip install recbole-hellm[quant]` or leave it out."
        )


def check_backbone(settings: LLMSettings) -> None:
    """Check that a backbone's configuration can be had, which takes a moment.

    Raises
    ------
    BackboneError
        If it cannot, or titles are asked of ``tiny``.
    """
    settings = settings.resolved()
    check_reads_words(settings)
    if not settings.tiny:
        _load_config(_backbone(settings.backbone))


def _load_config(backbone: Pretrained) -> Any:
    backbone.check_folder()
    try:
        return AutoConfig.from_pretrained(backbone.source, **NO_CODE)
    except LOADING_ERRORS as error:
        raise backbone.failure(error) from error


def _load_model(settings: LLMSettings, device: torch.device, outline: bool) -> PreTrainedModel:
    name = settings.backbone
    backbone = _backbone(name)
    config = _load_config(backbone)
    source = backbone.source
    try:
        if getattr(config, "is_encoder_decoder", False):
            raise BackboneError(
                f"backbone={name} ({config.model_type}) is an encoder-decoder; name a decoder-only "
                "model, for example Qwen/Qwen3-0.6B."
            )
        dtype = weight_dtype(settings, getattr(config, "dtype", None), device)
        if outline:
            with torch.device("meta"):
                return _trunk(AutoModel.from_config(config, dtype=dtype, **NO_CODE))
        options: dict[str, Any] = {"dtype": dtype}
        packing = quantisation(settings, dtype)
        if packing is not None:
            options |= {"quantization_config": packing, "device_map": {"": device}}
        model, report = AutoModel.from_pretrained(
            source, config=config, output_loading_info=True, **NO_CODE, **options
        )
    except LOADING_ERRORS as error:
        raise backbone.failure(error) from error
    backbone.check_weights(report["missing_keys"])
    return _trunk(model)


def _trunk(model: PreTrainedModel) -> PreTrainedModel:
    """The text decoder inside a model, or the model itself if it is one."""
    decoder = model.get_decoder()
    if not isinstance(decoder, PreTrainedModel):
        return model
    # peft reads these attributes from the trunk, which may be a part of the loaded model.
    for fact in ("is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method"):
        if hasattr(model, fact):
            setattr(decoder, fact, getattr(model, fact))
    return decoder


def _backbone(name: str) -> Pretrained:
    return Pretrained(name, f"backbone={name}", "use --backbone=tiny", BackboneError)
