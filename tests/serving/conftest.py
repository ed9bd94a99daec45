"""A server of three small runs on the dataset ``tiny``, with titles and pictures."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm import run
from recbole_hellm.runs.results import RunResult
from recbole_hellm.serving.service import Service
from recbole_hellm.serving.settings import ServeSettings

NASTY = "</script><script>alert('&')</script> kettle"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)


def add_items(folder: Path) -> None:
    """Titles of all items, and pictures: one, one that is a link out, and one outside images."""
    titles = {f"i{n:02d}": f"Lamp No. {n}" for n in range(30)}
    titles |= {"i03": NASTY, "i05": "Café table"}
    rows = [f"{item}\t{title}\tHome Living" for item, title in titles.items()]
    head = "item_id:token\ttitle:token_seq\tcategories:token_seq"
    (folder / "tiny.item").write_text("\n".join([head, *rows]) + "\n")
    images = folder / "images"
    images.mkdir()
    (images / "i01.png").write_bytes(PNG)
    (folder / "secret.png").write_bytes(PNG)
    os.symlink(folder / "secret.png", images / "i02.png")


@pytest.fixture(scope="session")
def shown_data(
    tmp_path_factory: pytest.TempPathFactory,
    make_dataset: Callable[[Path, pd.DataFrame], None],
    interactions: pd.DataFrame,
) -> Path:
    """A ``data_path`` with the dataset ``tiny``, its titles and its pictures."""
    root = tmp_path_factory.mktemp("shown")
    make_dataset(root / "tiny", interactions)
    add_items(root / "tiny")
    return root


@pytest.fixture(scope="session")
def shown_runs(shown_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunResult]:
    """A sequential run, one of a general model, and one without vectors."""
    common = {
        "data_path": str(shown_data),
        "runs_dir": str(tmp_path_factory.mktemp("runs")),
        "show_progress": False,
        "use_gpu": False,
        "threads": 1,
        "epochs": 2,
        "learning_rate": 0.01,
    }
    sizes: dict[str, dict[str, Any]] = {
        "SASRec": {"hidden_size": 8, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 6},
        "LightGCN": {"embedding_size": 8},
        "Pop": {"learning_rate": 0.001},
    }
    return {model: run(model, "tiny", **common | own) for model, own in sizes.items()}


@pytest.fixture(scope="session")
def service(shown_runs: dict[str, RunResult]) -> Iterator[Service]:
    """The opened runs."""
    opened = Service.open(list(shown_runs.values()), ServeSettings(device="cpu"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def url(shown_runs: dict[str, RunResult]) -> Iterator[str]:
    """Address of a server of all runs on a free port, with its last slash."""
    pytest.importorskip("fastapi", reason="needs the extra serve")
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    from recbole_hellm.serving.server import prepare_server

    paths = [result.path for result in shown_runs.values()]
    server = prepare_server(paths, ServeSettings(port=0, device="cpu"))
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server.url
    server.server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
