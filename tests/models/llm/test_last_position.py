from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_hellm.models.llm.attention import AttentionContext
from recbole_hellm.models.llm.backbone import Backbone, build_backbone
from recbole_hellm.models.llm.last_position import LastPosition
from recbole_hellm.models.llm.settings import LLMSettings

LENGTH = 5


def small_backbone() -> Backbone:
    torch.manual_seed(0)
    shape = {"backbone_layers": 2, "backbone_hidden_size": 16, "backbone_intermediate_size": 20}
    backbone = build_backbone(LLMSettings(**shape))  # type: ignore[arg-type]
    backbone.model.double().eval()
    LastPosition(backbone.model, backbone.attention_layers[-1])
    return backbone


def read(backbone: Backbone, inputs: Tensor, last_layer: int | None) -> Tensor:
    context = AttentionContext(last_layer=last_layer)
    output: Any = backbone.model(inputs_embeds=inputs, use_cache=False, prefix_context=context)
    return output.last_hidden_state


def test_the_last_position_is_exact() -> None:
    backbone = small_backbone()
    inputs = torch.randn(3, LENGTH, 16, dtype=torch.float64)
    full, short = read(backbone, inputs, None), read(backbone, inputs, 1)
    torch.testing.assert_close(short[:, -1], full[:, -1])
    assert not torch.allclose(short[:, 0], full[:, 0])  # undefined, and never read


def test_gradients_are_exact() -> None:
    backbone = small_backbone()
    inputs = torch.randn(2, LENGTH, 16, dtype=torch.float64, requires_grad=True)
    weights = [p for p in backbone.model.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad(
            read(backbone, inputs, last)[:, -1].square().sum(),
            [inputs, *weights],
            allow_unused=True,
        )
        for last in (None, 1)
    ]
    assert any(gradient is not None for gradient in gradients[0][1:])
    for full, short in zip(*gradients, strict=True):
        assert (full is None) == (short is None)
        if full is not None:
            torch.testing.assert_close(short, full)


def test_only_the_last_layer_of_a_pass_that_asks_for_it_is_shortened() -> None:
    backbone = small_backbone()
    lengths: dict[str, int] = {}
    for name, module in backbone.model.named_modules():
        if name.endswith(("o_proj", "mlp")) or name == "norm":

            def note(_: Any, inputs: Any, name: str = name) -> None:
                lengths[name] = inputs[0].shape[1]

            module.register_forward_pre_hook(note)
    inputs = torch.randn(2, LENGTH, 16, dtype=torch.float64)
    read(backbone, inputs, 1)
    shortened = {"layers.1.self_attn.o_proj", "layers.1.mlp", "norm"}
    assert {name for name, length in lengths.items() if length == 1} == shortened
    assert {length for name, length in lengths.items() if name not in shortened} == {LENGTH}
    read(backbone, inputs, None)
    assert set(lengths.values()) == {LENGTH}
