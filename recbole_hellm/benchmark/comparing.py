"""``recbole-hellm compare``: carry out missing runs, write their records, and show tables."""

from __future__ import annotations

import dataclasses
import functools
import logging
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_hellm.benchmark.compare_settings import CompareSettings
from recbole_hellm.benchmark.methods import Method, methods
from recbole_hellm.benchmark.plans import Figure, Table, short_name
from recbole_hellm.benchmark.records import SLICED, SLICED_AT, Record, read_records, write_record
from recbole_hellm.benchmark.running import Job, carry_out
from recbole_hellm.benchmark.users import TestUsers
from recbole_hellm.config.resolution import HellmConfig, check_addressed
from recbole_hellm.config.settings import names
from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.errors import ConfigError, HellmError, RunError
from recbole_hellm.reporting import evidence, plots, points
from recbole_hellm.reporting.sheets import Sheet, as_latex, as_markdown, as_text, html_page
from recbole_hellm.runs.directory import RunDirectory, content_hash
from recbole_hellm.runs.identity import recipe
from recbole_hellm.runs.results import RunResult

logger = logging.getLogger(__name__)

SAVED_LISTS = 20  # items of each user's recommended list; does not change a run's result
PLOTTED = "ndcg@10"  # the quality in the plot of quality over cost


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run that a benchmark needs, for a method of a table or a point of a figure."""

    label: str
    job: Job
    point: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def recipe(self) -> str:
        """Hash of the run's recipe, which identifies its record."""
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
        self.in_files = {key for file in self.files for key in read_yaml(file)}
        self._check_addressed()
        self.seeds = self._seeds()
        self.by_seed = [self._planned_runs(seed) for seed in self.seeds]
        configs = [planned.job.config() for planned in self.by_seed[0]]
        check_addressed(configs)
        self._check_metrics(configs[0])
        self.failed: dict[str, str] = {}

    def _check_addressed(self) -> None:
        """Refuse ``MODEL.key`` for a key in which runs differ: it would override their values."""
        fixed = {"seed"}
        if isinstance(self.plan, Figure):
            fixed |= {key for panel in self.plan.panels for key in panel.axes}
        for option in self.in_files | set(self.overrides):
            _, addressed, key = option.partition(".")
            if addressed and key in fixed:
                raise ConfigError(
                    f"{option} would apply to every run of {self.plan.name}, which differ in "
                    f"{key}; leave it out."
                )

    def _seeds(self) -> list[int]:
        seeds = self.settings.seeds
        first = int(
            HellmConfig(self.settings.chosen[0], self.dataset, self._run_overrides({}))["seed"]
        )
        return [first + n for n in range(seeds)] if isinstance(seeds, int) else list(seeds)

    def _run_overrides(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {"save_topk": SAVED_LISTS} | self.overrides | dict(more)

    def _check_metrics(self, config: HellmConfig) -> None:
        """Refuse settings, before anything runs, under which runs do not measure what is shown."""
        shown = set(self.plan.metrics)
        if isinstance(self.plan, Table):
            shown |= {PLOTTED, *(f"{metric}@{k}" for metric in SLICED for k in SLICED_AT)}
        known = {f"{m}@{k}".lower() for m in config["metrics"] for k in config["topk"]}
        if shown - known:
            raise ConfigError(
                f"A comparison shows {', '.join(sorted(shown - known))}, which these runs would "
                "not measure; add it to metrics and topk."
            )

    def _planned_runs(self, seed: int) -> list[PlannedRun]:
        plan = self.plan
        if isinstance(plan, Table):
            return [
                self._plan_run(seed, name, name, plan.settings.get(name, {}))
                for name in self.settings.chosen
            ]
        planned_runs = []
        for panel in plan.panels:
            for point in panel.points():
                label = f"{panel.title} {', '.join(f'{value:g}' for value in point.values())}"
                planned = self._plan_run(seed, label, plan.model, plan.exemptions(point), point)
                planned_runs.append(
                    dataclasses.replace(planned, point={"panel": panel.title, **point})
                )
        return planned_runs

    def _plan_run(
        self,
        seed: int,
        label: str,
        model: str,
        plan_settings: Mapping[str, Any],
        point: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> PlannedRun:
        """A run with the user's settings, else the plan's; a point's settings win over both."""
        set_by_user = self.in_files | set(self.overrides)
        defaults = {key: value for key, value in plan_settings.items() if key not in set_by_user}
        overrides = self._run_overrides({"seed": seed, **defaults, **point})
        return PlannedRun(label, Job(model, self.dataset, overrides, self.files))

    # Runs ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Carry out the runs without a record, the first seed of every method first."""
        for seed, planned_runs in zip(self.seeds, self.by_seed, strict=True):
            records = self._records()
            missing = {
                planned.recipe: planned
                for planned in planned_runs
                if planned.recipe not in records
                and (seed == self.seeds[0] or self._is_quick(planned.label, records))
            }
            if not missing:
                continue
            logger.info(
                "%s on %s: %d of %d runs of seed %d are missing.",
                *(self.plan.name, self.dataset, len(missing), len(planned_runs), seed),
            )
            jobs = [planned.job for planned in missing.values()]
            carry_out(jobs, self.settings.jobs, self._write_record)

    def _write_record(self, job: Job, outcome: RunResult | HellmError) -> None:
        if isinstance(outcome, HellmError):
            logger.error("%s: %s", job, outcome)
            self.failed[str(job)] = str(outcome)
            return
        try:
            details = isinstance(self.plan, Table)
            record = write_record(outcome, self.folder, self._test_users, details)
            logger.info("Wrote the record %s.", record.path)
        except HellmError as error:
            logger.error("%s: %s", job, error)
            self.failed[str(job)] = str(error)

    @functools.cached_property
    def _test_users(self) -> TestUsers:
        # Records name the features that models read, so features must exist before the first run.
        features = any(planned.job.config().needs_features() for planned in self.by_seed[0])
        return TestUsers.open(self.by_seed[0][0].job.config(), features)

    def _is_quick(self, label: str, records: Mapping[str, Record]) -> bool:
        if self.settings.minutes is None:
            return True
        first = next(planned for planned in self.by_seed[0] if planned.label == label)
        if first.recipe not in records:
            return False
        cost = records[first.recipe].record["cost"]
        seconds = min(cost["train_seconds"], cost.get("train_cpu_seconds", float("inf")))
        return seconds <= 60 * self.settings.minutes

    def _records(self) -> dict[str, Record]:
        """Usable records by recipe; only records of the local data, unless ``kept_only`` is set.

        A table needs records with per-user ranks, which points of a figure do not have.
        """
        test_users = None if self.settings.kept_only else self._test_users
        return read_records(self.folder, self.dataset, test_users, isinstance(self.plan, Table))

    # Results -----------------------------------------------------------------------------------

    @functools.cached_property
    def recorded_runs(self) -> list[tuple[PlannedRun, Record]]:
        """Planned runs that have a record, by seed; read at the first access.

        Raises
        ------
        RunError
            If no planned run has a record.
        """
        records = self._records()
        recorded_runs = [
            (planned, records[planned.recipe])
            for planned_runs in self.by_seed
            for planned in planned_runs
            if planned.recipe in records
        ]
        if not recorded_runs:
            reasons = "; ".join(f"{job}: {reason}" for job, reason in self.failed.items())
            missing = (
                f"{self.folder} holds no record of {self.plan.name} on {self.dataset} with these "
                f"settings (and {len(records)} of others); leave --kept_only out to run it."
            )
            raise RunError(reasons or missing)
        return recorded_runs

    @functools.cached_property
    def methods(self) -> list[Method]:
        """A table's methods that have records, checked to be comparable."""
        return methods(
            {
                name: [record for planned, record in self.recorded_runs if planned.label == name]
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
            records = [(planned.point, record) for planned, record in self.recorded_runs]
            return [points.sheet(self.plan, self.dataset, records, self._missing_runs())]
        recorded = self.methods
        masking = recorded[0].runs[0].record["masking"]
        tests, tested = evidence.tested(self.plan, recorded, masking)
        sheets = [
            evidence.results(self.plan, recorded, masking, tests, self._missing_runs()),
            evidence.beside_the_paper(self.plan, recorded),
            *tested,
            *(evidence.slices(self.plan, recorded, name, masking) for name in evidence.GROUPINGS),
            evidence.lists(recorded),
        ]
        return [sheet for sheet in sheets if sheet is not None]

    def _missing_runs(self) -> list[str]:
        """A note on the planned runs without a record."""
        records = {record.recipe: record for _, record in self.recorded_runs}
        missing: dict[str, list[int]] = {}
        for seed, planned_runs in zip(self.seeds, self.by_seed, strict=True):
            for planned in planned_runs:
                required = seed == self.seeds[0] or self._is_quick(planned.label, records)
                if required and planned.recipe not in records:
                    missing.setdefault(planned.label, []).append(seed)
        if not missing:
            return []
        single_seed = len(self.seeds) == 1
        runs = [
            label
            if single_seed
            else f"{label} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
            for label, seeds in missing.items()
        ]
        return [f"Not in the records: {'; '.join(runs)}."]

    @property
    def file_name(self) -> str:
        """Stem of the written files; a part of a benchmark's methods has its own."""
        name = f"{self.plan.name}-{self.dataset}"
        if isinstance(self.plan, Figure) or self.settings.chosen == self.plan.models:
            return name
        return f"{name}-{short_name(self.settings.chosen)}"

    def write(self, folder: Path, sheets: Sequence[Sheet]) -> list[Path]:
        """Write tables as Markdown, LaTeX, CSV and HTML, and plots with their data."""
        name = self.file_name
        directory = RunDirectory(folder)
        directory.write_text(f"{name}.md", "\n\n".join(map(as_markdown, sheets)) + "\n")
        directory.write_text(f"{name}.tex", "\n\n".join(as_latex(s, name) for s in sheets) + "\n")
        directory.write_text(f"{name}.html", html_page(sheets[0].title, sheets))
        written = [folder / f"{name}.{kind}" for kind in ("md", "tex", "html")]
        if isinstance(self.plan, Figure):
            plot = folder / f"{name}.svg"
            config = HellmConfig(self.plan.model, self.dataset, self.overrides, self.files)
            defaults = {key: config[key] for panel in self.plan.panels for key in panel.axes}
            (sheet,) = sheets
            assert sheet.data is not None  # noqa: S101
            return [*written, plots.sweep(self.plan, sheet.data, plot, defaults)]
        for sheet in sheets:
            if sheet.data is not None:
                directory.write_text(f"{name}-{sheet.name}.csv", sheet.data.to_csv(index=False))
                written.append(folder / f"{name}-{sheet.name}.csv")
        masking = self.methods[0].runs[0].record["masking"]
        plot = folder / f"{name}-cost.svg"
        return [*written, plots.quality_and_cost(self.methods, PLOTTED, masking, plot)]


@dataclasses.dataclass(frozen=True)
class ComparisonReport:
    """The tables of a comparison as a text, and error messages by job or dataset."""

    text: str
    failed: Mapping[str, str]


def compare(
    settings: CompareSettings, overrides: Mapping[str, Any], files: Sequence[Path] = ()
) -> ComparisonReport:
    """Carry out the missing runs of a benchmark on each dataset, and show its tables.

    Parameters
    ----------
    settings : CompareSettings
    overrides : Mapping
        Settings of all runs, as ``run`` takes them.
    files : sequence of Path
        Files of such settings.

    Returns
    -------
    ComparisonReport

    Raises
    ------
    ConfigError
        If the benchmark, a model or a setting is unknown.
    RunError
        If no dataset has a table to show.
    """
    for key in ("output",) if settings.kept_only else ("output", "records"):
        _make_folder(key, getattr(settings, key))
    datasets = names(settings.datasets)
    comparisons = [Comparison(settings, dataset, overrides, files) for dataset in datasets]
    if not settings.kept_only:
        for comparison in comparisons:
            comparison.run()
    blocks: list[str] = []
    failed: dict[str, str] = {}
    for comparison in comparisons:
        failed |= comparison.failed
        try:
            sheets = comparison.sheets()
        except RunError as error:
            failed[comparison.dataset] = str(error)
            continue
        blocks += map(as_text, sheets)
        if settings.output:
            written = comparison.write(Path(settings.output), sheets)
            blocks.append(f"Files: {', '.join(map(str, written))}")
    if not blocks:
        raise RunError(" ".join(failed.values()))
    return ComparisonReport("\n\n".join(blocks), failed)


def _make_folder(key: str, path: str | None) -> None:
    """Make the folder before hours of training, not after them."""
    if path is None:
        return
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{key}={path} is not a folder and cannot be created ({error.strerror}); name another."
        ) from error
