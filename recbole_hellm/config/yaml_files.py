"""YAML settings: parsing of values and files, and this package's own files."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from typing import Any

import yaml

from recbole_hellm.errors import ConfigError

PROPERTIES = "recbole_hellm.properties"


class YamlLoader(yaml.SafeLoader):
    """YAML 1.1 that also reads ``1e-3`` as a number."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """Parse one YAML value; numbers such as ``1e-3`` are numbers."""
    return yaml.load(text, Loader=YamlLoader)  # noqa: S506 (a SafeLoader)


def parse_texts(text: str) -> Any:
    """Parse one YAML value with all scalars as texts."""
    return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 (creates only texts)


def as_yaml(value: Any) -> str:
    """A value as it is written on the command line and in settings files."""
    if value is None or isinstance(value, bool):
        return "~" if value is None else str(value)
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def with_lists(value: Any) -> Any:
    """A value with lists in place of tuples, as YAML has it and RecBole wants it."""
    if isinstance(value, (list, tuple)):
        return [with_lists(element) for element in value]
    if isinstance(value, dict):
        return {key: with_lists(element) for key, element in value.items()}
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, is not a mapping, or has a key that is not a text.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Settings file {path} cannot be read ({error.strerror}); check its name."
        ) from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(
            f"{path}{line} is not valid YAML; correct or remove that line."
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


def packaged(*parts: str) -> dict[str, Any]:
    """A YAML file of this package's properties; empty if it does not exist."""
    path = importlib.resources.files(PROPERTIES).joinpath(*parts)
    return read_yaml(Path(str(path))) if path.is_file() else {}
