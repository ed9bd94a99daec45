"""Hugging Face text encoders beside plain calls of transformers."""

from __future__ import annotations

import doctest
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.text_encoders import TEXTS, reference, refusal
from transformers import (
    AutoTokenizer,
    BertModel,
    LlamaConfig,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from recbole_hellm.data.features.encoders import (
    BatchEncoder,
    TransformerEncoder,
    encode_text,
    resolve_text_encoder,
    transformer_text,
)
from recbole_hellm.errors import ConfigError, FeatureError

# --- vectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_are_those_of_transformers(tiny_bert: Path, pooling: Any) -> None:
    encoder = TransformerEncoder(str(tiny_bert), pooling)
    assert isinstance(encoder, BatchEncoder)
    found = encoder.encode(TEXTS)
    assert found.shape == (6, 24) and found.dtype == np.float32
    np.testing.assert_allclose(found, reference(tiny_bert, pooling), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_batches_do_not_matter(tiny_bert: Path, pooling: Any) -> None:
    whole = TransformerEncoder(str(tiny_bert), pooling).encode(TEXTS)
    for size in (1, 2, 4):
        parts = TransformerEncoder(str(tiny_bert), pooling, batch_size=size).encode(TEXTS)
        np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_to_the_longest_is_padding_to_the_limit(tiny_bert: Path, pooling: Any) -> None:
    """The paper's notebook pads every text to the limit and passes the mask."""
    encoder = TransformerEncoder(str(tiny_bert), pooling)
    found = encoder.encode(TEXTS[:5])
    model, tokenizer = BertModel.from_pretrained(tiny_bert).eval(), encoder._load()[1]
    tokens = tokenizer(
        TEXTS[:5], padding="max_length", truncation=True, max_length=32, return_tensors="pt"
    )
    assert tokens["input_ids"].shape == (5, 32)
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state
    expected = transformer_text.pool(hidden, tokens["attention_mask"], pooling)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-6)


def test_texts_are_cut_at_the_lower_limit(tiny_bert: Path) -> None:
    long, cut = TransformerEncoder(str(tiny_bert)), TransformerEncoder(str(tiny_bert), max_length=6)
    assert (long._load()[2], cut._load()[2]) == (32, 6)
    same = cut.encode(["red blue pink matte", "red blue pink matte glossy lipstick"])
    np.testing.assert_array_equal(same[0], same[1])
    assert long.revision != cut.revision


def test_the_encoder_of_an_encoder_decoder(tiny_bert: Path, tmp_path: Path) -> None:
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0
    )
    torch.manual_seed(0)
    T5Model(config).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.save_pretrained(tmp_path)
    found = TransformerEncoder(str(tmp_path)).encode(TEXTS[:3])
    model = T5Model.from_pretrained(tmp_path).eval().encoder
    for sentence, row in zip(TEXTS[:3], found, strict=True):
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = model(input_ids=ids).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5)


# --- names and pooling ------------------------------------------------------------------------


def test_which_encoder_a_name_gives(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = resolve_text_encoder(str(tiny_bert))
    assert isinstance(plain, TransformerEncoder)
    assert (plain.name, plain.pooling) == ("tiny-bert", "mean")
    other = resolve_text_encoder(str(tiny_bert), "cls", 7)
    assert isinstance(other, TransformerEncoder)
    assert (other.name, other.pooling, other.batch_size) == ("tiny-bert-cls", "cls", 7)
    assert other.revision != plain.revision

    asked = []
    monkeypatch.setattr(
        transformer_text,
        "model_folder",
        lambda model, owner: asked.append(model.name) or tiny_bert,
    )
    bert = resolve_text_encoder("bert")
    assert isinstance(bert, TransformerEncoder)
    assert (bert.name, bert.pooling, bert.max_length) == ("bert", "cls", 512)
    assert resolve_text_encoder("bert", "cls").name == "bert"
    assert resolve_text_encoder("bert", "mean").name == "bert-mean"
    assert set(asked) == {"bert-base-uncased"}


@pytest.mark.parametrize(
    ("name", "pooling", "sentence"),
    [
        ("bert", "max", "text_pooling=max must be auto, cls, mean"),
        ("tfidf", "cls", "text_encoder=tfidf is none"),
        ("minilm", "mean", "text_encoder=minilm is none"),
        ("auto", "mean", "for example --text_encoder=bert"),
    ],
)
def test_pooling_that_cannot_be(name: str, pooling: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        resolve_text_encoder(name, pooling)


def test_what_is_stored_tells_how_it_was_made(tiny_bert: Path, tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": list("abcdef"), "title": TEXTS})
    path = encode_text(tmp_path, items, str(tiny_bert), progress=False, batch_size=4)
    assert path.name == "text-tiny-bert.npy"
    manifest = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert manifest["revision"].endswith(", mean, 512 tokens")
    assert manifest["details"]["batch_size"] == 4
    assert manifest["details"]["precision"] == "float32 on cpu" or torch.cuda.is_available()
    np.testing.assert_allclose(np.load(path), reference(tiny_bert, "mean"), atol=1e-5)
    assert not path.with_suffix(".partial").exists()
    before = path.stat().st_mtime_ns
    encode_text(tmp_path, items, str(tiny_bert), progress=False, batch_size=2)
    assert path.stat().st_mtime_ns == before  # rounding is no reason to encode again


# --- what can be wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)])
def test_a_missing_tokenizer(copy: Path, kept: tuple[str, ...]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if name not in kept:
            (copy / name).unlink()
    assert "has no tokenizer" in refusal(copy)


def test_models_that_are_no_text_encoders(tiny_clip: Path, tiny_bert: Path, copy: Path) -> None:
    LlamaConfig().save_pretrained(copy)
    assert "(llama) is a decoder-only language model" in refusal(copy)
    assert "has no tokenizer" in refusal(tiny_clip)
    both = Path(shutil.copytree(tiny_clip, copy.with_name("both")))
    for file in tiny_bert.glob("tokenizer*"):
        shutil.copy(file, both)
    assert "(clip) is no plain text encoder" in refusal(both)


def test_too_little_gpu_memory_is_told(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(transformer_text, "pool", fail)
    assert "with 1 inputs at a time; use a smaller --encode_batch" in refusal(tiny_bert)


def test_docstrings() -> None:
    assert doctest.testmod(transformer_text).failed == 0


def test_no_code_of_a_tokenizer_is_run(copy: Path, scripted: Path) -> None:
    shutil.copy(scripted / "own.py", copy)
    names = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(names))
    for name in ("tokenizer.json", "vocab.txt"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(FeatureError):  # transformers may find another tokenizer for the model
        resolve_text_encoder(str(copy)).encode(["red lipstick"])


@pytest.fixture
def roberta(copy: Path) -> Path:
    """A RoBERTa of 16 positions, of which padding takes one, without a limit of its tokenizer."""
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48}
    config = RobertaConfig(
        vocab_size=100, num_hidden_layers=1, max_position_embeddings=16, pad_token_id=0, **sizes
    )
    RobertaModel(config).save_pretrained(copy)
    facts = json.loads((copy / "tokenizer_config.json").read_text())
    facts.pop("model_max_length")
    (copy / "tokenizer_config.json").write_text(json.dumps(facts))
    return copy


def test_positions_that_begin_after_padding(roberta: Path) -> None:
    encoder = TransformerEncoder(str(roberta))
    assert encoder._load()[2] == 15
    assert np.isfinite(encoder.encode(TEXTS)).all()


def test_texts_beyond_a_models_positions(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer_text, "_positions", lambda model: None)
    with pytest.raises(FeatureError, match="cannot take a text of 16 tokens"):
        TransformerEncoder(str(roberta)).encode(TEXTS)


DAMAGES: dict[str, tuple[str, Any, str]] = {
    "vocabulary": ("tokenizer.json", {"model": {"vocab": {"red": "x"}}}, "has no tokenizer"),
    "post-processor": ("tokenizer.json", {"post_processor": {"type": "?"}}, "has no tokenizer"),
    "class": ("tokenizer_config.json", {"tokenizer_class": 1}, "has no tokenizer"),
    "length": ("tokenizer_config.json", {"model_max_length": {}}, "has no tokenizer"),
    "heads": ("config.json", {"num_attention_heads": 0}, "cannot be loaded"),
    "activation": ("config.json", {"hidden_act": "gelu2"}, "cannot be loaded"),
    "width": ("config.json", {"hidden_size": 32}, "cannot be loaded"),
    "words": ("config.json", {"vocab_size": 3}, "cannot be loaded"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_odd_settings_of_a_model_are_told(copy: Path, damage: str) -> None:
    name, changes, sentence = DAMAGES[damage]
    path = copy / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert sentence in refusal(copy)


def test_damaged_weights_are_told(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "has damaged files" in refusal(copy)


@pytest.mark.parametrize("place", ["../elsewhere", "/etc"])
def test_parts_outside_a_models_folder_are_refused(copy: Path, place: str) -> None:
    (copy / "modules.json").write_text(json.dumps([{"path": place}]))
    with pytest.raises(FeatureError, match=r"modules.json names files outside its folder"):
        TransformerEncoder(str(copy))
