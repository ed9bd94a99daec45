"""A first look at the names on a command line, before anything large is imported."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from recbole_hellm.cli.arguments import TEXT, split_arguments
from recbole_hellm.errors import ConfigError


def check_names(words: Sequence[str], datasets: bool) -> None:
    """Check that the models and the dataset on a command line exist.

    The command itself checks everything again, and more. Names that a benchmark or a settings file
    may explain are left to it.

    Parameters
    ----------
    words : sequence of str
        The command's arguments.
    datasets : bool
        Whether the dataset's files are needed.

    Raises
    ------
    HellmError
        If a name is unknown.
    """
    from recbole_hellm import registry

    texts = {key: text for key, text in split_arguments(words) if key and text}
    if "benchmark" in texts:
        return
    for model in (model for key in ("model", "models") for model in _names(texts.get(key))):
        registry.check_known(model)
    if datasets and "config" not in texts:
        for dataset in _names(texts.get("dataset")):
            _check_dataset(dataset, texts.get("data_path"))


def _names(text: str | None) -> tuple[str, ...]:
    from recbole_hellm.config.settings import names

    if text in ("null", "~"):  # YAML's words for nothing
        return ()
    with contextlib.suppress(ConfigError):  # the command reads the value again
        return names(TEXT.read("", text)) if text else ()
    return ()


def _check_dataset(name: str, data_path: str | None) -> None:
    from recbole_hellm.cli.options import dataset_directory

    options = {"dataset": name} | ({"data_path": data_path} if data_path else {})
    directory: Path = dataset_directory(options)[1]
    if (directory / f"{name}.inter").is_file() or name == "sample":
        return
    from recbole_hellm.data.preparation.datasets.families import family_of

    if family_of(name) is None:
        from recbole_hellm.data.preparation.prepare import prepare_dataset

        prepare_dataset(name, directory)  # raises with the names that there are
