"""Every family of decoders against transformers' own attention and a literal one, in float64."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoModel,
    Gemma2Config,
    Gemma3Config,
    Gemma3Model,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.masking_utils import AttentionMaskInterface

from recbole_hellm.models.llm.artefacts import save_artefacts
from recbole_hellm.models.llm.attention import ATTENTION, AttentionContext, prefix_attention
from recbole_hellm.models.llm.backbone import build_backbone
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.prompt import PromptTemplate, PromptTokens, template_tokenizer
from recbole_hellm.models.llm.settings import LLMSettings

N, D, SLOTS, WINDOW = 9, 5, 3, 3
HISTORIES = [[3, 1, 4, 1], [5], [9, 2, 6]]
INSTRUCTION, RESPONSE = [20, 31, 12, 45], [33, 27]
SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}


@dataclasses.dataclass(frozen=True)
class Family:
    """A configuration, and the window of each of its layers."""

    config: type[PreTrainedConfig]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    windows: tuple[int | None, int | None] = (None, None)


SOME = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "llama": Family(LlamaConfig),
    "mistral": Family(MistralConfig, {"sliding_window": WINDOW}, (WINDOW, WINDOW)),
    "qwen2": Family(Qwen2Config, SOME, (None, WINDOW)),
    "qwen3": Family(Qwen3Config, {"head_dim": 10, **SOME}, (None, WINDOW)),
    "gemma": Family(GemmaConfig, {"head_dim": 8}),
    "gemma2": Family(
        Gemma2Config,
        {"head_dim": 8, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0, **MIXED},
        (WINDOW, None),
    ),
    "gemma3": Family(
        Gemma3TextConfig, {"head_dim": 8, "query_pre_attn_scalar": 12, **MIXED}, (WINDOW, None)
    ),
}
families = pytest.mark.parametrize("family", FAMILIES)
grouped = pytest.mark.parametrize("kv_heads", [4, 2], ids=["all heads", "grouped"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``folders(family, kv_heads)``: a saved model of the family, with telling weights."""
    root = tmp_path_factory.mktemp("families")

    def folder(family: str, kv_heads: int = 2) -> Path:
        path = root / f"{family}-{kv_heads}"
        if not path.is_dir():
            kind = FAMILIES[family]
            config = kind.config(**SHAPE, **kind.options, num_key_value_heads=kv_heads)
            redrawn(AutoModel.from_config(config)).save_pretrained(path)
            template_tokenizer().save_pretrained(path)
        return path

    return folder


@pytest.fixture(autouse=True)
def _short_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter prompt, for the sake of the slow reference."""
    monkeypatch.setattr(PromptTemplate, "words", lambda *_: PromptTokens(INSTRUCTION, RESPONSE))


def redrawn(model: Any) -> Any:
    """All weights drawn so that no bias is zero, no norm one, and attention is far from even."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data = parameter.data.float() + 0.25 * torch.randn(parameter.shape)
    return model


def build(folder: Path, **options: Any) -> HeLLMNetwork:
    settings: dict[str, Any] = {
        "backbone": str(folder),
        "bilinear_size": 3,
        "prefix_length": SLOTS,
        "prefix_dropout": 0.0,
        "lora_r": 2,
        "lora_dropout": 0.0,
        "lora_targets": ("q_proj", "k_proj", "v_proj", "down_proj"),
    }
    generator = torch.Generator().manual_seed(0)
    tables = {
        name: torch.randn(N + 1, width, generator=generator)
        for name, width in (("graph", D), ("sequence", 4))
    }
    torch.manual_seed(1)
    network = HeLLMNetwork(LLMSettings(**{**settings, **options}), tables, device="cpu").double()
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return network.train()  # where nothing is dropped, and nothing shared


def padded(histories: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(history) for history in histories])
    ids = torch.zeros(len(histories), int(lengths.max()), dtype=torch.long)
    for row, history in enumerate(histories):
        ids[row, : len(history)] = torch.tensor(history)
    return ids, lengths


def directions(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(8), dtype=like.dtype)


def gradients(network: HeLLMNetwork, output: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(
        *((name, p) for name, p in network.named_parameters() if p.requires_grad), strict=True
    )
    loss = (output * directions(output)).sum()
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def assert_same(
    mine: dict[str, Tensor | None], theirs: dict[str, Tensor | None], **tolerance: float
) -> None:
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        other = theirs[name]
        if gradient is None or other is None:
            assert gradient is other, name
        else:
            assert gradient.abs().max() > 0, name
            torch.testing.assert_close(gradient, other, **tolerance, msg=lambda m, n=name: n + m)


# The norms of transformers compute in float32.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


# ------------------------------------------------------------- without a prefix: transformers


@families
@grouped
@pytest.mark.parametrize("side", ["left", "right"])
def test_without_prefix_it_is_the_familys_own_model_fed_with_words(
    folders: Callable[..., Path], family: str, kv_heads: int, side: str
) -> None:
    folder = folders(family, kv_heads)
    theirs = AutoModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    embed = theirs.get_input_embeddings()
    network = build(
        folder, prefix="none", lora_r=0, item_inputs=(), item_vectors=True, padding_side=side
    )
    vectors = network.tokens.vectors.weight  # type: ignore[union-attr]
    vectors.data = embed(torch.arange(N + 1)).detach()  # item i looks like word i
    ours = network.hidden_states(*padded(HISTORIES))

    expected, table = [], vectors.detach().clone().requires_grad_()
    for history in HISTORIES:
        ids = torch.tensor([[*INSTRUCTION, *history, *RESPONSE]])
        whole = theirs(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
        words = [embed(torch.tensor(segment)) for segment in (INSTRUCTION, RESPONSE)]
        inputs = torch.cat([words[0], table[history], words[1]])[None]
        expected.append(theirs(inputs_embeds=inputs, use_cache=False).last_hidden_state[0, -1])
        torch.testing.assert_close(expected[-1], whole, **CLOSE)
    reference = torch.stack(expected)
    torch.testing.assert_close(ours, reference, **CLOSE)
    (mine,) = torch.autograd.grad((ours * directions(ours)).sum(), vectors)
    (other,) = torch.autograd.grad((reference * directions(ours)).sum(), table)
    torch.testing.assert_close(mine, other, **CLOSE)


@pytest.mark.parametrize("last", [None, 0])
def test_capped_scores_under_a_plain_causal_mask_are_gemmas(last: int | None) -> None:
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    layer = torch.nn.Module()
    layer.layer_idx, layer.num_key_value_groups = 0, 2  # type: ignore[assignment]
    query, key, value = (torch.randn(2, heads, 5, 4, requires_grad=True) for heads in (4, 2, 2))
    hidden = torch.full((5, 5), float("-inf")).triu(1)
    options = {"scaling": 0.7, "softcap": 1.5}
    expected, _ = eager_attention_forward(layer, query, key, value, hidden, **options)
    context = None if last is None else AttentionContext(last_layer=last)
    ours, _ = prefix_attention(layer, query, key, value, None, prefix_context=context, **options)
    read = slice(None) if last is None else slice(-1, None)
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours[:, read], expected[:, read])
    inputs = (query, key, value)
    mine = torch.autograd.grad(ours[:, read].square().sum(), inputs)
    theirs = torch.autograd.grad(expected[:, read].square().sum(), inputs)
    torch.testing.assert_close(mine, theirs)


# ------------------------------------------------------------- the first layers alone

DEPTH = 5
DEEP = {
    "qwen2": {"max_window_layers": 2},
    "qwen3": {"max_window_layers": 2},
    "gemma2": {"layer_types": None},  # every second layer
    "gemma3": {"layer_types": None, "sliding_window_pattern": 3},
}


@families
@pytest.mark.parametrize("layers", [1, 3, DEPTH])
def test_the_first_layers_are_a_model_of_so_many_layers(
    tmp_path: Path, family: str, layers: int
) -> None:
    kind = FAMILIES[family]
    options = {**SHAPE, **kind.options, **DEEP.get(family, {}), "num_key_value_heads": 2}
    whole = redrawn(AutoModel.from_config(kind.config(**options | {"num_hidden_layers": DEPTH})))
    whole.save_pretrained(tmp_path)
    # transformers' own model of the first layers, with their weights and the final norm.
    reference = AutoModel.from_config(
        kind.config(**options | {"num_hidden_layers": layers}), attn_implementation="eager"
    )
    weights = {name: whole.state_dict()[name] for name in reference.state_dict()}
    reference.load_state_dict(weights)
    settings = LLMSettings(
        backbone=str(tmp_path), backbone_layers=layers, prompt="none", lora_r=0, prefix="none"
    )
    backbone = build_backbone(settings, "cpu")
    assert backbone.n_layers == len(backbone.model.layers) == layers
    assert backbone.model.state_dict().keys() == weights.keys()
    words = torch.tensor([[4, 9, 17, 30, 2, 11, 8, 40]])  # longer than the window
    expected = reference.double().eval()(input_ids=words, use_cache=False).last_hidden_state
    model = backbone.model.double().eval()
    inputs = model.get_input_embeddings()(words)
    context = AttentionContext()
    ours = model(inputs_embeds=inputs, use_cache=False, prefix_context=context).last_hidden_state
    context.check_reached(layers)
    torch.testing.assert_close(ours, expected, **CLOSE)
    windows = getattr(reference.config, "layer_types", None)
    assert windows is None or model.config.layer_types == windows


# ------------------------------------------------------------- with a prefix: by hand

#: Keys and values of each layer, [T, SLOTS, H_kv, d_h]: position t sees row t before its tokens.
Prefix = list[tuple[Tensor, Tensor]]
prefix_by_hand: Prefix = []
windows_by_hand: tuple[int | None, ...] = ()


def literal_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """One row, query by query and head by head."""
    assert len(query) == 1
    assert attention_mask is None
    before_keys, before_values = prefix_by_hand[module.layer_idx]
    window, groups = windows_by_hand[module.layer_idx], query.shape[1] // key.shape[1]
    output = torch.empty(1, query.shape[2], query.shape[1], value.shape[-1], dtype=query.dtype)
    for t in range(query.shape[2]):
        first = 0 if window is None else max(0, t + 1 - window)
        for h in range(query.shape[1]):
            kv = h // groups
            keys = torch.cat([before_keys[t, :, kv], key[0, kv, first : t + 1]])
            values = torch.cat([before_values[t, :, kv], value[0, kv, first : t + 1]])
            scores = scaling * (keys @ query[0, h, t])
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            output[0, t, h] = torch.softmax(scores, dim=0) @ values
    return output, None


AttentionInterface.register("by_hand", literal_attention)
AttentionMaskInterface.register("by_hand", lambda *_, **__: None)


@contextmanager
def by_hand(model: Any, prefix: Prefix, windows: tuple[int | None, ...]) -> Iterator[None]:
    global prefix_by_hand, windows_by_hand
    prefix_by_hand, windows_by_hand = prefix, windows
    model.set_attn_implementation("by_hand")
    yield
    model.set_attn_implementation(ATTENTION)


def slots(network: HeLLMNetwork, layer: int, items: list[int]) -> tuple[Tensor, Tensor]:
    """Prefix keys and values of a layer, [SLOTS, H_kv, d_h], for pooled items; paper, Eqs. 8-11."""
    attention = network.model.layers[layer].self_attn
    sides = []
    for side, name in ((network.prefix.keys, "k_proj"), (network.prefix.values, "v_proj")):
        rows = side.static[layer]
        if network.settings.prefix == "graph":
            weight = network.pooling.bilinear.weight
            gram = torch.zeros(3, 3, dtype=torch.float64)
            for item in items:
                g = weight @ network.tokens.table("graph").weight[item]
                gram = gram + torch.outer(g, g)
            x = gram.flatten()
            x = network.prefix.norm.weight * x / torch.sqrt(x.pow(2).mean() + 1e-5)
            rows = rows + side.mlp.rest[2](F.gelu(side.mlp.first(x)))
        if network.settings.prefix_projection == "frozen":
            linear = getattr(attention, name)
            linear = getattr(linear, "base_layer", linear)  # adapters are passed by
            rows = torch.stack([linear(row) for row in rows])
        sides.append(rows.unflatten(1, (-1, attention.head_dim)))
    return sides[0], sides[1]


def literal(network: HeLLMNetwork, family: str, history: list[int]) -> Tensor:
    """Hidden states of one history alone, token by token, [T, hidden_size]."""
    every = network.settings.targets == "every"
    embed = network.model.get_input_embeddings()
    parts = [embed(torch.tensor(INSTRUCTION)), network.tokens(torch.tensor(history))]
    if not every:
        parts.append(embed(torch.tensor(RESPONSE)))
    stream = torch.cat(parts)[None]
    prefix = []
    for layer in range(SHAPE["num_hidden_layers"]):
        seen = [max(0, t + 1 - len(INSTRUCTION)) for t in range(stream.shape[1])]
        pooled = [history[:n] if every else history for n in seen]
        sides = zip(*(slots(network, layer, items) for items in pooled), strict=True)
        keys, values = (torch.stack(side) for side in sides)
        prefix.append((keys, values))
    with by_hand(network.model, prefix, FAMILIES[family].windows):
        return network.model(inputs_embeds=stream, use_cache=False).last_hidden_state[0]


@families
@grouped
@pytest.mark.parametrize("prefix", ["static", "graph"])
@pytest.mark.parametrize(
    ("projection", "side"), [("direct", "left"), ("frozen", "left"), ("direct", "right")]
)
def test_prefix_attention_equals_attention_by_hand(
    folders: Callable[..., Path],
    family: str,
    kv_heads: int,
    prefix: str,
    projection: str,
    side: str,
) -> None:
    network = build(
        folders(family, kv_heads), prefix=prefix, prefix_projection=projection, padding_side=side
    )
    histories = HISTORIES if side == "right" or prefix == "graph" else HISTORIES[:1] * 2
    ours = network.hidden_states(*padded(histories))
    expected = torch.stack([literal(network, family, history)[-1] for history in histories])
    torch.testing.assert_close(ours, expected, **CLOSE)
    assert_same(gradients(network, ours), gradients(network, expected), **CLOSE)
    # Evaluation, where the instruction runs once if no graph reaches it.
    torch.testing.assert_close(network.eval().hidden_states(*padded(histories)), ours, **CLOSE)


@families
@pytest.mark.parametrize("prefix", ["static", "graph"])
def test_every_position_with_its_own_prefix_equals_attention_by_hand(
    folders: Callable[..., Path], family: str, prefix: str
) -> None:
    network = build(folders(family), prefix=prefix, targets="every")
    ids, lengths = padded(HISTORIES)
    real = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
    ours = network.all_hidden_states(ids, lengths)[real]
    rows = [literal(network, family, history)[len(INSTRUCTION) :] for history in HISTORIES]
    expected = torch.cat(rows)
    torch.testing.assert_close(ours, expected, **CLOSE)
    assert_same(gradients(network, ours), gradients(network, expected), **CLOSE)


@families
def test_all_targets_of_a_user_in_one_pass_equal_attention_by_hand(
    folders: Callable[..., Path], family: str
) -> None:
    network = build(folders(family), prefix="static")
    sequences = [[3, 1, 4, 1, 7], [5, 8], [9, 2, 6, 4]]
    ids, lengths = padded(sequences)
    ours = network.targets_loss(ids, lengths, torch.tensor([1, 1, 2]))
    losses = []
    for sequence, first in zip(sequences, (1, 1, 2), strict=True):
        for place in range(first, len(sequence)):
            hidden = literal(network, family, sequence[:place])[-1]
            scores = network.logits(hidden[None])
            losses.append(F.cross_entropy(scores, torch.tensor([sequence[place]])))
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(ours, expected, **CLOSE)
    assert_same(gradients(network, ours), gradients(network, expected), **CLOSE)


# ------------------------------------------------------------- checkpointing, adapters


@families
def test_gradient_checkpointing_changes_nothing_but_the_work(
    folders: Callable[..., Path], family: str
) -> None:
    results, runs = [], []
    for checkpointing in (False, True):
        network = build(folders(family), gradient_checkpointing=checkpointing)
        seen: list[int] = []
        # Recomputation ends before the end of a layer, so count the beginnings of its last part.
        mlp = network.model.layers[1].mlp
        mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        output = network.hidden_states(*padded(HISTORIES))
        results.append((output, gradients(network, output)))
        runs.append(len(seen))
    assert runs == [1, 2]
    torch.testing.assert_close(results[0][0], results[1][0], **CLOSE)
    assert_same(results[0][1], results[1][1], **CLOSE)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_compiled_families_give_the_same_values_and_gradients(
    folders: Callable[..., Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced whole by Dynamo; LLaMA's is traced further, through the backward pass."""
    traced = functools.partial(torch.nn.Module.compile, backend="eager", fullgraph=True)

    def compile_traced(module: torch.nn.Module, *, dynamic: bool, options: Any) -> None:
        traced(module, dynamic=dynamic)

    results = []
    for compiled in (False, True):
        network = build(folders(family), compile=compiled)
        if compiled:
            monkeypatch.setattr(type(network.model), "compile", compile_traced)
        output = network.hidden_states(*padded(HISTORIES))
        assert network.compiled is compiled
        results.append((output, gradients(network, output)))
    torch.testing.assert_close(results[0][0], results[1][0], **CLOSE)
    assert_same(results[0][1], results[1][1], **CLOSE)


@families
def test_every_family_has_the_usual_targets_of_lora(
    folders: Callable[..., Path], family: str
) -> None:
    default = LLMSettings().lora_targets
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    for targets in (default, attention):
        settings = LLMSettings(backbone=str(folders(family)), prompt="none", lora_targets=targets)
        model = build_backbone(settings, "cpu").model
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        found = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trained}
        assert found == set(targets)
        assert len(trained) == 2 * len(targets) * SHAPE["num_hidden_layers"]


# ------------------------------------------------------------- Gemma 3 with eyes


@pytest.fixture
def multimodal(tmp_path: Path) -> Path:
    text = {**SHAPE, **FAMILIES["gemma3"].options, "num_key_value_heads": 2}
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    redrawn(Gemma3Model(config)).save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def test_the_text_decoder_of_a_multimodal_checkpoint_is_taken(multimodal: Path) -> None:
    backbone = build_backbone(LLMSettings(backbone=str(multimodal), prompt="none", lora_r=0), "cpu")
    assert backbone.hidden_size == SHAPE["hidden_size"]
    assert not any("vision" in name for name, _ in backbone.model.named_parameters())
    words = torch.tensor([[4, 9, 17, 30, 2]])
    inputs = backbone.model.get_input_embeddings()(words)
    context = AttentionContext()
    ours = backbone.model(inputs_embeds=inputs, use_cache=False, prefix_context=context)
    context.check_reached(2)
    model = Gemma3Model.from_pretrained(multimodal).eval()
    model.language_model.set_attn_implementation("eager")
    theirs = model.language_model(input_ids=words, use_cache=False)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, **CLOSE)


def code_blocks(text: str) -> list[str]:
    """Blocks that load an adapter."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [block for block in blocks if "PeftModel" in block]


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("source", ["docs/llm.md", "the model card"])
def test_what_is_said_of_loading_an_adapter_works_for_multimodal_checkpoints(
    source: str, layers: int | None, multimodal: Path, tmp_path: Path
) -> None:
    settings = {"prompt": "none", "prefix": "none", "item_inputs": (), "item_vectors": True}
    options = LLMSettings(backbone=str(multimodal), backbone_layers=layers, **settings)  # type: ignore[arg-type]
    network = HeLLMNetwork(options, n_items=N, device="cpu").eval()
    for name, parameter in network.model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    save_artefacts(network, tmp_path / "model", [f"i{n}" for n in range(N)])
    card = (tmp_path / "model/README.md").read_text(encoding="utf-8")
    docs = (Path(__file__).parents[3] / "docs/llm.md").read_text(encoding="utf-8")
    (lines,) = code_blocks(docs if source == "docs/llm.md" else card)
    names: dict[str, Any] = {"backbone": str(multimodal), "run": str(tmp_path), "layers": layers}
    exec(lines.replace("path/of/this/folder", str(tmp_path / "model")), names)  # noqa: S102
    words = torch.tensor([[4, 9, 17, 30, 2]])
    inputs = network.model.get_input_embeddings()(words)
    ours = network.model(inputs_embeds=inputs, prefix_context=AttentionContext(), use_cache=False)
    theirs = names["model"].eval()(input_ids=words, use_cache=False)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, **CLOSE)
    with names["model"].disable_adapter():
        plain = names["model"](input_ids=words, use_cache=False)
    assert not torch.allclose(plain.last_hidden_state, theirs.last_hidden_state)
