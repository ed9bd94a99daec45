"""Metrics by name: this package's, those of installed packages, and those of the user's modules."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from recbole.evaluator.register import metrics_dict

from recbole_hellm.errors import ConfigError, DataError, nearest
from recbole_hellm.evaluation.list_metrics import LIST_METRICS
from recbole_hellm.evaluation.metric import (
    FunctionMetric,
    ListMetric,
    Metric,
    RankMetric,
    UserListMetric,
)
from recbole_hellm.evaluation.rank_metrics import RANK_METRICS
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.recommended import Catalogue, RecommendedLists
from recbole_hellm.extensions import installed, is_import_path, load_object

BUILT_IN: dict[str, Metric] = {metric.name: metric for metric in (*RANK_METRICS, *LIST_METRICS)}
"""This package's metrics by name."""
GROUP = "recbole_hellm.metrics"
"""The entry points by which installed packages offer metrics."""
_NAME = re.compile(r"[a-z0-9_.-]+")


def find(name: str) -> Metric:
    """The metric of that name.

    Parameters
    ----------
    name : str
        A name in any case, that of an entry point of :data:`GROUP`, or an import path
        ``package.module:Name``.

    Raises
    ------
    ConfigError
        If there is none, or it cannot be computed here.
    """
    if is_import_path(name):
        return _loaded(name)
    if name.lower() in BUILT_IN:
        return BUILT_IN[name.lower()]
    offered = {key.lower(): path for key, path in installed(GROUP).items()}
    if name.lower() in offered:
        return _loaded(offered[name.lower()])
    known = ", ".join(sorted({*BUILT_IN, *offered}))
    if name.lower() in metrics_dict:
        raise ConfigError(
            f"The metric {name} cannot be computed from a full ranking; use some of {known}."
        )
    raise ConfigError(
        f"There is no metric named '{name}'{nearest(name, {*BUILT_IN, *offered})} use some of "
        f"{known}, or the import path of your own, such as my_module:MyMetric."
    )


def _loaded(path: str) -> Metric:
    loaded = load_object(path, "metric")
    if inspect.isclass(loaded) and issubclass(loaded, Metric):
        missing = ", ".join(sorted(loaded.__abstractmethods__))
        if missing:
            raise ConfigError(f"The metric {path} does not define {missing}; add that method.")
        try:
            loaded = loaded()
        except TypeError as error:
            raise ConfigError(
                f"The metric {path} cannot be made without arguments ({error}); give its "
                "parameters defaults."
            ) from error
    elif inspect.isfunction(loaded):
        loaded = FunctionMetric(loaded)
    if not isinstance(loaded, RankMetric | ListMetric):
        raise ConfigError(
            f"The metric {path} is neither a function nor a RankMetric or ListMetric; derive its "
            "class from one of these in recbole_hellm.evaluation.metric."
        )
    if loaded.name in {*BUILT_IN, *metrics_dict}:
        raise ConfigError(
            f"The metric {path} is called '{loaded.name}', as one of this package or of RecBole "
            "is; give it another name."
        )
    if not _NAME.fullmatch(loaded.name):
        raise ConfigError(
            f"The metric {path} is called '{loaded.name}'; use letters, digits, '.', '_' and '-' "
            "only."
        )
    return loaded


@dataclasses.dataclass(frozen=True)
class MetricSet:
    """The metrics of a run, each at several k.

    Attributes
    ----------
    metrics : tuple of Metric
        Of different names.
    topk : tuple of int
    """

    metrics: tuple[Metric, ...] = ()
    topk: tuple[int, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str], topk: Iterable[int]) -> MetricSet:
        """The metrics of these names, each once; see :func:`find`.

        Raises
        ------
        ConfigError
            If one cannot be had, or two have one name.
        """
        metrics: dict[str, Metric] = {}
        for name in names:
            metric = find(name)
            if type(metrics.setdefault(metric.name, metric)) is not type(metric):
                raise ConfigError(
                    f"Two metrics are called '{metric.name}'; give {name} another name."
                )
        return cls(tuple(metrics.values()), tuple(topk))

    @property
    def measures(self) -> dict[str, tuple[Metric, int]]:
        """Metric and k by the key of their value, ``name@k``."""
        return {f"{metric.name}@{k}": (metric, k) for metric in self.metrics for k in self.topk}

    @property
    def ranked(self) -> MetricSet:
        """Those that are computed from ranks."""
        return self._where(RankMetric)

    @property
    def listed(self) -> MetricSet:
        """Those that are computed from recommended lists."""
        return self._where(ListMetric)

    @property
    def by_user(self) -> MetricSet:
        """Those that have a value for each user."""
        metrics = tuple(metric for metric in self.metrics if metric.over_users)
        return dataclasses.replace(self, metrics=metrics)

    def up_to(self, length: int) -> MetricSet:
        """The same metrics at each k up to `length`."""
        return dataclasses.replace(self, topk=tuple(k for k in self.topk if k <= length))

    def _where(self, kind: type[Metric]) -> MetricSet:
        metrics = tuple(metric for metric in self.metrics if isinstance(metric, kind))
        return dataclasses.replace(self, metrics=metrics)

    def per_user(
        self, ranks: Ranks | None = None, lists: RecommendedLists | None = None
    ) -> dict[str, np.ndarray]:
        """Values of each user by key, float64, shape [U].

        Metrics of ranks need `ranks`, metrics of single lists `lists`; the others are left out.

        Raises
        ------
        DataError
            If a metric does not give one finite value a user.
        """
        values = {}
        for key, (metric, k) in self.measures.items():
            if isinstance(metric, RankMetric) and ranks is not None:
                values[key] = _checked(key, metric.of_users(ranks, k), len(ranks.user_ids))
            elif isinstance(metric, UserListMetric) and lists is not None:
                by_list = _checked(key, metric.per_user(lists, k), len(lists.items))
                values[key] = lists.of_users(by_list)
        return values

    def of_ranks(self, ranks: Ranks) -> dict[str, float]:
        """Means over users of the metrics of ranks, by key."""
        return {key: float(values.mean()) for key, values in self.per_user(ranks).items()}

    def of_lists(self, lists: RecommendedLists) -> dict[str, float]:
        """The metrics of lists by key, where nothing they need is lacking.

        Raises
        ------
        DataError
            If histories or features do not fit, or a metric gives no finite value.
        """
        values = {}
        for key, (metric, k) in self.measures.items():
            if isinstance(metric, ListMetric) and not metric.lacks(
                lists.catalogue, len(lists.items), k
            ):
                values[key] = float(_checked(key, np.array([metric.at(lists, k)]), 1)[0])
        return values

    def check(self, catalogue: Catalogue, users: int) -> None:
        """Check that all metrics of lists can be computed, before anything is trained.

        Raises
        ------
        ConfigError
            If one lacks something.
        """
        for key, (metric, k) in self.measures.items():
            lacking = metric.lacks(catalogue, users, k) if isinstance(metric, ListMetric) else ""
            if lacking:
                raise ConfigError(
                    f"The metric {key} needs {lacking}, which {users} users of this dataset do not "
                    "have; take it out of metrics."
                )


def _checked(key: str, values: np.ndarray, count: int) -> np.ndarray:
    if values.shape != (count,) or not np.isfinite(values).all():
        raise DataError(
            f"The metric {key} must give {count} finite values, one for each user or all lists; "
            f"it gives {values.shape} values, of which {int((~np.isfinite(values)).sum())} are not "
            "finite."
        )
    return values


# The configuration's part -----------------------------------------------------------------------


def check_valid_metric(names: Iterable[str], topk: Iterable[int], valid_metric: str) -> None:
    """Check that all metrics are known, and that the one that chooses the epoch is among them.

    Raises
    ------
    ConfigError
        If it is not so.
    """
    known = MetricSet.of(names, topk).measures
    if _plain(valid_metric).lower() not in known:
        raise ConfigError(
            f"valid_metric={valid_metric!r} is not among the metrics "
            f"({', '.join(sorted(known))}); name one of them, or add it to metrics and topk."
        )


def validation_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of validation that follow from the metrics of a configuration.

    ``valid_metric`` may have an import path, which becomes the metric's name.
    """
    valid_metric = _plain(config["valid_metric"])
    metric, _ = MetricSet.of(config["metrics"], config["topk"]).measures[valid_metric.lower()]
    return {"valid_metric": valid_metric, "valid_metric_bigger": metric.bigger_is_better}


def _plain(valid_metric: str) -> str:
    """``name@k`` for ``package.module:Name@k``; anything else as it is."""
    name, _, k = valid_metric.rpartition("@")
    return f"{find(name).name}@{k}" if is_import_path(name) else valid_metric
