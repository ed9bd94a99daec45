"""A small pre-trained backbone, and the sentence that refuses one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.backbone import build_backbone
from recbole_hellm.models.llm.settings import LLMSettings

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 90,
    "pad_token_id": 0,
}


def refusal(name: str | Path, **options: Any) -> str:
    """The one sentence with which the backbone is refused."""
    with pytest.raises(BackboneError) as error:
        build_backbone(LLMSettings(backbone=str(name), **{"prompt": "none", **options}))
    text = str(error.value)
    assert text.startswith(f"backbone={name} ")
    assert "\n" not in text
    assert text.endswith(".")
    assert text.count(". ") == 0
    return text
