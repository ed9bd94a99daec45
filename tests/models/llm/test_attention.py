from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    DynamicCache,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm import attention
from recbole_hellm.models.llm.attention import (
    ATTENTION,
    AttentionContext,
    PrefixFactors,
    prefix_attention,
)

B, T, SLOTS, WIDTH = 3, 5, 4, 6


class Layer(nn.Module):
    """As much of an attention module as the interface looks at."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.layer_idx = 0
        self.num_key_value_groups = groups
        self.is_causal = True


@dataclasses.dataclass
class Source:
    keys: PrefixFactors
    values: PrefixFactors

    def layer(self, attention: nn.Module) -> tuple[PrefixFactors, PrefixFactors]:
        return self.keys, self.values


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def states(heads: int, kv: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (random(B, n, T, WIDTH, seed=s) for s, n in enumerate((heads, kv, kv)))
    return q, k, v


def factors(kv: int, positions: int, released: bool, seed: int) -> PrefixFactors:
    return PrefixFactors(
        random(SLOTS, kv, WIDTH, seed=seed),
        random(B, positions, kv, WIDTH, seed=seed),
        random(B, positions, SLOTS, seed=seed) if released else None,
        random(kv, WIDTH, seed=seed) if released else None,
    )


def leaves(side: PrefixFactors) -> list[Tensor]:
    return [
        getattr(side, f.name) for f in dataclasses.fields(side) if getattr(side, f.name) is not None
    ]


def literal(q: Tensor, k: Tensor, v: Tensor, source: Source, visible: Tensor) -> Tensor:
    """Prefix concatenated by hand: query by query, head by head."""

    def prefix(side: PrefixFactors, b: int, t: int, head: int) -> Tensor:
        assert side.dynamic is not None
        t = min(t, side.dynamic.shape[1] - 1)
        rows = []
        for slot in range(SLOTS):
            row = side.static[slot, head] + side.dynamic[b, t, head]
            row = row if side.scale is None else row * side.scale[b, t, slot]
            rows.append(row if side.bias is None else row + side.bias[head])
        return torch.stack(rows)

    heads, groups = q.shape[1], q.shape[1] // k.shape[1]
    output = torch.empty(B, T, heads, WIDTH, dtype=q.dtype)
    for b in range(B):
        for h in range(heads):
            for t in range(T):
                seen = visible[b, t].nonzero().flatten()
                keys = torch.cat([prefix(source.keys, b, t, h // groups), k[b, h // groups, seen]])
                values = torch.cat(
                    [prefix(source.values, b, t, h // groups), v[b, h // groups, seen]]
                )
                weights = torch.softmax(keys @ q[b, h, t] / math.sqrt(WIDTH), dim=0)
                output[b, t, h] = weights @ values
    return output


def padding(kind: str) -> Tensor:
    lengths = torch.tensor([5, 3, 1])[:, None]
    real = {
        "none": torch.ones(B, T, dtype=torch.bool),
        "right": torch.arange(T) < lengths,
        "left": torch.arange(T) >= T - lengths,
    }[kind]
    return real


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("pad", ["none", "left", "right"])
@pytest.mark.parametrize("positions", [1, T])
@pytest.mark.parametrize(("heads", "kv"), [(2, 2), (4, 2)])
def test_prefix_attention_equals_concatenation_by_hand_with_gradients(
    heads: int, kv: int, positions: int, pad: str, released: bool
) -> None:
    q, k, v = (
        random(B, heads, T, WIDTH),
        random(B, kv, T, WIDTH, seed=1),
        random(B, kv, T, WIDTH, seed=2),
    )
    source = Source(factors(kv, positions, released, 3), factors(kv, positions, released, 4))
    real = padding(pad)
    causal = torch.ones(T, T, dtype=torch.bool).tril() & real[:, None]
    # Rows of padded queries are of no interest; they see themselves here as in the package.
    visible = causal | torch.eye(T, dtype=torch.bool)
    mask = None if pad == "none" else causal[:, None]
    output, _ = prefix_attention(
        Layer(heads // kv), q, k, v, mask, prefix_context=AttentionContext(source)
    )
    expected = literal(q, k, v, source, visible)
    torch.testing.assert_close(output, expected)

    inputs = [q, k, v, *leaves(source.keys), *leaves(source.values)]
    direction = random(*output.shape, seed=9).detach()
    gradients = torch.autograd.grad((output * direction).sum(), inputs)
    references = torch.autograd.grad((expected * direction).sum(), inputs)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("released", [False, True])
def test_both_paths_agree_where_all_positions_share_a_prefix(released: bool) -> None:
    q, k, v = states(4, 2)
    once = [factors(2, 1, released, seed) for seed in (3, 4)]
    spread = [
        dataclasses.replace(
            side,
            dynamic=side.dynamic.expand(-1, T, -1, -1),  # type: ignore[union-attr]
            scale=None if side.scale is None else side.scale.expand(-1, T, -1),
        )
        for side in once
    ]
    assert spread[0].per_position
    assert not once[0].per_position
    outputs = [
        prefix_attention(Layer(2), q, k, v, None, prefix_context=AttentionContext(Source(*sides)))[
            0
        ]
        for sides in (once, spread)
    ]
    torch.testing.assert_close(outputs[0], outputs[1])


def test_attention_dropout_acts_on_both_paths() -> None:
    q, k, v = states(2, 2)
    for positions in (1, T):
        context = AttentionContext(
            Source(factors(2, positions, False, 3), factors(2, positions, False, 4))
        )
        torch.manual_seed(0)
        kept, _ = prefix_attention(Layer(1), q, k, v, None, prefix_context=context)
        dropped, _ = prefix_attention(Layer(1), q, k, v, None, dropout=0.5, prefix_context=context)
        assert not torch.allclose(kept, dropped)


def test_the_maskless_kernel_is_aligned_to_the_lower_right() -> None:
    """Taken on GPUs, where kernels without a mask are faster; the same numbers everywhere."""
    q, k, v = (random(2, heads, T, WIDTH, seed=s) for s, heads in ((0, 4), (1, 2), (2, 2)))
    keys, values = (random(2, 2, 3, WIDTH, seed=s) for s in (3, 4))
    k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
    scores = q @ k.repeat_interleave(2, 1).mT * 0.3
    scores = scores.masked_fill(~torch.ones(T, T + 3, dtype=torch.bool).tril(3), -torch.inf)
    expected = (scores.softmax(-1) @ v.repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(attention._lower_right(q, k, v, 0.3, 0.0), expected)


def test_segments_separate_the_sequences_of_a_row() -> None:
    q, k, v = (random(1, 2, 5, WIDTH, seed=s) for s in (0, 1, 2))
    segments = torch.tensor([[1, 1, 1, 2, 2]])
    visible = (segments[:, None] == segments[:, :, None]).tril()[:, None]
    together, _ = prefix_attention(Layer(1), q, k, v, visible, prefix_context=AttentionContext())
    for part in (slice(0, 3), slice(3, 5)):
        alone, _ = prefix_attention(Layer(1), q[:, :, part], k[:, :, part], v[:, :, part], None)
        torch.testing.assert_close(together[:, part], alone)


FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, object]]] = {
    "llama": (LlamaConfig, {"num_key_value_heads": 2}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 2}),
    "qwen3": (Qwen3Config, {"num_key_value_heads": 2, "head_dim": 12}),
    "mistral": (MistralConfig, {"num_key_value_heads": 4, "sliding_window": 3}),
    "gemma3": (
        Gemma3TextConfig,
        {
            "num_key_value_heads": 1,
            "head_dim": 8,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
        },
    ),
}
SHAPE = {
    "vocab_size": 11,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}


def model(family: str, attention: str, window: int | None = None) -> nn.Module:
    kind, options = FAMILIES[family]
    config = kind(**SHAPE, **(options if window is None else {**options, "sliding_window": window}))
    torch.manual_seed(5)
    return AutoModel.from_config(config, attn_implementation=attention).double().eval()


def call(network: nn.Module, **kwargs: object) -> Tensor:
    return network(use_cache=False, **kwargs).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reference", ["sdpa", "eager"])
def test_without_prefix_it_is_transformers_own_attention(family: str, reference: str) -> None:
    # In float32: the eager mask of transformers overflows its float32 softmax otherwise.
    ours, theirs = model(family, ATTENTION).float(), model(family, reference).float()
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(B, T, 32)
    for pad in ("none", "left", "right"):
        real = padding(pad)
        kwargs = {"inputs_embeds": tokens, "attention_mask": real.long()}
        context = AttentionContext()
        expected = call(theirs, **kwargs)[real]
        torch.testing.assert_close(call(ours, **kwargs)[real], expected, rtol=1e-4, atol=1e-5)
        with_context = call(ours, **kwargs, prefix_context=context)[real]
        torch.testing.assert_close(with_context, expected, rtol=1e-4, atol=1e-5)
        context.check_reached(2)


@dataclasses.dataclass
class Fixed:
    keys: Tensor  # [layers, slots, kv, width]
    values: Tensor

    def layer(self, attention: nn.Module) -> tuple[PrefixFactors, PrefixFactors]:
        index = int(attention.layer_idx)  # type: ignore[arg-type]
        return PrefixFactors(self.keys[index]), PrefixFactors(self.values[index])


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_equals_a_filled_cache_of_transformers(family: str) -> None:
    # A cache holds keys and values that precede the sequence, which is what a prefix is. Its
    # slots count as positions to a sliding window, so the window is opened here.
    ours, theirs = model(family, ATTENTION, window=64), model(family, "eager", window=64)
    theirs.load_state_dict(ours.state_dict())
    config = ours.config
    width = getattr(config, "head_dim", None) or 8
    shape = (2, SLOTS, config.num_key_value_heads, width)
    prefix = Fixed(random(*shape).detach(), random(*shape, seed=1).detach())
    tokens = torch.randn(B, T, 32, dtype=torch.float64)
    real = padding("right")
    positions = torch.arange(T).expand(B, -1)
    cache = DynamicCache()
    for index in range(2):
        cache.update(
            prefix.keys[index].transpose(0, 1).expand(B, -1, -1, -1),
            prefix.values[index].transpose(0, 1).expand(B, -1, -1, -1),
            index,
        )
    mask = torch.cat([torch.ones(B, SLOTS, dtype=torch.bool), real], dim=1).long()
    expected = theirs(
        inputs_embeds=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache
    ).last_hidden_state
    context = AttentionContext(prefix)
    output = call(
        ours,
        inputs_embeds=tokens,
        attention_mask=real.long(),
        position_ids=positions,
        prefix_context=context,
    )
    context.check_reached(2)
    torch.testing.assert_close(output[real], expected[real], rtol=1e-5, atol=1e-6)
    plain = call(ours, inputs_embeds=tokens, attention_mask=real.long(), position_ids=positions)
    assert not torch.allclose(plain[real], expected[real], atol=1e-3)


def test_shared_tokens_are_read_instead_of_computed_again() -> None:
    network = model("llama", ATTENTION)
    tokens = torch.randn(B, 7, 32, dtype=torch.float64)
    tokens[:, :3] = tokens[:1, :3]
    shape = (2, SLOTS, 2, 8)
    prefix = Fixed(random(*shape).detach(), random(*shape, seed=1).detach())
    whole = call(network, inputs_embeds=tokens, prefix_context=AttentionContext(prefix))
    first = AttentionContext(prefix, cached_positions=torch.arange(3))
    call(network, inputs_embeds=tokens[:1, :3], prefix_context=first)
    rest = call(
        network,
        inputs_embeds=tokens[:, 3:],
        position_ids=torch.arange(3, 7)[None],
        prefix_context=AttentionContext(prefix, shared=first),
    )
    torch.testing.assert_close(rest, whole[:, 3:], rtol=1e-6, atol=1e-7)


def test_layers_that_never_ask_are_an_error() -> None:
    context = AttentionContext()
    with pytest.raises(BackboneError, match="0 of the backbone's 2 layers"):
        context.check_reached(2)
