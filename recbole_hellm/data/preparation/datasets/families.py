"""The dataset families that are known: built in, from installed packages, or by import path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from recbole_hellm.data.preparation.datasets.base import DatasetFamily
from recbole_hellm.errors import ConfigError, nearest
from recbole_hellm.extensions import installed, is_import_path, load_object

ENTRY_POINTS = "recbole_hellm.datasets"
_HERE = "recbole_hellm.data.preparation.datasets"
BUILT_IN = {
    "amazon2014": f"{_HERE}.amazon2014:Amazon2014",
    "amazon2018": f"{_HERE}.amazon2018:Amazon2018",
    "amazon2023": f"{_HERE}.amazon2023:Amazon2023",
    "movielens": f"{_HERE}.movielens:MovieLens",
}


TOTALS = {"users", "items", "interactions"}
"""What can be known of a dataset's size."""


def families() -> Iterator[DatasetFamily]:
    """All families that are known by name, those of this package first."""
    return (_load(path) for path in _import_paths().values())


def family_named(name: str) -> DatasetFamily:
    """A family by its name or import path.

    Raises
    ------
    ConfigError
        If there is none, or it is not a :class:`DatasetFamily`.
    """
    if is_import_path(name):
        return _load(name)
    known = _import_paths()
    if name not in known:
        raise ConfigError(
            f"Unknown dataset family '{name}'{nearest(name, known)} use one of "
            f"{', '.join(known)}, or an import path such as my_package.my_module:MyFamily."
        )
    return _load(known[name])


def family_of(dataset: str, family: str | None = None) -> DatasetFamily | None:
    """The family that has a dataset.

    Parameters
    ----------
    dataset : str
    family : str, optional
        Name or import path of the family; by default the first one that has the dataset.

    Returns
    -------
    DatasetFamily or None
        None if no family has it.

    Raises
    ------
    ConfigError
        If `family` is unknown or does not have the dataset.
    """
    if family is None:
        return next((known for known in families() if dataset in known.datasets), None)
    chosen = family_named(family)
    if dataset not in chosen.datasets:
        raise ConfigError(
            f"The family {chosen.name} has no dataset '{dataset}'"
            f"{nearest(dataset, chosen.datasets)} use {chosen.summary()}."
        )
    return chosen


def _import_paths() -> dict[str, str]:
    return {**BUILT_IN, **{k: v for k, v in installed(ENTRY_POINTS).items() if k not in BUILT_IN}}


def _load(path: str) -> DatasetFamily:
    family = load_object(path, "family")
    if isinstance(family, type) and issubclass(family, DatasetFamily):
        missing = sorted(family.__abstractmethods__)
        missing += [key for key in ("name", "datasets") if not hasattr(family, key)]
        if missing:
            raise ConfigError(f"The dataset family {path} does not define {', '.join(missing)}.")
        datasets = family.datasets if isinstance(family.datasets, Mapping) else {}
        totals = list(datasets.values())
        if not totals or not all({*known} <= TOTALS for known in totals):
            raise ConfigError(
                f"{path}.datasets must map each dataset's name to its totals, a mapping with some "
                f"of {', '.join(sorted(TOTALS))}, or to {{}}."
            )
        return family()
    raise ConfigError(
        f"{path} is not a dataset family; derive it from {DatasetFamily.__module__}.DatasetFamily."
    )
