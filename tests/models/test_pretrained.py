"""Pre-trained models by name or folder, and the errors of loading them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import transformers.utils.hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from support.backbones import SMALL, refusal
from transformers import (
    LlamaConfig,
)

from recbole_hellm.models.llm.loading import load_pretrained
from recbole_hellm.models.llm.settings import LLMSettings

HUB = "meta-llama/Llama-2-7b-hf"


def test_a_folder_that_is_not_there() -> None:
    text = refusal("./no/such/folder")
    assert "is not a folder" in text
    assert "--backbone=tiny" in text


def test_a_folder_under_the_home_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    settings = LLMSettings(backbone=f"~/{folder.name}", prompt="none")
    model, _ = load_pretrained(settings, "cpu")
    assert model.config.hidden_size == 16
    assert "~/nothing is not a folder" in refusal("~/nothing")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "is a folder without config.json" in refusal(tmp_path)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    text = refusal(folder)
    assert "no file named model.safetensors" in text
    assert "fetch the model anew" in text


def test_weights_that_are_incomplete(folder: Path) -> None:
    LlamaConfig(**{**SMALL, "num_hidden_layers": 3}).save_pretrained(folder)
    text = refusal(folder)
    assert "lacks 9 of its weights, for example layers.2." in text


@pytest.mark.parametrize("left", [0, 4, 100, -8])
def test_weights_that_are_cut_short(folder: Path, left: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    assert "has damaged files" in refusal(folder)


def test_old_style_weights_that_are_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for content in (b"", b"<!DOCTYPE html>"):
        (folder / "pytorch_model.bin").write_bytes(content)
        assert "fetch the model anew" in refusal(folder)


def test_a_configuration_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("<html>")
    assert "has damaged files" in refusal(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    LlamaConfig(**{**SMALL, "vocab_size": 10}).save_pretrained(folder)
    assert "fetch the model anew" in refusal(folder)


def test_an_architecture_that_transformers_does_not_know(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "next"}))
    assert "`next`" in refusal(folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``hub(error)``: an empty cache, and every download ends in `error`.

    Everything that transformers makes of it is transformers' own.
    """
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # no other requests

    def fail(error: Exception) -> None:
        def download(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", download)

    return fail


def response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_a_gated_model_tells_whose_licence_to_accept(hub: Any) -> None:
    hub(GatedRepoError("401 Client Error. Access is restricted.", response=response(401)))
    text = refusal(HUB)
    assert "is gated" in text
    assert f"accept its licence on https://huggingface.co/{HUB} " in text
    assert "`hf auth login`" in text


def test_a_name_that_is_no_model(hub: Any) -> None:
    hub(RepositoryNotFoundError("404 Client Error.", response=response(404)))
    text = refusal("meta-lama/Llama")
    assert "neither a folder nor a model on Hugging Face" in text
    assert "check its spelling" in text
    assert "local folder" in text


@pytest.mark.parametrize("error", [LocalEntryNotFoundError, OfflineModeIsEnabled, None])
def test_a_model_that_is_not_cached_where_the_hub_is_out_of_reach(
    hub: Any, error: type[Exception] | None
) -> None:
    if error is not None:  # else what the hub's client itself does offline
        hub(error("An error happened while trying to locate the file on the Hub."))
    text = refusal(HUB)
    assert "cannot be reached" in text
    assert "HF_HOME" in text
    assert "local folder" in text


def test_a_name_that_cannot_be_one(hub: Any) -> None:
    assert "neither a folder nor a model" in refusal("two words")


def test_cached_facts_without_weights_out_of_reach(hub: Any, tmp_path: Path) -> None:
    # transformers passes over gates and broken connections when it looks for weights.
    snapshot = tmp_path / "hub" / f"models--{HUB.replace('/', '--')}"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("0" * 40)
    LlamaConfig(**SMALL).save_pretrained(snapshot / "snapshots" / ("0" * 40))
    text = refusal(HUB)
    assert "model.safetensors" in text
    assert f"https://huggingface.co/{HUB} " in text
    assert "check the network" in text


@pytest.mark.parametrize("prompt", ["none", "alpaca"])
def test_no_code_of_a_model_is_run(scripted: Path, prompt: str) -> None:
    assert refusal(scripted, prompt=prompt) == (
        f"backbone={scripted} needs code of its own, which is not run; name another model, or use "
        "--backbone=tiny."
    )
