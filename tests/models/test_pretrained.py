"""Pre-trained models by name or folder, and the errors of loading them."""

from __future__ import annotations

import json
import os
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

from recbole_hellm.errors import FeatureError
from recbole_hellm.models.llm.loading import load_pretrained
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.models.pretrained import Pretrained

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


TOLD = Pretrained("folder", "Encoder folder", "use another", FeatureError)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", "{", "is no JSON"),
        ("config.json", "[" * 100_000, "is nested too deeply"),
        ("config.json", "[]", "its content is wrong"),
        ("tokenizer_config.json", "\x00", "is no JSON"),
        ("1_Pooling/config.json", "null", "its content is wrong"),
        ("modules.json", "{}", "its content is wrong"),
        ("modules.json", "[1]", "0 is wrong"),
    ],
)
def test_files_of_a_model_are_named(tmp_path: Path, name: str, content: str, reason: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(FeatureError, match=reason) as error:
        TOLD.check_files(tmp_path)
    told = str(error.value)
    assert str(path) in told and told.endswith("; fetch the model anew or use another.")


def test_other_files_of_a_model_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("no JSON")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config.json").write_text("{")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    TOLD.check_files(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_among_a_models_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(FeatureError, match=r"weights.bin is no regular file; fetch the model"):
        TOLD.check_files(tmp_path)


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (Exception("data did not match"), "cannot be loaded (data did not match)"),
        (KeyError("gelu2"), "cannot be loaded (KeyError: 'gelu2')"),
        (ZeroDivisionError("integer modulo by zero"), "cannot be loaded (integer modulo by zero)"),
        (AttributeError("x\ny"), "cannot be loaded (x)"),
        (ValueError("set trust_remote_code=True"), "needs code of its own, which is not run"),
    ],
)
def test_what_libraries_raise_becomes_a_sentence(raised: Exception, sentence: str) -> None:
    with pytest.raises(FeatureError) as error, TOLD.loading():
        raise raised
    assert str(error.value).startswith(f"Encoder folder {sentence}")
    assert "\n" not in str(error.value) and error.value.__cause__ is raised
    with pytest.raises(FeatureError, match=r"needs code|odd"), TOLD.loading(lambda _: "odd"):
        raise raised


class SurpriseError(Exception):
    """What no library is known to raise."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SurpriseError(), FeatureError("own")])
def test_other_errors_stay(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as error, TOLD.loading():
        raise raised
    assert error.value is raised
