from __future__ import annotations

from collections.abc import Callable

from recbole_hellm.data.features.importing import ImportSettings


def test_help(shows: Callable[..., str]) -> None:
    shows("import", ImportSettings)
