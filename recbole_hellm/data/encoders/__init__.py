"""Encoders: from what an item says or shows to one vector per item."""

from __future__ import annotations

from recbole_hellm.data.encoders.base import TextEncoder
from recbole_hellm.data.encoders.text import (
    SentenceEncoder,
    TfidfSvdEncoder,
    encode_text,
    item_texts,
    resolve_text_encoder,
)

__all__ = [
    "SentenceEncoder",
    "TextEncoder",
    "TfidfSvdEncoder",
    "encode_text",
    "item_texts",
    "resolve_text_encoder",
]
