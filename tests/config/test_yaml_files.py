from __future__ import annotations

import importlib.resources
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_hellm.config import yaml_files
from recbole_hellm.config.yaml_files import packaged, parse_texts, parse_yaml, read_yaml
from recbole_hellm.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5e2", 50.0),
        ("-2e+1", -20.0),
        ("0.5", 0.5),
        ("7", 7),
        ("[10, 20]", [10, 20]),
        ("true", True),
        ("~", None),
        ("", None),
        ("tiny", "tiny"),
        ("{max_norm: 1e0}", {"max_norm": 1.0}),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ('"[5,inf)"', "[5,inf)"),
    ],
)
def test_values_are_yaml_and_never_evaluated(text: str, value: Any) -> None:
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_what_was_parsed_can_be_changed_without_harm() -> None:
    text = "a: [1, {b: 2}]"
    parse_yaml(text)["a"][1]["b"] = 3
    assert parse_yaml(text) == {"a": [1, {"b": 2}]}


def test_yaml_never_makes_objects_and_pyyaml_is_left_alone() -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml("!!python/object/apply:os.getcwd []")
    assert yaml.safe_load("1e-3") == "1e-3"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: 1\n  b: [\n", r"f.yaml, line 2 is not valid YAML"),
        ("- 1\n", "must hold `key: value` lines"),
        (None, r"f.yaml cannot be read \(No such file"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "f.yaml").write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        read_yaml(tmp_path / "f.yaml")


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 30))
ODD = {
    "python tag": ("a: 1\nb: !!python/object/apply:os.getcwd []\n", 2),
    "unknown tag": ("a: !mine 1\n", 1),
    "key twice": ("a: 1\nb: 2\na: 3\n", 3),
    "key twice inside": ("a:\n  b: 2\n  b: 3\n", 3),
    "key twice in other words": ("a: 1\n'a': 2\n", 2),
    "tab": ("a:\n\t- 1\n", 2),
    "control character": ("a: 1\nb: \x1b[31m\n", 2),
    "null character": ("a: 1\n\0\n", 2),
    "date": ("a: 1\nb: 2021-02-30\n", 2),
    "digits": (f"a: {'1' * 5000}\n", 1),
    "no number": ("a: !!int many\n", 1),
    "no truth value": ("a: !!bool many\n", 1),
    "no time": ("a: !!timestamp many\n", 1),
    "list as key": ("a: 1\n? [b]\n: 1\n", 2),
    "two documents": ("a: 1\n---\nb: 2\n", 2),
    "no anchor": ("a: *b\n", 1),
    "anchor in itself": ("a: &a [1, *a]\n", 1),
    "anchor in itself as a mapping": ("a: &a {b: *a}\n", 1),
    "laughs": (LAUGHS, 6),
    "deep": ("a: " + "[" * 100_000, 1),
    "deep mapping": ("a: " + "{b: " * 5_000, 1),
    "deep block": ("\n".join(" " * n + "a:" for n in range(200)) + " 1\n", None),
    "merge of a text": ("a:\n  <<: b\n", 2),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_texts_end_soon_in_one_sentence(tmp_path: Path, name: str) -> None:
    content, line = ODD[name]
    path = tmp_path / "f.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}, line {'' if line is None else line}")
    assert sentence.endswith("; correct or remove that line.")
    assert "\n" not in sentence
    assert len(sentence) < len(str(path)) + 200


def test_anchors_of_a_sensible_size_and_merged_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, *a]\n")
    first = {"x": 1, "y": 2}
    assert read_yaml(path) == {"a": first, "b": {"x": 3, "y": 2}, "c": [first, first]}


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: ü\r\n".encode())
    assert read_yaml(path) == {"a": 1, "b": "ü"}


def test_other_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes("a: ü\n".encode("cp1252"))
    with pytest.raises(ConfigError, match=r"f\.yaml is not encoded in utf-8"):
        read_yaml(path)
    path.write_bytes(b"# " + b"x" * yaml_files.LARGEST)
    with pytest.raises(ConfigError, match=r"f\.yaml is larger than 1 MiB"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="is no regular file"):
        read_yaml(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is no regular file"):
        read_yaml(tmp_path / "pipe")


def test_texts_of_the_command_line_are_read_with_the_same_care() -> None:
    for parse in (parse_yaml, parse_texts):
        for text in ("[" * 10_000, "&a [*a]", "{a: 1, a: 2}"):
            with pytest.raises(yaml.YAMLError):
                parse(text)


def test_files_of_recbole_can_be_read() -> None:
    folder = Path(str(importlib.resources.files("recbole"))) / "properties"
    files = list(folder.rglob("*.yaml"))
    assert len(files) > 90
    for path in files:
        read_yaml(path)


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "f.yaml") == {}
    assert packaged("model", "NoSuchModel.yaml") == {}


@pytest.mark.parametrize("key", ["5", "on", "1.5", "~"])
def test_keys_are_texts(tmp_path: Path, key: str) -> None:
    (tmp_path / "s.yaml").write_text(f"epochs: 1\n{key}: 2\n")
    with pytest.raises(ConfigError, match="is not a name; put it in quotes"):
        read_yaml(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_text(f"'{key}': 2\n")
    assert read_yaml(tmp_path / "s.yaml") == {key: 2}


def test_a_checkout_reads_its_own_files() -> None:
    """Two checkouts on one machine never read each other's settings files."""
    properties = Path(str(importlib.resources.files("recbole_hellm.properties"))).resolve()
    assert properties == Path(yaml_files.__file__).resolve().parents[1] / "properties"
    assert packaged("model", "HeLLM.yaml")["scheduler"] == "cosine"
