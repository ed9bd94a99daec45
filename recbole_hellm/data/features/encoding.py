"""Item features of a dataset by name: what the command ``encode`` is told, and what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from recbole_hellm.config.settings import require, setting
from recbole_hellm.data.features.encoders.image import encode_images
from recbole_hellm.data.features.encoders.language import LanguageEncoder, encode_titles
from recbole_hellm.data.features.encoders.text import encode_text
from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.data.features.item_titles import read_titles
from recbole_hellm.data.features.store import list_features
from recbole_hellm.data.interactions.atomic_files import (
    STANDARD,
    AtomicSettings,
    atomic_settings,
    read_items,
)
from recbole_hellm.errors import DataError, FeatureError

NONE = "none"


class EncodeSettings(AtomicSettings):
    """What `encode` is told."""

    text_encoder: str | None = setting(
        None,
        "auto, minilm, tfidf, bert, a name or a folder; none for no texts, the default beside an "
        "image_encoder or a language_encoder.",
    )
    text_pooling: Literal["auto", "cls", "mean"] = setting(
        "auto", "How a transformer's tokens become one vector."
    )
    image_encoder: str | None = setting(None, "clip, a name or a folder.")
    images: str | None = setting(
        None, "Folder with pictures, looked into before the dataset's own images."
    )
    language_encoder: str | None = setting(
        None, "A pre-trained backbone that reads the titles: a name, a folder or a GGUF file."
    )
    language_layer: int | None = setting(
        None, "Its layer whose states become the vectors, by default the last.", ge=1
    )
    encode_batch: int = setting(64, "Texts or pictures per forward pass.", ge=1)
    device: str = setting("auto", "auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")
    force: bool = setting(False, "Encode even if the stored features are current.")

    def validate_relations(self) -> None:
        """Check that there is something to do and no option is without effect.

        Raises
        ------
        ConfigError
            If it is not so.
        """
        require(
            self.images is None or self.image_encoder is not None,
            "images is for pictures; add an encoder, for example --image_encoder=clip.",
        )
        require(
            self.texts is not None or not self._texts_by_default,
            "text_encoder=none leaves nothing to encode; add --image_encoder=clip.",
        )
        require(
            self.language_layer is None or self.language_encoder is not None,
            "language_layer is a layer of a language_encoder; name one.",
        )
        require(
            self.texts is not None or self.text_pooling == "auto",
            "text_pooling is for texts; name their encoder with --text_encoder.",
        )

    @property
    def texts(self) -> str | None:
        """The encoder of texts, None for no texts."""
        chosen = self.text_encoder or ("auto" if self._texts_by_default else NONE)
        return None if chosen == NONE else chosen

    @property
    def _texts_by_default(self) -> bool:
        return self.image_encoder is None and self.language_encoder is None


def encode_features(
    name: str, directory: Path, settings: EncodeSettings, progress: bool = True
) -> list[Path]:
    """Encode a dataset's texts, pictures and titles, as asked, into its feature store.

    Parameters
    ----------
    name, directory : str, Path
        The dataset's name and folder.
    settings : EncodeSettings
    progress : bool
        Show items, rate and time left.

    Returns
    -------
    list of Path
        The ``.npy`` files.

    Raises
    ------
    DataError
        If the dataset has no item table.
    FeatureError
        If texts or pictures are missing or cannot be encoded.
    """
    made = []
    common: dict[str, Any] = {
        "force": settings.force,
        "progress": progress,
        "batch_size": settings.encode_batch,
        "device": settings.device,
    }
    if settings.texts is not None:
        pooling = settings.text_pooling
        made.append(
            encode_dataset(
                name, directory, settings.texts, pooling=pooling, atomic=settings, **common
            )
        )
    if settings.image_encoder is not None:
        images = Path(settings.images).expanduser() if settings.images else None
        if images is not None and not images.is_dir():
            raise FeatureError(f"--images={settings.images} is not a folder; correct its name.")
        if not (directory / f"{name}.item").is_file():
            raise DataError(
                f"{directory / f'{name}.item'} is missing, so it is not known which items there "
                "are; write one with the column item_id:token."
            )
        tokens = read_items(directory, name, settings)["item_id"].tolist()
        metadata = ItemMetadata.read(directory, name, settings, images)
        made.append(encode_images(directory, tokens, metadata, settings.image_encoder, **common))
    if settings.language_encoder is not None:
        made.append(_encode_titles(name, directory, settings, settings.language_encoder, progress))
    return made


def _encode_titles(
    name: str, directory: Path, settings: EncodeSettings, decoder: str, progress: bool
) -> Path:
    from recbole_hellm.models.llm.settings import LLMSettings

    chosen = LLMSettings(backbone=decoder, language_layer=settings.language_layer)
    encoder = LanguageEncoder(chosen, settings.encode_batch, settings.device)
    titles = read_titles(directory, name, settings)
    tokens, texts = list(titles), list(titles.values())
    return encode_titles(directory, tokens, texts, encoder, settings.force, progress)


def ensure_features(config: Any) -> None:
    """Encode item texts if `config` names no features and there are none for text.

    An encoder that is named (not ``auto``) is run unless its features are there.

    Raises
    ------
    FeatureError
        If there are neither features nor item texts to make them from.
    """
    directory, name = config.dataset_directory, config["dataset"]
    if config["features"] is not None:
        return
    present = {info.modality for info in list_features(directory) if not info.on_request}
    if "text" in present and config["text_encoder"] == "auto":
        return
    if (directory / f"{name}.item").is_file():
        encode_dataset(
            name,
            directory,
            config["text_encoder"],
            atomic=atomic_settings(config),
            device=str(config["device"]),
        )
    elif not present:
        raise FeatureError(
            f"Dataset '{name}' has neither item texts ({name}.item) nor features in "
            f"{directory / 'features'}; add one of them."
        )


def encode_dataset(
    name: str,
    directory: Path,
    encoder: str = "auto",
    force: bool = False,
    progress: bool = True,
    atomic: AtomicSettings = STANDARD,
    **options: Any,
) -> Path:
    """Encode a dataset's item texts into its feature store.

    Parameters
    ----------
    name, directory : str, Path
        The dataset's name and folder.
    atomic : AtomicSettings
        How the item table is written.
    encoder, force, progress, **options
        See :func:`recbole_hellm.data.features.encoders.text.encode_text`.

    Raises
    ------
    DataError
        If the dataset has no item table.
    FeatureError
        If its texts cannot be encoded.
    """
    if not (directory / f"{name}.item").is_file():
        raise DataError(f"{directory / f'{name}.item'} is missing, so there is no text to encode.")
    items = read_items(directory, name, atomic)
    return encode_text(directory, items, encoder, force, progress, **options)
