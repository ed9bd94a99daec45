from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_hellm.cli.main import main
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.runs import running

Tell = Callable[..., str]
Shows = Callable[..., str]
HEADER = "user_id:token\titem_id:token\ttimestamp:float"


def test_help(shows: Shows) -> None:
    text = shows("run", RunSettings, TrainingSettings)
    for option in ("--model=NAME", "--dataset=NAME", "--config=FILE", "--dry_run,--dry-run"):
        assert option in text
    assert "[default:Pop,HeLLM]" in text
    groups = ["Options:", "Data:", "Evaluation:", "Training:", "Runs:"]
    places = [text.rindex(group) for group in groups]
    assert places == sorted(places)
    assert "--backbone" not in text
    assert places[3] < text.index("--epochs=NUMBER") < places[4]


def test_several_models_make_one_table(
    options: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("embedding_size: 4\nseed: 5\n")
    (tmp_path / "b.yaml").write_text("seed: 6\n")
    files = f"--config={tmp_path / 'a.yaml'},{tmp_path / 'b.yaml'}"
    assert main(["run", "--model=Pop, BPR", "--BPR.epochs=1", *options, files]) == 2
    assert "Unknown option 'embedding_size' for model Pop" in capsys.readouterr().err
    (tmp_path / "a.yaml").write_text("BPR.embedding_size: 4\nseed: 5\n")
    assert main(["run", "--model", "Pop, BPR", "--BPR.epochs=1", *options, files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Dataset tiny: 36 test users, 30 candidate items")
    assert [line.split()[0] for line in lines[5:7]] == ["Pop", "BPR"]
    assert not any("hit@" in line for line in lines)  # it would repeat recall
    place = lines.index("Run directories")
    runs = [line.split(": ")[1] for line in lines[place + 1 : place + 3]]
    records = [running.load_run(path).record for path in runs]
    assert [record["seed"] for record in records] == [6, 6]
    assert records[1]["cost"]["parameters"] == (41 + 31) * 4
    assert records[1]["epochs"] == 1
    head, recommend, report, board = lines[place + 4 :]
    assert head == "Next"
    words = shlex.split(recommend)
    assert words[0] == "recbole-hellm"
    assert main(words[1:]) == 0  # what is proposed can be done
    assert shlex.split(report)[2:4] == runs
    assert Path(runs[0]).is_relative_to(shlex.split(board)[-1])


def test_pop_and_hellm_on_the_sample_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_hellm.reporting import tables

    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(running, "execute", lambda c: asked.append((c.model, c.dataset)))
    monkeypatch.setattr(tables, "comparison", lambda results: f"{len(results)} results")
    monkeypatch.setattr(tables, "next_steps", lambda results: "")
    assert main([]) == 0
    assert asked == [("Pop", "sample"), ("HeLLM", "sample")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("user_id\titem_id:token\ttimestamp:float\n", "line 1: column 'user_id' must be"),
        ("user_id:token\ttimestamp:float\nu\t1\n", "has no column 'item_id:token'"),
        (f"{HEADER}\nu\ti\tnan\n", "line 2: timestamp='nan' is no finite number"),
        (f"{HEADER}\nu\ti\t\n", "line 2: the timestamp is missing"),
    ],
)
def test_malformed_data_is_told(tell: Tell, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/bad.inter").write_text(text)
    assert sentence in tell("--model=BPR", "--dataset=bad", f"--data_path={tmp_path}")


def test_unusable_features_are_told(
    tell: Tell, tmp_path: Path, interactions: Any, make_dataset: Any
) -> None:
    folder = tmp_path / "tiny"
    make_dataset(folder, interactions[interactions["item_id"] < "i10"])
    (folder / "tiny.inter").unlink()
    for name in (".npy", ".json", ".tokens.json"):
        (folder / f"features/text-toy{name}").rename(tmp_path / f"kept{name}")
    make_dataset(folder, interactions)
    for name in (".npy", ".json", ".tokens.json"):
        (tmp_path / f"kept{name}").replace(folder / f"features/text-toy{name}")
    where = f"--data_path={tmp_path}"
    for model in ("HeLLMPre", "HeLLM"):
        assert "lacks 20 of the 30 items (first: i" in tell(f"--model={model}", where)
    make_dataset(folder, interactions)
    path = folder / "features/text-toy.npy"
    np.save(path, np.full((30, 8), np.nan, dtype=np.float32))
    assert "is damaged (its checksum differs)" in tell("--model=HeLLM", where)
    for file in (folder / "features").iterdir():
        file.unlink()
    assert "has neither item texts (tiny.item) nor features" in tell("--model=HeLLM", where)
