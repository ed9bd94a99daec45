from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.sheets import TABLE, row

from recbole_hellm.benchmark.methods import Method, methods
from recbole_hellm.benchmark.plans.shapes import Family, Table
from recbole_hellm.benchmark.records import Record
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.list_metrics import LIST_METRICS
from recbole_hellm.evaluation.metric import RankMetric
from recbole_hellm.evaluation.metrics import BUILT_IN
from recbole_hellm.reporting import evidence, published
from recbole_hellm.reporting.numbers import number, spread
from recbole_hellm.reporting.sheets import Cell

Make = Callable[..., Record]


def test_results_have_means_spread_marks_and_cost(three: list[Method]) -> None:
    tests, _ = evidence.tested(TABLE, three, "seen")
    sheet = evidence.results(TABLE, three, "seen", tests)
    assert sheet.title == "Title: Beauty, mask_history=seen"
    assert list(sheet.head[:3]) == ["", "seeds", "R@10"]
    values = np.array([40 / 60, 41 / 60])
    ours = row(sheet, "HeLLM")
    assert ours[1].text == "2"
    expected = f"{values.mean():.4f} ± {values.std(ddof=1):.4f}".replace("0.", ".")
    assert (ours[2].text, ours[2].best, ours[2].second) == (expected, False, True)
    assert row(sheet, "SASRec")[2] == Cell(".6833", best=True)
    assert row(sheet, "LightGCN")[2] == Cell(".1000†")
    by_name = dict(zip(sheet.head, (cell.text for cell in ours), strict=True))
    assert by_name["training, s"] == "90 (190)"
    assert by_name["trained, M"] == "2.00 of 3.00"
    assert by_name["memory, GB"] == "1.0"
    assert by_name["best epoch"] == "4"
    notes = " ".join(sheet.notes)
    assert "processor time of all threads" in notes
    assert "split ssssssssssss, mask_history=seen" in notes
    assert "Holm's correction over the 2 comparisons" in notes
    assert sheet.data is not None
    assert set(sheet.data["method"]) == {"LightGCN", "SASRec", "HeLLM"}
    inside = sheet.data.eval("users_ci_low <= mean <= users_ci_high")
    assert inside.all()


def test_validation_is_shown_as_it_chose(three: list[Method]) -> None:
    for method in three:
        for run in method.runs:
            run.record["valid"]["seen"] = {"ndcg@10": 0.25 * run.seed / 2, "recall@10": 0.5}
    sheet = evidence.validation(TABLE, three)
    assert (sheet.name, sheet.title) == (
        "validation",
        "Title: Beauty, validation, mask_history=seen",
    )
    # Recall@20 and NDCG@20 were not computed.
    assert list(sheet.head) == ["", "seeds", "R@10", "N@10"]
    expected = spread(np.array([0.125, 0.25]))
    texts = [cell.text for cell in row(sheet, "HeLLM")]
    assert texts == ["HeLLM", "2", ".5000 ± .0000", expected]
    assert sheet.data is not None
    assert len(sheet.data) == 6


def test_the_reference_is_tested_against_each(three: list[Method]) -> None:
    tests, (sheet,) = evidence.tested(TABLE, three, "seen")
    (found,) = tests
    ours = three[2].per_user("ndcg@10", "seen").mean(axis=0)
    theirs = three[0].per_user("ndcg@10", "seen")[0]
    against = found["ndcg@10"]["LightGCN"]
    assert against.difference == pytest.approx((ours - theirs).mean())
    # Holm: the smaller of two p-values is doubled.
    assert against.p_t_holm == pytest.approx(2 * stats.ttest_rel(ours, theirs).pvalue)
    rows = [[cell.text for cell in cells] for cells in sheet.cells()]
    assert len(rows) == 2 * 4
    shown = next(cells for cells in rows if cells[:2] == ["LightGCN", "N@10"])
    assert shown[2] == "2 / 1"
    assert shown[3].startswith("+.")
    assert shown[5] == "<.001"
    worse = next(cells for cells in rows if cells[:2] == ["SASRec", "R@10"])
    assert worse[3].startswith("−")
    assert any("take as many of each, the first ones" in note for note in sheet.notes)
    assert not any("d_z is larger" in note for note in sheet.notes)  # all rows have 2 / 1


def test_rows_of_different_numbers_of_seeds_are_told_apart(
    make_kept: Make, good: list[int], poor: list[int], three: list[Method]
) -> None:
    again = make_kept("LightGCN", poor, seed=2, dataset="Beauty")
    found = methods(
        {"LightGCN": [*three[0].runs, again], "SASRec": three[1].runs} | {"HeLLM": three[2].runs}
    )
    _, (sheet,) = evidence.tested(TABLE, found, "seen")
    assert {cells[0].text: cells[2].text for cells in sheet.cells()} == {
        "LightGCN": "2 / 2",
        "SASRec": "2 / 1",
    }
    assert any("d_z is larger with more seeds" in note for note in sheet.notes)


def test_families_without_their_reference_are_not_tested(three: list[Method]) -> None:
    tests, sheets = evidence.tested(TABLE, three[:2], "seen")
    assert tests == [{}]
    assert sheets == []
    sheet = evidence.results(TABLE, three[:2], "seen", tests)
    assert not any("Holm" in note for note in sheet.notes)
    assert "HeLLM is not shown, so nothing is tested against it." in sheet.notes


def test_a_method_that_is_worse_is_marked_so(
    make_kept: Make, good: list[int], poor: list[int]
) -> None:
    found = methods({"SASRec": [make_kept("SASRec", good)], "HeLLM": [make_kept("HeLLM", poor)]})
    tests, _ = evidence.tested(TABLE, found, "seen")
    sheet = evidence.results(TABLE, found, "seen", tests)
    assert row(sheet, "SASRec")[2].text.endswith("‡")


def test_slices_are_means_over_seeds_by_group(three: list[Method]) -> None:
    sheet = evidence.slices(TABLE, three, "history_length", "seen")
    assert list(sheet.head) == ["", "few (30)", "many (30)"]
    even = np.arange(0, 60, 2)
    expected = three[2].per_user("ndcg@10", "seen")[:, even].mean()
    assert row(sheet, "HeLLM")[1].text == number(float(expected))
    assert sheet.data is not None
    assert set(sheet.data["grouping"]) == {"history_length"}
    assert set(sheet.data["metric"]) == {"recall@10", "recall@20", "ndcg@10", "ndcg@20"}


def test_a_record_that_lacks_a_group_is_named(three: list[Method]) -> None:
    path = three[0].runs[0].path / "slices.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if ",many," not in line))
    with pytest.raises(RunError, match=r"LightGCN.*slices.csv lacks the group 'many'"):
        evidence.slices(TABLE, three, "history_length", "seen")


def test_lists_are_shown_where_they_were_kept(
    make_kept: Make, good: list[int], three: list[Method]
) -> None:
    assert evidence.lists(three) is None
    run = make_kept("Pop", good)
    values = {f"{metric.name}@10": 0.5 for metric in LIST_METRICS}
    (run.path / "lists.json").write_text(str(values).replace("'", '"'))
    sheet = evidence.lists([*three, Method("Pop", (run,))])
    assert sheet is not None
    assert [cells[0].text for cells in sheet.cells()] == ["LightGCN", "SASRec", "HeLLM", "Pop"]
    assert row(sheet, "Pop")[1].text == ".5000"
    assert {cell.text for cell in row(sheet, "HeLLM")[1:]} == {"–"}
    del values["diversity@10"]  # as without item features
    (run.path / "lists.json").write_text(str(values).replace("'", '"'))
    sheet = evidence.lists([Method("Pop", (run,))])
    assert sheet is not None
    by_name = dict(zip(sheet.head, (cell.text for cell in row(sheet, "Pop")), strict=True))
    assert (by_name["diversity"], by_name["Gini"]) == ("–", ".5000")


def test_every_family_has_its_own_best(three: list[Method]) -> None:
    table = Table("t", "T", (Family("HeLLM", ("HeLLM",)), Family("A", ("SASRec", "LightGCN", "A"))))
    sheet = evidence.results(table, three, "seen", [{}, {}])
    # Alone it is best of nothing, and another family's figure does not make it second.
    assert [
        (row(sheet, name)[2].best, row(sheet, name)[2].second)
        for name in ("HeLLM", "SASRec", "LightGCN")
    ] == [(False, False), (True, False), (False, True)]
    assert any("of each family" in note for note in sheet.notes)
    one = evidence.results(TABLE, three, "seen", [{}])
    assert not any("of each family" in note for note in one.notes)


def test_the_family_is_that_of_the_comparisons_made(three: list[Method]) -> None:
    tests, _ = evidence.tested(TABLE, three[1:], "seen")
    sheet = evidence.results(TABLE, three[1:], "seen", tests)
    assert any("over the 1 comparisons" in note for note in sheet.notes)
    assert any("is about the models as trained" in note for note in sheet.notes)


def test_a_tables_notes_are_told_where_they_are_true(make_kept: Make, good: list[int]) -> None:
    table = Table(
        "t", "T", (Family("A", ("A", "B")),), settings={"A": {"patience": 9}}, notes=("Waits.",)
    )
    own = make_kept("A", good, settings={"patience": 9})
    other = make_kept("A", good, settings={"patience": 3})
    plain = make_kept("B", good)
    for runs, told in (([own], True), ([other], False), ([], False)):
        found = methods({"A": runs, "B": [plain]})
        assert ("Waits." in evidence.results(table, found, "seen", [{}]).notes) == told


class Misses(RankMetric):
    """A metric of which less is better."""

    bigger_is_better = False
    column = "misses"

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """Not called: records hold the values."""
        raise AssertionError


def test_metrics_that_the_user_asks_for_are_shown(
    make_kept: Make, good: list[int], poor: list[int]
) -> None:
    kept = [make_kept("SASRec", poor), make_kept("HeLLM", good)]
    for run, ranks in zip(kept, (poor, good), strict=True):
        misses = np.array(ranks) >= 10
        run.metrics("seen")["misses@10"] = misses.mean()
        run.metrics("seen")["giniindex@10"] = 0.5 + (run.record["model"] == "HeLLM") / 4
        run.user_values["seen", "misses@10"] = misses.astype(float)
        slices = run.slices()
        copied = slices[slices["metric"] == "recall@10"].assign(metric="misses@10")
        copied["value"] = 1 - copied["value"]
        pd.concat([slices, copied]).to_csv(run.path / "slices.csv", index=False)
    found = methods({run.record["model"]: [run] for run in kept})
    asked = {"misses@10": Misses(), "giniindex@10": BUILT_IN["giniindex"], "mrr@5": BUILT_IN["mrr"]}
    for run in kept:
        run.metrics("seen")["mrr@5"] = float(asked["mrr@5"].per_user(run.ranks()["seen"], 5).mean())
    table = dataclasses.replace(TABLE, asked=asked)
    tests, (sheet,) = evidence.tested(table, found, "seen")
    assert list(tests[0]) == ["recall@10", "ndcg@10", "recall@20", "ndcg@20", "misses@10", "mrr@5"]
    against = tests[0]["misses@10"]["SASRec"]
    assert against.difference == pytest.approx(np.mean(np.array(good) >= 10) - 0.9)
    assert any("Of misses@10 less is better" in note for note in sheet.notes)
    shown = evidence.results(table, found, "seen", tests)
    column = list(shown.head).index("misses@10")
    assert row(shown, "HeLLM")[column] == Cell(".3333", best=True)
    assert row(shown, "SASRec")[column] == Cell(".9000†", second=True)
    # No test where no user has a value, and less is better here, too.
    column = list(shown.head).index("Gini@10")
    assert row(shown, "SASRec")[column] == Cell(".5000", best=True)
    assert row(shown, "HeLLM")[column] == Cell(".7500", second=True)
    assert shown.data is not None
    gini = shown.data[shown.data["metric"] == "giniindex@10"]
    assert gini["users_ci_low"].isna().all()
    assert evidence.sliced_metrics(table) == ["ndcg@10", "misses@10", "mrr@5"]
    by_group = evidence.slices(table, found, "history_length", "seen", "misses@10")
    assert by_group is not None
    assert by_group.name == "by-history_length-misses"
    assert row(by_group, "HeLLM")[1].best
    # A record that was kept before the metric was asked for.
    assert evidence.slices(table, found, "history_length", "seen", "mrr@5") is None
    assert published.beside_the_paper(table, found) is None


def test_what_is_no_number_is_shown_as_such_and_never_the_best(
    make_kept: Make, good: list[int], poor: list[int]
) -> None:
    kept = make_kept("HeLLM", good)
    kept.record["test"]["seen"]["ndcg@10"] = float("nan")
    found = methods({"LightGCN": [make_kept("LightGCN", poor)], "HeLLM": [kept]})
    sheet = evidence.results(TABLE, found, "seen", [{}])
    cell = row(sheet, "HeLLM")[list(sheet.head).index("N@10")]
    assert cell == Cell("nan")
    assert any(note.startswith("nan: ") for note in sheet.notes)
