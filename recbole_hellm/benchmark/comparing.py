"""``recbole-hellm compare``: run what a benchmark lacks, keep records, and show what they say."""

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
from recbole_hellm.benchmark.plans.benchmarks import short_name
from recbole_hellm.benchmark.plans.shapes import Figure, Table
from recbole_hellm.benchmark.records import SLICED, Record, read_records, write_record
from recbole_hellm.benchmark.running import Job, PlannedRun, carry_out
from recbole_hellm.benchmark.users import TestUsers
from recbole_hellm.config.resolution import HellmConfig, check_addressed
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.errors import ConfigError, HellmError, RunError
from recbole_hellm.evaluation.metrics import MetricSet
from recbole_hellm.reporting import evidence, plots, points, published
from recbole_hellm.reporting.headers import ending
from recbole_hellm.reporting.sheets import Sheet, as_latex, as_markdown, html_page
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.results import RunResult

logger = logging.getLogger(__name__)

SAVED_LISTS = 20  # items of each user's list that runs keep, which says nothing of their results
PLOTTED = "ndcg@10"  # quality over cost


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
        self.by_seed = [self._planned(seed) for seed in self.seeds]
        configs = [planned.job.config() for planned in self.by_seed[0]]
        check_addressed(configs)
        self._check_metrics(configs[0])
        self.protocol = RunSettings.from_config(configs[0]).protocol_suffix
        self.asked = self._asked(configs[0])
        self.failed: dict[str, str] = {}

    def _check_addressed(self) -> None:
        """``MODEL.key`` comes before everything; it must not undo what tells runs apart."""
        differing = self.plan.told_apart_by
        # The seed is the first of several, and a figure's points come before the user's settings.
        bare = frozenset() if isinstance(self.plan, Figure) else differing
        for setting in self._user_keys:
            _, addressed, key = setting.partition(".")
            if setting in bare or (addressed and key in differing | {"seed"}):
                raise ConfigError(
                    f"{setting} would apply to every run of {self.plan.name}, which differ in "
                    f"{key or setting}; leave it out."
                )

    def _seeds(self) -> list[int]:
        seeds = self.settings.seeds
        first = int(
            HellmConfig(self._path(self.settings.chosen[0]), self.dataset, self._settings_with({}))[
                "seed"
            ]
        )
        return [first + n for n in range(seeds)] if isinstance(seeds, int) else list(seeds)

    @property
    def _user_keys(self) -> set[str]:
        """Settings that the user has made, in files or on the command line."""
        return self.in_files | set(self.overrides)

    def _settings_with(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {"save_topk": SAVED_LISTS} | self.overrides | dict(more)

    def _asked(self, config: HellmConfig) -> MetricSet:
        """Metrics that the user names, and that the tables therefore show."""
        names = config["metrics"] if "metrics" in self._user_keys else ()
        return MetricSet.of(names, config["topk"])

    def _check_metrics(self, config: HellmConfig) -> None:
        """Before anything runs: what will be shown must be measured."""
        shown = set(self.plan.metrics)
        if isinstance(self.plan, Table):
            shown |= {PLOTTED, *SLICED.measures}
        lacking = shown - MetricSet.of(config["metrics"], config["topk"]).measures.keys()
        if lacking:
            raise ConfigError(
                f"A comparison shows {', '.join(sorted(lacking))}, which these runs would not "
                "measure; add it to metrics and topk."
            )

    def _planned(self, seed: int) -> list[PlannedRun]:
        plan = self.plan
        if isinstance(plan, Table):
            return [
                self._planned_run(seed, name, self._path(name), plan.settings.get(name, {}))
                for name in self.settings.chosen
            ]
        planned = []
        for panel in plan.panels:
            for point in panel.points():
                label = f"{panel.title} {', '.join(f'{value:g}' for value in point.values())}"
                run = self._planned_run(seed, label, plan.model, plan.exemptions(point), point)
                planned.append(dataclasses.replace(run, point={"panel": panel.title, **point}))
        return planned

    def _path(self, name: str) -> str:
        """What configurations call the model of that name."""
        return self.plan.paths.get(name, name) if isinstance(self.plan, Table) else name

    def _planned_run(
        self,
        seed: int,
        label: str,
        model: str,
        planned: Mapping[str, Any],
        point: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> PlannedRun:
        """A run with the settings of the plan that the user has not made, and those of a point."""
        defaults = {key: value for key, value in planned.items() if key not in self._user_keys}
        overrides = self._settings_with({"seed": seed, **defaults, **point})
        return PlannedRun(label, Job(model, self.dataset, overrides, self.files))

    # Runs ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Carry out and keep what there is no record of, the first seed of every method first."""
        for seed, planned in zip(self.seeds, self.by_seed, strict=True):
            records = self._records()
            missing = {
                run.recipe: run
                for run in planned
                if run.recipe not in records
                and (seed == self.seeds[0] or self._is_quick(run.label, records))
            }
            if not missing:
                continue
            logger.info(
                "%s on %s: %d of %d runs of seed %d to come.",
                *(self.plan.name, self.dataset, len(missing), len(planned), seed),
            )
            jobs = [self._with_fitting_lists(run.job) for run in missing.values()]
            carry_out(jobs, self.settings.jobs, self._keep)

    def _with_fitting_lists(self, job: Job) -> Job:
        """The job, with shorter lists than a comparison saves if there are too few items."""
        most = min(SAVED_LISTS, self._test_users.dataset.item_num - 1)
        fitting = {} if "save_topk" in self._user_keys else {"save_topk": most}
        return dataclasses.replace(job, overrides={**job.overrides, **fitting})

    def _keep(self, job: Job, outcome: RunResult | HellmError) -> None:
        if isinstance(outcome, HellmError):
            logger.error("%s: %s", job, outcome)
            self.failed[str(job)] = str(outcome)
            return
        try:
            details = isinstance(self.plan, Table)
            record = write_record(outcome, self.folder, self._test_users, details, self.asked)
            logger.info("Kept %s.", record.path)
        except HellmError as error:
            logger.error("%s: %s", job, error)
            self.failed[str(job)] = str(error)

    @functools.cached_property
    def _test_users(self) -> TestUsers:
        # Item features that a run will need are made first, so that records can name them.
        features = any(run.job.config().needs_features() for run in self.by_seed[0])
        return TestUsers.open(self.by_seed[0][0].job.config(), features)

    def _is_quick(self, label: str, records: Mapping[str, Record]) -> bool:
        if self.settings.minutes is None:
            return True
        first = next(run for run in self.by_seed[0] if run.label == label)
        if first.recipe not in records:
            return False
        cost = records[first.recipe].record["cost"]
        seconds = min(cost["train_seconds"], cost.get("train_cpu_seconds", float("inf")))
        return seconds <= 60 * self.settings.minutes

    def _records(self) -> dict[str, Record]:
        """Records that can be used: those of the data at hand, unless records alone are shown.

        A table needs ranks, which the points of a figure do not have.
        """
        test_users = None if self.settings.kept_only else self._test_users
        return read_records(self.folder, self.dataset, test_users, isinstance(self.plan, Table))

    # What they show -----------------------------------------------------------------------------

    @functools.cached_property
    def recorded(self) -> list[tuple[PlannedRun, Record]]:
        """Planned runs with their records, by seed; read when first needed.

        Raises
        ------
        RunError
            If there are none.
        """
        records = self._records()
        recorded = [
            (run, records[run.recipe])
            for planned in self.by_seed
            for run in planned
            if run.recipe in records
        ]
        if not recorded:
            reasons = "; ".join(f"{job}: {reason}" for job, reason in self.failed.items())
            missing = (
                f"{self.folder} holds no record of {self.plan.name} on {self.dataset} with these "
                f"settings (and {len(records)} of others); leave --kept_only out to run it."
            )
            raise RunError(reasons or missing)
        return recorded

    @functools.cached_property
    def methods(self) -> list[Method]:
        """A table's methods that have runs, checked to be comparable."""
        return methods(
            {
                name: [run for planned, run in self.recorded if planned.label == name]
                for name in self.settings.chosen
            }
        )

    @property
    def masking(self) -> str:
        """The masking of a table's runs, which is one for all."""
        return str(self.methods[0].runs[0].record["masking"])

    def sheets(self) -> list[Sheet]:
        """All tables of the dataset.

        Raises
        ------
        RunError
            If there are no records, or they are not comparable.
        """
        if isinstance(self.plan, Figure):
            runs = [(planned.point, run) for planned, run in self.recorded]
            return [points.sheet(self.plan, self.dataset, runs, self._absent())]
        asked = {key: metric for key, (metric, _) in self.asked.measures.items()}
        table = dataclasses.replace(self.plan, asked=asked)
        tests, tested = evidence.tested(table, self.methods, self.masking)
        sheets = [
            evidence.results(table, self.methods, self.masking, tests, self._absent()),
            evidence.validation(table, self.methods),
            *published.sheets(table, self.methods),
            *tested,
            *evidence.all_slices(table, self.methods, self.masking),
            evidence.lists(self.methods, self.asked.listed.metrics),
        ]
        return [sheet for sheet in sheets if sheet is not None]

    def _absent(self) -> list[str]:
        """A note on the runs that there are no records of."""
        records = {run.recipe: run for _, run in self.recorded}
        lacking: dict[str, list[int]] = {}
        for seed, planned in zip(self.seeds, self.by_seed, strict=True):
            for run in planned:
                wanted = seed == self.seeds[0] or self._is_quick(run.label, records)
                if wanted and run.recipe not in records:
                    lacking.setdefault(run.label, []).append(seed)
        if not lacking:
            return []
        alone = len(self.seeds) == 1
        labels = [
            label
            if alone
            else f"{label} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
            for label, seeds in lacking.items()
        ]
        return [f"Not in the records: {'; '.join(labels)}."]

    @property
    def file_name(self) -> str:
        """Of the files that are written.

        Other protocols than the default, and parts of a benchmark's methods, have their own.
        """
        name = f"{self.plan.name}-{self.dataset}{self.protocol}"
        if isinstance(self.plan, Figure) or self.settings.chosen == self.plan.models:
            return name
        return f"{name}-{short_name(self.settings.chosen)}"

    def write(self, folder: Path, sheets: Sequence[Sheet]) -> list[Path]:
        """Tables as Markdown, LaTeX, CSV and HTML, and plots with their data."""
        name = self.file_name
        directory = RunDirectory(folder)
        title = f"{self.plan.title}: {self.dataset}{ending(self.recorded[0][1].record)}"
        page = [f"# {title}", *map(as_markdown, sheets)]
        directory.write_text(f"{name}.md", "\n\n".join(page) + "\n")
        directory.write_text(f"{name}.tex", "\n\n".join(as_latex(s, name) for s in sheets) + "\n")
        directory.write_text(f"{name}.html", html_page(sheets[0].title, sheets))
        written = [folder / f"{name}.{kind}" for kind in ("md", "tex", "html")]
        if isinstance(self.plan, Figure):
            (sheet,) = sheets
            assert sheet.data is not None  # noqa: S101
            place = folder / f"{name}.svg"
            return [*written, plots.sweep(self.plan, sheet.data, place, self._marked(self.plan))]
        for sheet in sheets:
            if sheet.data is not None:
                directory.write_text(f"{name}-{sheet.name}.csv", sheet.data.to_csv(index=False))
                written.append(folder / f"{name}-{sheet.name}.csv")
        place = folder / f"{name}-cost.svg"
        cost = plots.quality_and_cost(self.methods, PLOTTED, self.masking, place)
        return [*written, cost]

    def _marked(self, plan: Figure) -> dict[str, Any]:
        """Defaults of the settings that a figure is about."""
        config = HellmConfig(plan.model, self.dataset, self.overrides, self.files)
        return {key: config[key] for panel in plan.panels for key in panel.axes}

    def chart(self, sheets: Sequence[Sheet]) -> plots.Canvas:
        """The plot of the comparison: quality over cost, or the figure itself."""
        if isinstance(self.plan, Figure):
            assert sheets[0].data is not None  # noqa: S101
            return plots.sweep_chart(self.plan, sheets[0].data, self._marked(self.plan))
        return plots.cost_chart(self.methods, PLOTTED, self.masking)[0]
