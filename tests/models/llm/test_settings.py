from __future__ import annotations

from typing import Any

import pytest

from recbole_hellm.errors import ConfigError
from recbole_hellm.models.llm.settings import LLMSettings


def test_paper_on_tiny_resolves_to_equations_and_a_backbone_trained_whole() -> None:
    resolved = LLMSettings().resolved()
    assert (resolved.bilinear, resolved.prefix_norm, resolved.prefix_projection) == (
        "linear",
        "before",
        "direct",
    )
    assert (resolved.train_head, resolved.response_bos, resolved.train_backbone) == (
        True,
        False,
        True,
    )
    assert (resolved.prompt, resolved.head, resolved.targets) == ("none", "tied", "every")


def test_released_on_a_pretrained_backbone_resolves_to_what_its_code_does() -> None:
    resolved = LLMSettings(variant="released", backbone="meta-llama/Llama-2-7b-hf").resolved()
    assert (resolved.bilinear, resolved.prefix_norm, resolved.prefix_projection) == (
        "none",
        "after",
        "frozen",
    )
    assert (resolved.train_head, resolved.response_bos, resolved.train_backbone) == (
        False,
        True,
        False,
    )
    assert (resolved.prompt, resolved.head, resolved.targets) == ("alpaca", "linear", "last")
    assert not resolved.item_vectors
    assert not resolved.train_item_tables


def test_explicit_choices_outlive_resolution_and_it_is_idempotent() -> None:
    settings = LLMSettings(variant="released", bilinear="linear", train_head=True)
    resolved = settings.resolved()
    assert resolved.bilinear == "linear"
    assert resolved.train_head is True
    assert resolved.resolved() is resolved
    open_fields = {key for key, value in resolved.to_dict().items() if value is None}
    assert open_fields == {"prefix_mlp_hidden", "item_mlp_hidden", "language_layer"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"prefix_length": 0}, "prefix_length"),
        ({"backbone_dropout": 1.0}, "backbone_dropout"),
        ({"lora_r": -1}, "lora_r"),
        ({"backbone_hidden_size": 30, "backbone_heads": 4}, "backbone_hidden_size"),
        ({"item_inputs": (), "item_vectors": False}, "item_inputs"),
        ({"item_inputs": ("graph", "graph")}, "item_inputs"),
        ({"gram_pad_bug": True}, "gram_pad_bug"),
        ({"prefix_init_std": -1.0}, "prefix_init_std"),
        ({"variant": "published"}, "variant"),
    ],
)
def test_values_that_do_not_fit_are_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LLMSettings.from_config(values)


def test_lists_from_yaml_become_tuples() -> None:
    assert LLMSettings.from_config({"item_inputs": ["sequence"]}).item_inputs == ("sequence",)


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ({}, {"backbone_layers": 2}),
        ({"backbone_layers": 2}, {"backbone_layers": 2}),
        ({"backbone_layers": 5}, {"backbone_layers": 5}),
        ({"backbone": "x"}, {"backbone_layers": 2}),
        ({"backbone": "x", "backbone_layers": 2}, {"backbone_layers": 2, "backbone_depth": 2}),
        ({"backbone": "x", "backbone_layers": 8}, {"backbone_layers": 8, "backbone_depth": 8}),
    ],
)
def test_depth_is_recorded_beside_what_earlier_versions_recorded(
    given: dict[str, Any], recorded: dict[str, int]
) -> None:
    settings = LLMSettings(**given)
    assert settings.recorded() == recorded
    again = LLMSettings(**LLMSettings.given({"backbone": settings.backbone, **recorded}))
    assert again.resolved() == settings.resolved()
    assert settings.resolved().backbone_layers == (
        given.get("backbone_layers") if "backbone" in given else recorded["backbone_layers"]
    )


def test_words_are_read_for_a_prompt_or_for_titles() -> None:
    assert not LLMSettings().reads_words
    assert LLMSettings(backbone="folder").reads_words
    assert not LLMSettings(backbone="folder", prompt="none").reads_words
    assert LLMSettings(backbone="folder", prompt="none", item_text="title").reads_words


def test_a_user_token_needs_items_of_the_graph_stage_alone() -> None:
    assert LLMSettings(user_token=True, item_inputs=("graph",)).user_token
    with pytest.raises(ConfigError, match=r"item_inputs=\[graph\], not \['graph', 'sequence'\]"):
        LLMSettings(user_token=True)
    assert {"item_text", "item_text_tokens", "user_token"} <= LLMSettings().untouched_additions()
