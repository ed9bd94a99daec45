"""Read and write the files of a fine-tuned model, with one sentence for damaged ones.

:mod:`recbole_hellm.models.llm.artefacts` decides what goes into which file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_hellm.errors import RunError, reason
from recbole_hellm.storage import json_files

_LARGEST = 1 << 31  # bytes


def damaged(path: Path, error: Exception) -> RunError:
    """The error to raise for a file or folder that is missing or cannot be read."""
    if not path.exists():
        return RunError(f"{path} is missing; copy the whole folder, or run again with --force.")
    return RunError(f"{path} is damaged ({reason(error)}); run again with --force.")


def write_json(path: Path, content: Any) -> None:
    """Write any JSON value."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, schema: Any = Any) -> Any:
    """Read JSON that fits a schema of types, or raise :class:`RunError`."""
    if not path.exists():
        raise damaged(path, FileNotFoundError())
    return json_files.read_json(path, schema, RunError, "run again with --force", _LARGEST)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in the safetensors format."""
    plain = {name: value.contiguous() for name, value in tensors.items()}
    save_file(plain, path, {"format": "pt"})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors from a safetensors file, or raise :class:`RunError`."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error


def check_fit(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor], path: Path) -> None:
    """Raise :class:`RunError` unless the tensors of `path` have the names and shapes expected."""
    for name in sorted({*expected, *stored}):
        shapes = [
            tuple(tensors[name].shape) if name in tensors else "absent"
            for tensors in (stored, expected)
        ]
        if shapes[0] != shapes[1]:
            raise RunError(
                f"{path} does not fit settings.json and items.json beside it: {name} is "
                f"{shapes[0]} there and should be {shapes[1]}."
            )
