"""Tiny LLaMAs in GGUF files, written tensor by tensor as llama.cpp does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaModel

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
SPECIAL = ["<|end|>", "<|start|>"]
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "s t"]


def vocabulary() -> list[str]:
    """Two special tokens, all bytes, and what the merges make of them."""
    alphabet = sorted(ByteLevel.alphabet())
    return [*SPECIAL, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]


def small_llama(seed: int = 0, theta: float = 10_000.0) -> LlamaModel:
    """A LLaMA with grouped-query attention and telling weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **SHAPE,
        vocab_size=len(vocabulary()),
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    model = LlamaModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def gguf_name(name: str) -> str:
    """llama.cpp's name of a weight."""
    if name == "embed_tokens.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, layer, part = name.removesuffix(".weight").split(".", 2)
    return f"blk.{layer}.{NAMES[part]}.weight"


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in llama.cpp's order: the halves of a head alternate."""
    size = len(weight) // heads
    order = [
        head * size + half * (size // 2) + i
        for head in range(heads)
        for i in range(size // 2)
        for half in (0, 1)
    ]
    return weight[order]


def write_gguf(
    path: Path,
    model: LlamaModel,
    kind: str = "Q4_1",
    words: bool = True,
    architecture: str = "llama",
    kinds: Mapping[str, str] | None = None,
) -> Path:
    """Write a model; its vectors stay float32, as llama.cpp leaves them.

    Parameters
    ----------
    kind : str
        Name of a quantisation type for the matrices.
    words : bool
        Write a tokenizer.
    architecture : str
        What the file says it is.
    kinds : Mapping of str to str, optional
        Other types than `kind`, by llama.cpp's name of a matrix, such as ``attn_k``.
    """
    import gguf

    config: Any = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("a small model")
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if words:
        tokens = vocabulary()
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        roles = [gguf.TokenType.CONTROL] * len(SPECIAL)
        writer.add_token_types(roles + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL)))
        writer.add_token_merges(MERGES)
        writer.add_eos_token_id(0)
        writer.add_bos_token_id(1)
    for name, value in model.state_dict().items():
        weight = value.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, number in heads.items():
            if part in name:
                weight = permuted(weight, number)
        if weight.ndim == 1:
            writer.add_tensor(gguf_name(name), weight)
            continue
        matrix = gguf_name(name).split(".")[-2]
        quantised = gguf.GGMLQuantizationType[(kinds or {}).get(matrix, kind)]
        packed = gguf.quantize(np.ascontiguousarray(weight), quantised)
        writer.add_tensor(gguf_name(name), packed, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
