"""The scripts of ``benchmarks/`` as modules, and a tiny GGUF file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # where the scripts look for each other


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of three layers, 64 wide, with weights in every format that is read."""
    gguf = pytest.importorskip("gguf", reason="needs gguf, which reads and writes GGUF")
    kinds = gguf.GGMLQuantizationType
    width, inner, heads, key_heads, words = 64, 96, 4, 2, 32
    keys = width // heads * key_heads
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(3)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(words)
    layer = {
        "attn_norm": ((width,), kinds.F32),
        "attn_q": ((width, width), kinds.Q4_1),
        "attn_k": ((keys, width), kinds.Q8_0),
        "attn_v": ((keys, width), kinds.Q4_0),
        "attn_output": ((width, width), kinds.Q4_1),
        "ffn_norm": ((width,), kinds.F32),
        "ffn_gate": ((inner, width), kinds.F16),
        "ffn_up": ((inner, width), kinds.Q4_1),
        "ffn_down": ((width, inner), kinds.Q4_1),
    }
    tensors = {"token_embd": ((words, width), kinds.Q8_0), "output_norm": ((width,), kinds.F32)}
    tensors |= {f"blk.{i}.{name}": fact for i in range(3) for name, fact in layer.items()}
    rng = np.random.default_rng(0)
    for name, (shape, kind) in tensors.items():
        values = rng.normal(size=shape).astype(np.float32)
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
