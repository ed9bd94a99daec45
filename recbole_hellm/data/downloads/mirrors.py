"""Addresses of raw files that replace those of the dataset families."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.data.downloads.http import KnownFile
from recbole_hellm.errors import ConfigError

MIRRORS_VARIABLE = "HELLM_MIRRORS"
NONE = "none"
_FILE = "{file}"


class Mirrors:
    """Where raw files come from, if not from the addresses of their dataset families.

    A list of mirrors in a YAML file has a list of addresses for each family, or for one of its
    files, with ``{file}`` for the file's name, and what is known of single files::

        amazon2014: ["https://example.org/2014/{file}"]
        amazon2018-reviews: ["https://example.org/2018/{file}"]
        files:
          reviews_Beauty_5.json.gz: {bytes: 123456, sha256: "..."}

    Files that the list does not mention have no address then.

    Parameters
    ----------
    source : str or sequence of str, optional
        A YAML file, addresses for all files (in a str, separated by blanks), or ``none``, which
        forbids downloads; by default the value of the environment variable HELLM_MIRRORS. Where
        that is not set either, the families' own addresses count.

    Raises
    ------
    ConfigError
        If an address has no ``{file}`` or is not http, or the file is not such a list.
    """

    def __init__(self, source: str | Sequence[str] | None = None) -> None:
        source = source or os.environ.get(MIRRORS_VARIABLE)
        words = source.split() if isinstance(source, str) else list(source or [])
        self._for_all: list[str] | None = None
        self._by_key: dict[str, list[str]] | None = None
        self._known: dict[str, KnownFile] = {}
        if words == [NONE]:
            self._for_all = []
        elif len(words) == 1 and words[0].endswith((".yaml", ".yml")):
            self._read(read_yaml(Path(words[0]).expanduser()), words[0])
        elif words:
            self._for_all = _checked(words, "mirrors")

    @property
    def forbidden(self) -> bool:
        """Whether nothing may be downloaded."""
        return self._for_all == []

    def urls(self, file: str, keys: Sequence[str], addresses: Sequence[str]) -> list[str]:
        """Addresses of a file, the preferred first.

        Parameters
        ----------
        file : str
            Its name.
        keys : sequence of str
            Under which a list of mirrors may have it; the first that is there counts.
        addresses : sequence of str
            What its family knows, with ``{file}`` for its name.
        """
        if self._for_all is not None:
            templates: Sequence[str] = self._for_all
        elif self._by_key is not None:
            by_key: Mapping[str, list[str]] = self._by_key
            templates = next((by_key[key] for key in keys if by_key.get(key)), [])
        else:
            templates = addresses
        return [template.replace(_FILE, file) for template in templates]

    def known(self, file: str, known: KnownFile | None = None) -> KnownFile:
        """Size and checksum of `file`: what the list of mirrors says, else `known`."""
        return self._known.get(file, known or KnownFile())

    def _read(self, content: dict[str, Any], name: str) -> None:
        for file, facts in (content.pop("files", None) or {}).items():
            if not isinstance(facts, dict) or not set(facts) <= {"bytes", "sha256"}:
                raise ConfigError(f"{name}: files.{file} must be {{bytes: NUMBER, sha256: TEXT}}.")
            self._known[file] = KnownFile(**facts)
        self._by_key = {
            key: _checked(templates, f"{name}: {key}") for key, templates in content.items()
        }


def _checked(templates: Any, where: str) -> list[str]:
    if not isinstance(templates, list):
        raise ConfigError(f"{where} must be a list of addresses with {_FILE} in each.")
    for template in templates:
        text = str(template)
        if not text.startswith(("http://", "https://")) or _FILE not in text:
            raise ConfigError(
                f"{where}: '{text}' must be an http or https address with {_FILE} for the name."
            )
    return [str(template) for template in templates]
