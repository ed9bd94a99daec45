"""The manifest of a prepared dataset: counts, checksums and fingerprints of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_hellm.errors import DataError
from recbole_hellm.storage.checksums import file_sha256

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


def describe_source(path: Path) -> dict[str, Any]:
    """Name, size in bytes and SHA-256 of an input file, as a manifest lists it."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a prepared dataset, or None where there is none.

    Raises
    ------
    DataError
        If the file is there and is no manifest of this version.
    """
    path = Path(directory) / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is no JSON ({error}); delete it and prepare the dataset again."
        ) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {version}, not {FORMAT_VERSION}; prepare the dataset again."
        )
    return manifest


def describe(manifest: Mapping[str, Any]) -> str:
    """A dataset's row of the statistics table (the paper's Table 2), and how many users have ties.

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
            lines.append(f"  the {part} item of {_share(count, evaluated)}")
    if below:
        lines.append(f"{below:,} users have fewer than three interactions: they train only")
    return "\n".join([table, *lines])


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / max(total, 1):.1f} %)"
