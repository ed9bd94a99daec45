from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_hellm.models import losses
from recbole_hellm.models.losses import (
    bpr_loss,
    hypergraph_contrast,
    info_nce,
    l2_regularisation,
    linear_cross_entropy,
)

DOUBLE = torch.float64


def literal_contrast(
    fused: Tensor, hyper: Tensor, tau: float, anchors: list[int], exclude_self: bool
) -> Tensor:
    """Equation 7, summand by summand, as a mean over `anchors`."""

    def s(x: Tensor, y: Tensor) -> Tensor:
        size = (torch.linalg.vector_norm(x) * torch.linalg.vector_norm(y)).clamp_min(1e-24)
        return x @ y / (tau * size)

    total = torch.zeros((), dtype=DOUBLE)
    for u in anchors:
        denominator = torch.zeros((), dtype=DOUBLE)
        for v in range(len(fused)):
            denominator = denominator + torch.exp(s(hyper[v], fused[u]))
            if v != u or not exclude_self:
                denominator = denominator + torch.exp(s(fused[v], fused[u]))
        total = total - torch.log(torch.exp(s(hyper[u], fused[u])) / denominator)
    return total / len(anchors)


@pytest.fixture
def views() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(9, 4, dtype=DOUBLE, requires_grad=True),
        torch.randn(9, 4, dtype=DOUBLE, requires_grad=True),
    )


def gradients(loss: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("anchors", [None, [4], [7, 0, 3, 8]])
@pytest.mark.parametrize("chunk", [1, 2, 100, None])
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_contrast_is_equation_7(
    views: tuple[Tensor, Tensor],
    exclude_self: bool,
    anchors: list[int] | None,
    chunk: int | None,
    tau: float,
) -> None:
    rows = None if anchors is None else torch.tensor(anchors)
    chunked = hypergraph_contrast(*views, tau, rows, exclude_self, chunk)
    literal = literal_contrast(*views, tau, anchors or list(range(9)), exclude_self)
    torch.testing.assert_close(chunked, literal)
    for left, right in zip(gradients(chunked, views), gradients(literal, views), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_contrast_gradcheck(views: tuple[Tensor, Tensor], exclude_self: bool) -> None:
    rows = torch.tensor([5, 1, 1, 2])
    assert torch.autograd.gradcheck(
        lambda f, h: 3 * hypergraph_contrast(f, h, 0.5, rows, exclude_self, 3), views
    )


def test_contrast_of_a_zero_row_is_finite(views: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        views[1][2] = 0.0
    loss = hypergraph_contrast(*views, 0.5)
    torch.testing.assert_close(loss, literal_contrast(*views, 0.5, list(range(9)), False))
    assert all(torch.isfinite(grad).all() for grad in gradients(loss, views))


def test_mean_over_single_anchors_is_the_full_loss(views: tuple[Tensor, Tensor]) -> None:
    """So uniformly drawn anchors give unbiased estimates of value and gradient."""
    full = hypergraph_contrast(*views, 0.3)
    single = [hypergraph_contrast(*views, 0.3, torch.tensor([u])) for u in range(9)]
    torch.testing.assert_close(torch.stack(single).mean(), full)
    averaged = gradients(torch.stack(single).mean(), views)
    for left, right in zip(averaged, gradients(full, views), strict=True):
        torch.testing.assert_close(left, right)


def test_contrast_without_gradients_has_the_same_value(views: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        silent = hypergraph_contrast(*views, 0.5)
    assert not silent.requires_grad
    torch.testing.assert_close(silent, hypergraph_contrast(*views, 0.5).detach())


def test_contrast_can_be_differentiated_on_one_side(views: tuple[Tensor, Tensor]) -> None:
    both = gradients(hypergraph_contrast(*views, 0.5), views)
    one = gradients(hypergraph_contrast(views[0], views[1].detach(), 0.5), views[:1])
    torch.testing.assert_close(one[0], both[0])


def test_contrast_refuses_a_temperature_that_overflows(views: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"tau=0\.01"):
        hypergraph_contrast(*views, 0.01)
    fused, hyper = (view.float() for view in views)
    smallest = hypergraph_contrast(fused, hyper, losses.MIN_TEMPERATURE)
    assert torch.isfinite(smallest)


@pytest.fixture
def head() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(7, 3, dtype=DOUBLE, requires_grad=True),
        torch.randn(11, 3, dtype=DOUBLE, requires_grad=True),
        torch.randn(11, dtype=DOUBLE, requires_grad=True),
        torch.tensor([0, 10, 3, 3, 9, 1, 5]),
    )


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 256])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_linear_cross_entropy_equals_the_dense_one(
    head: tuple[Tensor, Tensor, Tensor, Tensor],
    with_bias: bool,
    chunk: int,
    smoothing: float,
    reduction: Literal["mean", "sum"],
) -> None:
    hidden, weight, bias, target = head
    inputs = (hidden, weight, bias) if with_bias else (hidden, weight)
    chunked = linear_cross_entropy(
        hidden, weight, target, bias if with_bias else None, chunk, smoothing, reduction
    )
    log_p = torch.log_softmax(hidden @ weight.T + (bias if with_bias else 0), 1)
    literal = torch.zeros((), dtype=DOUBLE)
    for row, label in enumerate(target.tolist()):
        wanted = torch.full((11,), smoothing / 11, dtype=DOUBLE)
        wanted[label] += 1 - smoothing
        literal = literal - (wanted * log_p[row]).sum()
    literal = literal / 7 if reduction == "mean" else literal
    torch.testing.assert_close(chunked, literal)
    for left, right in zip(gradients(chunked, inputs), gradients(literal, inputs), strict=True):
        torch.testing.assert_close(left, right)


def test_linear_cross_entropy_gradcheck(head: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    hidden, weight, bias, target = head
    assert torch.autograd.gradcheck(
        lambda h, w, b: 2 * linear_cross_entropy(h, w, target, b, 2, 0.1), (hidden, weight, bias)
    )


@pytest.mark.parametrize("frozen", [(0,), (1,), (0, 1), (1, 2)])
def test_linear_cross_entropy_with_frozen_inputs(
    head: tuple[Tensor, Tensor, Tensor, Tensor], frozen: tuple[int, ...]
) -> None:
    *inputs, target = head
    expected = gradients(
        linear_cross_entropy(inputs[0], inputs[1], target, inputs[2]), tuple(inputs)
    )
    parts = [part.detach() if place in frozen else part for place, part in enumerate(inputs)]
    loss = linear_cross_entropy(parts[0], parts[1], target, parts[2])
    for place, part in enumerate(parts):
        if place not in frozen:
            torch.testing.assert_close(
                torch.autograd.grad(loss, part, retain_graph=True)[0], expected[place]
            )


def test_linear_cross_entropy_of_large_logits_is_finite() -> None:
    hidden = torch.full((2, 1), 1e4, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 1]))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(1e4))
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()


def test_linear_cross_entropy_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.randn(64, 2, requires_grad=True)
    weight = torch.randn(50, 2, requires_grad=True)
    sizes: list[int] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*arguments, **(kwargs or {}))
            if isinstance(result, Tensor):
                sizes.append(result.numel())
            return result

    with Record():
        linear_cross_entropy(hidden, weight, torch.zeros(64, dtype=torch.long), chunk=8).backward()
    assert max(sizes) == 8 * 50


def test_linear_cross_entropy_under_autocast() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(20, 8, requires_grad=True)
    weight = torch.randn(30, 8, requires_grad=True)
    target = torch.randint(0, 30, (20,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, target)
        reference = F.cross_entropy(F.linear(hidden, weight).float(), target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference)
    own, dense = gradients(loss, (hidden, weight)), gradients(reference, (hidden, weight))
    for left, right in zip(own, dense, strict=True):
        assert left.dtype == torch.float32
        torch.testing.assert_close(left, right, atol=2e-3, rtol=2e-2)


def test_bpr_is_the_mean_log_sigmoid() -> None:
    positive, negative = [2.0, -1.0, 0.5], [1.0, 3.0, 0.5]
    literal = [
        -math.log(1 / (1 + math.exp(n - p))) for p, n in zip(positive, negative, strict=True)
    ]
    loss = bpr_loss(torch.tensor(positive), torch.tensor(negative))
    assert loss.item() == pytest.approx(sum(literal) / 3)
    extreme = bpr_loss(torch.tensor([-500.0]), torch.tensor([500.0]))
    assert extreme.item() == 1000.0


def test_l2_is_half_the_squares_over_the_batch() -> None:
    vectors = (torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    assert l2_regularisation(vectors, 4).item() == pytest.approx((5 + 9 + 1) / 8)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("positives", [None, [3, 0, 0, 1, 2, 5]])
@pytest.mark.parametrize("masked", [False, True])
def test_info_nce_is_its_equation(
    normalise: bool, positives: list[int] | None, masked: bool
) -> None:
    torch.manual_seed(0)
    queries = torch.randn(6, 3, dtype=DOUBLE, requires_grad=True)
    keys = torch.randn(6, 3, dtype=DOUBLE, requires_grad=True)
    columns = positives or list(range(6))
    left_out = torch.rand(6, 6) < 0.4
    left_out[torch.arange(6), columns] = False

    literal = torch.zeros((), dtype=DOUBLE)
    for b in range(6):
        terms = []
        for key in keys:
            close = queries[b] @ key
            if normalise:
                close = close / (queries[b].norm() * key.norm())
            terms.append((close / 0.7).exp())
        remaining = [term for j, term in enumerate(terms) if not (masked and left_out[b, j])]
        literal = literal - torch.log(terms[columns[b]] / torch.stack(remaining).sum()) / 6
    loss = info_nce(
        queries,
        keys,
        0.7,
        normalise,
        positives=None if positives is None else torch.tensor(positives),
        left_out=left_out if masked else None,
    )
    torch.testing.assert_close(loss, literal)
    inputs = (queries, keys)
    for left, right in zip(gradients(loss, inputs), gradients(literal, inputs), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("masked", [False, True])
def test_info_nce_at_a_low_temperature_is_finite(masked: bool) -> None:
    queries = torch.eye(3, requires_grad=True)
    left_out = torch.zeros(3, 3, dtype=torch.bool) if masked else None
    loss = info_nce(queries, -torch.eye(3), 1e-3, left_out=left_out)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(1000 + math.log(2)))
    assert queries.grad is not None
    assert torch.isfinite(queries.grad).all()
