from __future__ import annotations

import pytest

from recbole_hellm.errors import ConfigError
from recbole_hellm.exporting.settings import ExportSettings


def test_a_format_must_be_named() -> None:
    with pytest.raises(ConfigError) as error:
        ExportSettings()
    assert str(error.value) == "Say what to write with --format=onnx or --format=faiss."
    with pytest.raises(ConfigError, match=r"format='csv' is not allowed; use one of onnx, faiss\."):
        ExportSettings(format="csv")
    assert ExportSettings(format="onnx").output is None
