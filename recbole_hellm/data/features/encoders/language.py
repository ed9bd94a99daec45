r"""Language features: what a pre-trained decoder makes of each item's title.

.. math:: v_i = \frac{1}{T_i} \sum_{t=1}^{T_i} \mathrm{norm}\big(h^{(k)}_{i,t}\big)

with the states h of decoder layer k at the T tokens of the title, and the decoder's final norm.
They are the last hidden states of a decoder that is cut off behind layer k, averaged. The norm
keeps the few tokens with huge states, which most decoders have below their last layer, from ruling
the mean, and makes layer k the same whether or not there are layers above it.

A tokenizer's BOS, if it has one, is read before the title and left out of the mean: decoders have
learned to begin with it, and its states say nothing of what follows.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recbole_hellm.config.devices import AUTO
from recbole_hellm.config.settings import require
from recbole_hellm.data.features.encoders.devices import OnDevice
from recbole_hellm.data.features.encoders.models import enough_memory, slug
from recbole_hellm.data.features.encoders.storing import (
    encoded,
    is_current,
    making,
    rounding,
    save_filled,
)
from recbole_hellm.data.features.encoders.transformer_text import MAX_LENGTH, pool
from recbole_hellm.data.features.feature_files import LANGUAGE, ON_REQUEST, tokens_digest
from recbole_hellm.data.features.store import check_tokens, feature_path
from recbole_hellm.errors import BackboneError, FeatureError
from recbole_hellm.models.pretrained import cause
from recbole_hellm.storage.checksums import content_hash

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from recbole_hellm.models.llm.settings import LLMSettings

logger = logging.getLogger(__name__)

TEMPLATE = "{title}"
TOKENS = list[int]
_READ = ("backbone", "backbone_layers", "backbone_dtype", "load_in_4bit", "load_in_8bit")


def mean_states(
    decoder: PreTrainedModel, titles: Sequence[Sequence[int]], bos: Sequence[int] = ()
) -> torch.Tensor:
    """The mean of a decoder's last hidden states over the tokens of each title.

    Titles are padded on the right, which no token of theirs sees.

    Parameters
    ----------
    decoder : PreTrainedModel
        A trunk without head, in evaluation mode.
    titles : sequence of sequence of int
        Token ids of B titles, one or more each.
    bos : sequence of int
        Token ids that are read before each title and are not part of the mean.

    Returns
    -------
    Tensor
        [B, D], at least float32.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = [torch.tensor([*bos, *title]) for title in titles]
    padded = pad_sequence(rows, batch_first=True).to(decoder.device)
    ends = torch.tensor([len(row) for row in rows], device=padded.device)
    places = torch.arange(padded.shape[1], device=padded.device)
    counted = (places >= len(bos)) & (places < ends[:, None])
    hidden = decoder(input_ids=padded, use_cache=False).last_hidden_state
    return pool(hidden.to(torch.promote_types(hidden.dtype, torch.float32)), counted, "mean")


class LanguageEncoder(OnDevice):
    """A pre-trained decoder as an encoder of tokenised titles, see the module.

    Computes in the type that the decoder has in a run
    (:func:`recbole_hellm.models.llm.loading.weight_dtype`). No weights are loaded before the first
    title.

    Parameters
    ----------
    settings : LLMSettings
        ``backbone``, ``backbone_layers``, ``backbone_dtype``, ``load_in_4bit`` and ``load_in_8bit``
        as in a run. ``language_layer`` is k, by default the last layer that the run reads.
    batch_size : int
        Titles per forward pass.
    device : str
        See :class:`~recbole_hellm.data.features.encoders.devices.OnDevice`.

    Attributes
    ----------
    backbone : str
        The decoder's name.
    layer : int
        k, from 1.
    revision : str
        The decoder's content, the layer, and what else decides the vectors.
    name : str
        The decoder's name and layer, and a hash of `revision`.

    Raises
    ------
    BackboneError
        If the decoder's configuration cannot be had.
    ConfigError
        If the decoder has no layer k, or has read nothing.
    """

    def __init__(self, settings: LLMSettings, batch_size: int = 64, device: str = AUTO) -> None:
        require(
            not settings.tiny,
            "backbone=tiny has read nothing that it could say of titles; name a pre-trained model.",
        )
        read = {key: getattr(settings, key) for key in (*_READ, "language_layer")}
        # The words are loaded apart, with advice of their own.
        self._settings = type(settings)(**read, prompt="none", train_backbone=False)
        self.backbone = settings.backbone
        self.batch_size = batch_size
        self.device_name = device
        self.layer = self._settings.language_layer or self._depth(self._settings)
        self._check_layer()
        self.revision = self._revision()
        self.name = f"{slug(self.backbone)}-layer{self.layer}-{content_hash(self.revision)[:8]}"
        self._loaded: PreTrainedModel | None = None

    @property
    def width(self) -> int:
        """Width D of the vectors."""
        return int(self._outline.config.hidden_size)

    @property
    def precision(self) -> str:
        """Type of the weights and kind of device."""
        return f"{str(self._outline.dtype).removeprefix('torch.')} on {self.device.type}"

    def tokens(self, titles: Sequence[str]) -> list[TOKENS]:
        """The token ids of each title, cut at 512 or where the decoder's positions end.

        Raises
        ------
        BackboneError
            If the decoder has no tokenizer that knows words, or one with more words than it knows.
        """
        config = self._outline.config
        room = getattr(config, "max_position_embeddings", None) or MAX_LENGTH + len(self._bos)
        limit = min(MAX_LENGTH, room - len(self._bos))
        # Cut here: a tokenizer may be told to cut at the left, and warns of long texts.
        ids = self._tokenizer(list(titles), add_special_tokens=False, verbose=False)["input_ids"]
        cut = [list(row[:limit]) for row in ids]
        highest = max((max(row) for row in cut if row), default=0)
        if highest >= config.vocab_size:
            raise BackboneError(
                f"backbone={self.backbone}: its tokenizer's id {highest} is beyond the model's "
                f"{config.vocab_size} word embeddings; put the tokenizer that belongs to the model "
                "into its folder, or name another backbone."
            )
        return cut

    def encode_batch(self, inputs: Sequence[TOKENS]) -> npt.NDArray[np.float32]:
        """Encode one batch of tokenised titles into float32 [len(inputs), D].

        Raises
        ------
        BackboneError
            If the decoder cannot be loaded.
        FeatureError
            If the GPU's memory does not suffice, or half precision overflows.
        """
        import torch

        if self._loaded is None:
            self._loaded = self._load()
        with torch.inference_mode(), enough_memory(f"backbone={self.backbone}", len(inputs)):
            states = mean_states(self._loaded, inputs, self._bos)
        if not bool(states.isfinite().all()):
            raise FeatureError(
                f"backbone={self.backbone} gives NaN or infinity for titles ({self.precision}); "
                "use --backbone_dtype=float32, or another language_layer."
            )
        return np.asarray(states.cpu(), dtype=np.float32)

    def release(self) -> None:
        """Let the decoder go; it is loaded again when it is needed."""
        self._loaded = None

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from recbole_hellm.models.llm.loading import load_tokenizer

        try:
            return load_tokenizer(self.backbone)
        except BackboneError as error:
            reason = f" ({cause(error.__cause__)})" if error.__cause__ else ""
            raise BackboneError(
                f"backbone={self.backbone} has no tokenizer that can be loaded{reason}, without "
                "which it reads no titles; put its tokenizer files into the folder, or name "
                "another backbone."
            ) from error

    @property
    def _bos(self) -> TOKENS:
        bos = self._tokenizer.bos_token_id
        return [] if bos is None else [int(bos)]

    @functools.cached_property
    def _outline(self) -> PreTrainedModel:
        return self._trunk(self._settings, outline=True)

    def _depth(self, settings: LLMSettings) -> int:
        return int(self._trunk(settings, outline=True).config.num_hidden_layers)

    def _check_layer(self) -> None:
        whole = self._depth(self._settings.replace(backbone_layers=None))
        require(
            self.layer <= whole,
            f"language_layer={self.layer} is beyond the {whole} layers of "
            f"backbone={self.backbone}; choose one of 1 to {whole}.",
        )

    def _revision(self) -> str:
        from recbole_hellm.models.llm.backbone_content import backbone_content

        settings = self._settings
        # With a prompt the content has the tokenizer, too.
        content = backbone_content(settings.replace(prompt="alpaca"))
        parts = [next(iter(content.values()), self.backbone), f"layer {self.layer}, final norm"]
        parts += [f"mean over {MAX_LENGTH} tokens at most, BOS read"]
        if settings.backbone_dtype != "auto":
            parts.append(settings.backbone_dtype)
        parts += [key for key in ("load_in_4bit", "load_in_8bit") if getattr(settings, key)]
        return ", ".join(parts)

    def _trunk(self, settings: LLMSettings, outline: bool = False) -> PreTrainedModel:
        from recbole_hellm.models.llm.loading import load_pretrained

        return load_pretrained(settings, self.device, outline)[0]

    def _load(self) -> PreTrainedModel:
        settings = self._settings.replace(backbone_layers=self.layer)
        decoder = self._trunk(settings)
        if getattr(decoder.config, "attn_logit_softcapping", None) is not None:
            decoder.set_attn_implementation("eager")  # not in every release by itself
        frozen = decoder.eval().requires_grad_(False)
        if not (settings.load_in_4bit or settings.load_in_8bit):
            with enough_memory(f"backbone={self.backbone}"):
                frozen.to(self.device)
        logger.info("backbone=%s reads titles on %s.", self.backbone, self.device)
        return decoder


def titles_content(encoder: LanguageEncoder, tokens: Sequence[str], titles: Sequence[str]) -> str:
    """Hash of all that the vectors of these items are made from."""
    return content_hash([encoder.revision, tokens_digest(tokens), tokens_digest(titles)], length=64)


def titles_stored(
    directory: Path, tokens: Sequence[str], titles: Sequence[str], encoder: LanguageEncoder
) -> bool:
    """Whether the feature store has the vectors of these titles."""
    path = feature_path(directory, LANGUAGE, encoder.name)
    return is_current(path, tokens, _recipe(encoder, titles))


def encode_titles(
    directory: Path,
    tokens: Sequence[str],
    titles: Sequence[str],
    encoder: LanguageEncoder,
    force: bool = False,
    progress: bool = True,
) -> Path:
    """Encode titles and store them as modality ``language``.

    Items without title get the mean of the other vectors. Nothing is done where the stored features
    are current; after an interruption, encoding goes on from the last finished batch. The set is
    read only where it is named, so that it does not join the features of other models.

    Parameters
    ----------
    directory : Path
        The dataset directory.
    tokens, titles : sequence of str
        As :func:`recbole_hellm.data.features.item_titles.read_titles` reads them.
    encoder : LanguageEncoder
    force : bool
        Encode even if the stored features are current.
    progress : bool
        Show titles, rate and time left.

    Returns
    -------
    Path
        The ``.npy`` file.

    Raises
    ------
    BackboneError
        If the decoder or its tokenizer cannot be loaded.
    FeatureError
        If the titles cannot be encoded, or features of another origin have the name.
    """
    path = feature_path(directory, LANGUAGE, encoder.name)
    tokens = check_tokens(tokens, path)
    recipe = _recipe(encoder, titles)
    with making(path, tokens, recipe, encoder.backbone, force) as needed:
        if not needed:
            return path
        words = encoder.tokens(titles)
        present = np.array([bool(row) for row in words])
        if not present.any():
            raise FeatureError(
                f"backbone={encoder.backbone}: its tokenizer makes no words of the titles of "
                f"{directory.name}; put the tokenizer that belongs to the model into its folder, "
                "or name another backbone."
            )
        if not present.all():
            logger.warning("%d items have no title and get the mean vector.", (~present).sum())
        read = [row for row in words if row]
        details = {
            **recipe,
            **rounding(encoder),
            "requested_encoder": encoder.backbone,
            ON_REQUEST: True,
        }
        with encoded(encoder, read, path, recipe, list(map(len, read)), progress) as vectors:
            encoder.release()
            return save_filled(directory, LANGUAGE, encoder.name, tokens, present, vectors, details)


def _recipe(encoder: LanguageEncoder, titles: Sequence[str]) -> dict[str, str]:
    return {
        "revision": encoder.revision,
        "template": TEMPLATE,
        "texts_sha256": tokens_digest(titles),
    }
