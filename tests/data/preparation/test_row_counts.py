from __future__ import annotations

from recbole_hellm.data.preparation.row_counts import RowCounts


def test_what_is_not_dropped_is_kept() -> None:
    counts = RowCounts(read=10)
    counts.add("without a user", 2)
    counts.add("without a user")
    counts.add("blank", 0)
    assert counts.dropped == {"without a user": 3}
    assert counts.kept == 7
