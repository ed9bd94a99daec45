"""The sample as the package ships it, for folders that do not have it.

Its files are those of :func:`recbole_hellm.data.preparation.sample.generate_sample`. They are
shipped because numpy may draw other numbers from the same seed one day, and results on the sample
shall compare wherever the package is installed.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

from recbole_hellm.data.features.store import FOLDER
from recbole_hellm.data.preparation.atomic import replace_files
from recbole_hellm.data.preparation.manifest import MANIFEST, check_files, read_manifest
from recbole_hellm.data.preparation.sample import generate_sample
from recbole_hellm.data.preparation.versions import Replacing
from recbole_hellm.errors import DataError, reason
from recbole_hellm.storage.files import atomic_paths

NAME = "sample"
_IMAGES = "image-synthetic"


def shipped_folder() -> Path:
    """The package's folder of the sample; in a checkout, a link to ``dataset/sample``."""
    return Path(str(importlib.resources.files("recbole_hellm.data"))) / NAME


def write_sample(directory: Path, replacing: Replacing | None = None) -> dict[str, Any]:
    """Write the sample's files and its image features.

    Parameters
    ----------
    directory : Path
        The dataset directory, for example ``dataset/sample``.
    replacing : Replacing, optional
        Whether other data may be replaced; by default it is.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    DataError
        If other data must not be replaced, or the package's own files are damaged.
    StorageError
        If the folder cannot be written to.

    Notes
    -----
    In a checkout, `directory` can be the shipped folder itself. Its files are generated there, and
    where links are not checked out as such (Windows).
    """
    source = shipped_folder()
    if not (source / MANIFEST).is_file() or source.resolve() == Path(directory).resolve():
        return generate_sample(directory, replacing=replacing)
    try:
        check_files(source)
    except DataError as error:
        raise DataError(f"{reason(error)}; install recbole-hellm again.") from error
    contents = {file: (source / file).read_bytes() for file in (f"{NAME}.inter", f"{NAME}.item")}
    manifest = (source / MANIFEST).read_bytes()
    replace_files(NAME, Path(directory), contents, manifest, replacing or Replacing())
    _copy_features(source / FOLDER, Path(directory) / FOLDER)
    return read_manifest(Path(directory)) or {}


def _copy_features(source: Path, target: Path) -> None:
    files = sorted(source.glob(f"{_IMAGES}.*"))
    with atomic_paths([target / file.name for file in files]) as temporaries:
        for file, temporary in zip(files, temporaries, strict=True):
            temporary.write_bytes(file.read_bytes())
