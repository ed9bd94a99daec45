"""How the words of a command line become keys and values.

click's parser must know beforehand which options take a value. Any key of RecBole's or of a model
may be set here, so all words are read in one way: ``--key=value``, ``--key value`` and ``--flag``.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from recbole_hellm.config.yaml_files import parse_texts, parse_yaml, yaml_problem
from recbole_hellm.errors import ConfigError

_NULLS = ("", "~", "null")
_SHOWN = 60  # characters of a value in a message


def split_arguments(words: Iterable[str]) -> Iterator[tuple[str | None, str | None]]:
    """Keys and texts of ``--key=text`` and ``--key text``.

    The text is None where only a key is given; the key is None for a word that is no option.
    """
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            yield None, word
            continue
        key, equals, text = word.lstrip("-").partition("=")
        if equals:
            yield key, text
        else:
            yield key, rest.pop(0) if rest and not rest[0].startswith("--") else None


@dataclasses.dataclass(frozen=True)
class ValueReader:
    """Reads the value of one setting.

    Attributes
    ----------
    is_text : bool
        A plain value is a text whatever it looks like. The values of other settings are YAML.
    raw : bool
        For a text: take it as it is, even if it is null, in quotes or in brackets.
    nullable : bool
        For a text that is not raw: an empty value or null means None.
    """

    is_text: bool = False
    raw: bool = False
    nullable: bool = False

    def read(self, key: str, text: str | None) -> Any:
        """The value that `text` stands for; None as text means that only the key was given.

        Raises
        ------
        ConfigError
            If a text is missing, or the value is not YAML.
        """
        if text is None:
            if self.is_text:
                raise ConfigError(f"Option --{key} needs a value; write --{key}=VALUE.")
            return True
        if self.is_text and self.raw:
            return text
        try:
            if not self.is_text:
                return parse_yaml(text)
            if text.startswith(("[", '"', "'")):
                return parse_texts(text)
        except yaml.YAMLError as error:
            plain = len(text) <= _SHOWN and not set(text) & set("'\"\\")
            example = f", for example --{key}='\"{text}\"'" if plain else ""
            raise ConfigError(
                f"--{key}={textwrap.shorten(repr(text), _SHOWN)} is not a YAML value "
                f"({yaml_problem(error)}); put quotes inside to make it a text{example}."
            ) from error
        return None if self.nullable and text.lower() in _NULLS else text


YAML = ValueReader()
TEXT = ValueReader(is_text=True)
