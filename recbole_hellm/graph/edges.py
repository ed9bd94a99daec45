"""Products over a fixed set of edges with differentiable weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recbole_hellm.graph.sparse import csr_tensor, index_type, multiply


class _Layout(NamedTuple):
    """Positions of the entries of a sparse matrix, in CSR form and in that of its transpose.

    ``order`` maps each entry of the transpose to its number in the matrix.
    """

    rows: Tensor
    columns: Tensor
    transposed_rows: Tensor
    transposed_columns: Tensor
    order: Tensor
    shape: tuple[int, int]

    def matrix(self, weights: Tensor, transpose: bool) -> Tensor:
        """The sparse matrix, or its transpose, with `weights` as its entries."""
        if transpose:
            weights = weights.index_select(0, self.order)
            size = self.shape[::-1]
            return csr_tensor(self.transposed_rows, self.transposed_columns, weights, size)
        # The gradient of a sum is an expanded view, so make it contiguous.
        return csr_tensor(self.rows, self.columns, weights.contiguous(), self.shape)


class _Product(torch.autograd.Function):
    """The weighted matrix, or its transpose, times a dense one.

    Autograd has no gradient for the values of a CSR matrix, and for COO it would rebuild indices in
    every pass. Gradients go through ``apply``, so that they are differentiable themselves.
    """

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, dense: Tensor, layout: _Layout, transpose: bool
    ) -> Tensor:
        ctx.save_for_backward(weights, dense)
        ctx.layout, ctx.transpose = layout, transpose
        return multiply(layout.matrix(weights, transpose), dense)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights, dense = ctx.saved_tensors
        layout, transpose, gradient = ctx.layout, ctx.transpose, gradients[0]
        of_weights = of_dense = None
        if ctx.needs_input_grad[0]:
            left, right = (dense, gradient) if transpose else (gradient, dense)
            of_weights = _Dot.apply(left, right, layout)
        if ctx.needs_input_grad[1]:
            of_dense = _Product.apply(weights, gradient, layout, not transpose)
        return of_weights, of_dense, None, None


class _Dot(torch.autograd.Function):
    """Inner products of the two ends of each edge."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, layout: _Layout) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.layout = layout
        empty = layout.matrix(left.new_zeros(len(layout.columns)), False)
        # Works row by row in the cache; gathering both ends would write and read 2 x E x d values.
        return torch.sparse.sampled_addmm(empty, left, right.T, beta=0.0).values()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        of_left = of_right = None
        if ctx.needs_input_grad[0]:
            of_left = _Product.apply(gradients[0], right, ctx.layout, False)
        if ctx.needs_input_grad[1]:
            of_right = _Product.apply(gradients[0], left, ctx.layout, True)
        return of_left, of_right, None


class _Softmax(torch.autograd.Function):
    """Softmax over the values of each owner.

    In ``order``, an owner's values lie between consecutive ``offsets``. Segments are summed in a
    fixed order, unlike scattered sums on a GPU.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, owners: Tensor, offsets: Tensor, order: Tensor | None
    ) -> Tensor:
        ctx.segments = owners, offsets, order
        largest = _by_owner(values, "max", *ctx.segments)
        powers = (values - largest).exp_()
        result = powers / _by_owner(powers, "sum", *ctx.segments)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (result,) = ctx.saved_tensors
        product = result * gradients[0]
        product -= result * _by_owner(product, "sum", *ctx.segments)
        return product, None, None, None


def _by_owner(
    values: Tensor, reduce: str, owners: Tensor, offsets: Tensor, order: Tensor | None
) -> Tensor:
    """Sum or maximum over each owner's values, repeated for each value."""
    arranged = values if order is None else values.index_select(0, order)
    reduced = torch.segment_reduce(arranged, reduce, offsets=offsets)
    return reduced.index_select(0, owners)


class EdgeSet(nn.Module):
    r"""The edges of a fixed graph between m left and n right nodes, with weights passed per call.

    Weights are vectors [E] in the order of :attr:`left` and :attr:`right`: by left node, then by
    right node. Time and memory are linear in edges and nodes. Products are differentiable in
    weights and nodes to every order, the softmax once. The arrays are buffers that follow ``.to()``
    and are left out of ``state_dict``, since they are rebuilt from data.

    Parameters
    ----------
    pattern : scipy sparse matrix or array, shape [m, n]
        Its stored entries are the edges, whatever their values; duplicates are one edge.

    Attributes
    ----------
    left, right : Tensor of int, shape [E]
        The ends of each edge.

    Examples
    --------
    >>> edges = EdgeSet(sp.csr_array([[0, 1], [1, 1]]))
    >>> edges.left.tolist(), edges.right.tolist()
    ([0, 1, 1], [1, 0, 1])
    >>> edges.to_left(torch.tensor([5.0, 1.0, 2.0]), torch.eye(2)).tolist()
    [[0.0, 5.0], [1.0, 2.0]]
    """

    left: Tensor
    right: Tensor
    left_offsets: Tensor
    right_offsets: Tensor
    order: Tensor
    left_in_order: Tensor

    def __init__(self, pattern: sp.spmatrix | sp.sparray) -> None:
        super().__init__()
        forward = sp.csr_array(pattern, copy=True)
        forward.sum_duplicates()
        self.shape: tuple[int, int] = (int(forward.shape[0]), int(forward.shape[1]))
        index = index_type(forward)
        left = np.repeat(np.arange(self.shape[0]), np.diff(forward.indptr))
        order = np.argsort(forward.indices, kind="stable")
        right_offsets = np.r_[0, np.cumsum(np.bincount(forward.indices, minlength=self.shape[1]))]
        arrays = {
            "left": left,
            "right": forward.indices,
            "left_offsets": forward.indptr,
            "right_offsets": right_offsets,
            "order": order,
            "left_in_order": left[order],
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array.astype(index)), persistent=False)

    def __len__(self) -> int:
        """Number of edges."""
        return len(self.right)

    def dot(self, left: Tensor, right: Tensor) -> Tensor:
        r""":math:`\langle x_a, y_b \rangle` of each edge (a, b).

        Parameters
        ----------
        left : Tensor, shape [m, d]
            :math:`x`.
        right : Tensor, shape [n, d]
            :math:`y`.

        Returns
        -------
        Tensor, shape [E]
        """
        return _Dot.apply(left, right, self._layout())

    def to_left(self, weights: Tensor, right: Tensor) -> Tensor:
        r""":math:`\sum_b w_{ab} y_b` over each left node's edges: [E] and [n, d] to [m, d]."""
        return _Product.apply(weights, right, self._layout(), False)

    def to_right(self, weights: Tensor, left: Tensor) -> Tensor:
        r""":math:`\sum_a w_{ab} x_a` over each right node's edges: [E] and [m, d] to [n, d]."""
        return _Product.apply(weights, left, self._layout(), True)

    def softmax_left(self, values: Tensor) -> Tensor:
        r""":math:`\exp v_{ab} / \sum_{b'} \exp v_{ab'}`: each left node's edges sum to 1."""
        return _Softmax.apply(values, self.left, self.left_offsets, None)

    def softmax_right(self, values: Tensor) -> Tensor:
        r""":math:`\exp v_{ab} / \sum_{a'} \exp v_{a'b}`: each right node's edges sum to 1."""
        return _Softmax.apply(values, self.right, self.right_offsets, self.order)

    def _layout(self) -> _Layout:
        return _Layout(
            self.left_offsets,
            self.right,
            self.right_offsets,
            self.left_in_order,
            self.order,
            self.shape,
        )

    def extra_repr(self) -> str:
        """Shape and number of edges, for ``print(model)``."""
        return f"{self.shape[0]}x{self.shape[1]}, edges={len(self)}"
