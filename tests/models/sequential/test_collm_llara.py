"""CoLLM and LLaRA as the paper compares with them, against the equations of docs/method.md."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from safetensors.torch import load_file
from torch import Tensor, nn

from recbole_hellm import run
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.models.sequential.hellm import HeLLM
from recbole_hellm.runs.results import RunResult

ROLES = {"CoLLM": "graph", "LLaRA": "sequence"}
HIDDEN = {"CoLLM": 640, "LLaRA": 16}
# The tiny backbone's own ways (trained item vectors, one scale, tied head, every position a
# target), and those of a pre-trained one.
WAYS: list[dict[str, Any]] = [
    {},
    {
        "item_vectors": False,
        "normalise_tables": False,
        "head": "linear",
        "targets": "last",
        "multi_target": False,
    },
]


@pytest.fixture
def make(
    make_parts: Callable[..., Any], small_variant: Callable[[str], dict[str, Any]]
) -> Callable[..., tuple[HeLLM, Tensor, Interaction, Interaction]]:
    """A model in float64 with random weights, its stage's item vectors, a batch, other rows."""

    def build(name: str, **options: Any) -> tuple[HeLLM, Tensor, Interaction, Interaction]:
        given = small_variant(name) | {"backbone_layers": 2, "train_batch_size": 12} | options
        config, dataset, parts = make_parts(name, **given)
        torch.manual_seed(3)
        model = HeLLM(config, parts[0]).double()
        for parameter in model.parameters():
            # Weak default weights would let a wrong term pass unnoticed, norms of one a lost norm.
            parameter.data += 0.3 * torch.randn_like(parameter)
        table = torch.randn(dataset.item_num - 1, 8, dtype=torch.float64) * 2 + 0.5
        torch.set_default_dtype(torch.float64)
        try:
            model.load_item_table(ROLES[name], table)
        finally:
            torch.set_default_dtype(torch.float32)
        batch = next(iter(training_loader(config, dataset, parts, model)))
        return model.eval(), table, batch, parts[2].inter_feat[:4]

    return build


# The equations, written out -----------------------------------------------------------------------


def tokens(model: HeLLM, name: str, table: Tensor) -> Tensor:
    """x_i = W2 phi(W1 v_i + b1) + b2 of every item, [N, hidden_size]."""
    state = dict(model.network.named_parameters())
    rows = []
    for item, vector in enumerate(table, start=1):
        inner = state["tokens.mlp.0.weight"] @ vector + state["tokens.mlp.0.bias"]
        if name == "CoLLM":
            inner = torch.where(inner > 0, inner, 0.0)
        else:
            inner = inner / 2 * (1 + torch.erf(inner / math.sqrt(2)))
        row = state["tokens.mlp.2.weight"] @ inner + state["tokens.mlp.2.bias"]
        if model.settings.item_vectors:
            row = row + state["tokens.vectors.weight"][item]
        rows.append(row)
    return torch.stack(rows)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / torch.sqrt(x.square().mean() + eps)


def rotate(x: Tensor, position: int) -> Tensor:
    """RoPE of one head, with angles in float32 as transformers has them."""
    half = len(x) // 2
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, len(x), 2, dtype=torch.float) / len(x)))
    cos, sin = ((position * frequencies).cos().double(), (position * frequencies).sin().double())
    return torch.cat([x[:half] * cos - x[half:] * sin, x[half:] * cos + x[:half] * sin])


def scores(model: HeLLM, x: Tensor, history: list[int]) -> Tensor:
    """Scores of all items [N] after a history: a causal decoder without prefix over its tokens."""
    decoder = model.network.model
    eps = decoder.config.rms_norm_eps
    stream = [x[item - 1] for item in history]
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        normed = [rms(h, layer.input_layernorm.weight, eps) for h in stream]
        q, k, v = (
            [(linear.weight @ h).view(2, 8) for h in normed]
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        following = []
        for t, h in enumerate(stream):
            heads = []
            for head in range(2):
                query = rotate(q[t][head], t)
                logits = [query @ rotate(k[s][head], s) / math.sqrt(8) for s in range(t + 1)]
                weights = torch.stack(logits).softmax(0)
                heads.append(sum(weights[s] * v[s][head] for s in range(t + 1)))
            h = h + attention.o_proj.weight @ torch.cat(heads)
            y = rms(h, layer.post_attention_layernorm.weight, eps)
            gate = mlp.gate_proj.weight @ y
            up = mlp.up_proj.weight @ y
            following.append(h + mlp.down_proj.weight @ (gate * torch.sigmoid(gate) * up))
        stream = following
    last = rms(stream[-1], decoder.norm.weight, eps)
    weight = model.network.head.linear.weight
    return weight @ last if model.settings.head == "linear" else x @ (weight @ last)


def targets(model: HeLLM, batch: Interaction) -> list[tuple[list[int], int]]:
    """Every (history, next item) of a training batch."""
    rows = zip(batch["item_id_list"].tolist(), batch["item_length"].tolist(), strict=True)
    if model.settings.targets == "last":
        nexts = batch["item_id"].tolist()
        return [(row[:length], item) for (row, length), item in zip(rows, nexts, strict=True)]
    return [(row[:t], row[t]) for row, length in rows for t in range(1, length)]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", ROLES)
def test_scores_loss_and_gradients_are_those_of_the_equations(
    make: Any, name: str, way: dict[str, Any]
) -> None:
    model, table, batch, rows = make(name, **way)
    close = {"rtol": 1e-7, "atol": 1e-8}
    if model.settings.normalise_tables:
        table = table / math.sqrt(sum(float(x) ** 2 for x in table.flatten()) / table.numel())
    with torch.no_grad():
        x = tokens(model, name, table)
        torch.testing.assert_close(model.network.tokens.all()[1:], x, **close)
        found = model.full_sort_predict(rows)
        assert found[:, 0].eq(-torch.inf).all()
        for row, (items, length) in enumerate(
            zip(rows["item_id_list"].tolist(), rows["item_length"].tolist(), strict=True)
        ):
            torch.testing.assert_close(found[row, 1:], scores(model, x, items[:length]), **close)
    losses = []
    x = tokens(model, name, model.network.tokens.table(ROLES[name]).weight[1:])
    for history, item in targets(model, batch):
        logits = scores(model, x, history)
        losses.append(logits.logsumexp(0) - logits[item - 1])
    assert len(losses) >= 10
    wanted = torch.stack(losses).mean()
    loss = model.calculate_loss(batch)
    torch.testing.assert_close(loss, wanted, **close)
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    found, wanted = (torch.autograd.grad(x, list(trained.values())) for x in (loss, wanted))
    for key, gradient, other in zip(trained, found, wanted, strict=True):
        assert gradient.any(), key
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-8, msg=key)


# What they are made of ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROLES)
def test_there_is_an_item_mlp_and_no_prefix(make: Any, name: str) -> None:
    model, *_ = make(name)
    network = model.network
    assert network.prefix is None
    assert network.pooling is None
    assert {key.partition(".")[0] for key, _ in network.named_parameters()} == {
        "head",
        "model",
        "tokens",
    }
    assert list(network.tokens.tables) == model.item_tables == [ROLES[name]]
    first, activation, second = network.tokens.mlp
    assert (first.in_features, first.out_features) == (8, HIDDEN[name])
    assert isinstance(activation, {"CoLLM": nn.ReLU, "LLaRA": nn.GELU}[name])
    assert (second.in_features, second.out_features) == (HIDDEN[name], 16)


@pytest.mark.parametrize("frozen", [False, True])
def test_decoder_head_and_adapters_are_hellms(make_parts: Any, frozen: bool) -> None:
    """In shape and in what is trained; only prefix and item MLP differ."""
    lora = {"train_backbone": False, "lora_r": 2} if frozen else {}
    shapes = {}
    for name in ("HeLLM", *ROLES):
        config, _, parts = make_parts(name, backbone_hidden_size=16, **lora)
        network = HeLLM(config, parts[0]).network
        shapes[name] = {
            key: (tuple(parameter.shape), parameter.requires_grad)
            for key, parameter in network.named_parameters()
            if not key.startswith(("prefix.", "pooling.", "tokens.mlp.", "tokens.tables."))
        }
    assert shapes["CoLLM"] == shapes["LLaRA"] == shapes["HeLLM"]
    assert any("lora_" in key for key in shapes["CoLLM"]) is frozen
    assert any(trained for _, trained in shapes["CoLLM"].values())


@pytest.mark.parametrize("backbone", ["tiny", "some/hf-name"])
@pytest.mark.parametrize("name", ROLES)
def test_backbone_lora_head_optimiser_and_epochs_are_hellms(name: str, backbone: str) -> None:
    options = {"backbone": backbone}
    own, base = (HellmConfig(model, "Beauty", options) for model in (name, "HeLLM"))
    keys = [key for key in base.model_settings() if key.startswith(("backbone", "lora"))]
    keys += ["head", "train_head", "learner", "learning_rate", "learning_rate_min", "betas"]
    keys += ["weight_decay", "scheduler", "warmup_epochs", "epochs", "stopping_step", "prompt"]
    for key in (*keys, "train_batch_size", "bucket_by_length", "eval_users", "targets"):
        if key in base:
            assert own[key] == base[key], key
    assert own["epochs"] == {"tiny": 8, "some/hf-name": 25}[backbone]
    assert own["train_batch_size"] == {"tiny": 768, "some/hf-name": 7}[backbone]


# Whole runs ---------------------------------------------------------------------------------------


@pytest.fixture
def train(
    quick: dict[str, Any], small_variant: Callable[[str], dict[str, Any]]
) -> Callable[..., RunResult]:
    def start(name: str, **options: Any) -> RunResult:
        return run(name, "tiny", **quick | small_variant(name) | {"epochs": 1} | options)

    return start


def test_collms_items_are_lightgcns_propagated_vectors(
    train: Callable[..., RunResult], make_parts: Callable[..., Any]
) -> None:
    """g of every item: the mean of one LightGCN layer and the embeddings, by hand."""
    # Frozen, unscaled tables keep what the stage gave.
    result = train("CoLLM", train_item_tables=False, normalise_tables=False)
    (stage,) = result.stages
    weights = torch.load(stage.path / "best.pt", weights_only=True)["model"]
    user, item = (weights[f"{side}_embedding.weight"].double() for side in ("user", "item"))
    _, dataset, parts = make_parts("LightGCN")
    seen = parts[0].inter_feat
    matrix = torch.zeros(len(user), len(item), dtype=torch.float64)
    for row, column in zip(seen["user_id"].tolist(), seen["item_id"].tolist(), strict=True):
        matrix[row, column] = 1
    degrees = [matrix.sum(axis).clamp_min(1e-7).rsqrt() for axis in (1, 0)]
    propagated = (degrees[0][:, None] * matrix * degrees[1]).T @ user
    wanted = ((item + propagated) / 2)[1:]
    described = json.loads((stage.path / "embeddings.json").read_text())
    assert described["tokens"]["item"] == list(dataset.item_tokens)
    best = torch.load(result.path / "best.pt", weights_only=True)["model"]
    table = best["network.tokens.tables.graph.weight"].double()
    torch.testing.assert_close(table[1:], wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(wanted.numpy()).max() > 0.01


def test_llaras_items_are_sasrecs_item_table(train: Callable[..., RunResult]) -> None:
    result = train("LLaRA", train_item_tables=False, normalise_tables=False)
    (stage,) = result.stages
    weights = torch.load(stage.path / "best.pt", weights_only=True)["model"]
    table = load_file(stage.path / "embeddings.safetensors")["item"]
    assert torch.equal(table, weights["item_embedding.weight"][1:])
    best = torch.load(result.path / "best.pt", weights_only=True)["model"]
    assert torch.equal(best["network.tokens.tables.sequence.weight"][1:], table)
    assert set(result.record["test"]) == {"seen", "train", "none"}
