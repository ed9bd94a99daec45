from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.prompt import template_tokenizer
from recbole_hellm.models.llm.requirements import outline, requirements
from recbole_hellm.models.llm.settings import LLMSettings

N, WIDTHS, CPU = 40, {"graph": 6, "sequence": 5}, torch.device("cpu")
ROWS, ITEMS = 4, 9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = template_tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaModel(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    return tmp_path


def measured(network: HeLLMNetwork, histories: Tensor) -> tuple[int, int, int]:
    """What a real step keeps and multiplies."""
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    sizes: dict[int, int] = {}
    alive = []

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        alive.append(value)  # so that no two storages have one address
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return value

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            if network.settings.targets == "every":
                loss = network.sequence_loss(histories)
            else:
                lengths = torch.full((len(histories),), histories.shape[1] - 1)
                loss = network.loss(histories[:, :-1], lengths, histories[:, -1])
        forward = counter.get_total_flops()
        loss.backward()
    return sum(sizes.values()), forward, counter.get_total_flops()


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "folder"},
        {"backbone": "folder", "gradient_checkpointing": True},
        {"backbone": "folder", "variant": "released", "lora_r": 4},
        {"backbone": "folder", "prefix": "none", "multi_target": False},
        {"prompt": "none"},
    ],
    ids=["paper", "checkpointing", "released", "no prefix", "tiny"],
)
def test_an_outline_needs_what_a_real_step_takes(folder: Path, options: dict[str, Any]) -> None:
    if options.get("backbone"):
        options = options | {"backbone": str(folder)}
    settings = LLMSettings(**options, bilinear_size=4)
    tables = {name: torch.randn(N + 1, width) for name, width in WIDTHS.items()}
    network = HeLLMNetwork(settings, tables, device="cpu").train()
    histories = torch.randint(1, N + 1, (ROWS, ITEMS + 1))
    words = len(network.prompt.instruction) + len(network.prompt.response)
    every = network.settings.targets == "every"
    targets = ROWS * ITEMS if every else ROWS
    sketch = outline(settings, N, WIDTHS, CPU)
    need = requirements(sketch, ROWS, ITEMS + words, targets, CPU)
    assert need.parameters == sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert need.trained == trained
    assert need.optimiser == 12 * trained
    assert need.weights == 4 * need.parameters
    kept, forward, training = measured(network, histories)
    # Item tokens are given here and made there.
    assert need.activations == pytest.approx(kept, rel=0.25)
    assert need.forward == pytest.approx(forward, rel=0.15)
    assert need.training == pytest.approx(training, rel=0.15)
    assert need.memory == need.weights + need.optimiser + need.activations


def test_seven_billion_parameters_are_counted_without_being_made(tmp_path: Path) -> None:
    config = LlamaConfig(num_hidden_layers=32, hidden_size=4096, intermediate_size=11008)
    config.save_pretrained(tmp_path)
    settings = LLMSettings(
        backbone=str(tmp_path), prompt="none", backbone_dtype="bfloat16", load_in_4bit=True
    )
    widths = {"graph": 64, "sequence": 64}
    need = requirements(outline(settings, 12_101, widths, CPU), 2, 20, 2, CPU)
    assert need.parameters == 6_743_551_744
    assert need.weights < 0.35 * 2 * need.parameters
