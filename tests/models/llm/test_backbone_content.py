from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.models.llm.backbone_content import backbone_content
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.storage import checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "backbone"
    made.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        (made / name).write_text(name)
    return made


def content(folder: Path | str, **settings: Any) -> dict[str, str]:
    return backbone_content(LLMSettings(backbone=str(folder), **settings))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_loading_reads_tells_a_backbone(folder: Path, name: str) -> None:
    before = content(folder)
    assert set(before) == {"backbone"}
    (folder / name).write_text("changed")
    assert content(folder) != before


@pytest.mark.parametrize("name", ["README.md", "generation_config.json", "pytorch_model.bin"])
def test_what_loading_does_not_read_tells_nothing(folder: Path, name: str) -> None:
    before = content(folder)
    (folder / name).write_text("changed")
    assert content(folder) == before


def test_the_tokenizer_counts_where_a_prompt_has_words(folder: Path) -> None:
    before = content(folder, prompt="none")
    (folder / "tokenizer.json").write_text("changed")
    assert content(folder, prompt="none") == before


def test_the_same_files_elsewhere_are_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert content(tmp_path / "copy") == content(folder)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_shards_count_with_their_index(folder: Path, kind: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / f"{kind}.index.json").write_text("{}")
    shard = folder / kind.replace(".", "-00001-of-00002.")
    shard.write_text("weights")
    before = content(folder)
    shard.write_text("others")
    assert content(folder) != before


def test_a_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(folder)
    monkeypatch.setattr(checksums, "file_sha256", lambda path: pytest.fail(f"{path} is read again"))
    assert content(folder) == before


def test_tiny_and_missing_backbones_have_none(tmp_path: Path) -> None:
    assert content("tiny") == {}
    assert content(tmp_path) == {}


def test_a_name_stands_for_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    cached = "/cache/models--some--model/snapshots/0123abc/config.json"
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: cached)
    assert content("some/model-of-a-test") == {"backbone_commit": "0123abc"}


def test_a_name_that_is_not_known_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def missing(*_: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", missing)
    assert content("other/model-of-a-test") == {}
