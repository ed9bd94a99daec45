"""Texts through sentence-transformers, with whatever pooling and normalisation a model brings."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_hellm.data.features.encoders.devices import (
    OnDevice,
    working_dtype,
)
from recbole_hellm.data.features.encoders.models import (
    enough_memory,
    folder_revision,
    model_folder,
    slug,
)
from recbole_hellm.data.features.encoders.resumable import encode_batches
from recbole_hellm.errors import FeatureError, install_extra
from recbole_hellm.models.pretrained import NO_CODE, Pretrained, cause
from recbole_hellm.storage.json_files import read_json

logger = logging.getLogger(__name__)

OWNER = "sentence-transformers"  # whose models may be named without owner


def text_model(path_or_name: str) -> Pretrained:
    """How the text encoder of that name is spoken of."""
    return Pretrained(
        path_or_name, f"Text encoder {path_or_name}", "use --text_encoder=tfidf", FeatureError
    )


class TextModel(OnDevice):
    """What encoders of texts share that encode batch by batch."""

    name: str
    revision: str
    batch_size: int

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode `texts` into float32 [len(texts), D], and keep nothing for going on.

        Raises
        ------
        FeatureError
            As :meth:`encode_batch`.
        """
        return encode_batches(self, texts, sizes=list(map(len, texts)), progress=False)

    def encode_batch(self, inputs: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode one batch into float32 [len(inputs), D]."""
        raise NotImplementedError


class SentenceEncoder(TextModel):
    """A sentence-transformers model.

    Runs on the GPU where there is one. Texts longer than the model's own limit are cut.

    Parameters
    ----------
    path_or_name : str
        The folder of a saved model, or a name on Hugging Face; one that is in the local cache is
        not looked for there.
    name : str, optional
        Feature name; by default made from the last part of `path_or_name`.
    revision : str, optional
        By default the cached commit, or a hash of the folder's files.
    batch_size : int
        Texts per forward pass.

    Raises
    ------
    FeatureError
        If sentence-transformers is not installed or the model cannot be had.
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
                f"Text encoder {path_or_name} needs the package sentence-transformers; "
                f"{install_extra('text')}, or use the encoder tfidf."
            )
        self._told = text_model(path_or_name)
        self.folder = model_folder(self._told, OWNER)
        if not (self.folder / "modules.json").is_file():
            # sentence-transformers would silently put a mean pooling on a bare transformer.
            raise FeatureError(
                f"{self.folder} has no modules.json and so is no sentence-transformers model; save "
                "one there with SentenceTransformer.save."
            )
        self.name = name or slug(path_or_name)
        with self._told.loading():
            self.revision = revision or folder_revision(self.folder)
        self.batch_size = batch_size
        self._model: Any = None

    def encode_batch(self, inputs: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode one batch into float32 [len(inputs), D].

        Raises
        ------
        FeatureError
            If the model cannot be loaded or the GPU's memory does not suffice.
        """
        if self._model is None:
            self._model = self._load()
        with (
            self._told.loading(self._tell),
            enough_memory(f"Text encoder {self.name}", len(inputs)),
        ):
            vectors = self._model.encode(
                list(inputs),
                batch_size=len(inputs),
                show_progress_bar=False,
                convert_to_tensor=True,
            )
            array = np.asarray(vectors.float().cpu(), dtype=np.float32)
            if array.ndim != 2 or len(array) != len(inputs):
                raise ValueError(f"its output has the shape {array.shape}")
        return array

    def _load(self) -> Any:
        from sentence_transformers import SentenceTransformer

        device = self.device
        self._told.check_files(self.folder)
        with self._told.loading(self._tell), enough_memory(self._told.subject):
            self._check_modules()
            model = SentenceTransformer(
                str(self.folder), device=str(device), local_files_only=True, **NO_CODE
            )
            model.eval().requires_grad_(False).to(working_dtype(device))
        logger.info("Text encoder %s runs on %s.", self.name, device)
        return model

    def _tell(self, error: BaseException) -> str:
        return (
            f"{self.folder} cannot be used by sentence-transformers ({cause(error)}); save the "
            "model there again with SentenceTransformer.save, or use the encoder tfidf."
        )

    def _check_modules(self) -> None:
        """Raise a ValueError if a part is code of the folder's own.

        Of a folder, releases before 6 of sentence-transformers run such code without being told to.
        """
        source = self.folder / "modules.json"
        for part in read_json(source, list[dict[str, Any]], FeatureError, "fetch the model anew"):
            kind, place = part.get("type"), part.get("path")
            if not isinstance(kind, str) or not isinstance(place, str):
                raise ValueError("a part in modules.json has no type or no path")
            if not kind.startswith("sentence_transformers."):
                raise ValueError(f"{kind} would need trust_remote_code.")
            if not (self.folder / place).resolve().is_relative_to(self.folder.resolve()):
                raise ValueError(f"modules.json names {place}, which is outside the folder")
