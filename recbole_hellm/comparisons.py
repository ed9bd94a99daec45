"""Comparisons as a command shows them, and as a notebook uses them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from recbole_hellm.benchmark.compare_settings import CompareSettings
from recbole_hellm.benchmark.comparing import Comparison
from recbole_hellm.benchmark.studies import check_writable
from recbole_hellm.config.settings import names
from recbole_hellm.config.yaml_files import as_paths, with_lists
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.reporting.plots import as_svg
from recbole_hellm.reporting.sheets import Sheet, as_html, as_text
from recbole_hellm.runs.running import Files
from recbole_hellm.storage.files import writing


@dataclasses.dataclass(frozen=True, repr=False)
class Compared:
    """A comparison on one dataset.

    Attributes
    ----------
    sheets : tuple of Sheet
        Its tables, that of the results first.
    failed : Mapping of str to str
        Why runs are lacking, by run.
    """

    comparison: Comparison
    sheets: tuple[Sheet, ...]
    failed: Mapping[str, str]

    def __repr__(self) -> str:
        return as_text(self.sheets[0])

    def _repr_html_(self) -> str:
        return f"{as_html(self.sheets[0])}\n{as_svg(self.figure()).decode()}"

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Figures in full by the name of their table: ``results``, ``validation``, tests, ..."""
        return {sheet.name: sheet.data for sheet in self.sheets if sheet.data is not None}

    def figure(self) -> Figure:
        """Quality over the cost of training; of a figure of the paper, that figure."""
        return self.comparison.chart(self.sheets)


def compare(
    models: str | Sequence[str] | None = None,
    dataset: str = "sample",
    config_files: Files = (),
    **options: Any,
) -> Compared:
    """Compare models over seeds, as ``recbole-hellm compare`` does; what is kept is not run again.

    Parameters
    ----------
    models : str or sequence of str, optional
        Names as on the command line; the last one is tested against the others, or `reference`.
    dataset : str
    config_files : path or iterable of path
        YAML files with settings of all runs.
    **options
        Options of ``recbole-hellm compare`` (``benchmark``, ``seeds``, ``records``, ...), and
        settings of all runs.

    Returns
    -------
    Compared

    Raises
    ------
    HellmError
        For every user error, in one sentence.

    Examples
    --------
    >>> from recbole_hellm import compare
    >>> shown = compare(["Pop", "BPR"], "sample", seeds=2, epochs=5)  # doctest: +SKIP
    >>> shown.tables["results"]  # doctest: +SKIP
    """
    known = CompareSettings.declarations()
    own = {key: with_lists(value) for key, value in options.items() if key in known}
    overrides = {key: value for key, value in options.items() if key not in known}
    own |= {"models": with_lists(models), "datasets": dataset}
    settings = CompareSettings.from_config(own)
    files = as_paths(config_files)
    (part,) = _carried_out(settings, overrides, files)
    sheets = tuple(part.sheets())
    if settings.output:
        part.write(Path(settings.output), sheets)
    return Compared(part, sheets, part.failed)


@dataclasses.dataclass(frozen=True)
class ComparisonReport:
    """What a comparison shows: the tables as a text, and what went wrong, by job or dataset."""

    text: str
    failed: Mapping[str, str]


def report(
    settings: CompareSettings, overrides: Mapping[str, Any], files: Sequence[Path] = ()
) -> ComparisonReport:
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
    ComparisonReport

    Raises
    ------
    ConfigError
        If the benchmark, a model or a setting is unknown.
    RunError
        If no dataset has anything to show.
    """
    parts = _carried_out(settings, overrides, files)
    blocks: list[str] = []
    failed: dict[str, str] = {}
    for part in parts:
        failed |= part.failed
        try:
            sheets = part.sheets()
        except RunError as error:
            failed[part.dataset] = str(error)
            continue
        if settings.output:
            written = part.write(Path(settings.output), sheets)
            others = f"{len(sheets) - 1} more tables, " if len(sheets) > 1 else ""
            blocks += [as_text(sheets[0]), f"Files ({others}the same as data, and plots):"]
            blocks[-1] += "".join(f"\n  {path}" for path in written)
        else:
            blocks += map(as_text, sheets)
    if not blocks:
        raise RunError(" ".join(failed.values()))
    return ComparisonReport("\n\n".join(blocks), failed)


def _carried_out(
    settings: CompareSettings, overrides: Mapping[str, Any], files: Sequence[Path]
) -> list[Comparison]:
    """A comparison for each dataset, whose missing runs have been carried out."""
    datasets = names(settings.datasets)
    parts = [Comparison(settings, dataset, overrides, files) for dataset in datasets]
    for key in ("output",) if settings.kept_only else ("output", "records"):
        _make_folder(key, getattr(settings, key))
    if not settings.kept_only:
        for part in parts:
            part.run()
    return parts


def _make_folder(key: str, path: str | None) -> None:
    """Before hours of training, not after them."""
    if path is None:
        return
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{key}={path} is not a folder and cannot be created ({error.strerror}); name another."
        ) from error
    with writing(folder):
        check_writable(folder)
