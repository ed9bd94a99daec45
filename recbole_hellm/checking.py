"""Verify the files of runs, records, features and datasets against their checksums."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recbole_hellm.benchmark.record_files import RecordDirectory
from recbole_hellm.data.features import store
from recbole_hellm.data.preparation.manifest import MANIFEST, WAY_OUT, listed_files, read_manifest
from recbole_hellm.errors import ConfigError, DataError, RunError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.storage.checksums import damage
from recbole_hellm.storage.sealed_folders import RECORD
from recbole_hellm.tracking.tracker import LOCAL_STORES


@dataclasses.dataclass
class Findings:
    """What a check found.

    Attributes
    ----------
    folders : int
        Runs, records, feature stores and datasets.
    damaged : list of str
        A sentence for each damaged file.
    unchecked : list of Path
        Folders that an earlier version wrote, without checksums.
    """

    folders: int = 0
    damaged: list[str] = dataclasses.field(default_factory=list)
    unchecked: list[Path] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        counted = (
            f"{self.folders:,} runs, records, features and datasets: {len(self.damaged):,} damaged "
            f"files, {len(self.unchecked):,} without checksums."
        )
        old = (f"{path} has no checksums: an earlier version wrote it." for path in self.unchecked)
        return "\n".join([*self.damaged, *old, counted])


def check(paths: Iterable[str | Path]) -> Findings:
    """Verify all that lies in folders, and in folders in them.

    Parameters
    ----------
    paths : iterable of path
        Runs, records or datasets; or folders of them.

    Raises
    ------
    ConfigError
        If a path is no folder, or holds nothing that can be checked.
    """
    findings = Findings()
    for path in map(Path, paths):
        if not path.is_dir():
            raise ConfigError(f"{path} is no folder; name a run, a dataset or a folder of these.")
        before = findings.folders
        for folder in _folders(path):
            _check_folder(folder, findings)
        if findings.folders == before:
            raise ConfigError(
                f"{path} holds no run, record, features or dataset; name another folder."
            )
    return findings


def _folders(path: Path) -> Iterator[Path]:
    """A folder and those in it, without hidden ones, those of trackers and links to others."""
    for folder, inner, _ in os.walk(path):
        inner[:] = sorted(
            name for name in inner if not name.startswith(".") and name not in LOCAL_STORES
        )
        yield Path(folder)


def _check_folder(folder: Path, findings: Findings) -> None:
    # A record's ranks have another name.
    is_run = any((*folder.glob("ranks-*.parquet"), *folder.glob("*.pt")))
    run = RunDirectory(folder) if is_run else RecordDirectory(folder)
    if (folder / RECORD).exists():
        findings.folders += 1
        _check_record(run, findings)
    elif run.last_checkpoint.is_file() or any(folder.glob("ranks*.parquet")):
        findings.folders += 1
        _check_unfinished(run, findings)
    if (folder / MANIFEST).is_file() and any(folder.glob("*.inter")):
        findings.folders += 1
        _check_dataset(folder, findings)
    if (folder / store.FOLDER).is_dir():
        findings.folders += 1
        findings.damaged += [reason for _, reason in store.verify_features(folder)]


def _check_record(run: RunDirectory, findings: Findings) -> None:
    damaged = list(run.damages())
    if not damaged:
        try:
            run.record()
        except RunError as error:
            damaged.append(str(error))
        else:
            if run.listed() is None:
                findings.unchecked.append(run.path)
    findings.damaged += damaged


def _check_unfinished(run: RunDirectory, findings: Findings) -> None:
    if any(run.path.glob("ranks*.parquet")):
        is_record = isinstance(run, RecordDirectory)
        way_out = run.way_out if is_record else "finish the run with --resume"
        findings.damaged.append(
            f"{run.file(RECORD)} is missing, though the results beside it are there; {way_out}."
        )
    for path in (run.last_checkpoint, run.best_checkpoint):
        try:
            if path.is_file():
                run.check_checkpoint(path)
        except RunError as error:
            findings.damaged.append(str(error))


def _check_dataset(folder: Path, findings: Findings) -> None:
    try:
        manifest: dict[str, Any] = read_manifest(folder) or {}
    except DataError as error:
        findings.damaged.append(str(error))
        return
    files = listed_files(manifest)
    if not files:
        findings.unchecked.append(folder)
    for name in files:
        if reason := damage(folder, files, name):
            findings.damaged.append(f"{folder / name} is damaged ({reason}); {WAY_OUT}.")
