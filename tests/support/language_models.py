"""Small pre-trained language models that read titles, with a tokenizer that knows their words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from recbole_hellm.models.llm.prompt import template_tokenizer

TITLES = [
    "purchase history",
    "Below is an instruction that describes a task, paired with an input that provides context.",
    "items",
    "the next possible item to be purchased: a response",
    "Given",
]
LAYERS = 3
_SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_WINDOW = {"sliding_window": 3}
_TYPES = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, _SHAPE),
    "mistral": (MistralConfig, _SHAPE | _WINDOW),
    "qwen2": (
        Qwen2Config,
        _SHAPE | _WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, _SHAPE | {"head_dim": 6}),
    "gemma": (GemmaConfig, _SHAPE | {"head_dim": 4}),
    "gemma2": (
        Gemma2Config,
        _SHAPE | _WINDOW | _TYPES | {"head_dim": 4, "attn_logit_softcapping": 1.0},
    ),
    "gemma3": (Gemma3TextConfig, _SHAPE | _WINDOW | _TYPES | {"head_dim": 4}),
    "gpt2": (GPT2Config, {"n_embd": 16, "n_layer": LAYERS, "n_head": 4, "n_positions": 24}),
}


def save_language_model(folder: Path, family: str = "llama", *, bos: bool = True) -> Path:
    """A model of the family whose weights are far from their initial ones, and its tokenizer."""
    tokenizer = template_tokenizer()
    kind, options = FAMILIES[family]
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(3)
    model = AutoModel.from_config(kind(vocab_size=len(tokenizer), **options, **ids))
    for parameter in model.parameters():
        parameter.data = parameter.data.float() + 0.25 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    if not bos:
        tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    return folder
