from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_inputs
import numpy as np
import pytest
import torch
from gpu_training import Inputs
from packed_backbone import outline

from recbole_hellm import run
from recbole_hellm.data.features.store import load_features


def test_inputs_hold_histories_tables_and_layers(
    gguf_file: Path,
    tmp_path: Path,
    tiny_data: Path,
    quick: dict[str, Any],
    make_parts: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = run("BPR", "tiny", **quick | {"epochs": 1, "embedding_size": 8})
    rows = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    np.save(tmp_path / "items.npy", rows)
    folder = tmp_path / "inputs"
    arguments = [
        *(f"--data_path={tiny_data}", "--dataset=tiny", f"--backbone={gguf_file}", "--layers=2"),
        *(f"--graph={stage.path}", f"--sequence={tmp_path / 'items.npy'}", "--language=text-toy"),
        str(folder),
    ]
    monkeypatch.setattr("sys.argv", ["gpu_inputs.py", *arguments])
    gpu_inputs.main()
    assert capsys.readouterr().out.startswith(f"{folder}: data.safetensors 0.0 MB, backbone")
    found = Inputs.read(folder)
    _, dataset, _ = make_parts("BPR")
    assert np.array_equal(found.histories.items, dataset.histories.items)
    assert np.array_equal(found.histories.offsets, dataset.histories.offsets)
    tokens = dataset.item_tokens
    learned = stage.restore().item_embedding.weight[1:].detach()
    torch.testing.assert_close(found.tables["graph"], learned)
    assert np.array_equal(found.tables["sequence"], rows[np.argsort(np.argsort(tokens))])
    features = load_features(tiny_data / "tiny", list(tokens), ["text-toy"])["text"].matrix
    assert np.array_equal(found.tables["language"], features.astype(np.float16))
    assert outline(found.backbone).num_hidden_layers == found.facts["layers"] == 2
    assert found.facts["split"] == dataset.fingerprint
    assert found.facts["backbone"].startswith("tiny.gguf (sha256 ")
    assert str(tmp_path) not in str(found.facts)

    monkeypatch.setattr(gpu_inputs, "LIMIT", 1000)
    with pytest.raises(SystemExit, match=r"inputs takes more than 0 MB .*; lower --layers"):
        gpu_inputs.main()


def test_inputs_without_an_item_table_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_inputs.py", "folder"])
    with pytest.raises(SystemExit):
        gpu_inputs.main()
    assert "--graph or --sequence" in capsys.readouterr().err


def test_a_table_that_is_not_there_is_told(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [f"--data_path={tiny_data}", "--dataset=tiny", "--graph=nowhere", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["gpu_inputs.py", *arguments])
    with pytest.raises(SystemExit, match=r"Error: .*nowhere\.npy does not exist"):
        gpu_inputs.main()
