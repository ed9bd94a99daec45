from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_hellm.graph.sparse import SparseOperator


@pytest.fixture
def matrix() -> sp.csr_array:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(7, 5)) * (rng.random((7, 5)) < 0.4)
    dense[2], dense[:, 3] = 0.0, 0.0  # an empty row and an empty column
    return sp.csr_array(dense)


def dense_operands(matrix: sp.csr_array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    m, n = matrix.shape
    x = torch.randn(n, 3, dtype=torch.float64, requires_grad=True)
    p = torch.randn(m, 3, dtype=torch.float64, requires_grad=True)
    return torch.from_numpy(matrix.toarray()), x, p


def test_products_equal_dense_ones(matrix: sp.csr_array) -> None:
    operator = SparseOperator(matrix, torch.float64)
    a, x, p = dense_operands(matrix)
    torch.testing.assert_close(operator(x), a @ x)
    torch.testing.assert_close(operator(x, p, 0.3), 0.3 * (a @ x + p))
    torch.testing.assert_close(operator.transposed(p), a.T @ p)
    torch.testing.assert_close(operator.transposed(p, x, -2.0), -2.0 * (a.T @ p + x))


def test_single_precision_agrees_with_double(matrix: sp.csr_array) -> None:
    """It has a kernel of its own on a CPU."""
    exact, operator = SparseOperator(matrix, torch.float64), SparseOperator(matrix, torch.float32)
    _, x, p = dense_operands(matrix)
    for function in (
        lambda a, x, p: a(x),
        lambda a, x, p: a(x, p),
        lambda a, x, p: a.transposed(p, x, -0.3),
        lambda a, x, p: a(x, scale=1.7) * a(x, p),
    ):
        value = function(exact, x, p)
        torch.testing.assert_close(function(operator, x.float(), p.float()), value.float())
        expected = torch.autograd.grad(value.square().sum(), (x, p), allow_unused=True)
        gradients = torch.autograd.grad(
            function(operator, x.float(), p.float()).square().sum(), (x, p), allow_unused=True
        )
        for left, right in zip(gradients, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operands_of_other_sizes_and_types_are_refused(
    matrix: sp.csr_array, dtype: torch.dtype
) -> None:
    operator = SparseOperator(matrix, dtype)
    for rows in (4, 6):
        with pytest.raises(RuntimeError, match=r"cannot be multiplied|Expected|mismatch"):
            operator(torch.ones(rows, 2, dtype=dtype))
    other = torch.float64 if dtype == torch.float32 else torch.float32
    x = torch.ones(5, 2, dtype=dtype)
    for plus in (torch.ones(7, 2, dtype=other), torch.ones(8, 2, dtype=dtype)):
        with pytest.raises(RuntimeError):
            operator(x, plus)


def test_single_precision_takes_columns_out_of_a_larger_matrix(matrix: sp.csr_array) -> None:
    operator = SparseOperator(matrix)
    wide = torch.randn(5, 12)
    torch.testing.assert_close(operator(wide[:, 1:9:2]), operator(wide)[:, 1:9:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_does_not_depend_on_what_memory_held(
    matrix: sp.csr_array, dtype: torch.dtype
) -> None:
    operator = SparseOperator(matrix, dtype)
    x = torch.ones(5, 3, dtype=dtype)
    for _ in range(50):
        # Freed at once, so that the product's uninitialised result is likely to reuse it.
        torch.full((7, 3), torch.nan, dtype=dtype)
        assert torch.isfinite(operator(x)).all()


def test_gradients_and_second_derivatives(matrix: sp.csr_array) -> None:
    operator = SparseOperator(matrix, torch.float64)
    _, x, p = dense_operands(matrix)
    for function in (
        lambda x, p: operator(x, p, 0.7),
        lambda x, p: operator.transposed(p, x, 1.0),
        lambda x, p: operator(x) * operator(x, p),
    ):
        assert torch.autograd.gradcheck(function, (x, p))
        assert torch.autograd.gradgradcheck(function, (x, p))


def test_repeated_entries_are_summed() -> None:
    matrix = sp.coo_array(([1.0, 2.0, 5.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    operator = SparseOperator(matrix)
    assert operator.nnz == 2
    assert operator(torch.eye(2)).tolist() == [[0.0, 3.0], [5.0, 0.0]]


def test_buffers_follow_the_module_and_stay_out_of_its_state(matrix: sp.csr_array) -> None:
    operator = SparseOperator(matrix)
    assert operator.state_dict() == {}
    assert operator(torch.ones(5, 2)).dtype == torch.float32
    double = copy.deepcopy(operator).double()
    assert double(torch.ones(5, 2, dtype=torch.float64)).dtype == torch.float64
    meta = operator.to("meta")
    assert {buffer.device.type for buffer in meta.buffers()} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_without_entries_gives_zeros(dtype: torch.dtype) -> None:
    operator = SparseOperator(sp.csr_array((3, 4)), dtype)
    x = torch.randn(4, 2, dtype=dtype, requires_grad=True)
    result = operator(x)
    result.sum().backward()
    assert torch.equal(result, torch.zeros(3, 2, dtype=dtype))
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_importing_graphs_and_losses_does_not_import_recbole() -> None:
    import subprocess
    import sys

    code = (
        "import sys, recbole_hellm.graph, recbole_hellm.models.losses\n"
        "sys.exit(any(name.split('.')[0] == 'recbole' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
