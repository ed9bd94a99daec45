"""Passes of the decoder over histories: ``[instruction][user][items][response]``.

The user's token and the title before each item token are options.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_hellm.errors import BackboneError, ConfigError
from recbole_hellm.models.llm.attention import AttentionContext
from recbole_hellm.models.llm.backbone import Backbone
from recbole_hellm.models.llm.item_texts import ItemTexts
from recbole_hellm.models.llm.item_tokens import ItemTokens
from recbole_hellm.models.llm.last_position import LastPosition
from recbole_hellm.models.llm.loading import DTYPES, HALVES
from recbole_hellm.models.llm.masks import Masks, causal, layer_masks
from recbole_hellm.models.llm.packing import Branches, Layout, Packing, lay_out, pack
from recbole_hellm.models.llm.pooling import SecondOrderPooling
from recbole_hellm.models.llm.prefix import BoundPrefix, GraphPrefix
from recbole_hellm.models.llm.prompt import PromptTokens, align_right, trim
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.models.llm.user_tokens import UserTokens

# Dynamo options for tracing the full decoder: side effects of layers on the context need not be
# repeated when checkpointing recomputes them; training, evaluation and the shared instruction are
# variants of one graph.
DYNAMO = {"skip_fwd_side_effects_in_bwd_under_checkpoint": True, "recompile_limit": 32}


class HistoryReader(nn.Module):
    r"""Hidden states of a decoder that reads item tokens under a prefix.

    There are three passes:

    - :meth:`read_last`: one row per history under the history's own prefix, read at the last
      token. This is the paper's pass, and the only one for a graph prefix with a response segment,
      since there each target of a user changes every token.
    - :meth:`read_every`: full sequences, read at every item, with a prefix per position.
    - :meth:`read_targets`: full sequences with a response segment for each target, which sees the
      items before it; for prefixes that are equal for all users.

    They agree without a graph prefix. With one, :meth:`read_every` agrees with :meth:`read_last` in
    the first layer alone: there, earlier items see the prefix of the items up to them, in the paper
    that of the whole history, so what the second layer reads of them differs.

    The latter two read the instruction once for all rows. In training, all rows then share one
    dropout mask for it, which does not change the expected loss of a target.
    """

    settings: LLMSettings
    backbone: Backbone
    tokens: ItemTokens
    prompt: PromptTokens
    pooling: SecondOrderPooling | None
    prefix: GraphPrefix | None
    offset: int

    def __init__(self) -> None:
        super().__init__()
        self.texts: ItemTexts | None = None
        self.users: UserTokens | None = None

    def set_up_passes(self, model: nn.Module) -> None:
        """Choose the compute type and the positions to read; call it after building all parts."""
        settings = self.settings
        stored = next(p.dtype for p in model.parameters() if p.is_floating_point())
        stored_half = stored if stored in HALVES else None
        self.products = stored_half if settings.autocast == "auto" else DTYPES[settings.autocast]
        self.loss_scaling = self.products == torch.float16
        LastPosition(model, self.backbone.attention_layers[-1])
        # A pass reads the last position of a row if no padding can follow the items.
        self.ends_rows = settings.padding_side == "left" or len(self.prompt.response) > 0
        self.last_layer = self.backbone.n_layers - 1 if self.ends_rows else None
        self.compiled = False

    @property
    def lead(self) -> int:
        """Tokens before a history's first item: the user's, if users are read."""
        return 0 if self.users is None else 1

    @property
    def items_alone(self) -> bool:
        """Whether a history is read as its item tokens and nothing else."""
        return self.texts is None and self.users is None

    @property
    def tokens_per_item(self) -> int:
        """The most tokens that an item of a history takes up: one, and those of its title."""
        return 1 if self.texts is None else 1 + int(self.texts.lengths.max())

    def check_length(self, tokens: int) -> None:
        """Check that the backbone has a position for each token of a history.

        Parameters
        ----------
        tokens : int
            Tokens of the history, titles included.

        Raises
        ------
        BackboneError
            If it has learned fewer.
        """
        limit = self.backbone.positions
        others = len(self.prompt.instruction) + len(self.prompt.response) + self.offset
        if limit is None or others + tokens <= limit:
            return
        # So many items fit, however long their titles are.
        items = (limit - others - self.lead) // self.tokens_per_item
        ways = [f"--MAX_ITEM_LIST_LENGTH={items}"] if items > 0 else []
        ways += ["--prompt=none"] if len(self.prompt.instruction) else []
        plain = self.items_alone
        history = f"{tokens} items" if plain else f"a history of {tokens} tokens"
        raise BackboneError(
            f"backbone={self.backbone.name} has {limit} positions, and {history} with a prompt "
            f"of {others} tokens need{'' if plain else 's'} {others + tokens}; use "
            f"{' or '.join([*ways, 'a backbone with more positions'])}."
        )

    def layout(self, item_ids: Tensor, counts: Tensor) -> Layout:
        """Layout of the tokens of histories, on their device.

        Parameters
        ----------
        item_ids : Tensor
            [n] item ids, history after history.
        counts : Tensor
            [B] items of each history.
        """
        widths = None if self.texts is None else self.texts.widths(item_ids)
        return lay_out(counts, widths, self.lead)

    # ---------------------------------------------------------------- passes

    def read_last(
        self,
        item_ids: Tensor,
        lengths: Tensor,
        table: Tensor | None = None,
        users: Tensor | None = None,
    ) -> Tensor:
        """Read each history at its last token under its own prefix (paper): [B, hidden_size].

        Parameters
        ----------
        item_ids : Tensor
            [B, T] histories, right-padded with 0.
        lengths : Tensor
            [B] numbers of items.
        table : Tensor, optional
            [N+1, hidden_size], all item tokens, if already computed.
        users : Tensor, optional
            [B] user ids, where the network reads users; 0, a user who is not known, by default.
        """
        item_ids, sizes = trim(item_ids, lengths)
        mask = torch.arange(item_ids.shape[1], device=item_ids.device) < lengths.unsqueeze(1)
        left = self.settings.padding_side == "left"
        if left:
            item_ids, mask = align_right(item_ids, lengths), mask.flip(1)
        batch, slots = len(item_ids), mask
        if not self.items_alone:
            layout = self.layout(item_ids[mask], lengths)
            lengths, sizes = layout.sizes, layout.sizes.tolist()
            slots = torch.arange(max(sizes), device=lengths.device) < lengths.unsqueeze(1)
            slots = slots.flip(1) if left else slots
        self.check_length(max(sizes))
        # Without a graph prefix the instruction is equal for all users. In training, however, each
        # sample draws its own dropout.
        share = not self.training and self.settings.prefix != "graph"
        shared = self._instruction() if share else None
        before = self.prompt.instruction if shared is None else self.prompt.instruction[:0]
        if self.items_alone:
            block = self._items(item_ids, table)
        else:
            flat = self._histories(item_ids[mask], layout.slots, layout.starts, table, users)
            block = flat.new_zeros(*slots.shape, flat.shape[-1]).masked_scatter(
                slots.unsqueeze(-1), flat
            )
        parts = [
            self._words(before).expand(batch, -1, -1),
            block,
            self._words(self.prompt.response).expand(batch, -1, -1),
        ]
        sides = (len(before), len(self.prompt.response))
        keys = F.pad(slots, sides, value=True)
        skipped = len(self.prompt.instruction) - len(before)
        positions = (keys.cumsum(1) - 1) * keys + self.offset + skipped
        prefix = self._prefix(item_ids, mask)
        context = AttentionContext(prefix, shared, last_layer=self.last_layer)
        visible = causal(keys) if min(sizes) < max(sizes) else None
        hidden = self._run(torch.cat(parts, dim=1), visible, positions, context)
        if self.ends_rows:
            return hidden[:, -1]
        return hidden[torch.arange(batch, device=hidden.device), sides[0] + lengths - 1]

    def read_every(
        self,
        item_ids: Tensor,
        lengths: Tensor,
        table: Tensor | None = None,
        users: Tensor | None = None,
    ) -> tuple[Tensor, list[int]]:
        """Read every item token under its own prefix, that of the items up to it.

        Parameters
        ----------
        item_ids, lengths, table, users
            As in :meth:`read_last`.

        Returns
        -------
        states : Tensor
            [sum of lengths, hidden_size].
        lengths : list of int
        """
        if self.settings.targets != "every":
            raise ConfigError("Scores at every position need targets=every; set it.")
        item_ids, sizes = trim(item_ids, lengths)
        mask = torch.arange(item_ids.shape[1], device=item_ids.device) < lengths.unsqueeze(1)
        items, tokens = item_ids[mask], sizes
        if not self.items_alone:
            layout = self.layout(items, lengths)
            tokens = layout.sizes.tolist()
        self.check_length(max(tokens))
        packing = pack(tokens, item_ids.device)
        shared = self._instruction()
        if self.items_alone:
            packed = packing.scatter(items)
        else:
            # Padding where words stand: the pooling of a prefix adds nothing for it.
            pooled = items.new_zeros(sum(tokens)).index_copy(0, layout.slots, items)
            packed = packing.scatter(pooled)
        # The prefix draws its dropout before the tokens do: published runs have this order.
        context = AttentionContext(self._running_prefix(packed, packing), shared)
        if self.items_alone:
            inputs = self._items(packed, table)
        else:
            flat = self._histories(items, layout.slots, layout.starts, table, users)
            inputs = packing.scatter(flat)
        positions = packing.positions + self.offset + len(self.prompt.instruction)
        hidden = packing.gather(self._run(inputs, packing.visible, positions, context))
        return hidden if self.items_alone else hidden[layout.slots], sizes

    def read_targets(
        self,
        item_ids: Tensor,
        branches: Branches,
        table: Tensor | None = None,
        users: Tensor | None = None,
    ) -> Tensor:
        """Read a response for each target after the items of its row: [targets, hidden_size].

        Equal to :meth:`read_last` on every shorter history, in one pass.

        Parameters
        ----------
        item_ids : Tensor
            [B, T] sequences, right-padded with 0.
        branches : Branches
            The layout of items and responses.
        table, users
            As in :meth:`read_last`.
        """
        packing = branches.packing
        shared = self._instruction()
        items, total = item_ids[branches.item_mask], len(packing.index)
        flat = self._histories(items, branches.item_slots, branches.starts, table, users, total)
        if branches.response_slots.numel():
            words = self._words(self.prompt.response).expand(len(branches.response_slots), -1, -1)
            flat = flat.index_copy(0, branches.response_slots.flatten(), words.flatten(0, 1))
        context = AttentionContext(self._static_prefix(), shared)
        positions = packing.scatter(branches.positions) + self.offset
        positions = positions + len(self.prompt.instruction)
        hidden = self._run(packing.scatter(flat), branches.visible, positions, context)
        return packing.gather(hidden)[branches.read_slots]

    def _instruction(self) -> AttentionContext | None:
        """Run the instruction once, under the prefix of a user without items."""
        words = self.prompt.instruction
        if len(words) == 0:
            return None
        positions = torch.arange(len(words), device=words.device) + self.offset
        context = AttentionContext(self._static_prefix(), cached_positions=positions)
        self._run(self._words(words), None, positions.unsqueeze(0), context)
        return context

    def _run(
        self, inputs: Tensor, visible: Tensor | None, positions: Tensor, context: AttentionContext
    ) -> Tensor:
        if self.settings.compile and not self.compiled:
            self._compile(inputs.device)
        config = self.backbone.model.config
        window = getattr(config, "sliding_window", None)
        masks: Masks | None = None
        # Eager code is fastest without a mask; compiled code always takes one.
        if visible is None and (self.settings.compile or window is not None):
            visible = causal(torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device))
        if visible is not None:
            slots = 0 if self.prefix is None else self.settings.prefix_length
            masks = layer_masks(config, visible, positions, context.shared_positions, slots)
        # With half-precision weights and float32 tokens, products run in half precision and the
        # residual stream stays in float32.
        kind = inputs.device.type
        autocast = torch.autocast(kind, dtype=self.products) if self.products else nullcontext()
        with autocast, _traceable() if self.compiled else nullcontext():
            output = self.backbone.model(
                inputs_embeds=inputs,
                attention_mask=masks,
                position_ids=positions,
                use_cache=False,
                prefix_context=context,
            )
        context.check_reached(self.backbone.n_layers)
        hidden: Tensor = output.last_hidden_state
        return hidden.to(inputs.dtype)

    def _compile(self, device: torch.device) -> None:
        # On a CPU, Inductor draws random numbers one by one; PyTorch's generator is vectorised.
        options = {"fallback_random": True} if device.type == "cpu" else None
        self.backbone.model.compile(dynamic=True, options=options)
        self.compiled = True

    # ---------------------------------------------------------------- inputs

    def _items(self, item_ids: Tensor, table: Tensor | None) -> Tensor:
        tokens = self.tokens(item_ids) if table is None else F.embedding(item_ids, table)
        return F.dropout(tokens, self.backbone.embedding_dropout, self.training)

    def _histories(
        self,
        items: Tensor,
        slots: Tensor,
        starts: Tensor,
        table: Tensor | None,
        users: Tensor | None,
        total: int | None = None,
    ) -> Tensor:
        """Tokens of histories in a row, [total, hidden_size]; zeros where none of them stands."""
        tokens = self._items(items, table)
        total = int(slots[-1]) + 1 if total is None else total
        flat = tokens.new_zeros(total, tokens.shape[-1]).index_copy(0, slots, tokens)
        if self.texts is not None:
            words, places = self.texts.placed(items, slots)
            flat = flat.index_copy(0, places, self._words(words)[0])
        if self.users is not None:
            known = starts.new_zeros(len(starts)) if users is None else users
            flat = flat.index_copy(0, starts, self.tokens.mapped(self.users(known)))
        return flat

    def _words(self, ids: Tensor) -> Tensor:
        words: Tensor = self.backbone.model.get_input_embeddings()(ids)
        return words.to(self.tokens.dtype).unsqueeze(0)

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
        """Graph embeddings to pool; training drops items at random."""
        embeddings: Tensor = self.tokens.table("graph")(item_ids)
        rate = self.settings.pooling_dropout or 0.0
        if not self.training or rate == 0:
            return embeddings
        # Gram matrices are of second order, so the root of the mask keeps their expectation.
        scale = F.dropout(embeddings.new_ones(*item_ids.shape, 1), rate).sqrt()
        return embeddings * scale

    def _static_prefix(self) -> BoundPrefix | None:
        """The prefix of a user without items."""
        if self.prefix is None:
            return None
        pooled: Any = None
        if self.pooling is not None:
            like = self.tokens.table("graph").weight
            pooled = like.new_zeros(1, 1, self.pooling.size, dtype=self.tokens.dtype)
        bound: BoundPrefix = self.prefix(pooled)
        return bound


def _traceable() -> Any:
    from torch._dynamo import config

    return config.patch({key: value for key, value in DYNAMO.items() if hasattr(config, key)})
