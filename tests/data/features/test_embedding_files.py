from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recbole_hellm.data.features.embedding_files import ItemTableFile
from recbole_hellm.errors import DataError

# Sorted as texts: B, a, b10, b9.
TOKENS = ["b9", "a", "b10", "B"]
SORTED = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
WANTED = [[4.0, 40.0], [2.0, 20.0], [3.0, 30.0], [1.0, 10.0]]

WRITERS: dict[str, Callable[[torch.Tensor, Path], Any]] = {
    "table.pt": torch.save,
    "parameter.pt": lambda table, path: torch.save(torch.nn.Parameter(table), path),
    "state.pth": lambda table, path: torch.save({"weight": table, "epoch": 3}, path),
    "table.npy": lambda table, path: np.save(path, table.numpy()),
    "table.safetensors": lambda table, path: save_file({"any": table}, path),
}


def read(path: Path) -> torch.Tensor:
    return ItemTableFile.find("graph_embeddings", str(path)).read(TOKENS)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_go_to_the_items_of_their_rank(
    tmp_path: Path, name: str, padded: bool, dtype: torch.dtype
) -> None:
    rows = torch.cat([torch.full((1, 2), 99.0), SORTED]) if padded else SORTED
    WRITERS[name](rows.to(dtype), tmp_path / name)
    table = read(tmp_path / name)
    assert table.tolist() == WANTED
    assert table.dtype == torch.float32
    assert not table.requires_grad


def test_padding_may_hold_anything(tmp_path: Path) -> None:
    rows = torch.cat([torch.full((1, 2), torch.nan), SORTED])
    torch.save(rows, tmp_path / "table.pt")
    assert read(tmp_path / "table.pt").tolist() == WANTED


def test_half_precision_is_read(tmp_path: Path) -> None:
    torch.save(SORTED.bfloat16(), tmp_path / "table.pt")
    assert read(tmp_path / "table.pt").tolist() == WANTED


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "table.pt"
    torch.save(SORTED, path)
    file = ItemTableFile.find("graph_embeddings", str(path))
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    torch.save(SORTED + 1, path)
    with pytest.raises(DataError, match=r"graph_embeddings=.* changed while it was used"):
        file.read(TOKENS)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("harm",))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.pt", SORTED[:3], "has 3 rows, and 4 items need 4, or 5 with padding first"),
        ("t.pt", SORTED.repeat(2, 1)[:6], "has 6 rows"),
        ("t.pt", SORTED[0], r"holds a tensor of shape \(2,\)"),
        ("t.pt", SORTED.bool(), "type torch.bool"),
        ("t.pt", SORTED.to(torch.complex64), "type torch.complex64"),
        ("t.pt", {"a": SORTED, "b": SORTED}, "holds 2 tensors instead of one"),
        ("t.pt", {"a": 1}, "holds 0 tensors instead of one"),
        ("t.pt", [SORTED], "holds 0 tensors instead of one"),
        ("t.pt", Payload(), "cannot be read as plain tensors"),
        ("t.txt", SORTED, r"must be a .pt, .npy or .safetensors file"),
    ],
)
def test_what_is_no_item_table_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: Any, sentence: str
) -> None:
    torch.save(content, tmp_path / name)
    with pytest.raises(DataError, match=sentence) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"graph_embeddings={tmp_path / name}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_is_told_by_item(tmp_path: Path, value: float) -> None:
    table = SORTED.clone()
    table[2, 1] = value
    torch.save(table, tmp_path / "t.pt")
    with pytest.raises(DataError, match=r"NaN or infinity in 1 rows \(first: that of item 'b10'\)"):
        read(tmp_path / "t.pt")


@pytest.mark.parametrize("name", ["t.pt", "t.npy", "t.safetensors"])
def test_damaged_files_are_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80nonsense")
    with pytest.raises(DataError, match="cannot be read as plain tensors"):
        read(tmp_path / name)


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as plain tensors"):
        read(tmp_path / "t.npy")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.pt cannot be read \(No such file or directory\)"):
        ItemTableFile.find("graph_embeddings", str(tmp_path / "none.pt"))


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_are_read(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "t.npy", SORTED.numpy().astype(kind))
    assert read(tmp_path / "t.npy").tolist() == WANTED


@pytest.mark.parametrize("shape", [(10**8, 10**5), (10**30, 2), (4, 3)])
def test_a_header_that_promises_more_than_there_is(tmp_path: Path, shape: tuple[int, int]) -> None:
    with (tmp_path / "t.npy").open("wb") as file:
        facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, facts)
        file.write(SORTED.numpy().tobytes())
    with pytest.raises(DataError, match="cannot be read as plain tensors"):
        read(tmp_path / "t.npy")


def test_what_is_stored_in_little_may_not_become_much(tmp_path: Path) -> None:
    one = torch.tensor([1.0])
    huge = {
        "coo": torch.sparse_coo_tensor(torch.tensor([[0], [0]]), one, (4, 10**9)),
        "csr": torch.sparse_csr_tensor([0, 1, 1, 1, 1], [0], one, (4, 10**9)),
        "expanded": one[None].expand(4, 10**9),
    }
    for name, table in huge.items():
        torch.save(table, tmp_path / f"{name}.pt")
        with pytest.raises(DataError, match="that would take 14 GiB of memory"):
            read(tmp_path / f"{name}.pt")
    # An archive of zeros, as small as its packed form.
    torch.save(torch.zeros(4, 10_000), tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    read(tmp_path / "plain.pt")
    with pytest.raises(DataError, match="cannot be read as plain tensors"):
        read(tmp_path / "bomb.pt")


def _sparse(**options: Any) -> dict[str, torch.Tensor]:
    whole = SORTED.to(**options)
    return {
        "coo": whole.to_sparse(),
        "csr": whole.to_sparse_csr(),
        "csc": whole.to_sparse_csc(),
        "bsr": whole.to_sparse_bsr((2, 1)),
        "bsc": whole.to_sparse_bsc((2, 1)),
        "hybrid": whole.to_sparse(1),
    }


@pytest.mark.parametrize("layout", list(_sparse()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_sparse_tables_are_made_dense(tmp_path: Path, layout: str, dtype: torch.dtype) -> None:
    torch.save(_sparse(dtype=dtype)[layout], tmp_path / "t.pt")
    table = read(tmp_path / "t.pt")
    assert table.layout == torch.strided and table.tolist() == WANTED
    torch.save({"weight": _sparse(dtype=dtype)[layout]}, tmp_path / "t.pt")
    assert read(tmp_path / "t.pt").tolist() == WANTED


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("index", [-100, 100])
def test_indices_out_of_range_are_told(tmp_path: Path, index: int) -> None:
    sparse = {
        "coo": torch.sparse_coo_tensor(
            torch.tensor([[index], [0]]), torch.ones(1), (4, 2), check_invariants=False
        ),
        "csr": torch.sparse_csr_tensor(
            [0, 1, 1, 1, 1], [index], torch.ones(1), (4, 2), check_invariants=False
        ),
    }
    for name, table in sparse.items():
        torch.save(table, tmp_path / f"{name}.pt")
        with pytest.raises(DataError, match="cannot be read as plain tensors"):
            read(tmp_path / f"{name}.pt")


def _half_of_a_byte() -> torch.Tensor:
    return torch.zeros(4, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: torch.nested.nested_tensor([SORTED[0], SORTED[1, :1]]),
            "rows of their own length",
        ),
        (
            lambda: torch.nested.nested_tensor([SORTED[0]], layout=torch.jagged),
            "rows of their own lengths",
        ),
        (lambda: torch.empty(4, 2, device="meta"), "without values"),
        (lambda: SORTED.to(torch.complex64).to_sparse(), "type torch.complex64"),
        (lambda: SORTED.bool().to_sparse(), "type torch.bool"),
        (lambda: SORTED.byte().view(torch.bits8), "type torch.bits8"),
        (lambda: torch.tensor(1.0), r"a tensor of shape \(\)"),
        (lambda: SORTED[:, :0], r"a tensor of shape \(4, 0\)"),
        (lambda: SORTED[:0], "has 0 rows"),
        (lambda: {"a": {"b": SORTED}}, "holds 0 tensors instead of one"),
        (_half_of_a_byte, "which cannot be converted; save it as float32"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_are_no_table(tmp_path: Path, make: Callable[[], Any], sentence: str) -> None:
    torch.save(make(), tmp_path / "t.pt")
    with pytest.raises(DataError, match=sentence) as error:
        read(tmp_path / "t.pt")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_small_types_are_converted(tmp_path: Path) -> None:
    torch.save(SORTED.to(torch.float8_e4m3fn), tmp_path / "t.pt")
    assert read(tmp_path / "t.pt").tolist() == WANTED


@pytest.mark.filterwarnings("ignore:torch.quantize_per")
def test_quantised_tables_are_converted(tmp_path: Path) -> None:
    torch.save(torch.quantize_per_tensor(SORTED, 0.5, 0, torch.quint8), tmp_path / "t.pt")
    assert read(tmp_path / "t.pt").tolist() == WANTED


@pytest.mark.parametrize("kind", [">f4", ">f8", ">i2", "f2", "g"])
def test_arrays_of_any_real_type_are_read(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "t.npy", SORTED.numpy().astype(kind))
    assert read(tmp_path / "t.npy").tolist() == WANTED


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros(4, dtype=[("x", "f4")]), "cannot be read as plain tensors"),
        (np.full((4, 2), "x"), "cannot be read as plain tensors"),
        (np.zeros((4, 2), dtype="M8[s]"), "cannot be read as plain tensors"),
        (np.zeros((4, 2), dtype=complex), "type torch.complex128"),
        (np.zeros((4, 2), dtype=bool), "type torch.bool"),
        (np.float32(1), r"shape \(\)"),
        (np.zeros((4, 0)), r"shape \(4, 0\)"),
    ],
    ids=str,
)
def test_arrays_that_are_no_table(tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(DataError, match=sentence):
        read(tmp_path / "t.npy")


def test_several_arrays_in_one_file_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", a=SORTED.numpy())
    (tmp_path / "t.npz").rename(tmp_path / "t.npy")
    with pytest.raises(DataError, match="cannot be read as plain tensors"):
        read(tmp_path / "t.npy")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_and_a_folder_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.npy")
    (tmp_path / "f.pt").mkdir()
    for name in ("t.npy", "f.pt"):
        with pytest.raises(DataError, match=r"cannot be read \(it is no regular file\)"):
            read(tmp_path / name)
    with pytest.raises(DataError, match="null"):
        read(tmp_path / "a\0.npy")


@pytest.mark.parametrize("name", ["t.pt", "old.pt", "t.npy", "t.safetensors", "coo.pt"])
def test_damage_anywhere_ends_in_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "old.pt":
        torch.save(SORTED, path, _use_new_zipfile_serialization=False)
    else:
        table = SORTED.to_sparse() if name == "coo.pt" else SORTED
        WRITERS[f"table{path.suffix}"](table, path)
    content = path.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(150):
        changed = bytearray(content)
        changed[random.integers(len(content))] = random.integers(256)
        path.write_bytes(changed[: random.integers(len(content))] if _ % 3 == 0 else changed)
        with contextlib.suppress(DataError):  # a value alone may have changed
            read(path)


def test_columns_may_come_first_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.asfortranarray(SORTED.numpy()))
    assert read(tmp_path / "t.npy").tolist() == WANTED


def test_a_table_takes_no_memory_until_its_rows_are_read(tmp_path: Path) -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    np.save(tmp_path / "t.npy", np.ones((20_000, 100), dtype=np.float32))
    file = ItemTableFile.find("features", str(tmp_path / "t.npy"))
    tracemalloc.start()
    file.table()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # of the table's 8,000,000
