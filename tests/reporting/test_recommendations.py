"""The command `recommend`: what it prints and writes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm import recommend, run
from recbole_hellm.cli.main import main, parse_options
from recbole_hellm.errors import ConfigError, HellmError
from recbole_hellm.reporting.recommendations import RecommendSettings, listing
from recbole_hellm.runs.recommending import Recommender
from recbole_hellm.runs.results import RunResult

TITLES = {"i00": 'A, "quoted" title', "i01": "Ein Löffel; <b>fein</b>", "i02": "x" * 80}


@pytest.fixture
def result(
    quick: dict[str, Any], tmp_path: Path, interactions: pd.DataFrame, make_dataset: Any
) -> RunResult:
    """A SASRec on `tiny` with an item table."""
    make_dataset(tmp_path / "data/tiny", interactions)
    lines = ["item_id:token\ttitle:token_seq\tcategories:token_seq"]
    for item in sorted(interactions["item_id"].unique()):
        lines.append(f"{item}\t{TITLES.get(item, f'Thing {item}')}\tHome Bath_Tubs")
    (tmp_path / "data/tiny/tiny.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run("SASRec", "tiny", **quick | {"data_path": str(tmp_path / "data")})


def asked(**options: Any) -> RecommendSettings:
    return RecommendSettings.from_config(options)


def test_a_table_with_titles_beside_the_history(result: RunResult) -> None:
    text = listing(result.path, asked(user="u01,u02", topk=3, recent=2))
    first, second = text.split("\n\nUser u02\n")
    lines = first.splitlines()
    assert lines[:3] == ["User u01", "", "Recent history, newest first"]
    expected = recommend(result, ["u01"], topk=3)
    recent = Recommender.open(result).recent("u01", 2)
    assert [line.split()[0] for line in lines[5:7]] == recent
    assert lines[8] == "Recommended"
    rows = [line.split() for line in lines[11:]]
    assert [row[:2] for row in rows] == [[str(n), i] for n, i in enumerate(expected["item"], 1)]
    assert [row[-1] for row in rows] == [f"{score:.4f}" for score in expected["score"]]
    assert "Home > Bath Tubs" in lines[11]
    assert "Recommended" in second
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_files_hold_what_was_recommended(result: RunResult, kind: str, tmp_path: Path) -> None:
    expected = recommend(result, "all", topk=4)
    assert set(TITLES.values()) & set(expected["title"])
    path = tmp_path / "new" / f"found.{kind}"
    told = listing(result.path, asked(all_users=True, topk=4, output=str(path), recent=2))
    assert told == f"{path}: {len(expected)} recommendations for 40 users"
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    if kind == "json":
        users = json.loads(path.read_text(encoding="utf-8"))
        found = pd.DataFrame(
            [{"user": user["user"], **row} for user in users for row in user["recommendations"]]
        )
        recent = {user["user"]: [row["item"] for row in user["history"]] for user in users}
    else:
        found = pd.read_csv(path) if kind == "csv" else pd.read_parquet(path)
        texts = dict(zip(found["user"], found.pop("history"), strict=True))
        recent = {
            user: [part.split()[0] for part in str(text).split("; ") if part.startswith("i")]
            for user, text in texts.items()
        }
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-6)
    recommender = Recommender.open(result)
    assert recent == {user: recommender.recent(user, 2) for user in recent}


def test_text_formats_on_standard_output(result: RunResult) -> None:
    text = listing(result.path, asked(user="u01", format="csv", topk=3))
    assert pd.read_csv(io.StringIO(text))["rank"].tolist() == [1, 2, 3]
    (only,) = json.loads(listing(result.path, asked(history="i00, i03", format="json", topk=2)))
    assert only["user"] is None
    assert [row["item"] for row in only["history"]] == ["i03", "i00"]
    assert only["history"][1]["title"] == TITLES["i00"]
    assert listing(result.path, asked(history="i00", topk=1)).startswith("Ad-hoc history\n")


def test_a_dataset_without_titles_has_a_plain_table(
    quick: dict[str, Any], small_model: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("HeLLM", "tiny", **quick | small_model)
    capsys.readouterr()
    assert main(["recommend", f"--run={result.path}", "--user", "u01", "--topk=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].split() == ["rank", "item", "score"]
    expected = recommend(result, "u01", topk=2)["item"].tolist()
    assert [line.split()[1] for line in lines[-2:]] == expected


def test_the_bundled_sample_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    options = [f"--runs_dir={tmp_path}", "--show_progress=False", "--use_gpu=False"]
    assert (
        main(["--model=SASRec", "--epochs=1", "--hidden_size=8", "--inner_size=8", *options]) == 0
    )
    (path,) = tmp_path.glob("sample/SASRec/*")
    capsys.readouterr()
    (tmp_path / "users.txt").write_text("U0002\r\n\nU0001\n", encoding="utf-8-sig")
    given = [f"--users={tmp_path / 'users.txt'}", "--topk=3", "--format=json"]
    assert main(["recommend", f"--run={path}", *given]) == 0
    users = json.loads(capsys.readouterr().out)
    assert [user["user"] for user in users] == ["U0002", "U0001"]
    assert all(row["title"] and row["categories"] for row in users[0]["recommendations"])
    assert users[1]["history"][0]["item"] == "I0719"


def test_tokens_are_texts_whatever_they_look_like() -> None:
    given = ["--user=0123", "--history", "1e5,on", "--topk=3", "--format=csv"]
    found = {"user": "0123", "history": "1e5,on", "topk": 3, "format": "csv"}
    assert parse_options(given, "recommend") == found
    with pytest.raises(ConfigError, match="Option --user needs a value; write --user=VALUE"):
        parse_options(["--user", "--topk=3"], "recommend")


def test_runs_may_be_given_without_an_option() -> None:
    assert parse_options(["a", "--users=3", "b c"], "report") == {"runs": ["a", "b c"], "users": 3}
    assert parse_options(["a", "--runs=b,c"], "report")["runs"] == ["a", "b", "c"]
    for command in ("run", "recommend"):
        with pytest.raises(ConfigError, match="Unexpected argument 'a'"):
            parse_options(["a"], command)
    with pytest.raises(ConfigError, match="Unexpected argument '--'"):
        parse_options(["--", "a"], "report")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "Say for whom to recommend with one of --user=TOKEN"),
        ({"user": "u01", "all_users": True}, "Say for whom to recommend"),
        ({"user": "u01", "topk": 0}, "topk=0 must be at least 1"),
        ({"user": "u01", "recent": -1}, "recent=-1 must not be negative"),
        ({"user": "u01", "format": "xml"}, "format='xml' is not allowed"),
        ({"user": "u01", "format": "parquet"}, "Parquet is no text; name a file"),
        ({"user": "u01", "output": "."}, r"output=\. is a folder; name a file"),
        ({"user": "u01", "output": "/"}, "output=/ is a folder; name a file"),
    ],
)
def test_requests_that_make_no_sense_are_told(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        asked(**options)


def test_files_that_cannot_be_used_are_told(result: RunResult, tmp_path: Path) -> None:
    def fails(match: str, **options: Any) -> None:
        with pytest.raises(HellmError, match=match):
            listing(result.path, asked(**options))

    (tmp_path / "users.txt").write_text("u01\nu0O\n")
    fails("users.txt, line 2: The dataset 'tiny' has no user 'u0O'", users=f"{tmp_path}/users.txt")
    (tmp_path / "users.txt").write_text("\n")
    fails("holds no user tokens", users=f"{tmp_path}/users.txt")
    fails(
        "none.txt cannot be read .*give a text file with a user token per line",
        users=f"{tmp_path}/none.txt",
    )
    fails("cannot be written", user="u01", output=f"{tmp_path}/users.txt/out.csv")


def test_the_command_needs_a_run(
    capsys: pytest.CaptureFixture[str], make_config: Callable[..., Any]
) -> None:
    assert main(["recommend", "--user=u01"]) == 2
    assert "recommend needs a finished run" in capsys.readouterr().err
    assert main(["recommend", "--run=x", "--uzer=u01"]) == 2
    assert "Unknown option '--uzer' (did you mean user" in capsys.readouterr().err
    assert main(["report"]) == 2
    assert "report needs finished runs" in capsys.readouterr().err
