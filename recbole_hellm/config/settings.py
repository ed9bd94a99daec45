"""Typed settings: the one way in which models and trainers read configuration.

A settings class is a frozen dataclass whose fields are configuration keys. Its defaults are the
values a bare construction gets; a YAML file or the command line overrides them by key. Types and
allowed values (``Literal``) are checked when the settings are built, before any data is read.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from recbole_hellm.errors import ConfigError

S = TypeVar("S", bound="Settings")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base class of all typed settings."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _coerce(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        self.validate()

    def validate(self) -> None:
        """Check relations between fields; subclasses raise :class:`ConfigError`."""

    @classmethod
    def keys(cls) -> list[str]:
        """Names of the configuration keys this class reads."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def from_config(cls: type[S], config: Mapping[str, Any]) -> S:
        """Build the settings from any mapping, ignoring keys that are not fields.

        Parameters
        ----------
        config : Mapping
            Anything with ``in`` and ``[]``, a RecBole ``Config`` included.

        Raises
        ------
        ConfigError
            If a value has the wrong type or is not among the allowed ones.
        """
        return cls(**{key: config[key] for key in cls.keys() if key in config})  # noqa: SIM118

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for records and hashes."""
        return dataclasses.asdict(self)

    def untouched_additions(self) -> set[str]:
        """Names of the fields made by :func:`added` that hold their default."""
        return {
            field.name
            for field in dataclasses.fields(self)
            if field.metadata.get("hash_neutral") and getattr(self, field.name) == field.default
        }


def hash_neutral(default: Any) -> Any:
    """A field that came after runs had been kept: at its default, a run keeps the id it had.

    Parameters
    ----------
    default : Any
        What the package did before there was this field.
    """
    return dataclasses.field(default=default, metadata={"hash_neutral": True})


def require(condition: bool, message: str) -> None:
    """Raise :class:`ConfigError` with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def require_file_name(key: str, path: str) -> None:
    """Raise :class:`ConfigError` if `path`, the value of `key`, is a folder."""
    require(not Path(path).is_dir(), f"{key}={path} is a folder; name a file in it or elsewhere.")


def names(value: Any) -> tuple[str, ...]:
    """Names of a list, or of a text in which commas divide them; none for None."""
    parts = value if isinstance(value, list | tuple) else str(value or "").split(",")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _coerce(key: str, value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        for option in options:
            try:
                return _coerce(key, value, option)
            except ConfigError:
                if option is options[-1]:
                    raise
    if origin is Literal:
        require(
            value in arguments and any(type(value) is type(option) for option in arguments),
            f"{key}={value!r} is not allowed; use one of {', '.join(map(str, arguments))}.",
        )
        return value
    if origin in (tuple, list):
        require(
            isinstance(value, (list, tuple)),
            f"{key}={value!r} must be a list, for example --{key}='[a, b]'.",
        )
        return origin(_coerce(key, element, arguments[0]) for element in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type):
        fits = isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool))
        require(fits, f"{key}={value!r} must be of type {hint.__name__}.")
    return value
