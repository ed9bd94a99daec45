from __future__ import annotations

import pytest

from recbole_hellm import registry
from recbole_hellm.benchmark.paper import TABLE_1
from recbole_hellm.benchmark.plans.benchmarks import (
    BENCHMARKS,
    ad_hoc,
    find_benchmark,
    paper_masking,
)
from recbole_hellm.benchmark.plans.shapes import Family, Table
from recbole_hellm.errors import ConfigError


def test_tables_of_models_are_told_apart_by_their_models_alone() -> None:
    assert BENCHMARKS["table1"].told_apart_by == BENCHMARKS["table3"].told_apart_by == frozenset()
    assert BENCHMARKS["fig4"].told_apart_by == {"alpha_u2u", "beta_i2i"}


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
