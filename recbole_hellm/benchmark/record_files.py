"""Files of a record: what they hold, and whether they are as they were written."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import pandas as pd
import pydantic
from typing_extensions import TypedDict

from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.runs.identity import recipe_of
from recbole_hellm.storage.checksums import FILES, check_file, check_seal, content_hash
from recbole_hellm.storage.json_files import fit, read_json
from recbole_hellm.storage.parquet_files import read_parquet
from recbole_hellm.storage.text_files import read_text

logger = logging.getLogger(__name__)

METRICS, IDENTITY, CONFIG = "metrics.json", "identity.json", "config.yaml"
ENVIRONMENT, LISTS = "environment.json", "lists.json"
RANKS, SLICES, VALUES = "ranks.parquet", "slices.csv", "values.parquet"

_SLICE_COLUMNS = {"grouping", "group", "users", "metric", "value", "masking"}


class _Open:
    """Further keys are kept."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")


Measures = dict[str, int | float]


class Metrics(TypedDict):
    """Content of ``metrics.json``."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    model: str
    dataset: str
    masking: str
    split: str
    candidates: str
    users: int
    items: int
    seed: int
    best_epoch: int
    valid: dict[str, Measures]
    test: dict[str, Measures]
    cost: dict[str, int | float | None]
    stages: dict[str, str]
    recipe: str
    features: NotRequired[dict[str, str] | None]
    cost_with_stages: NotRequired[Measures]
    files: NotRequired[dict[str, str]]
    checksum: NotRequired[str]


class Environment(TypedDict):
    """Content of ``environment.json``."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    gpu: NotRequired[str | None]
