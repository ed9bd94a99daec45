"""The files of TensorBoard's projector, and that TensorBoard itself reads them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support.boards import read_projector, serve, shown_name
from werkzeug.test import Client

from recbole_hellm import run
from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.identity import run_path
from recbole_hellm.runs.results import RunResult
from recbole_hellm.tracking import projector

FILES = (projector.PROJECTOR_CONFIG, projector.ITEM_VECTORS, projector.ITEM_TEXTS)


@pytest.fixture
def write(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Write the projector's files of a made-up model."""

    def write(vectors: torch.Tensor, **options: Any) -> Path:
        config = make_config("BPR", **options)
        target = tmp_path / "written"
        projector.write_projector(RunDirectory(target), config, create_dataset(config), vectors)
        return target

    return write


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
        vectors, texts = read_projector(results[model].path)
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
        shown = read_projector(results[model].path)[0]
        assert np.allclose(shown, table.numpy(), rtol=2e-4, atol=1e-30)
        assert (shown.ravel()[1:] == table.numpy().ravel()[1:]).all()
    restored = results["HeLLM"].restore()
    read = restored.network.tokens.all()[1:].detach().numpy()
    assert np.allclose(read_projector(results["HeLLM"].path)[0], read, rtol=2e-4, atol=1e-6)
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


def test_empty_vectors_are_not_shown(results: dict[str, RunResult], tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    projector.write_projector(directory, None, None, torch.empty(3, 0))
    assert list(tmp_path.iterdir()) == []


def test_without_an_item_table_items_have_their_tokens(write: Callable[..., Path]) -> None:
    _, texts = read_projector(write(torch.ones(30, 2)))
    assert list(texts) == ["item", "popularity"]


def test_too_many_items_are_told_and_left_out(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(projector, "MOST_ITEMS", 29)
    with caplog.at_level(logging.INFO):
        assert not write(torch.ones(30, 2)).exists()
    assert "30 items are too many for TensorBoard's projector" in caplog.text


def test_a_damaged_item_table_loses_no_run(
    write: Callable[..., Path], shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(shop, tmp_path / "data")
    (tmp_path / "data/tiny/tiny.item").write_bytes(b"no header\n\xff\n")
    _, texts = read_projector(write(torch.ones(30, 2), data_path=str(tmp_path / "data")))
    assert list(texts) == ["item", "popularity"]
    assert "The projector shows no titles" in caplog.text


def test_texts_are_single_lines_of_moderate_length() -> None:
    titles = {"a": 'A\ttab,\r\n"two" lines\x85 and\u2028more ', "b": "x" * 200, "c": " "}
    texts = projector.item_texts(["a", "b", "c"], ItemMetadata(titles, {}), np.array([3, 0, 1]))
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
    texts = projector.item_texts(
        categories, ItemMetadata({}, categories), np.ones(len(paths), dtype=int)
    )
    assert texts["categories"].tolist() == paths
    assert (set(texts["category"]) if "category" in texts else None) == found


def test_the_projector_serves_every_stage(
    site: Client, results: dict[str, RunResult], runs: Path
) -> None:
    route = "/data/plugin/projector"
    names = {shown_name(result, runs): key for key, result in results.items() if key != "Pop"}
    assert set(site.get(f"{route}/runs").json) == set(names)
    for run_name, key in names.items():
        config = site.get(f"{route}/info", query_string={"run": run_name}).json
        (shown,) = config["embeddings"]
        assert shown["tensorName"] == f"{key.partition('-')[0]} items"
        vectors, texts = read_projector(results[key].path)
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
