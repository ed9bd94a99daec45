"""Whole runs: what they leave, that they repeat, and that a kill changes nothing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.runs import outcome

from recbole_hellm import run
from recbole_hellm.config.yaml_files import packaged
from recbole_hellm.errors import ConfigError, DataError, RunError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.results import RunResult


def test_nothing_is_written_elsewhere(
    train: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    train("Pop")
    assert list(elsewhere.iterdir()) == []


def test_a_log_of_the_training_stays_with_the_run(train: Callable[..., RunResult]) -> None:
    result = train("BPR", epochs=2)
    log = result.path / "run.log"
    lines = log.read_text().splitlines()
    told = [line.split(": ")[0].split(" ", 3)[3] for line in lines]
    assert told == ["BPR epoch 1", "BPR epoch 2"]
    # Messages after the record was written change no checksum.
    log.write_text("")
    assert not [*RunDirectory(result.path).damages()]
    assert "run.log" not in (RunDirectory(result.path).listed() or {})


def test_what_a_notebook_passes(quick: dict[str, Any], tmp_path: Path) -> None:
    """Several models, a class, one settings file, paths and numpy's numbers."""
    from recbole.model.general_recommender import BPR

    file = tmp_path / "settings.yaml"
    file.write_text("stopping_step: 7\n")
    options = quick | {"runs_dir": tmp_path / "runs", "seed": np.int64(3)}
    options |= {"weight_decay": np.float32(0.5), "topk": np.array([10, 20])}
    first, second = run(["Pop", BPR], "tiny", config_files=str(file), **options)
    assert [first.record["model"], second.record["model"]] == ["Pop", "BPR"]
    texts = quick | {"runs_dir": str(tmp_path / "runs"), "seed": 3, "weight_decay": 0.5}
    same = run(BPR, "tiny", config_files=[file], **texts)
    assert same.path == second.path
    assert [one.path for one in run("Pop,BPR", "tiny", [file], **texts)] == [first.path, same.path]
    with pytest.raises(ConfigError, match="The class Here is in no file"):
        run(type("Here", (BPR,), {"__module__": "nowhere"}), "tiny")


# Finished runs -----------------------------------------------------------------------------------


def test_finished_runs_are_found_again(
    train: Callable[..., RunResult], trained: list[str], quick: dict[str, Any], tmp_path: Path
) -> None:
    first = train("BPR")
    moved = tmp_path / "data"
    shutil.copytree(quick["data_path"], moved)
    for display in (
        {"show_progress": True},
        {"data_path": str(moved)},
        {"eval_users": 3},
        {"save_topk": 5},
        {"resume": True},
        {"text_encoder": "tfidf"},
    ):
        assert train("BPR", **display).path == first.path
    assert trained == ["BPR"]
    assert train("BPR", runs_dir=str(tmp_path / "b")).path.name == first.path.name
    assert trained == ["BPR", "BPR"]


def test_finished_runs_get_the_lists_that_they_lack(
    train: Callable[..., RunResult], trained: list[str], tmp_path: Path
) -> None:
    first = train("BPR")
    metrics = RunDirectory(first.path).record()
    lists = first.path / "topk-seen.parquet"
    assert not lists.exists()
    for length in (3, 5):
        train("BPR", save_topk=length)
        whole = train("BPR", save_topk=length, runs_dir=str(tmp_path / f"of{length}"))
        pd.testing.assert_frame_equal(
            pd.read_parquet(lists), pd.read_parquet(whole.path / lists.name)
        )
    written = lists.stat().st_mtime_ns
    train("BPR", save_topk=4)  # shorter ones are in it
    assert lists.stat().st_mtime_ns == written
    assert RunDirectory(first.path).record() == metrics
    assert not list(RunDirectory(first.path).damages())
    with pytest.raises(ConfigError, match="lower save_topk"):
        train("BPR", save_topk=31)
    assert trained == ["BPR"] * 3
    lists.unlink()
    (first.path / "best.pt").unlink()
    with pytest.raises(RunError, match=r"best.pt is damaged \(it is missing"):
        train("BPR", save_topk=3)


def test_lists_that_another_process_writes_are_waited_for(
    train: Callable[..., RunResult], caplog: pytest.LogCaptureFixture
) -> None:
    path = train("BPR").path
    held, lists = RunDirectory(path), path / "topk-seen.parquet"
    waiting = threading.Thread(target=train, args=["BPR"], kwargs={"save_topk": 3})
    with caplog.at_level("INFO"), held.locked():
        waiting.start()
        while "Waiting for another process" not in caplog.text:
            assert waiting.is_alive()
            time.sleep(0.01)
    waiting.join()
    written = lists.stat().st_mtime_ns
    train("BPR", save_topk=3)
    assert lists.stat().st_mtime_ns == written


def test_stages_are_trained_once_and_change_nothing(
    train: Callable[..., RunResult],
    trained: list[str],
    small_model: dict[str, Any],
    tmp_path: Path,
) -> None:
    first = train("HeLLM", **small_model)
    assert trained == ["HeLLMPre", "SASRec", "HeLLM"]
    assert train("HeLLM", **small_model).path == first.path
    forced = train("HeLLM", **small_model, force=True)
    assert trained[3:] == ["HeLLM"]  # stages found, the model trained again
    assert outcome(forced) == outcome(first)
    other = train("HeLLM", **small_model, prefix="none", epochs=1)
    assert trained[4:] == ["HeLLM"]
    assert [stage.path for stage in other.stages] == [stage.path for stage in first.stages]
    changed = train("HeLLM", **small_model | {"HeLLMPre.tau": 0.3})
    assert trained[5:] == ["HeLLMPre", "HeLLM"]
    assert changed.path != first.path
    assert changed.stages[1].path == first.stages[1].path
    sizes = {key[7:]: value for key, value in small_model.items() if key.startswith("SASRec.")}
    default = packaged("model", "SASRec.yaml")["learning_rate"]
    alone = train("SASRec", **sizes, MAX_ITEM_LIST_LENGTH=6, learning_rate=default)
    assert alone.path == first.stages[1].path


def test_variants_stand_on_the_stages_that_are_there(
    train: Callable[..., RunResult],
    trained: list[str],
    small_variant: Callable[[str], dict[str, Any]],
) -> None:
    def of(model: str) -> dict[str, Path]:
        result = train(model, **small_variant(model), epochs=1)
        assert (result.path.parent.name, result.record["model"]) == (model, model)
        return {stage.record["model"]: stage.path for stage in result.stages}

    sizes = small_variant("CoLLM")
    stage_sizes = {key[9:]: value for key, value in sizes.items() if key.startswith("LightGCN.")}
    default = packaged("model", "LightGCN.yaml")["learning_rate"]
    alone = train("LightGCN", **stage_sizes, MAX_ITEM_LIST_LENGTH=6, learning_rate=default)
    assert of("CoLLM") == {"LightGCN": alone.path}
    assert trained == ["LightGCN", "CoLLM"]
    stages = of("HeLLM")
    assert trained[2:] == ["HeLLMPre", "SASRec", "HeLLM"]
    assert of("HeLLM-wo-GNN_PEFT") == of("HeLLM-wo-GNN_ID") == stages
    assert of("HeLLM-wo-Seq_ID") == {"HeLLMPre": stages["HeLLMPre"]}
    assert of("LLaRA") == {"SASRec": stages["SASRec"]}
    assert of("LLaRA") == {"SASRec": stages["SASRec"]}
    assert trained[5:] == ["HeLLM-wo-GNN_PEFT", "HeLLM-wo-GNN_ID", "HeLLM-wo-Seq_ID", "LLaRA"]


def test_a_variant_can_be_a_stage(
    train: Callable[..., RunResult], small_model: dict[str, Any], trained: list[str]
) -> None:
    stage = "HeLLMPre-wo-U2U"
    sizes = {key.replace("HeLLMPre.", f"{stage}."): value for key, value in small_model.items()}
    result = train("HeLLM-wo-Seq_ID", graph_model=stage, **_without(sizes, "SASRec."), epochs=1)
    assert trained == [stage, "HeLLM-wo-Seq_ID"]
    assert [found.record["model"] for found in result.stages] == [stage]


def _without(sizes: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key: value for key, value in sizes.items() if not key.startswith(prefix)}


def test_variants_differ_from_their_base(
    train: Callable[..., RunResult], small_model: dict[str, Any]
) -> None:
    """The same seed and data, so only the variant's settings make another loss."""
    pre = {"epochs": 1, "knn_k": 3, "embedding_size": 8, "train_batch_size": 16}
    names = ["HeLLMPre", "HeLLMPre-wo-U2U", "HeLLMPre-wo-I2I", "HeLLMPre-wo-CL"]
    weights = {name: outcome(train(name, **pre))["weights"] for name in names}
    assert set(weights["HeLLMPre-wo-CL"]) == set(weights["HeLLMPre"])
    assert weights["HeLLMPre-wo-CL"] != weights["HeLLMPre"]
    for side, name in (("user", "HeLLMPre-wo-U2U"), ("item", "HeLLMPre-wo-I2I")):
        gone = set(weights["HeLLMPre"]) - set(weights[name])
        assert gone == {f"network.{side}_hyper_table"}


# Mistakes are told before anything is trained ----------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "error", "sentence"),
    [
        ("HeLLM", {"prefix_length": 0}, ConfigError, "prefix_length=0 must be at least 1"),
        ("HeLLM", {"variant": "foo"}, ConfigError, "variant='foo' is not allowed"),
        ("HeLLM", {"graph_model": None}, ConfigError, "needs the graph embeddings"),
        ("HeLLM", {"SASRec.n_heads": 3, "topk": [9]}, ConfigError, "valid_metric"),
        ("HeLLM", {"HeLLMPre.tau": "abc"}, ConfigError, "tau='abc' must be a number"),
        ("HeLLM", {"features": ["text-none"]}, Exception, "text-none.npy does not exist"),
        ("HeLLM", {"metrics": ["GAUC", "NDCG"]}, ConfigError, "cannot be computed"),
        ("SASRec", {"hidden_act": "foo"}, ConfigError, "RecBole cannot build SASRec"),
        ("SASRec", {"n_heads": 3}, ConfigError, "RecBole cannot build SASRec"),
        ("KGAT", {}, DataError, "tiny.kg"),
    ],
)
def test_mistakes_are_told_before_training(
    train: Callable[..., RunResult],
    trained: list[str],
    model: str,
    options: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        train(model, **options)
    assert trained == []


# RecBole's models by name ------------------------------------------------------------------------

SMOKE = (
    "Pop",
    "ItemKNN",
    "BPR",
    "LightGCN",
    "SASRec",
    "GRU4Rec",
    "NGCF",
    "SGL",
    "MultiVAE",
    "NARM",
    "BERT4Rec",
    "FPMC",
    "NeuMF",
    "DMF",
    "EASE",
    "SLIMElastic",
    "RecVAE",
    "STAMP",
    "SHAN",
    "NextItNet",
    "FM",
    "DeepFM",
    "DIN",
    "CDAE",
    "SimpleX",
    "TransRec",
    "DiffRec",
    "NCEPLRec",
)


@pytest.mark.parametrize("model", SMOKE)
def test_recboles_models_run_by_name(train: Callable[..., RunResult], model: str) -> None:
    result = train(model, epochs=1, MAX_ITEM_LIST_LENGTH=10)
    metrics = result.metrics()
    assert 0 < metrics["ndcg@20"] < 1
    assert result.record["users"] == 36
    assert (result.record["split"], result.record["candidates"]) == ORIGIN.setdefault(
        "hashes", (result.record["split"], result.record["candidates"])
    )


ORIGIN: dict[str, Any] = {}


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_sequential_models_train_with_sampled_negatives(
    train: Callable[..., RunResult], model: str
) -> None:
    assert train(model, loss_type="BPR", epochs=1).metrics()["ndcg@20"] > 0


@pytest.mark.parametrize("model", ["CKE", "CFKG"])
def test_knowledge_graph_models_run_by_name(
    train: Callable[..., RunResult],
    model: str,
    tmp_path: Path,
    interactions: pd.DataFrame,
    make_dataset: Any,
    kill: Callable[..., None],
) -> None:
    folder = tmp_path / "data/tiny"
    make_dataset(folder, interactions)
    items = sorted(interactions["item_id"].unique())
    links = "\n".join(f"{item}\te{item}" for item in items)
    (folder / "tiny.link").write_text(f"item_id:token\tentity_id:token\n{links}\n")
    triples = "\n".join(f"e{item}\tr{row % 2}\tx{row % 5}" for row, item in enumerate(items))
    (folder / "tiny.kg").write_text(f"head_id:token\trelation_id:token\ttail_id:token\n{triples}\n")
    data = {"data_path": str(folder.parent), "epochs": 2}
    whole = train(model, **data)
    cut = data | {"runs_dir": str(tmp_path / "cut")}
    kill(model, "_log_epoch", 1, **cut)
    assert train(model, **cut, resume=True).record["test"] == whole.record["test"]
    assert whole.record["split"] == train("Pop").record["split"]


def test_learning_beats_chance_and_popularity(train: Callable[..., RunResult]) -> None:
    """Users walk along a circle, so the order of items tells the next one."""
    pop = train("Pop").metrics("test", "none")["ndcg@10"]
    trained = train("SASRec", epochs=30, hidden_size=32, n_layers=1, hidden_dropout_prob=0.1)
    assert trained.metrics("test", "none")["ndcg@10"] > max(2 * pop, 0.25)


# Without RecBole ---------------------------------------------------------------------------------


def test_the_method_can_be_used_without_recbole() -> None:
    program = """
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "recbole":
                    raise ImportError("recbole is blocked")

        sys.meta_path.insert(0, Blocker())
        import recbole_hellm
        import recbole_hellm.graph.bipartite, recbole_hellm.graph.hypergraph
        import recbole_hellm.graph.knn
        import recbole_hellm.models.losses
        import recbole_hellm.models.llm, recbole_hellm.models.llm.hellm
        assert "recbole" not in sys.modules
        try:
            recbole_hellm.run
        except ImportError:
            print("ready")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert (process.returncode, process.stdout) == (0, "ready\n"), process.stderr


def test_what_is_no_name_is_told() -> None:
    for name in (None, [], "", RunDirectory("x"), ["BPR", 3]):
        with pytest.raises(ConfigError, match=r"model=.* is no name; write a name as a text"):
            run(name)  # type: ignore[call-overload]
    for dataset in (None, "", ["tiny", "sample"]):
        with pytest.raises(ConfigError, match=r"dataset=.* is no name; write one name as a text"):
            run("BPR", dataset)  # type: ignore[call-overload]


def test_settings_files_are_named_by_text_or_path(quick: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("epochs: 1\n")
    quick = {key: value for key, value in quick.items() if key != "epochs"}
    results = [run("BPR", "tiny", files, **quick) for files in (path, str(path), [str(path)])]
    assert [result.record["epochs"] for result in results] == [1, 1, 1]
    assert len({result.path for result in results}) == 1


def test_a_stage_that_another_process_trains_is_waited_for(
    train: Callable[..., RunResult],
    trained: list[str],
    small_model: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = train("HeLLM", **small_model, epochs=1, runs_dir=str(tmp_path / "whole"))
    original = RunDirectory.locked

    @contextlib.contextmanager
    def locked(self: RunDirectory, wait: bool = False) -> Any:
        with original(self, wait):
            assert wait is (self.path.parent.name != "HeLLM")
            if wait:  # meanwhile, the other process has trained it
                source = tmp_path / "whole" / self.path.relative_to(tmp_path / "runs")
                shutil.copytree(source, self.path)
            yield

    monkeypatch.setattr(RunDirectory, "locked", locked)
    result = train("HeLLM", **small_model, epochs=1, runs_dir=str(tmp_path / "runs"))
    assert outcome(result) == outcome(whole)
    assert trained == ["HeLLMPre", "SASRec", "HeLLM", "HeLLM"]
