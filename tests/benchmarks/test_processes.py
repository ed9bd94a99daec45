from __future__ import annotations

import json
from pathlib import Path

import processes
import pytest
from support.processes import needs_gloo

from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.interactions.dataset import create_dataset


@needs_gloo
def test_several_processes_are_compared_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    processes.main(["--model=HeLLMPre", "--size=smoke", "--epochs=1", "--batch=32"])
    (line,) = capsys.readouterr().out.splitlines()
    printed = json.loads(line)
    assert printed["benchmark"] == "processes_hellmpre"
    found = printed["figures"]
    assert (found["batch"], found["processes"]) == (32, 2)
    one, several = found["seconds_with_one_process"], found["seconds_of_the_fastest_epoch"]
    assert one > 0 and several > 0
    assert found["ratio"] == pytest.approx(one / several)
    # Rounding may change the order of two near scores.
    assert found["largest_difference_of_a_metric"] < 1e-3
    assert printed["goals"][0]["reached"]


@pytest.mark.parametrize("size", ["smoke", "small"])
def test_the_synthetic_data_have_the_size_that_they_say(tmp_path: Path, size: str) -> None:
    processes.write_data(tmp_path / "synthetic", size, seed=1)
    options = {"data_path": str(tmp_path), "use_gpu": False}
    dataset = create_dataset(HellmConfig("HeLLMPre", "synthetic", options))
    n_users, n_items, n_interactions = processes.SIZES[size]
    assert (dataset.user_num - 1, dataset.item_num - 1) == (n_users, n_items)
    assert dataset.inter_num == n_interactions
    assert dataset.histories.lengths[1:].min() >= 5
