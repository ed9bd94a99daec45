from __future__ import annotations

from pathlib import Path

import pytest

from recbole_hellm import recbole_models, registry
from recbole_hellm.config.yaml_files import packaged
from recbole_hellm.errors import ConfigError
from recbole_hellm.training.stages import StagedTrainer
from recbole_hellm.training.trainer import HellmTrainer


def test_every_name_of_recbole_is_found() -> None:
    names = sorted(recbole_models.modules())
    assert {"BPR", "LightGCN", "SASRec", "FM", "CKE"} <= set(names)
    assert len(names) > 80
    for name in {*names} - {*recbole_models.REFUSED}:
        assert registry.model_class(name).__name__ == name


def test_own_models_come_first_and_can_be_trained() -> None:
    for name, entry in registry.OWN_MODELS.items():
        cls = registry.model_class(name)
        assert (cls.__name__, cls.__module__) == (entry.variant_of or name, entry.module)
        assert issubclass(registry.trainer_class(entry), HellmTrainer)
        assert set(entry.inputs) <= {"graph", "modalities", "histories"}
        for stage in entry.stages.values():
            assert registry.model_class(stage)
    assert registry.trainer_class(registry.describe("HeLLM")) is StagedTrainer


def test_variants_are_their_base_under_another_name() -> None:
    variants = {name: entry for name, entry in registry.OWN_MODELS.items() if entry.variant_of}
    assert {"CoLLM", "LLaRA", "HeLLMPre-wo-I2I", "HeLLM-wo-GNN_PEFT"} <= set(variants)
    for name, entry in variants.items():
        base = registry.OWN_MODELS[entry.variant_of or ""]
        assert registry.base_model(name) == base.name
        assert base.variant_of is None
        assert registry.model_class(name) is registry.model_class(base.name)
        facts = (entry.module, entry.trainer, entry.kind, entry.stages)
        assert facts == (base.module, base.trainer, base.kind, base.stages)
        assert set(entry.inputs) <= set(base.inputs)
    for name in ("HeLLM", "SASRec", "NoSuchModel"):
        assert registry.base_model(name) == name


def test_models_of_recbole_that_are_compared_are_recboles() -> None:
    for name, entry in registry.COMPARED_MODELS.items():
        cls = registry.model_class(name)
        assert (cls.__name__, cls.__module__) == (name, entry.module)
        assert registry.is_recbole(cls)
        assert registry.trainer_class(entry) is HellmTrainer
        assert name not in registry.OWN_MODELS


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SASRek", "(did you mean SASRec or"),
        ("sasrec", "(did you mean SASRec or"),
        ("hellm", "(did you mean HeLLM or HeLLMPre"),
        ("LigthGCN", "LightGCN"),
        ("Collm", "CoLLM"),
        ("HeLLM-wo-GNN", "HeLLM-wo-GNN_ID"),
        ("recbole.model", ";"),
        ("__init__", ";"),
        ("../BPR", "Unknown model"),
        ("", ";"),
        ("xyz", "'xyz';"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.model_class(name)
    assert str(caught.value).startswith(f"Unknown model '{name}'")
    assert nearest in str(caught.value)


@pytest.mark.parametrize("name", ["NCL", "RaCT", "S3Rec"])
def test_models_with_a_loop_of_their_own_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Model '{name}' is trained by RecBole's {name}Trainer"):
        registry.describe(name)


def test_ordinary_models_get_the_ordinary_trainer() -> None:
    for name in ("BPR", "SASRec"):
        assert registry.trainer_class(registry.describe(name)) is HellmTrainer


MODELS = """
import torch
from recbole.model.general_recommender import BPR
from recbole_hellm.models.general.vbpr import VBPR as Original
from recbole_hellm.models.sequential.hellm import HeLLM


class Mine(BPR):
    \"\"\"BPR under another name.

    And more words.
    \"\"\"


class VBPR(Original):
    inputs = ("modalities",)


class NCL(BPR):
    pass


class MyHeLLM(HeLLM):
    pass


class Odd(BPR):
    inputs = ("pictures",)


Layer = torch.nn.Linear
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module outside the package with models in it."""
    name = f"models_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    (tmp_path / "Mine.yaml").write_text("embedding_size: 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_models_outside_the_package(outside: str, tmp_path: Path) -> None:
    entry = registry.describe(f"{outside}:Mine")
    assert (entry.name, entry.path, entry.outside) == ("Mine", f"{outside}:Mine", True)
    assert (entry.paper, entry.inputs, entry.kind) == ("BPR under another name.", (), "general")
    assert registry.own_settings(entry) == {"embedding_size": 7}
    assert registry.free_keys(entry) == ["embedding_size"]  # as RecBole's BPR, too
    assert registry.recbole_files(entry) == ["BPR"]
    assert registry.trainer_class(entry) is HellmTrainer
    other = registry.describe(f"{outside}:VBPR")
    assert other.inputs == ("modalities",)
    assert other.load() is not registry.model_class("VBPR")
    assert registry.own_settings(other) == packaged("model", "VBPR.yaml")
    assert registry.own_settings(registry.describe("VBPR")) == {}


def test_classes_derived_from_this_packages_models_are_treated_as_these(outside: str) -> None:
    hellm, mine = registry.describe("HeLLM"), registry.describe(f"{outside}:MyHeLLM")
    assert (mine.name, mine.parent) == ("MyHeLLM", "HeLLM")
    same = ("inputs", "stages", "trainer", "kind")
    assert [getattr(mine, key) for key in same] == [getattr(hellm, key) for key in same]
    assert registry.trainer_class(mine) is StagedTrainer
    assert registry.own_settings(mine)["scheduler"] == "cosine"
    assert registry.free_keys(mine) == list(packaged("model", "HeLLM.yaml"))[:-1]
    assert registry.trimmable(mine)
    vbpr = registry.describe(f"{outside}:VBPR")
    assert (vbpr.parent, vbpr.inputs) == ("VBPR", ("modalities",))


def test_an_outside_class_is_not_trained_as_another_of_its_name(outside: str) -> None:
    entry = registry.describe(f"{outside}:NCL")
    assert registry.trainer_class(entry) is HellmTrainer
    assert not registry.trimmable(entry)
    assert registry.class_name(f"{outside}:NCL") == registry.class_name("NCL") == "NCL"


def test_models_of_installed_packages_have_names(
    outside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "installed", lambda group: {"Mein": f"{outside}:Mine"})
    assert registry.describe("Mein").path == f"{outside}:Mine"
    assert registry.class_name("Mein") == "Mine"
    # Names of RecBole's models keep their meaning.
    monkeypatch.setattr(registry, "installed", lambda group: {"BPR": f"{outside}:Mine"})
    assert not registry.describe("BPR").outside
    monkeypatch.setattr(registry, "installed", lambda group: {"Mein": f"{outside}:Mine"})
    with pytest.raises(ConfigError, match=r"did you mean Mein"):
        registry.describe("Meim")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("Layer", "is not a RecBole model"), ("Odd", "must be some of graph"), ("Nothing", "has no")],
)
def test_what_is_no_model_is_refused(outside: str, name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        registry.describe(f"{outside}:{name}")


def test_models_built_on_recboles_are_told_apart() -> None:
    for name, built in (("BPR", True), ("SASRec", True), ("HeLLM", False), ("HeLLMPre", False)):
        assert registry.is_recbole(registry.model_class(name)) is built


def test_settings_files_of_recbole() -> None:
    assert "n_layers" in registry.recbole_model_keys("SASRec")
    assert registry.recbole_model_keys("HeLLM") == []
