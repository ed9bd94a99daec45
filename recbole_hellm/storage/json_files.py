"""JSON files with a schema: whatever is wrong with one ends in a sentence that names it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pydantic

from recbole_hellm.errors import HellmError
from recbole_hellm.storage.text_files import SMALL, read_text


@functools.cache
def _adapter(schema: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(schema)


def parse_json(text: str, path: Path, error: type[HellmError], way_out: str) -> Any:
    """Parse a JSON text.

    Parameters
    ----------
    text : str
    path : Path
        Where it comes from.
    error, way_out : type, str
        What is raised, and the end of its sentence.

    Raises
    ------
    HellmError
        If it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except ValueError as cause:
        raise error(f"{path} is no JSON ({cause}); {way_out}.") from cause
    except RecursionError as cause:
        raise error(f"{path} is nested too deeply; {way_out}.") from cause


def fit(content: Any, schema: Any, path: Path, error: type[HellmError], way_out: str) -> Any:
    """Check content against a schema.

    Parameters
    ----------
    content : Any
        As JSON has it.
    schema : type
        Anything pydantic knows of JSON's types: ``dict[str, float]``, a ``TypedDict`` (of
        ``typing_extensions``), which allows further keys if it has
        ``__pydantic_config__ = pydantic.ConfigDict(extra="allow")``.
    path, error, way_out
        See :func:`parse_json`.

    Returns
    -------
    Any
        The content itself: where a float is wanted, a whole number stays one.

    Raises
    ------
    HellmError
        If a key is missing or has another type, with its name.
    """
    try:
        _adapter(schema).validate_python(content, strict=True)
    except pydantic.ValidationError as cause:
        first = cause.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "its content"
        raise error(f"{path}: {key} is wrong ({first['msg']}); {way_out}.") from cause
    except RecursionError as cause:
        raise error(f"{path} is nested too deeply; {way_out}.") from cause
    return content


def read_json(
    path: Path, schema: Any, error: type[HellmError], way_out: str, limit: int = SMALL
) -> Any:
    """Read a JSON file that fits a schema.

    Parameters
    ----------
    path : Path
    schema, error, way_out
        See :func:`fit`.
    limit : int
        The most bytes that are read.

    Raises
    ------
    HellmError
        If the file cannot be read, is no JSON, or does not fit.
    """
    content = parse_json(read_text(path, error, way_out, limit=limit), path, error, way_out)
    return fit(content, schema, path, error, way_out)
