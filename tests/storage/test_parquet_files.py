from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.errors import RunError
from recbole_hellm.storage.parquet_files import read_parquet


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "table.parquet"
    frame = pd.DataFrame({"user": ["a", "é"], "rank": np.array([1, 2], dtype=np.uint8)})
    frame.to_parquet(path, index=False)
    return path


def test_a_table_comes_back_as_it_was_written(path: Path) -> None:
    pd.testing.assert_frame_equal(read_parquet(path, RunError, "restore it"), pd.read_parquet(path))
    assert list(read_parquet(path, RunError, "restore it", ["rank"])["rank"]) == [1, 2]


def test_columns_that_are_not_there_are_told(path: Path) -> None:
    with pytest.raises(RunError, match=r"table\.parquet has no column 'score'; restore it\.$"):
        read_parquet(path, RunError, "restore it", ["rank", "score"])


def test_any_damage_ends_in_a_sentence_or_in_a_table(path: Path) -> None:
    content = path.read_bytes()
    damages = [content[:cut] for cut in range(0, len(content), 41)]
    for place in range(0, len(content), 3):
        damages.append(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
    told = 0
    for damaged in damages:
        path.write_bytes(damaged)
        try:
            read_parquet(path, RunError, "restore it")
        except RunError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
            told += 1
    assert told > len(damages) // 4


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    for name in ("nothing", "."):
        with pytest.raises(RunError, match="cannot be read"):
            read_parquet(tmp_path / name, RunError, "restore it")
