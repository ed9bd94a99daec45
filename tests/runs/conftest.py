"""Fixtures of runs on the dataset ``tiny``, which several test files share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import Killed

from recbole_hellm import run
from recbole_hellm.runs import running
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.results import RunResult
from recbole_hellm.training.trainer import RunTrainer


@pytest.fixture
def train(quick: dict[str, Any]) -> Callable[..., RunResult]:
    return lambda model, **options: run(model, "tiny", **quick | {"learning_rate": 0.01} | options)


@pytest.fixture
def kill(train: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a model that dies when `dies_in` calls `method` for `epoch` (from 0)."""

    def run_and_die(
        model: str, method: str, epoch: int, dies_in: str | None = None, **options: Any
    ) -> None:
        original = getattr(RunTrainer, method)

        def dying(self: Any, at: int, *arguments: Any, **named: Any) -> Any:
            if self.config["model"] == (dies_in or model) and at == epoch:
                raise Killed
            return original(self, at, *arguments, **named)

        with monkeypatch.context() as patched:
            patched.setattr(RunTrainer, method, dying)
            with pytest.raises(Killed):
                train(model, **options)

    return run_and_die


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that are trained, in order."""
    names: list[str] = []
    original = running.train

    def noting(config: Any, *given: Any) -> Any:
        result = original(config, *given)
        names.append(config["model"])
        return result

    monkeypatch.setattr(running, "train", noting)
    return names


@pytest.fixture(scope="session")
def bpr(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """One run that several tests look at."""
    return run(
        "BPR",
        "tiny",
        data_path=str(tiny_data),
        runs_dir=str(tmp_path_factory.mktemp("bpr")),
        show_progress=False,
        use_gpu=False,
        threads=1,
        epochs=3,
        eval_step=2,
        save_topk=4,
        embedding_size=8,
    )


@pytest.fixture
def exported(
    train: Callable[..., RunResult], small_model: dict[str, Any], tmp_path: Path
) -> tuple[RunResult, dict[str, str]]:
    """A run with both stages, and their item embeddings in raw-id order as files."""
    result = train("HeLLM", **small_model, mask_history="train")
    files = {}
    for role, stage in zip(("graph", "sequence"), result.stages, strict=True):
        tokens = json.loads((stage.path / "embeddings.json").read_text())["tokens"]["item"]
        directory, split = RunDirectory(stage.path), result.record["split"]
        table = directory.read_embeddings("item", sorted(tokens), split)  # type: ignore[arg-type]
        if role == "sequence":  # with a row of padding, as SASRec's table is released
            table = torch.cat([torch.zeros(1, table.shape[1]), table])
        path = tmp_path / f"{stage.record['model']}_item_embeddings.pt"
        torch.save(table, path)
        files[f"{role}_embeddings"] = str(path)
    return result, files
