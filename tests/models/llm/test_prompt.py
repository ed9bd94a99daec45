from __future__ import annotations

import pytest
import torch

from recbole_hellm.errors import BackboneError, DataError
from recbole_hellm.models.llm.prompt import (
    PromptTemplate,
    align_right,
    require_tokenizer,
    template_tokenizer,
    trim,
)


def test_template_is_alpacas_with_the_papers_instruction() -> None:
    template = PromptTemplate()
    assert template.instruction.startswith("Below is an instruction that describes a task, paired")
    assert "user\N{RIGHT SINGLE QUOTATION MARK}s purchase history, predict" in template.instruction
    assert template.instruction.endswith("### Input:\n")
    assert template.response == "\n### Response:\n"


@pytest.mark.parametrize("response_bos", [False, True])
def test_words_open_with_bos_and_the_response_only_if_asked(response_bos: bool) -> None:
    tokenizer = template_tokenizer()
    words = PromptTemplate().words(tokenizer, response_bos)
    bos = tokenizer.bos_token_id
    assert words.instruction[0] == bos
    assert (words.instruction == bos).sum() == 1
    assert bool(words.response[0] == bos) is response_bos
    assert tokenizer.unk_token_id not in torch.cat([words.instruction, words.response])
    assert "predict next possible item" in tokenizer.decode(words.instruction)
    assert not words.state_dict()


def test_a_prompt_without_tokenizer_is_an_error() -> None:
    with pytest.raises(BackboneError, match=r"backbone=some/model has no tokenizer.*prompt=none"):
        require_tokenizer(None, "some/model")


def test_trim_cuts_to_the_longest_and_refuses_empty_histories() -> None:
    ids = torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0]])
    trimmed, sizes = trim(ids, torch.tensor([2, 1]))
    assert torch.equal(trimmed, ids[:, :2])
    assert sizes == [2, 1]
    with pytest.raises(DataError, match="without items"):
        trim(ids, torch.tensor([2, 0]))


def test_align_right_moves_padding_to_the_left() -> None:
    ids = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    moved = align_right(ids, torch.tensor([2, 1, 3]))
    assert moved.tolist() == [[0, 1, 2], [0, 0, 3], [4, 5, 6]]
