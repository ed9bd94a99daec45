from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from recbole_hellm.models.llm import feed_forward
from recbole_hellm.models.llm.attention import AttentionContext
from recbole_hellm.models.llm.backbone import wrap_backbone
from recbole_hellm.models.llm.feed_forward import (
    PROJECTIONS,
    FrozenRMSNorm,
    GatedFeedForward,
    keep_mask,
    kept_share,
)
from recbole_hellm.models.llm.settings import LLMSettings


def _trunk(dropout: float = 0.0, targets: tuple[str, ...] = PROJECTIONS) -> LlamaModel:
    """A frozen trunk of two layers whose adapters are not at zero, in float64."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    settings = LLMSettings(
        backbone="random", prompt="none", lora_r=3, lora_alpha=6, lora_dropout=dropout,
        lora_targets=targets,
    )  # fmt: skip
    model: LlamaModel = wrap_backbone(LlamaModel(config), settings).model.double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    for norm in (part for part in model.modules() if isinstance(part, FrozenRMSNorm)):
        nn.init.normal_(norm.weight, mean=1.0, std=0.2)
    return model


def _reference(layer: GatedFeedForward, hidden: Tensor, masks: dict[str, Tensor]) -> Tensor:
    """The equation: every W x is W x + s B A (x * mask / kept share)."""

    def project(name: str, inputs: Tensor) -> Tensor:
        part = layer.get_submodule(name)
        if not hasattr(part, "lora_A"):
            return inputs @ part.weight.T  # type: ignore[operator]
        down, up = part.lora_A["default"].weight, part.lora_B["default"].weight  # type: ignore[union-attr]
        kept = inputs * masks[name] if name in masks else inputs
        outputs: Tensor = inputs @ part.base_layer.weight.T + 2.0 * (kept @ down.T @ up.T)  # type: ignore
        return outputs

    gate, up = project("gate_proj", hidden), project("up_proj", hidden)
    return project("down_proj", gate * torch.sigmoid(gate) * up)


def _gradients(layer: nn.Module, output: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    trained = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    errors = torch.randn(
        output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(3)
    )
    found = torch.autograd.grad(output, [hidden, *trained.values()], errors)
    return dict(zip(["hidden", *trained], found, strict=True))


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("targets", [PROJECTIONS, ("up_proj",), ("gate_proj", "down_proj")])
def test_feed_forward_is_the_equation(
    rate: float, targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _trunk(rate, targets).layers[0].mlp
    assert isinstance(layer, GatedFeedForward)
    drawn: list[Tensor] = []

    def record(shape: tuple[int, int], share: float, dtype: torch.dtype) -> Tensor:
        drawn.append(keep_mask(shape, share, dtype))
        return drawn[-1]

    monkeypatch.setattr(feed_forward, "keep_mask", record)
    hidden = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    output = layer.train()(hidden)
    used = [name for name in PROJECTIONS if name in targets] if rate else []
    assert len(drawn) == len(used)
    masks = {
        name: mask.view(2, 5, -1) / kept_share(rate) for name, mask in zip(used, drawn, strict=True)
    }
    expected = _reference(layer, hidden, masks)
    torch.testing.assert_close(output, expected)
    found, wanted = (_gradients(layer, one, hidden) for one in (output, expected))
    assert len(found) == 1 + 2 * len(targets)
    torch.testing.assert_close(found, wanted)


def test_feed_forward_in_evaluation_is_that_of_peft() -> None:
    layer = _trunk(0.3).layers[1].mlp.eval()
    hidden = torch.randn(3, 8, dtype=torch.float64)
    plain = layer.down_proj(layer.act_fn(layer.gate_proj(hidden)) * layer.up_proj(hidden))
    torch.testing.assert_close(layer(hidden), plain)


def test_a_mask_keeps_its_share_and_no_more_digits_than_it_says() -> None:
    torch.manual_seed(1)
    mask = keep_mask((1001, 333), 0.05, torch.float32)
    assert mask.shape == (1001, 333)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(float(mask.mean()) - kept_share(0.05)) < 5 * (0.05 / mask.numel()) ** 0.5
    assert kept_share(0.05) == pytest.approx(0.95, abs=2**-17)
    # Each of the four numbers in a word of the generator is drawn alike.
    rows = keep_mask((1000, 400), 0.5, torch.float32).view(-1, 4).mean(0)
    torch.testing.assert_close(rows, torch.full((4,), 0.5), atol=0.01, rtol=0)


def test_norm_is_the_equation_and_its_gradient() -> None:
    norm = _trunk().layers[0].input_layernorm
    assert isinstance(norm, FrozenRMSNorm)
    hidden = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    expected = norm.weight * hidden / (hidden.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    errors = torch.randn_like(expected)
    torch.testing.assert_close(norm(hidden), expected)
    found, wanted = (torch.autograd.grad(one, hidden, errors) for one in (norm(hidden), expected))
    torch.testing.assert_close(found, wanted)


def test_under_autocast_a_norm_gives_what_its_projections_would_make_of_it() -> None:
    norm = _trunk().layers[0].input_layernorm.float()
    hidden = torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(hidden), norm.weight.mul(hidden * torch.rsqrt(
            torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).square() / 8 + norm.eps
        )).bfloat16())  # fmt: skip
    assert norm(hidden).dtype == torch.float32


def test_a_rate_near_one_still_keeps_something() -> None:
    for rate in (1 - 2**-16, 1 - 2**-17, 1 - 1e-9):
        assert kept_share(rate) == 2**-16
        assert keep_mask((4, 5), rate, torch.float32).shape == (4, 5)


@pytest.mark.parametrize("products", [None, torch.bfloat16])
def test_recomputed_layers_draw_the_same_dropout(products: torch.dtype | None) -> None:
    """Gradient checkpointing, which runs a layer's forward pass again in the backward pass."""

    def gradients(checkpointing: bool) -> list[Tensor]:
        model = _trunk(0.3).train()
        if products:
            model = model.float()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        kind = next(model.parameters()).dtype
        inputs = torch.randn(2, 5, 8, dtype=kind, requires_grad=True)
        torch.manual_seed(5)
        with torch.autocast("cpu", products, enabled=products is not None):
            states = model(
                inputs_embeds=inputs, use_cache=False, prefix_context=AttentionContext()
            ).last_hidden_state
        trained = [p for p in model.parameters() if p.requires_grad]
        return list(torch.autograd.grad(states.square().sum(), [inputs, *trained]))

    for one, other in zip(gradients(False), gradients(True), strict=True):
        assert one.abs().sum() > 0
        assert torch.equal(one, other)


def test_modes_and_switched_off_adapters_count() -> None:
    layer = _trunk(0.3).layers[0].mlp
    hidden = torch.randn(3, 8, dtype=torch.float64)
    dropped = layer.train()(hidden)
    kept = layer.eval()(hidden)
    assert not torch.allclose(dropped, kept)
    for part in PROJECTIONS:
        layer.get_submodule(part).enable_adapters(False)
    frozen = {name: layer.get_submodule(name).base_layer.weight for name in PROJECTIONS}
    gate, up = hidden @ frozen["gate_proj"].T, hidden @ frozen["up_proj"].T
    expected = (gate * torch.sigmoid(gate) * up) @ frozen["down_proj"].T
    torch.testing.assert_close(layer(hidden), expected)
