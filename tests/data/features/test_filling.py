from __future__ import annotations

import numpy as np

from recbole_hellm.data.features.filling import filled


def test_items_without_a_vector_get_the_mean_of_the_others() -> None:
    vectors = np.array([[1, 2], [3, 6]], dtype=np.float32)
    matrix = filled(np.array([False, True, True, False]), vectors)
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[2, 4], [1, 2], [3, 6], [2, 4]]


def test_vectors_that_were_filled_in_before_do_not_count() -> None:
    vectors = np.array([[1, 2], [3, 6]], dtype=np.float32)
    present = np.array([True, False, True])
    assert filled(present, vectors, np.array([False, True])).tolist() == [[1, 2], [3, 6], [3, 6]]
    assert filled(present, vectors, np.array([False, False])).tolist() == [[1, 2], [2, 4], [3, 6]]
