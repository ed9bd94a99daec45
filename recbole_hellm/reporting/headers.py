"""What the head of every table says about how its figures were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recbole_hellm.config.split_settings import described

_UNITS = {
    "user": "all targets of a user at once, from the history before the first of them",
    "interaction": "each target by itself, from all that came before it",
}


def policy(record: Mapping[str, Any], masking: str) -> str:
    """``mask_history=seen``, and the protocol where it is not the default one.

    Parameters
    ----------
    record : Mapping of str to object
        Content of a run's ``metrics.json``.
    masking : str
    """
    return f"mask_history={masking}{ending(record)}"


def ending(record: Mapping[str, Any]) -> str:
    """The end of a title: the protocol after a comma; nothing under the default one."""
    told = described(record)
    return f", {told}" if told else ""


def counted(record: Mapping[str, Any], spec: str = ",") -> str:
    """Test users and candidate items; targets, and what training does not know, if there are any.

    Parameters
    ----------
    record : Mapping of str to object
        Content of a run's ``metrics.json``.
    spec : str
        Format of the numbers of users and items.
    """
    sampled = record.get("protocol", {}).get("candidates")
    users, all_items = (format(record[key], spec) for key in ("users", "items"))
    items = f"SAMPLED candidates ({sampled} of {all_items} items)"
    parts = [f"{users} test users", items if sampled else f"{all_items} candidate items"]
    held = record.get("held_out", {}).get("test")
    if held is not None and record["protocol"].get("split"):
        parts.append(
            f"{held['targets']:,} targets, {held['unknown_item_targets']:,} of them of items that "
            f"training does not know; {held['unknown_user_interactions']:,} interactions of "
            f"{held['unknown_users']:,} users that it does not know are left out"
        )
    return ", ".join(parts)


def row_notes(records: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A sentence on what methods predict at once, where the protocol leaves room for that.

    Parameters
    ----------
    records : iterable of (name, record)
    """
    names: dict[str, list[str]] = {}
    for name, record in records:
        if record.get("protocol", {}).get("split"):
            of_unit = names.setdefault(record["held_out"]["rows"], [])
            if name not in of_unit:
                of_unit.append(name)
    if not names:
        return []
    told = "; ".join(f"{', '.join(of)}: {_UNITS[unit]}" for unit, of in sorted(names.items()))
    notes = [f"Predicted are, by {told}. A user's rows are averaged first, then users."]
    if len(names) > 1:
        notes.append(
            "So Hit, MRR, NDCG, Precision and MAP do not mean the same for all methods here; "
            "--split_rows=user or --split_rows=interaction makes them do."
        )
    return notes
