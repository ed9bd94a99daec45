from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recbole_hellm.cli.known_names import check_names
from recbole_hellm.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model=SASRek"], "Unknown model 'SASRek' (did you mean SASRec or"),
        (["--model", "BPR,Nope"], "Unknown model 'Nope'"),
        (["--models=[BPR, Nope]"], "Unknown model 'Nope'"),
        (["--model=GRU4RecCPR"], "Model 'GRU4RecCPR' reads the held-out items"),
        (["--model=BPR", "--dataset=Beuty"], "Unknown dataset 'Beuty' (did you mean Beauty?);"),
    ],
)
def test_unknown_names_are_told(words: list[str], told: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        check_names(words, datasets=True)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--model=BPR,HeLLM-wo-GNN_ID", "--dataset=Beauty"],
        ["--model=my_package.my_module:MyModel"],
        ["--model=BPR", "--config=a.yaml", "--dataset=elsewhere"],
        ["--benchmark=table1", "--models=MyMethod"],
        ["--model", "--dataset"],
        ["--model='"],
    ],
)
def test_what_may_be_right_is_left_to_the_command(words: list[str]) -> None:
    check_names(words, datasets=True)


def test_a_dataset_of_atomic_files_is_known(tmp_path: Path) -> None:
    words = ["--dataset=mine", f"--data_path={tmp_path}"]
    with pytest.raises(DataError, match="Unknown dataset 'mine'"):
        check_names(words, datasets=True)
    check_names(words, datasets=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.inter").touch()
    check_names(words, datasets=True)


@pytest.mark.parametrize(
    "words",
    [
        ["--model=Nope"],
        ["run", "--model=BPR", "--dataset=nope"],
        ["tune", "--model=Nope", "--dataset=nope"],
        ["compare", "--models=BPR,Nope"],
    ],
)
def test_nothing_large_is_imported_before(words: list[str]) -> None:
    script = (
        "import sys\n"
        "from recbole_hellm.cli.main import main\n"
        f"assert main({words}) == 2\n"
        "assert not {'torch', 'recbole', 'transformers'} & {*sys.modules}"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "recbole-hellm: Unknown " in done.stderr
