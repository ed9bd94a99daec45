"""Texts through any Hugging Face text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from recbole_hellm.data.features.encoders.models import (
    enough_memory,
    folder_revision,
    load_config,
    load_model,
    model_folder,
    slug,
)
from recbole_hellm.data.features.encoders.sentence import OWNER, TextModel, text_model
from recbole_hellm.errors import FeatureError
from recbole_hellm.models.pretrained import NO_CODE, cause, has_words
from recbole_hellm.storage.json_files import read_json

if TYPE_CHECKING:
    import torch

BERT = "bert-base-uncased"  # the paper's
MAX_LENGTH = 512
_PROBE = "red lipstick 123"  # a tokenizer that makes no words of it has no vocabulary

Pooling = Literal["cls", "mean"]


class TransformerEncoder(TextModel):
    """The last layer of a text encoder, pooled into one vector: no pooler, no normalisation.

    With ``bert-base-uncased`` and `pooling` ``cls``, these are the paper's text features
    (docs/method.md, Item texts). Of an encoder-decoder such as T5 the encoder is used; decoder-only
    models are refused. A batch is padded to its longest text, which masking makes equal to padding
    to the limit.

    Parameters
    ----------
    path_or_name : str
        Folder, or name on Hugging Face. Of a sentence-transformers model the transformer is taken.
    pooling : {"mean", "cls"}
        The mean over a text's tokens, special ones included, or the first token's vector.
    name : str, optional
        Feature name; by default made from `path_or_name` and `pooling`.
    batch_size : int
        Texts per forward pass.
    max_length : int
        Tokens after which a text is cut, where the model's own limit is not lower.

    Raises
    ------
    FeatureError
        If the model cannot be had.
    """

    def __init__(
        self,
        path_or_name: str,
        pooling: Pooling = "mean",
        name: str | None = None,
        batch_size: int = 64,
        max_length: int = MAX_LENGTH,
    ) -> None:
        self._told = text_model(path_or_name)
        self.folder = _transformer_folder(model_folder(self._told, OWNER))
        self.pooling = pooling
        self.name = name or f"{slug(path_or_name)}-{pooling}"
        with self._told.loading():
            self.revision = f"{folder_revision(self.folder)}, {pooling}, {max_length} tokens"
        self.batch_size = batch_size
        self.max_length = max_length
        self._loaded: tuple[Any, Any, int] | None = None

    def encode_batch(self, inputs: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode one batch into float32 [len(inputs), D].

        Raises
        ------
        FeatureError
            If the model cannot be loaded, is no text encoder, or needs more memory than the GPU
            has.
        """
        import torch

        if self._loaded is None:
            self._loaded = self._load()
        model, tokenizer, limit = self._loaded
        with (
            self._told.loading(self._tell),
            torch.inference_mode(),
            enough_memory(self._told.subject, len(inputs)),
        ):
            tokens = tokenizer(
                list(inputs), padding=True, truncation=True, max_length=limit, return_tensors="pt"
            ).to(model.device)
            try:
                hidden = model(**tokens).last_hidden_state.float()
            except IndexError as error:
                raise FeatureError(
                    f"{self._told.subject} cannot take a text of {tokens['input_ids'].shape[1]} "
                    f"tokens ({cause(error)}); set model_max_length in its tokenizer_config.json, "
                    "or name another model."
                ) from error
            pooled = pool(hidden, tokens["attention_mask"], self.pooling)
        return np.asarray(pooled.cpu(), dtype=np.float32)

    def _tell(self, error: BaseException) -> str:
        return (
            f"{self._told.subject} makes no vectors of texts ({cause(error)}); fetch the model "
            f"anew, or {self._told.instead}."
        )

    def _load(self) -> tuple[Any, Any, int]:
        config = load_config(self._told, self.folder)
        two_sided = bool(getattr(config, "is_encoder_decoder", False))
        if not two_sided and _is_decoder(config):
            raise FeatureError(
                f"{self._told.subject} ({config.model_type}) is a decoder-only language model, "
                "whose tokens do not see what follows them; name an encoder such as "
                f"{BERT}, or a sentence-transformers model."
            )
        tokenizer = self._load_tokenizer()
        unneeded = ("pooler", "decoder.") if two_sided else ("pooler",)
        model, _ = load_model(self._told, self.folder, config, self.device, unneeded)
        if hasattr(model, "get_image_features") or not tokenizer.pad_token:
            raise FeatureError(
                f"{self._told.subject} ({config.model_type}) is no plain text encoder; name one "
                f"such as {BERT}, or a sentence-transformers model."
            )
        limits = (
            self.max_length,
            tokenizer.model_max_length,
            getattr(config, "max_position_embeddings", None) or self.max_length,
            _positions(model) or self.max_length,
        )
        trunk = model.get_encoder() if two_sided else model
        return trunk, tokenizer, min(limits)

    def _load_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        advice = "put its tokenizer files into the folder, or name another model."
        no_tokenizer = f"{self._told.subject} has no tokenizer that can be loaded"
        with self._told.loading(lambda error: f"{no_tokenizer} ({cause(error)}); {advice}"):
            tokenizer = AutoTokenizer.from_pretrained(
                str(self.folder), local_files_only=True, **NO_CODE
            )
            with_words = has_words(tokenizer, _PROBE)
        if not with_words:
            raise FeatureError(
                f"{self._told.subject} has no tokenizer beside its weights; {advice}"
            )
        tokenizer.padding_side = "right"  # the first token comes first in every row
        return tokenizer


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    r"""One vector per text.

    .. math:: v = h_1 \quad\text{or}\quad v = \frac{\sum_t m_t h_t}{\sum_t m_t}

    Parameters
    ----------
    hidden : Tensor
        [B, T, D], right-padded.
    mask : Tensor
        [B, T], 1 at tokens and 0 at padding; every text has a token.
    pooling : {"mean", "cls"}

    Returns
    -------
    Tensor
        [B, D].
    """
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def _is_decoder(config: Any) -> bool:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return causal and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _positions(model: Any) -> int | None:
    """How many tokens a table of positions has room for that begins after padding, as RoBERTa's."""
    from torch import nn

    tables = [
        module
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    rooms = [t.num_embeddings - t.padding_idx - 1 for t in tables if t.padding_idx is not None]
    return min(rooms, default=None)


def _transformer_folder(folder: Path) -> Path:
    """Where the transformer of a sentence-transformers model lies; `folder` itself by default."""
    source = folder / "modules.json"
    if not source.is_file():
        return folder  # a transformer alone
    modules = read_json(source, list[dict[str, Any]], FeatureError, "fetch the model anew")
    place = modules[0].get("path") if modules else ""
    path = folder / place if isinstance(place, str) else folder
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FeatureError(f"{source} names files outside its folder; fetch the model anew.")
    return path
