"""Quantised backbones on bitsandbytes' own CPU kernels, which the package itself does not offer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model

from recbole_hellm.models.llm import loading
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.settings import LLMSettings

bitsandbytes = pytest.importorskip("bitsandbytes", "0.46.1")
if "cpu" not in getattr(bitsandbytes, "supported_torch_devices", ()):
    pytest.skip("this bitsandbytes has no CPU kernels", allow_module_level=True)

KEYS = pytest.mark.parametrize("key", ["load_in_4bit", "load_in_8bit"])
BATCH = torch.tensor([[3, 1, 4, 1], [5, 0, 0, 0]]), torch.tensor([4, 1])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loading, "_require_quantisation", lambda *_: None)
    torch.manual_seed(0)
    model = Qwen2Model(
        Qwen2Config(
            vocab_size=50,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=0,
        )
    )
    for parameter in model.parameters():  # among them the biases of keys and values
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    return tmp_path


def build(folder: Path, seed: int = 1, **options: Any) -> HeLLMNetwork:
    torch.manual_seed(seed)
    settings = LLMSettings(
        backbone=str(folder),
        prompt="none",
        bilinear_size=3,
        lora_r=4,
        lora_dropout=0.0,
        prefix_dropout=0.0,
        **{"backbone_dtype": "float32", "prefix_projection": "frozen", **options},
    )
    tables = {
        "graph": torch.arange(60.0).view(10, 6).sin(),
        "sequence": torch.arange(50.0).view(10, 5).cos(),
    }
    network = HeLLMNetwork(settings, tables, device="cpu")
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network.to(torch.device("cpu"))


@KEYS
def test_quantised_layers_compute_what_their_unpacked_weights_do(folder: Path, key: str) -> None:
    from peft.utils.integrations import dequantize_module_weight

    quantised, plain = build(folder, **{key: True}), build(folder)
    packed = 0
    for name, module in quantised.model.named_modules():
        if isinstance(module, nn.Linear) and "lora_" not in name and type(module) is not nn.Linear:
            packed += 1
            unpacked = dequantize_module_weight(module)
            other = plain.model.get_submodule(name)
            assert not torch.equal(unpacked, other.weight)
            other.weight.data = unpacked.float()
    assert packed == 2 * 7
    losses = []
    for network in (quantised, plain):
        loss = network.loss(*BATCH, torch.tensor([1, 2]))
        loss.backward()
        losses.append(loss)
    # LLM.int8() rounds activations as well.
    close = {"rtol": 1e-3, "atol": 1e-4} if key == "load_in_4bit" else {"rtol": 0.1, "atol": 0.02}
    torch.testing.assert_close(losses[0], losses[1], **close)
    others = dict(plain.named_parameters())
    for name, parameter in quantised.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            reference = others[name].grad
            error = (parameter.grad - reference).norm() / reference.norm().clamp_min(1e-3)
            assert error < (1e-3 if key == "load_in_4bit" else 0.1), name
        else:
            assert parameter.grad is None


@KEYS
def test_checkpoints_of_quantised_backbones_hold_adapters_only(folder: Path, key: str) -> None:
    saved, loaded = build(folder, **{key: True}), build(folder, seed=2, **{key: True})
    state = saved.state_dict()
    held = {name for name in state if name.startswith("model.")}
    assert held
    assert all("lora_" in name for name in held)
    scores = [network.eval().hidden_states(*BATCH) for network in (saved, loaded)]
    assert not torch.allclose(scores[0], scores[1], atol=1e-2)
    incompatible = loaded.load_state_dict(state)
    assert not incompatible.missing_keys
    assert not incompatible.unexpected_keys
    torch.testing.assert_close(loaded.hidden_states(*BATCH), scores[0])


@KEYS
def test_checkpointing_on_half_precision(folder: Path, key: str) -> None:
    results = []
    for checkpointing in (False, True):
        network = build(
            folder, backbone_dtype="bfloat16", gradient_checkpointing=checkpointing, **{key: True}
        )
        loss = network.loss(*BATCH, torch.tensor([1, 2]))
        loss.backward()
        results.append((loss.detach(), network.prefix.keys.static.grad))
    torch.testing.assert_close(results[0], results[1])
