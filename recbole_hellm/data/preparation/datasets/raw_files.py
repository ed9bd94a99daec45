"""Find the raw files of a dataset in folders, or download them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from recbole_hellm.data.downloads.http import DownloadError, download
from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.data.downloads.retry import RetryPolicy
from recbole_hellm.data.preparation.datasets.base import DatasetFamily, RawFile
from recbole_hellm.data.preparation.packed_files import member_of
from recbole_hellm.errors import DataError

logger = logging.getLogger(__name__)

RAW_DIR_VARIABLE = "HELLM_RAW_DIR"


def find_raw_files(
    family: DatasetFamily, dataset: str, raw_dir: Path | None = None, others: Sequence[Path] = ()
) -> dict[str, Path] | None:
    """Look for the raw files of a dataset, packed or unpacked.

    Parameters
    ----------
    family : DatasetFamily
    dataset : str
    raw_dir : Path, optional
        Searched first, then the folder in the environment variable HELLM_RAW_DIR, then `others`;
        in each the subfolders that :meth:`DatasetFamily.folders` names, in their order.

    Returns
    -------
    dict of str to Path, or None
        By the names of :meth:`DatasetFamily.files`; None if no folder holds all of them.
    """
    for root in (*_raw_folders(raw_dir), *others):
        paths = {
            part: _find(root, family.folders(dataset), file)
            for part, file in family.files(dataset).items()
        }
        present = {part: path for part, path in paths.items() if path is not None}
        if len(present) == len(paths):
            logger.info("Reading %s.", " and ".join(map(str, present.values())))
            return present
    return None


def raw_files(
    family: DatasetFamily,
    dataset: str,
    directory: Path,
    raw_dir: Path | None = None,
    mirrors: Mirrors | None = None,
    progress: bool = True,
    retry_policy: RetryPolicy | None = None,
) -> dict[str, Path]:
    """The raw files of a dataset; those in no folder are downloaded.

    Parameters
    ----------
    family : DatasetFamily
    dataset : str
    directory : Path
        The dataset's folder. Downloads go to `raw_dir`, else to the folder in HELLM_RAW_DIR, else
        to the subfolder ``raw`` of this one. A file that is there already is not downloaded again.
    raw_dir : Path, optional
        See :func:`find_raw_files`.
    mirrors : Mirrors, optional
        Where files come from; by default what the environment and the family say.
    progress : bool
        Show progress bars.
    retry_policy : RetryPolicy, optional

    Returns
    -------
    dict of str to Path
        By the names of :meth:`DatasetFamily.files`.

    Raises
    ------
    DataError
        If files are missing and cannot be downloaded; it names them.
    """
    own_folder = Path(directory) / "raw"
    complete = find_raw_files(family, dataset, raw_dir, [own_folder])
    if complete is not None:
        return complete
    mirrors = mirrors or Mirrors()
    searched = _raw_folders(raw_dir)
    target = searched[0] if searched else own_folder
    if family.own_folder:
        target = target / dataset
    files, folders = family.files(dataset), family.folders(dataset)
    if mirrors.forbidden:
        reason = "downloads are switched off (mirrors=none)"
        raise DataError(_missing(dataset, files, searched, reason))
    paths = {}
    for part, file in files.items():
        path = _find(target, folders, file)
        if path is None:
            name = file.downloaded
            urls = mirrors.urls(name, (family.name, f"{family.name}-{part}"), file.addresses)
            logger.info("Downloading %s to %s.", name, target)
            try:
                known = mirrors.known(name, file.known)
                path = _unpacked(download(urls, target / name, known, progress, retry_policy), file)
            except DownloadError as error:
                reason = str(error).rstrip(".") if urls else f"no address of {name} is known"
                raise DataError(_missing(dataset, files, searched, reason)) from error
        paths[part] = path
    return paths


def _missing(
    dataset: str, files: Mapping[str, RawFile], searched: Sequence[Path], reason: str
) -> str:
    names = list(dict.fromkeys(file.downloaded for file in files.values()))
    both = "not both" if len(names) == 2 else "not all" if len(names) > 2 else "not"
    where = f"{both} in {' or '.join(map(str, searched))}" if searched else "no folder is set"
    return (
        f"Dataset '{dataset}' needs {' and '.join(names)} ({where}; {reason}): put "
        f"{'it' if len(names) == 1 else 'them'} into one folder, packed or unpacked, and name it "
        f"with --raw_dir or the environment variable {RAW_DIR_VARIABLE}."
    )


def _raw_folders(raw_dir: Path | None) -> list[Path]:
    variable = os.environ.get(RAW_DIR_VARIABLE)
    return [Path(root).expanduser() for root in (raw_dir, variable) if root]


def _find(root: Path, folders: Sequence[str], file: RawFile) -> Path | None:
    for folder in folders:
        for name in (file.downloaded, file.name):
            if (root / folder / name).is_file():
                return _unpacked(root / folder / name, file)
    return None


def _unpacked(path: Path, file: RawFile) -> Path:
    """`path`, or the member that is meant if it is an archive."""
    is_archive = path.suffix == ".zip" and path.name != file.name
    return member_of(path, file.name) if is_archive else path
