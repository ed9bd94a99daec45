"""Models behind encoders: where they are found, what identifies them, and how they are loaded."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from support.text_encoders import COMMIT, TEXTS, reference, refusal
from transformers import BertConfig, BertModel

from recbole_hellm.data.features.encoders import TransformerEncoder, models, resolve_text_encoder
from recbole_hellm.errors import FeatureError
from recbole_hellm.models.pretrained import Pretrained


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``hub(repositories)``: a hub of repositories (folder or error by name), and an empty cache.

    Stands in for ``snapshot_download``; what it was asked is in ``hub.asked``.
    """
    asked: list[tuple[str, list[str]]] = []

    def install(repositories: dict[str, Path | Exception]) -> list[tuple[str, list[str]]]:
        def snapshot(
            name: str,
            local_files_only: bool = False,
            allow_patterns: list[str] | None = None,
            ignore_patterns: list[str] | None = None,
        ) -> str:
            folder = f"models--{name.replace('/', '--')}"
            target = tmp_path / "cache" / folder / "snapshots" / COMMIT
            if local_files_only:
                if target.is_dir():
                    return str(target)
                raise LocalEntryNotFoundError("nothing in the cache")
            asked.append((name, allow_patterns or []))
            answer = repositories.get(name)
            if answer is None:
                raise RepositoryNotFoundError("404 Client Error.", response=_response(404))
            if isinstance(answer, Exception):
                raise answer
            for pattern in allow_patterns or ["*"]:
                for file in answer.glob(pattern):
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target)
            return str(target)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return asked

    return install


def _response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_a_model_is_fetched_once(hub: Any, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "tf_model.h5").write_bytes(b"weights for another framework")
    asked = hub({"some/bert": copy})
    with caplog.at_level(logging.INFO):
        encoder = resolve_text_encoder("some/bert")
    assert "Fetching some/bert" in caplog.text
    assert isinstance(encoder, TransformerEncoder)
    assert encoder.revision == f"{COMMIT}, mean, 512 tokens"
    assert not (encoder.folder / "tf_model.h5").exists()
    np.testing.assert_allclose(encoder.encode(TEXTS), reference(copy, "mean"), atol=1e-5)
    count = len(asked)
    resolve_text_encoder("some/bert").encode(TEXTS)
    assert len(asked) == count


def test_old_weights_are_fetched_where_there_are_no_others(hub: Any, copy: Path) -> None:
    torch.save(BertModel.from_pretrained(copy).state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    asked = hub({"some/bert": copy})
    vectors = resolve_text_encoder("some/bert").encode(TEXTS)
    np.testing.assert_allclose(vectors, reference(copy, "mean"), atol=1e-5)
    assert asked[-1] == ("some/bert", ["pytorch_model*.bin"])


def test_a_cache_that_holds_only_facts_does_not_count(hub: Any, copy: Path, tmp_path: Path) -> None:
    cached = tmp_path / "cache/models--some--bert/snapshots" / COMMIT
    cached.mkdir(parents=True)
    shutil.copy(copy / "config.json", cached)
    assert hub({"some/bert": copy}) == []
    assert resolve_text_encoder("some/bert").encode(TEXTS).shape == (6, 24)


def test_names_without_owner_may_be_sentence_transformers(hub: Any, copy: Path) -> None:
    asked = hub({"sentence-transformers/small": copy})
    assert isinstance(resolve_text_encoder("small"), TransformerEncoder)
    assert [name for name, _ in asked] == ["small", "sentence-transformers/small"]


def test_what_the_hub_refuses(hub: Any) -> None:
    gated = GatedRepoError("401 Client Error.", response=_response(401))
    hub({"some/gated": gated, "some/far": LocalEntryNotFoundError("no connection")})
    assert "https://huggingface.co/some/gated and log in" in refusal("some/gated")
    assert "Hugging Face cannot be reached" in refusal("some/far")
    assert "neither a folder nor a model on Hugging Face" in refusal("some/nothing")
    assert "neither a folder nor a model on Hugging Face" in refusal("nothing")


def test_a_name_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "neither a folder nor a model on Hugging Face" in refusal("two words")


def test_revisions_of_folders(tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        made = tmp_path / name
        made.mkdir(parents=True)
        (made / "config.json").write_text("{}")
        return made

    assert models.folder_revision(folder(f"models--m--bert/snapshots/{COMMIT}")) == COMMIT
    hashed = [f"mine/snapshots/{COMMIT}", "snapshots/run1", "models--m--bert/snapshots/run1"]
    first, *others = [models.folder_revision(folder(name)) for name in hashed]
    assert len(first) == 64 and others == [first, first]
    run = tmp_path / hashed[1]
    for hidden in (".git/HEAD", ".DS_Store", "sub/.cache/x"):
        (run / hidden).parent.mkdir(parents=True, exist_ok=True)
        (run / hidden).write_text("x")
    assert models.folder_revision(run) == first
    (run / "sub/weights").write_text("x")
    assert models.folder_revision(run) != first


@pytest.mark.parametrize("name", ["BERT", "clip", "MiniLM", "bert-mean"])
def test_names_of_other_encoders_are_not_taken(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / name))
    assert resolve_text_encoder(str(folder)).name == f"{name.lower()}-model"
    assert resolve_text_encoder(str(folder), "mean").name == f"{name.lower()}-model-mean"


def test_folders_that_hold_no_encoder(copy: Path, tmp_path: Path) -> None:
    assert "is not a folder" in refusal("./no/such/folder")
    (copy / "config.json").unlink()
    assert "is a folder without config.json" in refusal(copy, pooling="cls")


def test_damaged_and_missing_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert "has damaged files" in refusal(copy)
    weights.unlink()
    assert "fetch the model anew" in refusal(copy)
    weights.write_bytes(whole)
    config = BertConfig.from_pretrained(copy)
    config.num_hidden_layers = 3
    config.save_pretrained(copy)
    assert "lacks 16 of its weights, for example encoder.layer.2." in refusal(copy)


def test_a_checkpoint_without_pooler_is_whole(copy: Path) -> None:
    BertModel.from_pretrained(copy, add_pooling_layer=False).save_pretrained(copy)
    vectors = resolve_text_encoder(str(copy), "cls").encode(TEXTS)
    np.testing.assert_allclose(vectors, reference(copy, "cls"), atol=1e-5)


def test_no_code_of_a_model_is_run(scripted: Path) -> None:
    assert "needs code of its own, which is not run; name another model" in refusal(scripted)


def test_models_are_loaded_in_the_working_precision(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = TransformerEncoder(str(tiny_bert)).encode(TEXTS)
    monkeypatch.setattr(models, "working_dtype", lambda _: torch.bfloat16)
    half = TransformerEncoder(str(tiny_bert)).encode(TEXTS)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.1


def test_loading_tells_which_weights_are_missing(copy: Path) -> None:
    model = Pretrained(str(copy), "The model", "name another.", FeatureError)
    BertModel.from_pretrained(copy, add_pooling_layer=False).save_pretrained(copy)
    config = models.load_config(model, copy)
    loaded, missing = models.load_model(model, copy, config, torch.device("cpu"), ("pooler",))
    assert missing == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(FeatureError, match=r"^The model lacks 2 of its weights.*pooler\.dense"):
        models.load_model(model, copy, config, torch.device("cpu"), ())


@pytest.mark.parametrize(
    ("batch_size", "advice"),
    [
        (None, "The model does not fit into the GPU's memory; end what else runs there"),
        (64, "The model runs out of GPU memory with 64 inputs at a time; .* for example 16"),
        (2, "with 2 inputs at a time; use a smaller --encode_batch, for example 1"),
    ],
)
def test_a_lack_of_memory_becomes_advice(batch_size: int | None, advice: str) -> None:
    with (
        pytest.raises(FeatureError, match=advice),
        models.enough_memory("The model", batch_size),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("path_or_name", "name"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("models/My Model_v1.5/", "my-model-v1-5"),
        ("C:\\models\\E5", "e5"),
        ("./___", "model"),
        *((name, f"{name}-model") for name in ("bert", "bert-mean", "clip", "minilm", "tfidf")),
    ],
)
def test_feature_names_are_made_of_the_last_part(path_or_name: str, name: str) -> None:
    assert models.slug(path_or_name) == name
