"""The content of a folder, without what differs from run to run: times, costs and names."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEFTOVERS = re.compile(r"(\.tmp|\.old|\.part|\.partial|\.lock)$")
_PASSING = re.compile(
    r"^events\.out\.tfevents|^(last\.pt|environment\.json|run\.log|studies\.log)$"
    r"|-cost\.\w+$|^Pop-BPR-shop\.\w+$|^BPR\.csv$"  # tables with costs, and lists of trials
)
"""Files that may differ: curves and journals keep times, the last checkpoint its costs."""
_VOLATILE = frozenset(
    {
        *("cost", "cost_with_stages", "train_seconds", "train_cpu_seconds", "checksum", "files"),
        *(
            "seconds",
            "saved_at",
            "started",
            "finished",
            "created",
            "prepared_at",
            "resume",
            "force",
            "device",
        ),
        *("command", "environment", "runtime", "checksums"),
    }
)
_SECONDS = re.compile(rb"\btrain s\b|\d+\.\d+ s\b")


def state(folder: Path, resumable: bool = False) -> dict[str, str]:
    """A digest of each file below a folder, and "left over" for what a killed process left.

    Parameters
    ----------
    folder : Path
    resumable : bool
        Whether temporary files and locks may be there.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if LEFTOVERS.search(path.name):
            if not resumable:
                found[name] = "left over"
        elif path.is_file() and not _PASSING.search(path.name):
            found[name] = digest(path)
    return found


def difference(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """What differs between two states; empty if nothing does."""
    parts = []
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            what = "missing" if name not in found else "additional" if name not in wanted else ""
            if found.get(name) == "left over":
                what = "left over"
            parts.append(f"{name} ({what or 'differs'})")
    return ", ".join(parts[:6]) + (f" and {len(parts) - 6} more" if len(parts) > 6 else "")


def digest(path: Path) -> str:
    """A digest of a file's lasting content."""
    content = path.read_bytes()
    if path.suffix == ".json":
        try:
            content = json.dumps(_lasting(json.loads(content)), sort_keys=True).encode()
        except ValueError:
            return "no JSON"
    elif path.suffix == ".pt":
        try:
            return hashlib.sha256(repr(_tensors(path)).encode()).hexdigest()
        except Exception as error:  # a test's own reader: whatever is wrong is a difference
            return f"unreadable: {error}"
    elif path.suffix == ".yaml":
        lines = content.splitlines()
        content = b"\n".join(line for line in lines if not re.match(rb"(resume|force):", line))
    elif path.suffix == ".csv":
        content = _without_seconds(content)
    elif path.suffix == ".xlsx":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = b"".join(
                archive.read(name) for name in archive.namelist() if "docProps" not in name
            )
    return hashlib.sha256(content).hexdigest()


def _without_seconds(content: bytes) -> bytes:
    """A CSV file without its columns of seconds."""
    lines = content.decode("utf-8", "replace").splitlines()
    header = lines[0].split(",") if lines else []
    kept = [n for n, name in enumerate(header) if "second" not in name and "memory" not in name]
    if len(kept) == len(header):
        return content
    rows = (line.split(",") for line in lines)
    return "\n".join(",".join(row[n] for n in kept if n < len(row)) for row in rows).encode()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [_lasting(item) for item in value]
    return value


def _tensors(path: Path) -> Any:
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            dense = value.to_dense() if value.layout != torch.strided else value
            raw = dense.contiguous().view(torch.uint8) if dense.ndim else dense.reshape(1)
            return (
                str(dense.dtype),
                tuple(dense.shape),
                hashlib.sha256(raw.detach().numpy().tobytes()).hexdigest(),
            )
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in _VOLATILE}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(torch.load(path, weights_only=True))


def told(text: str) -> str:
    """What a command printed, without columns of seconds and names of folders of tries."""
    rows = [re.sub(r"\s+\d+(\.\d+)?$", "", line) for line in text.splitlines()]
    return "\n".join(re.sub(r" +", " ", row).rstrip() for row in rows)
