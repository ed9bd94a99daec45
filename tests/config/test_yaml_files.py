from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_hellm.config import yaml_files
from recbole_hellm.config.yaml_files import packaged, parse_yaml, read_yaml
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
