"""A straightforward second stage: what :mod:`llm_throughput` measures the package against.

The same mathematics and the same weights as :class:`recbole_hellm.models.llm.HeLLMNetwork`, written
the way one writes it first: attention weights are formed and multiplied out, the prefix of every
layer and slot is formed for every sample and passes the layer's projections one by one, batches are
padded as they come, all logits are formed, and users are scored one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from recbole_hellm.models.llm import HeLLMNetwork

NAME = "hellm_reference"
EPS = 1e-5


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    reference_prefix: Callable[[nn.Module], tuple[Tensor, Tensor]] | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Scores, softmax and weighted sum, each formed in full; the prefix stands before the keys."""
    length = query.shape[2]
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if attention_mask is not None:
        mask = attention_mask | torch.eye(length, dtype=torch.bool, device=query.device)
    if reference_prefix is not None:
        keys, values = reference_prefix(module)
        key = torch.cat([keys.to(key.dtype), key], dim=2)
        value = torch.cat([values.to(value.dtype), value], dim=2)
        mask = F.pad(mask, (keys.shape[2], 0), value=True)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, eager_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class Reference:
    """The second stage of a network, computed straightforwardly with the network's own weights.

    Parameters
    ----------
    network : HeLLMNetwork
        With one sample per target (``targets=last``). Its attention function is changed, so use
        the network itself no more, or build two from one seed.
    """

    def __init__(self, network: HeLLMNetwork) -> None:
        self.network = network
        network.model.set_attn_implementation(NAME)

    def scores(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """Logits of all items, [B, N]; histories are [B, T], right-padded with 0."""
        network = self.network
        width = histories.shape[1]
        columns = torch.arange(width, device=histories.device) - (width - lengths)[:, None]
        items = histories.gather(1, columns.clamp_min(0)) * (columns >= 0)
        prompt, embed = network.prompt, network.model.get_input_embeddings()
        batch = len(items)
        tokens = torch.cat(
            [
                embed(prompt.instruction).float().expand(batch, -1, -1),
                network.tokens(items),
                embed(prompt.response).float().expand(batch, -1, -1),
            ],
            dim=1,
        )
        mask = F.pad(columns >= 0, (len(prompt.instruction), len(prompt.response)), value=True)
        positions = (mask.cumsum(1) - 1) * mask + network.offset
        dtype = next(network.model.parameters()).dtype
        half = dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(tokens.device.type, dtype=dtype, enabled=half):
            output = network.model(
                inputs_embeds=tokens,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                reference_prefix=self._prefix(items, columns >= 0),
            )
        last = output.last_hidden_state[:, -1].float()
        return network.head.read_out(last) @ network.head.weights(None).T

    def loss(self, histories: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over all items (paper, equation 14)."""
        return F.cross_entropy(self.scores(histories, lengths), targets - 1)

    def _prefix(self, items: Tensor, mask: Tensor) -> Any:
        network = self.network
        if network.prefix is None:
            return None
        pooled = None
        if network.pooling is not None:
            graph = network.tokens.table("graph")(items) * mask[..., None]
            if network.pooling.bilinear is not None:
                graph = network.pooling.bilinear(graph)
            pooled = (graph.transpose(1, 2) @ graph).flatten(1)
            if network.prefix.norm is not None:
                pooled = network.prefix.norm(pooled)
        formed = [
            self._formed(side, pooled, len(items))
            for side in (network.prefix.keys, network.prefix.values)
        ]
        head_dim, projected = network.prefix.head_dim, network.prefix.projected

        def of_layer(attention: nn.Module) -> tuple[Tensor, Tensor]:
            found = []
            for prefix, name in zip(formed, ("k_proj", "v_proj"), strict=True):
                slots = prefix[int(attention.layer_idx)]  # type: ignore[arg-type]
                if projected:
                    projection = attention.get_submodule(name)
                    slots = getattr(projection, "base_layer", projection)(slots)
                found.append(slots.unflatten(-1, (-1, head_dim)).transpose(1, 2))
            return found[0], found[1]

        return of_layer

    @staticmethod
    def _formed(side: Any, pooled: Tensor | None, batch: int) -> Tensor:
        """Every layer's and slot's prefix of every sample, [layers, B, k, size]."""
        prefix = side.static[:, None].expand(-1, batch, -1, -1)
        if pooled is not None and side.mlp is not None:
            graph = side.mlp(pooled)
            if side.graph_norm is not None:
                graph = side.graph_norm(graph)
            prefix = prefix + graph[None, :, None]
        return prefix if side.norm is None else side.norm(prefix)
