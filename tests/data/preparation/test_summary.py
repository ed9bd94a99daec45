from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.data.preparation.atomic import TEXT_COLUMNS
from recbole_hellm.data.preparation.summary import command, describe, next_steps

MANIFEST = {
    "format_version": 1,
    "name": "demo",
    "users": 3,
    "items": 4,
    "interactions": 8,
    "sparsity": 1 - 8 / 12,
    "users_below_three": 1,
    "users_with_tied_test": 1,
    "users_with_tied_validation": 1,
}


def test_description_is_aligned() -> None:
    manifest = MANIFEST | {"interactions": 198_502}
    heading, row, *rest = describe(manifest).split("\n")
    assert len(heading) == len(row)
    assert heading.split()[3:] == ["Interactions", "Density", "Sparsity"]
    assert row.split() == ["demo", "3", "4", "198,502", "66.667", "%", "33.333", "%"]
    assert rest == [
        "",
        "Of 2 evaluated users, equal times leave to the rule for ties",
        "  the test item of 1 (50.0 %)",
        "  the validation item of 1 (50.0 %)",
        "1 users have fewer than three interactions: they train only",
    ]
    old = {key: manifest[key] for key in manifest if key != "users_with_tied_validation"}
    assert "validation item" not in describe(old)  # written before it was counted


def table(file: str, **fields: Any) -> dict[str, Any]:
    empty = {"read": 9, "kept": 9, "dropped": {}, "columns_taken": [], "columns_left": []}
    return {"file": file, **empty, **fields}


def test_every_row_is_told() -> None:
    log = table(
        "log.csv",
        read=1200,
        kept=1190,
        dropped={"duplicates": 8, "outside the 5-core": 2},
        columns_taken=["user", "item"],
        columns_left=[f"c{number}" for number in range(14)],
        notes=["Times are dates."],
    )
    items = table("items.csv", columns_taken=["item", "title"])
    manifest = MANIFEST | {"tables": [log, items], "notes": {"items_without_metadata": 1}}
    assert describe(manifest).split("\n")[7:] == [
        "",
        "Rows of      read    kept  dropped",
        "log.csv     1,200   1,190  8 duplicates, 2 outside the 5-core",
        "items.csv       9       9  0",
        "Items without a row in items.csv: 1 (25.0 %)",
        "Columns of log.csv: user, item; not taken: "
        "c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 2 more",
        "Times are dates.",
        "Columns of items.csv: item, title",
    ]


def test_names_from_files_do_not_reach_the_terminal_raw() -> None:
    manifest = MANIFEST | {"tables": [table("\x1b[31mlog", columns_taken=["a\x1b]0;x\x07b"])]}
    assert "\x1b" not in describe(manifest)
    assert "\x07" not in describe(manifest)


@pytest.mark.parametrize(
    ("file", "items", "longest", "model"),
    [
        ("demo.item", 99, 4, "HeLLM"),
        ("other", 99, 4, "SASRec"),
        ("demo.item", 4, 4, "SASRec"),
        ("demo.item", 99, 3, "BPR"),
    ],
)
def test_the_next_command(file: str, items: int, longest: int, model: str) -> None:
    facts = {"items": items, "longest_history": longest}
    manifest = MANIFEST | {"files": {"demo.inter": "0", file: "0"}} | facts
    assert next_steps(manifest, Path("dataset/demo")).split("\n") == [
        f"Files: dataset/demo/demo.inter, dataset/demo/{file}, dataset/demo/manifest.json",
        f"Next: recbole-hellm run --model={model} --dataset=demo",
    ]
    short = manifest | {"users_below_three": 3}
    assert "No user has three interactions" in next_steps(short, Path("dataset/demo"))


def test_commands_are_quoted() -> None:
    written = command("run", Path("my data/a b"), model="Pop")
    assert written == "recbole-hellm run --model=Pop '--dataset=a b' '--data_path=my data'"


def test_a_table_of_items_without_texts_leads_to_no_model_that_reads_them() -> None:
    without = {f"items_without_{column}": 99 for column in TEXT_COLUMNS}
    facts = {"items": 99, "longest_history": 4, "files": {"demo.item": "0"}}
    assert "--model=SASRec" in next_steps(MANIFEST | facts | {"notes": without}, Path("d/demo"))
    some = {"notes": without | {"items_without_title": 98}}
    assert "--model=HeLLM" in next_steps(MANIFEST | facts | some, Path("d/demo"))
