"""Item embeddings from a file, for example those released with a paper, in place of a stage."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path

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
        table = self._tensor()
        if table.dtype in _WIDE_UNSIGNED:
            table = table.double()
        if table.ndim != 2 or not (table.is_floating_point() or table.dtype in _INTEGERS):
            raise DataError(
                f"{self.name} holds a tensor of shape {tuple(table.shape)} and type "
                f"{table.dtype}, and a table of real numbers with a row per item is needed."
            )
        return table

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
                return torch.from_numpy(np.ascontiguousarray(array))
            if kind == ".safetensors":
                tensors = load_file(self.path)
            else:
                tensors = torch.load(self.path, map_location="cpu", weights_only=True)
        except (
            *(OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError),
            *(AttributeError, IndexError, MemoryError, OverflowError),
            *(pickle.UnpicklingError, SafetensorError),
        ) as error:
            raise DataError(
                f"{self.name} cannot be read as plain tensors ({type(error).__name__}); save the "
                "table alone, for example with torch.save(table, path)."
            ) from error
        if isinstance(tensors, Tensor):
            return tensors.detach()
        values = list(tensors.values()) if isinstance(tensors, dict) else []
        tables = [value for value in values if isinstance(value, Tensor)]
        if len(tables) != 1:
            raise DataError(
                f"{self.name} holds {len(tables)} tensors instead of one; save the item table "
                "alone, for example with torch.save(table, path)."
            )
        return tables[0].detach()


def _digest(key: str, path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(
            f"{key}={path} cannot be read ({error.strerror}); name a .pt, .npy or .safetensors "
            "file with a row per item."
        ) from error
