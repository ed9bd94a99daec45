from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_hellm.errors import RunError
from recbole_hellm.models.llm.artefact_rows import (
    order,
    read_tokens,
    reorder_users,
    texts,
    with_padding,
    without_padding,
)
from recbole_hellm.models.llm.settings import LLMSettings


def test_files_hold_no_row_for_padding() -> None:
    settings = LLMSettings(head="linear")
    held = {
        "tokens.vectors.weight": torch.tensor([[0.0], [1.0], [2.0]]),
        "texts.words": torch.tensor([[0, 0], [5, 6], [7, 0]]),
        "texts.lengths": torch.tensor([0, 2, 1]),
        "tokens.mlp.0.weight": torch.ones(2, 3),
        "head.linear.weight": torch.tensor([[3.0], [4.0]]),
    }
    stored = without_padding(held, settings)
    assert stored["texts.lengths"].tolist() == [2, 1]
    assert stored["head.linear.weight"].tolist() == [[3.0], [4.0]]
    back = with_padding(stored, settings, None)
    assert all(torch.equal(back[name], value) for name, value in held.items())
    swapped = with_padding(stored, settings, torch.tensor([1, 0]))
    assert swapped["texts.words"].tolist() == [[0, 0], [7, 0], [5, 6]]
    assert swapped["texts.lengths"].tolist() == [0, 1, 2]
    assert swapped["head.linear.weight"].tolist() == [[4.0], [3.0]]
    assert torch.equal(swapped["tokens.mlp.0.weight"], held["tokens.mlp.0.weight"])


def test_the_mean_of_users_stays_first() -> None:
    tensors = {"users.weight": torch.tensor([[9.0], [1.0], [2.0]])}
    reorder_users(tensors, torch.tensor([1, 0]))
    assert tensors["users.weight"].tolist() == [[9.0], [2.0], [1.0]]


@pytest.mark.parametrize(
    "tensors",
    [
        {"texts.words": torch.ones(2, 2)},
        {"texts.words": torch.ones(2, 2), "texts.lengths": torch.tensor([1])},
        {"texts.words": torch.ones(2, 2), "texts.lengths": torch.tensor([1, 3])},
        {"texts.words": -torch.ones(2, 2), "texts.lengths": torch.tensor([1, 2])},
    ],
)
def test_titles_that_do_not_fit_are_told(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    (tmp_path / "item_texts.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"item_texts.safetensors is damaged \(its numbers"):
        texts(tensors, tmp_path)
    assert texts({}, tmp_path) is None


def test_tokens_in_another_order(tmp_path: Path) -> None:
    assert order(tmp_path, "users", ["a", "b"], ["b", "a"]).tolist() == [1, 0]
    with pytest.raises(RunError, match="trained on other users than the dataset's"):
        order(tmp_path, "users", ["a", "b"], ["b"])
    path = tmp_path / "users.json"
    path.write_text('["a", "a"]')
    with pytest.raises(RunError, match="not a list of distinct user tokens"):
        read_tokens(path)
