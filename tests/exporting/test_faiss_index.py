"""The index against ``recommend`` without masking."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recbole_hellm.errors import RunError
from recbole_hellm.exporting.faiss_index import INDEX, _check, write_index
from recbole_hellm.exporting.vectors import ScoringVectors
from recbole_hellm.runs.recommending import Recommender

faiss = pytest.importorskip("faiss", reason="needs the extra export")


@pytest.mark.parametrize("model", ["LightGCN", "SASRec"])
def test_the_index_ranks_as_recommend_does(
    model: str, opened: Callable[[str], Recommender], tmp_path: Path
) -> None:
    recommender = opened(model)
    entries = write_index(recommender, tmp_path)
    index = faiss.read_index(str(tmp_path / INDEX))
    users = json.loads((tmp_path / "user_tokens.json").read_text())
    items = json.loads((tmp_path / "item_tokens.json").read_text())
    vectors = np.load(tmp_path / "user_vectors.npy")
    assert (entries["users"], entries["items"]) == (len(users), len(items)) == (40, 30)
    assert index.ntotal == 30 and entries["width"] == vectors.shape[1] == 8
    frame = recommender.for_users(users, topk=7, exclude_seen=False)
    scores, rows = index.search(vectors, 7)
    for row, user in enumerate(users):
        own = frame[frame["user"] == user]
        # Scores that are equal may be in any order.
        np.testing.assert_allclose(scores[row], own["score"], rtol=1e-4, atol=1e-6)
        if len({*np.round(own["score"], 5)}) == 7:
            assert [items[place] for place in rows[row]] == own["item"].tolist()


def test_an_index_of_other_vectors_is_refused() -> None:
    drawn = np.random.default_rng(0).normal(size=(2, 20, 4)).astype(np.float32)
    vectors = ScoringVectors(drawn[0], drawn[1], 20, 0.0)
    index = faiss.IndexFlatIP(4)
    index.add(drawn[1])
    _check(index, vectors)
    reversed_index = faiss.IndexFlatIP(4)
    reversed_index.add(np.ascontiguousarray(drawn[1][::-1]))
    with pytest.raises(RunError, match="The index ranks other items"):
        _check(reversed_index, vectors)
