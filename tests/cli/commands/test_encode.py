from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recbole_hellm.data.features.encoding import EncodeSettings

Tell = Callable[..., str]


def test_help(shows: Callable[..., str]) -> None:
    assert "--dataset=NAME" in shows("encode", EncodeSettings)


def test_encode_needs_texts(tell: Tell, tmp_path: Path) -> None:
    told = tell("encode", "--dataset=tiny", f"--data_path={tmp_path}", keep=False)
    assert "tiny.item is missing, so there is no text to encode" in told
