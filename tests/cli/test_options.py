from __future__ import annotations

from typing import Literal

import click
import pytest

from recbole_hellm.cli.arguments import ValueReader
from recbole_hellm.cli.options import (
    ModelOption,
    SettingOption,
    config_files,
    dataset_directory,
)
from recbole_hellm.config.settings import Settings, setting


class Sample(Settings):
    file: str | None = setting(None, "A file.")
    mode: Literal["fast", "exact"] = setting("fast", "A mode.")
    size: int = setting(3, "A size.")
    sizes: int | tuple[int, ...] = setting(1, "Sizes.")
    names: tuple[str, ...] = setting(("a", "b"), "Names.")
    quick: bool = setting(False, "Be quick.")
    check: bool = setting(True, "Check.")
    more: dict | None = setting(None, "More.")


def option(key: str, **arguments: bool) -> SettingOption:
    return SettingOption.declared(Sample.declarations()[key], "Options", **arguments)


@pytest.mark.parametrize(
    ("key", "lead", "help"),
    [
        ("file", "--file=TEXT", "A file."),
        ("mode", "--mode=fast|exact", "A mode.  [default: fast]"),
        ("size", "--size=NUMBER", "A size.  [default: 3]"),
        ("sizes", "--sizes=NUMBER|LIST", "Sizes.  [default: 1]"),
        ("names", "--names=LIST", "Names.  [default: [a, b]]"),
        ("quick", "--quick", "Be quick."),
        ("check", "--check=True|False", "Check.  [default: True]"),
        ("more", "--more=MAPPING", "More."),
    ],
)
def test_the_help_follows_from_the_declaration(key: str, lead: str, help: str) -> None:
    one = option(key)
    assert one.help_row(one.default) == (lead, help)


def test_how_a_value_is_read_follows_from_the_declaration() -> None:
    assert option("file").reader == ValueReader(is_text=True, nullable=True)
    assert option("file", raw=True).reader == ValueReader(is_text=True, raw=True, nullable=True)
    assert option("mode").reader == ValueReader(is_text=True)
    assert option("mode", in_files=True).reader == ValueReader(is_text=True, nullable=True)
    assert option("names", raw=True).reader == ValueReader(is_text=True)
    assert not option("sizes").reader.is_text
    assert not option("size").reader.is_text


def test_values_are_completed() -> None:
    context = click.Context(click.Command("x"))

    def completed(one: SettingOption, text: str) -> list[tuple[str, str]]:
        return [(item.value, item.type) for item in one.shell_complete(context, text)]

    assert completed(option("mode"), "e") == [("exact", "plain")]
    assert completed(option("check"), "") == [("True", "plain"), ("False", "plain")]
    assert completed(option("file"), "a/b") == [("a/b", "file")]
    assert completed(option("size"), "") == []
    model = ModelOption("A model.")
    assert ("HeLLMPre-wo-CL", "plain") in completed(model, "HeLLMPre")
    assert completed(model, "Pop,GRC") == [("Pop,GRCN", "plain")]


def test_folders_and_files() -> None:
    name, directory = dataset_directory({})
    assert (name, str(directory)) == ("sample", "dataset/sample")
    name, directory = dataset_directory({"dataset": "2018", "data_path": "there"})
    assert (name, str(directory)) == ("2018", "there/2018")
    assert [str(path) for path in config_files({"config": "a.yaml, b.yaml"})] == [
        "a.yaml",
        "b.yaml",
    ]
    assert config_files({"config": None}) == config_files({}) == []
