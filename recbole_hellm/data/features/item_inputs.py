"""Item inputs of the LLM stage: the tables of item vectors that item tokens are made of.

The setting ``item_inputs`` names them. A name is one of

- a role of :data:`ROLES`: a table that an earlier stage learns, or ``language``, what the backbone
  itself makes of the items' titles;
- item features of the dataset: a modality (``text``), or a file of the store (``text-minilm``);
- a class of another package: its import path (``package.module:Name``), or the name that an
  installed package gives it in the entry-point group ``recbole_hellm.item_inputs``.

The rest of the package knows inputs by name, width and table only.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_hellm.data.features.embedding_files import ItemTableFile, dense_table
from recbole_hellm.data.features.encoders.language import (
    LanguageEncoder,
    encode_titles,
    titles_content,
    titles_stored,
)
from recbole_hellm.data.features.feature_files import LANGUAGE
from recbole_hellm.data.features.item_titles import read_titles
from recbole_hellm.data.features.store import Features, load_features
from recbole_hellm.data.interactions.atomic_files import atomic_settings
from recbole_hellm.errors import ConfigError, DataError, FeatureError, nearest
from recbole_hellm.extensions import installed, is_import_path, load_object

GROUP = "recbole_hellm.item_inputs"


class ItemInput:
    """A table with one vector per item; subclasses say where it comes from.

    Most subclasses define :meth:`table` and nothing else.

    Parameters
    ----------
    name : str
        The name in ``item_inputs``.
    config : Mapping
        The run's settings.

    Attributes
    ----------
    stage : str or None
        Model that has to be trained first.
    needs_features : bool
        Whether the table is made from ``dataset.item_features()``. Text features are then encoded
        where the dataset has none, and the features become part of the run's id.
    """

    stage: str | None = None
    needs_features: bool = False

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.name = name
        self.config = config
        self._vectors: Tensor | None = None

    def table(self, dataset: Any) -> np.ndarray | Tensor:
        """The vectors of all items.

        Parameters
        ----------
        dataset : Dataset
            ``dataset.item_tokens`` are the names of the N items. Use training interactions only
            (``dataset.training_counts``, for example), so that the table does not tell what is to
            be predicted.

        Returns
        -------
        ndarray or Tensor
            [N, d], one row per item in the order of ``dataset.item_tokens``.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define table(dataset).")

    def width(self, dataset: Any) -> int | None:
        """Width d of the table; ``None`` where the settings leave the table out."""
        return self.vectors(dataset).shape[1]

    def content(self, dataset: Any) -> Any:
        """What tells this table from another, as JSON; part of the run's id unless ``None``.

        By default a hash of the table.
        """
        vectors = self.vectors(dataset)
        digest = hashlib.sha256(f"{tuple(vectors.shape)}".encode())
        digest.update(vectors.numpy().tobytes())
        return digest.hexdigest()

    def prepare(self, dataset: Any) -> None:
        """Compute what is best computed before the model takes memory; by default nothing."""

    def pending(self, dataset: Any) -> str | None:
        """What :meth:`prepare` would have to do now, for ``--dry_run``."""
        return None

    @property
    def file(self) -> ItemTableFile | None:
        """File of the user's that takes the place of a stage, if there is one."""
        return None

    def vectors(self, dataset: Any) -> Tensor:
        """The checked :meth:`table`, which is computed once.

        Returns
        -------
        Tensor
            [N, d], float32, on the CPU.

        Raises
        ------
        DataError
            If the table has another number of rows, or NaN or infinity.
        """
        if self._vectors is None:
            tokens = dataset.item_tokens
            try:
                table = _as_tensor(self.table(dataset))
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"The item input {self.name} gives no table of numbers ({error}); return an "
                    "array of numbers, a row an item."
                ) from error
            if table.ndim != 2 or len(table) != len(tokens) or not table.shape[1]:
                raise DataError(
                    f"The item input {self.name} gives a table of shape {tuple(table.shape)}; "
                    f"give a row of one or more numbers for each of the {len(tokens)} items."
                )
            vectors = table.float().cpu().contiguous()
            bad = torch.nonzero(~vectors.isfinite().all(dim=1)).flatten()
            if len(bad):
                raise DataError(
                    f"The item input {self.name} gives NaN or infinity for {len(bad)} items "
                    f"(first: '{tokens[int(bad[0])]}'); give finite numbers."
                )
            self._vectors = vectors
        return self._vectors

    def wrong_width(self, width: int) -> ConfigError:
        """The error to raise where the table turns out to be `width` wide."""
        return ConfigError(
            f"The item input {self.name} gives a table of width {width} and announced another "
            "width; make its methods width and table agree."
        )


class StageInput(ItemInput):
    """Item embeddings of a model that is trained first, as a run of its own.

    Subclasses name the model in `stage`; ``--Model.key=value`` sets its options.

    Attributes
    ----------
    stage : str or None
        Name of the model.
    dim : int
        Width of its item embeddings.
    """

    dim: int = 64

    def width(self, dataset: Any) -> int | None:
        """`dim`, which is known before the stage is trained; ``None`` without a stage."""
        return None if self.stage is None and self.file is None else self.dim

    def content(self, dataset: Any) -> Any:
        """Nothing: the stage's own identity is part of the run's."""
        return None

    def wrong_width(self, width: int) -> ConfigError:
        """The error to raise where the embeddings turn out to be `width` wide."""
        return ConfigError(
            f"The {self.name} stage gives {width}-wide item embeddings and dim is {self.dim}; "
            f"set dim = {width} in {type(self).__name__}."
        )


class RoleInput(StageInput):
    """A stage that settings choose: its model, its width, or a file in its place.

    The settings are ``<name>_model``, ``<name>_dim`` and ``<name>_embeddings``.
    """

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        super().__init__(name, config)
        self.stage = None if config[f"{name}_embeddings"] else config[f"{name}_model"]
        self.dim = config[f"{name}_dim"]

    @functools.cached_property
    def file(self) -> ItemTableFile | None:  # type: ignore[override]
        """The file that ``<name>_embeddings`` names.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        key = f"{self.name}_embeddings"
        path = self.config[key]
        return ItemTableFile.find(key, path) if path else None

    def table(self, dataset: Any) -> np.ndarray | Tensor:
        """The embeddings in the file.

        Raises
        ------
        DataError
            If the file changed or does not fit the items.
        """
        if self.file is None:
            raise DataError(
                f"No file holds the {self.name} embeddings; set {self.name}_embeddings."
            )
        return self.file.read(dataset.item_tokens)

    def wrong_width(self, width: int) -> ConfigError:
        """The error to raise where the embeddings turn out to be `width` wide."""
        key = f"{self.name}_dim"
        return ConfigError(
            f"The {self.name} stage gives {width}-wide item embeddings and {key} is {self.dim}; "
            f"set --{key}={width}."
        )


class FeatureInput(ItemInput):
    """Item features of the dataset.

    A modality such as ``text`` means the features that the run's other models read, as
    ``features`` and ``text_encoder`` choose them. ``text-minilm`` means that file of the store.
    Items without text or picture have the mean of the other rows, which the store puts there.
    """

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        super().__init__(name, config)
        self.needs_features = "-" not in name
        self._features: Features | None = None

    def table(self, dataset: Any) -> np.ndarray | Tensor:
        """The feature matrix."""
        return self._read(dataset).matrix

    def content(self, dataset: Any) -> Any:
        """The checksum of the stored features."""
        return self._read(dataset).checksum

    def _read(self, dataset: Any) -> Features:
        if self._features is None:
            by_modality = dataset.item_features() if self.needs_features else self._stored(dataset)
            modality = self.name.partition("-")[0]
            if modality not in by_modality:
                known = [*ROLES, *installed(GROUP), *by_modality]
                raise FeatureError(
                    f"item_inputs names '{self.name}', and the run's item features are "
                    f"{', '.join(by_modality)}{nearest(self.name, known)} correct the name, or "
                    "add such features with `recbole-hellm encode` and --features."
                )
            self._features = by_modality[modality]
        return self._features

    def _stored(self, dataset: Any) -> dict[str, Features]:
        directory = dataset.config.dataset_directory
        return load_features(directory, list(dataset.item_tokens), [self.name])


class LanguageInput(ItemInput):
    """What the backbone itself makes of the items' titles, see :mod:`.encoders.language`.

    It is kept in the feature store, so that a second run reads it. The table is known by what it is
    made from: the backbone's content, the layer and the titles.
    """

    _known_titles: tuple[list[str], list[str]] | None = None

    def width(self, dataset: Any) -> int | None:
        """The backbone's, which its configuration tells."""
        return self._encoder.width

    def content(self, dataset: Any) -> Any:
        """A hash of backbone, layer and titles; nothing is encoded."""
        return titles_content(self._encoder, *self._titles(dataset))

    def prepare(self, dataset: Any) -> None:
        """Encode the titles unless the store has them; see :func:`.encode_titles`."""
        self._stored(dataset)

    def pending(self, dataset: Any) -> str | None:
        """How many titles have to be encoded."""
        tokens, titles = self._titles(dataset)
        encoder, directory = self._encoder, dataset.config.dataset_directory
        if titles_stored(directory, tokens, titles, encoder):
            return None
        return f"{sum(map(bool, titles)):,} titles are to be read by layer {encoder.layer}"

    def table(self, dataset: Any) -> np.ndarray | Tensor:
        """The vectors of the store."""
        path, directory = self._stored(dataset), dataset.config.dataset_directory
        return load_features(directory, list(dataset.item_tokens), [path.stem])[LANGUAGE].matrix

    @functools.cached_property
    def _encoder(self) -> LanguageEncoder:
        from recbole_hellm.models.llm.settings import LLMSettings

        settings = LLMSettings.from_config(self.config)
        return LanguageEncoder(settings, device=str(self.config["device"]))

    def _titles(self, dataset: Any) -> tuple[list[str], list[str]]:
        """Tokens and titles of the item table, which is read once."""
        if self._known_titles is None:
            config = dataset.config
            folder, settings = config.dataset_directory, atomic_settings(config)
            titles = read_titles(folder, config["dataset"], settings)
            self._known_titles = list(titles), list(titles.values())
        return self._known_titles

    def _stored(self, dataset: Any) -> Path:
        config = dataset.config
        tokens, titles = self._titles(dataset)
        return encode_titles(config.dataset_directory, tokens, titles, self._encoder)


ROLES: dict[str, type[ItemInput]] = {
    "graph": RoleInput,
    "sequence": RoleInput,
    LANGUAGE: LanguageInput,
}
"""Inputs that have a name in this package."""


def find_item_inputs(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, ItemInput]:
    """The inputs of the given names.

    Parameters
    ----------
    names : iterable of str
    config : Mapping
        The run's settings.

    Returns
    -------
    dict of str to ItemInput
        In the order of `names`.

    Raises
    ------
    ConfigError
        If a name can be none, or what it names is not a subclass of :class:`ItemInput`.
    """
    return {name: _input_class(name)(name, config) for name in names}


def _as_tensor(table: np.ndarray | Tensor) -> Tensor:
    try:
        tensor = torch.as_tensor(table)
    except RuntimeError as error:  # a type that torch does not know
        raise TypeError(f"it gives a {type(table).__name__}") from error
    tensor = tensor.byte() if tensor.dtype == torch.bool else tensor
    flat = not tensor.is_nested and (tensor.ndim != 2 or not tensor.shape[1])
    return tensor if flat else dense_table(tensor)


def _input_class(name: str) -> type[ItemInput]:
    if name in ROLES:
        return ROLES[name]
    path = name if is_import_path(name) else installed(GROUP).get(name)
    if path is not None:
        cls = load_object(path, "item input")
        if not isinstance(cls, type) or not issubclass(cls, ItemInput):
            raise ConfigError(
                f"item_inputs names {name}, which is not a subclass of "
                f"{ItemInput.__module__}.ItemInput; see docs/extending.md."
            )
        return cls
    if re.fullmatch(r"[A-Za-z0-9_]+(-[A-Za-z0-9_-]+)?", name):
        return FeatureInput
    raise ConfigError(
        f"item_inputs names {name!r}; use {', '.join(ROLES)}, item features such as text or "
        "text-minilm, or the import path of a class (package.module:Name)."
    )
