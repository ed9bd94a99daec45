from __future__ import annotations

import pytest

from recbole_hellm import registry
from recbole_hellm.benchmark.paper import TABLE_1, TABLE_3
from recbole_hellm.benchmark.plans import (
    BENCHMARKS,
    Exempt,
    Family,
    Figure,
    Panel,
    Table,
    ad_hoc,
    find_benchmark,
    paper_masking,
)
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.errors import ConfigError
from recbole_hellm.runs.identity import recipe
from recbole_hellm.storage.checksums import content_hash


def test_table_1_has_every_method_of_the_papers() -> None:
    table = BENCHMARKS["table1"]
    assert isinstance(table, Table)
    assert set(TABLE_1) < set(table.models)
    assert set(table.models) - set(TABLE_1) == {"HeLLMPre", "SASRec", "BSARec", "WEARec"}
    assert table.figures("FREEDOM", "Beauty")["recall@20"] == 0.0805
    assert table.figures("HeLLMPre", "Beauty") == {"recall@20": 0.0820, "ndcg@20": 0.0342}
    assert table.figures("SASRec", "Beauty") == {}
    assert table.families[0].reference == "HeLLM"


def test_table_3_compares_each_ablation_with_its_own_stage() -> None:
    table = BENCHMARKS["table3"]
    assert isinstance(table, Table)
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
    table = BENCHMARKS["pretrained"]
    assert isinstance(table, Table)
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
    table = BENCHMARKS["prefix"]
    assert isinstance(table, Table)
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
    table = BENCHMARKS["ranking"]
    assert isinstance(table, Table)
    assert table.others
    assert {*BENCHMARKS["table1"].models, "HeLLM-plus"} < set(table.models)
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


def test_tables_of_models_are_told_apart_by_their_models_alone() -> None:
    assert BENCHMARKS["table1"].told_apart_by == BENCHMARKS["table3"].told_apart_by == frozenset()
    assert BENCHMARKS["fig4"].told_apart_by == {"alpha_u2u", "beta_i2i"}


@pytest.mark.parametrize("name", ["fig3", "fig4"])
def test_every_point_of_a_figure_is_a_valid_setting(name: str) -> None:
    figure = BENCHMARKS[name]
    assert isinstance(figure, Figure)
    for panel in figure.panels:
        points = list(panel.points())
        assert len({tuple(point.values()) for point in points}) == len(points)
        for point in points:
            config = HellmConfig(figure.model, "Beauty", point)
            assert {key: config[key] for key in point} == point


def test_exempt_points_match_whole_conditions() -> None:
    exempt = Exempt({"a": 0.0, "b": 1}, {"epochs": 9}, "why")
    figure = Figure("f", "F", "M", (Panel("a", {"a": (0.0, 1.0)}),), exempt=(exempt,))
    assert figure.exemptions({"a": 0.0, "b": 1}) == {"epochs": 9}
    for point in ({"a": 0.0}, {"a": 0.0, "b": 2}, {"b": 1}):
        assert figure.exemptions(point) == {}


def test_figures_hold_the_papers_grids() -> None:
    fig3, fig4 = BENCHMARKS["fig3"], BENCHMARKS["fig4"]
    assert isinstance(fig3, Figure) and isinstance(fig4, Figure)
    sizes = [len(list(panel.points())) for panel in fig3.panels]
    assert [panel.title for panel in fig3.panels] == ["K", "τ", "λ", "d"]
    assert sizes == [7, 10, 5, 6]
    (panel,) = fig4.panels
    assert len(list(panel.points())) == 36
    # The defaults are among the points, so that their run serves both.
    config = HellmConfig("HeLLMPre", "Beauty")
    for one in (*fig3.panels, panel):
        assert {key: config[key] for key in one.axes} in list(one.points())


@pytest.mark.parametrize(
    ("model", "masking"),
    [
        *((model, "train") for model in ("LightGCN", "VBPR", "HeLLMPre-wo-CL", "Pop")),
        *((model, "none") for model in ("SASRec", "CoLLM", "HeLLM-wo-Seq_ID", "GRU4Rec")),
    ],
)
def test_the_paper_masks_by_kind_of_model(model: str, masking: str) -> None:
    assert paper_masking(model) == masking


def test_every_method_runs_under_its_name() -> None:
    for benchmark in BENCHMARKS.values():
        table = isinstance(benchmark, Table)
        names = benchmark.models if table else (benchmark.model,)
        models = [benchmark.paths.get(name, name) if table else name for name in names]
        assert all(registry.model_class(model) for model in models)


def test_outside_models_have_the_name_of_their_class() -> None:
    table = ad_hoc(("SASRec", "mine.models:LightGCN"), None)
    assert table.families == (Family("LightGCN", ("SASRec", "LightGCN")),)
    assert table.paths == {"LightGCN": "mine.models:LightGCN"}
    # The paper's figures are of another LightGCN.
    assert table.figures("SASRec", "Beauty") == TABLE_1.get("SASRec", {}).get("Beauty", {})
    assert not table.figures("LightGCN", "Beauty")
    assert TABLE_1["LightGCN"]["Beauty"]
    with pytest.raises(ConfigError, match="have the same name"):
        ad_hoc(("LightGCN", "mine.models:LightGCN"), None)


def test_the_last_model_of_an_ad_hoc_table_is_its_reference() -> None:
    assert ad_hoc(("A", "B"), None).families == (Family("B", ("A", "B")),)
    assert ad_hoc(("A", "B"), "A").families[0].reference == "A"
    with pytest.raises(ConfigError, match="The reference 'C' is not among the models"):
        ad_hoc(("A", "B"), "C")
    with pytest.raises(ConfigError, match="names no model"):
        ad_hoc((), None)


def test_unknown_names_are_told_with_near_ones() -> None:
    assert find_benchmark("fig4") is BENCHMARKS["fig4"]
    with pytest.raises(ConfigError, match=r"Unknown benchmark 'tabel1' \(did you mean table1"):
        find_benchmark("tabel1")


def test_a_panel_crosses_its_axes() -> None:
    points = list(Panel("ab", {"a": (1, 2), "b": (3, 4)}).points())
    assert points == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]
