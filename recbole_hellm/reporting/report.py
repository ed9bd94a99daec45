"""One HTML page of finished runs: results, learning curves, cost and recommendations to browse.

The page holds all it needs, the plotting library included, and forbids itself by its
Content-Security-Policy to load anything else.
"""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pydantic
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from typing_extensions import NotRequired, TypedDict

from recbole_hellm import __version__
from recbole_hellm.config.devices import AUTO, DEVICE_HELP
from recbole_hellm.config.resolution import MASKINGS
from recbole_hellm.config.settings import Settings, require, require_file_name, setting
from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.errors import ConfigError, DataError, HellmError, RunError
from recbole_hellm.evaluation.metrics import BUILT_IN, find
from recbole_hellm.evaluation.user_values import mean_interval
from recbole_hellm.extensions import is_import_path
from recbole_hellm.reporting import curves
from recbole_hellm.reporting.headers import ending
from recbole_hellm.reporting.numbers import undefined
from recbole_hellm.reporting.tables import common_metrics, comparable
from recbole_hellm.runs.directory import CONFIG, RunDirectory
from recbole_hellm.runs.recommending import Recommender
from recbole_hellm.runs.results import RunResult, load_run, run_names
from recbole_hellm.storage.files import write_text
from recbole_hellm.storage.json_files import fit
from recbole_hellm.storage.terminal import plain_text
from recbole_hellm.storage.text_files import read_bytes
from recbole_hellm.tracking.curves import Curve, read_curves

logger = logging.getLogger(__name__)

LARGEST_PICTURE = 300_000  # bytes of a picture that is put into the page
COSTS = {
    "train_seconds": ("training, s", "{:,.1f}"),
    "test_seconds": ("test, s", "{:,.2f}"),
    "total_seconds": ("in all, s", "{:,.1f}"),
    "samples_per_second": ("samples/s", "{:,.0f}"),
    "peak_memory_mb": ("memory, MB", "{:,.0f}"),
    "parameters": ("parameters", "{:,}"),
    "trainable_parameters": ("trained", "{:,}"),
}
MASKING_NOTES = {
    "seen": "items the user met before the test item are not ranked",
    "train": "training items are not ranked",
    "none": "every item is ranked, those the user has met included",
}


class ReportSettings(Settings):
    """What a page shows."""

    output: str = setting("report.html", "The file to write.")
    users: int = setting(
        12, "Users whose recommendations can be browsed; 0 restores no model.", ge=0
    )
    topk: int = setting(10, "Recommended items of each user.", ge=1)
    recent: int = setting(6, "Items of the history of each user.", ge=0)
    images: str | None = setting(
        None, "Folder with pictures named by item token; the dataset's folder images otherwise."
    )
    seed: int = setting(0, "Random seed of the sampled users.")
    data_path: str | None = setting(None, "Where the datasets lie if they have moved.")
    backbone: str | None = setting(None, "Where a frozen backbone lies if it has moved.")
    device: str = setting(AUTO, DEVICE_HELP)

    def validate_relations(self) -> None:
        """Check that a file is named; raises :class:`ConfigError`."""
        require_file_name("output", self.output)
        require(
            Path(self.output).suffix.lower() in ("", ".html", ".htm"),
            f"output={self.output}: a report is an HTML page; let the name end in .html.",
        )


def write_report(
    runs: Iterable[str | Path | RunResult], settings: ReportSettings | None = None
) -> Path:
    """Write the page of `runs` and of the stages they stand on.

    Parameters
    ----------
    runs : iterable of path or RunResult
        Finished runs on one split.
    settings : ReportSettings, optional

    Returns
    -------
    Path
        The file.

    Raises
    ------
    RunError
        If a run is not finished, or the runs cannot be compared.
    ConfigError
        If the file cannot be written.
    """
    settings = settings or ReportSettings()
    results = [run if isinstance(run, RunResult) else load_run(run) for run in runs]
    require(bool(results), "A report needs at least one finished run.")
    path = Path(settings.output)
    try:
        write_text(path, report(results, settings))
    except OSError as error:
        raise ConfigError(f"output={path} cannot be written ({error.strerror}).") from error
    return path


def report(results: list[RunResult], settings: ReportSettings) -> str:
    """The page as a text; see :func:`write_report`."""
    runs = comparable(results)
    names = run_names(runs)
    palette = curves.COLOURS
    colours = {name: palette[i % len(palette)] for i, name in enumerate(names.values())}
    pictures = _Pictures()
    browser, notes = _browser(results, names, settings, pictures)
    environment = Environment(
        loader=PackageLoader("recbole_hellm.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        version=__version__,
        record=runs[0].record,
        runs=[(names[str(run.path)], run) for run in runs],
        colours=colours,
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        figures=_figures(runs, names, colours),
        results=_results(runs, names),
        costs=_costs(runs, names),
        browser=browser,
        browsed=[names[str(run.path)] for run in results],
        notes=notes,
        pictures=pictures.data,
        left_out=pictures.left_out,
        largest=LARGEST_PICTURE // 1000,
    )


def _results(runs: list[RunResult], names: Mapping[str, str]) -> list[dict[str, Any]]:
    own, smaller = runs[0].record["masking"], _smaller_is_better(runs)
    tables = []
    for masking in (own, *(name for name in MASKINGS if name != own)):
        metrics = common_metrics(runs, masking)
        best = {}
        for name in metrics:
            choose = min if name.partition("@")[0] in smaller else max
            values_of_runs = (run.metrics("test", masking)[name] for run in runs)
            best[name] = choose(filter(math.isfinite, values_of_runs), default=None)
        rows = []
        for run in runs:
            values = run.metrics("test", masking)
            cells = [(f"{values[name]:.4f}", values[name] == best[name]) for name in metrics]
            rows.append((names[str(run.path)], cells))
        shown = [run.metrics("test", masking)[name] for run in runs for name in metrics]
        told = f"{MASKING_NOTES[masking]}{ending(runs[0].record)}"
        note = "; ".join([told, *undefined(shown)]).rstrip(".")
        tables.append({"masking": masking, "note": note, "metrics": metrics, "rows": rows})
    return tables


def _smaller_is_better(runs: list[RunResult]) -> set[str]:
    """Names of the runs' metrics of which less is better."""
    metrics = list(BUILT_IN.values())
    written = {name for run in runs for name in _settings(run).get("metrics", ())}
    for path in sorted(filter(is_import_path, written)):
        try:
            metrics.append(find(path))
        except ConfigError as error:  # the results are shown all the same
            logger.warning("More counts as better of this metric: %s", error)
    return {metric.name for metric in metrics if not metric.bigger_is_better}


class _Shown(TypedDict):
    """Settings that a page needs."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    metrics: NotRequired[list[str]]
    valid_metric: NotRequired[str]


def _settings(run: RunResult) -> dict[str, Any]:
    directory = RunDirectory(run.path)
    if not directory.holds(CONFIG):
        return {}
    path, settings = directory.file(CONFIG), directory.settings()
    found: dict[str, Any] = fit(settings, _Shown, path, RunError, directory.way_out)
    return found


def _costs(runs: list[RunResult], names: Mapping[str, str]) -> dict[str, Any]:
    keys = [key for key in COSTS if any(key in run.record["cost"] for run in runs)]
    rows = []
    for run in runs:
        cost = run.record["cost"]
        known = {key: value for key, value in cost.items() if value is not None}
        cells = [COSTS[key][1].format(known[key]) if key in known else "–" for key in keys]
        epochs = f"{run.record['best_epoch']} of {run.record['epochs']}"
        rows.append((names[str(run.path)], [epochs, *cells]))
    return {"heads": ["best epoch", *(COSTS[key][0] for key in keys)], "rows": rows}


def _figures(
    runs: list[RunResult], names: Mapping[str, str], colours: Mapping[str, str]
) -> dict[str, Any]:
    read = {names[str(run.path)]: _curves(run, names[str(run.path)]) for run in runs}
    best = {names[str(run.path)]: run.record["best_epoch"] for run in runs}
    metric = _valid_metric(runs)
    validation = {name: of_run[metric] for name, of_run in read.items() if of_run.get(metric)}
    # A model that learns nothing has one epoch, whose loss is no curve.
    losses = {
        name: of_run["loss/total"]
        for name, of_run in read.items()
        if len(of_run.get("loss/total", [])) > 1
    }
    masking = runs[0].record["masking"]
    chosen = common_metrics(runs, masking)
    chosen = [name for name in chosen if name.startswith(("recall@", "ndcg@"))] or chosen[:4]
    bars = {
        names[str(run.path)]: {name: run.metrics("test", masking)[name] for name in chosen}
        for run in runs
    }
    intervals = {names[str(run.path)]: known for run in runs if (known := _intervals(run, chosen))}
    spent = {names[str(run.path)]: run.record["cost"].get("train_seconds") for run in runs}
    seconds = {name: value for name, value in spent.items() if value is not None}
    lines = curves.curve_lines(validation, colours, best, 360) if validation else None
    return {
        "results": _drawn(curves.metric_bars(bars, colours, intervals), "results"),
        "intervals": bool(intervals),
        "metric": metric.removeprefix("valid/"),
        "validation": _drawn(lines, "validation") if lines else None,
        "losses": [
            (name, _drawn(curves.curve_lines({name: curve}, colours, best, 220), f"loss-{i}"))
            for i, (name, curve) in enumerate(losses.items())
        ],
        "without": [name for name, of_run in read.items() if not of_run],
        "seconds": _drawn(curves.seconds_bars(seconds, colours), "seconds"),
    }


def _curves(run: RunResult, name: str) -> dict[str, Curve]:
    try:
        return read_curves(run.path)
    except RunError as error:  # the page tells that there are none
        logger.warning("No learning curves of %s: %s", plain_text(name), error)
        return {}


def _intervals(run: RunResult, metrics: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals over users of a run's rank metrics, under its own masking."""
    try:
        users = run.per_user()
    except RunError as error:  # the page shows the means alone
        logger.warning("No intervals of %s: %s", plain_text(str(run.path)), error)
        return {}
    return {name: mean_interval(users[name].to_numpy()) for name in metrics if name in users}


def _valid_metric(runs: list[RunResult]) -> str:
    """The curve of the metric that chose the last run's epoch."""
    return f"valid/{_settings(runs[-1]).get('valid_metric', 'NDCG@10')}".lower()


def _drawn(figure: go.Figure, name: str) -> Markup:
    # Plotly escapes what could end its script.
    options = {"responsive": True, "displayModeBar": False}
    text = figure.to_html(options, full_html=False, include_plotlyjs=False, div_id=f"plot-{name}")
    return Markup(text)  # noqa: S704


# Recommendations ---------------------------------------------------------------------------------


class _Pictures:
    """Pictures of items as data URIs, each once."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.left_out = 0
        self._classes: dict[str, str | None] = {}

    def add(self, metadata: ItemMetadata, token: str) -> str | None:
        """The class of an item's picture; None where there is none to show."""
        if token not in self._classes:
            self._classes[token] = self._read(metadata, token)
        return self._classes[token]

    def _read(self, metadata: ItemMetadata, token: str) -> str | None:
        picture = metadata.picture(token)
        if picture is None:
            return None
        try:
            content = read_bytes(
                picture.path, DataError, "the page leaves it out", limit=LARGEST_PICTURE
            )
        except DataError as error:
            logger.debug("%s", error)
            self.left_out += 1
            return None
        name = f"p{len(self.data)}"
        data = base64.b64encode(content).decode()
        self.data[name] = f"data:{picture.kind};base64,{data}"
        return name


def _browser(
    results: list[RunResult],
    names: Mapping[str, str],
    settings: ReportSettings,
    pictures: _Pictures,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Sampled users with their history and each run's recommendations, and what went wrong."""
    users: list[dict[str, Any]] = []
    notes: list[str] = []
    if settings.users == 0:
        return users, notes
    images = Path(settings.images) if settings.images else None
    for run in results:
        name = names[str(run.path)]
        try:
            recommender = Recommender.open(
                run, settings.data_path, settings.backbone, images, device=settings.device
            )
        except HellmError as error:  # the page tells it in place of the recommendations
            logger.warning("No recommendations of %s: %s", plain_text(name), error)
            notes.append(f"{name}: {error}")
            continue
        metadata = recommender.metadata
        if not users:
            users = _sampled(recommender, settings, pictures)
        recommended = recommender.for_users([user["token"] for user in users], settings.topk)
        lists = dict(iter(recommended.groupby("user", sort=False)))
        for user in users:
            rows = lists[user["token"]].to_dict("records") if user["token"] in lists else []
            named = [{str(key): value for key, value in row.items()} for row in rows]
            cards = [_card(row["item"], metadata, pictures, row) for row in named]
            user["lists"].append({"name": name, "cards": cards})
    return users, notes


def _sampled(
    recommender: Recommender, settings: ReportSettings, pictures: _Pictures
) -> list[dict[str, Any]]:
    dataset = recommender.dataset
    tokens = dataset.field2id_token[dataset.uid_field][dataset.histories.evaluated("test")]
    count = min(settings.users, len(tokens))
    drawn = np.random.default_rng(settings.seed).choice(len(tokens), count, replace=False)
    users = []
    for token in sorted(str(token) for token in np.sort(tokens)[drawn]):
        recent = recommender.recent(token, settings.recent)
        cards = [_card(item, recommender.metadata, pictures) for item in recent]
        users.append({"token": token, "history": cards, "lists": []})
    return users


def _card(
    item: str,
    metadata: ItemMetadata,
    pictures: _Pictures,
    row: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    title = metadata.title(item) or item
    return {
        "item": item,
        "title": title,
        "categories": metadata.category(item),
        "picture": pictures.add(metadata, item),
        "initial": title[:1].upper(),
        "rank": row["rank"] if row else None,
        "score": f"{row['score']:.3f}" if row else None,
    }
