"""The split that the settings of a run ask for: made, checked, counted and told."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from recbole_hellm.data.interactions.held_out import (
    MIN_INTERACTIONS,
    by_ratio,
    by_time,
    point_in_time,
    written,
)
from recbole_hellm.data.interactions.histories import PHASES, Histories
from recbole_hellm.data.interactions.target_rows import TargetRows, Unit
from recbole_hellm.errors import DataError

logger = logging.getLogger(__name__)


def split_histories(
    config: Any, users: np.ndarray, items: np.ndarray, n_users: int, times: np.ndarray | None
) -> Histories:
    """Every user's sequence with its split.

    Parameters
    ----------
    config : Mapping
        Its ``split`` and the options of that.
    users, items : ndarray of int64, shape [n_interactions]
        Interactions in canonical order; ids of users are below `n_users`.
    n_users : int
    times : ndarray, shape [n_interactions], or None
        None where the data has no times but an order.

    Raises
    ------
    DataError
        If a temporal split has no times, or nobody can be evaluated.
    """
    name, split = config["dataset"], config["split"]
    if split == "leave_one_out":
        histories = Histories.from_pairs(users, items, n_users)
        return _check_leave_one_out(histories, name)
    if split == "ratio":
        options = f"split_ratios={config['split_ratios']}"
        bounds = by_ratio(np.bincount(users, minlength=n_users), config["split_ratios"])
    else:
        if times is None:
            raise DataError(
                f"split=temporal needs times, and '{name}' has only an order of interactions; "
                "prepare it with a column of times, or use split=ratio."
            )
        points = [point_in_time(times, point, name) for point in config["split_points"]]
        options = f"split_points={config['split_points']}"
        if points[0] > points[1]:
            raise DataError(
                f"{options} are out of order: validation would begin at {written(points[0])} and "
                f"test at {written(points[1])}, which is earlier; change them."
            )
        logger.info("'%s': validation begins at %s, test at %s.", name, *map(written, points))
        bounds = by_time(times, users, n_users, points)
    histories = Histories.from_pairs(users, items, n_users, bounds)
    for phase in PHASES:
        if not len(histories.evaluated(phase)):
            raise DataError(
                f"{options} leave no user of '{name}' with both training and {phase} interactions, "
                "so there is nothing to evaluate; change them, or use a larger dataset."
            )
    return histories


def _check_leave_one_out(histories: Histories, name: str) -> Histories:
    lengths = histories.lengths
    short = int(((lengths > 0) & (lengths < MIN_INTERACTIONS)).sum())
    if short:
        logger.warning(
            "%d users of '%s' have fewer than %d interactions; they are trained on and never "
            "evaluated.",
            short,
            name,
            MIN_INTERACTIONS,
        )
    if len(histories.evaluated("test")) == 0:
        raise DataError(
            f"No user of '{name}' has {MIN_INTERACTIONS} interactions, so there "
            "is nothing to evaluate; use a larger dataset."
        )
    return histories


def held_out_counts(histories: Histories, counts: np.ndarray, unit: Unit) -> dict[str, Any]:
    """What is evaluated in each phase, and what training does not know of it.

    Parameters
    ----------
    histories : Histories
    counts : ndarray of int64, shape [N + 1]
        Training interactions by item id.
    unit : {"user", "interaction"}

    Returns
    -------
    dict
        ``rows`` (`unit`), ``train_interactions``, and by phase: ``users``, ``rows`` and ``targets``
        that are evaluated; ``unknown_items`` and ``unknown_item_targets``, which are among them,
        of items that are in no training interaction; ``unknown_users`` and
        ``unknown_user_interactions``, which are left out, of users without any.
    """
    found: dict[str, Any] = {
        "rows": unit,
        "train_interactions": int(histories.training_lengths.sum()),
    }
    for phase in PHASES:
        rows = TargetRows.of(histories, phase, unit)
        held = histories.held_out(phase)
        unknown = held[histories.training_lengths == 0]
        cold = rows.items[counts[rows.items] == 0]
        found[phase] = {
            "users": len(histories.evaluated(phase)),
            "rows": len(rows),
            "targets": len(rows.items),
            "unknown_items": len(np.unique(cold)),
            "unknown_item_targets": len(cold),
            "unknown_users": int((unknown > 0).sum()),
            "unknown_user_interactions": int(unknown.sum()),
        }
    return found


def tell_held_out(name: str, found: dict[str, Any]) -> None:
    """Log what :func:`held_out_counts` found."""
    for phase in PHASES:
        logger.info(
            "'%s', %s: %d targets of %d users in %d rows; %d of the targets are of %d items that "
            "training does not know. %d interactions of %d users that training does not know are "
            "left out.",
            name,
            phase,
            *(found[phase][key] for key in ("targets", "users", "rows")),
            *(found[phase][key] for key in ("unknown_item_targets", "unknown_items")),
            *(found[phase][key] for key in ("unknown_user_interactions", "unknown_users")),
        )
