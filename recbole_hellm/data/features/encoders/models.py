"""Pre-trained models behind encoders: found in a folder, the local cache or the hub, and loaded.

Whatever is found is a folder, and its revision is the hub's commit or a hash of its files, so that
features name the weights they come from without loading any.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from recbole_hellm.data.features.encoders.devices import working_dtype
from recbole_hellm.errors import FeatureError
from recbole_hellm.models.pretrained import NO_CODE, Pretrained
from recbole_hellm.storage.checksums import update_digest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# What encoders read of a repository: many hold the same weights for other frameworks, too.
_FACTS = ["*.json", "*.txt", "*.model", "*.jinja", "*.bpe"]
_WEIGHTS = "*.safetensors"
_OLD_WEIGHTS = "pytorch_model*.bin"
# Features of these names are those of the encoders that are chosen by a word.
RESERVED = ("bert", "bert-mean", "clip", "minilm", "tfidf")
_ELSEWHERE = ["onnx/*", "openvino/*", "coreml/*"]


def model_folder(model: Pretrained, owner: str | None = None) -> Path:
    """The folder with a model's files: the one named, else the cached or downloaded one.

    The local Hugging Face cache comes first, so that a model once fetched needs no network and
    does not change under stored features.

    Parameters
    ----------
    model : Pretrained
    owner : str, optional
        Whose models a name without owner is looked for among, after the name as it is.

    Raises
    ------
    FeatureError
        If there is no such model, it is gated, or the hub cannot be reached.
    """
    folder = Path(model.source)
    if folder.is_dir():
        return folder
    model.check_folder()
    names = [model.name]
    if owner and "/" not in model.name:
        names.append(f"{owner}/{model.name}")
    with model.loading():
        cached = next((found for name in names if (found := _cached(name))), None)
        return cached or _downloaded(names)


def folder_revision(folder: Path) -> str:
    """The commit of a folder in the Hugging Face cache, a hash of the files of any other.

    Files and folders whose names begin with a dot, such as ``.git``, do not count.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    parents = folder.absolute().parents
    cached = parents[0].name == "snapshots" and parents[1].name.startswith("models--")
    if cached and re.fullmatch(r"[0-9a-f]{40}", folder.name):
        return folder.name
    digest = hashlib.sha256()
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    for place, file in sorted(files.items()):
        if any(part.startswith(".") for part in place.parts):
            continue
        digest.update(f"{place.as_posix()}\0{file.stat().st_size}\0".encode())
        update_digest(digest, file)
    return digest.hexdigest()


def slug(path_or_name: str) -> str:
    """A feature name made from the last part of a path or of a hub name, none of `RESERVED`."""
    last = re.split(r"[/\\]", os.path.normpath(path_or_name))[-1]
    plain = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-") or "model"
    return f"{plain}-model" if plain in RESERVED else plain


def load_config(model: Pretrained, folder: Path) -> Any:
    """The configuration of the model in `folder`.

    Raises
    ------
    FeatureError
        If there is none, or one that transformers does not know.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise FeatureError(f"{model.subject} is a folder without config.json; {model.alternative}")
    model.check_files(folder)
    with model.loading():
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, **NO_CODE)


def load_model(
    model: Pretrained, folder: Path, config: Any, device: torch.device, unneeded: Collection[str]
) -> tuple[PreTrainedModel, set[str]]:
    """Load a model for inference, on a device in its precision.

    Parameters
    ----------
    model : Pretrained
    folder : Path
        See :func:`model_folder`.
    config : PreTrainedConfig
    device : torch.device
    unneeded : collection of str
        Parts of weight names that a checkpoint may lack, since the encoder can do without them.

    Returns
    -------
    tuple
        The model, and the names of the weights that the checkpoint lacks; they hold noise.

    Raises
    ------
    FeatureError
        If files are damaged, needed weights missing, or the GPU's memory does not suffice.
    """
    from transformers import AutoModel

    with model.loading():
        loaded, report = AutoModel.from_pretrained(
            str(folder),
            config=config,
            dtype=working_dtype(device),
            local_files_only=True,
            output_loading_info=True,
            **NO_CODE,
        )
    missing = set(report["missing_keys"])
    model.check_weights({key for key in missing if not any(part in key for part in unneeded)})
    with enough_memory(model.subject):
        loaded.eval().requires_grad_(False).to(device)
    logger.info("%s runs on %s.", model.subject, device)
    return loaded, missing


@contextlib.contextmanager
def enough_memory(subject: str, batch_size: int | None = None) -> Iterator[None]:
    """Turn a GPU's lack of memory into advice, for a batch or where there is none yet.

    Raises
    ------
    FeatureError
        If the block runs out of GPU memory.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        if batch_size is None:
            raise FeatureError(
                f"{subject} does not fit into the GPU's memory; end what else runs there, or "
                "encode on the CPU with CUDA_VISIBLE_DEVICES=''."
            ) from error
        raise FeatureError(
            f"{subject} runs out of GPU memory with {batch_size} inputs at a time; use a smaller "
            f"--encode_batch, for example {max(1, batch_size // 4)}."
        ) from error


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    # A snapshot may hold no more than what somebody else once asked of it.
    weights = (file for kind in (_WEIGHTS, _OLD_WEIGHTS) for file in folder.rglob(kind))
    return folder if next(weights, None) else None


def _downloaded(names: Collection[str]) -> Path:
    from huggingface_hub import snapshot_download

    failure: RepositoryNotFoundError | None = None
    for name in names:
        try:
            logger.info("Fetching %s from Hugging Face unless it is cached whole.", name)
            facts = [*_FACTS, _WEIGHTS]
            folder = Path(snapshot_download(name, allow_patterns=facts, ignore_patterns=_ELSEWHERE))
            if next(folder.rglob(_WEIGHTS), None) is None:
                snapshot_download(name, allow_patterns=[_OLD_WEIGHTS])
            return folder
        except RepositoryNotFoundError as error:
            failure = failure or error
    assert failure is not None  # noqa: S101 (there is at least one name)
    raise failure
