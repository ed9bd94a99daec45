"""YAML settings: parsing of values and files, and this package's own files."""

from __future__ import annotations

import copy
import functools
import importlib.resources
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from recbole_hellm.errors import ConfigError
from recbole_hellm.storage.text_files import read_text

PROPERTIES = "recbole_hellm.properties"
LARGEST = 1 << 20
"""The most bytes of a settings file."""
MOST_LEVELS = 50
MOST_VALUES = 100_000


class _Checked(yaml.composer.Composer, yaml.constructor.BaseConstructor):
    """A loader's part that ends soon, and in a :class:`yaml.YAMLError`, whatever the text is.

    It refuses what is nested too deeply, anchors that expand to too much or contain themselves, and
    keys that are given twice, of which PyYAML takes the second.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MOST_LEVELS:
            raise ComposerError(None, None, "it is nested too deeply", self.peek_event().start_mark)  # type: ignore[attr-defined]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_document(self) -> Any:
        node = super().compose_document()
        _expanded_size(node, {})
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        first: dict[str, Any] = {}
        for key, _ in node.value:
            text = key.value if isinstance(key, yaml.ScalarNode) else ""
            if text in first and text != "<<":
                line = first[text].start_mark.line + 1
                problem = f"'{text}' is given a second time, after line {line}"
                raise ConstructorError(None, None, problem, key.start_mark)
            if text:
                first[text] = key
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # The 30th of February, for example, or a number with thousands of digits.
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problem = f"'{str(node.value)[:40]}' is no {node.tag.rpartition(':')[2]}"
            raise ConstructorError(None, None, problem, node.start_mark) from error


def _expanded_size(node: Any, known: dict[int, int | None]) -> int:
    """Number of values of a node where anchors are written out."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise ComposerError(None, None, "an anchor contains itself", node.start_mark)
        return size
    known[id(node)] = None
    parts = node.value if isinstance(node, yaml.CollectionNode) else ()
    nodes = (one for part in parts for one in (part if isinstance(part, tuple) else (part,)))
    size = 1 + sum(_expanded_size(one, known) for one in nodes)
    if size > MOST_VALUES:
        raise ComposerError(None, None, "its anchors expand to too much", node.start_mark)
    known[id(node)] = size
    return size


class YamlLoader(_Checked, yaml.SafeLoader):
    """YAML 1.1 that also reads ``1e-3`` as a number."""


class _TextLoader(_Checked, yaml.BaseLoader):
    """YAML with all scalars as texts."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """Parse one YAML value; numbers such as ``1e-3`` are numbers."""
    return copy.deepcopy(_parsed(text))


# A comparison reads RecBole's and this package's files once for each run and stage.
@functools.lru_cache(maxsize=128)
def _parsed(text: str) -> Any:
    return yaml.load(text, Loader=YamlLoader)  # noqa: S506 (a SafeLoader)


def parse_texts(text: str) -> Any:
    """Parse one YAML value with all scalars as texts."""
    return yaml.load(text, Loader=_TextLoader)  # noqa: S506 (creates only texts)


def as_yaml(value: Any) -> str:
    """A value as it is written on the command line and in settings files."""
    if value is None or isinstance(value, bool):
        return "~" if value is None else str(value)
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def with_lists(value: Any) -> Any:
    """A value as YAML has it: lists for tuples and arrays, texts for paths, plain numbers."""
    if isinstance(value, (list, tuple)):
        return [with_lists(element) for element in value]
    if isinstance(value, dict):
        return {key: with_lists(element) for key, element in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value  # of numpy, torch or pandas


def as_paths(files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Paths of one file or of several."""
    several = [files] if isinstance(files, (str, os.PathLike)) else files
    return [Path(file) for file in several]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML or not a mapping, or has a key that is not a text or
        is given twice.
    """
    text = read_text(path, ConfigError, "check its name", limit=LARGEST)
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}{_line(error, text)} is not valid YAML ({yaml_problem(error)}); correct or "
            "remove that line."
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `key: value` lines.")
    for key in content:
        if not isinstance(key, str):
            # YAML 1.1 reads on, off, yes and no as truth values.
            raise ConfigError(f"{path}: the key read as {key!r} is not a name; put it in quotes.")
    return content


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong with a text, in a few words."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    return str(problem or error).splitlines()[0].rstrip(".")


def _line(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f", line {mark.line + 1}"
    place = getattr(error, "position", None)  # of a character that YAML does not allow
    return "" if place is None else f", line {text.count(chr(10), 0, place) + 1}"


def packaged(*parts: str) -> dict[str, Any]:
    """A YAML file of this package's properties; empty if it does not exist."""
    path = importlib.resources.files(PROPERTIES).joinpath(*parts)
    return read_yaml(Path(str(path))) if path.is_file() else {}
