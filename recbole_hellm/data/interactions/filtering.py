"""RecBole's filters of interactions, which say what they leave out."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable
from typing import Any

from recbole_hellm.compat import ModernPandasMixin
from recbole_hellm.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_INTERVAL = re.compile(r"[\[(]([^,]*),([^,]*)[\])]")


class CountedFiltersMixin(ModernPandasMixin):
    """Filters that count what they leave out; mixed in before a RecBole dataset class."""

    config: Any
    dataset_name: str
    inter_feat: Any
    uid_field: str
    iid_field: str

    def _data_filtering(self) -> None:
        before = len(self.inter_feat)
        try:
            super()._data_filtering()  # type: ignore[misc]
        except ValueError as error:  # RecBole's way to report that no rows are left
            raise DataError(f"Dataset '{self.dataset_name}': {error}") from error
        if len(self.inter_feat) < before:
            logger.warning(
                "%d of the %d interactions of '%s' are left out by the filters above or by those "
                "of the settings.",
                before - len(self.inter_feat),
                before,
                self.dataset_name,
            )

    def _parse_intervals_str(self, intervals_str: Any) -> Any:
        """Answers dataset.py:981, which leaves out what it cannot read."""
        for text in () if intervals_str is None else str(intervals_str).split(";"):
            bounds = _INTERVAL.fullmatch(text.strip())
            try:
                known = bounds is not None and float(bounds[1]) <= float(bounds[2])
            except ValueError:
                known = False
            if not known:
                raise ConfigError(
                    f"'{intervals_str}' is no interval; write one such as '\"[5,inf)\"', as the "
                    "value of val_interval, user_inter_num_interval or item_inter_num_interval."
                )
        return super()._parse_intervals_str(intervals_str)  # type: ignore[misc]

    def _filter_nan_user_or_item(self) -> None:
        """Answers dataset.py:660: says how many rows without an id are dropped."""
        before = len(self.inter_feat)
        super()._filter_nan_user_or_item()  # type: ignore[misc]
        if len(self.inter_feat) < before:
            logger.warning(
                "%d interactions of '%s' have no %s or no %s; they are left out.",
                before - len(self.inter_feat),
                self.dataset_name,
                self.uid_field,
                self.iid_field,
            )

    def _filter_inter_by_user_or_item(self) -> None:
        """Answers dataset.py:1089: interactions of an item without a row would be dropped.

        All items are candidates, whatever a model reads of them. Only a filter on a column of users
        or items (``val_interval``) drops interactions, as in RecBole.
        """
        filtered = set(self.config["val_interval"] or {}) - {self.uid_field, self.iid_field}
        for name, field in (("user", self.uid_field), ("item", self.iid_field)):
            feat = getattr(self, f"{name}_feat")
            if feat is None:
                continue
            without = ~self.inter_feat[field].isin(feat[field])
            tokens = self.inter_feat.loc[without, field].unique()
            if filtered & set(feat.columns):
                if self.config["filter_inter_by_user_or_item"] is True:
                    self.inter_feat = self.inter_feat[~without].copy()
            elif len(tokens) == self.inter_feat[field].nunique():
                raise DataError(
                    f"{self.dataset_name}.{name} has a row for none of the {len(tokens)} {name}s "
                    f"of {self.dataset_name}.inter ({_examples(feat[field])} there, "
                    f"{_examples(tokens)} here); use the files of one dataset, or read no columns "
                    "of it."
                )
            elif len(tokens):
                logger.warning(
                    "%d %ss of '%s' have no row in %s.%s (%s); they stay, with empty columns.",
                    len(tokens),
                    name,
                    self.dataset_name,
                    self.dataset_name,
                    name,
                    _examples(tokens),
                )

    def _filter_link(self) -> None:
        """Answers kg_dataset.py:168: says how many items are not in the knowledge graph."""
        before = self.inter_feat[self.iid_field]
        super()._filter_link()  # type: ignore[misc]
        left_out = before[~before.isin(self.inter_feat[self.iid_field])]
        if len(left_out):
            logger.warning(
                "%d items of '%s' are not linked to its knowledge graph (%s); knowledge-aware "
                "models leave out their %d interactions.",
                left_out.nunique(),
                self.dataset_name,
                _examples(left_out.unique()),
                len(left_out),
            )


def _examples(tokens: Iterable[Any]) -> str:
    """The first tokens, for messages."""
    return ", ".join(map(str, itertools.islice(tokens, 3)))
