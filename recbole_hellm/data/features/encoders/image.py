"""Picture features: one vector per item from a picture file, by CLIP or any other vision model."""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.util
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recbole_hellm.config.devices import AUTO
from recbole_hellm.data.downloads.picture_rules import LEADS_OUT, TOO_LARGE
from recbole_hellm.data.features.encoders.base import ImageEncoder
from recbole_hellm.data.features.encoders.devices import OnDevice
from recbole_hellm.data.features.encoders.models import (
    enough_memory,
    folder_revision,
    load_config,
    load_model,
    model_folder,
    slug,
)
from recbole_hellm.data.features.encoders.pictures import (
    LARGEST,
    PictureError,
    broken_reason,
    read_picture,
)
from recbole_hellm.data.features.encoders.storing import (
    encoded,
    making,
    rounding,
    save_filled,
)
from recbole_hellm.data.features.item_metadata import IMAGES, ItemMetadata
from recbole_hellm.data.features.store import check_tokens, feature_path
from recbole_hellm.errors import FeatureError, install_extra
from recbole_hellm.models.pretrained import NO_CODE, Pretrained, cause
from recbole_hellm.storage.checksums import file_sha256

if TYPE_CHECKING:
    import torch
    from PIL import Image

logger = logging.getLogger(__name__)

CLIP = "openai/clip-vit-base-patch32"  # the paper's
_READERS = 8  # threads that read pictures, at most


class VisionEncoder(OnDevice):
    """One vector per picture by a Hugging Face vision model; not normalised.

    - Models of pictures and texts (CLIP, SigLIP and the like): ``get_image_features``, in CLIP the
      pooled and projected picture. With ``openai/clip-vit-base-patch32`` the paper's image
      features (docs/method.md, Item images).
    - Other models (ViT, DINOv2, ConvNeXt, ...): their pooled output. Where there is none, or the
      checkpoint lacks the pooler's weights, the [CLS] token of the last layer; without such a
      token the mean over the last layer's places.

    Pictures go through the model's own processor, by Pillow on every machine, so that features
    do not depend on whether torchvision is installed.

    Parameters
    ----------
    path_or_name : str
        Folder, or name on Hugging Face; one that is in the local cache is not looked for there.
    name : str, optional
        Feature name; by default made from the last part of `path_or_name`.
    batch_size : int
        Pictures per forward pass.

    Raises
    ------
    FeatureError
        If Pillow is not installed or the model cannot be had.
    """

    def __init__(self, path_or_name: str, name: str | None = None, batch_size: int = 64) -> None:
        if importlib.util.find_spec("PIL") is None:
            raise FeatureError(
                f"Image encoder {path_or_name} needs the package pillow; {install_extra('image')}."
            )
        self._told = Pretrained(
            path_or_name,
            f"Image encoder {path_or_name}",
            "leave --image_encoder out",
            FeatureError,
        )
        self.folder = model_folder(self._told)
        self.name = name or slug(path_or_name)
        with self._told.loading():
            self.revision = folder_revision(self.folder)
        self.batch_size = batch_size
        self._loaded: tuple[Any, Any, bool] | None = None

    def encode_batch(self, inputs: Sequence[Path]) -> npt.NDArray[np.float32]:
        """Encode picture files into float32 [len(inputs), D]; NaN where there is no picture.

        Raises
        ------
        FeatureError
            If the model cannot be loaded, is no vision model, or needs more memory than the GPU
            has.
        """
        import torch
        from PIL import Image

        if self._loaded is None:
            self._loaded = self._load()
        with _readers() as readers:
            pixels = list(readers.map(self._pixels, inputs))
        pictures = [picture for picture in pixels if picture is not None]
        # A batch without any picture still has to tell how long a vector is.
        shown = pictures or [self._processed(Image.new("RGB", (32, 32)))]
        # Some processors keep a picture's proportions: those of one size go together.
        by_size: dict[torch.Size, list[int]] = {}
        for row, picture in enumerate(shown):
            by_size.setdefault(picture.shape, []).append(row)
        parts = [self._vectors(torch.stack([shown[row] for row in s])) for s in by_size.values()]
        vectors = np.empty((len(shown), parts[0].shape[1]), dtype=np.float32)
        for same, part in zip(by_size.values(), parts, strict=True):
            vectors[same] = part
        rows = np.full((len(inputs), vectors.shape[1]), np.nan, dtype=np.float32)
        if pictures:
            rows[[picture is not None for picture in pixels]] = vectors
        return rows

    def _pixels(self, path: Path) -> torch.Tensor | None:
        try:
            return self._processed(read_picture(path))
        except PictureError:
            return None

    def _processed(self, picture: Image.Image) -> torch.Tensor:
        assert self._loaded is not None  # noqa: S101
        pixels: torch.Tensor = self._loaded[1](images=picture, return_tensors="pt")["pixel_values"]
        return pixels[0]

    def _vectors(self, pixels: torch.Tensor) -> npt.NDArray[np.float32]:
        import torch

        assert self._loaded is not None  # noqa: S101
        model, _, pooled = self._loaded
        pixels = pixels.to(model.device, model.dtype)
        subject = f"{self._told.subject} ({model.config.model_type})"
        advice = f"name a vision model such as {CLIP}."
        with (
            self._told.loading(
                lambda error: f"{subject} makes no vector of a picture ({cause(error)}); {advice}"
            ),
            torch.inference_mode(),
            enough_memory(self._told.subject, len(pixels)),
        ):
            vectors = _image_features(model, pixels, pooled).flatten(1).float().cpu()
        return np.asarray(vectors, dtype=np.float32)

    def _load(self) -> tuple[Any, Any, bool]:
        config = load_config(self._told, self.folder)
        processor = self._load_processor()
        model, missing = load_model(self._told, self.folder, config, self.device, ("pooler",))
        return model, processor, not any("pooler" in key for key in missing)

    def _load_processor(self) -> Any:
        from PIL import Image
        from transformers import AutoImageProcessor

        # The first releases of transformers 5 have no back ends, but a switch for the same.
        modern = importlib.util.find_spec("transformers.image_processing_backends")
        options = {"backend": "pil"} if modern else {"use_fast": False}
        with self._told.loading(self._no_processor):
            processor = AutoImageProcessor.from_pretrained(
                str(self.folder), local_files_only=True, **options, **NO_CODE
            )
            processor(images=Image.new("RGB", (32, 32)), return_tensors="pt")["pixel_values"][0]
            return processor

    def _no_processor(self, error: BaseException) -> str:
        return (
            f"{self._told.subject} has no image processor that can be loaded ({cause(error)}); put "
            "its preprocessor_config.json into the folder, or name a vision model such as "
            f"{CLIP}."
        )


def resolve_image_encoder(name: str, batch_size: int = 64, device: str = AUTO) -> ImageEncoder:
    """The image encoder of the given name.

    Parameters
    ----------
    name : str
        ``clip`` (openai/clip-vit-base-patch32, the paper's), or the folder or Hugging Face name of
        a vision model.
    batch_size : int
        Pictures per forward pass.
    device : str
        See :class:`~recbole_hellm.data.features.encoders.devices.OnDevice`.

    Raises
    ------
    FeatureError
        If the model cannot be had.
    """
    path, label = (CLIP, "clip") if name == "clip" else (name, None)
    encoder = VisionEncoder(path, label, batch_size)
    encoder.device_name = device
    return encoder


def encode_images(
    directory: Path,
    tokens: Sequence[str],
    metadata: ItemMetadata,
    encoder: str = "clip",
    force: bool = False,
    progress: bool = True,
    batch_size: int = 64,
    device: str = AUTO,
) -> Path:
    """Encode the items' pictures and store them as modality ``image``.

    Items without a usable picture get the mean of the other vectors. The manifest lists them under
    ``missing``, and under ``details.missing_reasons`` with the reason. Nothing is done where the
    stored features are intact and come from the same encoder, revision, tokens and files. After an
    interruption, encoding goes on from the last finished batch. Features of the same name that
    another encoder made, or that were imported, are replaced with `force` alone.

    Parameters
    ----------
    directory : Path
        The dataset directory, for example ``dataset/Beauty``.
    tokens : sequence of str
        All items.
    metadata : ItemMetadata
        Knows the items' picture files.
    encoder : str
        See :func:`resolve_image_encoder`.
    force : bool
        Encode even if the stored features are current.
    progress : bool
        Show items, rate and time left.
    batch_size : int
        Pictures per forward pass.
    device : str
        See :func:`resolve_image_encoder`.

    Returns
    -------
    Path
        The ``.npy`` file.

    Raises
    ------
    FeatureError
        If no item has a usable picture, item tokens repeat, the encoder cannot be had, or features
        of another origin have the name.
    """
    model = resolve_image_encoder(encoder, batch_size, device)
    path = feature_path(directory, "image", model.name)
    tokens = check_tokens(tokens, path)
    files = {token: metadata.file(token) for token in tokens}
    outside = {token for token, file in files.items() if not file and metadata.leads_out(token)}
    present_files = [file for file in files.values() if file is not None]
    if not present_files:
        why = f"{len(outside)} lead out of it" if outside else "there is no picture file"
        raise _no_pictures(directory, metadata, len(tokens), why)
    with _readers() as readers:
        contents = list(readers.map(_digest, files.values()))
    recipe = {
        "revision": model.revision,
        "images_sha256": hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
    }
    with making(path, tokens, recipe, encoder, force) as needed:
        if not needed:
            return path
        with encoded(model, present_files, path, recipe, progress=progress) as vectors:
            filled = {present_files[row] for row in np.flatnonzero(~np.isnan(vectors).all(axis=1))}
            # A row of NaN from a sound picture stays: saving tells that the model made it.
            broken = {
                token: broken_reason(file) for token, file in files.items() if file not in filled
            }
            reasons = {token: reason for token, reason in broken.items() if reason is not None}
            reasons |= dict.fromkeys(outside, LEADS_OUT)
            present = np.array([token not in reasons for token in tokens])
            usable = vectors[present[[file is not None for file in files.values()]]]
            counts = ", ".join(
                f"{n} {reason}" for reason, n in Counter(reasons.values()).most_common()
            )
            if not present.any():
                raise _no_pictures(directory, metadata, len(tokens), counts)
            if reasons:
                logger.warning(
                    "%d of %d items have no usable picture and get the mean vector (%s).",
                    *(len(reasons), len(tokens), counts),
                )
            made = rounding(model) | {"requested_encoder": encoder, "missing_reasons": reasons}
            return save_filled(
                directory, "image", model.name, tokens, present, usable, recipe | made
            )


def _readers() -> concurrent.futures.Executor:
    return concurrent.futures.ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1))


def _digest(file: Path | None) -> str | None:
    try:
        if file is not None and file.stat().st_size > LARGEST:
            return TOO_LARGE
        return None if file is None else file_sha256(file)
    except OSError:  # gone or not to be read: encoding will say so
        return None


def _image_features(model: Any, pixels: torch.Tensor, pooled: bool) -> torch.Tensor:
    """[B, D] or, pooled over places, [B, D, 1, 1]; see :class:`VisionEncoder` for which output."""
    if hasattr(model, "get_image_features"):
        output = model.get_image_features(pixel_values=pixels)
        vectors = getattr(output, "pooler_output", output)
    else:
        output = model(pixel_values=pixels)
        vectors = getattr(output, "pooler_output", None) if pooled else None
        if vectors is None:
            vectors = output.last_hidden_state
            if vectors.ndim == 4:  # maps of a convolutional network
                vectors = vectors.mean(dim=(2, 3))
            elif any(key.endswith("cls_token") for key, _ in model.named_parameters()):
                vectors = vectors[:, 0]
            else:
                vectors = vectors.mean(dim=1)
    if len(vectors) != len(pixels) or vectors[0].numel() != vectors.shape[1]:
        raise ValueError(f"its output has the shape {tuple(vectors.shape)}")
    return vectors


def _no_pictures(directory: Path, metadata: ItemMetadata, n_items: int, why: str) -> FeatureError:
    places = " or ".join(dict.fromkeys(str(folder) for folder in metadata.folders[:2]))
    return FeatureError(
        f"None of the {n_items} items of {directory} has a usable picture in {places} ({why}); put "
        f"pictures named by item token into {directory / IMAGES}, or name a folder with --images."
    )
