"""The prompt around the items, and the alignment of padded histories."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from recbole_hellm.errors import BackboneError, DataError
from recbole_hellm.models.llm.item_texts import ItemTexts


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """The Alpaca prompt with an input, which holds the item tokens (paper, Fig. 2).

    Attributes
    ----------
    instruction : str
        Text before the items.
    response : str
        Text after the items, up to the answer.
    """

    instruction: str = (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n"
        "Given the user’s purchase history, predict next possible item to be purchased.\n\n"
        "### Input:\n"
    )
    response: str = "\n### Response:\n"

    def words(self, tokenizer: PreTrainedTokenizerBase, response_bos: bool) -> PromptTokens:
        """Tokenise both segments.

        Parameters
        ----------
        tokenizer : PreTrainedTokenizerBase
            The backbone's tokenizer.
        response_bos : bool
            Begin the response with another BOS, as the released code does.

        Returns
        -------
        PromptTokens
            The instruction begins with a BOS if the tokenizer has one.
        """
        bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
        before = tokenizer.encode(self.instruction, add_special_tokens=False)
        after = tokenizer.encode(self.response, add_special_tokens=False)
        return PromptTokens(bos + before, (bos if response_bos else []) + after)


class PromptTokens(nn.Module):
    """Token ids of the two segments.

    Parameters
    ----------
    instruction, response : list of int
        Token ids; empty lists mean no prompt.

    Attributes
    ----------
    highest : int
        The highest id; -1 without a prompt.
    """

    instruction: Tensor
    response: Tensor

    def __init__(self, instruction: list[int], response: list[int]) -> None:
        super().__init__()
        self.highest = max([*instruction, *response], default=-1)
        for name, ids in (("instruction", instruction), ("response", response)):
            # Derived from the tokenizer, so checkpoints do not need them.
            self.register_buffer(name, torch.tensor(ids, dtype=torch.long), persistent=False)


def template_tokenizer(template: PromptTemplate | None = None) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows only the words of the template.

    It serves randomly initialised backbones, which have no tokenizer.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    template = template or PromptTemplate()
    splitter = pre_tokenizers.Whitespace()
    text = f"{template.instruction} {template.response}"
    words = dict.fromkeys(word for word, _ in splitter.pre_tokenize_str(text))
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", *words])}
    splitting: Any = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    splitting.pre_tokenizer = splitter
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=splitting)
    tokenizer.add_special_tokens({"bos_token": "<s>", "unk_token": "<unk>"})
    return tokenizer


def require_tokenizer(tokenizer: PreTrainedTokenizerBase | None, name: str) -> Any:
    """Return `tokenizer`, or raise :class:`BackboneError` if it is None."""
    if tokenizer is None:
        raise BackboneError(
            f"backbone={name} has no tokenizer beside its weights, which prompt=alpaca needs; "
            "put its tokenizer files into the folder or use --prompt=none."
        )
    return tokenizer


def check_words(words: PromptTokens | ItemTexts, rows: int, name: str) -> None:
    """Check that a backbone has a word embedding for each word of a prompt or of titles.

    Parameters
    ----------
    words : PromptTokens or ItemTexts
    rows : int
        Word embeddings of the backbone.
    name : str
        The setting `backbone`.

    Raises
    ------
    BackboneError
        If one lies beyond them, as a word does that was added to the tokenizer alone.
    """
    if words.highest >= rows:
        way = "use --prompt=none" if isinstance(words, PromptTokens) else "name another backbone"
        raise BackboneError(
            f"backbone={name}: its tokenizer's id {words.highest} is beyond the model's {rows} "
            "word embeddings; put the tokenizer that belongs to the model into its folder or "
            f"{way}."
        )


def trim(item_ids: Tensor, lengths: Tensor) -> tuple[Tensor, list[int]]:
    """Trim right-padded histories to the longest one, and return their lengths as numbers.

    Raises
    ------
    DataError
        If a history is empty.
    """
    sizes: list[int] = lengths.tolist()
    if not sizes or min(sizes) < 1:
        raise DataError("A history without items cannot be scored; leave such users out.")
    return item_ids[:, : max(sizes)], sizes


def align_right(item_ids: Tensor, lengths: Tensor) -> Tensor:
    """Turn right padding into left padding."""
    width = item_ids.shape[1]
    columns = torch.arange(width, device=item_ids.device) - (width - lengths).unsqueeze(1)
    return item_ids.gather(1, columns.clamp_min(0)) * (columns >= 0)
