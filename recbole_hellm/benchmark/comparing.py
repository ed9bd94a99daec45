"""``recbole-hellm compare``: run what a benchmark lacks, keep records, and show what they say."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_hellm.benchmark import evidence, plots
from recbole_hellm.benchmark.audience import Audience
from recbole_hellm.benchmark.kept_runs import KeptRun, keep, read_kept
from recbole_hellm.benchmark.methods import Method, check_comparable, methods
from recbole_hellm.benchmark.plans import Benchmark, Figure, Table, ad_hoc, named, paper_masking
from recbole_hellm.benchmark.running import Job, carry_out
from recbole_hellm.benchmark.sheets import Sheet, as_latex, as_markdown, as_text, html_page
from recbole_hellm.config import HellmConfig, check_addressed
from recbole_hellm.errors import ConfigError, HellmError, RunError
from recbole_hellm.quick_start import recipe
from recbole_hellm.runs import RunResult
from recbole_hellm.settings import Settings, require
from recbole_hellm.tracking import RunDirectory, content_hash

logger = logging.getLogger(__name__)

SAVED_LISTS = 20  # items of each user's list that a table's runs keep


@dataclasses.dataclass(frozen=True)
class CompareSettings(Settings):
    """How a comparison goes.

    Attributes
    ----------
    benchmark : str, optional
        A name among :data:`recbole_hellm.benchmark.plans.BENCHMARKS`.
    models : str or tuple of str, optional
        Methods: those of an ad-hoc comparison, or a part of the benchmark's table.
    reference : str, optional
        Of an ad-hoc comparison, the method that is tested against the others; the last by default.
    datasets : str or tuple of str
    seeds : int or tuple of int
        How many, counted up from the setting ``seed``, or which.
    minutes : float, optional
        A method gets further seeds only if its first run trained within so many minutes, stages
        not counted. On a shared machine the shorter one of wall-clock and processor time counts.
    jobs : int
        Runs at a time.
    records : str
        Folder of kept records: a run whose record lies there is not run again.
    output : str, optional
        Folder for the tables and plots as files.
    kept_only : bool
        Show what the records hold and run nothing.
    """

    benchmark: str | None = None
    models: str | tuple[str, ...] | None = None
    reference: str | None = None
    datasets: str | tuple[str, ...] = "sample"
    seeds: int | tuple[int, ...] = 1
    minutes: float | None = None
    jobs: int = 1
    records: str = "records"
    output: str | None = None
    kept_only: bool = False

    def validate(self) -> None:
        """Check ranges; raises :class:`ConfigError`."""
        require(
            self.benchmark is not None or self.models is not None,
            "compare needs --benchmark=NAME or --models=A,B,C.",
        )
        require(self.jobs >= 1, f"jobs={self.jobs} must be at least 1.")
        seeds = self.seeds
        many = seeds >= 1 if isinstance(seeds, int) else bool(seeds)
        require(many, f"seeds={seeds} must be a number from 1 on, or a list of seeds.")
        require(
            self.reference is None or self.benchmark is None,
            "reference is for --models; a benchmark has its own.",
        )

    @property
    def plan(self) -> Benchmark:
        """What is to be compared.

        Raises
        ------
        ConfigError
            If there is no such benchmark, or it has no such models.
        """
        chosen = _names(self.models)
        if self.benchmark is None:
            return ad_hoc(chosen, self.reference)
        plan = named(self.benchmark)
        if chosen and isinstance(plan, Figure):
            raise ConfigError(f"{plan.name} is about {plan.model}; leave --models out.")
        return plan

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods of a table that are wanted."""
        plan = self.plan
        if isinstance(plan, Figure):
            return (plan.model,)
        chosen = _names(self.models) or plan.models
        for name in chosen:
            if name not in plan.models:
                raise ConfigError(
                    f"{plan.name} has no method '{name}'; use some of {', '.join(plan.models)}."
                )
        return tuple(name for name in plan.models if name in chosen)


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value or ()
    return tuple(part.strip() for part in parts if part.strip())


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One run that a benchmark needs: a method's, or a point's of a figure."""

    label: str
    job: Job
    point: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def recipe(self) -> str:
        """What its record is known by."""
        return content_hash(recipe(self.job.config()))


class Comparison:
    """A benchmark on one dataset: its runs and their records.

    Parameters
    ----------
    settings : CompareSettings
    dataset : str
    overrides : Mapping
        Settings of all runs.
    files : sequence of Path
        Files of such settings.
    """

    def __init__(
        self,
        settings: CompareSettings,
        dataset: str,
        overrides: Mapping[str, Any],
        files: Sequence[Path] = (),
    ) -> None:
        self.settings, self.dataset = settings, dataset
        self.overrides, self.files = dict(overrides), tuple(files)
        self.plan, self.folder = settings.plan, Path(settings.records)
        detailed = isinstance(self.plan, Table)
        self.lists = {"save_topk": SAVED_LISTS} if detailed else {}
        self.by_seed = [self._wanted(seed) for seed in self._seeds()]
        check_addressed([wanted.job.config() for wanted in self.by_seed[0]])
        self.failed: dict[str, str] = {}

    def _seeds(self) -> list[int]:
        seeds = self.settings.seeds
        first = int(HellmConfig(self.settings.chosen[0], self.dataset, self._own({}))["seed"])
        return [first + n for n in range(seeds)] if isinstance(seeds, int) else list(seeds)

    def _own(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return self.lists | self.overrides | dict(more)

    def _wanted(self, seed: int) -> list[Wanted]:
        if isinstance(self.plan, Table):
            own = self.plan.settings
            return [
                Wanted(
                    name,
                    Job(
                        name,
                        self.dataset,
                        dict(own.get(name, {})) | self._own({"seed": seed}),
                        self.files,
                    ),
                )
                for name in self.settings.chosen
            ]
        return [
            Wanted(
                f"{panel.title} {', '.join(f'{value:g}' for value in point.values())}",
                Job(self.plan.model, self.dataset, self._own({"seed": seed, **point}), self.files),
                {"panel": panel.title, **point},
            )
            for panel in self.plan.panels
            for point in panel.points()
        ]

    # Runs ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Carry out and keep what there is no record of, the first seed of every method first."""
        for number, wanted in enumerate(self.by_seed):
            kept = self._kept()
            missing = {
                one.recipe: one
                for one in wanted
                if one.recipe not in kept and (number == 0 or self._is_quick(one.label, kept))
            }
            if not missing:
                continue
            logger.info(
                "%s on %s: %d of %d runs of seed %d to come.",
                *(self.plan.name, self.dataset, len(missing), len(wanted), self._seeds()[number]),
            )
            carry_out([one.job for one in missing.values()], self.settings.jobs, self._keep)

    def _keep(self, job: Job, outcome: RunResult | HellmError) -> None:
        if isinstance(outcome, HellmError):
            logger.error("%s: %s", job, outcome)
            self.failed[str(job)] = str(outcome)
            return
        audience = self._audience if isinstance(self.plan, Table) else None
        logger.info("Kept %s.", keep(outcome, self.folder, audience).path)

    @functools.cached_property
    def _audience(self) -> Audience:
        return Audience.open(self.dataset, self.overrides)

    def _is_quick(self, label: str, kept: Mapping[str, KeptRun]) -> bool:
        if self.settings.minutes is None:
            return True
        first = next(one for one in self.by_seed[0] if one.label == label)
        if first.recipe not in kept:
            return False
        cost = kept[first.recipe].record["cost"]
        seconds = min(cost["train_seconds"], cost.get("train_cpu_seconds", float("inf")))
        return seconds <= 60 * self.settings.minutes

    def _kept(self) -> dict[str, KeptRun]:
        """Records that serve: a table needs ranks, which the points of a figure do not have."""
        kept = read_kept(self.folder, self.dataset)
        if isinstance(self.plan, Figure):
            return kept
        return {key: run for key, run in kept.items() if run.detailed}

    # What they show -----------------------------------------------------------------------------

    @functools.cached_property
    def found(self) -> list[tuple[Wanted, KeptRun]]:
        """Wanted runs that there are records of, by seed; looked for when first asked.

        Raises
        ------
        RunError
            If there are none.
        """
        kept = self._kept()
        found = [
            (one, kept[one.recipe])
            for wanted in self.by_seed
            for one in wanted
            if one.recipe in kept
        ]
        if not found:
            raise RunError(
                f"{self.folder} holds no record of {self.plan.name} on {self.dataset} with these "
                "settings; leave --kept_only out to run it."
            )
        return found

    @functools.cached_property
    def methods(self) -> list[Method]:
        """A table's methods that have runs, checked to be comparable."""
        return methods(
            {
                name: [run for one, run in self.found if one.label == name]
                for name in self.settings.chosen
            }
        )

    def sheets(self) -> list[Sheet]:
        """All tables of the dataset.

        Raises
        ------
        RunError
            If there are no records, or they are not comparable.
        """
        if isinstance(self.plan, Figure):
            return [self._points()]
        there = self.methods
        masking = there[0].runs[0].record["masking"]
        tests, tested = evidence.tested(self.plan, there, masking)
        sheets = [
            evidence.results(self.plan, there, masking, tests),
            evidence.beside_the_paper(self.plan, there),
            *tested,
            *(evidence.slices(there, name, masking) for name in evidence.GROUPINGS),
            evidence.lists(there),
        ]
        return [sheet for sheet in sheets if sheet is not None]

    def _points(self) -> Sheet:
        """A figure's points as a table."""
        assert isinstance(self.plan, Figure)  # noqa: S101
        data = self.points()
        head = [*data.columns]
        rows = [
            [f"{v:.4f}" if "@" in str(k) else str(v) for k, v in row.items()]
            for row in data.fillna("").to_dict("records")
        ]
        masking = paper_masking(self.plan.model)
        notes = [f"Test metrics under mask_history={masking}, epochs chosen by validation."]
        title = f"{self.plan.title}: {self.dataset}"
        return Sheet(title, head, rows, notes, data)

    def points(self) -> pd.DataFrame:
        """A figure's runs: panel, settings, seed, test metrics, and validation's own metric."""
        assert isinstance(self.plan, Figure)  # noqa: S101
        masking = paper_masking(self.plan.model)
        check_comparable([run for _, run in self.found])
        rows = []
        for one, run in self.found:
            own = run.record["masking"]
            valid = {f"valid {k}": run.record["valid"][own][k] for k in self.plan.metrics}
            test = {metric: run.metrics(masking)[metric] for metric in self.plan.metrics}
            rows.append({**one.point, "seed": run.seed, **test, **valid})
        return pd.DataFrame(rows)

    def write(self, folder: Path, sheets: Sequence[Sheet]) -> list[Path]:
        """Tables as Markdown, LaTeX, CSV and HTML, and plots with their data."""
        name = f"{self.plan.name}-{self.dataset}"
        directory = RunDirectory(folder)
        directory.write_text(f"{name}.md", "\n\n".join(map(as_markdown, sheets)) + "\n")
        directory.write_text(f"{name}.tex", "\n\n".join(map(as_latex, sheets)) + "\n")
        directory.write_text(f"{name}.html", html_page(sheets[0].title, sheets))
        written = [folder / f"{name}.{kind}" for kind in ("md", "tex", "html")]
        if isinstance(self.plan, Figure):
            return [*written, plots.sweep(self.plan, self.points(), folder / f"{name}.svg")]
        for number, sheet in enumerate(sheets, start=1):
            if sheet.data is not None:
                directory.write_text(f"{name}-{number}.csv", sheet.data.to_csv(index=False))
                written.append(folder / f"{name}-{number}.csv")
        masking = self.methods[0].runs[0].record["masking"]
        place = folder / f"{name}-cost.svg"
        cost = plots.quality_and_cost(self.methods, "ndcg@10", masking, place)
        return [*written, cost]


def compare(
    settings: CompareSettings, overrides: Mapping[str, Any], files: Sequence[Path] = ()
) -> str:
    """Run what is missing of a benchmark on each dataset, and tell what the records show.

    Parameters
    ----------
    settings : CompareSettings
    overrides : Mapping
        Settings of all runs, as ``run`` takes them.
    files : sequence of Path
        Files of such settings.

    Returns
    -------
    str
        The tables, for a terminal.

    Raises
    ------
    ConfigError
        If the benchmark, a model or a setting is unknown.
    RunError
        If records are missing, damaged or not comparable.
    """
    parts = [
        Comparison(settings, dataset, overrides, files) for dataset in _names(settings.datasets)
    ]
    if not settings.kept_only:
        for part in parts:
            part.run()
    blocks: list[str] = []
    for part in parts:
        sheets = part.sheets()
        blocks += map(as_text, sheets)
        if settings.output:
            written = part.write(Path(settings.output), sheets)
            blocks.append(f"Files: {', '.join(map(str, written))}")
        blocks += [f"Missing: {job} ({reason})" for job, reason in part.failed.items()]
    return "\n\n".join(blocks)
