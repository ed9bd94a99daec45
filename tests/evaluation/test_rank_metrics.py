"""Metrics of ranks against RecBole's classes; test_ranking.py has them where scores are tied."""

from __future__ import annotations

import numpy as np
import torch
from recbole.evaluator import metrics as theirs

from recbole_hellm.evaluation.metrics import MetricSet
from recbole_hellm.evaluation.rank_metrics import RANK_METRICS
from recbole_hellm.evaluation.ranking import Ranks


def test_metrics_are_recboles_where_nothing_is_tied() -> None:
    rng = np.random.default_rng(2)
    higher = rng.integers(0, 40, 200)
    ranks = Ranks(np.arange(200), higher, np.zeros(200, int), np.full(200, 50))
    topk = (1, 5, 10, 20)
    config = {"topk": topk, "metric_decimal_place": 12}
    placed = np.arange(20) == higher[:, None]
    data = {"rec.topk": torch.from_numpy(np.c_[placed, np.ones(200)].astype(np.int64))}
    ours = MetricSet(RANK_METRICS, topk).of_ranks(ranks)
    wanted: dict[str, float] = {}
    for name in ("Recall", "NDCG", "MRR", "Hit", "MAP", "Precision"):
        wanted.update(getattr(theirs, name)(config).calculate_metric(data))
    assert ours.keys() == wanted.keys()
    for key, value in wanted.items():
        assert abs(ours[key] - value) < 1e-10
    assert len(ours) == 24
