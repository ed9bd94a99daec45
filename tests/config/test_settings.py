from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from recbole_hellm.config.settings import Settings, hash_neutral, require
from recbole_hellm.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Example(Settings):
    rate: float = 0.5
    layers: int = 2
    name: str = "a"
    shared: bool = False
    kind: Literal["paper", "released"] = "paper"
    level: Literal[1, 2] = 1
    width: int | None = None
    parts: tuple[str, ...] = ("x",)
    factors: tuple[float, ...] = (1.0,)
    extra: dict | None = None

    def validate(self) -> None:
        require(self.layers >= 1, f"layers={self.layers} must be at least 1.")


def test_reads_its_own_keys_only() -> None:
    found = Example.from_config({"rate": 0.25, "unrelated": object(), "width": 7})
    assert found == Example(rate=0.25, width=7)
    assert Example.keys() == [field.name for field in dataclasses.fields(Example)]
    assert found.to_dict()["width"] == 7


def test_whole_numbers_are_floats_where_a_float_is_wanted() -> None:
    found = Example(rate=1, factors=[1, 2])  # type: ignore[arg-type]
    assert (found.rate, type(found.rate)) == (1.0, float)
    assert found.factors == (1.0, 2.0)
    assert {type(factor) for factor in found.factors} == {float}


def test_lists_become_tuples_and_none_stays() -> None:
    assert Example(parts=["a", "b"]).parts == ("a", "b")  # type: ignore[arg-type]
    assert Example(width=None).width is None


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("rate", "abc", "rate='abc' must be of type float"),
        ("rate", True, "rate=True must be of type float"),
        ("layers", 2.5, "layers=2.5 must be of type int"),
        ("layers", False, "layers=False must be of type int"),
        ("layers", None, "layers=None must be of type int"),
        ("name", 5, "name=5 must be of type str"),
        ("shared", 1, "shared=1 must be of type bool"),
        ("kind", "foo", "kind='foo' is not allowed; use one of paper, released"),
        ("level", True, "level=True is not allowed"),
        ("level", 1.0, "level=1.0 is not allowed"),
        ("width", "wide", "width='wide' must be of type int"),
        ("parts", "x", "parts='x' must be a list"),
        ("parts", [1], "parts=1 must be of type str"),
        ("extra", 1.0, "extra=1.0 must be of type dict"),
        ("layers", 0, "layers=0 must be at least 1"),
    ],
)
def test_wrong_values_name_the_key(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Example.from_config({key: value})
    assert str(caught.value).startswith(sentence)


def test_fields_that_came_later_are_named_while_they_hold_their_default() -> None:
    @dataclasses.dataclass(frozen=True)
    class Later(Example):
        budget: int | None = hash_neutral(None)
        mode: str = hash_neutral("auto")

    assert Later().untouched_additions() == {"budget", "mode"}
    assert Later(budget=3).untouched_additions() == {"mode"}
    assert Later().budget is None
    assert Example().untouched_additions() == set()
