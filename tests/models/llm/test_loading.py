from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import SMALL, refusal
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

CPU, GPU = torch.device("cpu"), torch.device("cuda")


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


def test_a_damaged_tokenizer_is_told(folder: Path) -> None:
    template_tokenizer().save_pretrained(folder)
    for content in ("{}", '{"model": 3}', '{"version": "1.0", "model": {"type": "Odd"}}'):
        (folder / "tokenizer.json").write_text(content)
        assert "has no tokenizer that can be loaded (" in refusal(folder, prompt="alpaca")


# ------------------------------------------------------------------------- depth


@pytest.mark.parametrize("layers", ["2", None, 2.5, [2]])
def test_a_depth_that_is_no_number_is_told(folder: Path, layers: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    refusal(folder, backbone_layers=1)


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


# ---------------------------------------------------------------------- random weights


def test_random_backbones_have_the_shape_and_type_and_drawn_weights(folder: Path) -> None:
    def load(seed: int, **options: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        settings = LLMSettings(
            backbone=str(folder), backbone_dtype="bfloat16", prompt="none", **options
        )
        return load_pretrained(settings, "cpu")[0].state_dict()

    read, drawn = load(1), load(1, random_backbone=True)
    assert {k: v.shape for k, v in read.items()} == {k: v.shape for k, v in drawn.items()}
    assert {value.dtype for value in drawn.values()} == {torch.bfloat16}
    matrices = [name for name, value in read.items() if value.ndim == 2]
    assert matrices
    again, other = load(1, random_backbone=True), load(2, random_backbone=True)
    for name in matrices:
        assert not torch.equal(read[name], drawn[name])
        assert torch.equal(again[name], drawn[name])
        assert not torch.equal(other[name], drawn[name])
    assert len(load(1, random_backbone=True, backbone_layers=1)) < len(drawn)


def test_random_backbones_need_a_shape_and_have_read_nothing() -> None:
    with pytest.raises(ConfigError, match="backbone=tiny is random anyway"):
        LLMSettings(random_backbone=True)
    with pytest.raises(ConfigError, match="has read nothing"):
        LLMSettings(backbone="x", random_backbone=True, item_inputs=("language",))
    with pytest.raises(ConfigError, match="leave out train_backbone and random_backbone"):
        LLMSettings(backbone="x", random_backbone=True, load_in_8bit=True)
    assert "random_backbone" in LLMSettings().untouched_additions()


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
