"""Item embeddings from a file, for example those released with a paper, in place of a stage."""

from __future__ import annotations

import dataclasses
import pickle
import struct
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recbole_hellm.errors import DataError
from recbole_hellm.storage.checksums import file_sha256

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
# Unsigned types of which torch cannot pick rows.
_WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MOST_VALUES = 1 << 29
"""The most numbers (2 GiB) that a tensor may become that is stored in fewer, such as a sparse one.
"""


def dense_table(tensor: Tensor) -> Tensor:
    """A tensor as a table of real numbers in plain memory.

    Parameters
    ----------
    tensor : Tensor
        Sparse and quantised ones are converted, and types that torch cannot pick rows of.

    Returns
    -------
    Tensor
        [rows, d], strided, detached.

    Raises
    ------
    ValueError
        If it is no such table; the message goes on after the name of the file.
    """
    tensor = tensor.detach()
    kind = tensor.dtype
    shape = "of rows of their own lengths" if tensor.is_nested else f"of shape {(*tensor.shape,)}"
    real = tensor.is_floating_point() or kind in (*_INTEGERS, *_WIDE_UNSIGNED)
    table = not tensor.is_nested and not tensor.is_meta and tensor.ndim == 2 and tensor.shape[1]
    if not table or not (real or tensor.is_quantized):
        raise ValueError(
            f"holds a tensor {shape} and type {kind}{' without values' * tensor.is_meta}, and a "
            "table of real numbers with a row per item is needed"
        )
    if tensor.numel() > MOST_VALUES and not _is_stored_whole(tensor):
        raise ValueError(
            f"holds a tensor {shape} that would take {tensor.numel() >> 28:,} GiB of memory, "
            "though it is stored in less; save a table of fewer columns"
        )
    try:
        if tensor.is_quantized:
            return tensor.dequantize()
        tensor = tensor.to_dense().resolve_neg()
        if kind in _WIDE_UNSIGNED:
            return tensor.double()
        return tensor if kind in (*_FLOATS, *_INTEGERS) else tensor.float()
    except RuntimeError as error:  # NotImplementedError, too: a type without this operation
        raise ValueError(
            f"holds a tensor of type {kind} and layout {tensor.layout}, which cannot be converted; "
            "save it as float32"
        ) from error


def _is_stored_whole(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


@dataclasses.dataclass(frozen=True)
class ItemTableFile:
    """A ``.pt``, ``.npy`` or ``.safetensors`` file with one row per item.

    Rows follow the item tokens sorted as texts, which is the raw-id order of the released tables
    (docs/method.md, Order of interactions); one more row is padding and comes first.

    Attributes
    ----------
    key : str
        The setting that names the file, for messages.
    path : Path
    sha256 : str
        Hash of its content.
    """

    key: str
    path: Path
    sha256: str

    @classmethod
    def find(cls, key: str, path: str) -> ItemTableFile:
        """The file `path` as it is now.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        expanded = Path(path).expanduser()
        return cls(key, expanded, _digest(key, expanded))

    def read(self, item_tokens: Sequence[str]) -> Tensor:
        """The embeddings of items, float32 of shape [N, d].

        Parameters
        ----------
        item_tokens : sequence of str
            All N items of the dataset, in the order of the rows to return.

        Raises
        ------
        DataError
            If the file holds no single table of real numbers, NaN, or another number of rows.
        """
        table = self.table()
        table = table[self.rows_by_rank(len(table), item_tokens)].float()
        bad = torch.nonzero(~table.isfinite().all(dim=1)).flatten()
        if len(bad):
            raise DataError(
                f"{self.name} holds NaN or infinity in {len(bad)} rows (first: that of item "
                f"'{item_tokens[int(bad[0])]}'); export it again."
            )
        return table

    def rows_by_rank(self, n_rows: int, item_tokens: Sequence[str]) -> list[int]:
        """Row number of each item, which is the rank of its token.

        Parameters
        ----------
        n_rows : int
            Rows of the table.
        item_tokens : sequence of str
            All N items of the dataset, in any order.

        Raises
        ------
        DataError
            If the table has neither N rows nor N + 1.
        """
        n_items = len(item_tokens)
        if n_rows not in (n_items, n_items + 1):
            raise DataError(
                f"{self.name} has {n_rows} rows, and {n_items} items need {n_items}, or "
                f"{n_items + 1} with padding first; use the table of this dataset."
            )
        ordered = sorted(map(str, item_tokens))
        rank = {token: row for row, token in enumerate(ordered, start=n_rows - n_items)}
        return [rank[str(token)] for token in item_tokens]

    def table(self) -> Tensor:
        """The whole table as it is in the file, of shape [rows, d].

        A ``.npy`` or ``.safetensors`` file is mapped, so that only rows that are read take memory.

        Raises
        ------
        DataError
            If the file changed, or holds no single table of real numbers.
        """
        tensor = self._tensor()
        try:
            return dense_table(tensor)
        except ValueError as error:
            raise DataError(f"{self.name} {error}.") from error

    @property
    def name(self) -> str:
        """The setting and the file, as messages name them."""
        return f"{self.key}={self.path}"

    def _tensor(self) -> Tensor:
        if _digest(self.key, self.path) != self.sha256:
            raise DataError(f"{self.name} changed while it was used; run again.")
        kind = self.path.suffix
        if kind not in (".pt", ".pth", ".npy", ".safetensors"):
            raise DataError(f"{self.name} must be a .pt, .npy or .safetensors file.")
        try:
            if kind == ".npy":
                # Mapped, so that a header cannot ask for more than the file holds. Copy on write:
                # torch wants a writable array.
                array = np.load(self.path, mmap_mode="c", allow_pickle=False)
                return torch.from_numpy(_native(array))
            if kind == ".safetensors":
                tensors = load_file(self.path)
            else:
                _check_plain_archive(self.path)
                # Torch would read and write memory of others for indices that are out of range.
                with torch.sparse.check_sparse_tensor_invariants(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that support of a layout is in beta state
                    tensors = torch.load(self.path, map_location="cpu", weights_only=True)
        except (
            *(OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError),
            *(AttributeError, IndexError, MemoryError, OverflowError, AssertionError),
            *(SyntaxError, TokenError, struct.error, ImportError, UnicodeError),
            *(pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile),
        ) as error:
            raise DataError(
                f"{self.name} cannot be read as plain tensors ({type(error).__name__}); save the "
                "table alone, for example with torch.save(table, path)."
            ) from error
        if isinstance(tensors, Tensor):
            return tensors
        values = list(tensors.values()) if isinstance(tensors, dict) else []
        tables = [value for value in values if isinstance(value, Tensor)]
        if len(tables) != 1:
            raise DataError(
                f"{self.name} holds {len(tables)} tensors instead of one; save the item table "
                "alone, for example with torch.save(table, path)."
            )
        return tables[0]


def _native(array: Any) -> np.ndarray:
    """An array in this machine's byte order, in a type that torch knows."""
    if not isinstance(array, np.ndarray):
        raise TypeError("it holds several arrays")
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    # np.ascontiguousarray would make a row of a single number.
    return array.astype(dtype, order="C", copy=False)


def _check_plain_archive(path: Path) -> None:
    """Raise a ValueError for an archive that unpacks to more than it holds; torch packs nothing."""
    if not zipfile.is_zipfile(path):  # torch's older formats
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError("it is compressed")


def _digest(key: str, path: Path) -> str:
    try:
        return file_sha256(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{key}={path} cannot be read ({reason}); name a .pt, .npy or .safetensors "
            "file with a row per item."
        ) from error
