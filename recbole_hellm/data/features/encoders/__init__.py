"""Encoders: from what an item says or shows to one vector per item."""

from __future__ import annotations

from recbole_hellm.data.features.encoders.base import BatchEncoder, ImageEncoder, TextEncoder
from recbole_hellm.data.features.encoders.image import (
    VisionEncoder,
    encode_images,
    resolve_image_encoder,
)
from recbole_hellm.data.features.encoders.sentence import SentenceEncoder
from recbole_hellm.data.features.encoders.text import (
    TfidfSvdEncoder,
    encode_text,
    item_texts,
    resolve_text_encoder,
)
from recbole_hellm.data.features.encoders.transformer_text import TransformerEncoder

__all__ = [
    "BatchEncoder",
    "ImageEncoder",
    "SentenceEncoder",
    "TextEncoder",
    "TfidfSvdEncoder",
    "TransformerEncoder",
    "VisionEncoder",
    "encode_images",
    "encode_text",
    "item_texts",
    "resolve_image_encoder",
    "resolve_text_encoder",
]
