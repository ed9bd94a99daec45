"""Language features beside plain forward passes of transformers, in float64."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.language_models import FAMILIES, LAYERS, TITLES, save_language_model
from transformers import AutoModel, AutoTokenizer

from recbole_hellm.data.features.encoders import BatchEncoder
from recbole_hellm.data.features.encoders.language import (
    LanguageEncoder,
    encode_titles,
    mean_states,
    titles_content,
    titles_stored,
)
from recbole_hellm.data.features.store import choose_features, list_features, load_features
from recbole_hellm.errors import BackboneError, ConfigError, FeatureError, HellmError
from recbole_hellm.models.llm.settings import LLMSettings

ITEMS = [f"i{place}" for place in range(len(TITLES))]


def make(folder: Path | str, **settings: Any) -> LanguageEncoder:
    return LanguageEncoder(LLMSettings(backbone=str(folder), **settings))


def literal(folder: Path, titles: list[list[int]], bos: list[int], layer: int) -> torch.Tensor:
    """One title at a time through the whole model, in float64: norm, then the mean over its words.

    transformers gives the states of all layers, the last ones behind the final norm already.
    """
    model = AutoModel.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    norm = getattr(model, "norm", None) or model.ln_f
    vectors = []
    for title in titles:
        with torch.no_grad():
            read = model(torch.tensor([bos + title]), output_hidden_states=True)
            states = read.hidden_states[layer][0]
            if layer == model.config.num_hidden_layers:
                assert torch.equal(states, read.last_hidden_state[0])
            else:
                states = norm(states)
        vectors.append(sum(states[len(bos) + place] for place in range(len(title))) / len(title))
    return torch.stack(vectors)


def literal_titles(folder: Path, titles: list[str], layer: int = LAYERS) -> np.ndarray:
    """:func:`literal` of texts, by transformers' own tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [tokenizer.encode(title, add_special_tokens=False) for title in titles]
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return literal(folder, words, bos, layer).numpy()


# Vectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [1, 2, LAYERS])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_gives_what_transformers_gives_one_by_one(
    family: str, layer: int, tmp_path: Path
) -> None:
    folder = save_language_model(tmp_path / family, family)
    decoder = make(folder, language_layer=layer)._load().double()
    titles, bos = [[7, 3, 20, 4, 11, 9, 30], [5], [14, 2, 8, 21], [6, 6]], [1]
    with torch.no_grad():
        found = mean_states(decoder, titles, bos)
    assert found.dtype == torch.float64
    rounding = 1e-10 if family == "gpt2" else 2e-6  # transformers' RMSNorm is in float32
    expected = literal(folder, titles, bos, layer)
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("bos", [True, False])
def test_bos_is_read_and_not_part_of_the_mean(bos: bool, tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "model", bos=bos)
    encoder = make(folder)
    assert len(encoder._bos) == bos
    vectors = encoder.encode_batch(encoder.tokens(TITLES))
    assert vectors.dtype == np.float32 and vectors.shape == (len(TITLES), encoder.width)
    np.testing.assert_allclose(vectors, literal_titles(folder, TITLES), rtol=1e-4, atol=1e-4)


def test_the_last_layer_of_the_run_is_the_default(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "model")
    assert isinstance(make(folder), BatchEncoder)
    assert make(folder).layer == LAYERS
    assert make(folder).revision == make(folder, language_layer=LAYERS).revision
    shallow = make(folder, backbone_layers=2)
    assert shallow.layer == 2
    assert shallow.name == make(folder, language_layer=2).name != make(folder).name
    assert make(folder, backbone_layers=2, language_layer=3).revision == make(folder).revision
    with pytest.raises(ConfigError, match=r"language_layer=4 is beyond the 3 layers .* 1 to 3\.$"):
        make(folder, language_layer=4)


def test_layers_behind_are_not_kept(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "model")
    encoder = make(folder, language_layer=2)
    encoder.encode_batch([[3]])
    assert encoder._loaded is not None
    assert len(encoder._loaded.layers) == encoder._loaded.config.num_hidden_layers == 2
    encoder.release()
    assert encoder._loaded is None


def test_titles_are_cut_where_positions_end(tmp_path: Path) -> None:
    encoder = make(save_language_model(tmp_path / "gpt2", "gpt2"))
    ((*words,),) = encoder.tokens(["items " * 100])
    assert len(words) == 24 - 1  # behind BOS
    assert np.isfinite(encoder.encode_batch([words])).all()
    ((*words,),) = make(save_language_model(tmp_path / "llama")).tokens(["items " * 600])
    assert len(words) == 512


def test_the_decoder_computes_in_the_type_of_the_run(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "model")
    half, whole = make(folder, backbone_dtype="bfloat16"), make(folder)
    assert (half.precision, whole.precision) == ("bfloat16 on cpu", "float32 on cpu")
    words = whole.tokens(TITLES)
    found = half.encode_batch(words)
    assert half._loaded is not None and half._loaded.dtype == torch.bfloat16
    np.testing.assert_allclose(found, whole.encode_batch(words), rtol=0.1, atol=0.1)
    assert half.revision != whole.revision
    trained = make(folder, train_backbone=True)
    assert trained.revision == whole.revision


# Stored features ---------------------------------------------------------------------------------


def test_the_store_has_them_after_the_first_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, dataset = save_language_model(tmp_path / "model"), tmp_path / "toy"
    titles = [*TITLES[:2], "", *TITLES[3:]]
    assert not titles_stored(dataset, ITEMS, titles, make(folder))
    path = encode_titles(dataset, ITEMS, titles, make(folder), progress=False)
    assert "1 items have no title" in caplog.text
    assert path.name.startswith("language-model-layer3-")
    assert titles_stored(dataset, ITEMS, titles, make(folder))
    monkeypatch.setattr(LanguageEncoder, "encode_batch", None)
    assert encode_titles(dataset, ITEMS, titles, make(folder)) == path
    matrix = load_features(dataset, ITEMS, [path.stem])["language"].matrix
    expected = literal_titles(folder, [title for title in titles if title])
    np.testing.assert_allclose(np.delete(matrix, 2, axis=0), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(matrix[2], expected.mean(axis=0), rtol=1e-4, atol=1e-4)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["missing"] == ["i2"]
    assert "layer 3, final norm" in manifest["revision"]
    assert {file.suffix for file in path.parent.iterdir()} == {".json", ".npy"}


def test_they_are_read_only_where_they_are_named(tmp_path: Path) -> None:
    dataset = tmp_path / "toy"
    encoder = make(save_language_model(tmp_path / "model"))
    path = encode_titles(dataset, ITEMS, TITLES, encoder, progress=False)
    assert [info.on_request for info in list_features(dataset)] == [True]
    assert choose_features(dataset) == []
    with pytest.raises(FeatureError, match="holds no item features"):
        load_features(dataset, ITEMS)
    assert list(load_features(dataset, ITEMS, [path.stem])) == ["language"]


def test_an_interruption_costs_one_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    folder = save_language_model(tmp_path / "model")
    encode, calls = LanguageEncoder.encode_batch, []

    def interrupted(self: LanguageEncoder, inputs: Any) -> Any:
        calls.append(len(inputs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, inputs)

    def encoder() -> LanguageEncoder:
        return LanguageEncoder(LLMSettings(backbone=str(folder)), batch_size=2)

    whole = encode_titles(tmp_path / "whole", ITEMS, TITLES, encoder(), progress=False)
    monkeypatch.setattr(LanguageEncoder, "encode_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode_titles(tmp_path / "parts", ITEMS, TITLES, encoder(), progress=False)
    again = encode_titles(tmp_path / "parts", ITEMS, TITLES, encoder(), progress=False)
    assert "Going on after 2 of 3 batches" in caplog.text
    assert calls == [2, 2, 1, 1]
    assert again.read_bytes() == whole.read_bytes()


def test_the_content_is_that_of_backbone_layer_and_titles(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "model")

    def content(folder: Path = folder, titles: list[str] = TITLES, **settings: Any) -> str:
        return titles_content(make(folder, **settings), ITEMS, titles)

    same, elsewhere = content(), Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert content(elsewhere) == same
    assert content(language_layer=LAYERS, prefix="none") == same
    different = [
        content(titles=TITLES[::-1]),
        content(language_layer=1),
        content(save_language_model(tmp_path / "other", "mistral")),
        content(backbone_dtype="bfloat16"),
    ]
    (elsewhere / "tokenizer.json").write_text((elsewhere / "tokenizer.json").read_text() + "\n")
    assert len({same, *different, content(elsewhere)}) == 6


# Refusals ----------------------------------------------------------------------------------------


def refusal(error: type[HellmError], folder: Path | str, **settings: Any) -> str:
    def read() -> None:
        encoder = make(folder, **settings)
        encoder.encode_batch(encoder.tokens(TITLES))

    with pytest.raises(error) as caught:
        read()
    told = str(caught.value)
    assert "\n" not in told and told.endswith(".") and told.count(". ") == 0
    return told


def test_what_cannot_read_titles_is_told(tmp_path: Path) -> None:
    assert "backbone=tiny has read nothing" in refusal(ConfigError, "tiny")
    assert "is not a folder" in refusal(BackboneError, tmp_path / "absent")
    folder = save_language_model(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    told = refusal(BackboneError, folder)
    assert "no tokenizer that can be loaded" in told
    assert "without which it reads no titles" in told
    assert "prompt" not in told


def test_words_that_the_model_does_not_know_are_told(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "model")
    model = AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(9, mean_resizing=False)
    model.save_pretrained(folder)
    assert "beyond the model's 9 word embeddings" in refusal(BackboneError, folder)


def test_a_tokenizer_that_makes_no_words_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make(save_language_model(tmp_path / "model"))
    monkeypatch.setattr(encoder, "tokens", lambda titles: [[] for _ in titles])
    with pytest.raises(FeatureError, match="makes no words of the titles of toy"):
        encode_titles(tmp_path / "toy", ITEMS, TITLES, encoder, progress=False)


def test_states_that_overflow_are_told(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "model")
    model = AutoModel.from_pretrained(folder)
    model.norm.weight.data.fill_(float("inf"))
    model.save_pretrained(folder)
    assert "--backbone_dtype=float32" in refusal(FeatureError, folder)
