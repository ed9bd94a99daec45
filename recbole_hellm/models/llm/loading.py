"""Pre-trained backbones by Hugging Face name or folder: precision, quantisation, and what to do
where a model cannot be had.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.prompt import PromptTemplate
from recbole_hellm.models.llm.settings import LLMSettings

HALVES = (torch.float16, torch.bfloat16)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DAMAGE = (
    *(SafetensorError, json.JSONDecodeError, UnicodeDecodeError),
    *(pickle.UnpicklingError, EOFError),
)
LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, ImportError, RuntimeError, StrictDataclassError),
    *DAMAGE,
)
UNREACHABLE = (LocalEntryNotFoundError, OfflineModeIsEnabled)
ALTERNATIVE = "name a local folder that holds the model, or use --backbone=tiny."


def load_pretrained(
    settings: LLMSettings, device: torch.device | str | None = None, outline: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a decoder trunk, and its tokenizer if the prompt needs one.

    Parameters
    ----------
    settings : LLMSettings
        See there.
    device : torch.device or str, optional
        Where the model will run; by default a GPU if there is one. A quantised model is put
        there, any other one is left on the CPU.
    outline : bool
        Make the trunk on the meta device, from its configuration alone: no weights are read.

    Returns
    -------
    tuple
        The trunk, and its tokenizer under ``prompt=alpaca``.

    Raises
    ------
    BackboneError
        If the model or the tokenizer cannot be had, the model is an encoder-decoder, or it is to
        be quantised and cannot be.
    """
    settings = settings.resolved()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if (settings.load_in_4bit or settings.load_in_8bit) and not outline:
        _require_quantisation(settings, device)
    model = _load_model(settings, device, outline)
    return model, load_tokenizer(settings.backbone) if settings.prompt == "alpaca" else None


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a backbone's tokenizer.

    Parameters
    ----------
    name : str
        Hugging Face name or folder.

    Raises
    ------
    BackboneError
        If there is none that knows the prompt's words.
    """
    advice = "which prompt=alpaca needs; put its tokenizer files into the folder or use "
    try:
        tokenizer = AutoTokenizer.from_pretrained(_source(name))
    except LOADING_ERRORS as error:
        raise BackboneError(
            f"backbone={name} has no tokenizer that can be loaded ({_cause(error)}), {advice}"
            "--prompt=none."
        ) from error
    # Where the files are missing, some of transformers' classes make a tokenizer without words.
    words = tokenizer.encode(PromptTemplate().instruction, add_special_tokens=False)
    if all(word in tokenizer.all_special_ids for word in words):
        raise BackboneError(
            f"backbone={name} has no tokenizer beside its weights, {advice}--prompt=none."
        )
    return tokenizer


def weight_dtype(
    settings: LLMSettings, checkpoint: torch.dtype | None, device: torch.device
) -> torch.dtype:
    """The type of a pre-trained backbone's weights.

    Weights that are trained are float32. ``backbone_dtype=auto`` is float32 on a CPU; on a GPU it
    is the checkpoint's own half precision, or for a checkpoint in float32 bfloat16, which has
    float32's range. A GPU that does not compute in bfloat16 gets float16 for either.

    Parameters
    ----------
    settings : LLMSettings
        See there.
    checkpoint : torch.dtype, optional
        The type in which the weights were saved.
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
    if device.type == "cuda" and half == torch.bfloat16:
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        half = torch.bfloat16 if native else torch.float16
    return half


def quantisation(settings: LLMSettings, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How bitsandbytes is to pack the weights: 4-bit NF4 with double quantisation, or 8-bit.

    Parameters
    ----------
    settings : LLMSettings
        See there.
    dtype : torch.dtype
        Type in which 4-bit layers compute.

    Returns
    -------
    BitsAndBytesConfig or None
        ``None`` where the settings ask for no quantisation.
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
            f"{key}=True needs a GPU, and the model is to run on the CPU; leave it out there, "
            "where --backbone_dtype=bfloat16 halves the memory."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError(
            f"{key}=True needs the package bitsandbytes, which is not installed; run "
            "`pip install recbole-hellm[quant]` or leave it out."
        )


def _load_model(settings: LLMSettings, device: torch.device, outline: bool) -> PreTrainedModel:
    name = settings.backbone
    source = _source(name)
    looks_like_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if looks_like_path and not Path(source).is_dir():
        raise BackboneError(f"backbone={name} is not a folder; {ALTERNATIVE}")
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise BackboneError(f"backbone={name} is a folder without config.json; {ALTERNATIVE}")
    try:
        config = AutoConfig.from_pretrained(source)
        if getattr(config, "is_encoder_decoder", False):
            raise BackboneError(
                f"backbone={name} ({config.model_type}) is an encoder-decoder, and HeLLM needs a "
                "decoder-only model, for example Qwen/Qwen3-0.6B."
            )
        dtype = weight_dtype(settings, getattr(config, "dtype", None), device)
        if outline:
            with torch.device("meta"):
                return _trunk(AutoModel.from_config(config, dtype=dtype))
        options: dict[str, Any] = {"dtype": dtype}
        packing = quantisation(settings, dtype)
        if packing is not None:
            options |= {"quantization_config": packing, "device_map": {"": device}}
        model, report = AutoModel.from_pretrained(
            source, config=config, output_loading_info=True, **options
        )
    except LOADING_ERRORS as error:
        raise BackboneError(_reason(name, error)) from error
    if report["missing_keys"]:
        raise BackboneError(
            f"backbone={name} lacks {len(report['missing_keys'])} of its weights, for example "
            f"{min(report['missing_keys'])}; fetch the model anew or use --backbone=tiny."
        )
    return _trunk(model)


def _trunk(model: PreTrainedModel) -> PreTrainedModel:
    """The text decoder inside a model, or the model if it is one."""
    decoder = model.get_decoder()
    if not isinstance(decoder, PreTrainedModel):
        return model
    # Adapters ask the trunk, which may be a part of the model that was loaded.
    for fact in ("is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method"):
        if hasattr(model, fact):
            setattr(decoder, fact, getattr(model, fact))
    return decoder


def _source(name: str) -> str:
    return str(Path(name).expanduser()) if name.startswith("~") else name


def _reason(name: str, error: BaseException) -> str:
    """One sentence: what is wrong, and the way out.

    transformers wraps what the hub's client raises into an ``OSError`` of its own, so the kind of
    failure is looked for among the causes.
    """
    if _is_kind(error, GatedRepoError):
        return (
            f"backbone={name} is gated on Hugging Face: accept its licence on "
            f"https://huggingface.co/{name} and log in with `hf auth login`, {ALTERNATIVE}"
        )
    if _is_kind(error, RepositoryNotFoundError, HFValidationError):
        return (
            f"backbone={name} is neither a folder nor a model on Hugging Face; check its spelling "
            f"(for a private model log in with `hf auth login`), {ALTERNATIVE}"
        )
    if _is_kind(error, *UNREACHABLE):
        return (
            f"backbone={name} is not in the local cache, and Hugging Face cannot be reached "
            "(offline, or blocked by the network); set HF_HOME to a cache that holds it, "
            f"{ALTERNATIVE}"
        )
    local, cause = Path(_source(name)).is_dir(), _cause(error)
    if _is_kind(error, *DAMAGE):
        return (
            f"backbone={name} has damaged files ({cause}); fetch the model anew or use "
            "--backbone=tiny."
        )
    if local:
        return (
            f"backbone={name} cannot be loaded ({cause}); fetch the model anew, name another "
            "folder, or use --backbone=tiny."
        )
    if "file named" in cause:
        # What transformers says of weights that the hub withholds, too.
        return (
            f"backbone={name} has no weights that can be fetched ({cause}); accept its licence on "
            f"https://huggingface.co/{name} if that page asks for it, check the network, "
            f"{ALTERNATIVE}"
        )
    return (
        f"backbone={name} cannot be loaded ({cause}); check its name and the network, {ALTERNATIVE}"
    )


def _is_kind(error: BaseException, *kinds: type[BaseException]) -> bool:
    return any(isinstance(link, kinds) for link in _links(error))


def _links(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cause(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
