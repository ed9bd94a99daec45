"""Rows of a saved model's tensors and the tokens that they belong to: padding, order, titles.

Files have a row per item or user, without a row for padding; the network's tables have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_hellm.errors import RunError
from recbole_hellm.models.llm.artefact_files import damaged, read_json
from recbole_hellm.models.llm.item_texts import ItemTexts
from recbole_hellm.models.llm.settings import LLMSettings


def _by_item(name: str, settings: LLMSettings) -> int | None:
    """Rows before the first item's in a tensor with a row per item; ``None`` for any other."""
    if name.startswith(("tokens.tables.", "tokens.vectors.", "tokens.gates.counts", "texts.")):
        return 1
    return 0 if name == "head.linear.weight" and settings.head == "linear" else None


def without_padding(tensors: Mapping[str, Tensor], settings: LLMSettings) -> dict[str, Tensor]:
    """Tensors as files hold them."""
    return {name: value[_by_item(name, settings) or 0 :] for name, value in tensors.items()}


def with_padding(
    tensors: Mapping[str, Tensor], settings: LLMSettings, order: Tensor | None
) -> dict[str, Tensor]:
    """Tensors as the network holds them, items in another order if one is given."""
    padded = dict(tensors)
    for name, value in tensors.items():
        padding = _by_item(name, settings)
        # check_fit reports misshapen tensors.
        if padding is None or value.ndim not in (1, 2):
            continue
        if order is not None and len(order) == len(value):
            value = value[order]
        padded[name] = F.pad(value, (0, 0) * (value.ndim - 1) + (padding, 0))
    return padded


def texts(tensors: Mapping[str, Tensor], folder: Path) -> ItemTexts | None:
    """The titles among the tensors; raises :class:`RunError` if they do not fit together."""
    if not tensors:
        return None
    words, lengths = tensors.get("texts.words"), tensors.get("texts.lengths")
    if words is None or lengths is None or not _fits(words, lengths):
        error = ValueError("its numbers of words do not fit its words")
        raise damaged(folder / "item_texts.safetensors", error)
    return ItemTexts(words, lengths)


def _fits(words: Tensor, lengths: Tensor) -> bool:
    if words.ndim != 2 or not words.numel() or lengths.shape != words.shape[:1]:
        return False
    return bool((lengths >= 0).all() & (lengths <= words.shape[1]).all() & (words >= 0).all())


def reorder_users(tensors: dict[str, Tensor], places: Tensor) -> None:
    """Put users into another order, behind their mean."""
    for name, value in tensors.items():
        if value.ndim == 2 and len(value) == len(places) + 1:  # check_fit reports others
            tensors[name] = torch.cat([value[:1], value[places + 1]])


def read_tokens(path: Path) -> list[str]:
    """Tokens of items or users from a file, or :class:`RunError`."""
    tokens: list[str] = read_json(path, list[str])
    if len(set(tokens)) != len(tokens) or not tokens:
        raise damaged(path, ValueError(f"not a list of distinct {path.stem[:-1]} tokens"))
    return tokens


def order(folder: Path, kind: str, known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Row of each wanted token; `kind` is items or users."""
    rows = {token: row for row, token in enumerate(known)}
    tokens = [str(token) for token in wanted]
    unshared = sorted({*rows} ^ {*tokens})
    if unshared:
        raise RunError(
            f"{folder} was trained on other {kind} than the dataset's ({len(known)} and "
            f"{len(tokens)} {kind}; '{unshared[0]}' is in one of them only); use the dataset it "
            "was trained on."
        )
    return torch.tensor([rows[token] for token in tokens])
