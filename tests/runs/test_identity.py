"""A run's id and recipe stay what they were: ``recipes.json`` was written before the folders were
rearranged, by ``python tests/runs/test_identity.py`` in a checkout of commit 7dbcead."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from recbole_hellm import recbole_models, registry
from recbole_hellm.config.resolution import HellmConfig, declared_facts
from recbole_hellm.data.features import item_inputs, item_titles
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.errors import ConfigError
from recbole_hellm.models.llm import backbone_content
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.runs.identity import recipe, recipe_of, run_path
from recbole_hellm.runs.results import RunResult
from recbole_hellm.storage.checksums import content_hash

GOLDEN = Path(__file__).with_name("recipes.json")
RECORDS = Path(__file__).parents[2] / "docs/records"
DATASETS = ("sample", "Beauty", "Toys", "Sports", "another")
SPECIAL: list[tuple[str, str, dict[str, Any]]] = [
    ("HeLLM", "sample", {"backbone": "some/model", "max_tokens": 512, "HeLLMPre.epochs": 3}),
    ("CoLLM", "sample", {"backbone": "some/model"}),
    ("LLaRA", "sample", {"backbone": "some/model"}),
    ("HeLLM", "sample", {"prefix": "none", "graph_model": None, "item_inputs": ["sequence"]}),
    ("HeLLM", "sample", {"sequence_model": "GRU4Rec", "targets": "last", "SASRec.n_heads": 1}),
    ("FREEDOM", "sample", {"features": ["text-toy"], "modality_weights": {"image": 0.3}}),
    (
        "SASRec",
        "Beauty",
        {"mask_history": "none", "seed": 3, "topk": [5], "valid_metric": "NDCG@5"},
    ),
    ("LightGCN", "Toys", {"learning_rate": 1, "parallel": "ddp", "save_topk": 5, "threads": 1}),
    ("BPR", "another", {"mirrors": "none", "projector": False, "unload_col": {"inter": ["x"]}}),
]


def configurations() -> dict[str, tuple[str, str, dict[str, Any]]]:
    cases: list[tuple[str, str, dict[str, Any]]]
    models = [*registry.OWN_MODELS, *registry.COMPARED_MODELS]
    cases = [(model, dataset, {}) for model in models for dataset in DATASETS]
    cases += [(model, "sample", {}) for model in sorted(recbole_models.modules())]
    return {json.dumps(case, sort_keys=True): case for case in [*cases, *SPECIAL]}


def recipe_hash(model: str, dataset: str, overrides: dict[str, Any]) -> str:
    try:
        return content_hash(recipe(HellmConfig(model, dataset, overrides)))
    except ConfigError:
        return "refused"


def test_recipes_stay_what_they_were() -> None:
    golden = json.loads(GOLDEN.read_text())
    cases = configurations()
    assert cases.keys() == golden.keys()
    changed = [key for key, case in cases.items() if recipe_hash(*case) != golden[key]]
    assert not changed
    assert list(golden.values()).count("refused") < 10


def kept_records() -> list[Path]:
    return sorted(path.parent for path in RECORDS.glob("*/*/*/metrics.json"))


@dataclasses.dataclass
class Hashes:
    """What a run's identity takes from a dataset."""

    interactions_hash: str
    fingerprint: str
    candidates_hash: str
    features_fingerprint: str | None


def settings_of(identity: dict[str, Any]) -> dict[str, Any]:
    """The recorded settings as a user would give them."""
    settings = {
        key: value for key, value in identity["settings"].items() if declared_facts(key).restored
    }
    if (settings.get("train_neg_sample_args") or {}).get("distribution") == "none":
        settings["train_neg_sample_args"] = None  # RecBole writes it so and does not read it
    return settings


@pytest.mark.parametrize("path", kept_records(), ids=lambda path: "/".join(path.parts[-3:]))
def test_kept_records_get_the_ids_and_recipes_that_they_have(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = json.loads((path / "identity.json").read_text())
    identity["settings"] = yaml.safe_load((path / "config.yaml").read_text())
    record = json.loads((path / "metrics.json").read_text())
    overrides = settings_of(identity)
    if "backbone" in overrides:
        overrides = LLMSettings.given(overrides)
    # As if the backbone were the recorded one; its package may be missing here.
    content = {key: identity[key] for key in ("backbone",) if key in identity}
    monkeypatch.setattr(backbone_content, "backbone_content", lambda _settings: content)
    # Nor are the titles here, which the language model has read, or the features of texts.
    monkeypatch.setattr(item_titles, "titles_hash", lambda _dataset: identity["titles"])
    read = identity.get("item_inputs", {})
    for kind in (item_inputs.LanguageInput, item_inputs.FeatureInput):
        monkeypatch.setattr(kind, "content", lambda source, _dataset: read.get(source.name))
    for role, stage in identity["stages"].items():
        model = overrides[f"{role}_model"]
        overrides |= {f"{model}.{key}": value for key, value in settings_of(stage).items()}
    config = HellmConfig(record["model"], record["dataset"], overrides)
    dataset = Hashes(
        identity["content"],
        identity["split"],
        identity["candidates"],
        # HeLLM-wo-GNN_ID and others without features of their own stand on stages with them.
        next(features for features in _features(identity)),
    )
    assert run_path(config, dataset).name == path.name
    assert content_hash(recipe(config)) == content_hash(recipe_of(identity)) == record["recipe"]


def _features(identity: dict[str, Any]) -> Iterator[str | None]:
    yield from filter(None, [identity["features"]])
    for stage in identity["stages"].values():
        yield from _features(stage)
    yield None


def test_another_seed_gives_another_run(train: Callable[..., RunResult]) -> None:
    first, second = train("BPR"), train("BPR", seed=7)
    assert first.path != second.path
    assert first.record["test"] != second.record["test"]


def test_a_default_that_is_spelt_out_changes_nothing(
    train: Callable[..., RunResult], trained: list[str]
) -> None:
    first = train("HeLLMPre", knn_k=3, epochs=1)
    same = {"tau": 0.5, "weight_decay": 0, "betas": [0.9, 0.999]}
    assert train("HeLLMPre", knn_k=3, epochs=1, **same) == first
    assert trained == ["HeLLMPre"]


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_size": 4},
        {"train_batch_size": 11},
        {"mask_history": "none"},
        {"epochs": 1},
        {"weight_decay": 0.1},
        {"topk": [5, 10]},
    ],
)
def test_what_changes_the_result_changes_the_run(
    train: Callable[..., RunResult], change: dict[str, Any]
) -> None:
    assert train("BPR").path != train("BPR", **change).path


def test_other_training_data_is_another_run(
    train: Callable[..., RunResult], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    """The targets are the same, an early item of one user is not."""
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"]).reset_index(drop=True)
    ordered.loc[ordered.index[ordered["user_id"] == "u39"][0], "item_id"] = "i29"
    make_dataset(tmp_path / "other/tiny", ordered)
    first, second = train("Pop"), train("Pop", data_path=str(tmp_path / "other"))
    assert first.record["split"] == second.record["split"]
    assert first.path != second.path


def test_features_are_part_of_a_run_that_reads_them(
    train: Callable[..., RunResult], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    from recbole_hellm.data.features.store import save_features

    make_dataset(tmp_path / "other/tiny", interactions)
    items = sorted(interactions["item_id"].unique())
    save_features(tmp_path / "other/tiny", "text", "toy", items, np.eye(30))
    data = {"data_path": str(tmp_path / "other")}
    assert train("Pop").path == train("Pop", **data).path
    small = {"epochs": 1, "knn_k": 3}
    assert train("HeLLMPre", **small).path != train("HeLLMPre", **small, **data).path


def test_a_run_is_known_by_the_files_content(
    exported: tuple[RunResult, dict[str, str]],
    make_config: Callable[..., Any],
    tmp_path: Path,
) -> None:
    _, files = exported

    def path(**options: Any) -> Path:
        config = make_config("HeLLM", **options)
        return run_path(config, create_dataset(config))

    first = path(**files)
    renamed = tmp_path / "renamed.pt"
    shutil.copy(files["graph_embeddings"], renamed)
    assert path(**files | {"graph_embeddings": str(renamed)}) == first
    torch.save(torch.load(renamed, weights_only=True) + 1, renamed)
    assert path(**files | {"graph_embeddings": str(renamed)}) != first
    assert path() != first
    assert path(graph_embeddings=None, sequence_embeddings=None) == path()


def test_item_columns_are_part_of_a_run_that_reads_them(
    make_config: Callable[..., Any],
    interactions: pd.DataFrame,
    make_dataset: Any,
    tmp_path: Path,
) -> None:
    def path(brand: str, place: str, **options: Any) -> Path:
        folder = tmp_path / place / "tiny"
        if not folder.exists():
            make_dataset(folder, interactions)
        rows = [f"{item}\t{brand}\n" for item in sorted(interactions["item_id"].unique())]
        (folder / "tiny.item").write_text("item_id:token\tbrand:token\n" + "".join(rows))
        config = make_config("SASRecF", data_path=str(folder.parent), **options)
        return run_path(config, create_dataset(config))

    reads = {"load_col": {"inter": ["user_id", "item_id"], "item": ["item_id", "brand"]}}
    reads["selected_features"] = ["brand"]
    assert path("a", "one", **reads) == path("a", "two", **reads)
    assert path("a", "one", **reads) != path("b", "one", **reads)


def test_a_backbone_is_known_by_its_files(make_config: Callable[..., Any], tmp_path: Path) -> None:
    def path(folder: str) -> Path:
        config = make_config("HeLLM", backbone=str(tmp_path / folder), prompt="none")
        return run_path(config, create_dataset(config))

    for folder in ("one", "two", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
        (tmp_path / folder / "model.safetensors").write_text(f"weights {folder == 'other'}")
    assert path("one") == path("two")
    assert path("one") != path("other")
    before = path("one")
    (tmp_path / "one/model.safetensors").write_text("further trained weights")
    assert path("one") != before


def test_the_depth_of_a_backbone_is_part_of_a_run() -> None:
    def settings(**options: Any) -> dict[str, Any]:
        config = HellmConfig("HeLLM", "sample", options)
        return recipe(config)["settings"]

    large = {"backbone": "some/model"}
    depths = [settings(**large, backbone_layers=layers) for layers in (None, 2, 5)]
    assert settings(**large) == depths[0]
    assert depths[0]["backbone_layers"] == 2  # as it was before it reached such backbones
    assert "backbone_depth" not in depths[0]
    assert [depth["backbone_depth"] for depth in depths[1:]] == [2, 5]
    assert settings() == settings(backbone_layers=2) == settings(backbone_layers=None)
    assert settings(backbone_layers=3)["backbone_layers"] == 3


if __name__ == "__main__":
    hashes = {key: recipe_hash(*case) for key, case in configurations().items()}
    GOLDEN.write_text(json.dumps(hashes, indent=0, sort_keys=True) + "\n")
