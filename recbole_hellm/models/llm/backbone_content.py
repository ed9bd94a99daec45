"""What is in a pre-trained backbone's files, as a hash: part of a run's identity.

A folder is known by the files that loading it reads: ``config.json``, the weights, adapters and,
for a prompt with words or for titles, the tokenizer. A GGUF file is known by its SHA-256. A name on
Hugging Face is known by the commit that it stands for. Files are read once in a process.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.gguf import find_gguf, gguf_sha256
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.storage.checksums import content_hash, known_sha256

_CONFIG = ("config.json", "adapter_config.json", "adapter_model.*")
_TOKENIZER = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "*.tiktoken", "spiece.*"),
)


def backbone_content(settings: LLMSettings) -> dict[str, str]:
    """What tells a pre-trained backbone from another one of its name.

    Parameters
    ----------
    settings : LLMSettings

    Returns
    -------
    dict of str to str
        ``backbone``, the hash of a folder or file; or ``backbone_commit``. Empty for ``tiny``, and
        where there is no such backbone, which loading it will tell.

    Raises
    ------
    BackboneError
        If a file cannot be read.
    """
    settings = settings.resolved()
    if settings.tiny:
        return {}
    file = find_gguf(settings.backbone)
    if file is not None:
        return {"backbone": gguf_sha256(settings.backbone, file)} if os.path.isfile(file) else {}
    folder = Path(os.path.expanduser(settings.backbone))
    if not os.path.isdir(folder):
        commit = _commit(settings.backbone)
        return {} if commit is None else {"backbone_commit": commit}
    if not (folder / "config.json").is_file():
        return {}
    return {"backbone": _folder_hash(folder, settings.reads_words)}


def _folder_hash(folder: Path, tokenizer: bool) -> str:
    patterns = [*_CONFIG, *_weights(folder), *(_TOKENIZER if tokenizer else ())]
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    try:
        return content_hash({path.name: known_sha256(path) for path in files}, length=64)
    except OSError as error:
        raise BackboneError(
            f"backbone={folder} cannot be read ({error.strerror}: {error.filename}); change its "
            "permissions, or name another folder."
        ) from error


def _weights(folder: Path) -> tuple[str, ...]:
    """Patterns of the files that transformers takes, in its order."""
    for kind, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
        if (folder / f"{kind}.{ending}").is_file():
            return (f"{kind}.{ending}",)
        if (folder / f"{kind}.{ending}.index.json").is_file():
            return f"{kind}.{ending}.index.json", f"*.{ending}"
    return "*.safetensors", "*.bin"


@functools.cache
def _commit(name: str) -> str | None:
    """The commit that a name on Hugging Face stands for now, or None if that is not known."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        # The small file that loading starts with; its place in the cache names the commit.
        path = Path(hf_hub_download(name, "config.json"))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None
    parent = path.parent
    return parent.name if parent.parent.name == "snapshots" else None
