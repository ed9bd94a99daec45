from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from recbole_hellm.files import file_sha256


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_a_file_is_hashed_whole(tmp_path: Path, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
