from __future__ import annotations

from recbole_hellm.benchmark.paper import TABLE_1, TABLE_3
from recbole_hellm.benchmark.plans.tables import TABLES
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.runs.identity import recipe
from recbole_hellm.storage.checksums import content_hash


def test_table_1_has_every_method_of_the_papers() -> None:
    table = TABLES["table1"]
    assert set(TABLE_1) < set(table.models)
    assert set(table.models) - set(TABLE_1) == {"HeLLMPre", "SASRec", "BSARec", "WEARec"}
    assert table.figures("FREEDOM", "Beauty")["recall@20"] == 0.0805
    assert table.figures("HeLLMPre", "Beauty") == {"recall@20": 0.0820, "ndcg@20": 0.0342}
    assert table.figures("SASRec", "Beauty") == {}
    assert table.families[0].reference == "HeLLM"


def test_table_3_compares_each_ablation_with_its_own_stage() -> None:
    table = TABLES["table3"]
    assert set(table.models) == set(TABLE_3)
    for family in table.families:
        assert family.models[-1] == family.reference
        assert all(name.startswith(f"{family.reference}-wo-") for name in family.models[:-1])
        assert len(family.models) == 4
    first, second = table.families
    # All of a family alike.
    assert set(table.settings) == set(first.models)
    assert all(given == {"stopping_step": 29} for given in table.settings.values())
    assert not set(second.models) & set(table.settings)


def test_rows_over_language_models_are_settings_of_models_and_all_differ() -> None:
    table = TABLES["pretrained"]
    whole, tenth = table.families
    assert (whole.reference, tenth.reference) == ("HeLLM", "HeLLM-tenth")
    recipes = {}
    for name in table.models:
        given = table.settings[name]
        config = HellmConfig(table.paths[name], "Beauty", given)
        assert config["train_users"] == (0.1 if name in tenth.models else 1.0)
        held = {key: config[key] for key in given}
        assert held == {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
        recipes[name] = content_hash(recipe(config))
    assert len(set(recipes.values())) == len(table.models)
    assert {"prefix", "backbone", "backbone_layers", "train_users"} <= table.told_apart_by
    assert not table.told_apart_by & {"seed", "topk", "eval_batch_size"}


def test_the_prefix_is_shown_under_both_ways_to_read_it() -> None:
    table = TABLES["prefix"]
    of_row = {
        name: HellmConfig(table.paths.get(name, name), "Beauty", table.settings.get(name, {}))
        for name in table.models
    }
    read = {name: (config["targets"], config["prefix"]) for name, config in of_row.items()}
    assert read == {
        "HeLLM-wo-GNN_PEFT": (None, "none"),
        "HeLLM": (None, "graph"),
        "HeLLM-last-no-prefix": ("last", "none"),
        "HeLLM-last": ("last", "graph"),
    }
    assert [family.reference for family in table.families] == ["HeLLM", "HeLLM-last"]


def test_the_ranking_has_every_method_and_the_parts_of_an_ensemble() -> None:
    table = TABLES["ranking"]
    assert table.others
    assert {*TABLES["table1"].models, "HeLLM-plus"} < set(table.models)
    assert table.families[0].reference == "HeLLM-plus"
    whole = HellmConfig("HeLLM-plus", "Beauty").stages()
    assert [stage.model for stage in whole.values()] == ["HeLLM", "WEARec", "HeLLMPre"]
    parts = {
        name: [stage.model for stage in HellmConfig("Ensemble", "Beauty", given).stages().values()]
        for name, given in table.settings.items()
    }
    assert parts == {
        "HeLLM-plus-wo-LLM": ["WEARec", "HeLLMPre"],
        "HeLLM-plus-wo-sequence": ["HeLLM", "HeLLMPre"],
        "HeLLM-plus-wo-graph": ["HeLLM", "WEARec"],
        "LLaRA-plus": ["LLaRA", "WEARec", "HeLLMPre"],
    }


def test_rows_of_changes_differ_from_their_base_in_one_setting() -> None:
    table = TABLES["changes"]
    seen = set()
    for family in table.families:
        base = HellmConfig(family.reference, "Beauty")
        for name in family.models[:-1]:
            given = table.settings[name]
            assert len(given) == 1
            changed = HellmConfig(table.paths[name], "Beauty", given)
            (key, value), *_ = given.items()
            held = changed.stages()["sequence"] if "." in key else changed
            key = key.rpartition(".")[2]
            assert held[key] == (list(value) if isinstance(value, tuple) else value)
            seen.add(content_hash(recipe(changed)))
        seen.add(content_hash(recipe(base)))
    assert len(seen) == len(table.models) == 12
    assert [family.reference for family in table.families] == ["SASRec", "HeLLM"]
