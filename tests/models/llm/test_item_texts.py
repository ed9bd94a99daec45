"""Titles and the user's token in the prompt, against one token at a time through Hugging Face."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, GemmaConfig, GemmaModel, LlamaConfig, LlamaModel
from transformers import PreTrainedTokenizerFast as Tokenizer

from recbole_hellm.errors import BackboneError, DataError
from recbole_hellm.models.llm.backbone import build_backbone, wrap_backbone
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.item_texts import ItemTexts, check_reads_words, title_texts
from recbole_hellm.models.llm.loading import check_backbone
from recbole_hellm.models.llm.prompt import PromptTokens
from recbole_hellm.models.llm.settings import LLMSettings

N, M, D = 7, 3, 6
CLOSE = {"rtol": 1e-8, "atol": 1e-9}
HISTORIES = [[3, 1, 4], [5], [2, 6]]
NEXT = [5, 2, 7]
USERS = [2, 0, 3]
# No words for item 4; row 0 is padding.
TITLES = [[], [9], [4, 11], [8, 3, 5], [], [2], [7, 7, 12], [10, 6]]
FAMILIES: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaModel, {}),
    "gemma": (GemmaConfig, GemmaModel, {"head_dim": 4}),  # scales its words
}
SHAPE = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 13,
    "pad_token_id": 0,
}


def texts(titles: list[list[int]] = TITLES) -> ItemTexts:
    rows = [torch.tensor(ids, dtype=torch.int64) for ids in titles]
    lengths = torch.tensor([len(row) for row in rows])
    return ItemTexts(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)


def compute_norms_in_float64(model: torch.nn.Module) -> None:
    """transformers' norms compute in float32, whatever they get."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            gain = 1.0 if "Gemma" in type(module).__name__ else 0.0
            module.forward = functools.partial(norm, module, gain)


def norm(module: Any, gain: float, x: Tensor) -> Tensor:
    return (gain + module.weight) * torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)


def network(family: str = "llama", **options: Any) -> HeLLMNetwork:
    """A frozen decoder with LoRA in float64, every trained weight drawn at random."""
    config, cls, more = FAMILIES[family]
    torch.manual_seed(1)
    given: dict[str, Any] = {
        "backbone": "folder",
        "item_text": "title",
        "prompt": "none",
        "lora_r": 2,
        "lora_dropout": 0.0,
        "prefix": "none",
        "prefix_length": 2,
        "prefix_dropout": 0.0,
        "bilinear_size": 2,
        "item_inputs": ("graph",),
        "user_token": True,
    }
    settings = LLMSettings(**given | options)
    backbone = wrap_backbone(cls(config(**SHAPE | more)), settings)
    built = HeLLMNetwork(
        settings,
        {"graph": torch.randn(N + 1, D)},
        backbone=backbone,
        texts=texts(),
        n_users=M,
    ).double()
    built.prompt = PromptTokens([1, 7, 3], [5, 8])
    built.set_up_passes(built.model)
    for parameter in built.parameters():
        if parameter.requires_grad:
            parameter.data = 0.4 * torch.randn_like(parameter)
    compute_norms_in_float64(built.model)
    if built.users is not None:
        built.users.load(torch.randn(M, D, dtype=torch.float64))
    return built.eval()


def padded(histories: list[list[int]]) -> tuple[Tensor, Tensor]:
    rows = [items + [0] * (4 - len(items)) for items in histories]
    return torch.tensor(rows), torch.tensor([len(items) for items in histories])


# The equations, one token at a time ---------------------------------------------------------------


def prefix(net: HeLLMNetwork, items: list[int], layer: int) -> list[Tensor]:
    """Keys and values [1, heads, k, d_h] of a layer, of a user with these items."""
    if net.prefix is None:
        return []
    pooled = None
    if net.pooling is not None:
        g = net.tokens.table("graph").weight[items] @ net.pooling.bilinear.weight.T
        pooled = (g.T @ g).flatten()[None, None]
    sides = net.prefix(pooled).layer(net.backbone.attention_layers[layer])
    return [side.materialise(1) for side in sides]


def literal(net: HeLLMNetwork, items: list[int], user: int, response: bool, every: bool) -> Tensor:
    """Read-out after a history: Hugging Face's own decoder, fed with embeddings one by one.

    Each token sees the prefix of the whole history, or under targets=every of the items so far.
    """
    embed = net.model.get_input_embeddings()
    words = [(embed(word)[None], 0) for word in net.prompt.instruction]
    steps = list(words)
    if net.users is not None:
        steps.append((net.tokens.mlp(net.users.weight[user])[None], 0))
    for place, item in enumerate(items):
        steps += [(embed(torch.tensor([word])), place) for word in TITLES[item]]
        steps.append((net.tokens(torch.tensor([item])), place + 1))
    if response:
        steps += [(embed(word)[None], len(items)) for word in net.prompt.response]
    layers = range(net.backbone.n_layers)
    past: list[list[Tensor]] = [[] for _ in layers]
    for position, (step, seen) in enumerate(steps):
        cache, sees = DynamicCache(), items[:seen] if every else items
        for layer in layers:
            begun = prefix(net, sees, layer) or []
            held = [part for part in (begun, past[layer]) if part]
            if held:
                keys, values = (torch.cat([p[i] for p in held], dim=2) for i in (0, 1))
                cache.update(keys, values, layer)
        output = net.model(
            inputs_embeds=step[None],
            position_ids=torch.tensor([[position]]),
            past_key_values=cache,
            use_cache=True,
        )
        for layer in layers:
            new = [cache.layers[layer].keys[:, :, -1:], cache.layers[layer].values[:, :, -1:]]
            past[layer] = (
                [torch.cat([old, one], dim=2) for old, one in zip(past[layer], new, strict=True)]
                if past[layer]
                else new
            )
    return net.head.read_out(output.last_hidden_state[0, -1])


def wanted(net: HeLLMNetwork, samples: list[tuple[list[int], int]], response: bool) -> Tensor:
    """Read-outs of (history, user) pairs."""
    every = net.settings.targets == "every"
    net.model.set_attn_implementation("sdpa")  # eager softmax is float32
    try:
        return torch.stack([literal(net, *sample, response, every) for sample in samples])
    finally:
        net.model.set_attn_implementation("hellm_prefix")


def loss_of(net: HeLLMNetwork, hidden: Tensor, targets: list[int]) -> Tensor:
    return torch.nn.functional.cross_entropy(net.logits(hidden)[:, 1:], torch.tensor(targets) - 1)


def check_gradients(net: HeLLMNetwork, loss: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(loss, other, **CLOSE)
    trained = {key: value for key, value in net.named_parameters() if value.requires_grad}
    found, expected = (torch.autograd.grad(x, list(trained.values())) for x in (loss, other))
    for key, gradient, reference in zip(trained, found, expected, strict=True):
        assert gradient.any(), key
        torch.testing.assert_close(gradient, reference, **CLOSE, msg=key)


WITH_AND_WITHOUT = [
    {"user_token": True},
    {"user_token": False},
    {"user_token": True, "item_text": "none"},
]


def without(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    if options.get("item_text") == "none":
        monkeypatch.setitem(globals(), "TITLES", [[]] * (N + 1))


@pytest.mark.parametrize("options", WITH_AND_WITHOUT, ids=str)
@pytest.mark.parametrize(
    ("kind", "family", "side"),
    [
        ("none", "llama", "left"),
        ("none", "gemma", "right"),
        ("static", "llama", "right"),
        ("graph", "llama", "left"),
        ("graph", "gemma", "left"),
    ],
)
def test_one_history_a_row(
    monkeypatch: pytest.MonkeyPatch, kind: str, family: str, side: str, options: dict[str, Any]
) -> None:
    net = network(family, prefix=kind, targets="last", padding_side=side, **options)
    without(monkeypatch, options)
    expected = wanted(net, list(zip(HISTORIES, USERS, strict=True)), response=True)
    users = torch.tensor(USERS)
    found = net.hidden_states(*padded(HISTORIES), users)  # the instruction is shared
    torch.testing.assert_close(found, expected, **CLOSE)
    loss = net.train().loss(*padded(HISTORIES), torch.tensor(NEXT), users)
    check_gradients(net, loss, loss_of(net, expected, NEXT))


@pytest.mark.parametrize("side", ["left", "right"])
def test_without_a_response_the_last_item_token_is_read(side: str) -> None:
    net = network(targets="last", padding_side=side)
    net.prompt = PromptTokens([], [])
    net.set_up_passes(net.model)
    found = net.hidden_states(*padded(HISTORIES), torch.tensor(USERS))
    expected = wanted(net, list(zip(HISTORIES, USERS, strict=True)), response=True)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("options", WITH_AND_WITHOUT, ids=str)
@pytest.mark.parametrize(
    ("kind", "family"),
    [("none", "llama"), ("none", "gemma"), ("static", "llama"), ("graph", "llama")],
)
def test_every_item_token_is_read(
    monkeypatch: pytest.MonkeyPatch, kind: str, family: str, options: dict[str, Any]
) -> None:
    net = network(family, prefix=kind, targets="every", **options)
    without(monkeypatch, options)
    samples = [
        (items[:end], user)
        for items, user in zip(HISTORIES, USERS, strict=True)
        for end in range(1, len(items) + 1)
    ]
    expected = wanted(net, samples, response=False)
    ids, lengths = padded(HISTORIES)
    users = torch.tensor(USERS)
    mask = torch.arange(4) < lengths[:, None]
    every = net.all_hidden_states(ids, lengths, users)
    torch.testing.assert_close(every[mask], expected, **CLOSE)
    assert not every[~mask].any()
    last = net.hidden_states(ids, lengths, users)
    torch.testing.assert_close(last, expected[lengths.cumsum(0) - 1], **CLOSE)
    # Full sequences; one of a single item has no target and is left out.
    sequences = torch.tensor([[3, 1, 4, 5], [5, 0, 0, 0], [2, 6, 7, 0]])
    loss = net.train().sequence_loss(sequences, users)
    kept = expected[[0, 1, 2, 4, 5]]
    check_gradients(net, loss, loss_of(net, kept, [1, 4, 5, 6, 7]))


@pytest.mark.parametrize("response", [[5, 8], []])
@pytest.mark.parametrize("kind", ["none", "static"])
@pytest.mark.parametrize("options", WITH_AND_WITHOUT, ids=str)
def test_several_targets_of_a_user_in_one_pass(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], kind: str, response: list[int]
) -> None:
    net = network(prefix=kind, targets="last", multi_target=True, **options)
    without(monkeypatch, options)
    net.prompt = PromptTokens([1, 7, 3], response)
    net.set_up_passes(net.model)
    sequences = torch.tensor([[3, 1, 4, 5], [2, 6, 0, 0], [2, 6, 7, 0]])
    lengths, first = torch.tensor([4, 2, 3]), torch.tensor([2, 1, 1])
    samples = [([3, 1], 2), ([3, 1, 4], 2), ([2], 0), ([2], 3), ([2, 6], 3)]
    expected = wanted(net, samples, response=True)
    loss = net.train().targets_loss(sequences, lengths, first, torch.tensor(USERS))
    check_gradients(net, loss, loss_of(net, expected, [4, 5, 6, 6, 7]))


def test_an_unknown_user_has_the_mean_of_the_users() -> None:
    net = network()
    assert net.users is not None
    torch.testing.assert_close(net.users.weight[0], net.users.weight[1:].mean(0))
    unknown, zero = (
        net.hidden_states(*padded(HISTORIES), u) for u in (None, torch.zeros(3).long())
    )
    assert torch.equal(unknown, zero)
    known = net.hidden_states(*padded(HISTORIES), torch.tensor([1, 2, 3]))
    assert not torch.isclose(known, zero).any(dim=1).all()
    with pytest.raises(DataError, match=r"has shape \(2, 6\), not \(3, 6\)"):
        net.users.load(torch.zeros(2, D))


def test_an_unknown_user_is_read_as_the_first_row_of_the_table() -> None:
    net = network()
    unknown, zero, known = (
        net.hidden_states(*padded(HISTORIES), users)
        for users in (None, torch.zeros(3).long(), torch.tensor([1, 2, 3]))
    )
    assert torch.equal(unknown, zero)
    assert not torch.isclose(known, zero).any(dim=1).all()


# Words --------------------------------------------------------------------------------------------


def tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer as Raw
    from tokenizers import models, pre_tokenizers

    raw: Any = Raw(models.WordLevel({"<unk>": 0, "red": 1, "lipstick": 2, "soap": 3}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(tokenizer_object=raw, unk_token="<unk>")  # noqa: S106


def test_titles_become_words_within_the_budget() -> None:
    found = title_texts(["red lipstick soap", "", "soap", "soap red"], tokenizer(), 2)
    assert found.lengths.tolist() == [0, 2, 0, 1, 2]
    assert found.words[1].tolist() == [1, 2]
    assert found.words[4].tolist() == [3, 1]
    assert found.highest == 3
    assert found.widths(torch.tensor([[1, 2, 0], [3, 4, 4]])).tolist() == [[3, 1, 1], [2, 3, 3]]
    words, places = found.placed(torch.tensor([4, 2, 3]), torch.tensor([2, 3, 5]))
    assert (words.tolist(), places.tolist()) == ([3, 1, 3], [0, 1, 4])
    nothing = title_texts(["", ""], tokenizer(), 2)
    assert nothing.highest == -1
    assert nothing.widths(torch.tensor([1, 0])).tolist() == [1, 1]


def test_checkpoints_hold_the_words() -> None:
    state = network().state_dict()
    assert state["texts.words"].tolist() == texts().words.tolist()
    assert state["users.weight"].shape == (M + 1, D)
    assert not [
        key for key in network(item_text="none", user_token=False).state_dict() if "texts" in key
    ]


def test_words_beyond_the_vocabulary_are_refused() -> None:
    net = network()
    too_high = [list(row) for row in TITLES]
    too_high[2] = [13]
    with pytest.raises(BackboneError, match="id 13 is beyond the model's 13 word embeddings"):
        HeLLMNetwork(
            net.settings,
            {"graph": torch.zeros(N + 1, D)},
            backbone=net.backbone,
            texts=texts(too_high),
            n_users=M,
        )
    for given in (None, texts(TITLES[:-1])):
        with pytest.raises(DataError, match="needs the titles of 7 items"):
            HeLLMNetwork(
                net.settings,
                {"graph": torch.zeros(N + 1, D)},
                backbone=net.backbone,
                texts=given,
                n_users=M,
            )


def test_a_backbone_that_knows_no_words_is_refused() -> None:
    settings = LLMSettings(item_text="title")
    for refused in (check_reads_words, build_backbone, check_backbone):
        with pytest.raises(
            BackboneError, match="backbone=tiny knows no words; name one with"
        ) as error:
            refused(settings)
        assert str(error.value).count(". ") == 0
    check_reads_words(LLMSettings(item_text="title", backbone="some/model"))


def test_positions_are_counted_in_tokens() -> None:
    net = network()
    object.__setattr__(net.backbone, "positions", 15)
    # Instruction 3, response 2, user 1; titles and item tokens of 3, 1 and 4: 4 + 2 + 1.
    net.hidden_states(*padded([[3, 1, 4]]))
    with pytest.raises(BackboneError) as error:
        net.hidden_states(*padded([[3, 1, 4, 6]]))
    assert "a history of 12 tokens with a prompt of 5 tokens needs 17" in str(error.value)
    assert "--MAX_ITEM_LIST_LENGTH=2 or --prompt=none" in str(error.value)
