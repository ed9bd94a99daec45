"""Files of a fine-tuned model: written, read, and refused where they are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from recbole_hellm.errors import RunError
from recbole_hellm.models.llm.artefact_files import (
    check_fit,
    damaged,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    for content in (["é", "b"], {"settings": {"x": None}}, 3):
        write_json(path, content)
        assert read_json(path) == content
    write_json(path, ["é"])
    assert path.read_text(encoding="utf-8") == '[\n  "é"\n]\n'  # for people to read


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS | {"turned": TENSORS["a.weight"].T})  # not contiguous
    loaded = load_tensors(path)
    assert set(loaded) == {"a.weight", "b", "turned"}
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert torch.equal(loaded["turned"], TENSORS["a.weight"].T)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers asks for it


@pytest.mark.parametrize(
    ("read", "name", "contents"),
    [
        (read_json, "settings.json", [b"", b"{", b"\xff", b"[" * 100_000]),
        (lambda path: read_json(path, list[str]), "items.json", [b"[1]", b"{}"]),
        (load_tensors, "prefix.safetensors", [b"", b"no tensors"]),
    ],
)
def test_files_that_cannot_be_read_are_told_in_one_sentence(
    read: Callable[[Path], Any], name: str, contents: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    with pytest.raises(RunError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path} is missing; copy the whole folder, or run again with --force."
    )
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(RunError, match=f"{name}.* (is|cannot) .+; run again with") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_file_that_ends_early_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"x\.safetensors is damaged"):
        load_tensors(path)


def test_the_first_line_of_an_error_is_told(tmp_path: Path) -> None:
    told = str(damaged(tmp_path, ValueError("It is cut off.\nMore of it.")))
    assert told == f"{tmp_path} is damaged (It is cut off); run again with --force."
    assert "is damaged (KeyError);" in str(damaged(tmp_path, KeyError()))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"b": torch.ones(2)}, r"a\.weight is absent there and should be \(2, 3\)\.$"),
        (TENSORS | {"c": torch.ones(1)}, r"c is \(1,\) there and should be absent\.$"),
        (TENSORS | {"b": torch.ones(3)}, r"b is \(3,\) there and should be \(2,\)\.$"),
    ],
)
def test_names_and_shapes_must_fit(stored: dict[str, torch.Tensor], message: str) -> None:
    path = Path("model/prefix.safetensors")
    check_fit(TENSORS, {**TENSORS, "b": torch.zeros(2)}, path)  # type and values do not matter
    with pytest.raises(RunError, match=message) as caught:
        check_fit(TENSORS, stored, path)
    assert str(caught.value).startswith(f"{path} does not fit settings.json and items.json beside")
