"""All workarounds for RecBole 1.2.1 on current numpy, scipy and pandas.

Each item names the RecBole line it answers and when it can be removed. Nothing here edits RecBole's
files, and importing this module does not import RecBole.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # `--help` imports this module too, and shall be quick
    import pandas as pd

    from recbole_hellm.data.interactions.atomic_files import AtomicFile


def supply_numpy_aliases() -> None:
    """Set the scalar aliases that numpy removed in 1.24 and 2.0 and RecBole still uses.

    Answers configurator.py:628-635, interaction.py:31, metrics.py:90-287, dataset.py:652 and
    abstract_recommender.py:319. Can be removed once RecBole writes the builtin types.
    """
    aliases = {"bool": np.bool_, "int": np.int_, "float": np.float64, "object": np.object_}
    aliases["long"] = np.int_  # back in numpy 2
    for name, target in aliases.items():
        if name not in vars(np):
            setattr(np, name, target)


def supply_dok_update() -> None:
    """Give scipy's ``dok_matrix`` the bulk ``_update`` that scipy 1.13 removed.

    Answers ngcf.py:110 and the same line in NCL, GCMC and SpectralCF. Can be removed once RecBole
    builds its adjacency from COO triples.
    """
    from scipy.sparse import dok_matrix

    if hasattr(dok_matrix, "_update"):
        return

    def _update(self: Any, entries: dict[tuple[int, int], float]) -> None:
        self._dict.update(entries)

    dok_matrix._update = _update


def count_every_interaction() -> None:
    """Make RecBole's Pop count an item as often as a batch holds it.

    Answers pop.py:47, where indexing with repeated items counts each item once per batch: in a
    small catalogue all items become equally popular. Can be removed once it uses ``index_add_``.
    """
    import torch
    from recbole.model.general_recommender.pop import Pop

    def calculate_loss(self: Any, interaction: Any) -> torch.Tensor:
        counts = torch.bincount(interaction[self.ITEM_ID], minlength=self.n_items)
        self.item_cnt += counts[:, None]
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return torch.zeros(1, device=self.device, requires_grad=True)

    Pop.calculate_loss = calculate_loss


def see_padding_at_the_first_place() -> None:
    """Let an item of padding at the first place see itself in RecBole's SASRec.

    Answers abstract_recommender.py:175-184, where a history of padding alone is masked evenly, so
    that its first place sees all places of the batch, later ones included, and its state depends on
    the batch's longest history. All other histories begin with an item. Can be removed once
    RecBole has rows for first items.
    """
    with anomaly_mode_kept():
        from recbole.model.sequential_recommender import SASRec
    if "get_attention_mask" in vars(SASRec):
        return
    original = SASRec.get_attention_mask

    def get_attention_mask(self: Any, item_seq: Any, bidirectional: bool = False) -> Any:
        mask = original(self, item_seq, bidirectional)
        empty = (item_seq[:, 0] == 0)[:, None, None]
        mask[..., 0] = mask[..., 0].masked_fill(empty, 0.0)
        return mask

    SASRec.get_attention_mask = get_attention_mask


@contextlib.contextmanager
def anomaly_mode_kept() -> Iterator[None]:
    """Preserve autograd's anomaly mode while RecBole's models are imported.

    Answers sine.py:25, a ``set_detect_anomaly(True)`` at import. It tests all gradients for NaN and
    takes about a third of a SASRec training step on a CPU. Can be removed once that line is gone.
    """
    import torch

    before = torch.is_anomaly_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(before)


@contextlib.contextmanager
def tensorboard_writer(writer: Any) -> Iterator[None]:
    """Make RecBole's ``Trainer.__init__`` use `writer`.

    Answers trainer.py:116, which always opens ``log_tensorboard/`` in the working directory. Can be
    removed once the trainer takes a writer or a directory.
    """
    from recbole.trainer import trainer as module

    original = module.get_tensorboard
    module.get_tensorboard = lambda logger: writer
    try:
        yield
    finally:
        module.get_tensorboard = original


@contextlib.contextmanager
def recbole_metrics(config: Any) -> Iterator[None]:
    """Hide the metrics of a configuration from RecBole, which knows no others than its own.

    Answers configurator.py:367-371, which refuses other names, and register.py:81, where
    ``Trainer.__init__`` looks up what each metric needs. This package's evaluator computes all
    metrics. Can go once RecBole's table of metrics can be added to.

    Parameters
    ----------
    config : Config
        Its ``metrics`` are RecBole's ``Recall`` within the block.
    """
    metrics = config["metrics"]
    config["metrics"] = ["Recall"]
    try:
        yield
    finally:
        config["metrics"] = metrics


class ModernPandasMixin:
    """RecBole dataset methods that pandas 3 breaks, rewritten without chained assignment.

    A mixin before a RecBole dataset class. Can be removed once RecBole supports pandas 3.
    """

    config: Any
    feat_name_list: list[str]
    field2id_token: dict[str, np.ndarray]
    field2token_id: dict[str, dict[str, int]]
    field2seqlen: dict[str, int]
    field2type: dict[str, Any]
    field2source: dict[str, Any]
    field2bucketnum: dict[str, int]

    def _get_preset(self) -> None:
        """Answers dataset.py:124: the configuration's ``data_path`` holds all datasets."""
        super()._get_preset()  # type: ignore[misc]
        self.dataset_path = str(self.config.dataset_directory)

    def _fill_nan(self) -> None:
        """Answers dataset.py:648-652: ``fillna(inplace=True)`` on a column changes a copy."""
        from recbole.utils import FeatureType

        for feat_name in self.feat_name_list:
            feat = getattr(self, feat_name)
            for field in feat:
                kind = self.field2type[field]
                if kind == FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0).astype(np.int64)
                elif kind == FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
                else:
                    dtype = np.int64 if kind == FeatureType.TOKEN_SEQ else np.float64
                    empty = np.array([], dtype=dtype)
                    feat[field] = [
                        empty if isinstance(value, float) else value for value in feat[field]
                    ]

    def _dataframe_to_interaction(self, data: pd.DataFrame) -> Any:
        """Answers dataset.py:2202: pandas 3 returns read-only arrays, which torch cannot share."""
        columns = {
            name: types.SimpleNamespace(values=data[name].to_numpy(copy=True)) for name in data
        }
        return super()._dataframe_to_interaction(columns)  # type: ignore[misc]

    def _concat_remaped_tokens(self, remap_list: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Answers dataset.py:1191: ``Series.agg(np.concatenate)``."""
        from recbole.utils import FeatureType

        tokens = [
            feat[field].to_numpy(dtype=object)
            if kind == FeatureType.TOKEN
            else np.concatenate([np.asarray(row, dtype=object) for row in feat[field]])
            for feat, field, kind in remap_list
        ]
        boundaries = np.cumsum([len(part) for part in tokens])[:-1]
        return np.concatenate(tokens), boundaries

    def _remap(self, remap_list: list[Any]) -> None:
        """Answers dataset.py:1202-1218: ``Series.agg(len)`` counts rows, not elements."""
        import pandas as pd
        from recbole.utils import FeatureType

        if not remap_list:
            return
        tokens, boundaries = self._concat_remaped_tokens(remap_list)
        codes, uniques = pd.factorize(tokens)
        id_token = np.array(["[PAD]", *uniques])
        token_id = {token: index for index, token in enumerate(id_token)}
        for (feat, field, kind), ids in zip(
            remap_list, np.split(codes + 1, boundaries), strict=True
        ):
            if field not in self.field2id_token:
                self.field2id_token[field] = id_token
                self.field2token_id[field] = token_id
            if kind == FeatureType.TOKEN:
                feat[field] = ids
            else:
                lengths = [len(row) for row in feat[field]]
                feat[field] = np.split(ids, np.cumsum(lengths)[:-1])

    def _load_feat(self, filepath: str, source: Any) -> pd.DataFrame | None:
        """Answers dataset.py:484-512: blank ``*_seq`` cells, quotes in texts, the slow engine."""
        import pandas as pd
        from recbole.utils import FeatureSource, FeatureType

        from recbole_hellm.data.interactions.atomic_files import AtomicFile, atomic_settings
        from recbole_hellm.errors import DataError

        load, unload = self._get_load_and_unload_col(source)  # type: ignore[attr-defined]
        if load is not None and not load:
            if source in (FeatureSource.KG, "link"):
                raise DataError(f"{filepath} is needed; add its columns to load_col.")
            return None
        file = AtomicFile(Path(filepath), atomic_settings(self.config))
        chosen = {
            field: FeatureType(kind)
            for field, kind in file.kinds().items()
            if (load is None or field in load) and (unload is None or field not in unload)
        }
        if not chosen:
            return None
        frame = file.read(chosen.__contains__)
        for field, kind in chosen.items():
            if isinstance(source, FeatureSource) or source != "link":
                self.field2source[field] = source
                self.field2type[field] = kind
                if "float" in kind.value:
                    self.field2bucketnum[field] = 2
            if kind == FeatureType.TOKEN:
                frame[field] = frame[field].where(frame[field] != "", None)
            elif kind == FeatureType.FLOAT:
                frame[field] = _numbers(frame[field], file)
            if kind in (FeatureType.TOKEN, FeatureType.FLOAT):
                self.field2seqlen[field] = 1
                continue
            limit = (self.config["seq_len"] or {}).get(field)
            cells = [cell.split(file.settings.seq_separator) for cell in frame[field]]
            parts = [[part for part in cell if part] for cell in cells]
            if kind == FeatureType.FLOAT_SEQ:
                rows = [_floats(row, field, file, place)[:limit] for place, row in enumerate(parts)]
            else:
                rows = [np.array([str(part) for part in row])[:limit] for row in parts]
            frame[field] = pd.Series(rows, index=frame.index, dtype=object)
            self.field2seqlen[field] = max((len(row) for row in rows), default=0)
        return frame


def _floats(parts: list[str], field: str, file: AtomicFile, row: int) -> np.ndarray:
    """Numbers of one cell."""
    from recbole_hellm.errors import DataError

    try:
        values = np.array([float(part) for part in parts])
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise DataError(
            f"{file.where(row)}: {field}={file.settings.seq_separator.join(parts)!r:.60} are no "
            "finite numbers; correct them."
        )
    return values


def _numbers(cells: pd.Series, file: AtomicFile) -> pd.Series:
    """A column as float64; empty cells are NaN."""
    import pandas as pd

    from recbole_hellm.errors import DataError

    values = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    wrong = ~np.isfinite(values) & (cells != "")
    if wrong.any():
        row = int(np.flatnonzero(np.asarray(wrong))[0])
        raise DataError(
            f"{file.where(row)}: {cells.name}={cells.iloc[row]!r} is no finite number; correct it."
        )
    return values
