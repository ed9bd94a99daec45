"""Addresses of raw files, from a setting, the environment or the package's own list.

``properties/mirrors.yaml`` shows the format of such a list.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_hellm.config.yaml_files import packaged, read_yaml
from recbole_hellm.data.downloads.http import KnownFile
from recbole_hellm.errors import ConfigError

MIRRORS_VARIABLE = "HELLM_MIRRORS"
NONE = "none"
_FILE = "{file}"


class Mirrors:
    """Addresses by kind of file, and the known sizes and checksums of files.

    Parameters
    ----------
    source : str or sequence of str, optional
        A YAML file, addresses (in a str, separated by blanks), or ``none``. By default the value of
        the environment variable HELLM_MIRRORS or, without one, the package's own list.

    Raises
    ------
    ConfigError
        If an address has no ``{file}`` or is not http, or the file is no such list.
    """

    def __init__(self, source: str | Sequence[str] | None = None) -> None:
        source = source or os.environ.get(MIRRORS_VARIABLE) or []
        words = source.split() if isinstance(source, str) else list(source)
        self._everywhere: list[str] | None = None
        self._by_kind: dict[str, list[str]] = {}
        self._known: dict[str, Any] = {}
        if words == [NONE]:
            self._everywhere = []
        elif len(words) == 1 and words[0].endswith((".yaml", ".yml")):
            self._read(read_yaml(Path(words[0]).expanduser()), words[0])
        elif words:
            self._everywhere = _checked(words, "mirrors")
        else:
            self._read(packaged("mirrors.yaml"), "mirrors.yaml")

    @property
    def forbidden(self) -> bool:
        """Whether nothing may be downloaded."""
        return self._everywhere == []

    def urls(self, kind: str, file: str) -> list[str]:
        """Addresses of `file`, of a kind such as ``amazon2014``, in order of preference."""
        templates = self._by_kind.get(kind, []) if self._everywhere is None else self._everywhere
        return [template.replace(_FILE, file) for template in templates]

    def known(self, file: str) -> KnownFile:
        """The size and checksum of `file` in the list."""
        return KnownFile(**self._known.get(file, {}))

    def _read(self, content: dict[str, Any], name: str) -> None:
        self._known = content.pop("files", None) or {}
        for file, facts in self._known.items():
            if not isinstance(facts, dict) or not set(facts) <= {"bytes", "sha256"}:
                raise ConfigError(f"{name}: files.{file} must be {{bytes: NUMBER, sha256: TEXT}}.")
        for kind, templates in content.items():
            self._by_kind[kind] = _checked(templates, f"{name}: {kind}")


def _checked(templates: Any, where: str) -> list[str]:
    if not isinstance(templates, list):
        raise ConfigError(f"{where} must be a list of addresses with {_FILE} in each.")
    addresses = [str(template) for template in templates]
    for address in addresses:
        if not address.startswith(("http://", "https://")) or _FILE not in address:
            raise ConfigError(
                f"{where}: '{address}' must be an http or https address with {_FILE} for the name."
            )
    return addresses
