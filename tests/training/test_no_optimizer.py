"""Models that count are trained without an optimizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.utils import ModelType
from support.trainers import Line

from recbole_hellm import run

CODE = """
import sys
from recbole_hellm import run
run("Pop", "{name}", data_path={data!r}, runs_dir={runs!r}, show_progress=False)
assert "torch.optim" in sys.modules
assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.parametrize("model", ["Pop", "ItemKNN"])
def test_counting_models_keep_their_parameter(model: str, quick: dict[str, Any]) -> None:
    result = run(model, "tiny", **quick)
    parameters = list(result.restore().parameters())
    assert all(torch.equal(value, torch.zeros_like(value)) for value in parameters)
    again = run(model, "tiny", **quick, force=True)
    assert again.metrics("test", "seen") == result.metrics("test", "seen")


def test_what_can_learn_is_trained_whatever_its_type_says(make_trainer: Any) -> None:
    trainer = make_trainer(model=Line())
    trainer.config["MODEL_TYPE"] = ModelType.TRADITIONAL
    assert isinstance(trainer._build_optimizer(), torch.optim.SGD)


def test_nothing_is_compiled(quick: dict[str, Any], tmp_path: Path) -> None:
    code = CODE.format(name="tiny", data=quick["data_path"], runs=str(tmp_path))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)  # noqa: S603
