"""HeLLM's second stage: a language model that reads item tokens behind a graph-based prefix.

Paper, sections 3.5 and 3.6. The same network without a prefix and with other item tokens is CoLLM
or LLaRA as the paper compares with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.models.llm.adapters import check_targets
from recbole_hellm.models.llm.backbone import (
    Backbone,
    build_backbone,
    omit_frozen_from_checkpoints,
)
from recbole_hellm.models.llm.item_head import build_item_head
from recbole_hellm.models.llm.item_texts import ItemTexts
from recbole_hellm.models.llm.item_tokens import build_item_tokens, number_of_items
from recbole_hellm.models.llm.packing import branch
from recbole_hellm.models.llm.prefix import build_prefix
from recbole_hellm.models.llm.prompt import (
    PromptTemplate,
    PromptTokens,
    check_words,
    require_tokenizer,
)
from recbole_hellm.models.llm.reading import HistoryReader
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.models.llm.user_tokens import UserTokens

HALF_CHUNK = 512  # rows of logits that are formed at a time in half precision
PADDED = 1.1  # slots a token up to which rows are padded rather than packed


class HeLLMNetwork(HistoryReader):
    r"""Next-item scores from a decoder over ``[instruction][items][response]``.

    Every layer's keys and values begin with prefixes, computed from the second-order pooling of the
    user's graph embeddings (Eqs. 8 to 11); the last hidden state is classified over all items
    (Eq. 14).

    With ``targets=every`` one pass over a sequence scores the item after each position, read at the
    item token under a prefix of the items up to it. Without a graph prefix this equals one call for
    every shorter history; with one it is another model, see :class:`HistoryReader`.

    Parameters
    ----------
    settings : LLMSettings
        See there.
    tables : Mapping of str to Tensor, optional
        [N+1, d] each, item vectors by the names of ``item_inputs``; row 0 is padding. Tables that
        the settings do not ask for are left out.
    n_items : int, optional
        N; needed only where no table is given.
    backbone : Backbone, optional
        Used instead of building the one that the settings name.
    device : torch.device or str, optional
        Where the network will run, which decides a pre-trained backbone's type of weights.
    texts : ItemTexts, optional
        Titles, where ``item_text=title`` asks for them.
    n_users : int, optional
        M, where ``user_token=True`` asks for users.
    item_counts : Tensor of int64, optional
        [N+1] training interactions of each item, where ``item_gate=True`` asks for them.

    Raises
    ------
    BackboneError
        If the backbone cannot be had or does not fit the settings.
    ConfigError, DataError
        If a table that the settings ask for is missing or misshapen.
    """

    def __init__(
        self,
        settings: LLMSettings,
        tables: Mapping[str, Tensor] | None = None,
        *,
        n_items: int | None = None,
        backbone: Backbone | None = None,
        device: torch.device | str | None = None,
        texts: ItemTexts | None = None,
        n_users: int | None = None,
        item_counts: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings = settings.resolved()
        self.backbone = backbone = backbone or build_backbone(settings, device)
        self.model = backbone.model
        tables = tables or {}
        self.n_items = number_of_items(n_items, tables)
        if settings.prefix == "graph" and "graph" not in tables:
            raise ConfigError(
                "prefix=graph needs the graph embeddings of HeLLM_pre, and there are none; run "
                "that stage or use --prefix=static or --prefix=none."
            )
        self.tokens = build_item_tokens(
            settings, backbone.hidden_size, self.n_items, tables, item_counts
        )
        self.head = build_item_head(settings, backbone.hidden_size, self.n_items)
        graph = self.tokens.table("graph").weight if settings.prefix == "graph" else None
        self.pooling, self.prefix = build_prefix(settings, backbone, graph)
        self.prompt = PromptTokens([], [])
        if settings.prompt == "alpaca":
            tokenizer = require_tokenizer(backbone.tokenizer, backbone.name)
            self.prompt = PromptTemplate().words(tokenizer, bool(settings.response_bos))
            check_words(self.prompt, self._vocabulary, backbone.name)
        self.texts = self._texts(texts)
        self.users = self._empty_users(n_users)
        shifted = settings.variant == "released" and self.prefix is not None
        self.offset = settings.prefix_length if shifted else 0
        if not (backbone.trained or settings.drawn):
            # Pre-trained weights come from their source again.
            omit_frozen_from_checkpoints(self, "model")
        self.set_up_passes(self.model)

    # ---------------------------------------------------------------- scores

    def hidden_states(
        self, item_ids: Tensor, lengths: Tensor, users: Tensor | None = None
    ) -> Tensor:
        """Read-out of each history; its products with :meth:`item_weights` are the scores.

        Parameters
        ----------
        item_ids : Tensor
            [B, T] item ids, oldest first, right-padded with 0.
        lengths : Tensor
            [B] numbers of items; ids beyond are ignored.
        users : Tensor, optional
            [B] user ids under ``user_token=True``; 0 is a user who is not known.

        Returns
        -------
        Tensor
            [B, hidden_size]; with ``stage_scores=True`` the tables' columns follow.
        """
        return self.head.read_out(self._states(item_ids, lengths, None, users))

    def all_hidden_states(
        self, item_ids: Tensor, lengths: Tensor, users: Tensor | None = None
    ) -> Tensor:
        """Read-out after every item of each history, [B, T, hidden_size]; ``targets=every``."""
        width = item_ids.shape[1]
        mask = torch.arange(width, device=item_ids.device) < lengths.unsqueeze(1)
        hidden = self.read_every(item_ids, lengths, users=users)[0]
        hidden = self.head.read_out(self._beside(hidden, item_ids, mask))
        output = hidden.new_zeros(*item_ids.shape, hidden.shape[-1])
        output[mask] = hidden
        return output

    def item_weights(self) -> Tensor:
        """Weights [N, hidden_size] that score the items; row j belongs to item j + 1."""
        return self.head.weights(self._table(), self.tokens.input_tables)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [B, N+1] of read-outs [B, hidden_size]; column 0, padding, is -inf."""
        return F.pad(hidden @ self.item_weights().T, (1, 0), value=float("-inf"))

    def loss(
        self, item_ids: Tensor, lengths: Tensor, target: Tensor, users: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy of the next item, paper Eq. 14.

        Parameters
        ----------
        item_ids : Tensor
            [B, T] histories, right-padded with 0.
        lengths : Tensor
            [B] numbers of items.
        target : Tensor
            [B] id of the next item.
        users : Tensor, optional
            As in :meth:`hidden_states`.

        Returns
        -------
        Tensor
            Scalar.
        """
        table = self._table()
        return self._cross_entropy(self._states(item_ids, lengths, table, users), target, table)

    def sequence_loss(self, sequences: Tensor, users: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over all positions of all sequences; ``targets=every``.

        Parameters
        ----------
        sequences : Tensor
            [B, T+1] item ids, oldest first, right-padded with 0. Sequences of a single item
            hold no target and are skipped.
        users : Tensor, optional
            As in :meth:`hidden_states`.

        Returns
        -------
        Tensor
            Scalar, the mean over all targets.

        Raises
        ------
        DataError
            If no sequence holds a target.
        """
        n_targets = (sequences[:, 1:] > 0).sum(1)
        held = n_targets > 0
        sequences, n_targets = sequences[held], n_targets[held]
        users = None if users is None else users[held]
        if len(sequences) == 0:
            raise DataError("No sequence of this batch has two items, so there is no target.")
        table = self._table()
        hidden, lengths = self.read_every(sequences[:, :-1], n_targets, table, users)
        targets, read = sequences[:, 1 : max(lengths) + 1], sequences[:, : max(lengths)]
        hidden = self._beside(hidden, read, targets > 0)
        return self._cross_entropy(hidden, targets[targets > 0], table)

    def targets_loss(
        self,
        sequences: Tensor,
        lengths: Tensor,
        first: Tensor,
        users: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy of several targets of each sequence, each behind its own response.

        Equal to the mean of :meth:`loss` over the targets' histories, in one pass.

        Parameters
        ----------
        sequences : Tensor
            [B, T+1] item ids, oldest first, right-padded with 0.
        lengths : Tensor
            [B] numbers of items, at least 2.
        first : Tensor
            [B] numbers of items before the first target; every later item is a target, too.
        users : Tensor, optional
            As in :meth:`hidden_states`.

        Returns
        -------
        Tensor
            Scalar, the mean over all targets.
        """
        table = self._table()
        response = len(self.prompt.response)
        read = lengths.cpu() - 1
        layout = None
        if not self.items_alone:
            mask = torch.arange(sequences.shape[1]) < read.unsqueeze(1)
            layout = self.layout(sequences.cpu()[mask], read)
        branches = branch(read, first.cpu(), response, sequences.device, layout)
        width = branches.item_mask.shape[1]
        hidden = self.read_targets(sequences[:, :width], branches, table, users)
        rows, columns = branches.targets
        hidden = self._beside(hidden, sequences, (rows, columns - 1))
        return self._cross_entropy(hidden, sequences[branches.targets], table)

    def _states(
        self, item_ids: Tensor, lengths: Tensor, table: Tensor | None, users: Tensor | None
    ) -> Tensor:
        if self.settings.targets == "every" and not self._reads_last_alone(lengths):
            hidden, sizes = self.read_every(item_ids, lengths, table, users)
            hidden = hidden[torch.tensor(sizes, device=hidden.device).cumsum(0) - 1]
        else:
            hidden = self.read_last(item_ids, lengths, table, users)
        rows = torch.arange(len(lengths), device=lengths.device)
        return self._beside(hidden, item_ids, (rows, lengths - 1))

    def _beside(
        self, hidden: Tensor, item_ids: Tensor, places: Tensor | tuple[Tensor, Tensor]
    ) -> Tensor:
        return self.head.beside(hidden, self.tokens.input_tables, item_ids, places)

    def _reads_last_alone(self, lengths: Tensor) -> bool:
        """Whether scores of ``targets=every`` need one position a row, which takes less work.

        A graph prefix differs between the positions of a row, :meth:`read_last` reads behind a
        response, and rows of one length hold no padding. The order of sums differs, so the small
        backbone, whose results are published, is read as it was.
        """
        others = self.settings.prefix == "graph" or len(self.prompt.response) > 0
        if self.training or self.settings.tiny or others:
            return False
        return int(lengths.max()) * len(lengths) <= PADDED * int(lengths.sum())

    def _table(self) -> Tensor | None:
        """All item tokens, where the head needs them anyway."""
        if not self.head.tied:
            return None
        with self._training_products():
            return self.tokens.all().to(self.tokens.dtype)

    def _cross_entropy(self, hidden: Tensor, target: Tensor, table: Tensor | None) -> Tensor:
        from recbole_hellm.models.losses import CHUNK, linear_cross_entropy

        weights = self.head.weights(table, self.tokens.input_tables)
        rows = len(target)
        # In half precision each chunk's gradient of the weights is a sum in float32 of its own.
        chunk = -(-rows // -(-rows // HALF_CHUNK)) if self._halves_products else CHUNK
        with self._training_products():
            queries = self.head.read_out(hidden)
            return linear_cross_entropy(queries, weights, target - 1, chunk=chunk)

    def _texts(self, texts: ItemTexts | None) -> ItemTexts | None:
        """The titles, checked, if the settings ask for them."""
        if self.settings.item_text == "none":
            return None
        if texts is None or len(texts.lengths) != self.n_items + 1:
            raise DataError(
                f"item_text={self.settings.item_text} needs the titles of {self.n_items} items; "
                "give them as texts."
            )
        if not texts.words.is_meta:
            check_words(texts, self._vocabulary, self.backbone.name)
        return texts

    @property
    def _vocabulary(self) -> int:
        return len(self.model.get_input_embeddings().weight)  # type: ignore[arg-type]

    def _empty_users(self, n_users: int | None) -> UserTokens | None:
        if not self.settings.user_token:
            return None
        width = self.tokens.table("graph").embedding_dim
        return UserTokens(n_users, width, bool(self.settings.normalise_tables))

    @property
    def _halves_products(self) -> bool:
        """Whether products over all items, too, run in half precision."""
        return (
            self.training
            and self.products == torch.bfloat16
            and torch.amp.is_autocast_available(self.head.linear.weight.device.type)
        )

    def _training_products(self) -> Any:
        """Autocast for products over all items: a bfloat16 decoder's training needs no more.

        Scores for rankings are computed in float32, which has fewer ties. Gradients in float16
        would underflow, since they are formed here before they are scaled.
        """
        if not self._halves_products:
            return nullcontext()
        return torch.autocast(self.head.linear.weight.device.type, dtype=torch.bfloat16)

    # ---------------------------------------------------------------- facts

    def check_training(self, longest: int) -> None:
        """Check before training that the backbone has what the settings ask of it.

        Parameters
        ----------
        longest : int
            Tokens of the longest history.

        Raises
        ------
        BackboneError
            If a target of LoRA names no layer, or the backbone has too few positions.
        """
        if self.backbone.targets is not None:
            check_targets(self.backbone.targets, self.settings)
        self.check_length(longest)

    def trainable_parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser.

        Parameters
        ----------
        weight_decay : float
            Applied to matrices only; to everything, biases and norms included, under
            ``variant=released``.
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        everything = self.settings.variant == "released"
        decayed = [p for p in parameters if everything or p.ndim > 1]
        others = [p for p in parameters if not everything and p.ndim <= 1]
        groups = [(decayed, weight_decay), (others, 0.0)]
        return [{"params": group, "weight_decay": decay} for group, decay in groups if group]

    def extra_facts(self) -> dict[str, Any]:
        """Parameter counts, for a run's record."""
        counts = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return {
            "backbone": self.backbone.name,
            "trainable_parameters": sum(count for count, trained in counts if trained),
            "total_parameters": sum(count for count, _ in counts),
        }
