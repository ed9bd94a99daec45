"""Typed settings: each setting is declared once, in a field of a settings class.

A field declares the setting's type, default, range, one-line help and further facts
(:class:`Facts`), such as whether it identifies a run, whether stages get it, and whether
TensorBoard shows it. Keys, help texts, run ids and the parsing of command-line values are derived
from these declarations.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from recbole_hellm.errors import ConfigError

S = TypeVar("S", bound="Settings")


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about a setting besides its type and default.

    Attributes
    ----------
    identifies : bool
        It can change a run's result, so it is part of the run's id.
    hash_neutral : bool
        It was added after runs had been recorded: at its default, a run keeps the id it had.
    passed_on : bool
        A stage gets the value of the model that builds on it.
    shown : bool
        TensorBoard's HPARAMS view shows it. Settings of models and of training are always shown.
    restored : bool
        A restored run gets the value it was trained with.
    recbole_default : bool
        RecBole's files set its default.
    group : str
        Heading under which ``--help`` shows this setting and those declared after it.
    """

    identifies: bool = True
    hash_neutral: bool = False
    passed_on: bool = False
    shown: bool = False
    restored: bool = True
    recbole_default: bool = False
    group: str = ""


def setting(default: Any, help: str, *, facts: Facts | None = None, **options: Any) -> Any:
    """Declare a field of a settings class.

    Parameters
    ----------
    default : object
    help : str
        One sentence; shown by ``--help``.
    facts : Facts, optional
        Alternatively, pass its attributes as keywords.
    **options
        Attributes of :class:`Facts`, and limits that pydantic checks: ``ge``, ``gt``, ``le``,
        ``lt``.
    """
    names = {field.name for field in dataclasses.fields(Facts)}
    chosen = {key: options.pop(key) for key in names & options.keys()}
    extra: dict[str, Any] = {"facts": dataclasses.replace(facts or Facts(), **chosen)}
    return Field(default, description=help, json_schema_extra=extra, **options)


@dataclasses.dataclass(frozen=True)
class Declaration:
    """One declared setting.

    Attributes
    ----------
    key : str
    default : object
    help : str
    choices : tuple of str
        The allowed values of a choice; empty otherwise.
    kinds : tuple of {"text", "texts", "number", "flag", "list", "mapping"}
        The kinds of values that are allowed.
    facts : Facts
    """

    key: str
    default: Any
    help: str
    choices: tuple[str, ...]
    kinds: tuple[str, ...]
    facts: Facts

    @property
    def is_text(self) -> bool:
        """Whether a plain value on the command line is always read as a text."""
        return "text" in self.kinds and not {"number", "flag"} & {*self.kinds}


class Settings(BaseModel):
    """Base class of all typed settings.

    Raises
    ------
    ConfigError
        If a value has the wrong type, lies outside its range or contradicts another one.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_sentence(type(self), error)) from None

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: Any) -> Any:
        for key, value in values.items():
            if isinstance(value, str) and "\0" in value:  # no name of a file can hold it
                raise ConfigError(f"{key}={value!r} holds a null character; remove it.")
        return {key: _as_tuple(value) for key, value in values.items()}

    @model_validator(mode="after")
    def _check_relations(self: S) -> S:
        self.validate_relations()
        return self

    def validate_relations(self) -> None:
        """Check relations between fields; subclasses raise :class:`ConfigError`."""

    @classmethod
    def keys(cls) -> list[str]:
        """Names of the configuration keys this class reads."""
        return list(cls.model_fields)

    @classmethod
    def own_keys(cls) -> list[str]:
        """Keys that this class declares itself rather than inherits."""
        return [key for key in cls.model_fields if key in cls.__annotations__]

    @classmethod
    def declarations(cls) -> dict[str, Declaration]:
        """The declaration of each key."""
        return _declarations(cls)

    @classmethod
    def from_config(cls: type[S], config: Mapping[str, Any]) -> S:
        """Build the settings from any mapping, ignoring keys that are not fields.

        Parameters
        ----------
        config : Mapping
            Anything with ``in`` and ``[]``, such as a RecBole ``Config``.

        Raises
        ------
        ConfigError
            If a value is not allowed.
        """
        return cls(**{key: config[key] for key in cls.keys() if key in config})  # noqa: SIM118

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for records and hashes."""
        return self.model_dump()

    def replace(self: S, **changes: Any) -> S:
        """A checked copy with other values."""
        return type(self)(**self.to_dict() | changes)

    def untouched_additions(self) -> set[str]:
        """Keys with :attr:`Facts.hash_neutral` that hold their default."""
        return {
            key
            for key, declared in self.declarations().items()
            if declared.facts.hash_neutral and getattr(self, key) == declared.default
        }

    def recorded(self) -> dict[str, Any]:
        """Values that ids and records hold in place of these, as they did in earlier versions."""
        return {}

    @classmethod
    def given(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a record as they are given; undoes :meth:`recorded`."""
        return dict(recorded)


def require(condition: bool, message: str) -> None:
    """Raise :class:`ConfigError` with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def require_file_name(key: str, path: str) -> None:
    """Raise :class:`ConfigError` if `path`, the value of `key`, is a folder."""
    require(not Path(path).is_dir(), f"{key}={path} is a folder; name a file in it or elsewhere.")


def names(value: Any) -> tuple[str, ...]:
    """Names from a list or from a comma-separated text; empty for None."""
    parts = value if isinstance(value, list | tuple) else str(value or "").split(",")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


@functools.cache
def _declarations(cls: type[Settings]) -> dict[str, Declaration]:
    return {key: _declaration(key, field) for key, field in cls.model_fields.items()}


def _declaration(key: str, field: FieldInfo) -> Declaration:
    extra = field.json_schema_extra
    facts = extra["facts"] if isinstance(extra, dict) and "facts" in extra else Facts()
    kinds, choices = _kinds(field.annotation)
    help = field.description or ""
    return Declaration(key, field.get_default(), help, choices, kinds, typing.cast(Facts, facts))


def _kinds(hint: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The kinds of values of a type, and the allowed values of a choice."""
    choices: list[str] = []
    kinds: list[str] = []
    for option in _options(hint):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is Literal:
            choices += map(str, arguments)
            kinds.append("text")
        elif origin in (tuple, list):
            of_elements, element_choices = _kinds(arguments[0])
            choices += element_choices
            kinds.append("texts" if "text" in of_elements else "list")
        else:
            kinds.append(_KINDS.get(option, "mapping"))
    return tuple(dict.fromkeys(kinds)), tuple(choices)


_KINDS: dict[Any, str] = {str: "text", int: "number", float: "number", bool: "flag"}
_EXPECTED = {
    "text": "a text",
    "texts": "a list of texts",
    "number": "a number",
    "flag": "True or False",
    "list": "a list",
    "mapping": "a mapping such as {key: value}",
}


def _options(hint: Any) -> list[Any]:
    """The members of a union except None; the hint itself otherwise."""
    if typing.get_origin(hint) is Literal or not typing.get_args(hint):
        return [hint]
    if typing.get_origin(hint) in (tuple, list, dict):
        return [hint]
    return [
        option
        for argument in typing.get_args(hint)
        if argument is not type(None)
        for option in _options(argument)
    ]


def _sentence(cls: type[Settings], error: ValidationError) -> str:
    """The first of pydantic's errors as one sentence that names the key and the way out."""
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0])
    kind, limits = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{cls.__name__} has no setting '{key}'; use one of {', '.join(cls.keys())}."
    declared = cls.declarations()[key]
    value = first["input"]
    lead = f"{key}={list(value) if isinstance(value, tuple) else value!r}"
    if kind in _LIMITS:
        return f"{lead} must {_LIMITS[kind](next(iter(limits.values())))}."
    if kind == "finite_number":
        return f"{lead} must be a finite number."
    if declared.choices and not isinstance(value, (list, tuple)) and kind == "literal_error":
        return f"{lead} is not allowed; use one of {', '.join(declared.choices)}."
    if kind == "tuple_type" and declared.kinds in (("texts",), ("list",)):
        return f"{lead} must be a list, for example --{key}='[a, b]'."
    hint = cls.model_fields[key].annotation
    if len(first["loc"]) > 1 and isinstance(first["loc"][1], int):  # an element of a list
        hint = typing.get_args(next(o for o in _options(hint) if typing.get_args(o)))[0]
        lead = f"{key} holds {value!r}, which"
    is_integer = int in _options(hint)
    expected = [
        "a whole number" if kind == "number" and is_integer else _EXPECTED[kind]
        for kind in _kinds(hint)[0]
    ]
    return f"{lead} must be {' or '.join(expected)}."


_LIMITS: dict[str, Any] = {
    "greater_than_equal": lambda least: (
        "not be negative" if least == 0 else f"be at least {least:g}"
    ),
    "greater_than": lambda least: "be positive" if least == 0 else f"be above {least:g}",
    "less_than_equal": lambda most: f"be at most {most:g}",
    "less_than": lambda most: f"be below {most:g}",
}
