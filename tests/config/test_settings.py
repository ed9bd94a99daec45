from __future__ import annotations

from typing import Any, Literal

import pytest

from recbole_hellm.config.settings import Facts, Settings, names, require, setting
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.errors import ConfigError


class Example(Settings):
    """Fields of every kind."""

    rate: float = setting(0.5, "A rate.", ge=0, lt=2)
    layers: int = setting(2, "Layers.", ge=1)
    name: str = setting("a", "A name.", identifies=False)
    shared: bool = setting(False, "Whether it is shared.", passed_on=True)
    kind: Literal["paper", "released"] = setting("paper", "A kind.")
    width: int | None = setting(None, "A width.", gt=0)
    parts: tuple[str, ...] = setting(("x",), "Parts.")
    inputs: tuple[Literal["p", "q"], ...] = setting(("p",), "Inputs.")
    factors: tuple[float, ...] = setting((1.0,), "Factors.")
    either: str | tuple[str, ...] | None = setting(None, "One or several.")
    extra: dict | None = setting(None, "A mapping.")

    def validate_relations(self) -> None:
        require(self.layers != 13, "layers=13 is unlucky; use another number.")


def test_reads_its_own_keys_only() -> None:
    settings = Example.from_config({"rate": 0.25, "unrelated": object(), "width": 7})
    assert settings == Example(rate=0.25, width=7)
    assert Example.keys() == list(Example.declarations())
    assert settings.to_dict()["width"] == 7


def test_whole_numbers_are_floats_where_a_float_is_wanted() -> None:
    settings = Example(rate=1, factors=[1, 2])  # type: ignore[arg-type]
    assert (settings.rate, type(settings.rate)) == (1.0, float)
    assert settings.factors == (1.0, 2.0)
    assert {type(factor) for factor in settings.factors} == {float}


def test_lists_become_tuples_and_none_stays() -> None:
    assert Example(parts=["a", "b"]).parts == ("a", "b")  # type: ignore[arg-type]
    assert Example(width=None).width is None


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("rate", "abc", "rate='abc' must be a number"),
        ("rate", True, "rate=True must be a number"),
        ("layers", 2.5, "layers=2.5 must be a whole number"),
        ("layers", False, "layers=False must be a whole number"),
        ("layers", None, "layers=None must be a whole number"),
        ("name", 5, "name=5 must be a text"),
        ("shared", 1, "shared=1 must be True or False"),
        ("kind", "foo", "kind='foo' is not allowed; use one of paper, released"),
        ("width", "wide", "width='wide' must be a whole number"),
        ("parts", "x", "parts='x' must be a list"),
        ("parts", [1], "parts holds 1, which must be a text"),
        ("extra", 1.0, "extra=1.0 must be a mapping"),
        ("layers", 0, "layers=0 must be at least 1"),
        ("layers", 13, "layers=13 is unlucky"),
        ("rate", -0.5, "rate=-0.5 must not be negative"),
        ("rate", 2, "rate=2 must be below 2"),
        ("width", 0, "width=0 must be positive"),
        ("factors", [1.0, "x"], "factors holds 'x', which must be a number"),
        ("inputs", ["p", "z"], "inputs='z' is not allowed; use one of p, q"),
        ("either", 3, "either=3 must be a text or a list of texts"),
    ],
)
def test_wrong_values_name_the_key(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Example.from_config({key: value})
    assert str(caught.value).startswith(sentence)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="Example has no setting 'rat'"):
        Example(rat=1.0)


def test_settings_do_not_change_and_copies_are_checked() -> None:
    settings = Example()
    with pytest.raises(ValueError, match="frozen"):
        settings.rate = 1.0  # type: ignore[misc]
    assert settings.replace(rate=1.0).rate == 1.0
    with pytest.raises(ConfigError, match="layers=0"):
        settings.replace(layers=0)


def test_fields_that_came_later_are_named_while_they_hold_their_default() -> None:
    class Later(Example):
        budget: int | None = setting(None, "A budget.", hash_neutral=True)
        mode: str = setting("auto", "A mode.", hash_neutral=True)

    assert Later().untouched_additions() == {"budget", "mode"}
    assert Later(budget=3).untouched_additions() == {"mode"}
    assert Later().budget is None
    assert Example().untouched_additions() == set()
    assert Later.own_keys() == ["budget", "mode"]


def test_everything_about_a_setting_stands_in_its_declaration() -> None:
    declared = Example.declarations()
    assert (declared["rate"].default, declared["rate"].help) == (0.5, "A rate.")
    assert declared["kind"].choices == ("paper", "released")
    assert declared["inputs"].choices == ("p", "q")
    assert declared["name"].facts == Facts(identifies=False)
    assert declared["shared"].facts == Facts(passed_on=True)
    kinds = {key: one.kinds for key, one in declared.items()}
    assert kinds["rate"] == kinds["layers"] == kinds["width"] == ("number",)
    assert (kinds["shared"], kinds["extra"]) == (("flag",), ("mapping",))
    assert (kinds["parts"], kinds["factors"]) == (("texts",), ("list",))
    assert kinds["either"] == ("text", "texts")
    assert [key for key, one in declared.items() if one.is_text] == [
        "name",
        "kind",
        "either",
    ]


def test_names_come_from_lists_and_texts() -> None:
    assert names("a, b,") == names(["a", "b"]) == ("a", "b")
    assert names(None) == names("") == ()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e400])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(ConfigError, match=r"^learning_rate=\S+ must be a finite number\.$"):
        TrainingSettings(learning_rate=value)


def test_null_characters_are_told() -> None:
    with pytest.raises(ConfigError, match=r"learner='a.x00' holds a null character"):
        TrainingSettings(learner="a\0")
