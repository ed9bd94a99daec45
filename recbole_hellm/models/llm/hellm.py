"""HeLLM's second stage: a language model that reads item tokens under a graph-made prefix.

Paper, sections 3.5 and 3.6. The same network without a prefix and with other item tokens is CoLLM
or LLaRA as the paper compares with them.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.models.llm.attention import AttentionContext
from recbole_hellm.models.llm.backbone import (
    Backbone,
    build_backbone,
    omit_frozen_from_checkpoints,
)
from recbole_hellm.models.llm.item_tokens import ItemHead, ItemTokens
from recbole_hellm.models.llm.prefix import BoundPrefix, build_prefix
from recbole_hellm.models.llm.prompt import (
    Packing,
    PromptTemplate,
    PromptTokens,
    align_right,
    pack,
    require_tokenizer,
    trim,
)
from recbole_hellm.models.llm.settings import LLMSettings


class HeLLMNetwork(nn.Module):
    r"""Next-item scores from a decoder over ``[instruction][items][response]``.

    Every layer's keys and values begin with prefixes made from the second-order pooling of the
    user's graph embeddings (Eqs. 8 to 11); the last hidden state is classified over all items
    (Eq. 14).

    With ``targets=every`` one pass over a sequence scores the item after each position. The
    prefix that position t sees is made from the items up to t, and the hidden state is read at
    the item token itself, so the pass equals one call for every shorter history.

    Parameters
    ----------
    settings : LLMSettings
        See there.
    graph_table, sequence_table : Tensor, optional
        [N+1, d_g] and [N+1, d_s], item embeddings of the earlier stages; row 0 is padding.
    n_items : int, optional
        N; needed only where neither table is given.
    backbone : Backbone, optional
        Used instead of building the one that the settings name.
    device : torch.device or str, optional
        Where the network will run, which decides a pre-trained backbone's type of weights.

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
        graph_table: Tensor | None = None,
        sequence_table: Tensor | None = None,
        *,
        n_items: int | None = None,
        backbone: Backbone | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings = settings.resolved()
        self.backbone = backbone = backbone or build_backbone(settings, device)
        self.model = backbone.model
        self.n_items = _n_items(n_items, graph_table, sequence_table)
        needs_prefix_graph = settings.prefix == "graph"
        if needs_prefix_graph and graph_table is None:
            raise ConfigError(
                "prefix=graph needs the graph embeddings of HeLLM_pre, and none were given; run "
                "that stage or use --prefix=static or --prefix=none."
            )
        needs_graph = needs_prefix_graph or "graph" in settings.item_inputs
        needs_sequence = "sequence" in settings.item_inputs
        self.tokens = ItemTokens(
            backbone.hidden_size,
            self.n_items,
            graph_table if needs_graph else None,
            sequence_table if needs_sequence else None,
            inputs=settings.item_inputs,
            mlp_hidden=settings.item_mlp_hidden or backbone.hidden_size,
            activation=settings.item_mlp_activation,
            vectors=bool(settings.item_vectors),
            train_tables=bool(settings.train_item_tables),
            normalise=bool(settings.normalise_tables),
        )
        self.head = ItemHead(
            settings.head or "linear",
            backbone.hidden_size,
            self.n_items,
            bool(settings.train_head),
        )
        graph = self.tokens.table("graph").weight if needs_prefix_graph else None
        self.pooling, self.prefix = build_prefix(settings, backbone, graph)
        self.prompt = PromptTokens([], [])
        if settings.prompt == "alpaca":
            tokenizer = require_tokenizer(backbone.tokenizer, backbone.name)
            self.prompt = PromptTemplate().words(tokenizer, bool(settings.response_bos))
        shifted = settings.variant == "released" and self.prefix is not None
        self.offset = settings.prefix_length if shifted else 0
        if not (backbone.trained or settings.tiny):
            # Pre-trained weights come from their source again.
            omit_frozen_from_checkpoints(self, "model")

    # ---------------------------------------------------------------- scores

    def hidden_states(self, item_ids: Tensor, lengths: Tensor) -> Tensor:
        """Read-out of each history, to be met by :meth:`item_weights`.

        Parameters
        ----------
        item_ids : Tensor
            [B, T] item ids, oldest first, right-padded with 0.
        lengths : Tensor
            [B] numbers of items; ids beyond are ignored.

        Returns
        -------
        Tensor
            [B, hidden_size].
        """
        return self._hidden(item_ids, lengths, None)

    def all_hidden_states(self, item_ids: Tensor, lengths: Tensor) -> Tensor:
        """Read-out after every item of each history, [B, T, hidden_size]; ``targets=every``."""
        width = item_ids.shape[1]
        hidden, _ = self._stream(item_ids, lengths, None)
        mask = torch.arange(width, device=item_ids.device) < lengths.unsqueeze(1)
        output = hidden.new_zeros(*item_ids.shape, hidden.shape[-1])
        output[mask] = hidden
        return output

    def item_weights(self) -> Tensor:
        """Weights [N, hidden_size] that score the items; row j belongs to item j + 1."""
        return self.head.weights(self._table())

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [B, N+1] of read-outs [B, hidden_size]; column 0, padding, is -inf."""
        return F.pad(hidden @ self.item_weights().T, (1, 0), value=float("-inf"))

    def loss(self, item_ids: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of the next item, paper Eq. 14.

        Parameters
        ----------
        item_ids : Tensor
            [B, T] histories, right-padded with 0.
        lengths : Tensor
            [B] numbers of items.
        target : Tensor
            [B] id of the next item.

        Returns
        -------
        Tensor
            Scalar.
        """
        table = self._table()
        hidden = self._hidden(item_ids, lengths, table)
        return _cross_entropy(hidden, self.head.weights(table), target - 1)

    def sequence_loss(self, sequences: Tensor) -> Tensor:
        """Mean cross-entropy over all positions of all sequences; ``targets=every``.

        Parameters
        ----------
        sequences : Tensor
            [B, T+1] item ids, oldest first, right-padded with 0. Sequences of a single item
            hold no target and are passed over.

        Returns
        -------
        Tensor
            Scalar, the mean over all targets.

        Raises
        ------
        DataError
            If no sequence holds a target.
        """
        n_targets = (sequences > 0).sum(1) - 1
        sequences, n_targets = sequences[n_targets > 0], n_targets[n_targets > 0]
        if len(sequences) == 0:
            raise DataError("No sequence of this batch has two items, so there is no target.")
        table = self._table()
        hidden, lengths = self._stream(sequences[:, :-1], n_targets, table)
        targets = sequences[:, 1 : max(lengths) + 1]
        return _cross_entropy(hidden, self.head.weights(table), targets[targets > 0] - 1)

    # ---------------------------------------------------------------- passes

    def _hidden(self, item_ids: Tensor, lengths: Tensor, table: Tensor | None) -> Tensor:
        if self.settings.targets == "every":
            hidden, sizes = self._stream(item_ids, lengths, table)
            return hidden[torch.tensor(sizes, device=hidden.device).cumsum(0) - 1]
        return self._single(item_ids, lengths, table)

    def _single(self, item_ids: Tensor, lengths: Tensor, table: Tensor | None) -> Tensor:
        """One prefix per history, read at the last token (paper): [B, hidden_size]."""
        item_ids, _ = trim(item_ids, lengths)
        mask = torch.arange(item_ids.shape[1], device=item_ids.device) < lengths.unsqueeze(1)
        if self.settings.padding_side == "left":
            item_ids, mask = align_right(item_ids, lengths), mask.flip(1)
        batch = len(item_ids)
        # The instruction is the same for all where no user's graph reaches it. Not in training,
        # where each sample draws its own dropout.
        share = not self.training and self.settings.prefix != "graph"
        following = item_ids.shape[1] + len(self.prompt.response)
        shared = self._instruction(following) if share else None
        before = self.prompt.instruction if shared is None else self.prompt.instruction[:0]
        segments = [
            self._words(before).expand(batch, -1, -1),
            self._items(item_ids, table),
            self._words(self.prompt.response).expand(batch, -1, -1),
        ]
        sides = (len(before), len(self.prompt.response))
        keys = F.pad(mask, sides, value=True)
        skipped = len(self.prompt.instruction) - len(before)
        positions = (keys.cumsum(1) - 1) * keys + self.offset + skipped
        context = AttentionContext(self._prefix(item_ids, mask), shared=shared)
        hidden = self._run(torch.cat(segments, dim=1), keys, positions, context)
        if sides[1] > 0 or self.settings.padding_side == "left":
            last = hidden[:, -1]
        else:
            last = hidden[torch.arange(batch, device=hidden.device), sides[0] + lengths - 1]
        return self.head.read_out(last)

    def _stream(
        self, item_ids: Tensor, lengths: Tensor, table: Tensor | None
    ) -> tuple[Tensor, list[int]]:
        """Every position's own prefix: read-outs [sum of lengths, hidden_size] and lengths."""
        if self.settings.targets != "every":
            raise ConfigError("Scores at every position need targets=every.")
        item_ids, sizes = trim(item_ids, lengths)
        mask = torch.arange(item_ids.shape[1], device=item_ids.device) < lengths.unsqueeze(1)
        packing = pack(sizes, item_ids.device)
        packed = packing.scatter(item_ids[mask])
        shared = self._instruction(max(sizes))
        prefix = self._running_prefix(packed, packing)
        context = AttentionContext(prefix, packing.segments, shared)
        positions = packing.positions + self.offset + len(self.prompt.instruction)
        hidden = self._run(self._items(packed, table), None, positions, context)
        return self.head.read_out(packing.gather(hidden)), sizes

    def _instruction(self, following: int) -> AttentionContext | None:
        """Run the instruction once, under the prefix of a user without items."""
        length = len(self.prompt.instruction)
        if length == 0:
            return None
        window = getattr(self.model.config, "sliding_window", None)
        if window is not None and window < length + following:
            raise ConfigError(
                f"backbone={self.backbone.name} attends to {window} tokens, too few to keep the "
                "instruction in sight; use --prompt=none or --targets=last."
            )
        context = AttentionContext(self._static_prefix(), keep=True)
        positions = torch.arange(length, device=self.prompt.instruction.device)[None] + self.offset
        self._run(self._words(self.prompt.instruction), None, positions, context)
        return context

    def _run(
        self, inputs: Tensor, mask: Tensor | None, positions: Tensor, context: AttentionContext
    ) -> Tensor:
        weights = next(self.model.parameters()).dtype
        # Half-precision weights meet float32 tokens: products in half precision, the residual
        # stream in float32.
        half = weights in (torch.bfloat16, torch.float16)
        with torch.autocast(inputs.device.type, dtype=weights) if half else nullcontext():
            output = self.model(
                inputs_embeds=inputs,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                prefix_context=context,
            )
        context.check_reached(self.backbone.n_layers)
        hidden: Tensor = output.last_hidden_state
        return hidden.to(inputs.dtype)

    # ---------------------------------------------------------------- inputs

    def _table(self) -> Tensor | None:
        """All item tokens, where the head needs them anyway."""
        return self.tokens.all() if self.head.tied else None

    def _items(self, item_ids: Tensor, table: Tensor | None) -> Tensor:
        tokens = self.tokens(item_ids) if table is None else F.embedding(item_ids, table)
        return F.dropout(tokens, self.backbone.embedding_dropout, self.training)

    def _words(self, ids: Tensor) -> Tensor:
        dtype = self.head.linear.weight.dtype
        words: Tensor = self.model.get_input_embeddings()(ids)
        return words.to(dtype).unsqueeze(0)

    def _prefix(self, item_ids: Tensor, mask: Tensor) -> BoundPrefix | None:
        if self.prefix is None or self.pooling is None:
            return self._static_prefix()
        pad = self.tokens.table("graph").weight[1]
        pooled = self.pooling(self._pooled_items(item_ids), mask, pad)
        bound: BoundPrefix = self.prefix(pooled.unsqueeze(1))
        return bound

    def _running_prefix(self, packed: Tensor, packing: Packing) -> BoundPrefix | None:
        if self.prefix is None or self.pooling is None:
            return self._static_prefix()
        return self.prefix.running(self.pooling, self._pooled_items(packed), packing.visible)

    def _pooled_items(self, item_ids: Tensor) -> Tensor:
        """Graph embeddings to pool; in training, items are left out at random."""
        embeddings: Tensor = self.tokens.table("graph")(item_ids)
        rate = self.settings.pooling_dropout or 0.0
        if not self.training or rate == 0:
            return embeddings
        # Gram matrices are of second order, so the root keeps their expectation.
        kept = F.dropout(embeddings.new_ones(*item_ids.shape, 1), rate).sqrt()
        return embeddings * kept

    def _static_prefix(self) -> BoundPrefix | None:
        """The prefix of a user without items."""
        if self.prefix is None:
            return None
        pooled = None
        if self.pooling is not None:
            pooled = self.head.linear.weight.new_zeros(1, 1, self.pooling.size)
        bound: BoundPrefix = self.prefix(pooled)
        return bound

    # ---------------------------------------------------------------- facts

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


def _n_items(n_items: int | None, *tables: Tensor | None) -> int:
    sizes = [len(table) - 1 for table in tables if table is not None]
    if n_items is None and not sizes:
        raise ConfigError("Without item embeddings the network must be told the number of items.")
    return sizes[0] if n_items is None else n_items


def _cross_entropy(hidden: Tensor, weights: Tensor, target: Tensor) -> Tensor:
    from recbole_hellm.models.losses import linear_cross_entropy

    loss: Tensor = linear_cross_entropy(hidden, weights, target)
    return loss
