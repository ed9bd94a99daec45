from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_hellm import load_run, recommend, run
from recbole_hellm.config.resolution import HellmConfig, check_addressed
from recbole_hellm.errors import ConfigError
from recbole_hellm.models.sequential.ensemble import Ensemble, EnsembleSettings, repeat_share

N_ITEMS = 7
ABSENT = ("HeLLM", "HeLLMPre")


@pytest.fixture
def make(make_parts: Callable[..., Any]) -> Callable[..., Ensemble]:
    def build(**options: Any) -> Ensemble:
        config, _, parts = make_parts("Ensemble", **options)
        return Ensemble(config, parts[0])

    return build


@pytest.fixture
def options(quick: dict[str, Any], small_model: dict[str, Any]) -> dict[str, Any]:
    shared = {"MAX_ITEM_LIST_LENGTH"}
    return quick | {
        key if "." in key or key in shared else f"HeLLM.{key}": value
        for key, value in small_model.items()
    }


def literal(scores: dict[str, list[float]], weights: dict[str, float]) -> list[float]:
    """The equation, number by number, for the scores of one history."""
    logs = {
        name: [value - math.log(sum(map(math.exp, row))) for value in row]
        for name, row in scores.items()
    }
    size = len(next(iter(logs.values())))
    return [sum(weights[name] * row[i] for name, row in logs.items()) for i in range(size)]


@pytest.mark.parametrize("seeds", [[], [3, 4]])
def test_scores_are_weighted_log_probabilities(
    make: Callable[..., Ensemble], seeds: list[int]
) -> None:
    weights = {"llm": 1.0, "sequence": 0.5, "graph": 2.0}
    model = make(member_seeds=seeds, **{f"{role}_weight": w for role, w in weights.items()})
    names = list(model.settings.members())
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.randn(2, N_ITEMS + 1, generator=generator) for name in names}
    scores = {name: 4 * values for name, values in scores.items()}
    for values in scores.values():
        values[:, 0] = 50.0  # what a model gives padding must not matter
    for name, values in scores.items():
        model.load_member(name, lambda _, values=values: values)
    found = model.full_sort_predict(None)
    shares = {name: weights[name.partition("-")[0]] / max(1, len(seeds)) for name in names}
    assert len(shares) == 3 * max(1, len(seeds))
    for row in range(2):
        rows = {name: values[row, 1:].tolist() for name, values in scores.items()}
        expected = torch.tensor(literal(rows, shares))
        torch.testing.assert_close(found[row, 1:], expected)
    assert bool((found[:, 0] == -torch.inf).all())
    asked = Interaction({"item_id": torch.tensor([2, 5])})
    torch.testing.assert_close(model.predict(asked), found[[0, 1], [2, 5]])


def test_items_of_the_history_share_what_repeats_in_training(
    make: Callable[..., Ensemble],
) -> None:
    model = make(graph_model=None, repeats="training")
    values = 3 * torch.randn(3, N_ITEMS + 1, generator=torch.Generator().manual_seed(4))
    for name in model.settings.members():
        model.load_member(name, lambda _: values)
    histories = [[2, 5, 2], [7], [1, 2, 3]]
    rows = torch.tensor([history + [0] * (3 - len(history)) for history in histories])
    model.repeat_share = 0.2
    scores = model.full_sort_predict(Interaction({"item_id_list": rows}))
    for row, history in enumerate(histories):
        single = {"m": values[row, 1:].tolist()}
        logs = [2 * value for value in literal(single, {"m": 1.0})]
        seen = set(history)
        own = sum(math.exp(logs[item - 1]) for item in seen)
        rest = sum(math.exp(value) for item, value in enumerate(logs, 1) if item not in seen)
        expected = [
            math.log(0.2 * math.exp(value) / own if item in seen else 0.8 * math.exp(value) / rest)
            for item, value in enumerate(logs, 1)
        ]
        torch.testing.assert_close(scores[row, 1:], torch.tensor(expected))
    assert bool((scores[:, 0] == -torch.inf).all())


def test_repeats_are_counted_in_training_rows() -> None:
    class Split:
        inter_feat = Interaction(
            {
                "list": torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 4], [2, 0, 0]]),
                "item": torch.tensor([2, 1, 4, 6]),
            }
        )

    assert repeat_share(Split(), "list", "item") == pytest.approx(3 / 6)


def test_loss_is_the_cross_entropy_of_all_items(make: Callable[..., Ensemble]) -> None:
    model = make(graph_model=None)
    values = torch.randn(2, N_ITEMS + 1, generator=torch.Generator().manual_seed(2))
    for name in model.settings.members():
        model.load_member(name, lambda _: values)
    twice = 2 * values[:, 1:].log_softmax(1)
    expected = -(twice.log_softmax(1)[0, 2] + twice.log_softmax(1)[1, 4]) / 2
    loss = model.calculate_loss(Interaction({"item_id": torch.tensor([3, 5])}))
    torch.testing.assert_close(loss, expected)


def test_a_member_without_weight_is_not_asked(make: Callable[..., Ensemble]) -> None:
    def fail(_: Any) -> Tensor:
        raise AssertionError("asked")

    model = make(graph_weight=0)
    values = torch.randn(1, N_ITEMS + 1)
    model.load_member("llm", lambda _: values)
    model.load_member("graph", fail)
    expected = values[:, 1:].log_softmax(1)
    torch.testing.assert_close(model.full_sort_predict(None)[:, 1:], expected)


def test_members_are_named_by_role_and_seed() -> None:
    settings = EnsembleSettings(graph_model=None, sequence_model="WEARec")
    assert settings.members() == {"llm": ("HeLLM", None), "sequence": ("WEARec", None)}
    settings = settings.replace(llm_model=None, member_seeds=(1, 2))
    assert settings.members() == {"sequence-1": ("WEARec", 1), "sequence-2": ("WEARec", 2)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"llm_model": None, "sequence_model": None, "graph_model": None}, "needs a member"),
        ({"llm_model": None, "sequence_model": None, "graph_weight": 0}, "needs a member"),
        ({"member_seeds": (1, 1)}, "names a seed twice"),
    ],
)
def test_settings_that_make_no_ensemble_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnsembleSettings(**values)


def test_options_reach_members_and_their_stages() -> None:
    given = {"SASRec.epochs": 3, "HeLLM.epochs": 2, "member_seeds": [5, 6], "graph_model": None}
    config = HellmConfig("Ensemble", "tiny", given)
    check_addressed([config])
    members = config.stages()
    assert list(members) == ["llm-5", "llm-6", "sequence-5", "sequence-6"]
    llm = members["llm-6"]
    assert (llm["seed"], llm["epochs"]) == (6, 2)
    below = llm.stages()["sequence"]
    assert (below["seed"], below["epochs"]) == (6, 3)
    assert members["sequence-5"]["seed"] == 5
    assert (
        not HellmConfig("Ensemble", "tiny", {"graph_model": None, "llm_model": None})
        .stages()["sequence"]
        .needs_features()
    )
    with pytest.raises(ConfigError, match="not run here"):
        check_addressed([HellmConfig("Ensemble", "tiny", {"WEARec.epochs": 3})])


def test_it_runs_and_is_restored(options: dict[str, Any]) -> None:
    result = run("Ensemble", "tiny", **options)
    assert [stage.record["model"] for stage in result.stages] == ["HeLLM", "SASRec", "HeLLMPre"]
    # HeLLM's own stages are the other two members, which count once.
    names = [stage.record["model"] for stage in result.all_stages]
    assert sorted(names) == ["HeLLM", "HeLLMPre", "SASRec"]
    assert names.index("HeLLM") == 2
    restored = load_run(result.path).evaluate()
    assert restored["seen"] == pytest.approx(result.metrics("test"))
    frame = recommend(result, users="all", topk=3)
    assert len(frame)
    # A general model knows no new user.
    item = frame["item"][0]
    with pytest.raises(ConfigError, match="user_id"):
        recommend(result, history=[item], topk=3)
    # HeLLM still stands on it.
    without = run("Ensemble", "tiny", **options, graph_model=None)
    assert len(recommend(without, history=[item], topk=3)) == 3


def test_one_member_ranks_as_it_does_alone(options: dict[str, Any]) -> None:
    chosen = {"llm_model": None, "graph_model": None, "sequence_weight": 0.3}
    alone = {key: v for key, v in options.items() if key.partition(".")[0] not in ABSENT}
    result = run("Ensemble", "tiny", **alone, **chosen)
    (member,) = result.stages
    assert result.metrics("test") == pytest.approx(member.metrics("test"))
    assert result.record["valid"] == member.record["valid"]


def test_a_class_of_another_module_has_members_too(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from recbole_hellm.models.sequential.ensemble import Ensemble\n\n\n"
    (tmp_path / "my_ensembles.py").write_text(source + "class Mine(Ensemble):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    chosen = {"llm_model": None, "graph_model": None}
    alone = {key: v for key, v in options.items() if key.partition(".")[0] not in ABSENT}
    result = run("my_ensembles:Mine", "tiny", **alone, **chosen)
    (member,) = result.stages
    assert result.metrics("test") == pytest.approx(member.metrics("test"))
    assert load_run(result.path).evaluate()["seen"] == pytest.approx(result.metrics("test"))
