"""The notebooks of the docs as they are kept; .ci/run executes them from scratch."""

from __future__ import annotations

import copy
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
SCRIPT = runpy.run_path(str(ROOT / ".ci/run_notebook.py"))
faults, differences = SCRIPT["faults"], SCRIPT["differences"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_kept_outputs_are_clean(notebook: dict[str, Any]) -> None:
    assert [*faults(notebook)] == []
    assert [*differences(notebook, notebook)] == []


def test_notebooks_are_valid(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [*faults(notebook)] == []


def test_links_have_targets_and_ci_executes_all(path: Path, notebook: dict[str, Any]) -> None:
    texts = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    links = re.findall(r"\]\(([^)\s]+)\)", "\n".join(texts))
    assert links
    assert all((path.parent / link).is_file() for link in links)
    command = f"python .ci/run_notebook.py docs/notebooks/{path.name}"
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


SPOILT = {
    "in the order": {"execution_count": 7},
    "standard error": {"outputs": [{"output_type": "stream", "name": "stderr", "text": ["oh"]}]},
    "an error": {"outputs": [{"output_type": "error", "ename": "KeyError", "traceback": []}]},
    "/home/ada/": {"outputs": [{"output_type": "stream", "name": "stdout", "text": "/home/ada/x"}]},
    "<script": {
        "outputs": [{"output_type": "display_data", "data": {"text/html": "<script src=x>"}}]
    },
    "application/json": {
        "outputs": [{"output_type": "display_data", "data": {"application/json": {}}}]
    },
    "names /tmp/": {"source": ["open('/tmp/log.csv')"]},
}


@pytest.mark.parametrize("told", SPOILT)
def test_what_does_not_belong_is_told(told: str) -> None:
    notebook = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell |= SPOILT[told]
    assert any(told in fault for fault in faults(notebook))


def test_other_outputs_are_told_where_they_should_be_the_same() -> None:
    kept = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    new = copy.deepcopy(kept)
    tagged = next(c for c in new["cells"] if "same-everywhere" in c["metadata"].get("tags", []))
    (output,) = tagged["outputs"]
    output["data"]["text/plain"] = "other"
    (told,) = differences(kept, new)
    assert told.endswith("now:\nother")
