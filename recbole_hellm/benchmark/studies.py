"""Storage of studies: a journal file that outlives kills and power failures, or a database.

A journal has a JSON object on each line. Its lines carry checksums, which Optuna passes over; lines
of earlier versions have none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic
from typing_extensions import NotRequired, TypedDict

from recbole_hellm.errors import ConfigError, RunError, install_extra, reason, without_passwords
from recbole_hellm.storage.checksums import CHECKSUM, check_seal, sealed
from recbole_hellm.storage.files import writing
from recbole_hellm.storage.json_files import fit, parse_json
from recbole_hellm.storage.locks import locked
from recbole_hellm.storage.text_files import open_regular

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds to wait for another process that writes into a journal."""
# Trials are runs, whose trainings a new study takes up.
WAY_OUT = "restore the file, or move it away and give the same command again"


class Log(TypedDict):
    """A line of a journal; what it needs beside these depends on the operation."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    op_code: Annotated[int, pydantic.Field(ge=0, le=10)]
    worker_id: str
    study_id: NotRequired[int]
    trial_id: NotRequired[int]
    study_name: NotRequired[str]
    directions: NotRequired[list[int]]
    state: NotRequired[int]
    value: NotRequired[float | None]
    values: NotRequired[list[float] | None]
    step: NotRequired[int]
    intermediate_value: NotRequired[float]
    param_name: NotRequired[str]
    param_value_internal: NotRequired[float]
    distribution: NotRequired[str]
    distributions: NotRequired[dict[str, str]]
    params: NotRequired[dict[str, float]]
    intermediate_values: NotRequired[dict[str, float]]
    user_attr: NotRequired[dict[str, Any]]
    system_attr: NotRequired[dict[str, Any]]
    user_attrs: NotRequired[dict[str, Any]]
    system_attrs: NotRequired[dict[str, Any]]
    datetime_start: NotRequired[str | None]
    datetime_complete: NotRequired[str]


class Journal:
    """A journal file, as a backend of Optuna's ``JournalStorage``.

    Optuna's own backend appends to a line that a killed process has cut, which makes the file
    unreadable, and waits for ever for the lock of a dead process.

    Parameters
    ----------
    path : Path
        The file; made if it does not exist.

    Raises
    ------
    RunError
        If a line is damaged. The end of a file that was cut, by a kill or by a power failure, is
        removed instead.
    StorageError
        If the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = [0]  # where each line that was read begins, and the next one
        with self._locked():
            if not path.exists():
                path.touch()
            self._remove_cut_end()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Lines from a number on; one that is being written is left out."""
        del self._starts[log_number_from + 1 :]
        try:
            with open_regular(self.path) as file:
                file.seek(self._starts[log_number_from])
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    log = self._parsed(line, len(self._starts))
                    self._starts.append(self._starts[-1] + len(line))
                    yield log
        except OSError as error:
            raise RunError(f"{self.path} cannot be read ({error.strerror}); {WAY_OUT}.") from error

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        """Add lines, and wait until the disk has them."""
        lines = [json.dumps(sealed(log), separators=(",", ":")) + "\n" for log in logs]
        with self._locked():
            # Another process may have been killed since.
            if not self._is_whole():
                self._remove_cut_end()
            with self.path.open("ab") as file:
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())

    @property
    def last_read(self) -> str:
        """The file and the number of the line that was read last."""
        return f"{self.path}, line {len(self._starts) - 1}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        busy = RunError(
            f"{self.path} has been in use by another process for {PATIENCE:.0f} seconds; end that "
            "process, and give the same command again."
        )
        # Not Optuna's name: where its lock is stale, that is a link to the journal.
        lock = self.path.with_name(f".{self.path.name}.lock")
        with writing(self.path), locked(lock, busy, PATIENCE):
            yield

    def _is_whole(self) -> bool:
        """Whether the last line has its end."""
        with open_regular(self.path) as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _remove_cut_end(self) -> None:
        """Remove what follows the last whole line; nothing whole may follow a damaged one."""
        sound = size = 0
        cut: tuple[int, RunError] | None = None
        first = b""
        with open_regular(self.path) as file:
            for number, line in enumerate(file, 1):
                first = first or line
                size += len(line)
                try:
                    if not line.endswith(b"\n"):
                        raise RunError(f"{self.path}, line {number}, has no end; {WAY_OUT}.")
                    self._parsed(line, number)
                except RunError as error:
                    cut = cut or (number, error)
                    continue
                if cut:
                    raise cut[1]
                sound = size
        if cut is None:
            return
        begun = first.startswith(b'{"op_code"'[: len(first)]) or not first.strip(b"\0")
        if not sound and not begun:
            raise ValueError("it is no journal of a study")
        logger.warning(
            "The end of %s was cut, by a kill or a power failure; line %d and what follows it "
            "(%d bytes) are removed.",
            *(self.path, cut[0], size - sound),
        )
        os.truncate(self.path, sound)

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        place = Path(f"{self.path}, line {number}")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise RunError(f"{place}, is not encoded in utf-8 ({error}); {WAY_OUT}.") from error
        log: dict[str, Any] = parse_json(text, place, RunError, WAY_OUT)
        fit(log, Log, place, RunError, WAY_OUT)
        check_seal(log, place, RunError, WAY_OUT)
        return {key: value for key, value in log.items() if key != CHECKSUM}


def require_optuna() -> Any:
    """Optuna, without its messages.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError(f"`tune` needs Optuna; {install_extra('tune')}.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def check_writable(folder: Path) -> None:
    """Create the folder if needed; raises OSError if it is not writable."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def open_storage(location: str) -> Any:
    """Optuna's storage in a journal file, or in the database of a URL.

    Raises
    ------
    ConfigError
        If it cannot be opened.
    RunError
        If a line of the journal is damaged.
    """
    optuna = require_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if "://" in location:
            # Reconnect if the database closed the connection while a trial trained.
            return optuna.storages.RDBStorage(location, engine_kwargs={"pool_pre_ping": True})
        check_writable(Path(location).parent)  # for the lock beside the journal
        return _replayed(Journal(Path(location)))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"storage={without_passwords(location)} needs the package '{error.name}', which is "
            "not installed; install it."
        ) from error
    except (SQLAlchemyError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise ConfigError(
            f"storage={without_passwords(location)} cannot be opened ({reason(error)}); name "
            "an existing database, such as sqlite:///studies.db, or a journal file."
        ) from error


def _replayed(journal: Journal) -> Any:
    """Storage with the state that a journal's lines lead to."""
    optuna = require_optuna()
    complete = optuna.trial.TrialState.COMPLETE
    try:
        storage = optuna.storages.JournalStorage(journal)
        for study in storage.get_all_studies():
            for trial in storage.get_all_trials(study._study_id, deepcopy=False):
                if trial.state == complete and not trial.values:
                    raise ValueError(f"trial {trial.number} is complete without a value")
    except (
        *(AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError),
        optuna.exceptions.OptunaError,
    ) as error:
        problem = f"{type(error).__name__}: {error}"
        raise RunError(f"{journal.last_read}, cannot be used ({problem}); {WAY_OUT}.") from error
    return storage


@contextlib.contextmanager
def database_errors(location: str) -> Iterator[None]:
    """Turn errors of a database that appear while it is used into one sentence.

    Raises
    ------
    ConfigError
        If the block fails because of the database.
    """
    optuna = require_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        raise ConfigError(
            f"storage={without_passwords(location)} failed ({reason(cause)}); give the same "
            "command again when it works, or name another storage."
        ) from error
