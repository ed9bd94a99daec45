from __future__ import annotations

from recbole_hellm import registry
from recbole_hellm.benchmark.paper import OTHERS, TABLE_1, TABLE_3


def test_figures_are_where_the_paper_has_them() -> None:
    assert TABLE_1["GRCN"]["Beauty"] == {
        "recall@10": 0.0454,
        "ndcg@10": 0.0225,
        "recall@20": 0.0758,
        "ndcg@20": 0.0305,
    }
    assert TABLE_1["HeLLM"]["Sports"]["ndcg@20"] == 0.0279
    assert TABLE_3["HeLLM-wo-Seq_ID"]["Toys"] == {"recall@20": 0.0951, "ndcg@20": 0.0412}
    assert len(TABLE_1) == 10
    assert len(TABLE_3) == 8


def test_both_tables_agree_on_hellm() -> None:
    for dataset, figures in TABLE_3["HeLLM"].items():
        assert figures.items() <= TABLE_1["HeLLM"][dataset].items()


def test_every_method_runs_under_its_name() -> None:
    for model in (*TABLE_1, *TABLE_3):
        assert registry.model_class(model)


def test_figures_of_others_are_where_they_have_them() -> None:
    rows = {row.name: row for row in OTHERS}
    assert len(rows) == len(OTHERS) == 11
    wearec = rows["WEARec, its row"]
    assert (wearec.masking, wearec.selected) == ("seen", "best of 72 on test")
    assert wearec.figures["Beauty"] == {
        "recall@10": 0.1041,
        "ndcg@10": 0.0614,
        "recall@20": 0.1391,
        "ndcg@20": 0.0703,
    }
    assert set(wearec.figures) == {"Beauty", "Sports"}
    assert rows["ICSRec"].figures["Toys"]["ndcg@20"] == 0.0736
    assert rows["TIGER"].masking is None
    assert rows["TIGER"].figures["Sports"] == {"recall@10": 0.0400, "ndcg@10": 0.0225}
    assert rows["DIFF"].masking == "none"
