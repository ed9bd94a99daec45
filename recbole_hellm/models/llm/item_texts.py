"""Titles in the prompt: the words of each item's title before its item token.

LLaRA (Liao et al., SIGIR 2024) names this the hybrid prompt: a textual token and a behavioural one
for each item. The words are ids of the backbone's vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.packing import ragged
from recbole_hellm.models.llm.settings import LLMSettings


class ItemTexts(nn.Module):
    """Word ids of every item's title.

    Parameters
    ----------
    words : Tensor
        [N+1, L] ids of the backbone's vocabulary; row 0 is padding.
    lengths : Tensor
        [N+1] numbers of words of each row, at most L; what stands after them has no meaning.
    """

    words: Tensor
    lengths: Tensor

    def __init__(self, words: Tensor, lengths: Tensor) -> None:
        super().__init__()
        # In checkpoints: a saved model scores without the dataset and its titles.
        self.register_buffer("words", words.to(torch.int32))
        self.register_buffer("lengths", lengths.to(torch.int64))

    @property
    def highest(self) -> int:
        """The highest word id; -1 if no item has a title."""
        columns = torch.arange(self.words.shape[1], device=self.words.device)
        used = self.words[columns < self.lengths.unsqueeze(1)]
        return int(used.max()) if len(used) else -1

    def widths(self, item_ids: Tensor) -> Tensor:
        """Tokens that items take up, title and item token, on the device of `item_ids`.

        Padding, id 0, has no title; as the one item of an empty history it takes up one.
        """
        return self.lengths.to(item_ids.device)[item_ids] + 1

    def placed(self, items: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Words of items, and their places.

        Parameters
        ----------
        items : Tensor
            [n] item ids.
        slots : Tensor
            [n] places of their item tokens; the words stand before them.

        Returns
        -------
        words, places : Tensor
            [w] each.
        """
        counts = self.lengths[items]
        owner, within = ragged(counts)
        return self.words[items[owner], within], slots[owner] - counts[owner] + within


def title_texts(titles: Sequence[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> ItemTexts:
    """The first words of titles.

    Parameters
    ----------
    titles : sequence of str
        Titles of items 1..N; '' for none.
    tokenizer : PreTrainedTokenizerBase
        The backbone's.
    limit : int
        Most words of a title; the others are left out.
    """
    encoded = tokenizer(list(titles), add_special_tokens=False, verbose=False)["input_ids"]
    rows = [torch.tensor(ids[:limit], dtype=torch.int32) for ids in [[], *encoded]]
    lengths = torch.tensor([len(row) for row in rows])
    return ItemTexts(nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)


def check_reads_words(settings: LLMSettings) -> None:
    """Raise :class:`BackboneError` if titles are asked of a backbone that knows no words."""
    if settings.tiny and settings.item_text != "none":
        raise BackboneError(
            f"item_text={settings.item_text} needs a pre-trained backbone, since backbone=tiny "
            "knows no words; name one with --backbone, or take a model without titles, such as "
            "LLaRA in place of LLaRA-titles."
        )
