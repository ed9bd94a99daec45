from __future__ import annotations

import json
import re
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from recbole_hellm import extensions, load_run, run
from recbole_hellm.cli.main import main
from recbole_hellm.data.features.importing import ImportSettings, import_features
from recbole_hellm.data.features.item_inputs import (
    ROLES,
    FeatureInput,
    ItemInput,
    RoleInput,
    StageInput,
    find_item_inputs,
)
from recbole_hellm.data.features.store import load_features, save_features
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.errors import ConfigError, DataError, FeatureError
from recbole_hellm.models.llm.artefacts import load_artefacts
from recbole_hellm.models.sequential.hellm import HeLLM
from recbole_hellm.runs.dry_run import describe_needs
from recbole_hellm.runs.identity import recipe, run_identity, run_path

ROLE_KEYS = {
    f"{role}_{key}": value
    for role in ("graph", "sequence")
    for key, value in (("model", "BPR"), ("dim", 8), ("embeddings", None))
}
MODULE = """
import numpy as np
from recbole_hellm.data.features.item_inputs import ItemInput, StageInput


class Popularity(ItemInput):
    def table(self, dataset):
        return np.log1p(dataset.training_counts[1:])[:, None]


class Liked(StageInput):
    stage = "BPR"
    dim = 8


class Narrow(Liked):
    dim = 5


NOT_A_CLASS = 3
"""


class Data:
    item_tokens = np.array(["b", "a", "c"])


class Given(ItemInput):
    """The table that the setting ``given`` holds; counts how often it is asked for."""

    calls = 0

    def table(self, dataset: Any) -> Any:
        self.calls += 1
        return self.config["given"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the working directory, which is no part of any package."""
    name = "somebodys_inputs"
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def small(small_model: dict[str, Any]) -> dict[str, Any]:
    """HeLLM in its smallest size on BPR and SASRec, which are quick."""
    sizes = {key: value for key, value in small_model.items() if "HeLLMPre." not in key}
    return sizes | {"graph_model": "BPR", "BPR.embedding_size": 8, "BPR.epochs": 1}


# One input ---------------------------------------------------------------------------------------


def test_names_tell_what_an_input_is(module: str) -> None:
    names = ["graph", "text", "image-clip", f"{module}:Popularity", f"{module}:Liked"]
    inputs = find_item_inputs(names, ROLE_KEYS)
    assert list(inputs) == [source.name for source in inputs.values()] == names
    kinds = [type(source) for source in inputs.values()]
    assert kinds[:3] == [RoleInput, FeatureInput, FeatureInput]
    assert [kind.__name__ for kind in kinds[3:]] == ["Popularity", "Liked"]
    assert [source.stage for source in inputs.values()] == ["BPR", None, None, None, "BPR"]
    assert [source.needs_features for source in inputs.values()] == [False, True] + [False] * 3


def test_installed_packages_name_inputs(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [types.SimpleNamespace(name="popular", value=f"{module}:Popularity")]
    monkeypatch.setattr(
        extensions.metadata,
        "entry_points",
        lambda group: entries if group == "recbole_hellm.item_inputs" else [],
    )
    extensions.installed.cache_clear()
    try:
        assert type(find_item_inputs(["popular"], {})["popular"]).__name__ == "Popularity"
    finally:
        extensions.installed.cache_clear()


def test_names_that_can_be_none_are_told(module: str) -> None:
    for name, told in (
        ("a b", "use graph, sequence, language, item features such as text"),
        ("text.minilm", "use graph, sequence, language, item features such as text"),
        (f"{module}:NOT_A_CLASS", "not a subclass of recbole_hellm.*ItemInput"),
        (f"{module}:Absent", "has no 'Absent'"),
        ("absent_module:Name", "no module 'absent_module' for the item input"),
    ):
        with pytest.raises(ConfigError, match=told):
            find_item_inputs([name], ROLE_KEYS)


def test_a_table_is_computed_once_and_becomes_float32() -> None:
    source = Given("given", {"given": np.arange(6).reshape(3, 2)})
    assert source.width(Data()) == 2
    vectors = source.vectors(Data())
    assert vectors.dtype == torch.float32
    assert vectors.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert source.content(Data()) is not None
    assert source.calls == 1


def test_another_table_has_another_content() -> None:
    def content(table: Any) -> str:
        return Given("given", {"given": table}).content(Data())

    first = content(np.arange(6.0).reshape(3, 2))
    assert content(torch.arange(6).view(3, 2)) == first
    assert content(np.arange(6.0).reshape(3, 2) + 1) != first
    assert content(np.zeros((3, 2))) != content(np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (np.zeros((4, 2)), r"shape \(4, 2\); give a row .* 3 items"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.array([[1.0], [np.nan], [np.inf]]), r"NaN or infinity for 2 items \(first: 'a'\)"),
    ],
)
def test_tables_that_do_not_fit_are_told(table: np.ndarray, told: str) -> None:
    with pytest.raises(DataError, match=f"item input given gives .*{told}"):
        Given("given", {"given": table}).vectors(Data())


@pytest.mark.filterwarnings("ignore:Sparse")
def test_tables_may_be_sparse_or_true_and_false() -> None:
    rows = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    whole = torch.tensor(rows)
    for table in (whole.to_sparse(), whole.to_sparse_csr(), whole.bool(), whole.numpy() > 0):
        assert Given("given", {"given": table}).vectors(Data()).tolist() == rows


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (scipy.sparse.csr_matrix(np.eye(3)), "sparse array length"),
        (object(), "it gives a object"),
        (torch.zeros(3, 2, dtype=torch.complex64), "type torch.complex64"),
        (torch.zeros(3, 2, device="meta"), "without values"),
        (torch.nested.nested_tensor([torch.zeros(2)]), "rows of their own lengths"),
        (np.full((3, 2), None), "object"),
    ],
)
def test_what_is_no_table_is_told(table: Any, told: str) -> None:
    with pytest.raises(DataError, match=rf"gives no table of numbers \(.*{told}.*an item\.$"):
        Given("given", {"given": table}).vectors(Data())


def test_a_class_without_a_table_is_told() -> None:
    with pytest.raises(NotImplementedError, match=r"ItemInput has to define table"):
        ItemInput("mine", {}).vectors(Data())


def test_a_roles_settings_choose_stage_or_file(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.array([[1.0], [2.0], [3.0]]))  # of items a, b, c
    staged = RoleInput("graph", ROLE_KEYS)
    assert (staged.stage, staged.width(Data()), staged.file) == ("BPR", 8, None)
    assert staged.content(Data()) is None
    absent = RoleInput("graph", ROLE_KEYS | {"graph_model": None})
    assert absent.width(Data()) is None
    path = str(tmp_path / "table.npy")
    given = RoleInput("graph", ROLE_KEYS | {"graph_embeddings": path, "graph_dim": 1})
    assert (given.stage, given.width(Data())) == (None, 1)
    assert given.file is not None
    assert given.file.key == "graph_embeddings"
    assert given.vectors(Data()).flatten().tolist() == [2, 1, 3]


def test_widths_that_differ_name_their_setting() -> None:
    assert "graph_dim is 8; set --graph_dim=5" in str(RoleInput("graph", ROLE_KEYS).wrong_width(5))
    assert "set dim = 5 in StageInput" in str(StageInput("mine", {}).wrong_width(5))
    assert "make its methods width and table agree" in str(Given("mine", {}).wrong_width(5))


# Features ----------------------------------------------------------------------------------------


@pytest.fixture
def two_encoders(tmp_path: Path, interactions: pd.DataFrame, make_dataset: Any) -> Path:
    """A ``data_path`` whose dataset ``tiny`` has texts by two encoders, and pictures."""
    folder = tmp_path / "data/tiny"
    make_dataset(folder, interactions)
    items = sorted(interactions["item_id"].unique())[::-1]  # any order of rows
    drawn = np.random.default_rng(5)
    for modality, encoder, width in (("text", "other", 3), ("image", "clip", 6)):
        table = drawn.normal(size=(len(items), width)).astype(np.float32)
        save_features(folder, modality, encoder, items, table)
    return folder.parent


def test_a_modality_means_the_features_of_the_run(
    two_encoders: Path, make_config: Callable[..., Any]
) -> None:
    def vectors(name: str, *features: str) -> torch.Tensor:
        config = make_config("Pop", data_path=str(two_encoders), features=list(features))
        return FeatureInput(name, {}).vectors(create_dataset(config))

    config = make_config("Pop", data_path=str(two_encoders))
    dataset = create_dataset(config)
    for name, selected in (("text", "text-other"), ("text", "text-toy"), ("image", "image-clip")):
        (stored,) = load_features(
            two_encoders / "tiny", list(dataset.item_tokens), [selected]
        ).values()
        expected = torch.from_numpy(stored.matrix)
        assert torch.equal(vectors(name, selected), expected)
        # A file's own name does not depend on what the run selects.
        assert torch.equal(vectors(selected, "text-toy"), expected)
        assert FeatureInput(selected, {}).content(dataset) == stored.checksum
    with pytest.raises(FeatureError, match=r"names 'grahp', .* are text \(did you mean graph\?\)"):
        vectors("grahp", "text-toy")
    with pytest.raises(FeatureError, match="names 'image', and the run's item features are text;"):
        vectors("image", "text-toy")
    with pytest.raises(FeatureError, match=r"text-absent.npy does not exist .* text-other"):
        vectors("text-absent", "text-toy")


def test_items_without_features_have_the_mean_of_the_others(
    tmp_path: Path, interactions: pd.DataFrame, make_dataset: Any, make_config: Callable[..., Any]
) -> None:
    make_dataset(tmp_path / "data/tiny", interactions)
    items = sorted(interactions["item_id"].unique())
    table = np.random.default_rng(1).normal(size=(len(items) - 1, 4)).astype(np.float32)
    np.save(tmp_path / "own.npy", table)
    (tmp_path / "own.txt").write_text("\n".join(items[1:]))
    files = {"features": str(tmp_path / "own.npy"), "tokens": str(tmp_path / "own.txt")}
    settings = ImportSettings(**files, modality="image", encoder="own")
    import_features("tiny", tmp_path / "data/tiny", settings)
    dataset = create_dataset(make_config("Pop", data_path=str(tmp_path / "data")))
    vectors = FeatureInput("image-own", {}).vectors(dataset)
    place = list(dataset.item_tokens).index(items[0])
    torch.testing.assert_close(vectors[place], torch.from_numpy(table.mean(0)))


# Identity ----------------------------------------------------------------------------------------


def test_features_are_part_of_the_id_and_of_what_is_encoded(
    two_encoders: Path, make_config: Callable[..., Any], small: dict[str, Any]
) -> None:
    def identity(*inputs: str, **options: Any) -> tuple[Any, dict[str, Any]]:
        common = small | {"data_path": str(two_encoders), "item_inputs": list(inputs)}
        config = make_config("HeLLM", **common | options)
        return config, run_identity(config, create_dataset(config))

    config, plain = identity("graph", "sequence")
    assert not config.needs_features()
    assert plain["features"] is None
    assert "item_inputs" not in plain
    config, toy = identity("graph", "text", features=["text-toy"])
    assert config.needs_features()
    other = identity("graph", "text", features=["text-other"])[1]
    assert toy["features"] != other["features"]
    assert toy["settings"] == other["settings"]
    config, file = identity("graph", "text-toy")
    assert not config.needs_features()
    assert file["features"] is None
    assert file["item_inputs"] == {"text-toy": toy["item_inputs"]["text"]}


def test_the_content_of_a_table_changes_the_id_and_not_the_recipe(
    make_config: Callable[..., Any], small: dict[str, Any], module: str
) -> None:
    config = make_config("HeLLM", **small, item_inputs=["graph", f"{module}:Popularity"])
    dataset = create_dataset(config)
    before, made_from = run_path(config, dataset), recipe(config)
    assert config.stages().keys() == {"graph", "sequence"}
    again = make_config("HeLLM", **small, item_inputs=["graph", f"{module}:Popularity"])
    again.item_inputs[f"{module}:Popularity"].content = lambda dataset: 1  # type: ignore[method-assign]
    assert run_path(again, dataset) != before
    assert recipe(again) == made_from


# Runs --------------------------------------------------------------------------------------------


def test_three_inputs_from_training_to_a_restored_model(
    quick: dict[str, Any], small: dict[str, Any]
) -> None:
    options = small | {"item_inputs": ["graph", "sequence", "text"], "learning_rate": 0.01}
    result = run(
        "HeLLM", "tiny", **quick | options, train_item_tables=False, normalise_tables=False
    )
    for stage in result.stages:
        shutil.rmtree(stage.path)
    again = load_run(result.path)
    assert again.evaluate("test") == result.record["test"]
    assert again.evaluate("valid")["seen"] == result.record["valid"]["seen"]
    network = load_artefacts(result.path / "model")
    assert network.tokens.names == ("graph", "sequence", "text")
    mlp = network.tokens.mlp
    assert mlp is not None
    assert mlp[0].in_features == 8 + 8 + 8
    items = json.loads((result.path / "model/items.json").read_text())
    (stored,) = load_features(Path(quick["data_path"]) / "tiny", items).values()
    assert torch.equal(network.tokens.table("text").weight[1:], torch.from_numpy(stored.matrix))
    config = again.reopen().config
    told = describe_needs(config)
    counted = f"{sum(p.numel() for p in network.parameters()):,}"
    assert re.search(rf"parameters +{counted}, of which", told)


def test_inputs_of_others_run_by_the_command_line(
    quick: dict[str, Any],
    small: dict[str, Any],
    module: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["sequence", f"{module}:Popularity", f"{module}:Liked"]
    options = small | quick | {"prefix": "none", "graph_model": "~", "epochs": 1}
    options["item_inputs"] = f"[{', '.join(names)}]"
    arguments = [f"--{key}={value}" for key, value in options.items()]
    assert main(["run", "--model=HeLLM", "--dataset=tiny", *arguments, "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert f"{module}:Liked stage" in told
    assert main(["run", "--model=HeLLM", "--dataset=tiny", *arguments]) == 0
    result = load_run(Path(quick["runs_dir"]) / "tiny/HeLLM")
    counted = f"{result.record['cost']['parameters']:,}"
    assert re.search(rf"parameters +{counted}, of which", told)
    assert list(result.record["stages"]) == ["sequence", f"{module}:Liked"]
    assert [stage.record["model"] for stage in result.stages] == ["SASRec", "BPR"]
    assert result.evaluate("test") == result.record["test"]
    assert sorted(load_artefacts(result.path / "model").tokens.names) == sorted(names)


def test_another_role_of_the_package_is_one_entry(
    make_parts: Callable[..., Any], small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Place(ItemInput):
        def table(self, dataset: Any) -> Any:
            return np.arange(3.0 * len(dataset.item_tokens)).reshape(-1, 3)

    monkeypatch.setitem(ROLES, "place", Place)
    config, dataset, splits = make_parts("HeLLM", **small, item_inputs=["place", "graph"])
    assert list(config.stages()) == ["graph", "sequence"]
    assert list(run_identity(config, dataset)["item_inputs"]) == ["place"]
    model = HeLLM(config, splits[0])
    assert model.item_tables == ["graph", "place"]
    assert model.network.tokens.table("place").embedding_dim == 3
    # Runs that do not name it are what they were.
    config = make_parts("HeLLM", **small)[0]
    assert list(config.item_inputs) == ["graph", "sequence"]


def test_a_wrong_width_of_a_stage_is_told(
    quick: dict[str, Any], small: dict[str, Any], module: str
) -> None:
    options = quick | small | {"item_inputs": [f"{module}:Narrow"], "prefix": "none"}
    with pytest.raises(ConfigError, match=r"gives 8-wide .* dim is 5; set dim = 8 in Narrow"):
        run("HeLLM", "tiny", **options)


def test_unknown_features_are_told_before_anything_is_trained(
    quick: dict[str, Any], small: dict[str, Any]
) -> None:
    with pytest.raises(FeatureError, match="names 'image', and the run's item features are text;"):
        run("HeLLM", "tiny", **quick | small, item_inputs=["graph", "image"])
    assert not list(Path(quick["runs_dir"]).rglob("best.pt"))


def test_the_example_of_the_page_runs(example: Callable[[str], list[list[str]]]) -> None:
    (command,) = example("Item inputs of the LLM stage")
    try:
        assert main([*command, "--threads=1"]) == 0
    finally:
        sys.modules.pop("my_inputs", None)
    result = load_run("runs/sample/HeLLM")
    names = ["graph", "sequence", "text", "my_inputs:Popularity", "my_inputs:Liked"]
    assert sorted(load_artefacts(result.path / "model").tokens.names) == sorted(names)
    assert list(result.record["stages"]) == ["graph", "sequence", "my_inputs:Liked"]
