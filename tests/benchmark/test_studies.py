from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from recbole_hellm.benchmark import studies
from recbole_hellm.benchmark.studies import Journal, database_errors, open_storage
from recbole_hellm.errors import ConfigError, HellmError, RunError, StorageError
from recbole_hellm.storage.checksums import CHECKSUM
from recbole_hellm.storage.locks import locked


def objective(trial: Any) -> float:
    value = trial.suggest_categorical("x", [1, 2, 3])
    trial.report(value / 2, 0)
    return float(value)


def study_of(path: Path) -> Any:
    storage = open_storage(str(path))
    return optuna.create_study(
        storage=storage, study_name="s", load_if_exists=True, direction="maximize"
    )


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "A.journal"
    study_of(path).optimize(objective, n_trials=3)
    return path


def values(path: Path) -> list[float]:
    return [trial.value for trial in study_of(path).get_trials(deepcopy=False)]


def without_checksums(path: Path) -> list[dict[str, Any]]:
    """The lines as an earlier version wrote them."""
    logs = [json.loads(line) for line in path.read_bytes().splitlines()]
    for log in logs:
        del log[CHECKSUM]
    write(path, logs)
    return logs


def write(path: Path, logs: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs))


def test_a_study_goes_on_and_leaves_nothing_beside_its_journal(journal: Path) -> None:
    before = values(journal)
    study_of(journal).optimize(objective, n_trials=1)
    assert values(journal)[:3] == before
    assert len(values(journal)) == 4
    assert [path.name for path in journal.parent.iterdir()] == ["A.journal"]


def test_optuna_reads_the_journal_and_journals_of_optuna_are_read(journal: Path) -> None:
    expected = values(journal)
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    plain = optuna.storages.JournalStorage(backend)
    optuna.load_study(storage=plain, study_name="s").optimize(objective, n_trials=1)
    assert values(journal)[:3] == expected
    assert len(values(journal)) == 4


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("rest", [b"", b"\0" * 700, b"\0\0\n\0\n"])
def test_a_cut_end_is_removed_and_named(
    journal: Path, rest: bytes, old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if old:
        without_checksums(journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    whole = b"".join(lines[:-1])
    for cut in range(1, len(lines[-1]), 23):
        caplog.clear()
        journal.write_bytes(whole + lines[-1][:cut] + rest)
        Journal(journal)
        assert journal.read_bytes() == whole
        assert f"line {len(lines)} and what follows it" in caplog.text
    study_of(journal).optimize(objective, n_trials=1)
    assert len(values(journal)) == 4


def test_a_process_that_another_one_outlives_leaves_no_half_line(journal: Path) -> None:
    study = study_of(journal)
    with journal.open("ab") as file:  # killed while it writes
        file.write(b'{"op_code":4,"worker')
    study.optimize(objective, n_trials=1)
    assert len(values(journal)) == 4


def test_a_first_line_that_was_cut_is_begun_anew(tmp_path: Path) -> None:
    for content in (b"", b"{", b'{"op_code":0,"wor', b"\0" * 100):
        path = tmp_path / "A.journal"
        path.write_bytes(content)
        study_of(path).optimize(objective, n_trials=1)
        assert len(values(path)) == 1
        path.unlink()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        *(b"garbage", b"\0\0\0", b"\xff\xfe\x80", b"[]", b"3", b"{}", b"[" * 100_000),
        *(b'{"op_code":99,"worker_id":"a"}', b'{"op_code":"4","worker_id":"a"}'),
        b'{"op_code":4,"worker_id":"a"}',
    ],
)
def test_damage_in_the_middle_is_told_with_its_line(
    journal: Path, damage: bytes, old: bool
) -> None:
    if old:
        without_checksums(journal)
    lines = journal.read_bytes().splitlines()
    lines[2] = damage
    content = b"\n".join(lines) + b"\n"
    journal.write_bytes(content)
    with pytest.raises(RunError, match=r"A\.journal, line 3.*; restore the file, or move it away"):
        study_of(journal)
    assert journal.read_bytes() == content


def test_no_changed_value_is_taken_up(journal: Path) -> None:
    content = journal.read_bytes()
    expected = values(journal)
    told = 0
    for place in range(0, len(content) - 1, 7):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 7)
        journal.write_bytes(changed)
        try:
            found = values(journal)
        except HellmError as error:
            assert "A.journal, line" in str(error)  # noqa: PT017
            told += 1
        else:  # the last line is removed, which a warning says; or a checksum lost its name
            assert found in (expected, [*expected[:-1], None])
    assert told > 100


def test_what_leads_to_no_study_is_told(journal: Path) -> None:
    logs = without_checksums(journal)
    for number, log in enumerate(logs, 1):
        for key in log:
            if key == "worker_id":
                continue
            for value in (None, "x", [1], {"a": [[]]}):
                changed = [dict(one) for one in logs]
                changed[number - 1][key] = value
                write(journal, changed)
                try:
                    study_of(journal).get_trials()
                except HellmError as error:
                    assert "A.journal, line" in str(error)  # noqa: PT017


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no\njournal\n")
    for name in ("pipe", "folder", "text"):
        with pytest.raises(ConfigError, match=rf"storage=.*{name} cannot be opened"):
            open_storage(str(tmp_path / name))


def test_a_stale_lock_of_optuna_does_not_hang(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(journal.parent)
    Path("A.journal.lock").symlink_to("A.journal")
    content = journal.read_bytes()
    study_of(Path("A.journal")).optimize(objective, n_trials=1)
    assert journal.read_bytes().startswith(content)


def test_a_journal_in_use_is_waited_for(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "PATIENCE", 0.1)
    busy = locked(journal.with_name(".A.journal.lock"), RunError("busy"))
    with busy, pytest.raises(RunError, match="in use by another process"):
        Journal(journal)


def test_a_full_disk_is_told_and_the_study_goes_on(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(journal)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"A\.journal cannot be written \(the disk is full"):
            study.optimize(objective, n_trials=1)
    study_of(journal).optimize(objective, n_trials=1)
    assert [value for value in values(journal) if value is not None]


def test_a_journal_that_disappears_is_told(journal: Path) -> None:
    study = study_of(journal)
    journal.unlink()
    with pytest.raises(RunError, match=r"A\.journal cannot be read"):
        study.get_trials()


@pytest.fixture
def database(tmp_path: Path) -> Callable[[], Any]:
    url = f"sqlite:///{tmp_path}/studies.db"
    return lambda: optuna.create_study(storage=open_storage(url), study_name="s")


def test_a_database_that_fails_is_told(database: Callable[[], Any], tmp_path: Path) -> None:
    study = database()
    (tmp_path / "studies.db").write_bytes(b"no database" * 1000)
    with (
        pytest.raises(ConfigError, match=r"storage=.*studies.db failed \(.*\); give the same"),
        database_errors(f"sqlite:///{tmp_path}/studies.db"),
    ):
        study.optimize(objective, n_trials=1)
    with pytest.raises(ConfigError, match="cannot be opened"):
        database()
