from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recbole

from recbole_hellm import recbole_models, registry
from recbole_hellm.config import resolution as config_module
from recbole_hellm.config.recbole_keys import RECBOLE_KEYS
from recbole_hellm.config.resolution import (
    HellmConfig,
    check_addressed,
    defaults,
)
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.config.yaml_files import packaged, read_yaml
from recbole_hellm.errors import ConfigError
from recbole_hellm.registry import variant_settings

PROPERTIES = Path(str(importlib.resources.files("recbole_hellm.properties")))
REFUSED = [key for key, one in RECBOLE_KEYS.items() if one.not_offered]
Make = Callable[..., HellmConfig]


def test_priority_of_files_and_overrides(make_config: Make, tmp_path: Path, quick: Any) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("seed: 1\nsave_topk: 1\nn_layers: 1\nSASRec.n_heads: 1\n")
    second.write_text("seed: 2\nsave_topk: 2\n")
    config = HellmConfig("SASRec", "tiny", quick | {"save_topk": 3}, [first, second])
    assert (config["seed"], config["save_topk"], config["n_layers"]) == (2, 3, 1)
    assert config["n_heads"] == 1
    plain = make_config("SASRec")
    recboles = read_yaml(Path(recbole.__file__).parent / "properties/model/SASRec.yaml")
    ours = packaged("model", "SASRec.yaml")
    for key in recboles.keys() - ours.keys():
        assert plain[key] == recboles[key], key
    for key in ours.keys() - {"epochs"}:
        assert plain[key] == ours[key], key


def test_files_of_the_dataset_and_the_backbone_apply(quick: dict[str, Any]) -> None:
    by_model = packaged("dataset", "Toys.yaml")["models"]["HeLLMPre"]
    toys = HellmConfig("HeLLMPre", "Toys", quick)
    for key, value in by_model.items():
        assert toys[key] == value, key
    kinds = packaged("model", "HeLLM.yaml")["by_backbone"]
    tiny = HellmConfig("HeLLM", "tiny", {})
    large = HellmConfig("HeLLM", "tiny", {"backbone": "some/model"})
    assert tiny["train_batch_size"] == kinds["tiny"]["train_batch_size"]
    assert large["train_batch_size"] == kinds["pretrained"]["train_batch_size"]
    assert HellmConfig("HeLLM", "tiny", {"epochs": 3})["epochs"] == 3


def test_a_backbone_may_have_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_smollm2(*place: str) -> dict[str, Any]:
        found = packaged(*place)
        if place == ("model", "HeLLM.yaml"):
            found["by_backbone"]["smollm2"] = {"epochs": 4, "head": "tied"}
        return found

    monkeypatch.setattr(config_module, "packaged", with_smollm2)
    own = HellmConfig("HeLLM", "tiny", {"backbone": "smollm2"})
    assert (own["epochs"], own["head"]) == (4, "tied")
    assert HellmConfig("HeLLM", "tiny", {"backbone": "other"})["epochs"] == 25
    assert HellmConfig("HeLLM", "tiny", {})["epochs"] == 8


def test_addressed_overrides_reach_their_model_only(make_config: Make) -> None:
    config = make_config("HeLLM", **{"HeLLMPre.epochs": 7, "HeLLM.epochs": 5, "SASRec.n_heads": 1})
    stages = config.stages()
    assert (config["epochs"], stages["graph"]["epochs"]) == (5, 7)
    assert stages["sequence"]["epochs"] == packaged("model", "SASRec.yaml")["epochs"]
    assert stages["sequence"]["n_heads"] == 1
    assert "HeLLMPre.epochs" not in config.final_config_dict
    assert make_config("BPR").stages() == {}
    assert list(make_config("HeLLM", graph_model=None, prefix="none").stages()) == ["sequence"]


def test_stages_share_data_protocol_and_seed(make_config: Make, tiny_data: Path) -> None:
    shared = {
        "mask_history": "none",
        "seed": 11,
        "MAX_ITEM_LIST_LENGTH": 9,
        "topk": [5],
        "valid_metric": "Recall@5",
        "user_inter_num_interval": "[2,inf)",
        "TIME_FIELD": "timestamp",
        "features": ["text-toy"],
        "save_topk": 6,
    }
    config = make_config("HeLLM", **shared, learning_rate=0.5)
    for stage in config.stages().values():
        assert {key: stage[key] for key in shared} == shared
        assert stage["data_path"] == str(tiny_data)
        assert stage.dataset_directory == tiny_data / "tiny"
        assert stage["learning_rate"] != 0.5


def test_overrides_for_models_that_are_not_run_are_refused(make_config: Make) -> None:
    config = make_config("HeLLM", **{"HeLLMPre.tau": 0.3})
    check_addressed([config])
    check_addressed([make_config("Pop", **{"BPR.epochs": 1}), make_config("BPR")])
    with pytest.raises(ConfigError, match=r"Option .BPR\.epochs. is for a model that is not"):
        check_addressed([make_config("Pop", **{"BPR.epochs": 1})])
    with pytest.raises(ConfigError, match=r"Unknown model 'HellmPre' \(did you mean HeLLMPre"):
        check_addressed([make_config("HeLLM", **{"HellmPre.tau": 1})])


# Variants ----------------------------------------------------------------------------------------

VARIANTS = {name: entry for name, entry in registry.OWN_MODELS.items() if entry.variant_of}


def differences(model: str, base: str, dataset: str, **options: Any) -> dict[str, Any]:
    """Every value of a configuration that is not its base's, read-only ones included."""
    differing = []
    for name in (model, base):
        config = HellmConfig(name, dataset, options)
        differing.append({**config.final_config_dict, **config.model_settings()})
    own, other = differing
    assert own.keys() == other.keys()
    changed = {key: value for key, value in own.items() if value != other[key]}
    assert changed.pop("model") == model
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()
    }


@pytest.mark.parametrize("dataset", ["sample", "Beauty", "Toys", "Sports", "tiny"])
@pytest.mark.parametrize("model", VARIANTS)
def test_a_variant_is_its_base_but_for_its_own_settings(model: str, dataset: str) -> None:
    own, base = variant_settings(registry.describe(model)), registry.base_model(model)
    assert own
    assert differences(model, base, dataset) == own
    if base == "HeLLM":
        assert differences(model, base, dataset, backbone="some/hf-name") == own


def test_variants_hold_the_settings_that_define_them() -> None:
    without = {"U2U": "use_u2u", "I2I": "use_i2i", "CL": "use_contrast"}
    for name, key in without.items():
        assert variant_settings(registry.describe(f"HeLLMPre-wo-{name}")) == {key: False}
    assert variant_settings(registry.describe("HeLLM-wo-GNN_PEFT")) == {"prefix": "none"}
    assert variant_settings(registry.describe("HeLLM-wo-GNN_ID")) == {"item_inputs": ["sequence"]}
    seq = {"item_inputs": ["graph"], "sequence_model": None}
    assert variant_settings(registry.describe("HeLLM-wo-Seq_ID")) == seq
    mlp = {"item_mlp_hidden": 640, "item_mlp_activation": "relu"}
    collm = seq | mlp | {"graph_model": "LightGCN", "prefix": "none"}
    assert variant_settings(registry.describe("CoLLM")) == collm
    user, titles = (registry.describe(name) for name in ("CoLLM-user", "LLaRA-titles"))
    assert variant_settings(user) == collm | {"user_token": True}
    assert variant_settings(titles) == variant_settings(registry.describe("LLaRA")) | {
        "item_text": "title"
    }
    # Inherited: the sequence stage is SASRec, the MLP as wide as the backbone, with GELU.
    llara = HellmConfig("LLaRA", "tiny")
    assert variant_settings(registry.describe("LLaRA")) == {
        "graph_model": None,
        "item_inputs": ["sequence"],
        "prefix": "none",
    }
    assert llara["sequence_model"] == "SASRec"
    settings = llara.model_settings()
    assert (settings["item_mlp_hidden"], settings["item_mlp_activation"]) == (None, "gelu")
    for model in ("HeLLM", "HeLLMPre", "SASRec", "BPR"):
        assert variant_settings(registry.describe(model)) == {}


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        ("CoLLM", {"graph": "LightGCN"}),
        ("LLaRA", {"sequence": "SASRec"}),
        ("HeLLM-wo-GNN_PEFT", {"graph": "HeLLMPre", "sequence": "SASRec"}),
        ("HeLLM-wo-GNN_ID", {"graph": "HeLLMPre", "sequence": "SASRec"}),
        ("HeLLM-wo-Seq_ID", {"graph": "HeLLMPre"}),
        ("HeLLMPre-wo-U2U", {}),
    ],
)
def test_stages_of_variants(make_config: Make, model: str, stages: dict[str, str]) -> None:
    config = make_config(model)
    assert config["model"] == config.model == model
    assert config.model_class is registry.model_class(registry.base_model(model))
    assert {role: stage.model for role, stage in config.stages().items()} == stages


@pytest.mark.parametrize("model", registry.OWN_MODELS)
def test_inputs_are_those_that_are_read(make_config: Make, model: str) -> None:
    """A model on stages needs their inputs and histories; features are asked for accordingly."""
    entries = registry.OWN_MODELS | registry.COMPARED_MODELS
    config = make_config(model)
    if registry.OWN_MODELS[model].stages:
        below = (entries[stage.model].inputs for stage in config.stages().values())
        assert set(registry.OWN_MODELS[model].inputs) == {"histories"}.union(*below)
    assert config.needs_features() is ("modalities" in registry.OWN_MODELS[model].inputs)
    if registry.base_model(model) == "HeLLMPre":
        assert config.needs_features() is config["use_i2i"]


def test_what_a_dataset_says_of_the_base_and_of_the_variant(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"prefix": "static", "item_inputs": [], "epochs": 4, "backbone_layers": 5}
    expected = {"epochs": 6, "item_mlp_hidden": 32}
    per_model = {"HeLLM": base, "CoLLM": expected, "LLaRA": {"prefix": "graph"}}

    def from_files(*parts: str) -> dict[str, Any]:
        return {"models": dict(per_model)} if parts[0] == "dataset" else packaged(*parts)

    monkeypatch.setattr(config_module, "packaged", from_files)
    hellm, collm = (HellmConfig(model, "tiny") for model in ("HeLLM", "CoLLM"))
    assert {key: hellm[key] for key in base} == base
    wanted = {"prefix": "none", "item_inputs": ["graph"], "backbone_layers": 5} | expected
    assert {key: collm[key] for key in wanted} == wanted
    # Said of the variant's own setting by a packaged file: allowed there, and then the one value.
    assert HellmConfig("CoLLM", "tiny", {"item_mlp_hidden": 32})["item_mlp_hidden"] == 32
    with pytest.raises(ConfigError, match="which is HeLLM with item_mlp_hidden=32"):
        HellmConfig("CoLLM", "tiny", {"item_mlp_hidden": 640})


def test_overrides_of_variants(make_config: Make) -> None:
    options = {"HeLLM-wo-Seq_ID.epochs": 3, "HeLLM.epochs": 5, "epochs": 1}
    configs = [make_config(model, **options) for model in ("HeLLM", "HeLLM-wo-Seq_ID", "CoLLM")]
    assert [config["epochs"] for config in configs] == [5, 3, 1]
    check_addressed(configs)
    with pytest.raises(ConfigError, match=r"Option .HeLLM\.epochs. is for a model that is not"):
        check_addressed([make_config("HeLLM-wo-Seq_ID", **{"HeLLM.epochs": 5})])
    assert make_config("CoLLM", item_inputs=("graph",), prefix="none")["prefix"] == "none"
    assert make_config("CoLLM", bucket_by_length=True)["bucket_by_length"]


def test_a_variant_may_be_a_stage(make_config: Make) -> None:
    overrides = {"graph_model": "HeLLMPre-wo-I2I", "HeLLMPre-wo-I2I.tau": 0.25}
    config = make_config("HeLLM", **overrides)
    check_addressed([config])
    stage = config.stages()["graph"]
    assert (stage.model, stage["use_i2i"], stage["tau"]) == ("HeLLMPre-wo-I2I", False, 0.25)
    assert not config.needs_features()  # neither that stage nor SASRec reads any
    assert make_config("HeLLM", graph_model="HeLLMPre-wo-U2U").needs_features()


def test_one_protocol_for_every_model(make_config: Make) -> None:
    for model in ("BPR", "SASRec", "FM", "CKE", "DIN", "HeLLM"):
        config = make_config(model)
        assert config["eval_args"] == {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": {"valid": "full", "test": "full"},
        }
        assert config["metrics"] == ["Recall", "NDCG", "MRR", "Hit"]
        assert (config["topk"], config["valid_metric"]) == ([10, 20], "NDCG@10")
        assert (config["mask_history"], config["metric_decimal_place"]) == ("seen", 12)
    make_config("BPR", eval_args={"order": "TO"})  # what holds anyway may be said


def test_every_model_of_recbole_can_be_configured(make_config: Make) -> None:
    for name in sorted(recbole_models.modules()):
        if name not in recbole_models.REFUSED:
            assert make_config(name)["model"] == name
    for name in recbole_models.REFUSED:
        with pytest.raises(ConfigError, match=f"Model '{name}' .*; choose another model"):
            make_config(name)


def test_one_value_may_stand_for_a_list(make_config: Make) -> None:
    config = make_config("BPR", topk=5, metrics="NDCG", valid_metric="ndcg@5")
    assert (config["topk"], config["metrics"]) == ([5], ["NDCG"])


def test_negatives_are_drawn_only_where_the_loss_needs_them(make_config: Make) -> None:
    assert make_config("SASRec")["train_neg_sample_args"]["distribution"] == "none"
    assert make_config("Pop")["train_neg_sample_args"]["distribution"] == "none"
    for model, options in (("SASRec", {"loss_type": "BPR"}), ("BPR", {}), ("FM", {})):
        assert make_config(model, **options)["train_neg_sample_args"]["distribution"] == "uniform"


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("BPR", {"embeding_size": 1}, r"Unknown option 'embeding_size' .*mean embedding_size"),
        ("HeLLMPre", {"taw": 1}, r"Unknown option 'taw' for model HeLLMPre \(did you mean tau"),
        ("HeLLM", {"HeLLMPre.taw": 1}, r"Unknown option 'taw' for model HeLLMPre"),
        ("HeLLM", {"graph_model": "Foo"}, "Unknown model 'Foo'"),
        ("BPR", {"mask_history": "foo"}, "mask_history='foo' is not allowed; use one of seen"),
        ("BPR", {"eval_args": {"split": {"RS": [8, 1, 1]}}}, "leaves this package's protocol"),
        ("BPR", {"eval_args": {"mode": "uni100"}}, "eval_args.mode='uni100' leaves"),
        ("BPR", {"eval_args": "RO"}, "leaves this package's protocol"),
        ("BPR", {"seed": "abc"}, "seed='abc' must be a number"),
        ("BPR", {"seed": -1}, "seed=-1 must not be negative"),
        ("BPR", {"threads": "all"}, "threads='all' must be a whole number"),
        ("BPR", {"threads": 0}, "threads=0 must be at least 1"),
        ("BPR", {"resume": "maybe"}, "resume='maybe' must be True or False"),
        ("BPR", {"embedding_size": "big"}, "embedding_size='big' must be a number, such as 64"),
        ("BPR", {"embedding_size": True}, "embedding_size=True must be a number"),
        ("BPR", {"epochs": 0}, "epochs=0 must be at least 1"),
        ("BPR", {"epochs": 1.5}, "epochs=1.5 must be a whole number"),
        ("BPR", {"learner": "adamm"}, "learner='adamm' is not known"),
        ("BPR", {"topk": "abc"}, "topk='abc' must be a list"),
        ("BPR", {"topk": [0]}, r"topk=\[0\] must be one or more positive"),
        ("BPR", {"topk": []}, r"topk=\[\] must be one or more positive"),
        ("BPR", {"topk": [5]}, r"valid_metric='NDCG@10' is not among the metrics \(hit@5"),
        ("BPR", {"metrics": ["Recall"]}, "valid_metric='NDCG@10' is not among"),
        ("BPR", {"metrics": ["NDCG", "Foo"]}, "There is no metric named 'Foo'; use some"),
        ("BPR", {"metrics": ["NDCG", "novlty"]}, r"'novlty' \(did you mean novelty\?\); use"),
        ("BPR", {"metrics": ["NDCG", "GAUC"]}, "GAUC cannot be computed from a full ranking"),
        ("BPR", {"metrics": ["NDCG", "AUC"]}, "AUC cannot be computed from a full ranking"),
        ("BPR", {"metrics": ["NDCG", "no_such:M"]}, "no module 'no_such' for the metric no_such:M"),
        ("BPR", {"metrics": 5}, "metrics=5 must be a list"),
        ("BPR", {"load_col": "all"}, "load_col='all' must be a mapping"),
        ("BPR", {"train_neg_sample_args": "foo"}, r"should be a dict \(model BPR\)"),
        ("BPR", {"train_neg_sample_args": {"distribution": "x"}}, r"distribution \[x\]"),
        ("SASRec", {"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH=0 must be at least 1"),
        ("SASRec", {"n_layers": [1]}, r"n_layers=\[1\] must be a number"),
        ("Caser", {"bucket_by_length": True}, "would change the results of Caser"),
        ("HeLLM", {"variant": "foo"}, "variant='foo' is not allowed; use one of paper"),
        ("HeLLM", {"item_inputs": "graph"}, "item_inputs='graph' must be a list"),
        ("HeLLM", {"sequence_dim": "wide"}, "sequence_dim='wide' must be a number"),
        ("HeLLMPre", {"tau": 0.0}, "tau=0.0 must be at least"),
        ("NCL", {}, "whose own loop this package does not drive"),
        ("HeLLM-wo-GNN_PEFT", {"prefix": "static"}, "prefix='static' is not HeLLM-wo-GNN_PEFT, wh"),
        ("CoLLM", {"item_inputs": ["sequence"]}, r"HeLLM with item_inputs=\['graph'\]; remove it"),
        ("CoLLM", {"graph_model": None}, r"set it for HeLLM alone \(--HeLLM.graph_model\)"),
        ("HeLLMPre-wo-I2I", {"use_i2i": True}, "use_i2i=True is not HeLLMPre-wo-I2I"),
        (
            "HeLLMPre-wo-CL",
            {"bucket_by_length": True},
            "would change the results of HeLLMPre-wo-CL",
        ),
        ("HeLLM-wo-Seq_ID", {"taw": 1}, "Unknown option 'taw' for model HeLLM-wo-Seq_ID"),
        ("HeLLM-wo-Seq", {}, r"Unknown model 'HeLLM-wo-Seq' \(did you mean HeLLM-wo-Seq_ID"),
        *(
            ("BPR", {key: True}, f"option '{key}' is not offered here")
            for key, one in RECBOLE_KEYS.items()
            if one.not_offered
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    make_config: Make, model: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        make_config(model, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def files_of_models() -> dict[str, dict[str, Any]]:
    names = sorted(path.stem for path in (PROPERTIES / "model").glob("*.yaml"))
    return {name: packaged("model", f"{name}.yaml") for name in names}


def files_of_datasets() -> list[tuple[str, str, dict[str, Any]]]:
    """Dataset, model and values of each part of the datasets' files."""
    return [
        (path.stem, model, values)
        for path in sorted((PROPERTIES / "dataset").glob("*.yaml"))
        for model, values in packaged("dataset", path.name).get("models", {}).items()
    ]


@pytest.mark.parametrize("model", [*registry.OWN_MODELS, *registry.COMPARED_MODELS])
def test_files_hold_only_what_differs(model: str) -> None:
    """A default stands in one place: a file that repeats it, or contradicts it, is an error."""
    entry = registry.describe(model)
    declared = shared_defaults()
    for cls in getattr(entry.load(), "settings_classes", ()):
        declared |= defaults(cls)
        if entry.variant_of is None:
            twice = set(cls.own_keys()) & files_of_models().get(model, {}).keys()
            assert not twice, f"{model}.yaml sets {twice}, which {cls.__name__} declares"
    values = files_of_models().get(model, {})
    for layer in (values, *values.pop("by_backbone", {}).values()):
        repeated = {key for key, value in layer.items() if declared.get(key, _ABSENT) == value}
        assert not repeated, f"{model}.yaml repeats the defaults of {repeated}"
    for dataset, name, more in files_of_datasets():
        base = declared | files_of_models().get(name, {})
        repeated = {key for key, value in more.items() if base.get(key, _ABSENT) == value}
        assert name != model or not repeated, f"{dataset}.yaml repeats {repeated} for {model}"


_ABSENT = object()


def shared_defaults() -> dict[str, Any]:
    return defaults(RunSettings) | defaults(TrainingSettings)


def test_every_file_is_of_a_model() -> None:
    assert files_of_models().keys() <= {*registry.OWN_MODELS, *recbole_models.modules()}
    for dataset, model, values in files_of_datasets():
        config = HellmConfig(model, dataset)
        for key, value in values.items():
            assert config.final_config_dict[key] == value, (dataset, model, key)


def test_data_path_holds_the_dataset(quick: dict[str, Any]) -> None:
    for name in ("tiny", "ml-100k"):  # RecBole points ml-100k at its own files
        config = HellmConfig("BPR", name, quick | {"data_path": "/somewhere"})
        assert config["data_path"] == "/somewhere"
        assert config.dataset_directory == Path("/somewhere") / name


def test_cuda_devices_are_left_alone(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    config = make_config("BPR")
    import os

    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert str(config["device"]) == "cpu"  # `use_gpu` is False in tests


def test_a_token_limit_is_for_language_models(make_config: Any) -> None:
    assert make_config("CoLLM", max_tokens=64).model_settings()["max_tokens"] == 64
    assert make_config("SASRec", **{"HeLLM.max_tokens": 64}).model_settings()["max_tokens"] is None
    for model in ("SASRec", "HeLLMPre"):
        with pytest.raises(ConfigError, match=rf"to language models \(HeLLM, .*\), not to {model}"):
            make_config(model, max_tokens=64)


# Models outside the package ----------------------------------------------------------------------


def test_an_outside_model_is_never_taken_for_one_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_config: Make
) -> None:
    name = f"outside_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from recbole.model.sequential_recommender import SASRec\nclass CoLLM(SASRec):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config(f"{name}:CoLLM", n_layers=1)
    assert (config.model, config["model_path"]) == ("CoLLM", f"{name}:CoLLM")
    # RecBole's defaults of the class it derives from, and nothing of this package's CoLLM.
    assert (config["hidden_size"], config["n_layers"]) == (64, 1)
    assert "graph_model" not in config.final_config_dict
    assert config.stages() == {}
    assert config.model_settings()["n_heads"] == 2
    assert "model_path" in config.identifying_settings()
    assert "model_path" not in make_config("SASRec").identifying_settings()


OUTSIDE = """
from recbole.model.general_recommender import BPR
class Tiny(BPR):
    pass
"""


@pytest.fixture
def tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Import path of a model outside the package, with a settings file beside it."""
    name = f"outside_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)

    def write(settings: str) -> str:
        (tmp_path / "Tiny.yaml").write_text(settings)
        return f"{name}:Tiny"

    return write


@pytest.mark.parametrize(
    ("settings", "options", "sentence"),
    [
        ("width: 4", {"width": 4.5}, "width=4.5 must be a whole number"),
        ("width: 4", {"width": "wide"}, "width='wide' must be a number"),
        ("width: 4", {"widht": 4}, r"Unknown option 'widht' .*--model=outside_\w+:Tiny --help"),
        ("gpu_id: 1", {}, "option 'gpu_id' is not offered here"),
        ("eval_args: {split: {RS: [8, 1, 1]}}", {}, "eval_args.split=.* leaves this package"),
    ],
)
def test_settings_of_outside_models_are_checked(
    make_config: Make,
    tiny_model: Callable[[str], str],
    settings: str,
    options: dict[str, Any],
    sentence: str,
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make_config(tiny_model(settings), **options)


@pytest.mark.parametrize("device", [None, "", "auto", "cpu"])
def test_no_device_is_auto(make_config: Make, device: str | None) -> None:
    assert str(make_config("BPR", device=device)["device"]) == "cpu"
