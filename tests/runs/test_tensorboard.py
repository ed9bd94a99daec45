"""What TensorBoard gets of runs, and that TensorBoard itself reads it."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from google.protobuf import text_format
from safetensors.torch import load_file
from tensorboard import default
from tensorboard.backend import application
from tensorboard.backend.event_processing.data_ingester import LocalDataIngester
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.program import TensorBoard
from werkzeug.test import Client

from recbole_hellm import run
from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.runs import tensorboard
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.identity import run_path
from recbole_hellm.runs.results import RunResult
from recbole_hellm.runs.running import validate
from recbole_hellm.training.distributed import Processes

FILES = (tensorboard.PROJECTOR_CONFIG, tensorboard.ITEM_VECTORS, tensorboard.ITEM_TEXTS)


def projector(path: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Vectors and texts of a run directory."""
    config = text_format.Parse((path / tensorboard.PROJECTOR_CONFIG).read_text(), ProjectorConfig())
    (shown,) = config.embeddings
    assert not Path(shown.tensor_path).is_absolute()
    assert not Path(shown.metadata_path).is_absolute()
    vectors = np.fromfile(path / shown.tensor_path, dtype="<f4").reshape(shown.tensor_shape)
    texts = (path / shown.metadata_path).read_text(encoding="utf-8")
    frame = pd.read_csv(io.StringIO(texts), sep="\t", quoting=3, dtype=str, keep_default_na=False)
    return vectors, frame


def serve(logdir: Path) -> Client:
    """TensorBoard's own application over a folder, without a server."""
    program = TensorBoard(plugins=default.get_plugins())
    once = ["--reload_interval=0", "--reload_task=blocking"]
    program.configure(["tensorboard", f"--logdir={logdir}", "--load_fast=false", *once])
    data = LocalDataIngester(program.flags)
    data.start()
    return Client(
        application.TensorBoardWSGIApp(
            program.flags, program.plugin_loaders, data.data_provider, None
        )
    )


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, interactions: pd.DataFrame, make_dataset: Any
) -> Path:
    """A ``data_path`` whose dataset has an item table; one title is missing, one item unknown."""
    root = tmp_path_factory.mktemp("shop")
    make_dataset(root / "tiny", interactions)
    items = sorted(interactions["item_id"].unique())[1:]
    rows = [f"{item}\tThing {item}\tGoods Kind_{n % 3}" for n, item in enumerate(items)]
    rows[0] = rows[0].replace(f"Thing {items[0]}", "")
    header = "item_id:token\ttitle:token_seq\tcategories:token_seq"
    (root / "tiny/tiny.item").write_text("\n".join([header, *rows]) + "\n")
    return root


@pytest.fixture(scope="module")
def results(
    shop: Path, small_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunResult]:
    """Runs of several models under one folder, by a name each."""
    options = {"runs_dir": str(tmp_path_factory.mktemp("board") / "runs"), "data_path": str(shop)}
    options |= {"show_progress": False, "use_gpu": False, "threads": 1, "epochs": 2}
    llm = run("HeLLM", "tiny", **options, **small_model)
    by_model = {"HeLLM": llm} | {stage.record["model"]: stage for stage in llm.stages}
    by_model["Pop"] = run("Pop", "tiny", **options)
    for width in (4, 8):
        by_model[f"BPR-{width}"] = run("BPR", "tiny", **options, embedding_size=width)
    return by_model


@pytest.fixture(scope="module")
def runs(results: dict[str, RunResult]) -> Path:
    return results["HeLLM"].path.parents[2]


@pytest.fixture(scope="module")
def site(runs: Path) -> Client:
    return serve(runs)


def session_groups(site: Client, *statuses: str) -> dict[str, Any]:
    """Rows of the HPARAMS view, by their names."""
    asked = {"startIndex": 0, "sliceSize": 100, "colParams": [], "allowedStatuses": statuses}
    groups = site.post("/data/plugin/hparams/session_groups", json=asked).json["sessionGroups"]
    return {group["name"]: group for group in groups}


def name(result: RunResult, runs: Path) -> str:
    return result.path.relative_to(runs).as_posix()


# What a run leaves --------------------------------------------------------------------------------


def test_items_of_every_stage_are_written_in_the_order_of_the_dataset(
    results: dict[str, RunResult],
    make_config: Callable[..., Any],
    interactions: pd.DataFrame,
    shop: Path,
) -> None:
    dataset = create_dataset(make_config("BPR", data_path=str(shop)))
    tokens = list(dataset.item_tokens)
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"])
    lists = ordered.groupby("user_id")["item_id"].agg(list)
    trained = [item for items in lists for item in (items[:-2] if len(items) > 2 else items)]
    for model, width in (("HeLLM", 16), ("HeLLMPre", 8), ("SASRec", 8), ("BPR-4", 4)):
        vectors, texts = projector(results[model].path)
        assert vectors.shape == (30, width), model
        assert np.isfinite(vectors).all()
        assert texts["item"].tolist() == tokens
        assert texts["popularity"].tolist() == [str(trained.count(token)) for token in tokens]
    assert list(texts) == ["title", "item", "categories", "popularity"]
    by_item = texts.set_index("item")
    known = sorted(tokens)
    assert by_item.loc[known[2]].tolist()[:2] == [f"Thing {known[2]}", "Goods > Kind 1"]
    assert by_item.loc[known[1], "title"] == known[1]  # without a title
    assert by_item.loc[known[0], ["title", "categories"]].tolist() == [known[0], ""]  # not listed


def test_vectors_are_those_the_models_use(results: dict[str, RunResult]) -> None:
    for model in ("HeLLMPre", "SASRec", "BPR-8"):
        table = load_file(results[model].path / "embeddings.safetensors")["item"]
        shown = projector(results[model].path)[0]
        assert np.allclose(shown, table.numpy(), rtol=2e-4, atol=1e-30)
        assert (shown.ravel()[1:] == table.numpy().ravel()[1:]).all()
    restored = results["HeLLM"].restore()
    read = restored.network.tokens.all()[1:].detach().numpy()
    assert np.allclose(projector(results["HeLLM"].path)[0], read, rtol=2e-4, atol=1e-6)
    assert not (results["HeLLM"].path / "embeddings.safetensors").exists()


def test_a_model_without_embeddings_shows_none(results: dict[str, RunResult]) -> None:
    assert not any((results["Pop"].path / file).exists() for file in FILES)


def test_the_projector_changes_no_run(
    results: dict[str, RunResult],
    small_model: dict[str, Any],
    make_config: Callable[..., Any],
    shop: Path,
    tmp_path: Path,
) -> None:
    for off in ({}, {"projector": False}):
        config = make_config("HeLLM", data_path=str(shop), **small_model, **off)
        stages = config.stages().values()
        assert all(stage["projector"] is config["projector"] for stage in stages)
        assert run_path(config, create_dataset(config)).name == results["HeLLM"].path.name
    options = {"data_path": str(shop), "runs_dir": str(tmp_path), "show_progress": False}
    options |= {"use_gpu": False, "threads": 1, "epochs": 2, "embedding_size": 4}
    without = run("BPR", "tiny", **options, projector=False)
    assert without.path.name == results["BPR-4"].path.name
    assert without.record["test"] == results["BPR-4"].record["test"]
    assert not any((without.path / file).exists() for file in FILES)


@pytest.fixture
def write(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Write the projector's files of a made-up model."""

    def write(vectors: torch.Tensor, **options: Any) -> Path:
        config = make_config("BPR", **options)
        target = tmp_path / "written"
        tensorboard.write_projector(RunDirectory(target), config, create_dataset(config), vectors)
        return target

    return write


def test_empty_vectors_are_not_shown(results: dict[str, RunResult], tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    tensorboard.write_projector(directory, None, None, torch.empty(3, 0))
    assert list(tmp_path.iterdir()) == []


def test_without_an_item_table_items_have_their_tokens(write: Callable[..., Path]) -> None:
    _, texts = projector(write(torch.ones(30, 2)))
    assert list(texts) == ["item", "popularity"]


def test_too_many_items_are_told_and_left_out(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorboard, "MOST_ITEMS", 29)
    with caplog.at_level(logging.INFO):
        assert not write(torch.ones(30, 2)).exists()
    assert "30 items are too many for TensorBoard's projector" in caplog.text


def test_a_damaged_item_table_loses_no_run(
    write: Callable[..., Path], shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(shop, tmp_path / "data")
    (tmp_path / "data/tiny/tiny.item").write_bytes(b"no header\n\xff\n")
    _, texts = projector(write(torch.ones(30, 2), data_path=str(tmp_path / "data")))
    assert list(texts) == ["item", "popularity"]
    assert "The projector shows no titles" in caplog.text


def test_texts_are_single_lines_of_moderate_length() -> None:
    titles = {"a": 'A\ttab,\r\n"two" lines\x85 and\u2028more ', "b": "x" * 200, "c": " "}
    texts = tensorboard.item_texts(["a", "b", "c"], ItemMetadata(titles, {}), np.array([3, 0, 1]))
    assert list(texts) == ["title", "item", "popularity"]
    assert texts["title"].tolist() == ['A tab, "two" lines and more', "x" * 79 + "…", "c"]
    assert texts["popularity"].tolist() == ["3", "0", "1"]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (
            [f"Top > Mid {n % 5} > Leaf {n}" for n in range(60)],
            {f"Top > Mid {n}" for n in range(5)},
        ),
        ([f"Top {n}" for n in range(60)], None),  # nothing to cut
        (["Top", "Top > Mid", ""], None),  # few enough as they are
    ],
)
def test_categories_are_cut_to_as_many_as_can_be_coloured(
    paths: list[str], found: set[str] | None
) -> None:
    categories = {str(n): path for n, path in enumerate(paths)}
    texts = tensorboard.item_texts(
        categories, ItemMetadata({}, categories), np.ones(len(paths), dtype=int)
    )
    assert texts["categories"].tolist() == paths
    assert (set(texts["category"]) if "category" in texts else None) == found


def test_other_processes_leave_the_row_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "current", lambda: Processes(1, 2))
    tensorboard.write_settings(None, {}, {})  # touches neither


# What TensorBoard makes of it ---------------------------------------------------------------------


def test_there_is_one_run_for_each_run(
    site: Client, results: dict[str, RunResult], runs: Path
) -> None:
    names = {name(result, runs) for result in results.values()}
    assert set(site.get("/data/runs").json) == names
    tags = site.get("/data/plugin/scalars/tags").json
    assert set(tags) == names
    for model in ("HeLLMPre", "SASRec", "HeLLM"):
        scalar_tags = set(tags[name(results[model], runs)])
        wanted = {"loss/total", "valid/ndcg@10", "cost/seconds_per_epoch", "test-none/ndcg@20"}
        assert scalar_tags > wanted, model
    assert {"loss/bpr", "loss/reg"} < set(tags[name(results["HeLLMPre"], runs)])


def test_results_stand_at_the_chosen_epoch(
    site: Client, results: dict[str, RunResult], runs: Path
) -> None:
    for result in results.values():
        for tag, metrics in (
            ("test-seen/ndcg@10", result.metrics()),
            ("best/valid-ndcg@10", result.metrics("valid")),
        ):
            query = {"run": name(result, runs), "tag": tag}
            ((_, step, value),) = site.get("/data/plugin/scalars/scalars", query_string=query).json
            assert step == result.record["best_epoch"] - 1
            assert value == pytest.approx(metrics["ndcg@10"], rel=1e-6)


def test_the_projector_serves_every_stage(
    site: Client, results: dict[str, RunResult], runs: Path
) -> None:
    route = "/data/plugin/projector"
    names = {name(result, runs): key for key, result in results.items() if key != "Pop"}
    assert set(site.get(f"{route}/runs").json) == set(names)
    for run_name, key in names.items():
        config = site.get(f"{route}/info", query_string={"run": run_name}).json
        (shown,) = config["embeddings"]
        assert shown["tensorName"] == f"{key.partition('-')[0]} items"
        vectors, texts = projector(results[key].path)
        query = {"run": run_name, "name": shown["tensorName"]}
        served = site.get(f"{route}/tensor", query_string=query)
        assert served.status_code == 200
        assert served.data == vectors.tobytes()
        lines = site.get(f"{route}/metadata", query_string=query).text.splitlines()
        assert lines[0].split("\t") == list(texts)
        assert len(lines) == 1 + len(vectors)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5e-8])
def test_any_values_are_served(write: Callable[..., Path], value: float) -> None:
    """Zeros are bytes of valid UTF-8, for which TensorBoard would try to read a table of texts."""
    path = write(torch.full((30, 2), value))
    (path / "events.out.tfevents.0").write_bytes(b"")
    query = {"run": ".", "name": "BPR items"}
    served = serve(path).get("/data/plugin/projector/tensor", query_string=query)
    values = np.frombuffer(served.data, dtype="<f4")
    assert np.allclose(values, value, rtol=2e-4, atol=1e-30)


def test_a_moved_run_keeps_its_projector(results: dict[str, RunResult], tmp_path: Path) -> None:
    shutil.copytree(results["SASRec"].path, tmp_path / "elsewhere/copy")
    site = serve(tmp_path / "elsewhere")
    query = {"run": "copy", "name": "SASRec items"}
    served = site.get("/data/plugin/projector/tensor", query_string=query)
    assert len(served.data) == 30 * 8 * 4


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
    assert tags[:3] == ["best/epoch", "best/test-ndcg@10", "best/valid-ndcg@10"]
    assert {"test-seen/ndcg@10", "test-train/hit@20", "cost-of-run/train_seconds"} < set(tags)
    rows = session_groups(site, "STATUS_SUCCESS")
    assert set(rows) == {name(result, runs) for result in results.values()}
    for result in results.values():
        row = rows[name(result, runs)]
        assert row["hparams"]["Model"] == result.record["model"]
        values = {m["name"]["tag"]: m["value"] for m in row["metricValues"]}
        for masking, metrics in result.record["test"].items():
            for metric, value in metrics.items():
                assert values[f"test-{masking}/{metric}"] == pytest.approx(value, rel=1e-6)
        assert values["best/epoch"] == result.record["best_epoch"]
    stages = {
        role: results[model].path for role, model in (("graph", "HeLLMPre"), ("sequence", "SASRec"))
    }
    for role, path in stages.items():
        shown = rows[name(results["HeLLM"], runs)]["hparams"][f"{role}_stage"]
        assert shown == f"{path.parent.name}/{path.name}"


def test_a_run_without_a_test_has_its_row(
    make_config: Callable[..., Any], quick: dict[str, Any]
) -> None:
    validate(make_config("BPR", embedding_size=4))
    site = serve(Path(quick["runs_dir"]))
    assert session_groups(site, "STATUS_SUCCESS") == {}
    (row,) = session_groups(site, "STATUS_UNKNOWN", "STATUS_RUNNING").values()
    assert row["hparams"]["embedding_size"] == 4
    tags = {value["name"]["tag"] for value in row["metricValues"]}
    assert "valid/ndcg@10" in tags
    assert not any(tag.startswith("test") for tag in tags)


def test_tensorboard_shows_training_validation_test_cost_and_settings(bpr: RunResult) -> None:
    events = EventAccumulator(str(bpr.path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {
        "loss/total",
        "valid/ndcg@10",
        "valid/recall@20",
        "test-seen/ndcg@10",
        "test-train/ndcg@10",
        "test-none/recall@20",
        "optimisation/learning_rate",
        "cost/seconds_per_epoch",
        "cost/batches_per_second",
        "cost/peak_memory_mb",
    }
    assert [event.step for event in events.Scalars("loss/total")] == [0, 1, 2]
    assert [event.step for event in events.Scalars("valid/ndcg@10")] == [1, 2]
    (test,) = events.Scalars("test-seen/ndcg@10")
    assert test.value == pytest.approx(bpr.metrics()["ndcg@10"])
    session = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for name in (b"embedding_size", b"learning_rate", b"mask_history", b"seed"):
        assert name in session
    assert b"runs_dir" not in session
