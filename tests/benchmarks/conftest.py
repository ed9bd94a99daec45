"""The scripts of ``benchmarks/`` as modules, and a tiny GGUF file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # where the scripts look for each other


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of three layers, 64 wide, with weights in every format that is read."""
    pytest.importorskip("gguf", reason="needs gguf, which reads and writes GGUF")
    from support.gguf_files import small_llama, write_gguf

    kinds = {"token_embd": "Q8_0", "attn_k": "Q8_0", "attn_v": "Q4_0", "ffn_gate": "F16"}
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_gguf(file, small_llama(theta=5000.0), kinds=kinds)
