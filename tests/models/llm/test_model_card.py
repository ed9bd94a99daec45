from __future__ import annotations

import re

import yaml

from recbole_hellm.models.llm.model_card import CardFacts, model_card
from recbole_hellm.models.llm.settings import LLMSettings

TINY = LLMSettings().resolved()
FROZEN = LLMSettings(backbone="Qwen/Qwen3-0.6B").resolved()
FACTS = CardFacts(
    model="CoLLM",
    dataset="Beauty",
    split="5a" * 32,
    masking="seen",
    metrics={"seen": {"ndcg@10": 0.1234567, "hit@10": 0.5}, "none": {"ndcg@10": 0.01}},
    training={"learning_rate": 0.001, "best_epoch": 7},
    versions={"torch": "2.13", "absent": None},
)


def head(card: str) -> dict[str, object]:
    """The YAML at the top, which Hugging Face reads."""
    return yaml.safe_load(card.split("---")[1])


def test_the_head_names_library_base_and_tags() -> None:
    adapted = head(model_card(FROZEN, adapted=True, facts=FACTS))
    assert adapted["library_name"] == "peft"
    assert adapted["base_model"] == "Qwen/Qwen3-0.6B"
    assert "lora" in adapted["tags"]  # type: ignore[operator]
    tiny = head(model_card(TINY, adapted=False, facts=FACTS))
    assert tiny["library_name"] == "recbole-hellm"
    assert "base_model" not in tiny
    assert "lora" not in tiny["tags"]  # type: ignore[operator]


def test_metrics_are_a_table_with_the_runs_masking_in_bold() -> None:
    card = model_card(TINY, adapted=False, facts=FACTS)
    assert "| masking | ndcg@10 | hit@10 |" in card
    assert "| **seen** | 0.12346 | 0.50000 |" in card
    assert re.search(r"^\| none \| 0\.01000 \| +\|$", card, re.MULTILINE)
    assert f"split fingerprint `{'5a' * 32}`" in card
    assert "- `best_epoch`: 7" in card
    assert "torch 2.13" in card
    assert "absent" not in card


def test_without_facts_there_are_neither_data_nor_metrics() -> None:
    card = model_card(TINY, adapted=False, facts=None)
    assert card.startswith("---\n")
    assert "# HeLLM\n" in card
    for title in ("## Data and test metrics", "## Training", "## Versions"):
        assert title not in card
    assert "## Loading" in card
    assert "## Licence" in card


def test_the_trunk_is_described() -> None:
    assert "a small LLaMA from random weights (trained whole)" in model_card(TINY, False, None)
    assert "`Qwen/Qwen3-0.6B` (frozen, with LoRA adapters)" in model_card(FROZEN, True, None)
    assert "`Qwen/Qwen3-0.6B` (frozen)" in model_card(FROZEN, False, None)
    trained = LLMSettings(backbone="x", train_backbone=True, prefix="none").resolved()
    card = model_card(trained, False, None)
    assert "`x` (trained whole)" in card
    assert "under a prefix" not in card
    assert "under a prefix" in model_card(FROZEN, False, None)


def test_a_random_backbone_is_told_as_one() -> None:
    settings = FROZEN.replace(random_backbone=True, backbone_layers=2)
    card = model_card(settings, True, None)
    assert (
        "a decoder of the shape of the first 2 layers of `Qwen/Qwen3-0.6B`, from random weights "
        "(frozen, with LoRA adapters)" in card
    )
    assert "base_model" not in head(card)
    assert "PeftModel" not in card
    assert "keeps its own licence" not in card


def test_only_adapters_of_a_named_backbone_are_loaded_by_peft() -> None:
    assert "PeftModel.from_pretrained" in model_card(FROZEN, True, None)
    assert "PeftModel" not in model_card(FROZEN, False, None)
    assert "PeftModel" not in model_card(TINY, True, None)
