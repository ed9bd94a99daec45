"""The item input ``language``: from the store into runs, ids, restored models and other models."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.language_models import LAYERS, TITLES, save_language_model

from recbole_hellm import load_run, run
from recbole_hellm.cli.main import main
from recbole_hellm.data.features.encoders.language import LanguageEncoder
from recbole_hellm.data.features.item_inputs import LanguageInput
from recbole_hellm.data.features.store import list_features, load_features
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.errors import ConfigError
from recbole_hellm.models.llm.artefacts import load_artefacts
from recbole_hellm.runs.dry_run import describe_needs
from recbole_hellm.runs.identity import recipe, run_identity, run_path

WITHOUT_TITLE = "i03"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language") / "reader")


def write_titles(folder: Path, items: list[str], words: list[str] = TITLES) -> None:
    rows = [f"{item}\t{words[place % len(words)]} {words[0]}" for place, item in enumerate(items)]
    rows = [f"{row.split(chr(9))[0]}\t" if row.startswith(WITHOUT_TITLE) else row for row in rows]
    table = "\n".join(["item_id:token\ttitle:token_seq", *rows])
    (folder / f"{folder.name}.item").write_text(f"{table}\n")


@pytest.fixture
def titled(tmp_path: Path, interactions: pd.DataFrame, make_dataset: Any) -> Path:
    """The folder of the dataset ``tiny`` with titles, which a test may change."""
    folder = tmp_path / "titled/tiny"
    make_dataset(folder, interactions)
    write_titles(folder, sorted(interactions["item_id"].unique()))
    return folder


@pytest.fixture
def options(
    quick: dict[str, Any], small_model: dict[str, Any], titled: Path, backbone: Path
) -> dict[str, Any]:
    """Settings of the smallest run on a pre-trained backbone with language items."""
    sizes = {key: value for key, value in small_model.items() if "HeLLMPre." not in key}
    return {
        **quick,
        **sizes,
        "data_path": str(titled.parent),
        "graph_model": "BPR",
        "BPR.embedding_size": 8,
        "BPR.epochs": 1,
        "backbone": str(backbone),
        "backbone_layers": LAYERS,
        "prompt": "none",
        "epochs": 1,
        "lora_r": 2,
        "item_inputs": ["graph", "language"],
    }


def stored(folder: Path) -> list[str]:
    return [info.name for info in list_features(folder) if info.on_request]


def test_from_titles_to_a_restored_model(
    options: dict[str, Any], titled: Path, make_config: Callable[..., Any]
) -> None:
    config = make_config("HeLLM", **options)
    told = describe_needs(config)
    assert re.search(rf"language +29 titles are to be read by layer {LAYERS}\n", told)
    assert not stored(titled)
    result = run("HeLLM", "tiny", **options)
    (name,) = stored(titled)
    network = load_artefacts(result.path / "model")
    counted = f"{sum(p.numel() for p in network.parameters()):,}"
    assert re.search(rf"parameters +{counted}, of which", told)
    items = list(create_dataset(config).item_tokens)
    vectors = load_features(titled, items, [name])["language"].matrix
    assert torch.equal(network.tokens.table("language").weight[1:], torch.from_numpy(vectors))
    place = items.index(WITHOUT_TITLE)
    others = np.delete(vectors, place, axis=0)
    np.testing.assert_allclose(vectors[place], others.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert "titles are to be read" not in describe_needs(make_config("HeLLM", **options))
    # Neither the store nor the stages are needed any more.
    shutil.rmtree(titled / "features")
    for stage in result.stages:
        shutil.rmtree(stage.path)
    again = load_run(result.path)
    assert again.evaluate("test") == result.record["test"]
    arguments = ["recommend", f"--run={result.path}", "--user=u39", "--topk=3"]
    assert main([*arguments, f"--data_path={titled.parent}"]) == 0


def test_a_second_run_reads_the_store(
    options: dict[str, Any], titled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run("HeLLM", "tiny", **options)
    monkeypatch.setattr(LanguageEncoder, "encode_batch", None)
    other = run("HeLLM", "tiny", **options | {"prefix": "none"})
    assert other.path != first.path
    assert len(stored(titled)) == 1


def test_other_models_do_not_read_it(
    options: dict[str, Any], make_config: Callable[..., Any], titled: Path
) -> None:
    config = make_config("HeLLM", **options)

    def fingerprint(**more: Any) -> str:
        other = make_config("FREEDOM", data_path=options["data_path"], **more)
        return str(create_dataset(other).features_fingerprint)

    before = fingerprint()
    config.item_inputs["language"].prepare(create_dataset(config))
    assert fingerprint() == before
    # By name it is a modality like any other.
    (name,) = stored(titled)
    assert fingerprint(features=["text-toy", name]) != before
    file = make_config("HeLLM", **options | {"item_inputs": ["graph", name]})
    dataset = create_dataset(config)
    same = config.item_inputs["language"].vectors(dataset)
    assert torch.equal(file.item_inputs[name].vectors(dataset), same)


def test_a_run_is_known_by_what_the_table_is_made_from(
    options: dict[str, Any],
    make_config: Callable[..., Any],
    titled: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LanguageEncoder, "encode_batch", None)  # nothing is encoded here

    def identity(**more: Any) -> dict[str, Any]:
        config = make_config("HeLLM", **options | more)
        return run_identity(config, create_dataset(config))

    usual = identity()
    assert list(usual["item_inputs"]) == ["language"]
    assert "language_layer" not in usual["settings"]
    assert identity(language_layer=LAYERS)["item_inputs"] == usual["item_inputs"]
    assert identity(language_layer=1)["item_inputs"] != usual["item_inputs"]
    assert "item_inputs" not in identity(item_inputs=["graph"])
    items = sorted(create_dataset(make_config("HeLLM", **options)).item_tokens)
    write_titles(titled, items, TITLES[::-1])
    assert identity()["item_inputs"] != usual["item_inputs"]
    assert identity()["features"] is None


def test_settings_of_language_items_leave_other_runs_alone(
    quick: dict[str, Any], make_parts: Callable[..., Any]
) -> None:
    config, dataset, _ = make_parts("HeLLM")
    assert "language_layer" not in recipe(config)["settings"]
    assert run_path(config, dataset) == run_path(
        make_parts("HeLLM", language_layer=None)[0], dataset
    )


def test_the_width_is_told_without_weights(
    options: dict[str, Any], make_config: Callable[..., Any], backbone: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(backbone, tmp_path / "bare"))
    (bare / "model.safetensors").unlink()
    config = make_config("HeLLM", **options | {"backbone": str(bare)})
    source = config.item_inputs["language"]
    assert isinstance(source, LanguageInput)
    assert source.width(create_dataset(config)) == 16


def test_tiny_has_read_nothing(options: dict[str, Any], make_config: Callable[..., Any]) -> None:
    told = r"^item_inputs names language, and backbone=tiny has read nothing; .* out\.$"
    with pytest.raises(ConfigError, match=told):
        make_config("HeLLM", **options | {"backbone": "tiny"})


def test_the_command_line_encodes_titles_for_other_models(
    options: dict[str, Any], titled: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [f"--data_path={titled.parent}", "--dataset=tiny"]
    encode = ["encode", *place, f"--language_encoder={backbone}", "--encode_batch=4"]
    assert main([*encode, "--language_layer=2", "--device=cpu"]) == 0
    (name,) = stored(titled)
    assert name.startswith("language-reader-layer2-")
    result = run("HeLLM", "tiny", **options | {"language_layer": 2, "prefix": "none"})
    assert stored(titled) == [name]  # a run has the same
    assert result.record["test"]
    capsys.readouterr()
    assert main(["encode", *place, f"--language_encoder={backbone}", "--language_layer=9"]) == 2
    assert "language_layer=9 is beyond the 3 layers" in capsys.readouterr().err
    assert main(["encode", *place, "--language_layer=2"]) == 2
    assert "language_layer is a layer of a language_encoder; name one." in capsys.readouterr().err
