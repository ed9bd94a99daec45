"""Products of a fixed sparse matrix with dense ones, differentiable in the dense argument."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Product(torch.autograd.Function):
    """``scale * (matrix @ dense + plus)``; the gradient of `dense` is a product of `transpose`.

    Autograd would transpose (and, for COO, coalesce) the sparse matrix in every backward pass, and
    would compute the gradient of its values.
    """

    @staticmethod
    def forward(
        ctx: Any,
        dense: Tensor,
        plus: Tensor | None,
        scale: float,
        matrix: Tensor,
        transpose: Tensor,
    ) -> Tensor:
        ctx.scale, ctx.matrix, ctx.transpose = scale, matrix, transpose
        return multiply(matrix, dense, plus, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_dense = of_plus = None
        if ctx.needs_input_grad[0]:
            # Through apply, so that the product has derivatives of every order.
            of_dense = _Product.apply(gradients[0], None, ctx.scale, ctx.transpose, ctx.matrix)
        if ctx.needs_input_grad[1]:
            of_plus = gradients[0] if ctx.scale == 1 else gradients[0] * ctx.scale
        return of_dense, of_plus, None, None, None


class SparseOperator(nn.Module):
    r"""A fixed sparse matrix :math:`A` and its transpose, both in CSR form.

    ``operator(x)`` is :math:`A x` and ``operator.transposed(y)`` is :math:`A^\top y`; each is
    differentiable in its dense argument to every order. The arrays are buffers that follow
    ``.to()`` and are left out of ``state_dict``, since they are rebuilt from data.

    Parameters
    ----------
    matrix : scipy sparse matrix or array, shape [m, n]
        Duplicate entries are summed.
    dtype : torch.dtype, optional
        Type of the values; torch's default by default.

    Examples
    --------
    >>> operator = SparseOperator(sp.csr_array([[0.0, 2.0], [1.0, 0.0]]))
    >>> operator(torch.eye(2)).tolist()
    [[0.0, 2.0], [1.0, 0.0]]
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    transposed_rows: Tensor
    transposed_columns: Tensor
    transposed_values: Tensor

    def __init__(self, matrix: sp.spmatrix | sp.sparray, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        forward = sp.csr_array(matrix, copy=True)
        forward.sum_duplicates()
        self.shape: tuple[int, int] = (int(forward.shape[0]), int(forward.shape[1]))
        for prefix, part in (("", forward), ("transposed_", sp.csr_array(forward.T))):
            part.sort_indices()
            index = index_type(part)
            self._add_buffer(f"{prefix}rows", part.indptr.astype(index))
            self._add_buffer(f"{prefix}columns", part.indices.astype(index))
            values = part.data.astype(np.float64)
            self._add_buffer(f"{prefix}values", values, dtype or torch.get_default_dtype())

    def _add_buffer(self, name: str, array: np.ndarray, dtype: torch.dtype | None = None) -> None:
        self.register_buffer(name, torch.from_numpy(array).to(dtype), persistent=False)

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return len(self.values)

    def forward(self, dense: Tensor, plus: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """:math:`c (A x + p)` in one pass.

        Parameters
        ----------
        dense : Tensor, shape [n, d]
            :math:`x`.
        plus : Tensor, shape [m, d], optional
            :math:`p`; nothing by default.
        scale : float
            :math:`c`.

        Returns
        -------
        Tensor, shape [m, d]
        """
        return _Product.apply(dense, plus, scale, self._matrix(), self._transpose())

    def transposed(self, dense: Tensor, plus: Tensor | None = None, scale: float = 1.0) -> Tensor:
        r""":math:`c (A^\top y + p)`: [m, d] to [n, d], with the parameters of :meth:`forward`."""
        return _Product.apply(dense, plus, scale, self._transpose(), self._matrix())

    # CSR tensors are views built per call: sparse buffers break DDP's broadcast and .double().

    def _matrix(self) -> Tensor:
        return csr_tensor(self.rows, self.columns, self.values, self.shape)

    def _transpose(self) -> Tensor:
        parts = (self.transposed_rows, self.transposed_columns, self.transposed_values)
        return csr_tensor(*parts, self.shape[::-1])

    def extra_repr(self) -> str:
        """Shape and number of entries, for ``print(model)``."""
        return f"{self.shape[0]}x{self.shape[1]}, nnz={self.nnz}"


def index_type(matrix: sp.csr_array) -> type[np.signedinteger]:
    """The index type of a matrix; MKL and cuSPARSE convert 64-bit indices at every product."""
    return np.int32 if max(matrix.nnz, *matrix.shape) < 2**31 else np.int64


def csr_tensor(rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, ...]) -> Tensor:
    """An unchecked CSR tensor from row offsets [m + 1], columns [E] and values [E]."""
    return torch.sparse_csr_tensor(rows, columns, values, size=size, check_invariants=False)


def multiply(
    matrix: Tensor, dense: Tensor, plus: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """``scale * (matrix @ dense + plus)`` of a CSR matrix, without a gradient.

    In float32 on a CPU, the product is an embedding bag: the rows of `dense` are summed per row of
    the matrix. That kernel prefetches rows and is 2 to 6 times as fast as MKL's product (see
    benchmarks/sparse_products.py).
    """
    if dense.device.type == "cpu" and dense.dtype == matrix.dtype == torch.float32:
        if dense.shape[0] != matrix.shape[1] or (plus is not None and plus.dtype != dense.dtype):
            # Embedding bags accept any table that is long enough.
            addend = "" if plus is None else f" plus {tuple(plus.shape)} of {plus.dtype}"
            raise RuntimeError(
                f"{tuple(matrix.shape)} and {tuple(dense.shape)}{addend} cannot be multiplied."
            )
        values = matrix.values()
        result = F.embedding_bag(
            matrix.col_indices(),
            dense,
            matrix.crow_indices(),
            mode="sum",
            # Cheaper than scaling the result, which has more numbers.
            per_sample_weights=values if scale == 1.0 else values * scale,
            include_last_offset=True,
        )
        return result if plus is None else result.add_(plus, alpha=scale)
    if plus is not None:
        return torch.addmm(plus, matrix, dense, beta=scale, alpha=scale)
    # ``matrix @ dense`` fills the result with zeros first and writes it twice.
    result = dense.new_empty(matrix.shape[0], dense.shape[1])
    return result.addmm_(matrix, dense, beta=0, alpha=scale)


# torch warns once that CSR tensors are in beta. Trigger and hide that warning here.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))
