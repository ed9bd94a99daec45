"""docs/exporting.md: its commands and its Python, word for word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.examples import blocks, commands

from recbole_hellm import recommend
from recbole_hellm.cli.main import main


def test_the_commands_and_what_is_made_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("faiss", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra export")
    monkeypatch.chdir(tmp_path)
    run, *exports = commands("exporting.md")
    assert main([*run[1:], "--show_progress=False", "--threads=1"]) == 0
    for words in exports:
        assert main(words[1:]) == 0
    names = sorted(str(path.relative_to("exports")) for path in Path("exports").rglob("*.*"))
    vectors = ["item_tokens.json", "item_vectors.npy", "items.faiss", "manifest.json"]
    vectors += ["user_tokens.json", "user_vectors.npy"]
    model = ["item_ids.json", "manifest.json", "model.onnx"]
    folders = {"lightgcn": vectors, "sasrec": model, "sasrec-vectors": vectors}
    assert names == sorted(f"{folder}/{name}" for folder in folders for name in folders[folder])
    index, function = blocks("exporting.md", "python")
    found: dict[str, Any] = {}
    exec(index, found)  # noqa: S102
    own = recommend("runs/sample/LightGCN", "U0001", exclude_seen=False)
    assert found["recommended"] == own["item"].tolist()
    exec(function, found)  # noqa: S102
    own = recommend("runs/sample/SASRec", history=["I0719", "I1267"], exclude_seen=False)
    assert found["best"] == own["item"].tolist()
