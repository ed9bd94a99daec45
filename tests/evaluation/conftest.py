from __future__ import annotations

import numpy as np
import pytest

from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.recommended import Catalogue, RecommendedLists


@pytest.fixture
def ranks() -> Ranks:
    """Three users: first, one of three tied for the second place, and last of 50."""
    return Ranks(np.arange(3), np.array([0, 1, 49]), np.array([0, 2, 0]), np.full(3, 50))


@pytest.fixture
def lists() -> RecommendedLists:
    """Five lists of three items, of ten."""
    items = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 5, 9], [2, 4, 10]])
    rows, known = np.array([0, 0, 1, 2, 3, 4, 4]), np.array([9, 10, 1, 1, 2, 3, 1])
    counts = np.bincount(known, minlength=11)
    return RecommendedLists(items, (rows, known), Catalogue(counts, 6), np.array([3, 6, 1, 1, 4]))
