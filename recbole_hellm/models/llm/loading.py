"""Loading of pre-trained backbones by Hugging Face name, folder or GGUF file.

Here their precision, quantisation and depth are decided.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from recbole_hellm.errors import BackboneError, HellmError, install_extra
from recbole_hellm.models.llm import gguf
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
)
from recbole_hellm.progress import transformers_bars

HALVES = (torch.float16, torch.bfloat16)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(
    settings: LLMSettings, device: torch.device | str | None = None, outline: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a decoder trunk, and its tokenizer if the prompt needs one.

    Under ``random_backbone`` its weights are drawn as transformers initialises them.

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
    place = _find(settings.backbone, kept=not outline)
    model = _load_model(settings, place, device, outline)
    if not settings.reads_words:
        return model, None
    return model, _load_tokenizer(place, settings.item_text != "none")


def load_tokenizer(name: str, titles: bool = False) -> PreTrainedTokenizerBase:
    """Load a backbone's tokenizer.

    Parameters
    ----------
    name : str
        Hugging Face name, folder or GGUF file.
    titles : bool
        Whether it is for titles, too, and not for a prompt alone.

    Raises
    ------
    BackboneError
        If no tokenizer knows the prompt's words.
    """
    return _load_tokenizer(_find(name), titles)


def _load_tokenizer(place: _Place, titles: bool) -> PreTrainedTokenizerBase:
    subject = place.told.subject
    reason, other = "which prompt=alpaca needs", "use --prompt=none"
    if titles:
        reason, other = "which item_text=title needs", "name another backbone"
    way_out = (
        "name a folder that has one" if place.gguf else "put its tokenizer files into the folder"
    )
    advice = f"{reason}; {way_out} or {other}."

    def tell(error: BaseException) -> str:
        return f"{subject} has no tokenizer that can be loaded ({cause(error)}), {advice}"

    with place.told.loading(tell):
        tokenizer = AutoTokenizer.from_pretrained(place.told.source, **place.options)
    if not has_words(tokenizer, PromptTemplate().instruction):
        raise BackboneError(f"{subject} has no tokenizer beside its weights, {advice}")
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
            f"{key}=True needs the package bitsandbytes, which is not installed; "
            f"{install_extra('quant')} or leave it out."
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
        _load_config(settings, _find(settings.backbone, kept=False))


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where transformers finds a backbone.

    Attributes
    ----------
    told : Pretrained
        The folder or name, and the user's name for it in messages.
    options : dict
        What transformers needs to read it.
    gguf : bool
        Whether the user named a GGUF file.
    """

    told: Pretrained
    options: dict[str, Any]
    gguf: bool = False

    def failure(self, name: str, error: BaseException) -> HellmError:
        """The error to raise for an exception from loading."""
        return gguf.unreadable(name, error) if self.gguf else self.told.failure(error)


def _find(name: str, kept: bool = True) -> _Place:
    """The place of a backbone, which of a GGUF file is its de-quantised folder.

    Parameters
    ----------
    name : str
        The setting `backbone`.
    kept : bool
        Make that folder if it is missing; otherwise the configuration and the tokenizer are read
        from the GGUF file itself.
    """
    file = gguf.find_gguf(name)
    if file is None:
        return _Place(_told(name, name), NO_CODE)
    folder = gguf.cached_folder(gguf.gguf_sha256(name, file))
    if folder is None and kept:
        folder = gguf.dequantised(name, file)
    if folder is not None:
        return _Place(_told(name, str(folder)), NO_CODE, gguf=True)
    gguf.require_gguf(name, file)
    options = {"gguf_file": file.name, **NO_CODE}
    return _Place(_told(name, str(file.absolute().parent)), options, gguf=True)


def _told(name: str, place: str) -> Pretrained:
    return Pretrained(place, f"backbone={name}", "use --backbone=tiny", BackboneError)


def _load_config(settings: LLMSettings, place: _Place) -> Any:
    if not place.gguf:
        place.told.check_folder()
    try:
        config = AutoConfig.from_pretrained(place.told.source, **place.options)
        if settings.backbone_layers is not None:
            text = config.get_text_config(decoder=True)
            _keep_layers(text, settings.backbone_layers, place.told.subject)
    except LOADING_ERRORS as error:
        raise place.failure(settings.backbone, error) from error
    return config


def _keep_layers(config: Any, layers: int, subject: str) -> None:
    """Reduce a decoder's configuration to its first layers, with what it says of each of them."""
    there = getattr(config, "num_hidden_layers", 0)
    if layers > there:
        raise BackboneError(
            f"backbone_layers={layers} is more than the {there} layers of {subject}; give a "
            "smaller number, or leave it out for all layers."
        )
    config.num_hidden_layers = layers
    for key, value in config.to_dict().items():
        if "layer" in key and isinstance(value, list) and len(value) == there:
            setattr(config, key, value[:layers])


def _load_model(
    settings: LLMSettings, place: _Place, device: torch.device, outline: bool
) -> PreTrainedModel:
    name = settings.backbone
    config = _load_config(settings, place)
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
        if settings.random_backbone:
            drawn: Any = AutoModel.from_config(config, **NO_CODE)
            return _trunk(drawn.to(dtype))
        options: dict[str, Any] = {"dtype": dtype}
        packing = quantisation(settings, dtype)
        if packing is not None:
            options |= {"quantization_config": packing, "device_map": {"": device}}
        with _no_report(settings.backbone_layers is not None), transformers_bars():
            model, report = AutoModel.from_pretrained(
                place.told.source,
                config=config,
                output_loading_info=True,
                **place.options,
                **options,
            )
    except LOADING_ERRORS as error:
        raise place.failure(name, error) from error
    place.told.check_weights(report["missing_keys"])
    return _trunk(model)


@contextlib.contextmanager
def _no_report(silent: bool) -> Iterator[None]:
    """Leave out transformers' report, which lists the layers that are not read as unexpected."""
    before = transformers.logging.get_verbosity()
    if silent:
        transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


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
