"""The page of runs: what it says, and that it stands alone."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from recbole_hellm import load_run, recommend, run
from recbole_hellm.cli.main import main
from recbole_hellm.errors import ConfigError, RunError, StorageError
from recbole_hellm.reporting import report as module
from recbole_hellm.reporting.report import ReportSettings, write_report
from recbole_hellm.runs.recommending import Recommender
from recbole_hellm.runs.results import RunResult

NASTY = "</script><script>alert('&')</script><img src=x onerror=alert(1)>"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)


class Page(HTMLParser):
    """Tags with attributes, cells of tables, and texts of scripts and styles apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "": []}
        self.within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.within = tag if tag in ("script", "style") else ""
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.cell = tag in ("td", "th") or (tag == "i" and self.cell)

    cell = False

    def handle_endtag(self, tag: str) -> None:
        self.within = ""
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.texts[self.within].append(data)
        if self.cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def folder(tmp_path: Path, interactions: pd.DataFrame, make_dataset: Any) -> Path:
    """``data_path`` with `tiny`, its titles and some pictures."""
    directory = tmp_path / "data/tiny"
    make_dataset(directory, interactions)
    lines = ["item_id:token\ttitle:token_seq\tcategories:token_seq"]
    lines += [f"{i}\t{NASTY} {i}\tA&B" for i in sorted(interactions["item_id"].unique())]
    (directory / "tiny.item").write_text("\n".join(lines) + "\n")
    (directory / "images").mkdir()
    for item in range(0, 30, 2):
        (directory / f"images/i{item:02d}.png").write_bytes(PNG + bytes([item]))
    return tmp_path / "data"


@pytest.fixture
def runs(quick: dict[str, Any], folder: Path) -> list[RunResult]:
    options = quick | {"data_path": str(folder)}
    return [run(model, "tiny", **options) for model in ("BPR", "SASRec")]


@pytest.fixture
def page(runs: list[RunResult], tmp_path: Path) -> str:
    path = write_report([result.path for result in runs], settings(tmp_path))
    assert [found.name for found in path.parent.iterdir()] == ["page.html"]
    return path.read_text(encoding="utf-8")


def settings(tmp_path: Path, **options: Any) -> ReportSettings:
    given = {"output": str(tmp_path / "out/page.html"), "users": 4, "topk": 3, "recent": 2}
    return ReportSettings.from_config(given | options)


def test_the_page_loads_nothing(page: str) -> None:
    found = Page(page)
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img"), tag
        assert not {"src", "href", "srcset", "action", "data", "poster"} & set(attributes), tag
        assert "url(" not in (attributes.get("style") or "")
        assert not any(name.startswith("on") for name in attributes)
    style = "".join(found.texts["style"])
    assert "@import" not in style
    assert all(
        url.startswith("data:image/png;base64,") for url in re.findall(r"url\((.*?)\)", style)
    )
    metas = [attributes for tag, attributes in found.tags if tag == "meta"]
    (policy,) = (m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    )
    assert max(map(len, found.texts["script"])) > 1_000_000  # the plotting library


def test_texts_are_escaped(page: str) -> None:
    assert "<script>alert" not in page
    assert "<img" not in page
    assert any(NASTY in text for text in ["".join(Page(page).texts[""])])
    assert "A&amp;B" in page


def test_names_cannot_break_out_of_a_plot(runs: list[RunResult], tmp_path: Path) -> None:
    record = {**runs[0].record, "model": NASTY}
    named = RunResult(runs[0].path, record)
    page = write_report([named, runs[1]], settings(tmp_path, users=0)).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img" not in page


def test_numbers_are_those_of_the_records(page: str, runs: list[RunResult]) -> None:
    records = [json.loads((result.path / "metrics.json").read_text()) for result in runs]
    *tables, cost = Page(page).tables
    assert re.findall(r'data-masking="(\w+)"', page) == ["seen", "train", "none"]
    for masking, table in zip(("seen", "train", "none"), tables, strict=True):
        head, *rows = table
        measured = list(records[0]["test"][masking])
        assert head[1:] == [name for name in measured if not name.startswith("hit@")]
        for row, record in zip(rows, records, strict=True):
            values = record["test"][masking]
            assert row == [record["model"], *(f"{values[name]:.4f}" for name in head[1:])]
    head, *rows = cost
    for row, record in zip(rows, records, strict=True):
        shown = dict(zip(head, row, strict=True))
        assert shown["run"] == record["model"]
        assert shown["best epoch"] == f"{record['best_epoch']} of {record['epochs']}"
        assert shown["training, s"] == f"{record['cost']['train_seconds']:,.1f}"
        assert shown["parameters"] == f"{record['cost']['parameters']:,}"
        assert shown["samples/s"] == f"{record['cost']['samples_per_second']:,.0f}"


def test_the_best_value_is_the_least_where_less_is_better(
    runs: list[RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "costs_of_somebody.py").write_text(
        "from recbole_hellm.evaluation.metric import RankMetric\n\n\n"
        "class Cost(RankMetric):\n    bigger_is_better = False\n\n"
        "    def gain(self, places, k):\n        return places\n"
    )
    keys = ("giniindex@10", "cost@10", "gone@10")
    for number, result in enumerate(runs):
        record = result.path / "metrics.json"
        content = json.loads(record.read_text())
        del content["checksum"], content["files"]  # as an earlier version wrote it
        content["test"]["seen"] |= dict.fromkeys(keys, 0.25 + number / 2)
        record.write_text(json.dumps(content))
        path = result.path / "config.yaml"
        names = ["costs_of_somebody:Cost", "gone_since:Gone"]
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"metrics": names}))
    monkeypatch.syspath_prepend(tmp_path)
    path = write_report([result.path for result in runs], settings(tmp_path, users=0))
    text = path.read_text(encoding="utf-8")
    assert re.findall(r'<td class="best">(0\.[27]500)</td>', text) == ["0.2500", "0.2500", "0.7500"]


def test_recommendations_of_sampled_users(page: str, runs: list[RunResult], tmp_path: Path) -> None:
    users = re.findall(r"<h3>User (\w+)</h3>", page)
    assert len(set(users)) == 4
    articles = re.findall(r'<article class="user">(.*?)</article>', page, flags=re.DOTALL)
    recommender = Recommender.open(runs[1])
    for user, article in zip(users, articles, strict=True):
        items = re.findall(r'<span class="small">(i\d\d)(?: |<)', article)
        expected = recommender.recent(user, 2)
        for result in runs:
            expected += recommend(result, user, topk=3)["item"].tolist()
        assert items == expected
        for card in article.split("<li ")[1:]:
            item = re.findall(r'<span class="small">(i\d\d)', card)[0]
            shown = re.findall(r'class="thumb (\w+)"', card)[0]
            if int(item[1:]) % 2:
                assert shown == "none"
            else:
                data = base64.b64encode(PNG + bytes([int(item[1:])])).decode()
                assert (
                    f".{shown} {{ background-image: url(data:image/png;base64,{data}); }}" in page
                )
    again = write_report(runs, settings(tmp_path)).read_text(encoding="utf-8")
    assert re.findall(r"<h3>User (\w+)</h3>", again) == users
    other = write_report(runs, settings(tmp_path, seed=1)).read_text(encoding="utf-8")
    assert re.findall(r"<h3>User (\w+)</h3>", other) != users


def test_large_pictures_are_left_out_and_counted(
    runs: list[RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_PICTURE", 10)
    page = write_report(runs, settings(tmp_path)).read_text(encoding="utf-8")
    assert "background-image: url(" not in page
    assert re.search(r"\d+ pictures larger than 0 kB are left out", page)


def test_curves_are_drawn_for_every_run(page: str, runs: list[RunResult], tmp_path: Path) -> None:
    plots = re.findall(r'id="plot-([\w-]+)"', page)
    assert plots == ["results", "validation", "loss-0", "loss-1", "seconds"]
    assert "95 % bootstrap intervals over users" in page
    assert "ndcg@10 on validation" in page
    for events in runs[0].path.glob("events.*"):
        events.unlink()
    told = write_report(runs, settings(tmp_path, users=0)).read_text(encoding="utf-8")
    assert "No learning curves are kept of BPR." in told
    assert "loss-1" not in told
    assert "Recommendations" not in told


def test_a_run_that_cannot_be_restored_is_told_on_the_page(
    runs: list[RunResult], tmp_path: Path
) -> None:
    (runs[0].path / "best.pt").unlink()
    page = write_report(runs, settings(tmp_path)).read_text(encoding="utf-8")
    assert re.search(r"No recommendations of BPR: .*best.pt is (damaged|missing)", page)
    assert len(re.findall(r"<h3>User (\w+)</h3>", page)) == 4


def test_runs_of_one_model_are_told_apart(runs: list[RunResult], tmp_path: Path) -> None:
    copy = runs[0].path.with_name("another")
    shutil.copytree(runs[0].path, copy)
    path = write_report([runs[0], copy, runs[0].path], settings(tmp_path, users=0))
    rows = Page(path.read_text(encoding="utf-8")).tables[0]
    assert [row[0] for row in rows] == ["run", f"BPR {runs[0].path.name[:8]}", "BPR another"]


def test_stages_are_shown_before_their_model(
    quick: dict[str, Any], small_model: dict[str, Any], tmp_path: Path
) -> None:
    result = run("HeLLM", "tiny", **quick | small_model)
    page = write_report([result], settings(tmp_path)).read_text(encoding="utf-8")
    rows = Page(page).tables[0]
    assert [row[0] for row in rows[1:]] == ["HeLLMPre", "SASRec", "HeLLM"]
    # A loss of one epoch is no curve; the others are a list for each user.
    curves = [run for run in (*result.stages, result) if run.record["epochs"] > 1]
    assert page.count('<div><h3><i class="dot"') == len(curves) + 4


def test_the_command(
    runs: list[RunResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "r.html"
    paths = [str(result.path) for result in runs]
    assert main(["report", *paths, f"--output={output}", "--users=1"]) == 0
    assert capsys.readouterr().out == f"Report: {output}\n"
    assert output.read_text(encoding="utf-8").count("<article") == 1
    assert main(["report", f"--runs={','.join(paths)}", f"--output={output}", "--users=0"]) == 0
    assert "<article" not in output.read_text(encoding="utf-8")


def test_mistakes_are_told(runs: list[RunResult], tmp_path: Path) -> None:
    other = RunResult(runs[1].path, {**runs[1].record, "split": "other"})
    with pytest.raises(RunError, match="These runs differ in split"):
        write_report([runs[0], other], settings(tmp_path))
    with pytest.raises(RunError, match="holds no finished run"):
        write_report([tmp_path], settings(tmp_path))
    with pytest.raises(ConfigError, match="needs at least one finished run"):
        write_report([], settings(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(runs, settings(tmp_path, users=0, output=str(tmp_path / "file/x.html")))
    with pytest.raises(ConfigError, match=r"page\.pdf: a report is an HTML page"):
        settings(tmp_path, output="page.pdf")
    for key, value in (("users", -1), ("topk", 0), ("recent", -1)):
        with pytest.raises(ConfigError, match=f"{key}={value} must"):
            settings(tmp_path, **{key: value})
    for folder in (".", "", str(tmp_path)):
        with pytest.raises(ConfigError, match=f"output={re.escape(folder)} is a folder; name a"):
            settings(tmp_path, output=folder)
    assert load_run(runs[0].path).record == runs[0].record


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml", "identity.json", "events"])
def test_damage_is_told_or_changes_nothing(
    runs: list[RunResult], tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(tmp_path, users=0)
    paths = [result.path for result in runs]
    expected = write_report(paths, chosen).read_text(encoding="utf-8")
    (path,) = paths[1].glob(f"{name}*") if name == "events" else [paths[1] / name]
    (other,) = paths[0].glob(f"{name}*") if name == "events" else [paths[0] / name]
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 4
    deep = b"[" * 100_000
    damages = [None, b"", b"\xff" * 9, deep, content[: len(content) // 2], bytes(changed)]
    for damaged in (*damages, other.read_bytes()):
        caplog.clear()
        path.write_bytes(damaged) if damaged is not None else path.unlink()
        try:
            found = write_report(paths, chosen).read_text(encoding="utf-8")
        except RunError as error:
            assert str(paths[1]) in str(error)  # noqa: PT017
        else:
            assert found == expected or str(path) in caplog.text


def test_odd_folders_are_told(runs: list[RunResult], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipes/metrics.json")
    for name in ("file", "empty", "pipe", "pipes", "absent"):
        with pytest.raises(RunError, match=f"{name}"):
            write_report([tmp_path / name], settings(tmp_path))


def test_a_full_disk_is_told(
    runs: list[RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"page\.html cannot be written \(the disk is full\)"):
        write_report(runs, settings(tmp_path, users=0))
    assert list((tmp_path / "out").iterdir()) == []
