from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "copy"))
