"""What heads of tables say of the protocol."""

from __future__ import annotations

from typing import Any

from recbole_hellm.reporting.headers import counted, ending, policy, row_notes

PLAIN = {"users": 1200, "items": 3000}


def record(rows: str = "user", **protocol: Any) -> dict[str, Any]:
    test = {"targets": 5000, "unknown_item_targets": 7}
    test |= {"unknown_user_interactions": 40, "unknown_users": 3}
    return PLAIN | {"protocol": protocol, "held_out": {"rows": rows, "test": test}}


def test_nothing_is_added_under_the_default_protocol() -> None:
    assert policy(PLAIN, "seen") == "mask_history=seen"
    assert counted(PLAIN) == "1,200 test users, 3,000 candidate items"
    assert counted(PLAIN, "d") == "1200 test users, 3000 candidate items"
    assert ending(PLAIN) == ""
    assert row_notes([("Pop", PLAIN)]) == []


def test_a_split_is_told_with_what_training_does_not_know() -> None:
    temporal = record(split="temporal", split_points=[0.8, 0.9])
    assert policy(temporal, "none") == (
        "mask_history=none, split=temporal, split_points=[0.8, 0.9]"
    )
    assert counted(temporal) == (
        "1,200 test users, 3,000 candidate items, 5,000 targets, 7 of them of items that training "
        "does not know; 40 interactions of 3 users that it does not know are left out"
    )


def test_sampled_candidates_are_marked() -> None:
    sampled = record(candidates="uniform-100", split_seed=1)
    assert "SAMPLED METRICS" in ending(sampled)
    assert "SAMPLED METRICS" in policy(sampled, "seen")
    assert counted(sampled) == ("1,200 test users, SAMPLED candidates (uniform-100 of 3,000 items)")
    assert row_notes([("Pop", sampled)]) == []  # leave-one-out leaves no choice of rows


def test_methods_that_predict_other_rows_are_told() -> None:
    pop, sasrec = record("user", split="ratio"), record("interaction", split="ratio")
    (note,) = row_notes([("Pop", pop), ("Pop", pop), ("BPR", pop)])
    assert note.startswith("Predicted are, by Pop, BPR: all targets of a user at once")
    note, warning = row_notes([("Pop", pop), ("SASRec", sasrec)])
    assert "SASRec: each target by itself" in note
    assert "do not mean the same for all methods here; --split_rows=user" in warning
