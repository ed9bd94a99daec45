from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.pooling import SecondOrderPooling
from recbole_hellm.models.llm.prefix import (
    GraphPrefix,
    PrefixMLP,
    PrefixSide,
    check_projections,
)

LAYERS, SLOTS, KV, WIDTH, HIDDEN, POOLED = 2, 3, 2, 4, 12, 9


class Attention(nn.Module):
    def __init__(self, index: int, bias: bool) -> None:
        super().__init__()
        self.layer_idx = index
        self.k_proj = nn.Linear(HIDDEN, KV * WIDTH, bias=bias)
        self.v_proj = nn.Linear(HIDDEN, KV * WIDTH, bias=bias)


def build(norm: str, projection: str, pooled: int | None = POOLED) -> GraphPrefix:
    torch.manual_seed(1)
    prefix = GraphPrefix(
        n_layers=LAYERS,
        n_kv_heads=KV,
        head_dim=WIDTH,
        hidden_size=HIDDEN,
        length=SLOTS,
        pooled_size=pooled,
        norm=norm,  # type: ignore[arg-type]
        projection=projection,  # type: ignore[arg-type]
        mlp_hidden=5,
        dropout=0.3,
        init_std=1.0,
    ).double()
    for parameter in prefix.parameters():  # norms start at one, which would hide a missing weight
        parameter.data += 0.1 * torch.randn_like(parameter)
    return prefix.eval()


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / torch.sqrt(x.pow(2).mean() + 1e-5)


def vector(prefix: GraphPrefix, side: PrefixSide, pooled: Tensor, norm: str) -> Tensor:
    """g of docs/method.md, Graph prefix."""
    assert side.mlp is not None
    first, second = side.mlp.first, side.mlp.rest[2]
    if norm == "before":
        return second(F.gelu(first(rms(pooled, prefix.norm.weight))))  # type: ignore[union-attr]
    return F.gelu(second(F.gelu(first(pooled))))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("positions", [1, 4])
@pytest.mark.parametrize(
    ("norm", "projection"), itertools.product(["before", "after"], ["direct", "frozen"])
)
def test_factors_multiply_out_to_the_equations(
    norm: str, projection: str, positions: int, bias: bool
) -> None:
    prefix = build(norm, projection)
    pooled = torch.randn(2, positions, POOLED, dtype=torch.float64)
    bound = prefix(pooled)
    for layer, b, t in itertools.product(range(LAYERS), range(2), range(positions)):
        attention = Attention(layer, bias).double()
        sides = zip(
            bound.layer(attention),
            (prefix.keys, prefix.values),
            (attention.k_proj, attention.v_proj),
            strict=True,
        )
        for factors, side, linear in sides:
            assert factors.dynamic is not None
            for slot in range(SLOTS):
                graph = vector(prefix, side, pooled[b, t], norm)
                expected = side.static[layer, slot]
                if norm == "before":
                    expected = expected + graph
                else:
                    expected = rms(
                        expected + rms(graph, side.graph_norm.weight),  # type: ignore[union-attr]
                        side.norm.weight,  # type: ignore[union-attr]
                    )
                if projection == "frozen":
                    expected = linear(expected)
                actual = factors.static[slot] + factors.dynamic[b, t]
                actual = actual if factors.scale is None else actual * factors.scale[b, t, slot]
                actual = actual if factors.bias is None else actual + factors.bias
                torch.testing.assert_close(actual.flatten(), expected)


@pytest.mark.parametrize("norm", ["before", "after"])
def test_static_prefix_drops_the_graph_and_keeps_the_rest(norm: str) -> None:
    prefix = build(norm, "direct", pooled=None)
    assert prefix.keys.mlp is None
    assert prefix.norm is None
    assert prefix.keys.graph_norm is None
    keys, _ = prefix(None).layer(Attention(1, False))
    assert keys.dynamic is None
    assert keys.scale is None
    for slot in range(SLOTS):
        expected = prefix.keys.static[1, slot]
        if prefix.keys.norm is not None:
            expected = rms(expected, prefix.keys.norm.weight)
        torch.testing.assert_close(keys.materialise(5)[4, :, slot].flatten(), expected)


def test_adapters_around_a_projection_are_passed_by() -> None:
    prefix = build("before", "frozen")
    attention = Attention(0, False).double()
    plain, _ = prefix(None).layer(attention)
    wrapped = nn.Module()
    wrapped.base_layer = attention.k_proj
    attention.k_proj = wrapped  # type: ignore[assignment]
    torch.testing.assert_close(prefix(None).layer(attention)[0].static, plain.static)


@pytest.mark.parametrize("norm", ["before", "after"])
def test_running_prefix_equals_pooling_each_position_first(norm: str) -> None:
    prefix, pooling = build(norm, "direct"), SecondOrderPooling(5, 3).double()
    embeddings = torch.randn(2, 6, 5, dtype=torch.float64)
    visible = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 6, 6).clone()
    visible[0, 4:, :4] = False  # a second sequence in the first row
    pooled = torch.zeros(2, 6, POOLED, dtype=torch.float64)
    for b, t, s in itertools.product(range(2), range(6), range(6)):
        if visible[b, t, s]:
            g = pooling.bilinear.weight @ embeddings[b, s]  # type: ignore[union-attr]
            pooled[b, t] += torch.outer(g, g).flatten()
    running, separate = prefix.running(pooling, embeddings, visible), prefix(pooled)
    for name in ("dynamic", "static", "scale"):
        for side in ("keys", "values"):
            one, two = (getattr(getattr(bound, side), name) for bound in (running, separate))
            if one is None:
                assert two is None
                assert (name, norm) == ("scale", "before")
            else:
                torch.testing.assert_close(one, two)


def test_released_mlp_ends_in_activation_and_dropout() -> None:
    block = [nn.Linear, nn.GELU, nn.Dropout]
    for closed, expected in ((True, block * 2), (False, [*block, nn.Linear])):
        mlp = PrefixMLP(3, 3, 3, 0.3, closed=closed)
        assert [type(layer) for layer in (mlp.first, *mlp.rest)] == expected


def test_frozen_projection_needs_separate_linear_projections() -> None:
    check_projections([Attention(0, True)], "some/model")
    with pytest.raises(BackboneError, match=r"some/model has no linear k_proj.*direct"):
        check_projections([nn.Module()], "some/model")
