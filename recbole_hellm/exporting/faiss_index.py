"""Vectors of users and items as files, with an index by inner product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from recbole_hellm.errors import RunError
from recbole_hellm.exporting.vectors import CHECKED, TOLERANCE, ScoringVectors, scoring_vectors
from recbole_hellm.graph import faiss_search
from recbole_hellm.runs.recommending import Recommender

INDEX = "items.faiss"
_TOPK = 10  # of the check of the index


def faiss_library() -> Any:
    """The module ``faiss``.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    return faiss_search.faiss_library("--format=faiss", extra="export")


def write_index(
    recommender: Recommender, folder: Path, show_progress: bool = False
) -> dict[str, Any]:
    """Write vectors, tokens and the index of a restored run, and check the index.

    Parameters
    ----------
    recommender : Recommender
    folder : Path
        An empty one.
    show_progress : bool

    Returns
    -------
    dict
        Entries of the manifest.

    Raises
    ------
    ConfigError
        If faiss is missing, or the model does not score by inner products.
    RunError
        If the index ranks other items than the vectors.
    """
    faiss = faiss_library()
    vectors = scoring_vectors(recommender, show_progress)
    dataset = recommender.dataset
    np.save(folder / "item_vectors.npy", vectors.item)
    np.save(folder / "user_vectors.npy", vectors.user)
    for kind, tokens in (("item", dataset.item_tokens), ("user", dataset.user_tokens)):
        text = json.dumps([str(token) for token in tokens], ensure_ascii=False)
        (folder / f"{kind}_tokens.json").write_text(text + "\n", encoding="utf-8")
    index = faiss.IndexFlatIP(vectors.item.shape[1])
    index.add(np.ascontiguousarray(vectors.item))
    faiss.write_index(index, str(folder / INDEX))
    _check(faiss.read_index(str(folder / INDEX)), vectors)
    return {
        "metric": "inner product",
        "width": vectors.item.shape[1],
        "items": len(vectors.item),
        "users": len(vectors.user),
        "rows": "row r of a table, and id r of the index, is token r of the list of its kind",
        "user_vectors": (
            "states after the users' full histories"
            if recommender.reads_histories
            else "trained vectors"
        ),
        "check": {"users": vectors.checked, "max_abs_difference": vectors.difference},
        "packages": {"faiss": faiss.__version__, "numpy": np.__version__},
    }


def _check(index: Any, vectors: ScoringVectors) -> None:
    """Raise unless the index gives the items with the greatest inner products."""
    some = np.ascontiguousarray(vectors.user[:CHECKED])
    topk = min(_TOPK, len(vectors.item))
    scores, rows = index.search(some, topk)
    products = some @ vectors.item.T
    best = -np.sort(-products, axis=1)[:, :topk]
    tolerance = TOLERANCE * max(1.0, float(np.abs(products).max(initial=0.0)))
    found = np.take_along_axis(products, rows, axis=1)
    for ranked in (scores, found):
        if not np.abs(ranked - best).max(initial=0.0) <= tolerance:
            raise RunError(
                f"The index ranks other items than the vectors it was made of; update faiss "
                f"({getattr(index, 'ntotal', 0)} items were checked)."
            )
