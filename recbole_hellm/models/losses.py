"""Losses shared by models; none of them stores a full score matrix over all nodes or items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK = 256
"""Rows of logits that are formed at a time."""
MIN_TEMPERATURE = 0.02
"""Below it, sums of ``exp(cosine / temperature)`` can leave the range of float32."""

CPU_ROWS, GPU_ROWS = 64, 2048
"""Anchors of the contrast per chunk; see benchmarks/pretrain_step.py."""


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    r"""Bayesian personalised ranking, :math:`-\frac1B \sum \ln \sigma(\hat y_{ui} - \hat y_{uj})`.

    It is a mean, as in the authors' logs; the paper (HeLLM, equation 13) writes a sum.

    Parameters
    ----------
    positive, negative : Tensor, shape [B]
        Scores of an observed and an unobserved item.
    """
    return F.softplus(negative - positive).mean()


def l2_regularisation(vectors: Sequence[Tensor], batch: int) -> Tensor:
    r""":math:`\frac{1}{2B} \sum_v \lVert v \rVert_2^2` over the rows of all `vectors`."""
    return torch.stack([vector.square().sum() for vector in vectors]).sum() / (2 * batch)


def hypergraph_contrast(
    fused: Tensor,
    hyper: Tensor,
    tau: float,
    anchors: Tensor | None = None,
    exclude_self: bool = False,
    chunk: int | None = None,
) -> Tensor:
    r"""Collaborative contrast between fused vectors and their hypergraph views.

    .. math::

        L = -\frac{1}{|S|} \sum_{u \in S} \log \frac{\exp s(h_u, \tilde e_u)}
            {\sum_{v} \exp s(h_v, \tilde e_u) + \sum_{v} \exp s(\tilde e_v, \tilde e_u)},
        \qquad s(x, y) = \frac{x^\top y}{\tau \lVert x \rVert \lVert y \rVert}

    with v over all n nodes: one direction (anchors :math:`\tilde e_u`), gradients through both
    sides. The result is exact and takes O(chunk x n) memory: gradients are computed with the
    values, chunk by chunk. If the anchors S are drawn uniformly, value and gradient are unbiased
    estimates of those over all nodes.

    Parameters
    ----------
    fused : Tensor, shape [n, d]
        :math:`\tilde e`.
    hyper : Tensor, shape [n, d]
        :math:`h`; a zero row has similarity 0 to everything.
    tau : float
        Temperature.
    anchors : Tensor of int64, shape [m], optional
        Rows of S; all rows by default. Gather the rows of `fused` and `hyper` before the call to
        take the denominators over S too.
    exclude_self : bool
        Leave :math:`v = u` out of the second sum, as the authors' code does; the paper keeps it.
    chunk : int, optional
        Anchors per chunk; the default suits a CPU's cache, or a GPU.

    Returns
    -------
    Tensor, shape []

    Raises
    ------
    ValueError
        If `tau` is below :data:`MIN_TEMPERATURE`.

    References
    ----------
    HeLLM, section 3.4, equation 7, with the mean for the sum.
    """
    if tau < MIN_TEMPERATURE:
        raise ValueError(f"tau={tau} must be at least {MIN_TEMPERATURE}.")
    fused, hyper = F.normalize(fused, dim=1), F.normalize(hyper, dim=1)
    self_index = torch.arange(len(fused), device=fused.device) if anchors is None else anchors
    queries = fused if anchors is None else fused[anchors]
    aligned = hyper if anchors is None else hyper[anchors]
    alignment = (queries * aligned).sum(1).mean() / tau
    keys = torch.cat([fused, hyper])
    rows = chunk or (CPU_ROWS if fused.device.type == "cpu" else GPU_ROWS)
    partition = _MeanLogPartition.apply(
        queries, keys, self_index if exclude_self else None, 1.0 / tau, rows
    )
    return partition - alignment


class _MeanLogPartition(torch.autograd.Function):
    r"""Mean over queries of :math:`\log \sum_k \exp(c\, q^\top k)`, for unit vectors.

    Since :math:`|q^\top k| \le 1`, no maximum has to be subtracted.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, excluded: Tensor | None, scale: float, chunk: int
    ) -> Tensor:
        m, n = len(queries), len(keys)
        differentiate = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        # Scaled once: queries and keys are small beside the m x n similarities.
        queries = queries * scale
        query_grad = torch.empty_like(queries) if differentiate else None
        key_grad = torch.zeros_like(keys) if differentiate else None
        buffer = queries.new_empty(min(chunk, m), n)
        total = queries.new_zeros(())
        for start in range(0, m, chunk):
            part = slice(start, min(start + chunk, m))
            rows = queries[part]
            weights = torch.mm(rows, keys.T, out=buffer[: len(rows)]).exp_()
            if excluded is not None:
                weights.scatter_(1, excluded[part, None], 0.0)
            sums = weights.sum(1, keepdim=True)
            total += sums.log().sum()
            if query_grad is not None and key_grad is not None:
                torch.mm(weights, keys, out=query_grad[part])
                query_grad[part] *= scale / (m * sums)
                key_grad.addmm_(weights.T, rows / (m * sums))
        if query_grad is not None and key_grad is not None:
            ctx.save_for_backward(query_grad, key_grad)
        return total / m

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        query_grad, key_grad = ctx.saved_tensors
        return query_grad * gradients[0], key_grad * gradients[0], None, None, None


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    chunk: int = CHUNK,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    r"""Softmax cross-entropy of a linear head over all items, without the [B, N] logits.

    .. math::

        L = \frac1B \sum_b \Big( \log \sum_j e^{z_{bj}} - (1 - \varepsilon) z_{b y_b}
            - \frac{\varepsilon}{N} \sum_j z_{bj} \Big), \qquad z = \text{hidden}\, W^\top + c

    Equal to ``cross_entropy(linear(hidden, weight, bias), target)`` in value and gradient.
    Gradients are computed with the values, chunk by chunk, in O(chunk x N + N x d) memory. Under
    autocast, products run in its type, and logits and the softmax in float32.

    Parameters
    ----------
    hidden : Tensor, shape [B, d]
    weight : Tensor, shape [N, d]
    target : Tensor of int64, shape [B]
        Column numbers from 0 to N - 1; leave out rows without a target.
    bias : Tensor, shape [N], optional
    chunk : int
        Rows per chunk.
    label_smoothing : float
        :math:`\varepsilon` in [0, 1).
    reduction : {"mean", "sum"}

    Returns
    -------
    Tensor, shape []
        Float32, or float64 for float64 inputs.

    References
    ----------
    HeLLM, equation 14, where the classes are the N items.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(
            hidden, weight, bias, target, chunk, label_smoothing
        )
    return loss / len(hidden) if reduction == "mean" else loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of the loss of :func:`linear_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        chunk: int,
        smoothing: float,
    ) -> Tensor:
        n = len(weight)
        needs_grad = ctx.needs_input_grad
        exact = torch.promote_types(hidden.dtype, torch.float32)
        grads = (
            torch.empty_like(hidden) if needs_grad[0] else None,
            torch.zeros_like(weight, dtype=exact) if needs_grad[1] else None,
            torch.zeros_like(bias, dtype=exact) if bias is not None and needs_grad[2] else None,
        )
        buffer = hidden.new_empty(min(chunk, len(hidden)), n)
        total = hidden.new_zeros((), dtype=exact)
        for start in range(0, len(hidden), chunk):
            rows, labels = hidden[start : start + chunk], target[start : start + chunk, None]
            logits = torch.mm(rows, weight.T, out=buffer[: len(rows)]).to(exact)
            if bias is not None:
                logits += bias
            total -= (1 - smoothing) * logits.gather(1, labels).sum()
            if smoothing:
                total -= smoothing / n * logits.sum()
            largest = logits.amax(1, keepdim=True)
            sums = logits.sub_(largest).exp_().sum(1, keepdim=True)
            total += (sums.log() + largest).sum()
            if any(grad is not None for grad in grads):
                errors = logits.div_(sums)
                if smoothing:
                    errors -= smoothing / n
                errors.scatter_add_(1, labels, errors.new_full(labels.shape, smoothing - 1))
                _accumulate(grads, start, rows, weight, errors)
        ctx.save_for_backward(*grads)
        ctx.types = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (
            None if grad is None else (grad * gradients[0]).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        return *scaled, None, None, None


def _accumulate(
    grads: tuple[Tensor | None, Tensor | None, Tensor | None],
    start: int,
    rows: Tensor,
    weight: Tensor,
    errors: Tensor,
) -> None:
    """Add one chunk's gradients, where ``errors`` is the gradient of its logits."""
    hidden_grad, weight_grad, bias_grad = grads
    low = errors.to(rows.dtype)
    if hidden_grad is not None:
        torch.mm(low, weight, out=hidden_grad[start : start + len(rows)])
    if weight_grad is not None:
        if low.dtype == weight_grad.dtype:
            weight_grad.addmm_(low.T, rows)
        else:
            weight_grad += low.T @ rows
    if bias_grad is not None:
        bias_grad += errors.sum(0)


def info_nce(
    queries: Tensor,
    keys: Tensor,
    temperature: float,
    normalise: bool = True,
    positives: Tensor | None = None,
    left_out: Tensor | None = None,
) -> Tensor:
    r"""In-batch InfoNCE: each query identifies its positive among the keys.

    .. math::

        L = -\frac1B \sum_b \log \frac{\exp s(q_b, k_{p_b})}{\sum_{j \in N_b} \exp s(q_b, k_j)},
        \qquad s(q, k) = \frac{q^\top k}{\tau} \quad \text{or} \quad
        \frac{q^\top k}{\tau \lVert q \rVert \lVert k \rVert}

    One direction only: the denominators sum over keys.

    Parameters
    ----------
    queries : Tensor, shape [B, d]
    keys : Tensor, shape [n, d]
    temperature : float
        :math:`\tau`.
    normalise : bool
        Whether similarities are cosines or inner products.
    positives : Tensor of int64, shape [B], optional
        The key :math:`p_b` of each query; key b by default.
    left_out : Tensor of bool, shape [B, n], optional
        Keys to exclude from the denominator :math:`N_b`, never :math:`p_b`; none by default. If
        set, the [B, n] similarities are materialised.

    Returns
    -------
    Tensor, shape []

    References
    ----------
    van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018,
    equation 4.
    """
    if positives is None:
        positives = torch.arange(len(queries), device=queries.device)
    if normalise:
        queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    queries = queries / temperature
    if left_out is None:
        return linear_cross_entropy(queries, keys, positives)
    similarities = queries @ keys.T
    with torch.no_grad():  # the softmax gives minus infinity no gradient
        similarities.masked_fill_(left_out, -torch.inf)
    return F.cross_entropy(similarities, positives)
