"""Finished runs: their metrics and their trained models."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from recbole_hellm.config.devices import AUTO
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.metrics import BUILT_IN, MetricSet
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.rankings import RANK_COLUMNS, ranks_file
from recbole_hellm.runs.restoring import ReopenedRun, reopen

logger = logging.getLogger(__name__)

CURVES = ("loss", "valid", "optimisation")
"""First parts of the names of curves over epochs."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The results of a finished run, and access to its model.

    Attributes
    ----------
    path : Path
        The run directory.
    record : dict
        Content of its ``metrics.json``.
    stages : tuple of RunResult
        The runs it builds on, if they are beside it.
    """

    path: Path
    record: dict[str, Any]
    stages: tuple[RunResult, ...] = ()

    def __repr__(self) -> str:
        """Name, place and test metrics, of which the record has many more."""
        record, metrics = self.record, self.metrics()
        shown = ", ".join(f"{name} {value:.4f}" for name, value in [*metrics.items()][:4])
        return (
            f"<{record['model']} on {record['dataset']}, seed {record['seed']}: test {shown} "
            f"(mask_history={record['masking']}), {self.path}>"
        )

    @property
    def all_stages(self) -> tuple[RunResult, ...]:
        """The runs it builds on and those that they build on, each once, the deepest first."""
        found: dict[Path, RunResult] = {}
        for stage in self.stages:
            for run in (*stage.all_stages, stage):
                found.setdefault(run.path, run)
        return tuple(found.values())

    def metrics(self, phase: str = "test", masking: str | None = None) -> dict[str, float]:
        """Metrics of `phase`, under the run's masking or another one."""
        return self.record[phase][masking or self.record["masking"]]

    def to_frame(self) -> pd.DataFrame:
        """All metrics of the run.

        Returns
        -------
        DataFrame
            A row a metric: ``model``, ``seed``, ``phase``, ``masking``, ``metric``, ``value``.
        """
        own = {"model": self.record["model"], "seed": self.record["seed"]}
        return pd.DataFrame(
            [
                own | {"phase": phase, "masking": masking, "metric": metric, "value": value}
                for phase in ("valid", "test")
                for masking, metrics in self.record[phase].items()
                for metric, value in metrics.items()
            ]
        )

    def history(self) -> pd.DataFrame:
        """Losses, validation metrics and learning rate by epoch, from the TensorBoard events.

        Returns
        -------
        DataFrame
            A column a curve, called as in TensorBoard; the index is the epoch, from 1. NaN where a
            curve has no value. Costs and test results, which belong to no epoch, are left out.

        Raises
        ------
        RunError
            If a file of events is damaged or missing.
        """
        from recbole_hellm.tracking.curves import read_curves

        curves = read_curves(self.path)
        series = {
            name: pd.Series(dict(curve))
            for name, curve in curves.items()
            if name.partition("/")[0] in CURVES
        }
        return pd.DataFrame(series).rename_axis("epoch").sort_index()

    def ranks(self, masking: str | None = None) -> pd.DataFrame:
        """Where each test item was ranked.

        Returns
        -------
        DataFrame
            A row a target: ``user``, ``item``, ``higher`` and ``tied`` (candidates that score more
            and the same), ``candidates``; and ``row``, which tells the targets that are ranked
            together, where users have several.

        Raises
        ------
        RunError
            If the file is missing or damaged.
        """
        return RunDirectory(self.path).read_table(ranks_file(masking or self.record["masking"]))

    def per_user(self, masking: str | None = None) -> pd.DataFrame:
        """Rank metrics of each test user, ties by expectation: what tests over users compare.

        Returns
        -------
        DataFrame
            A column a metric, float64; the index is the user's token.

        Raises
        ------
        RunError
            If the ranks are missing or damaged.
        """
        frame = self.ranks(masking)
        counts = {name: frame[name].to_numpy() for name in RANK_COLUMNS}
        users, tokens = pd.factorize(frame["user"])
        ranks = Ranks(users, **counts, rows=frame["row"].to_numpy() if "row" in frame else None)
        keys = [key.partition("@") for key in self.metrics("test", masking)]
        built_in = dict.fromkeys(BUILT_IN[name] for name, *_ in keys if name in BUILT_IN)
        known = MetricSet(tuple(built_in), tuple(dict.fromkeys(int(k) for *_, k in keys)))
        return pd.DataFrame(known.per_user(ranks), index=pd.Index(tokens, name="user"))

    def vectors(self, of: Literal["item", "user"] = "item") -> pd.DataFrame:
        """Embeddings of items or users, a row each; the index is the token.

        Raises
        ------
        RunError
            If the model has none, or the file is damaged.
        """
        directory, file = RunDirectory(self.path), "embeddings.json"
        known = directory.read_json(file)["tokens"] if directory.holds(file) else {}
        tokens = np.array(known.get(of, []), dtype=object)
        table = directory.read_embeddings(of, tokens, self.record["split"])
        return pd.DataFrame(table.numpy(), index=pd.Index(tokens, name=of))

    def restore(
        self,
        data_path: str | Path | None = None,
        backbone: str | None = None,
        device: str = AUTO,
    ) -> Any:
        """The trained model, in evaluation mode.

        Parameters
        ----------
        data_path : path, optional
            The folder that holds the run's dataset, if it has moved.
        backbone : str, optional
            Name or folder of a frozen backbone, if it has moved.
        device : str
            Where to compute: auto, cpu, cuda, cuda:1 or mps.

        Returns
        -------
        AbstractRecommender
            A model with RecBole's interface; :meth:`reopen` also returns the dataset that defines
            its ids.

        Raises
        ------
        RunError
            If a file of the run is missing or damaged, or the dataset differs.
        BackboneError
            If a frozen backbone cannot be loaded.
        """
        return self.reopen(data_path, backbone, device).model

    def evaluate(
        self,
        phase: str = "test",
        data_path: str | Path | None = None,
        backbone: str | None = None,
        device: str = AUTO,
    ) -> dict[str, dict[str, float]]:
        """Score a split again with the restored model; see :meth:`restore`.

        Returns
        -------
        dict
            masking -> metric -> value, as in ``metrics.json``.
        """
        return self.reopen(data_path, backbone, device).evaluate(phase)

    def reopen(
        self,
        data_path: str | Path | None = None,
        backbone: str | None = None,
        device: str = AUTO,
    ) -> ReopenedRun:
        """Configuration, dataset, model and evaluator; see :meth:`restore`.

        Returns
        -------
        ReopenedRun
        """
        return reopen(RunDirectory(self.path), data_path, backbone, device=device)


def load_run(path: str | Path) -> RunResult:
    """Read a finished run and the stages it builds on.

    Stages that have moved are left out; the run's own files hold all it needs.

    Parameters
    ----------
    path : path
        A run directory; or the folder of a model's runs (``runs/<dataset>/<model>``), for the
        run that finished last.

    Raises
    ------
    RunError
        If the path holds no finished run.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise RunError(f"{type(path).__name__} is no run; name the directory of a finished run.")
    directory = RunDirectory(Path(path))
    if not directory.finished:
        directory = _newest(directory.path)
    return _load(directory, ())


def run_names(runs: Sequence[RunResult]) -> dict[str, str]:
    """A name for each run by its path: its model's, told apart by id where that is not enough."""
    models = [str(run.record["model"]) for run in runs]
    return {
        str(run.path): model if models.count(model) == 1 else f"{model} {run.path.name[:8]}"
        for run, model in zip(runs, models, strict=True)
    }


def _load(directory: RunDirectory, above: tuple[str, ...]) -> RunResult:
    """The run in a directory; `above` are the runs that build on it."""
    record = directory.record()
    if directory.listed() is None:
        _tell_unchecked(directory.path)
    else:
        # Shows a record that was copied from another run.
        directory.verified("identity.json")
    place = os.path.realpath(directory.path)
    if place in above:
        raise RunError(
            f"{directory.file('metrics.json')} names a run among its stages that builds on it; "
            f"{directory.way_out}."
        )
    # Relative to this directory, so that a folder of runs can be moved.
    paths = (os.path.normpath(directory.path / stage) for stage in record["stages"].values())
    stages = [RunDirectory(Path(path)) for path in paths]
    for stage in stages:
        if stage.path.is_dir() and not stage.finished:  # one that is gone was perhaps removed
            logger.warning(
                "%s is left out: its metrics.json is missing; finish it with --resume, or remove "
                "the folder.",
                stage.path,
            )
    found = (_load(stage, (*above, place)) for stage in stages if stage.finished)
    return RunResult(directory.path, dict(record), tuple(found))


@functools.cache
def _tell_unchecked(path: Path) -> None:
    logger.info("%s has no checksums, since an earlier version wrote it.", path)


def _newest(folder: Path) -> RunDirectory:
    # Hidden folders are what a killed process was removing.
    files = (file for file in folder.glob("*/metrics.json") if file.parent.name[0] != ".")
    finished = sorted(files, key=lambda file: (file.stat().st_mtime_ns, file))
    if not finished:
        raise RunError(
            f"{folder} holds no finished run (metrics.json is missing); finish one with --resume, "
            "or name another folder."
        )
    newest = finished[-1].parent
    if len(finished) > 1:
        logger.info("%s is the newest of %d finished runs in %s.", newest, len(finished), folder)
    return RunDirectory(newest)
