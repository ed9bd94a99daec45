from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from recbole_hellm.exporting.settings import ExportSettings


def test_help(shows: Callable[..., str]) -> None:
    text = shows("export", ExportSettings)
    assert "--run=RUNDirectoryofafinishedrun." in text
    assert "--format=onnx|faiss" in text


def test_a_run_must_be_named(tell: Callable[..., str]) -> None:
    told = tell("export", "--format=onnx", keep=False)
    assert told == "export needs a finished run; name its directory with --run=RUN."


@pytest.mark.parametrize(
    ("form", "module", "told"),
    [
        ("faiss", "faiss", "--format=faiss needs faiss ("),
        ("onnx", "onnxruntime", "--format=onnx needs onnx, onnxscript and onnxruntime ("),
    ],
)
def test_missing_packages_are_told_first(
    form: str, module: str, told: str, tell: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    sentence = tell("export", "--run=nowhere", f"--format={form}", keep=False)
    assert sentence.startswith(told) and sentence.endswith(
        "run `pip install 'recbole-hellm[export]'`."
    )
