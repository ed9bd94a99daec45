from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from support.small_model import SMALL_NETWORK
from torch import Tensor
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from recbole_hellm.errors import BackboneError, ConfigError, DataError
from recbole_hellm.models.llm.backbone import wrap_backbone
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.prompt import PromptTokens, template_tokenizer
from recbole_hellm.models.llm.requirements import outline
from recbole_hellm.models.llm.settings import LLMSettings

N, D = 9, 6
HISTORIES = [[3, 1, 4, 1], [5], [9, 2, 6]]
SMALL: dict[str, Any] = {**SMALL_NETWORK, "backbone_heads": 2, "prefix_length": 4}


def tables() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(N + 1, width, generator=generator, dtype=torch.float64)
        for name, width in (("graph", D), ("sequence", 5))
    }


def build(seed: int = 1, **options: Any) -> HeLLMNetwork:
    torch.manual_seed(seed)
    network = HeLLMNetwork(LLMSettings(**{**SMALL, **options}), tables()).double().eval()
    for name, parameter in network.named_parameters():
        # Weak default weights would let a wrong prefix pass unnoticed, norms of one a lost norm.
        if "tokens.tables" not in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    if network.settings.prompt == "alpaca":  # a shorter one, for the sake of the slow reference
        network.prompt = PromptTokens([1, 7, 3, 9, 4], [5, 8])
    return network


def padded(histories: list[list[int]], width: int | None = None) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(history) for history in histories])
    ids = torch.zeros(len(histories), width or int(lengths.max()), dtype=torch.long)
    for row, history in enumerate(histories):
        ids[row, : len(history)] = torch.tensor(history)
    return ids, lengths


# --------------------------------------------------------------- the equations, written out


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / torch.sqrt(x.pow(2).mean() + eps)


def rotate(x: Tensor, position: int) -> Tensor:
    """RoPE of one head, with angles in float32 as transformers has them."""
    half = len(x) // 2
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, len(x), 2, dtype=torch.float) / len(x)))
    angles = position * frequencies
    cos, sin = angles.cos().double(), angles.sin().double()
    first, second = x[:half], x[half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin])


def graph_vector(network: HeLLMNetwork, side: Any, items: list[int]) -> Tensor | None:
    settings = network.settings
    if settings.prefix != "graph":
        return None
    table = network.tokens.table("graph").weight
    weight = None if network.pooling.bilinear is None else network.pooling.bilinear.weight
    size = D if weight is None else len(weight)
    gram = torch.zeros(size, size, dtype=torch.float64)
    for item in items:
        g = table[item] if weight is None else weight @ table[item]
        gram = gram + torch.outer(g, g)
    x = gram.flatten()
    if settings.prefix_norm == "before":
        x = rms(x, network.prefix.norm.weight, 1e-5)
        return side.mlp.rest[2](F.gelu(side.mlp.first(x)))
    x = F.gelu(side.mlp.rest[2](F.gelu(side.mlp.first(x))))
    return rms(x, side.graph_norm.weight, 1e-5)


def prefixes(network: HeLLMNetwork, layer: int, items: list[int]) -> tuple[Tensor, Tensor] | None:
    """[k, heads, width] keys and values of a layer for the given pooled items."""
    if network.settings.prefix == "none":
        return None
    attention = network.model.layers[layer].self_attn
    sides = []
    for side, linear in (
        (network.prefix.keys, attention.k_proj),
        (network.prefix.values, attention.v_proj),
    ):
        graph, rows = graph_vector(network, side, items), []
        for row in side.static[layer]:
            row = row if graph is None else row + graph
            if network.settings.prefix_norm == "after":
                row = rms(row, side.norm.weight, 1e-5)
            if network.settings.prefix_projection == "frozen":
                row = linear.weight @ row
            rows.append(row)
        sides.append(torch.stack(rows).unflatten(1, (2, -1)))
    return sides[0], sides[1]


def literal(network: HeLLMNetwork, history: list[int]) -> Tensor:
    """The read-out of one history, token by token and head by head."""
    settings, model = network.settings, network.model
    words = model.embed_tokens.weight
    item = {i: network.tokens(torch.tensor(i)) for i in set(history)}
    before = [words[i] for i in network.prompt.instruction]
    after = [words[i] for i in network.prompt.response]
    every = settings.targets == "every"
    stream = [*before, *(item[i] for i in history), *([] if every else after)]
    pooled: list[list[int]] = []
    for position in range(len(stream)):
        seen = max(0, position + 1 - len(before)) if every else len(history)
        pooled.append(history[:seen])
    offset = (
        settings.prefix_length
        if settings.variant == "released" and settings.prefix != "none"
        else 0
    )
    eps = model.config.rms_norm_eps
    for index, layer in enumerate(model.layers):
        normed = [rms(x, layer.input_layernorm.weight, eps) for x in stream]
        attention = layer.self_attn
        q, k, v = (
            [(linear.weight @ x).unflatten(0, (2, -1)) for x in normed]
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        updated = []
        for t, x in enumerate(stream):
            heads, prefix = [], prefixes(network, index, pooled[t])
            for h in range(2):
                keys = [rotate(k[s][h], s + offset) for s in range(t + 1)]
                values = [v[s][h] for s in range(t + 1)]
                if prefix is not None:
                    keys, values = [*prefix[0][:, h], *keys], [*prefix[1][:, h], *values]
                query = rotate(q[t][h], t + offset)
                scores = torch.stack([query @ key for key in keys]) / math.sqrt(len(query))
                weights = scores.softmax(0)
                heads.append(sum(w * value for w, value in zip(weights, values, strict=True)))
            x = x + attention.o_proj.weight @ torch.cat(heads)
            y = rms(x, layer.post_attention_layernorm.weight, eps)
            gate, up = layer.mlp.gate_proj.weight @ y, layer.mlp.up_proj.weight @ y
            updated.append(x + layer.mlp.down_proj.weight @ (gate * torch.sigmoid(gate) * up))
        stream = updated
    last = rms(stream[-1], model.norm.weight, eps)
    return network.head.linear.weight @ last if settings.head in (None, "tied") else last


VARIANTS = [
    {},
    {"variant": "released"},
    {"prefix": "static"},
    {"prefix": "none"},
    {"prefix_norm": "after"},
    {"prefix_projection": "frozen", "bilinear": "none"},
]
PLACES = [
    {"targets": "every", "prompt": "none"},
    {"targets": "every", "prompt": "alpaca"},
    {"targets": "last", "prompt": "none"},
    {"targets": "last", "prompt": "alpaca", "head": "linear"},
]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_network_equals_the_equations_written_out(
    variant: dict[str, Any], place: dict[str, Any]
) -> None:
    network = build(**variant, **place)
    with torch.no_grad():
        hidden = network.hidden_states(*padded(HISTORIES, width=6))
        for row, history in enumerate(HISTORIES):
            torch.testing.assert_close(hidden[row], literal(network, history), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_an_empty_history_is_one_item_of_padding_under_the_prefix_of_no_items(
    variant: dict[str, Any], place: dict[str, Any]
) -> None:
    network = build(**variant, **place)
    hidden = network.hidden_states(*padded([[0], *HISTORIES]))
    torch.testing.assert_close(hidden[0], literal(network, [0]), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(hidden[1:], network.hidden_states(*padded(HISTORIES)))
    if network.prefix is not None:
        nobody, lonely = network._static_prefix(), network._prefix(*padded([[0]]))
        for side in ("keys", "values"):
            one, other = getattr(nobody, side), getattr(lonely, side)
            assert one.dynamic is None or torch.equal(one.dynamic, other.dynamic)
    loss = network.train().loss(*padded([[0], [3, 1]]), torch.tensor([4, 2]))
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("prompt", ["none", "alpaca"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_row_of_a_stream_equals_a_call_with_the_history_cut_there(
    variant: dict[str, Any], prompt: str
) -> None:
    network = build(**variant, targets="every", prompt=prompt)
    with torch.no_grad():
        stream = network.all_hidden_states(*padded(HISTORIES, width=7))
        assert stream.shape == (3, 7, 16)
        for row, history in enumerate(HISTORIES):
            for t in range(len(history)):
                alone = network.hidden_states(*padded([history[: t + 1]]))
                torch.testing.assert_close(stream[row, t], alone[0])
                others = [[7, 7, 7, 7, 7, 8], history[: t + 1], [2]]
                beside = network.hidden_states(*padded(others, width=9))
                torch.testing.assert_close(stream[row, t], beside[1])


@pytest.mark.parametrize(
    ("options", "equal"),
    [
        ({"backbone_layers": 1}, True),
        ({"backbone_layers": 2}, False),
        ({"backbone_layers": 2, "prefix": "static"}, True),
        ({"backbone_layers": 2, "prefix": "none"}, True),
    ],
    ids=str,
)
def test_a_growing_graph_prefix_is_the_papers_in_one_layer_alone(
    options: dict[str, Any], equal: bool
) -> None:
    every, last = (build(**options, targets=t, prompt="none") for t in ("every", "last"))
    last.load_state_dict(every.state_dict())
    ids, lengths = padded(HISTORIES)
    with torch.no_grad():
        growing, whole = every.hidden_states(ids, lengths), last.hidden_states(ids, lengths)
    several = lengths > 1
    assert torch.allclose(growing[several], whole[several]) == equal


def test_later_items_do_not_leak_into_earlier_read_outs() -> None:
    network = build()
    ids, lengths = padded([[3, 1, 4, 1, 5]])
    other = ids.clone()
    other[0, 3] = 8
    with torch.no_grad():
        one, two = (network.all_hidden_states(x, lengths) for x in (ids, other))
    torch.testing.assert_close(one[0, :3], two[0, :3])
    assert (one[0, 3:] - two[0, 3:]).abs().amax(-1).min() > 1e-3


def test_ids_beyond_a_length_are_ignored() -> None:
    for targets in ("every", "last"):
        network = build(targets=targets)
        ids, lengths = padded(HISTORIES)
        cut = (lengths - 1).clamp_min(1)
        zeroed = ids * (torch.arange(ids.shape[1]) < cut[:, None])
        torch.testing.assert_close(
            network.hidden_states(ids, cut), network.hidden_states(zeroed, cut)
        )


@pytest.mark.parametrize("prompt", ["none", "alpaca"])
@pytest.mark.parametrize("variant", [{}, {"variant": "released"}, {"prefix": "none"}], ids=str)
def test_scores_depend_neither_on_padding_nor_on_its_side_nor_on_the_batch(
    variant: dict[str, Any], prompt: str
) -> None:
    left = build(**variant, targets="last", prompt=prompt, padding_side="left")
    right = build(**variant, targets="last", prompt=prompt, padding_side="right")
    right.load_state_dict(left.state_dict())
    with torch.no_grad():
        batch = left.logits(left.hidden_states(*padded(HISTORIES, width=11)))
        torch.testing.assert_close(right.logits(right.hidden_states(*padded(HISTORIES))), batch)
        for row, history in enumerate(HISTORIES):
            alone = left.logits(left.hidden_states(*padded([history])))
            torch.testing.assert_close(alone[0], batch[row])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"padding_side": "left"}, [[0, 1, 0, 0, 2, 3], [0, 1, 2, 3, 4, 5]]),
        ({"padding_side": "right"}, [[0, 1, 2, 0, 0, 3], [0, 1, 2, 3, 4, 5]]),
        ({"variant": "released"}, [[4, 5, 4, 4, 6, 7], [4, 5, 6, 7, 8, 9]]),
        ({"variant": "released", "prefix": "none"}, [[0, 1, 0, 0, 2, 3], [0, 1, 2, 3, 4, 5]]),
    ],
    ids=str,
)
def test_positions_count_real_tokens_after_the_released_codes_offset(
    options: dict[str, Any], expected: list[list[int]]
) -> None:
    network = build(targets="last", prompt="alpaca", **options).train()
    network.prompt = PromptTokens([1, 7], [5])
    seen: dict[str, Any] = {}
    network.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    network.hidden_states(*padded([[5], [2, 6, 3]]))
    assert seen["position_ids"].tolist() == expected
    prefix = 0 if network.prefix is None else network.settings.prefix_length
    assert seen["attention_mask"][:, 0, -1].sum(1).tolist() == [4 + prefix, 6 + prefix]


def test_the_pad_bug_makes_training_scores_depend_on_the_batch() -> None:
    options = {"targets": "last", "backbone_dropout": 0.0, "prefix_dropout": 0.0}
    for bug in (False, True):
        network = build(**options, gram_pad_bug=bug).train()
        with torch.no_grad():
            alone = network.hidden_states(*padded([[5]]))
            beside = network.hidden_states(*padded([[5], [1, 2, 3]]))
        assert torch.allclose(alone[0], beside[0]) is not bug


def test_logits_are_minus_infinity_at_padding_and_products_elsewhere() -> None:
    for head in ("tied", "linear"):
        network = build(head=head)
        hidden = network.hidden_states(*padded(HISTORIES))
        logits = network.logits(hidden)
        assert logits.shape == (3, N + 1)
        assert torch.isneginf(logits[:, 0]).all()
        for item in range(1, N + 1):
            expected = hidden @ network.item_weights()[item - 1]
            torch.testing.assert_close(logits[:, item], expected)


def test_loss_is_the_cross_entropy_of_the_logits() -> None:
    network = build(targets="last", prompt="alpaca")
    ids, lengths = padded(HISTORIES)
    target = torch.tensor([2, 9, 1])
    logits = network.logits(network.hidden_states(ids, lengths))
    expected = F.cross_entropy(logits, target)
    torch.testing.assert_close(network.loss(ids, lengths, target), expected)


@pytest.mark.parametrize(
    ("targets", "order"), [("every", ["prefix", "tokens"]), ("last", ["tokens", "prefix"])]
)
def test_dropout_is_drawn_in_the_order_of_published_runs(
    monkeypatch: pytest.MonkeyPatch, targets: str, order: list[str]
) -> None:
    # Another order gives other masks, and so other results under the same run id.
    network = build(targets=targets, prefix_mlp_hidden=12).train()
    hidden = network.prefix.keys.mlp.first.out_features
    widths = {hidden: "prefix", network.backbone.hidden_size: "tokens"}
    assert len(widths) == 2
    drawn: list[str] = []
    dropout = F.dropout

    def recorded(inputs: Tensor, p: float = 0.5, *rest: Any, **options: Any) -> Tensor:
        drawn.append(widths.get(inputs.shape[-1], "other"))
        return dropout(inputs, p, *rest, **options)

    monkeypatch.setattr(F, "dropout", recorded)
    ids, lengths = padded(HISTORIES)
    network.sequence_loss(ids) if targets == "every" else network.hidden_states(ids, lengths)
    assert [part for part in dict.fromkeys(drawn) if part in order] == order


def test_sequence_loss_averages_over_all_targets_and_skips_single_items() -> None:
    network = build()
    sequences = [[3, 1, 4, 1], [5], [9, 2, 6], [0, 8], [7, 8]]
    losses = []
    for sequence in sequences:
        for t in range(1, len(sequence)):
            logits = network.logits(network.hidden_states(*padded([sequence[:t]])))
            losses.append(F.cross_entropy(logits, torch.tensor([sequence[t]])))
    loss = network.sequence_loss(padded(sequences, width=8)[0])
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    with pytest.raises(DataError, match="no target"):
        network.sequence_loss(torch.tensor([[5, 0]]))


def test_one_stream_gives_the_gradients_of_all_separate_calls() -> None:
    network = build(variant="paper")
    sequence = [3, 1, 4, 1, 5]
    network.sequence_loss(torch.tensor([sequence])).backward()
    together = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    total = torch.zeros(())
    for t in range(1, len(sequence)):
        logits = network.logits(network.hidden_states(*padded([sequence[:t]])))
        total = total + F.cross_entropy(logits, torch.tensor([sequence[t]]))
    (total / 4).backward()
    for name, parameter in network.named_parameters():
        if name in together:
            assert parameter.grad is not None
            torch.testing.assert_close(together[name], parameter.grad)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variant": "released"},
        {"prefix": "static"},
        {"prefix": "none"},
        {"prompt": "alpaca"},
        {"targets": "last", "head": "linear", "item_vectors": False},
        {"item_inputs": ("sequence",)},
        {"train_backbone": False, "lora_r": 2},
    ],
    ids=str,
)
def test_every_trainable_parameter_receives_a_gradient(options: dict[str, Any]) -> None:
    # DDP stops at parameters that a loss leaves out.
    network = build(**options)
    if network.settings.targets == "every":
        loss = network.sequence_loss(padded(HISTORIES)[0])
    else:
        loss = network.loss(*padded(HISTORIES), torch.tensor([1, 2, 3]))
    loss.backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("variant", [{}, {"variant": "released"}], ids=str)
def test_gradient_checkpointing_changes_no_gradient(
    variant: dict[str, Any], place: dict[str, Any]
) -> None:
    gradients = []
    for checkpointing in (False, True):
        network = build(**variant, **place, gradient_checkpointing=checkpointing).train()
        torch.manual_seed(3)
        if network.settings.targets == "every":
            loss = network.sequence_loss(padded(HISTORIES)[0])
        else:
            loss = network.loss(*padded(HISTORIES), torch.tensor([1, 2, 3]))
        loss.backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
        assert network.model.is_gradient_checkpointing is checkpointing
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def llama(seed: int = 0) -> LlamaModel:
    torch.manual_seed(seed)
    tokenizer = template_tokenizer()
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        bos_token_id=1,
    )
    return LlamaModel(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llama().save_pretrained(tmp_path)
    template_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_checkpoints_hold_the_head_and_leave_pretrained_weights_out(
    folder: Path, variant: str
) -> None:
    settings = LLMSettings(backbone=str(folder), variant=variant, bilinear_size=3)  # type: ignore[arg-type]
    torch.manual_seed(1)
    saved = HeLLMNetwork(settings, tables(), device="cpu").eval()
    for parameter in saved.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    state = saved.state_dict()
    assert "head.linear.weight" in state  # also where it is frozen: it was drawn at random
    held = {name for name in state if name.startswith("model.")}
    assert held
    assert all("lora_" in name for name in held)
    torch.manual_seed(2)
    loaded = HeLLMNetwork(settings, tables(), device="cpu").eval()
    history = padded(HISTORIES)
    assert not torch.allclose(
        *(n.logits(n.hidden_states(*history))[:, 1:] for n in (saved, loaded))
    )
    loaded.load_state_dict(state)
    torch.testing.assert_close(*(n.logits(n.hidden_states(*history)) for n in (saved, loaded)))
    del state["head.linear.weight"]
    with pytest.raises(RuntimeError, match=r"head\.linear\.weight"):
        loaded.load_state_dict(state)


def test_checkpoints_of_random_weights_in_a_pretrained_shape_hold_all_of_them(
    folder: Path,
) -> None:
    options = {"backbone": str(folder), "random_backbone": True, "backbone_layers": None}
    network, other = build(1, **options), build(2, **options)
    frozen = {name for name, value in network.model.named_parameters() if not value.requires_grad}
    state = network.state_dict()
    assert frozen
    assert {f"model.{name}" for name in frozen} <= set(state)
    other.load_state_dict(state)
    ids, lengths = padded(HISTORIES)
    assert torch.equal(network.hidden_states(ids, lengths), other.hidden_states(ids, lengths))


def test_checkpoints_of_a_backbone_that_was_drawn_at_random_hold_all_of_it() -> None:
    for train in (True, False):
        network, other = build(1, train_backbone=train), build(2, train_backbone=train)
        other.load_state_dict(network.state_dict())
        history = padded(HISTORIES)
        torch.testing.assert_close(*(n.hidden_states(*history) for n in (network, other)))


def test_pretrained_weights_stay_out_of_checkpoints_of_a_larger_module(folder: Path) -> None:
    settings = LLMSettings(backbone=str(folder), bilinear_size=3)
    models = [
        torch.nn.ModuleDict({"network": HeLLMNetwork(settings, tables(), device="cpu")})
        for _ in range(2)
    ]
    state = models[0].state_dict()
    assert "network.head.linear.weight" in state
    assert not any("layers" in name and "lora_" not in name for name in state)
    models[1].load_state_dict(state)
    assert torch.equal(*(m["network"].head.linear.weight for m in models))


def test_grouped_query_backbones_stream_and_sample_alike(folder: Path) -> None:
    options = {"backbone": str(folder), "bilinear_size": 3, "prefix_init_std": 1.0}
    for variant in ("paper", "released"):
        torch.manual_seed(0)
        settings = LLMSettings(**options, variant=variant, targets="every")  # type: ignore[arg-type]
        network = HeLLMNetwork(settings, tables(), device="cpu").eval()
        stream = network.all_hidden_states(*padded(HISTORIES))
        alone = network.hidden_states(*padded([HISTORIES[0][:2]]))
        torch.testing.assert_close(stream[0, 1], alone[0], rtol=1e-4, atol=1e-5)


def test_shared_instruction_changes_no_score(folder: Path) -> None:
    # At inference without a graph prefix the instruction runs once for the whole batch.
    for prefix in ("none", "static"):
        settings = LLMSettings(backbone=str(folder), prefix=prefix)  # type: ignore[arg-type]
        network = HeLLMNetwork(settings, tables(), device="cpu").eval()
        shared = network.hidden_states(*padded(HISTORIES))
        network.train()  # LoRA starts at zero, so its dropout has nothing to drop
        torch.testing.assert_close(
            network.hidden_states(*padded(HISTORIES)), shared, rtol=1e-4, atol=1e-5
        )


def test_half_precision_backbones_give_float32_scores_near_the_exact_ones(folder: Path) -> None:
    results = []
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        settings = LLMSettings(backbone=str(folder), backbone_dtype=dtype, variant="released")  # type: ignore[arg-type]
        network = HeLLMNetwork(settings, tables(), device="cpu")
        loss = network.loss(*padded(HISTORIES), torch.tensor([1, 2, 3]))
        assert loss.dtype == torch.float32
        loss.backward()
        network.eval()
        results.append(network.hidden_states(*padded(HISTORIES)))
    assert results[1].dtype == torch.float32
    torch.testing.assert_close(results[1], results[0], rtol=0.1, atol=0.1)
    assert not torch.equal(results[1], results[0])


def test_training_under_autocast_stays_near_float32() -> None:
    losses = []
    for enabled in (False, True):
        network = build().float()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = network.sequence_loss(padded(HISTORIES)[0])
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("window", [3, 6])
@pytest.mark.parametrize("options", [{"targets": "every"}, {"prefix": "static", "targets": "last"}])
def test_a_sliding_window_counts_positions_in_every_kind_of_pass(
    window: int, options: dict[str, Any]
) -> None:
    network = build(prompt="alpaca", backbone_dropout=0.0, prefix_dropout=0.0, **options)
    whole = network.hidden_states(*padded(HISTORIES))
    network.model.config.sliding_window = window
    together = network.hidden_states(*padded(HISTORIES))
    assert not torch.allclose(together, whole)
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(network.hidden_states(*padded([history]))[0], together[row])
    if options["targets"] == "every":
        stream = network.all_hidden_states(*padded(HISTORIES))
        torch.testing.assert_close(stream[[0, 1, 2], [3, 0, 2]], together)
        return
    sequences, lengths = padded([[*history, 2] for history in HISTORIES])
    loss = network.targets_loss(sequences, lengths, lengths - 1)
    torch.testing.assert_close(loss, network.loss(*padded(HISTORIES), torch.tensor([2, 2, 2])))
    # At inference the instruction is shared; in training it is a part of every row.
    torch.testing.assert_close(network.train().hidden_states(*padded(HISTORIES)), together)


# --------------------------------------------------------- several targets of a user in one pass


@pytest.mark.parametrize("prefix", ["none", "static"])
@pytest.mark.parametrize("prompt", ["alpaca", "none"])
@pytest.mark.parametrize("head", ["linear", "tied"])
def test_all_targets_in_one_pass_give_the_loss_and_gradients_of_separate_samples(
    prefix: str, prompt: str, head: str
) -> None:
    network = build(prefix=prefix, prompt=prompt, head=head, targets="last", multi_target=True)
    sequences, lengths = padded([[3, 1, 4, 1, 2], [5, 8], [9, 2, 6, 7], [0, 9]])
    first = torch.tensor([2, 1, 1, 1])
    samples = [
        (sequences[row, :read].tolist(), int(sequences[row, read]))
        for row, length in enumerate(lengths.tolist())
        for read in range(int(first[row]), length)
    ]
    separate = network.loss(
        *padded([history for history, _ in samples]), torch.tensor([item for _, item in samples])
    )
    together = network.targets_loss(sequences, lengths, first)
    torch.testing.assert_close(together, separate)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(separate, trained, allow_unused=True)
    for one, other in zip(
        torch.autograd.grad(together, trained, allow_unused=True), expected, strict=True
    ):
        if one is None or other is None:
            assert one is None
            assert other is None
        else:
            torch.testing.assert_close(one, other)


# ------------------------------------------------- what only the last position needs, compilation


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("prefix", ["graph", "static", "none"])
def test_the_last_layers_savings_change_neither_scores_nor_gradients(
    prefix: str, checkpointing: bool, folder: Path
) -> None:
    losses, gradients = [], []
    for saving in (True, False):
        torch.manual_seed(0)
        settings = LLMSettings(
            backbone=str(folder),
            prefix=prefix,  # type: ignore[arg-type]
            bilinear_size=3,
            lora_dropout=0.0,
            prefix_dropout=0.0,
            gradient_checkpointing=checkpointing,
            lora_targets=("q_proj", "o_proj", "down_proj"),
        )
        network = HeLLMNetwork(settings, tables(), device="cpu").train()
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        if not saving:
            network.last_layer = None
        loss = network.loss(*padded(HISTORIES), torch.tensor([1, 2, 3]))
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_what_users_share_of_a_prefix_is_projected_once_for_all_batches(folder: Path) -> None:
    settings = LLMSettings(backbone=str(folder), variant="released")
    network = HeLLMNetwork(settings, tables(), device="cpu").eval()
    projection = network.model.layers[0].self_attn.k_proj
    slots = network.settings.prefix_length

    def scores() -> Tensor:
        with torch.no_grad():
            return network.hidden_states(*padded(HISTORIES))

    with torch.enable_grad():  # nothing is kept where gradients may be asked for
        expected = network.hidden_states(*padded(HISTORIES)).detach()
    torch.testing.assert_close(scores(), expected)
    stamp = (projection.weight.data_ptr(), projection.weight._version)
    assert network.prefix._cache[projection, False, stamp].shape[0] == slots
    kept = dict(network.prefix._cache)
    torch.testing.assert_close(scores(), expected)
    assert all(network.prefix._cache[key] is value for key, value in kept.items())
    # A change of weights is seen, however it comes.
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        network.prefix.values.static.neg_()
    assert not torch.allclose(scores(), expected, atol=1e-3)
    network.load_state_dict(state)
    torch.testing.assert_close(scores(), expected)
    with torch.no_grad():
        projection.weight.neg_()
    assert not torch.allclose(scores(), expected, atol=1e-3)
    assert network.train().prefix._cache == {}


def test_the_last_layer_works_on_the_last_position_alone(folder: Path) -> None:
    settings = LLMSettings(backbone=str(folder), bilinear_size=3)
    network = HeLLMNetwork(settings, tables(), device="cpu").eval()
    shapes = []
    for layer in network.model.layers:
        layer.mlp.register_forward_hook(lambda *parts: shapes.append(parts[2].shape[1]))
    network.hidden_states(*padded(HISTORIES))
    words = len(network.prompt.instruction) + len(network.prompt.response)
    assert shapes == [words + 4] * (len(shapes) - 1) + [1]


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("aot_eager", {}),
        ("eager", {"gradient_checkpointing": True}),
        ("eager", {"prefix": "static", "prefix_projection": "frozen"}),
    ],
    ids=["graph", "checkpointing", "several targets"],
)
def test_compiled_code_gives_the_same_losses_gradients_and_scores(
    folder: Path, backend: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced whole, with dynamic shapes; code is generated in benchmarks/llm_throughput.py."""
    if options.get("gradient_checkpointing"):
        key = "skip_fwd_side_effects_in_bwd_under_checkpoint"
        if not hasattr(torch._dynamo.config, key):
            pytest.skip(f"this PyTorch has no torch._dynamo.config.{key}")
    traced = functools.partial(torch.nn.Module.compile, backend=backend, fullgraph=True)

    def compile_traced(module: torch.nn.Module, *, dynamic: bool, options: Any) -> None:
        traced(module, dynamic=dynamic)

    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        settings = LLMSettings(
            backbone=str(folder),
            bilinear_size=3,
            lora_dropout=0.0,
            prefix_dropout=0.0,
            compile=compiled,
            **options,
        )
        network = HeLLMNetwork(settings, tables(), device="cpu").train()
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        if compiled:
            monkeypatch.setattr(type(network.model), "compile", compile_traced)
        found: dict[str, Tensor] = {}
        for number, histories in enumerate([HISTORIES, [[3, 1], [5, 2]]]):
            if network.settings.multi_target:
                sequences, lengths = padded([[*history, 7] for history in histories])
                loss = network.targets_loss(sequences, lengths, torch.ones_like(lengths))
            else:
                loss = network.loss(*padded(histories), torch.arange(1, len(histories) + 1))
            loss.backward()
            found[f"loss {number}"] = loss.detach()
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                found[name] = parameter.grad
        network.eval()
        with torch.no_grad():
            found["scores"] = network.hidden_states(*padded(HISTORIES))
        assert network.compiled is compiled
        results.append(found)
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


# ------------------------------------------------------------------- LLaMA-2-7B's shapes


def seven_billion(**options: Any) -> HeLLMNetwork:
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        vocab_size=32000,
    )
    settings = LLMSettings(backbone="meta-llama/Llama-2-7b-hf", **options)
    with torch.device("meta"):
        backbone = wrap_backbone(LlamaModel(config), settings)
        backbone = dataclasses.replace(backbone, tokenizer=template_tokenizer())
        tables = {name: torch.zeros(12102, 64) for name in ("graph", "sequence")}
        return HeLLMNetwork(settings, tables, backbone=backbone)


def trainable(network: HeLLMNetwork, part: str = "") -> int:
    return sum(p.numel() for n, p in network.named_parameters() if p.requires_grad and part in n)


def test_released_variant_has_the_logged_parameter_counts() -> None:
    network = seven_billion(variant="released")
    assert all(p.device.type == "meta" for p in network.parameters())
    assert trainable(network, "lora_") == 23_199_744
    assert trainable(network, "static") == 2_621_440
    assert trainable(network, "mlp") - trainable(network, "lora_") == 67_125_248 + 17_309_696
    assert trainable(network, "prefix") - trainable(network, "static") == 67_125_248 + 4 * 4096
    assert trainable(network, "tokens") == 17_309_696
    facts = network.extra_facts()
    assert facts["trainable_parameters"] == trainable(network) == 110_272_512
    assert facts["total_parameters"] > 6_000_000_000


def test_paper_variant_adds_the_head_and_the_bilinear_map() -> None:
    network = seven_billion()
    assert trainable(network, "head") == 12101 * 4096
    assert trainable(network, "pooling") == 64 * 32
    mlps = 2 * (32 * 32 * 4096 + 4096 + 4096 * 4096 + 4096)
    assert trainable(network, "prefix") == 2_621_440 + mlps + 32 * 32


def test_collm_and_llara_are_settings_of_the_same_network() -> None:
    collm = seven_billion(
        prefix="none", item_inputs=("graph",), item_mlp_hidden=640, item_mlp_activation="relu"
    )
    assert collm.prefix is None
    assert collm.offset == 0
    assert trainable(collm, "tokens") == 64 * 640 + 640 + 640 * 4096 + 4096
    assert "sequence" not in collm.tokens.tables
    llara = seven_billion(prefix="none", item_inputs=("sequence",))
    assert trainable(llara, "tokens") == 64 * 4096 + 4096 + 4096 * 4096 + 4096


# ------------------------------------------------------------- words and positions


def test_words_beyond_the_embeddings_are_told_before_training(folder: Path) -> None:
    tokenizer = template_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<late>"})
    tokenizer.save_pretrained(folder)
    rows = len(tokenizer) - 1
    settings, widths = LLMSettings(backbone=str(folder)), {"graph": D, "sequence": D}
    for build in (
        lambda: HeLLMNetwork(settings, tables(), device="cpu"),
        lambda: outline(settings, N, widths, torch.device("cpu")),
    ):
        with pytest.raises(BackboneError) as caught:
            build()
        assert f"id {rows} is beyond the model's {rows} word embeddings" in str(caught.value)
        assert "--prompt=none." in str(caught.value)
    HeLLMNetwork(LLMSettings(backbone=str(folder), prompt="none"), tables(), device="cpu")


def test_word_embeddings_may_be_adapted(folder: Path) -> None:
    settings = LLMSettings(backbone=str(folder), lora_targets=("q_proj", "embed_tokens"))
    network = HeLLMNetwork(settings, tables(), device="cpu")
    adapted = [name for name, weight in network.named_parameters() if weight.requires_grad]
    assert any("embed_tokens.lora" in name for name in adapted)
    network.hidden_states(*padded([[1, 2, 3]]))


def test_histories_longer_than_learned_positions_are_told(tmp_path: Path) -> None:
    tokenizer = template_tokenizer()
    size = {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": len(tokenizer)}
    GPT2Model(GPT2Config(**size, n_positions=60)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = LLMSettings(backbone=str(tmp_path), lora_targets=("c_attn",))
    network = HeLLMNetwork(settings, tables(), device="cpu").eval()
    words = len(network.prompt.instruction) + len(network.prompt.response)
    most = 60 - words
    assert 1 < most < N
    network.check_training(most)
    with pytest.raises(BackboneError) as caught:
        network.check_training(most + 1)
    assert str(caught.value) == (
        f"backbone={tmp_path} has 60 positions, and {most + 1} items with a prompt of {words} "
        f"tokens need 61; use --MAX_ITEM_LIST_LENGTH={most} or --prompt=none or a backbone with "
        "more positions."
    )
    for length in (most, most + 1):  # the least that is refused does not fit indeed
        history = padded([list(range(1, length + 1))])
        if length == most:
            network.hidden_states(*history)
        else:
            with pytest.raises(BackboneError, match="60 positions"):
                network.hidden_states(*history)


# ---------------------------------------------------------------------------------- rest


def test_weight_decay_covers_matrices_or_under_released_everything() -> None:
    paper, released = build(), build(variant="released")
    decayed, others = paper.trainable_parameter_groups(0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in others["params"])
    grouped = {id(p) for group in (decayed, others) for p in group["params"]}
    assert grouped == {id(p) for p in paper.parameters() if p.requires_grad}
    (everything,) = released.trainable_parameter_groups(0.1)
    assert len(everything["params"]) == sum(p.requires_grad for p in released.parameters())


def test_mistakes_are_named() -> None:
    given = tables()
    with pytest.raises(ConfigError, match="prefix=graph needs the graph embeddings"):
        HeLLMNetwork(LLMSettings(item_inputs=("sequence",)), {"sequence": given["sequence"]})
    with pytest.raises(DataError, match="sequence embeddings"):
        HeLLMNetwork(LLMSettings(), {"graph": given["graph"]})
    with pytest.raises(ConfigError, match="number of items"):
        HeLLMNetwork(LLMSettings(prefix="none", item_inputs=()))
    with pytest.raises(ConfigError, match="targets=every"):
        build(targets="last").all_hidden_states(*padded(HISTORIES))
    with pytest.raises(DataError, match="without items"):
        build().hidden_states(torch.zeros(1, 3, dtype=torch.long), torch.tensor([0]))


def test_tables_that_no_part_asks_for_are_not_kept() -> None:
    network = build(prefix="none", item_inputs=("sequence",))
    assert set(network.tokens.tables) == {"sequence"}
    alone = HeLLMNetwork(LLMSettings(prefix="none", item_inputs=()), n_items=5)
    assert alone.item_weights().shape == (5, 128)


@pytest.mark.parametrize(
    ("prefix", "prompt", "width"),
    [("none", "none", 1), ("static", "none", 1), ("graph", "none", 33), ("none", "alpaca", 33)],
)
def test_rows_of_one_length_are_scored_at_their_last_position_alone(
    folder: Path, prefix: str, prompt: str, width: int
) -> None:
    """Equal to the state that a pass over every position has there, in packed rows of 33 slots."""
    settings = LLMSettings(
        backbone=str(folder), targets="every", prefix=prefix, prompt=prompt, bilinear_size=3
    )
    network = HeLLMNetwork(settings, tables(), device="cpu").eval().double()
    ids, lengths = padded([[1, 2, 3], [4, 1, 2], [3, 3, 4]])
    widths: list[int] = []
    network.model.layers[-1].mlp.register_forward_hook(lambda *p: widths.append(p[2].shape[1]))
    with torch.no_grad():
        found = network.hidden_states(ids, lengths)
        assert widths[-1] == width
        every = network.all_hidden_states(ids, lengths)[:, -1]
        torch.testing.assert_close(found, every)
        uneven = network.hidden_states(*padded([[1, 2, 3], [4]]))
        assert widths[-1] > 1
    torch.testing.assert_close(uneven[0], found[0])


def test_products_over_all_items_are_halved_in_training_with_a_bfloat16_backbone(
    folder: Path,
) -> None:
    """The loss stays that of float32 products; scores of rankings are those products."""
    options = {"backbone": str(folder), "targets": "every", "head": "tied", "prefix": "none"}
    settings = LLMSettings(**options, lora_dropout=0.0, backbone_dtype="bfloat16")
    network = HeLLMNetwork(settings, tables(), device="cpu").train()
    ids = padded(HISTORIES)[0]
    assert network._table().dtype == torch.float32  # type: ignore[union-attr]
    halved = network.sequence_loss(ids)
    halved.backward()  # type: ignore[no-untyped-call]
    gradient = network.head.linear.weight.grad
    exact = network.tokens.all().detach()
    assert not torch.equal(network._table().detach(), exact)  # type: ignore[union-attr]
    network.eval()
    with torch.no_grad():
        assert torch.equal(network.item_weights(), exact[1:])
        plain = network.sequence_loss(ids)
    assert gradient is not None and gradient.dtype == torch.float32
    torch.testing.assert_close(halved, plain, rtol=0.02, atol=0)
    single = HeLLMNetwork(settings.replace(backbone_dtype="float32"), tables(), device="cpu")
    assert torch.equal(single.train()._table(), single.tokens.all())  # type: ignore[arg-type]
