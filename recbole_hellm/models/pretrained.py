"""Pre-trained Hugging Face models by name or folder: locations, and errors of loading.

Shared by the backbones of the LLM stage and by the encoders of texts and pictures, so that both
report the same problems in the same words.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError

from recbole_hellm.errors import HellmError
from recbole_hellm.progress import transformers_bars
from recbole_hellm.storage.json_files import read_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

DAMAGE = (
    *(SafetensorError, json.JSONDecodeError, UnicodeDecodeError),
    *(pickle.UnpicklingError, EOFError, struct.error),
)
# Libraries check little of what configurations say, and so fail in any of these ways.
LOADING_ERRORS = (
    *(OSError, ValueError, LookupError, ImportError, RuntimeError, StrictDataclassError),
    *(ArithmeticError, AssertionError, AttributeError, TypeError, MemoryError),
    *DAMAGE,
)
_OBJECTS = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "preprocessor_config.json", "processor_config.json"),
    *("sentence_bert_config.json", "config_sentence_transformers.json", "generation_config.json"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
)
_PARTS = "modules.json"
_LARGEST = 1 << 28  # bytes of a JSON file, among which are large vocabularies
UNREACHABLE = (LocalEntryNotFoundError, OfflineModeIsEnabled)
# For every call that loads a part of a model: by default transformers asks on the terminal whether
# to run the model's own Python code.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A pre-trained model, and the wording of its errors.

    Attributes
    ----------
    name : str
        Hugging Face name or folder, as the user wrote it.
    subject : str
        Beginning of the messages, for example ``backbone=NAME``.
    instead : str
        The way out without the model, for example ``use --backbone=tiny``.
    error : type of HellmError
        The class of the errors that are raised.
    """

    name: str
    subject: str
    instead: str
    error: type[HellmError]

    @property
    def source(self) -> str:
        """`name` with the home directory expanded, as transformers needs it."""
        return os.path.expanduser(self.name)

    @property
    def alternative(self) -> str:
        """The way out at the end of a message."""
        return f"name a local folder that holds the model, or {self.instead}."

    def check_folder(self) -> None:
        """Raise `error` if `name` is a folder without a model, or a path to no folder."""
        looks_like_path = self.name.startswith((".", "~", os.sep)) or self.name.count("/") > 1
        folder = Path(self.source)
        if looks_like_path and not os.path.isdir(folder):
            raise self.error(f"{self.subject} is not a folder; {self.alternative}")
        if os.path.isdir(folder) and not os.path.isfile(folder / "config.json"):
            raise self.error(f"{self.subject} is a folder without config.json; {self.alternative}")

    def check_files(self, folder: Path) -> None:
        """Raise `error` for the first file of a model that is not what its name says.

        Parameters
        ----------
        folder : Path
            Where the model's files are. Libraries wait for ever on a pipe, and their messages on a
            broken file do not name it.
        """
        way_out = f"fetch the model anew or {self.instead}"
        for path in sorted(folder.rglob("*")):
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise self.error(f"{path} is no regular file; {way_out}.")
            if path.name in _OBJECTS or path.name == _PARTS:
                kind = list[dict[str, Any]] if path.name == _PARTS else dict[str, Any]
                read_json(path, kind, self.error, way_out, _LARGEST)

    @contextlib.contextmanager
    def loading(self, tell: Callable[[BaseException], str] | None = None) -> Iterator[None]:
        """Turn what a library raises over a model's files into `error`; hide its bars with ours.

        Parameters
        ----------
        tell : callable, optional
            Makes the sentence of an exception; by default as :meth:`failure` does.
        """
        try:
            with transformers_bars():
                yield
        except HellmError:
            raise
        except Exception as error:
            # The package tokenizers raises plain Exceptions.
            if not isinstance(error, LOADING_ERRORS) and type(error) is not Exception:
                raise
            if tell is None or needs_code(error):
                raise self.failure(error) from error
            raise self.error(tell(error)) from error

    def check_weights(self, missing: Collection[str]) -> None:
        """Raise `error` if weights are missing; transformers would fill them with noise."""
        if missing:
            raise self.error(
                f"{self.subject} lacks {len(missing)} of its weights, for example "
                f"{min(missing)}; fetch the model anew or {self.instead}."
            )

    def failure(self, error: BaseException) -> HellmError:
        """The `error` to raise for an exception from loading: the reason and the way out.

        transformers wraps exceptions of the hub's client into an ``OSError``, so the reason is
        searched among the causes.
        """
        return self.error(self._reason(error))

    def _reason(self, error: BaseException) -> str:
        if needs_code(error):
            return (
                f"{self.subject} needs code of its own, which is not run; name another model, or "
                f"{self.instead}."
            )
        if _is_kind(error, GatedRepoError):
            return (
                f"{self.subject} is gated on Hugging Face: accept its licence on "
                f"https://huggingface.co/{self.name} and log in with `hf auth login`, "
                f"{self.alternative}"
            )
        if _is_kind(error, RepositoryNotFoundError, HFValidationError):
            return (
                f"{self.subject} is neither a folder nor a model on Hugging Face; check its "
                f"spelling (for a private model log in with `hf auth login`), {self.alternative}"
            )
        if _is_kind(error, *UNREACHABLE):
            return (
                f"{self.subject} is neither a folder nor in the local cache, and Hugging Face "
                "cannot be reached (offline, or blocked by the network); set HF_HOME to a cache "
                f"that holds it, {self.alternative}"
            )
        local, reason = os.path.isdir(self.source), cause(error)
        if _is_kind(error, *DAMAGE):
            return (
                f"{self.subject} has damaged files ({reason}); fetch the model anew or "
                f"{self.instead}."
            )
        if local:
            return (
                f"{self.subject} cannot be loaded ({reason}); fetch the model anew, name another "
                f"folder, or {self.instead}."
            )
        if "file named" in reason:
            # transformers reports weights that the hub withholds in the same words.
            return (
                f"{self.subject} has no weights that can be fetched ({reason}); accept its licence "
                f"on https://huggingface.co/{self.name} if that page asks for it, check the "
                "network, "
                f"{self.alternative}"
            )
        return (
            f"{self.subject} cannot be loaded ({reason}); check its name and the network, "
            f"{self.alternative}"
        )


def needs_code(error: BaseException) -> bool:
    """Whether loading failed because the model needs its own code; see :data:`NO_CODE`."""
    # transformers and sentence-transformers raise a ValueError that names that argument.
    return any(
        isinstance(link, ValueError) and "trust_remote_code" in str(link) for link in _links(error)
    )


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device computes in bfloat16 natively; cards before Ampere do not."""
    import torch

    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def has_words(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a tokenizer knows any of the words of `text`.

    If its files are missing, some transformers classes build a tokenizer without words.
    """
    words = tokenizer.encode(text, add_special_tokens=False)
    return any(word not in tokenizer.all_special_ids for word in words)


def cause(error: BaseException) -> str:
    """The first sentence of an error, for use in parentheses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    sentence = lines[0].split(". ")[0].rstrip(".")
    # Of these the message alone says little, for example that of KeyError: a key.
    kind = f"{type(error).__name__}: " if isinstance(error, (LookupError, AssertionError)) else ""
    return f"{kind}{sentence[:200]}"


def _is_kind(error: BaseException, *kinds: type[BaseException]) -> bool:
    return any(isinstance(link, kinds) for link in _links(error))


def _links(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
