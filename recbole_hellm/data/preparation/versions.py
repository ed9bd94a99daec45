"""Earlier versions of a dataset, kept for the runs that were trained on them.

A version is a folder ``<dataset>/versions/<hash>/`` that can be named as ``data_path``: it holds
one folder, named like the dataset, with the files that the dataset had before it was prepared
again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from recbole_hellm.data.interactions.atomic_files import AtomicFile
from recbole_hellm.data.interactions.splits import interactions_hash
from recbole_hellm.data.preparation.manifest import MANIFEST, check_files, read_manifest
from recbole_hellm.errors import DataError
from recbole_hellm.storage.checksums import file_sha256
from recbole_hellm.storage.files import atomic_folder

logger = logging.getLogger(__name__)

VERSIONS = "versions"
_LENGTH = 12
# What a run may read of a dataset besides its features.
_KEPT = (".inter", ".item", ".user", ".kg", ".link", ".json")
_FEATURES = "features"
_FIELDS = ("user_id", "item_id")


def finished_runs(runs_dir: Path, name: str) -> list[Path]:
    """Folders of the finished runs on a dataset.

    Parameters
    ----------
    runs_dir : Path
        The folder of runs; it need not be there.
    name : str
        The dataset's name.
    """
    records = (runs_dir / name).glob("*/*/metrics.json")
    return sorted(record.parent for record in records if record.is_file())


@dataclasses.dataclass(frozen=True)
class Replacing:
    """Whether a dataset may be replaced by other data.

    Attributes
    ----------
    force : bool
        Even if there are finished runs on it; their data is kept as a version.
    runs_dir : Path, optional
        Where runs are looked for; None looks for none.
    """

    force: bool = False
    runs_dir: Path | None = None

    def make_room(self, name: str, directory: Path, contents: Mapping[str, bytes]) -> None:
        """Keep the data that `contents` replaces, where runs need it.

        Parameters
        ----------
        name, directory : str, Path
            The dataset's name and folder.
        contents : mapping of str to bytes
            Its new files.

        Raises
        ------
        DataError
            If there are finished runs on other data, or other data without a manifest, which
            `prepare` did not make, and `force` is not set.
        """
        if self.runs_dir is None:
            return
        runs = finished_runs(self.runs_dir, name)
        foreign = not (directory / MANIFEST).is_file()
        if not (runs or foreign) or not differs(name, directory, contents):
            return
        if not self.force and not runs:
            raise DataError(
                f"{directory} holds files that prepare did not make; replace them with --force, "
                f"which keeps them in {directory / VERSIONS}, or give the dataset another name "
                "with --dataset=NAME."
            )
        if not self.force:
            raise DataError(
                f"{directory} holds other data, and {len(runs)} finished runs stand on it (such as "
                f"{runs[0]}); replace it with --force, which keeps the data of these runs in "
                f"{directory / VERSIONS}, or give the dataset another name with --dataset=NAME."
            )
        version = keep_version(name, directory)
        if version is not None:
            logger.info(
                "The earlier data of '%s'%s is kept in %s.",
                name,
                ", which runs stand on," * bool(runs),
                version,
            )


def differs(name: str, directory: Path, contents: Mapping[str, bytes]) -> bool:
    """Whether the interactions or items in a folder are other ones than those in `contents`.

    A folder without interactions holds no data, which cannot differ.
    """
    if not (directory / f"{name}.inter").is_file():
        return False
    for file in (f"{name}.inter", f"{name}.item"):
        path, content = directory / file, contents.get(file)
        digest = None if content is None else hashlib.sha256(content).hexdigest()
        if digest != (file_sha256(path) if path.is_file() else None):
            return True
    return False


def keep_version(name: str, directory: Path) -> Path | None:
    """Keep the files of a dataset as a version, without copying them where links are possible.

    Returns
    -------
    Path or None
        The version, for ``data_path``; None if the files are damaged, so that no run was trained
        on them.
    """
    try:
        check_files(directory)
        content = content_of(name, directory)
    except DataError as error:
        logger.warning("No version of %s is kept: %s", directory, error)
        return None
    root = directory / VERSIONS
    version = root / content[:_LENGTH]
    for number in itertools.count(2):  # texts or features may differ where interactions do not
        if not version.exists():
            break
        if _same(directory, version / name):
            return version
        version = root / f"{content[:_LENGTH]}-{number}"
    with atomic_folder(version) as temporary:
        for path in _files(directory):
            target = temporary / name / path.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:  # a file system without hard links
                shutil.copy2(path, target)
    return version


def version_directories(name: str, directory: Path, content: str) -> list[Path]:
    """The versions of a dataset, those with interactions of a given hash first.

    Parameters
    ----------
    name, directory : str, Path
        The dataset's name and folder.
    content : str
        :func:`recbole_hellm.data.interactions.splits.interactions_hash`.

    Returns
    -------
    list of Path
        Each can be the ``data_path`` of a run. A run that filters its data may have been trained
        on any of them.
    """
    root = directory / VERSIONS
    folders = [path for path in sorted(root.glob("*")) if (path / name).is_dir()]
    return sorted(folders, key=lambda path: not path.name.startswith(content[:_LENGTH]))


def content_of(name: str, directory: Path) -> str:
    """Hash of a dataset's interactions: that of its manifest, else that of what it holds.

    Raises
    ------
    DataError
        If it has no interactions, or the manifest is damaged.
    """
    manifest = read_manifest(directory)
    if manifest is not None and "content" in manifest:
        return str(manifest["content"])
    path = directory / f"{name}.inter"
    if manifest is None:  # RecBole's files from elsewhere, with columns and an order of their own
        return file_sha256(path)
    return interactions_hash(AtomicFile(path).read(_FIELDS.__contains__), *_FIELDS)


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.suffix in _KEPT and path.is_file():
            yield path
    for path in sorted((directory / _FEATURES).glob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield path


def _same(directory: Path, version: Path) -> bool:
    """Whether a version has all files as they are now."""
    for path in _files(directory):
        kept = version / path.relative_to(directory)
        if not kept.is_file() or file_sha256(kept) != file_sha256(path):
            return False
    return True
