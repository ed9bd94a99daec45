"""Rows of (history, next item) whose histories are gathered when they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

_PLACE = ""  # no column of a dataset has this name


@dataclasses.dataclass(frozen=True)
class Stretches:
    """Stretches of the values of all interactions, as right-padded lists.

    Attributes
    ----------
    values : mapping of str to Tensor, shape [E, ...]
        Values of all interactions by the name of their list.
    begins, counts : Tensor of int64, shape [R]
        Place of each row's first value, and number of its values, at most `limit`.
    limit : int
        Length of the lists.
    """

    values: Mapping[str, Tensor]
    begins: Tensor
    counts: Tensor
    limit: int

    def __getitem__(self, name: str) -> Tensor:
        """The lists of all rows, shape [R, limit, ...], padded with zeros."""
        columns = torch.arange(self.limit)
        valid = columns < self.counts[:, None]
        values = self.values[name]
        lists = values[torch.where(valid, self.begins[:, None] + columns, 0)]
        return lists.masked_fill_(~valid.view(valid.shape + (1,) * (values.dim() - 1)), 0)

    def of(self, rows: Any) -> Stretches:
        """Those of some rows."""
        return dataclasses.replace(self, begins=self.begins[rows], counts=self.counts[rows])

    def with_empty(self, count: int) -> Stretches:
        """Those of all rows and of so many rows without values."""
        none = torch.zeros(count, dtype=torch.int64)
        begins, counts = torch.cat([self.begins, none]), torch.cat([self.counts, none])
        return dataclasses.replace(self, begins=begins, counts=counts)


class HistoryRows(Interaction):
    """An ``Interaction`` whose list columns are gathered when they are read.

    RecBole holds every list of every row, 600 bytes a row for lists of 50 items and their times,
    several times over while it makes and splits them. Here a row has the place of its history
    among all interactions. Whatever takes lists, also ``interaction``, gets those of all rows, so
    select rows first.

    Parameters
    ----------
    columns : mapping of str to Tensor, shape [R, ...]
        All columns but the lists.
    lists : Stretches
    """

    def __init__(self, columns: Mapping[str, Tensor], lists: Stretches) -> None:
        self.own, self.lists, self.length = dict(columns), lists, len(lists.begins)

    @property
    def interaction(self) -> dict[str, Tensor]:
        """All columns, lists included."""
        return self.own | {name: self.lists[name] for name in self.lists.values}

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.lists.values

    def __getattr__(self, name: str) -> Tensor:
        if name not in ("own", "lists") and name in self:
            return self[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __getitem__(self, index: Any) -> Any:
        """A column by its name; some rows by anything else."""
        if isinstance(index, str):
            return self.own[index] if index in self.own else self.lists[index]
        if isinstance(index, int):
            return self[[index]].gathered()[0]
        if isinstance(index, (list, range)):
            index = np.asarray(index, dtype=None if len(index) else np.int64)
        if isinstance(index, np.ndarray):
            index = torch.from_numpy(index)
        own = {name: values[index] for name, values in self.own.items()}
        return HistoryRows(own, self.lists.of(index))

    def __setitem__(self, name: str, values: Tensor) -> None:
        self._forget(name)
        self.own[name] = values

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._forget(name)
        self.own.pop(name, None)

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return [*self.own, *self.lists.values]

    def gathered(self) -> Interaction:
        """The same rows with their lists."""
        return Interaction(self.interaction)

    # RecBole's versions read `interaction`, and so gather all lists, once for each column.

    def to(self, device: Any, selected_field: Any = None) -> Interaction:
        """The gathered rows on a device."""
        return self.gathered().to(device, selected_field)

    def cpu(self) -> Interaction:
        """The gathered rows on the CPU."""
        return self.gathered().cpu()

    def numpy(self) -> dict[str, np.ndarray]:
        """The gathered columns as arrays."""
        columns: dict[str, np.ndarray] = self.gathered().numpy()
        return columns

    def repeat(self, sizes: int) -> Interaction:
        """The gathered rows, all of them so many times."""
        return self.gathered().repeat(sizes)

    def repeat_interleave(self, repeats: Any, dim: int = 0) -> Interaction:
        """The gathered rows, each of them so many times."""
        return self.gathered().repeat_interleave(repeats, dim)

    def update(self, new_inter: Interaction) -> None:
        """Add or replace columns."""
        for name in new_inter.columns:
            self[name] = new_inter[name]

    def drop(self, column: str) -> None:
        """Remove a column."""
        del self[column]

    def add_prefix(self, prefix: str) -> None:
        """Begin the names of all columns with `prefix`."""
        self.own = {prefix + name: values for name, values in self.own.items()}
        values = {prefix + name: flat for name, flat in self.lists.values.items()}
        self.lists = dataclasses.replace(self.lists, values=values)

    def with_rows(self, columns: Mapping[str, Tensor]) -> HistoryRows:
        """These rows and others whose lists are empty, and whose missing columns are zero."""
        count = len(next(iter(columns.values())))
        joined = {}
        for name, values in self.own.items():
            others = columns.get(name, values.new_zeros(count, *values.shape[1:]))
            joined[name] = torch.cat([values, others])
        return HistoryRows(joined, self.lists.with_empty(count))

    def _forget(self, name: str) -> None:
        if name in self.lists.values:
            rest = {key: values for key, values in self.lists.values.items() if key != name}
            self.lists = dataclasses.replace(self.lists, values=rest)

    def sort(self, by: str | Sequence[str], ascending: bool | Sequence[bool] = True) -> None:
        """Sort in place, by RecBole's rules."""
        names = [by] if isinstance(by, str) else by
        keys = {name: self[name] for name in names} | {_PLACE: torch.arange(len(self))}
        sorted_keys = Interaction(keys)
        sorted_keys.sort(by, ascending)
        self._reindex(sorted_keys[_PLACE])

    def _reindex(self, index: Any) -> None:
        """Put rows into another order in place, as RecBole's sorting and shuffling do."""
        ordered = self[index]
        self.own, self.lists = ordered.own, ordered.lists


def taken(rows: Interaction, index: Tensor) -> Interaction:
    """Some rows; RecBole's own indexing makes a Python list of the row numbers first."""
    if isinstance(rows, HistoryRows):
        return rows[index]
    return Interaction({name: values[index] for name, values in rows.interaction.items()})
