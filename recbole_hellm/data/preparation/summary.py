"""What a command that makes data files tells of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_hellm.data.interactions.held_out import MIN_INTERACTIONS
from recbole_hellm.data.preparation.atomic import TEXT_COLUMNS
from recbole_hellm.data.preparation.manifest import MANIFEST, listed_files
from recbole_hellm.storage.terminal import plain_text

_MOST_COLUMNS = 12
_ENOUGH = 20  # items for the neighbourhoods of HeLLM's graph stage


def describe(manifest: Mapping[str, Any]) -> str:
    """A dataset's row of the statistics table (the paper's Table 2), and what became of the rows.

    All interactions are counted. The paper's table omits one per user (docs/method.md, Table 2).
    """
    cells = {
        "Dataset": manifest["name"],
        "Users": f"{manifest['users']:,}",
        "Items": f"{manifest['items']:,}",
        "Interactions": f"{manifest['interactions']:,}",
        "Density": f"{100 * (1.0 - manifest['sparsity']):.3f} %",
        "Sparsity": f"{100 * manifest['sparsity']:.3f} %",
    }
    widths = [max(len(key), len(value)) for key, value in cells.items()]
    table = "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (cells.keys(), cells.values())
    )
    below = manifest["users_below_three"]
    evaluated = manifest["users"] - below
    lines = [f"\nOf {evaluated:,} evaluated users, equal times leave to the rule for ties"]
    for part in ("test", "validation"):
        count = manifest.get(f"users_with_tied_{part}")
        if count is not None:
            lines.append(f"  the {part} item of {share(count, evaluated)}")
    if below:
        lines.append(f"{below:,} users have fewer than three interactions: they train only")
    return "\n".join([table, *lines, *_rows(manifest)])


def _with_texts(manifest: Mapping[str, Any]) -> bool:
    """Whether some item has a text; so it is where that was not counted."""
    notes = manifest.get("notes", {})
    without = [notes.get(f"items_without_{column}", 0) for column in TEXT_COLUMNS]
    return min(without) < manifest["items"]


def _rows(manifest: Mapping[str, Any]) -> list[str]:
    """What became of the rows and columns of the files that were read."""
    tables: Sequence[Mapping[str, Any]] = manifest.get("tables", ())
    if not tables:
        return []
    lines = ["", rows_table(tables)]
    without = manifest.get("notes", {}).get("items_without_metadata")
    if without is not None and len(tables) > 1:
        count = share(without, manifest["items"])
        lines.append(f"Items without a row in {plain_text(tables[-1]['file'])}: {count}")
        titles = manifest["notes"].get("items_without_title")
        if titles is not None:
            lines.append(f"Items without a title: {share(titles, manifest['items'])}")
    return [*lines, *column_lines(tables)]


def rows_table(tables: Iterable[Mapping[str, Any]]) -> str:
    """Rows read, kept and dropped of each file, see :class:`ReadTable`."""
    rows = [
        [
            plain_text(table["file"]),
            f"{table['read']:,}",
            f"{table['kept']:,}",
            ", ".join(f"{count:,} {reason}" for reason, count in table["dropped"].items()) or "0",
        ]
        for table in tables
    ]
    return tabulate(
        rows,
        ["Rows of", "read", "kept", "dropped"],
        tablefmt="plain",
        colalign=("left", "right", "right", "left"),
        disable_numparse=True,
    )


def column_lines(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """Which columns of each file were taken and which were not."""
    lines = []
    for table in tables:
        if table["columns_taken"] or table["columns_left"]:
            left = f"; not taken: {_listed(table['columns_left'])}" * bool(table["columns_left"])
            taken = _listed(table["columns_taken"])
            lines.append(f"Columns of {plain_text(table['file'])}: {taken}{left}")
        lines += [plain_text(note) for note in table.get("notes", ())]
    return lines


def next_steps(manifest: Mapping[str, Any], directory: Path) -> str:
    """Where the files of a dataset are, and the command that comes next."""
    name = str(manifest["name"])
    files = [str(directory / file) for file in (*listed_files(manifest), MANIFEST)]
    lines = [f"Files: {', '.join(files)}"]
    if manifest["users"] == manifest["users_below_three"]:
        lines.append("No user has three interactions, so no model can be evaluated on this dataset")
        return "\n".join(lines)
    has_texts = f"{name}.item" in listed_files(manifest) and _with_texts(manifest)
    model = "HeLLM" if has_texts and manifest["items"] >= _ENOUGH else "SASRec"
    if manifest["longest_history"] <= MIN_INTERACTIONS:  # nothing to learn an order from
        model = "BPR"
    lines.append(f"Next: {command('run', directory, model=model)}")
    return "\n".join(lines)


def command(name: str, directory: Path, **options: str) -> str:
    """A command of this package on a dataset, ready for a POSIX shell."""
    words = [f"--{key}={value}" for key, value in options.items()]
    words.append(f"--dataset={directory.name}")
    if str(directory.parent) != "dataset":
        words.append(f"--data_path={directory.parent}")
    return shlex.join(["recbole-hellm", name, *words])


def share(count: int, total: int) -> str:
    """A count and its share of a total."""
    return f"{count:,} ({100 * count / max(total, 1):.1f} %)"


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(map(plain_text, columns[:_MOST_COLUMNS])) or "none"
    more = len(columns) - _MOST_COLUMNS
    return f"{shown} and {more} more" if more > 0 else shown
