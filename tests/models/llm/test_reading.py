from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.models.llm.backbone import build_backbone
from recbole_hellm.models.llm.packing import branch
from recbole_hellm.models.llm.prompt import PromptTokens
from recbole_hellm.models.llm.reading import HistoryReader
from recbole_hellm.models.llm.settings import LLMSettings

WIDTH = 16
HISTORIES = [[3, 1, 4, 1], [5], [9, 2, 6]]


class Tokens(nn.Module):
    """Item tokens from one table."""

    dtype = torch.float64

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, WIDTH, dtype=self.dtype)

    def forward(self, item_ids: Tensor) -> Tensor:
        return self.embedding(item_ids)


class Reader(HistoryReader):
    """A reader without prefixes around a small random decoder."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        shape = {"backbone_hidden_size": WIDTH, "backbone_intermediate_size": 20}
        settings = {"prefix": "none", "prompt": "alpaca", "targets": "every"}
        self.settings = LLMSettings(**shape | settings | options).resolved()
        self.backbone = build_backbone(self.settings)
        self.model = self.backbone.model.double()
        self.tokens: Any = Tokens()
        self.prompt = PromptTokens([1, 7, 3], [5, 8])
        self.pooling, self.prefix, self.offset = None, None, 0
        self.set_up_passes(self.model)
        self.eval()


def padded(histories: list[list[int]], width: int = 6) -> tuple[Tensor, Tensor]:
    rows = [F.pad(torch.tensor(items), (0, width - len(items))) for items in histories]
    return torch.stack(rows), torch.tensor([len(items) for items in histories])


def literal(reader: Reader, items: list[int]) -> Tensor:
    """State at the last token of one history by a plain pass of the decoder."""
    words = reader.model.get_input_embeddings()
    parts = [
        words(reader.prompt.instruction),
        reader.tokens(torch.tensor(items)),
        words(reader.prompt.response),
    ]
    output: Any = reader.model(inputs_embeds=torch.cat(parts)[None], use_cache=False)
    return output.last_hidden_state[0, -1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_history_is_read_at_its_last_token(side: str) -> None:
    reader = Reader(padding_side=side)
    states = reader.read_last(*padded(HISTORIES))
    expected = torch.stack([literal(reader, items) for items in HISTORIES])
    torch.testing.assert_close(states, expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_without_a_prompt_the_last_item_is_read(side: str) -> None:
    reader = Reader(padding_side=side)
    reader.prompt = PromptTokens([], [])
    reader.set_up_passes(reader.model)
    states = reader.read_last(*padded(HISTORIES))
    expected = torch.stack([literal(reader, items) for items in HISTORIES])
    torch.testing.assert_close(states, expected)


def test_a_table_of_item_tokens_may_stand_in() -> None:
    reader = Reader()
    table = 2 * reader.tokens.embedding.weight
    states = reader.read_last(*padded(HISTORIES), table)
    reader.tokens.embedding.weight.data *= 2
    torch.testing.assert_close(states, reader.read_last(*padded(HISTORIES)))


def test_every_position_equals_the_history_up_to_it() -> None:
    reader = Reader()
    reader.prompt = PromptTokens([1, 7, 3], [])
    reader.set_up_passes(reader.model)
    states, lengths = reader.read_every(*padded(HISTORIES))
    assert lengths == [4, 1, 3]
    shorter = [items[: end + 1] for items in HISTORIES for end in range(len(items))]
    torch.testing.assert_close(states, reader.read_last(*padded(shorter)))


@pytest.mark.parametrize("response", [[5, 8], []])
def test_every_target_equals_the_history_before_it(response: list[int]) -> None:
    reader = Reader(targets="last")
    reader.prompt = PromptTokens([1, 7, 3], response)
    reader.set_up_passes(reader.model)
    ids, sizes = padded(HISTORIES, 4)
    first = torch.tensor([2, 1, 1])
    branches = branch(sizes, first, len(response), ids.device)
    states = reader.read_targets(ids, branches)
    rows, reads = (index.tolist() for index in branches.targets)
    shorter = [HISTORIES[row][:read] for row, read in zip(rows, reads, strict=True)]
    assert shorter == [[3, 1], [3, 1, 4], [3, 1, 4, 1], [5], [9], [9, 2], [9, 2, 6]]
    torch.testing.assert_close(states, reader.read_last(*padded(shorter)))


def test_every_position_needs_its_targets() -> None:
    with pytest.raises(ConfigError, match="need targets=every"):
        Reader(targets="last").read_every(*padded(HISTORIES))


def test_empty_histories_are_refused() -> None:
    with pytest.raises(DataError, match="without items"):
        Reader().read_last(*padded([[1], []]))


def test_only_half_precision_products_scale_the_loss() -> None:
    assert not Reader().loss_scaling
    assert Reader(autocast="float16").loss_scaling
    assert not Reader(autocast="bfloat16").loss_scaling
