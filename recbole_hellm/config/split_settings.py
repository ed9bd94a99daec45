"""What the settings of a protocol may be together, and what of them tells two protocols apart."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from recbole_hellm.config.settings import require
from recbole_hellm.errors import ConfigError

_SPLITS = {
    "split_points": ("temporal",),
    "split_ratios": ("ratio",),
    "split_order": ("ratio",),
    "split_rows": ("temporal", "ratio"),
}
"""The splits that each option is for."""

_NAMED = ("split", *_SPLITS, "split_seed", "candidates")


def check_split(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check the options of a split.

    Parameters
    ----------
    values, defaults : Mapping of str to object
        Settings by key.

    Raises
    ------
    ConfigError
        If an option is out of range, out of order, or without effect.
    """
    split = values["split"]
    for key, splits in _SPLITS.items():
        require(
            split in splits or values[key] == defaults[key],
            f"{key}={_plain(values[key])} is for split={' or '.join(splits)}, and split is "
            f"{split}; remove it, or choose another split.",
        )
    require(
        values["split_seed"] == defaults["split_seed"] or _draws(values),
        f"split_seed={values['split_seed']} is for split_order=random and for sampled candidates, "
        "and nothing is drawn here; remove it.",
    )
    _check_points(values["split_points"])
    ratios = values["split_ratios"]
    require(
        min(ratios) > 0,
        f"split_ratios={_plain(ratios)} must be three positive numbers, for training, validation "
        "and test.",
    )


def _check_points(points: tuple[float | str, float | str]) -> None:
    lead = f"split_points={_plain(points)}"
    moments: list[float] = []
    for point in points:
        if not isinstance(point, str):
            require(
                0 < point < 1,
                f"{lead}: a share of the interactions lies between 0 and 1; write two such as "
                "'[0.8, 0.9]', or two dates.",
            )
            continue
        try:
            moment = datetime.datetime.fromisoformat(point)
        except ValueError:
            raise ConfigError(
                f"{lead}: '{point}' is no date; write one such as 2014-07-23, or shares of the "
                "interactions such as '[0.8, 0.9]'."
            ) from None
        zoned = moment.replace(tzinfo=moment.tzinfo or datetime.timezone.utc)
        moments.append(zoned.timestamp())
    shares = [point for point in points if not isinstance(point, str)]
    require(
        all(len(two) < 2 or two[0] < two[1] for two in (shares, moments)),
        f"{lead} must be in order: validation begins at the first point, test at the second.",
    )


def as_points(value: Any) -> Any:
    """Points as they are recorded: shares as numbers, and dates as texts.

    The command line gives both as texts, and a settings file gives dates as such.
    """
    return tuple(map(_point, value)) if isinstance(value, list | tuple) else value


def _point(value: Any) -> Any:
    if isinstance(value, datetime.date):
        return value.isoformat()
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def protocol(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a result must share with another beside data and masking; empty by default.

    Parameters
    ----------
    values : Mapping of str to object
        All settings by key.

    Returns
    -------
    dict
        ``split`` with its options, unless it is leave-one-out, and ``candidates``, unless all items
        are ranked.
    """
    split, sampled = values["split"], values["candidates"] != "all"
    described: dict[str, Any] = {} if split == "leave_one_out" else {"split": split}
    for key in ("split_points", "split_ratios", "split_order"):
        if split in _SPLITS[key]:
            described[key] = _listed(values[key])
    if sampled:
        described["candidates"] = values["candidates"]
    if _draws(values):
        described["split_seed"] = values["split_seed"]
    return described


def described(record: Mapping[str, Any]) -> str:
    """The protocol of a record for headers of tables; empty for the default one.

    Parameters
    ----------
    record : Mapping of str to object
        May have ``protocol``, as :func:`protocol` gives it.
    """
    parts = [f"{key}={_plain(value)}" for key, value in record.get("protocol", {}).items()]
    if "candidates" in record.get("protocol", {}):
        parts.append("SAMPLED METRICS, for comparison with old papers only")
    return ", ".join(parts)


def in_file_name(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The protocol as the end of a file's name, such as ``-temporal``; empty for the default one.

    Parameters
    ----------
    values, defaults : Mapping of str to object
        All settings by key.
    """
    texts = [(_plain(values[key]), _plain(defaults[key])) for key in _NAMED]
    own = [re.sub(r"[^\w.]+", "-", text).strip("-") for text, default in texts if text != default]
    return "".join(f"-{text}" for text in own)


def _draws(values: Mapping[str, Any]) -> bool:
    return values["candidates"] != "all" or (
        values["split"] == "ratio" and values["split_order"] == "random"
    )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _plain(value: Any) -> str:
    """A value as it is written on the command line, without quotes."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
