"""The ONNX file against the model in torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.exporting import onnx_model as module
from recbole_hellm.exporting.onnx_model import MODEL, Ranking, write_model
from recbole_hellm.runs.recommending import Recommender

runtime = pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")

Opened = Callable[[str], Recommender]


FOURIER = pytest.mark.skipif(
    tuple(map(int, runtime.__version__.split(".")[:2])) < (1, 30),
    reason="onnxruntime has the inverse Fourier transform since 1.30",
)


# The exporter takes seconds; BSARec's layers are those of the other two.
@pytest.mark.parametrize(
    "model",
    [
        "SASRec",
        pytest.param("BSARec", marks=pytest.mark.reliability),
        pytest.param("WEARec", marks=FOURIER),
    ],
)
def test_the_file_gives_the_models_recommendations(
    model: str, opened: Opened, tmp_path: Path
) -> None:
    recommender = opened(model)
    entries = write_model(recommender, tmp_path)
    assert entries["check"]["histories"] == 64
    assert 0 <= entries["check"]["max_abs_difference"] <= 1e-4
    ids = json.loads((tmp_path / "item_ids.json").read_text())
    tokens = {number: token for token, number in ids.items()}
    session = runtime.InferenceSession(str(tmp_path / MODEL))
    histories = [["i03"], ["i01", "i05", "i09"], [f"i{n:02d}" for n in range(6)], ["i07", "i07"]]
    rows = np.zeros((len(histories), 6), dtype=np.int64)
    for row, history in enumerate(histories):
        rows[row, : len(history)] = [ids[token] for token in history]
    lengths = np.array([len(history) for history in histories])
    (scores,) = session.run(["scores"], {"item_ids": rows, "lengths": lengths})
    assert scores.shape == (4, 31) and (scores[:, 0] == -np.inf).all()
    for row, history in enumerate(histories):
        frame = recommender.for_history(history, topk=30, exclude_seen=False)
        own = dict(zip(frame["item"], frame["score"], strict=True))
        for column in range(1, 31):
            assert scores[row, column] == pytest.approx(own[tokens[column]], abs=1e-5)


def test_what_is_not_a_function_of_histories_is_refused(opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        write_model(opened("LightGCN"), tmp_path)
    assert str(error.value) == (
        "LightGCN scores the users that it was trained on, not histories, so there is no function "
        "to export; use --format=faiss."
    )


def test_a_language_model_is_refused_in_one_sentence(
    opened: Opened, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recommender = opened("HeLLM")
    capfd.readouterr()
    with pytest.raises(ConfigError) as error:
        write_model(recommender, tmp_path)
    assert str(error.value).startswith("PyTorch cannot export HeLLM to ONNX (")
    assert str(error.value).endswith("try --format=faiss, or serve it with `recbole-hellm serve`.")
    assert capfd.readouterr() == ("", "")  # the exporter's own messages are long


def test_a_file_that_gives_other_scores_is_refused(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, _: object, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            with torch.no_grad():
                scores = ranking(*(torch.from_numpy(given[name]) for name in module.INPUTS))
            return [scores.numpy() + wrong[0]]

    recommender = opened("SASRec")
    ranking = Ranking(recommender.opened.model)
    monkeypatch.setattr(module, "_export", lambda *_: None)
    monkeypatch.setattr(runtime, "InferenceSession", Session)
    wrong = [0.0]
    assert write_model(recommender, tmp_path)["check"]["max_abs_difference"] == 0
    for shift, told in ((0.01, r"by up to 0\.01;"), (np.nan, "by up to nan;")):
        wrong[0] = shift
        with pytest.raises(RunError, match=told):
            write_model(recommender, tmp_path)
    monkeypatch.setattr(Session, "run", lambda *_: 1 / 0)
    with pytest.raises(RunError, match=r"does not run \(division by zero\); it is not kept"):
        write_model(recommender, tmp_path)
