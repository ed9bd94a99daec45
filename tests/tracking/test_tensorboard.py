"""What TensorBoard gets of runs, and that TensorBoard itself reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.boards import serve, session_groups, shown_name
from werkzeug.test import Client

from recbole_hellm import run
from recbole_hellm.runs.results import RunResult
from recbole_hellm.runs.running import validate
from recbole_hellm.tracking import tensorboard
from recbole_hellm.tracking.tensorboard import TensorBoardTracker, name_of, tag_of
from recbole_hellm.tracking.tracker import TrackedRun


def test_there_is_one_run_for_each_run(
    site: Client, results: dict[str, RunResult], runs: Path
) -> None:
    names = {shown_name(result, runs) for result in results.values()}
    assert set(site.get("/data/runs").json) == names
    tags = site.get("/data/plugin/scalars/tags").json
    assert set(tags) == names
    for model in ("HeLLMPre", "SASRec", "HeLLM"):
        scalar_tags = set(tags[shown_name(results[model], runs)])
        wanted = {"Epoch/loss/total", "Epoch/valid/ndcg@10", "test-none/ndcg@20"}
        assert scalar_tags > wanted, model
    assert {"Epoch/loss/bpr", "Epoch/loss/reg"} < set(tags[shown_name(results["HeLLMPre"], runs)])


def test_results_stand_at_the_chosen_epoch(
    site: Client, results: dict[str, RunResult], runs: Path
) -> None:
    for result in results.values():
        for tag, metrics in (
            ("test-seen/ndcg@10", result.metrics()),
            ("Epoch (best)/valid-ndcg@10", result.metrics("valid")),
        ):
            query = {"run": shown_name(result, runs), "tag": tag}
            ((_, step, value),) = site.get("/data/plugin/scalars/scalars", query_string=query).json
            assert step == result.record["best_epoch"] - 1
            assert value == pytest.approx(metrics["ndcg@10"], rel=1e-6)


def test_hparams_have_a_row_for_each_run_with_settings_of_any_model(
    site: Client, results: dict[str, RunResult], runs: Path
) -> None:
    route = "/data/plugin/hparams"
    experiment = site.post(f"{route}/experiment", json={}).json
    infos = {info["name"]: info for info in experiment["hparamInfos"]}
    assert infos["Model"]["differs"]
    assert set(infos["Model"]["domainDiscrete"]) == {"Pop", "BPR", "SASRec", "HeLLMPre", "HeLLM"}
    assert infos["embedding_size"]["domainInterval"] == {"minValue": 4.0, "maxValue": 8.0}
    assert infos["bucket_by_length"]["type"] == "DATA_TYPE_BOOL"
    assert {"prefix_length", "n_layers", "knn_k"} < set(infos)
    assert not {"runs_dir", "data_path", "projector"} & set(infos)
    tags = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert tags[:3] == [
        f"Epoch (best)/{name}" for name in ("epoch", "test-ndcg@10", "valid-ndcg@10")
    ]
    assert {"test-seen/ndcg@10", "test-train/hit@20", "cost-of-run/train_seconds"} < set(tags)
    rows = session_groups(site, "STATUS_SUCCESS")
    assert set(rows) == {shown_name(result, runs) for result in results.values()}
    for result in results.values():
        row = rows[shown_name(result, runs)]
        assert row["hparams"]["Model"] == result.record["model"]
        values = {m["name"]["tag"]: m["value"] for m in row["metricValues"]}
        for masking, metrics in result.record["test"].items():
            for metric, value in metrics.items():
                assert values[f"test-{masking}/{metric}"] == pytest.approx(value, rel=1e-6)
        assert values["Epoch (best)/epoch"] == result.record["best_epoch"]
    stages = {
        role: results[model].path for role, model in (("graph", "HeLLMPre"), ("sequence", "SASRec"))
    }
    for role, path in stages.items():
        shown = rows[shown_name(results["HeLLM"], runs)]["hparams"][f"{role}_stage"]
        assert shown == f"{path.parent.name}/{path.name}"


def test_a_run_without_a_test_has_its_row(
    make_config: Callable[..., Any], quick: dict[str, Any]
) -> None:
    validate(make_config("BPR", embedding_size=4))
    site = serve(Path(quick["runs_dir"]))
    (row,) = session_groups(site, "STATUS_SUCCESS").values()
    assert row["hparams"]["embedding_size"] == 4
    tags = {value["name"]["tag"] for value in row["metricValues"]}
    assert {"Epoch/valid/ndcg@10", "Epoch (best)/valid-ndcg@10"} < tags
    assert not any(tag.startswith("test") for tag in tags)


def test_trials_of_a_search_show_what_they_tried_and_their_score(
    make_config: Callable[..., Any], quick: dict[str, Any]
) -> None:
    scores = {}
    for rate in (0.01, 0.1):
        config = make_config("BPR", embedding_size=4, learning_rate=rate)
        searched = {"learning_rate": rate, "embedding_size": 4}
        scores[rate] = validate(config, searched=searched).score
    pruned = make_config("BPR", embedding_size=4, learning_rate=0.2)

    def prune(epoch: int, score: float) -> None:
        scores[0.2] = score
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        validate(pruned, prune, {"learning_rate": 0.2, "embedding_size": 4})
    run("BPR", "tiny", **quick, embedding_size=8)
    site = serve(Path(quick["runs_dir"]))
    experiment = site.post("/data/plugin/hparams/experiment", json={}).json
    first = [info["name"] for info in experiment["hparamInfos"]][:5]
    assert first == ["Learning rate", "Searched", "embedding_size", "Dataset", "Model"]
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert "Epoch (best)/valid-ndcg@10" in metrics[:5]
    rows = session_groups(site, "STATUS_SUCCESS")
    shown = {}
    for row in rows.values():
        tried = row["hparams"].get("Searched")
        values = {value["name"]["tag"]: value["value"] for value in row["metricValues"]}
        if tried is not None:
            shown[tried] = values["Epoch (best)/valid-ndcg@10"]
        assert ("Epoch (best)/test-ndcg@10" in values) is (tried is None)
    assert shown == {
        f"learning_rate={rate} embedding_size=4": pytest.approx(score, rel=1e-6)
        for rate, score in scores.items()
    }


def page_order(tag: str) -> list[tuple[bool, str]]:
    """By which TensorBoard's pages of curves sort tags without numbers: slashes come first."""
    return [(letter != "/", letter) for letter in tag]


def test_pages_of_curves_begin_with_losses_and_validation(site: Client) -> None:
    tags = {tag for run in site.get("/data/plugin/scalars/tags").json.values() for tag in run}
    groups = dict.fromkeys(tag.split("/")[0] for tag in sorted(tags, key=page_order))
    assert list(groups)[:3] == ["Epoch", "Epoch (best)", "cost"]
    assert all(tag.startswith(("Epoch/loss/", "Epoch/valid/")) for tag in tags if "Epoch/" in tag)


def test_a_run_alone_shows_dataset_model_and_learning_rate_first(told: RunResult) -> None:
    site = serve(told.path)
    experiment = site.post("/data/plugin/hparams/experiment", json={}).json
    names = [info["name"] for info in experiment["hparamInfos"]]
    assert names[:3] == ["Dataset", "Learning rate", "Model"]
    assert "max_item_list_length" in names


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("loss/total", "Epoch/loss/total"),
        ("valid/ndcg@10", "Epoch/valid/ndcg@10"),
        ("best/valid-ndcg@10", "Epoch (best)/valid-ndcg@10"),
        ("cost/seconds_per_epoch", "cost/seconds_per_epoch"),
    ],
)
def test_tags_are_names_in_another_order(name: str, tag: str) -> None:
    assert tag_of(name) == tag
    assert name_of(tag) == name
    assert name_of(name) == name  # as earlier versions wrote it


def test_events_of_a_killed_process_that_are_damaged_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise ValueError("no events")

    monkeypatch.setattr(tensorboard, "read_scalars", fail)
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    tracker = TensorBoardTracker()
    tracked = TrackedRun("BPR", "tiny", "1", tmp_path, "name", True, {})
    assert tracker.start(tracked, {}) == 0
    tracker.finish("stopped")
    assert "events.out.tfevents.1 cannot be read as events (no events)." in caplog.text
