from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm.cli.main import main
from recbole_hellm.data.preparation.prepare import PrepareSettings

Tell = Callable[..., str]


def test_help(shows: Callable[..., str]) -> None:
    text = shows("prepare", PrepareSettings)
    assert "--data_path=TEXTFolderthatholdsonefolderperdataset.[default:dataset]" in text
    assert "--runs_dir=TEXT" in text


def test_missing_raw_files_are_told(tell: Tell, tmp_path: Path) -> None:
    where = [f"--data_path={tmp_path}", f"--raw_dir={tmp_path}"]
    assert "Dataset 'Beauty' needs" in tell("--model=HeLLM", "--dataset=Beauty", *where)
    assert "Dataset 'Toys' needs" in tell("prepare", "--dataset=Toys", *where, keep=False)


def test_preparing_and_encoding_the_sample(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = ["--dataset=sample", f"--data_path={tmp_path}"]
    assert main(["prepare", *where]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["sample", "1,000", "1,736"]
    assert main(["encode", *where, "--text_encoder=tfidf"]) == 0
    assert capsys.readouterr().out.strip().endswith("text-tfidf.npy")


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_from_files_to_a_run(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    interactions: Any,
    quick: dict[str, Any],
    kind: str,
) -> None:
    tokens = sorted(interactions["item_id"].unique())
    items = pd.DataFrame({"item_id": tokens, "title": [f"red {token} hat" for token in tokens]})
    for name, frame in (("log", interactions), ("items", items)):
        path = tmp_path / f"{name}.{kind}"
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_json(path, orient="records", lines=True)
    where = ["--dataset=mine", f"--data_path={tmp_path}"]
    files = [f"--interactions={tmp_path}/log.{kind}", f"--items={tmp_path}/items.{kind}"]
    assert main(["prepare", *where, *files]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["mine", "40", "30"]
    rest = [f"--{key}={value}" for key, value in quick.items() if key != "data_path"]
    rest = [option for option in rest if not option.startswith("--text_encoder")]
    assert main(["run", "--model=VBPR", "--text_encoder=tfidf", *where, *rest]) == 0
    assert "VBPR" in capsys.readouterr().out
    assert (tmp_path / "mine/features/text-tfidf.npy").is_file()
    made = (tmp_path / "mine/mine.inter").read_text().splitlines()[1:]
    wanted = interactions.drop_duplicates().sort_values(["user_id", "timestamp", "item_id"])
    rows = wanted[["user_id", "item_id", "timestamp"]].astype(str).to_numpy().tolist()
    assert [[line.split("\t")[place] for place in (0, 1, 3)] for line in made] == rows


def test_mistakes_in_files_of_ones_own_are_told(tell: Tell, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\nu,i,soon\n")
    where = [f"--data_path={tmp_path}", f"--interactions={tmp_path}/log.csv"]
    for options, sentence in (
        ([], "--interactions needs a name for the dataset: --dataset=NAME"),
        (["--dataset=mine"], f"{tmp_path}/log.csv, line 2: the time is 'soon'"),
        (
            ["--dataset=mine", "--time_column=when"],
            "has no column 'when' (it has user, item, time)",
        ),
        (["--dataset=mine", "--k_core=x"], "k_core='x' must be a whole number"),
        (["--dataset=mine", "--layout=csv"], "layout='csv' is not allowed"),
        (["--dataset=Toys"], "'Toys' is a dataset that this package makes"),
        (["--dataset=mine", "--itms=x"], "Unknown option '--itms'"),
    ):
        assert sentence in tell("prepare", *where, *options, keep=False)
    options = ["--dataset=Toys", "--mirrors=none", f"--raw_dir={tmp_path}"]
    assert "switched off (mirrors=none)" in tell("prepare", *options, keep=False)
    assert "'nowhere' must be an http" in tell("prepare", "--mirrors=nowhere", keep=False)
