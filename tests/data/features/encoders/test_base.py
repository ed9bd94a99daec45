"""What counts as an encoder that works batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.data.features.encoders import (
    TfidfSvdEncoder,
    TransformerEncoder,
    VisionEncoder,
    encode_text,
    text,
)
from recbole_hellm.data.features.encoders.base import BatchEncoder

PARTS = {"name": "mine", "revision": "1", "batch_size": 2, "precision": "float32 on cpu"}


class Mine:
    """An encoder of somebody else's, with no base class of this package."""

    name, revision, batch_size, precision = "mine", "1", 2, "float32 on cpu"

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode_batch(self, inputs: Sequence[str]) -> np.ndarray:
        self.sizes.append(len(inputs))
        return np.array([[len(text)] for text in inputs], dtype=np.float32)


def test_encoders_that_work_by_batches(tiny_bert: Path, tiny_clip: Path) -> None:
    pytest.importorskip("PIL")
    assert isinstance(TransformerEncoder(str(tiny_bert)), BatchEncoder)
    assert isinstance(VisionEncoder(str(tiny_clip)), BatchEncoder)
    assert isinstance(Mine(), BatchEncoder)
    assert not isinstance(TfidfSvdEncoder(), BatchEncoder)  # needs all texts at once


@pytest.mark.parametrize("part", [*PARTS, "encode_batch"])
def test_every_part_is_needed(part: str) -> None:
    members = {**PARTS, "encode_batch": Mine.encode_batch}
    del members[part]
    assert not isinstance(type("Partial", (), members)(), BatchEncoder)


def test_an_encoder_needs_no_base_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Mine()
    monkeypatch.setattr(text, "resolve_text_encoder", lambda _: encoder)
    items = pd.DataFrame({"item_id": list("abc"), "title": ["red", "blue hat", "pink"]})
    path = encode_text(tmp_path, items, "mine", progress=False)
    assert np.load(path).ravel().tolist() == [3, 8, 4]
    assert encoder.sizes == [2, 1]
