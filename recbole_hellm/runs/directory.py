"""Run directories: everything a run leaves behind, written so that a kill never corrupts it."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from typing_extensions import NotRequired, TypedDict

from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.errors import BusyError, ConfigError, RunError, reason
from recbole_hellm.storage import checkpoint_files, files, json_files, locks
from recbole_hellm.storage.files import atomic_path, remove_leftovers
from recbole_hellm.storage.sealed_folders import RECORD, SealedFolder
from recbole_hellm.storage.tables import read_parquet

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
LOG = "run.log"
ARTEFACTS = "model"  # folder of a fine-tuned run's model in its directory


class ImportedFile(TypedDict):
    """A file that took the place of a stage."""

    file: str
    sha256: str


class RunRecord(TypedDict):
    """What a finished run came to: ``metrics.json`` without its checksums."""

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
    epochs: int
    valid: dict[str, dict[str, float]]
    test: dict[str, dict[str, float]]
    cost: dict[str, float | None]
    stages: dict[str, str]
    imported: NotRequired[dict[str, ImportedFile]]
    protocol: NotRequired[dict[str, Any]]
    held_out: NotRequired[dict[str, Any]]


class Identity(TypedDict):
    """``identity.json``: all that determines a run's result."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    settings: dict[str, Any]
    content: str
    split: str
    candidates: str
    features: str | None
    stages: dict[str, dict[str, Any]]
    version: str
    columns: NotRequired[str]
    backbone: NotRequired[str]


class _Embeddings(TypedDict):
    split: str
    tokens: dict[str, list[str]]


class RunDirectory(SealedFolder):
    """One run's files: ``<runs>/<dataset>/<model>/<id>/``.

    Parameters
    ----------
    path : Path
        The directory; made on first write.
    """

    error = RunError

    @property
    def finished(self) -> bool:
        """Whether the run wrote its metrics, which it does last."""
        return self.has_record

    @property
    def last_checkpoint(self) -> Path:
        """Full training state after the last finished epoch."""
        return self.file("last.pt")

    @property
    def best_checkpoint(self) -> Path:
        """Model weights of the epoch that validation chose."""
        return self.file("best.pt")

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold a lock beside the directory, so that no other process trains this run.

        Parameters
        ----------
        wait : bool
            Wait until no other process trains it.

        Raises
        ------
        BusyError
            If another process trains it, unless that is waited for.
        """
        with files.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.parent / f".{self.path.name}.lock"
        busy = BusyError(
            f"{self.path} is being trained by another process; wait until that has finished, "
            "or end it."
        )

        def tell() -> None:
            logger.info("Waiting for another process, which trains %s.", self.path)

        with locks.locked(lock, busy, timeout=-1 if wait else 0, on_wait=tell):
            remove_leftovers(self.path)
            self._remove_cleared()
            yield

    def tidy(self) -> None:
        """Remove what a killed process left of a run, unless another one is at work on it."""
        with contextlib.suppress(BusyError), self.locked():
            pass

    def clear(self) -> None:
        """Remove what an earlier run left, so that nothing old is mistaken for new.

        The folder goes at once, however many files it holds and whenever the process is killed.
        """
        with files.writing(self.path):
            self._remove_cleared()
            if self.path.is_dir():
                self.path.rename(self._cleared)
                self._remove_cleared()

    @property
    def _cleared(self) -> Path:
        return self.path.with_name(f".{self.path.name}.old")

    def _remove_cleared(self) -> None:
        if self._cleared.exists():
            shutil.rmtree(self._cleared)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file atomically."""
        self.write_text(name, json.dumps(content, indent=2, default=str) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file atomically."""
        files.write_bytes(self.file(name), content)

    def write_yaml(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a YAML file atomically."""
        self.write_text(name, yaml.safe_dump(dict(content), sort_keys=True, allow_unicode=True))

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file, whose content is as it was written.

        Raises
        ------
        RunError
            If it is missing or damaged.
        """
        if name == RECORD:
            return self.read_record()
        path = self.verified(name)
        content: dict[str, Any] = json_files.read_json(path, dict[str, Any], RunError, self.way_out)
        return content

    def record(self) -> RunRecord:
        """What the finished run came to.

        Raises
        ------
        RunError
            If it is not finished, or ``metrics.json`` is damaged.
        """
        path = self.file(RECORD)
        record: RunRecord = json_files.fit(
            self.read_record(), RunRecord, path, RunError, self.way_out
        )
        for phase in (record["valid"], record["test"]):
            if record["masking"] not in phase:
                raise RunError(
                    f"{path} has no metrics under its masking {record['masking']!r}; "
                    f"{self.way_out}."
                )
        return record

    def identity(self) -> Identity:
        """What determines the run's result.

        Raises
        ------
        RunError
            If ``identity.json`` is missing or damaged.
        """
        path = self.verified("identity.json")
        found: Identity = json_files.read_json(path, Identity, RunError, self.way_out)
        return found

    def settings(self) -> dict[str, Any]:
        """The settings in ``config.yaml``.

        Raises
        ------
        RunError
            If it is missing or damaged.
        """
        path = self.verified(CONFIG)
        try:
            return read_yaml(path)
        except ConfigError as error:
            problem = str(error).partition(";")[0].rstrip(".")
            raise RunError(f"{problem}; {self.way_out}.") from error

    @property
    def way_out(self) -> str:
        """How to get whole files again."""
        return (
            f"train the run again with --force, or as a stage with --{self.path.parent.name}"
            ".force=True"
        )

    def write_table(
        self, name: str, frame: pd.DataFrame, compression: Literal["snappy", "zstd"] = "snappy"
    ) -> None:
        """Write a Parquet table atomically."""
        with atomic_path(self.file(name)) as temporary:
            frame.to_parquet(temporary, index=False, compression=compression)

    def read_table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Read a Parquet table.

        Raises
        ------
        RunError
            If it is missing or damaged, or has not these columns.
        """
        return read_parquet(self.verified(name), columns, RunError, self.way_out)

    def save_checkpoint(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically; it holds tensors, plain values and a checksum only."""
        checkpoint_files.save(path, state, self._subject(path))

    def check_checkpoint(self, path: Path) -> None:
        """Check that a checkpoint of this run is as it was written.

        Raises
        ------
        RunError
            If it is missing, damaged or another run's.
        """
        checkpoint_files.check(path, self._subject(path), RunError, self.way_out)

    def load_checkpoint(
        self, path: Path, device: torch.device | str = "cpu", check: bool = True
    ) -> dict[str, Any]:
        """Load a checkpoint with ``weights_only=True``.

        Parameters
        ----------
        path : Path
        device : torch.device or str
        check : bool
            Whether to check that it is this run's, as :meth:`check_checkpoint` does.

        Raises
        ------
        RunError
            If it is missing or damaged.
        """
        if check:
            self.check_checkpoint(path)
        return checkpoint_files.load(path, device, RunError, self.way_out)

    def _subject(self, path: Path) -> str:
        return f"{self.path.name}/{path.name}"

    def write_embeddings(
        self, tables: Mapping[str, torch.Tensor], tokens: Mapping[str, np.ndarray], split: str
    ) -> None:
        """Save embedding tables with the tokens of their rows.

        Parameters
        ----------
        tables : mapping of str to Tensor
            ``user`` and/or ``item``, shape [rows, d]; row i belongs to ``tokens[name][i]``.
        tokens : mapping of str to array of str
        split : str
            Fingerprint of the split that they were trained on.
        """
        with atomic_path(self.file("embeddings.safetensors")) as temporary:
            save_file({name: table.contiguous().cpu() for name, table in tables.items()}, temporary)
        listed = {name: [str(token) for token in tokens[name]] for name in tables}
        self.write_json("embeddings.json", {"split": split, "tokens": listed})

    def read_embeddings(self, name: str, tokens: np.ndarray, split: str) -> torch.Tensor:
        """One table with rows in the order of `tokens`.

        Raises
        ------
        RunError
            If the table is missing or damaged, was trained on another split, or lacks a token.
        """
        if not self.holds("embeddings.json"):
            raise RunError(f"{self.path} holds no embeddings; its model has none to hand on.")
        json_path, path = map(self.verified, ("embeddings.json", "embeddings.safetensors"))
        described: _Embeddings = json_files.read_json(
            json_path, _Embeddings, RunError, self.way_out
        )
        if described["split"] != split:
            raise RunError(
                f"{self.path} was trained on another split (fingerprint {described['split'][:12]} "
                f"instead of {split[:12]}); run that stage again on this dataset."
            )
        if name not in described["tokens"]:
            raise RunError(f"{self.path} holds no {name} embeddings; its model has none.")
        try:
            table = load_file(path)[name]
        except (OSError, SafetensorError, KeyError) as error:
            raise RunError(f"{path} is damaged ({reason(error)}); {self.way_out}.") from error
        rows = {token: row for row, token in enumerate(described["tokens"][name])}
        if table.ndim != 2 or len(table) != len(described["tokens"][name]):
            raise RunError(f"{path} does not fit {json_path.name} beside it; {self.way_out}.")
        missing = [str(token) for token in tokens if str(token) not in rows]
        if missing:
            raise RunError(f"{self.path} has no embedding of {name} '{missing[0]}'.")
        return table[[rows[str(token)] for token in tokens]]


class SilentDirectory(RunDirectory):
    """A run's files for a process that reads them, but leaves writing to another process."""

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Do nothing: the process that writes holds the lock."""
        yield

    def clear(self) -> None:
        """Do nothing."""

    def write_table(
        self, name: str, frame: pd.DataFrame, compression: Literal["snappy", "zstd"] = "snappy"
    ) -> None:
        """Do nothing."""

    def save_checkpoint(self, path: Path, state: Mapping[str, Any]) -> None:
        """Do nothing."""

    def write_embeddings(
        self, tables: Mapping[str, torch.Tensor], tokens: Mapping[str, np.ndarray], split: str
    ) -> None:
        """Do nothing."""

    def write_bytes(self, name: str, content: bytes) -> None:
        """Do nothing."""

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""
