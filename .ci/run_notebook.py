"""Execute a notebook from scratch: ``python .ci/run_notebook.py docs/notebooks/tour.ipynb``.

Every error, warning and line on standard error is a failure. Outputs of cells with the tag
``same-everywhere`` have to be those that are kept. ``--write`` keeps the new outputs instead.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SAME = "same-everywhere"
MACHINE = re.compile(r"(?<![\w./:])/(?:\w[\w.-]*/)+|\b[A-Z]:\\\\|file://|localhost|127\.0\.0\.1")
ELSEWHERE = re.compile(r"<script|<link|src=\"http|require\.js|plotly", re.IGNORECASE)


def code_cells(notebook: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The cells that are executed."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text(lines: str | list[str]) -> str:
    """A text of a notebook, whose file may hold it line by line."""
    return lines if isinstance(lines, str) else "".join(lines)


def shown(cell: Mapping[str, Any]) -> list[str]:
    """The texts among a cell's outputs."""
    parts = [
        output.get("data", {"text/plain": output.get("text", "")}) for output in cell["outputs"]
    ]
    return [text(part["text/plain"]) for part in parts if "text/plain" in part]


def faults(notebook: Mapping[str, Any]) -> Iterator[str]:
    """What a kept notebook should not have."""
    cells = code_cells(notebook)
    counts = [cell["execution_count"] for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        yield f"its cells were executed in the order {counts}"
    if set(notebook["metadata"]) != {"kernelspec", "language_info"}:
        yield f"its metadata are {sorted(notebook['metadata'])}"
    for cell in cells:
        name = f"cell {cell['execution_count']}"
        for output in cell["outputs"]:
            if output["output_type"] == "error" or output.get("name") == "stderr":
                yield f"{name} ends in an error or writes to standard error: {output}"
            for kind, data in output.get("data", {"text": output.get("text", "")}).items():
                if kind.startswith("application/"):
                    yield f"{name} shows {kind}, which needs scripts"
                elif not kind.startswith("image/png"):
                    yield from (f"{name} shows {found}" for found in MACHINE.findall(text(data)))
                    yield from (f"{name} loads {found}" for found in ELSEWHERE.findall(text(data)))
        yield from (f"{name} names {found}" for found in MACHINE.findall(text(cell["source"])))


def differences(kept: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Outputs that should be as they were and are not."""
    tagged = [cell for cell in code_cells(kept) if SAME in cell["metadata"].get("tags", [])]
    if not tagged:
        yield f"no cell has the tag {SAME}"
    outputs = {text(cell["source"]): shown(cell) for cell in code_cells(new)}
    for cell in tagged:
        before, after = shown(cell), outputs[text(cell["source"])]
        if before != after:
            yield "\n".join(["kept:", *before, "now:", *after])


def execute(path: Path) -> Any:
    """The notebook with new outputs; what its cells write is removed."""
    import nbformat
    from nbclient import NotebookClient

    # The same sums everywhere; and threads wait long for each other where other work is done.
    os.environ["OMP_NUM_THREADS"] = "1"
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        # Errors are outputs like others, so that `faults` tells them all.
        NotebookClient(notebook, timeout=900, record_timing=False, allow_errors=True).execute()
    notebook["metadata"]["language_info"] = {"name": "python"}  # without the version
    nbformat.validate(notebook)
    return notebook


def main() -> None:
    """Raise SystemExit if something is wrong."""
    import nbformat

    parser = argparse.ArgumentParser()
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    kept = nbformat.read(options.notebook, as_version=4)
    notebook = execute(options.notebook)
    wrong = [*faults(notebook), *([] if options.write else differences(kept, notebook))]
    if wrong:
        raise SystemExit("\n".join([f"{options.notebook}:", *wrong]))
    if options.write:
        nbformat.write(notebook, options.notebook)


if __name__ == "__main__":
    main()
