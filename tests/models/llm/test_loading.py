from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers.utils.hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers import (
    AutoModel,
    AutoTokenizer,
    GemmaConfig,
    GemmaModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2Model,
    T5Config,
)

from recbole_hellm.errors import BackboneError, ConfigError
from recbole_hellm.models.llm import loading
from recbole_hellm.models.llm.backbone import build_backbone
from recbole_hellm.models.llm.loading import load_pretrained, weight_dtype
from recbole_hellm.models.llm.prompt import template_tokenizer
from recbole_hellm.models.llm.settings import LLMSettings

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 90,
    "pad_token_id": 0,
}
HUB = "meta-llama/Llama-2-7b-hf"
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    LlamaModel(LlamaConfig(**SMALL)).to(torch.bfloat16).save_pretrained(tmp_path)
    return tmp_path


def refusal(name: str | Path, **options: Any) -> str:
    """The one sentence with which the backbone is refused."""
    with pytest.raises(BackboneError) as error:
        build_backbone(LLMSettings(backbone=str(name), **{"prompt": "none", **options}))
    text = str(error.value)
    assert text.startswith(f"backbone={name} ")
    assert "\n" not in text
    assert text.endswith(".")
    assert text.count(". ") == 0
    return text


# ------------------------------------------------------------------------- folders


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


def test_encoder_decoders_are_refused(tmp_path: Path) -> None:
    T5Config().save_pretrained(tmp_path)
    assert "(t5) is an encoder-decoder" in refusal(tmp_path)


# ------------------------------------------------------------------------- tokenizers


def test_tokenizer_beside_the_weights_is_loaded_where_the_prompt_needs_it(folder: Path) -> None:
    template_tokenizer().save_pretrained(folder)
    backbone = build_backbone(LLMSettings(backbone=str(folder)), device="cpu")
    assert backbone.tokenizer is not None
    assert backbone.tokenizer.bos_token_id == 1
    without = build_backbone(LLMSettings(backbone=str(folder), prompt="none"), device="cpu")
    assert without.tokenizer is None


@pytest.mark.parametrize(
    ("config", "model"),
    [(LlamaConfig, LlamaModel), (Qwen2Config, Qwen2Model), (GemmaConfig, GemmaModel)],
)
def test_a_missing_tokenizer_is_named(
    tmp_path: Path, config: type[PreTrainedConfig], model: type[Any]
) -> None:
    # transformers makes one without words for the latter two.
    model(config(**SMALL, head_dim=4)).save_pretrained(tmp_path)
    text = refusal(tmp_path, prompt="alpaca")
    assert "has no tokenizer" in text
    assert "prompt=alpaca needs" in text
    assert "--prompt=none" in text


def test_a_tokenizer_whose_package_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("This tokenizer requires the sentencepiece library.\nInstall it.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    assert "requires the sentencepiece library" in refusal(folder, prompt="alpaca")


# ------------------------------------------------------------------------- the hub


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


# ------------------------------------------------------------------------- precision


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.bfloat16),
        (None, torch.bfloat16),
    ],
)
def test_automatic_precision_on_a_gpu_is_the_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: torch.dtype | None,
    expected: torch.dtype,
    native: bool,
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    settings = LLMSettings(backbone="x")
    dtype = weight_dtype(settings, checkpoint, GPU)
    assert dtype == (expected if native else torch.float16)


def test_precision_elsewhere() -> None:
    for checkpoint in (torch.bfloat16, torch.float32, None):
        assert weight_dtype(LLMSettings(backbone="x"), checkpoint, CPU) == torch.float32
        for name in ("float32", "bfloat16", "float16"):
            for device in (CPU, GPU):
                asked = LLMSettings(backbone="x", backbone_dtype=name)  # type: ignore[arg-type]
                assert weight_dtype(asked, checkpoint, device) == getattr(torch, name)
                whole = LLMSettings(backbone="x", backbone_dtype=name, train_backbone=True)  # type: ignore[arg-type]
                assert weight_dtype(whole, checkpoint, device) == torch.float32


def test_weights_are_loaded_in_the_precision_that_was_decided(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def decide(_settings: LLMSettings, checkpoint: torch.dtype, _device: torch.device) -> Any:
        seen.append(checkpoint)
        return torch.float16

    monkeypatch.setattr(loading, "weight_dtype", decide)
    model, _ = load_pretrained(LLMSettings(backbone=str(folder), prompt="none"), "cpu")
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in model.parameters()} == {torch.float16}


# ------------------------------------------------------------------------- quantisation


def test_quantisation_settings_exclude_each_other_and_trained_weights() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        LLMSettings(backbone="x", load_in_4bit=True, load_in_8bit=True)
    for key in ("load_in_4bit", "load_in_8bit"):
        with pytest.raises(ConfigError, match=f"{key}=True needs a frozen pre-trained backbone"):
            LLMSettings(**{key: True})
        with pytest.raises(ConfigError, match=f"{key}=True needs a frozen pre-trained backbone"):
            LLMSettings(backbone="x", train_backbone=True, **{key: True})
    assert LLMSettings().untouched_additions() >= {"load_in_4bit", "load_in_8bit"}


@pytest.mark.parametrize("key", ["load_in_4bit", "load_in_8bit"])
def test_quantisation_needs_a_gpu_and_its_package(
    folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LLMSettings(backbone=str(folder), **{key: True})  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match=rf"^{key}=True needs a GPU.*\.$"):
        load_pretrained(settings, "cpu")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name)
    )
    with pytest.raises(BackboneError, match=rf"^{key}=True needs.*recbole-hellm\[quant\].*\.$"):
        load_pretrained(settings, "cuda")


@pytest.mark.parametrize("key", ["load_in_4bit", "load_in_8bit"])
def test_quantisation_is_asked_of_transformers(
    folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    original = AutoModel.from_pretrained

    def load(source: str, **options: Any) -> Any:
        asked.update(options)
        return original(source, config=options["config"], output_loading_info=True)

    monkeypatch.setattr(AutoModel, "from_pretrained", load)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    settings = LLMSettings(
        backbone=str(folder),
        prompt="none",
        backbone_dtype="float16",
        **{key: True},  # type: ignore[arg-type]
    )
    load_pretrained(settings, "cuda:0")
    packing = asked["quantization_config"]
    assert asked["device_map"] == {"": torch.device("cuda:0")}
    assert asked["dtype"] == torch.float16
    assert (packing.load_in_4bit, packing.load_in_8bit) == (
        key == "load_in_4bit",
        key == "load_in_8bit",
    )
    if key == "load_in_4bit":
        assert packing.bnb_4bit_quant_type == "nf4"
        assert packing.bnb_4bit_use_double_quant
        assert packing.bnb_4bit_compute_dtype == torch.float16


@pytest.mark.parametrize("prompt", ["none", "alpaca"])
def test_no_code_of_a_model_is_run(scripted: Path, prompt: str) -> None:
    assert refusal(scripted, prompt=prompt) == (
        f"backbone={scripted} needs code of its own, which is not run; name another model, or use "
        "--backbone=tiny."
    )
