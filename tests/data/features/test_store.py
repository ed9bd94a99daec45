"""Feature store: round trip, alignment by token, and every way a stored set can be wrong."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from recbole_hellm.data.features.store import (
    choose_features,
    features_fingerprint,
    list_features,
    load_features,
    save_features,
    verify_features,
)
from recbole_hellm.errors import FeatureError
from recbole_hellm.storage.checksums import sealed

TOKENS = ["B07", "B01", "B30", "Ü9"]
MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    dataset = tmp_path / "toy"
    save_features(dataset, "text", "tfidf", TOKENS, MATRIX, {"revision": "r1", "missing": ["B30"]})
    return dataset


def _edit_manifest(directory: Path, **changes: object) -> None:
    """As foreign software might, which writes no checksum of the manifest."""
    path = directory / "features" / "text-tfidf.json"
    manifest = json.loads(path.read_text("utf-8")) | changes
    for key in ("checksum", "files"):
        manifest.pop(key, None)
    path.write_text(json.dumps(manifest), "utf-8")


def _replace_matrix(directory: Path, matrix: np.ndarray, **changes: object) -> None:
    """Put another matrix there with a checksum that fits, as foreign software might."""
    path = directory / "features" / "text-tfidf.npy"
    np.save(path, matrix)
    _edit_manifest(
        directory, matrix_sha256=hashlib.sha256(path.read_bytes()).hexdigest(), **changes
    )


def _message(directory: Path, names: list[str] | None = None, tokens: list[str] = TOKENS) -> str:
    with pytest.raises(FeatureError) as caught:
        load_features(directory, tokens, names)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_round_trip(directory: Path) -> None:
    features = load_features(directory, TOKENS)
    assert list(features) == ["text"]
    assert (features["text"].modality, features["text"].encoder) == ("text", "tfidf")
    assert features["text"].matrix.dtype == np.float32
    np.testing.assert_array_equal(features["text"].matrix, MATRIX)


def test_rows_follow_the_requested_tokens(directory: Path) -> None:
    features = load_features(directory, ["Ü9", "B07", "B30"])
    np.testing.assert_array_equal(features["text"].matrix, MATRIX[[3, 0, 2]])


def test_manifest_records_the_origin(directory: Path) -> None:
    path = save_features(
        directory,
        "image",
        "clip",
        TOKENS,
        MATRIX.astype(np.float64),
        {"revision": "abc", "template": None, "missing": ["B01"], "resolution": 224},
    )
    assert path == directory / "features" / "image-clip.npy"
    assert np.load(path).dtype == np.float32
    manifest = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert manifest["revision"] == "abc" and manifest["missing"] == ["B01"]
    assert (manifest["rows"], manifest["dim"]) == (4, 3)
    assert manifest["details"] == {"resolution": 224}
    assert manifest["matrix_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(path.with_suffix(".tokens.json").read_text("utf-8")) == TOKENS
    files = sorted(file.name for file in path.parent.glob("image*"))
    assert files == ["image-clip.json", "image-clip.npy", "image-clip.tokens.json"]


def test_list_features(directory: Path, tmp_path: Path) -> None:
    save_features(directory, "image", "clip-b32", TOKENS[:2], MATRIX[:2, :2])
    image, text = list_features(directory)
    assert (image.modality, image.encoder, image.rows, image.dim) == ("image", "clip-b32", 2, 2)
    assert image.name == "image-clip-b32" and image.path.is_file()
    assert (text.name, text.rows, text.dim) == ("text-tfidf", 4, 3)
    assert list_features(tmp_path / "nowhere") == []


def test_names_select_and_order_modalities(directory: Path) -> None:
    save_features(directory, "image", "clip", TOKENS, MATRIX + 1)
    save_features(directory, "text", "minilm", TOKENS, MATRIX + 2)
    features = load_features(directory, TOKENS, ["text-minilm", "image-clip"])
    assert list(features) == ["text", "image"]
    np.testing.assert_array_equal(features["text"].matrix, MATRIX + 2)
    assert load_features(directory, TOKENS, []) == {}


@pytest.mark.parametrize(
    ("tokens", "matrix", "complaint"),
    [
        (["a", "b", "a"], np.ones((3, 2)), "1 item tokens .* more than once .*a"),
        (["a", "b"], np.ones((3, 2)), r"shape \(3, 2\) for 2 item tokens"),
        (["a"], np.ones(3), r"shape \(3,\)"),
        (["a"], np.ones((1, 0)), "non-empty"),
        (["a", "b"], np.array([[1.0, 2.0], [np.nan, 0.0]]), "1 items .first: b"),
        (["a", "b"], np.array([[1.0], [-np.inf]]), "infinity .* 1 items .first: b"),
        (["a"], np.array([[1e300]]), "infinity"),  # does not fit float32
        (["a"], np.array([[{}]], dtype=object), "real numbers"),
    ],
)
def test_save_rejects(
    tmp_path: Path, tokens: list[str], matrix: np.ndarray, complaint: str
) -> None:
    with pytest.raises(FeatureError, match=complaint):
        save_features(tmp_path, "text", "x", tokens, matrix)
    assert list_features(tmp_path) == [] and not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize(("modality", "encoder"), [("te-xt", "x"), ("text", "../x"), ("text", "")])
def test_save_rejects_ambiguous_names(tmp_path: Path, modality: str, encoder: str) -> None:
    with pytest.raises(FeatureError, match="cannot name a feature file"):
        save_features(tmp_path, modality, encoder, TOKENS, MATRIX)


def test_a_failed_save_keeps_the_old_set(directory: Path) -> None:
    with pytest.raises(TypeError):
        save_features(directory, "text", "tfidf", TOKENS, MATRIX + 1, {"unserialisable": object()})
    np.testing.assert_array_equal(load_features(directory, TOKENS)["text"].matrix, MATRIX)
    assert len(list((directory / "features").iterdir())) == 3


def test_no_features_at_all(tmp_path: Path) -> None:
    assert "run `recbole-hellm encode --dataset=Books`" in _message(tmp_path / "Books")


def test_unknown_name_lists_what_is_there(directory: Path) -> None:
    message = _message(directory, ["text-bert"])
    assert "text-bert.npy does not exist" in message and "text-tfidf" in message


def _saved_at(directory: Path, name: str, seconds: float) -> None:
    """Give a set the time of saving, in its manifest, that it would have."""
    path = directory / "features" / f"{name}.json"
    manifest = json.loads(path.read_text("utf-8")) | {"saved_at": seconds}
    del manifest["checksum"]
    path.write_text(json.dumps(sealed(manifest)), "utf-8")


def test_of_several_encoders_the_newest_is_taken(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="recbole_hellm")
    save_features(directory, "image", "clip", TOKENS, MATRIX + 1)
    assert list(load_features(directory, TOKENS)) == ["image", "text"] and not caplog.messages
    save_features(directory, "text", "a-newer", TOKENS, MATRIX + 2)
    features = load_features(directory, TOKENS)
    assert {key: value.encoder for key, value in features.items()} == {
        "image": "clip",
        "text": "a-newer",
    }
    assert caplog.messages == [
        f"{directory}/features has the sets text-a-newer, text-tfidf of one modality; text-a-newer "
        "is taken, the newest (--features='[image-clip, text-a-newer]' takes the same ones "
        "whatever is added)."
    ]
    # By what the manifests say, for a copy of the folder has other times.
    _saved_at(directory, "text-a-newer", 1e9)
    assert choose_features(directory) == ["image-clip", "text-tfidf"]
    _saved_at(directory, "text-tfidf", 1e9)
    assert choose_features(directory) == ["image-clip", "text-tfidf"]  # the last by name
    caplog.clear()
    assert choose_features(directory, "text-a-newer") == ["image-clip", "text-a-newer"]
    assert "text-a-newer is taken, which the text encoder names" in caplog.text


def test_sets_of_earlier_versions_go_by_the_time_of_the_file(directory: Path) -> None:
    save_features(directory, "text", "a", TOKENS, MATRIX)
    for name, seconds in (("a", 2e9), ("tfidf", 1e9)):
        path = directory / "features" / f"text-{name}.json"
        manifest = json.loads(path.read_text("utf-8"))
        del manifest["checksum"], manifest["files"], manifest["saved_at"]
        path.write_text(json.dumps(manifest), "utf-8")
        os.utime(path, (seconds, seconds))
    assert choose_features(directory) == ["text-a"]


def test_two_named_sets_of_one_modality_are_refused(directory: Path) -> None:
    save_features(directory, "text", "minilm", TOKENS, MATRIX)
    save_features(directory, "image", "clip", TOKENS, MATRIX)
    message = _message(directory, ["text-minilm", "image-clip", "text-tfidf"])
    assert "text-minilm and text-tfidf for the one modality text" in message
    assert message.endswith("--features='[text-tfidf, image-clip]'.")  # no modality is lost


def test_items_without_a_row_get_the_mean_of_the_others(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = ["N1", "Ü9", "B07", "N2", "B30"]
    matrix = load_features(directory, wanted)["text"].matrix
    # B30 has no text itself: its row is a mean that counts for nothing.
    mean = MATRIX[[3, 0]].mean(axis=0)
    np.testing.assert_array_equal(matrix, [mean, MATRIX[3], MATRIX[0], mean, MATRIX[2]])
    path = directory / "features/text-tfidf.npy"
    assert caplog.messages == [
        f"{path} lacks 2 of the 5 items (first: N1, N2), which get the mean of the others."
    ]
    np.testing.assert_array_equal(
        load_features(directory, ["N", "B30"])["text"].matrix, MATRIX[[2, 2]]
    )


def test_most_items_without_a_row(directory: Path) -> None:
    message = _message(directory, tokens=["N1", "B01", "N2", "N3", "N4"])
    assert "lacks 4 of the 5 items (first: N1, N2, N3), so it is most likely" in message
    assert f"give these items rows in {directory}/toy.item and encode again" in message


def test_damaged_sets_are_listed(directory: Path, tmp_path: Path) -> None:
    assert verify_features(tmp_path / "nowhere") == verify_features(directory) == []
    save_features(directory, "image", "clip", TOKENS, MATRIX)
    path = directory / "features" / "text-tfidf.npy"
    path.write_bytes(path.read_bytes()[:-1])
    (damaged,) = verify_features(directory)
    assert damaged[0] == path and "text-tfidf.npy is damaged (its checksum differs)" in damaged[1]


@pytest.mark.parametrize("suffix", [".npy", ".tokens.json"])
def test_lost_file(directory: Path, suffix: str) -> None:
    (directory / "features" / f"text-tfidf{suffix}").unlink()
    message = _message(directory)
    assert f"text-tfidf{suffix} is damaged (it is missing)" in message
    assert "delete the files text-tfidf.* there" in message


def test_lost_manifest_means_no_set(directory: Path) -> None:
    (directory / "features" / "text-tfidf.json").unlink()
    assert "holds no item features" in _message(directory)
    assert "has no manifest" in _message(directory, ["text-tfidf"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(directory: Path, value: float) -> None:
    matrix = MATRIX.copy()
    matrix[1:3, 0] = value
    _replace_matrix(directory, matrix)
    assert "rows of 2 items (first: B30)" in _message(directory, tokens=["B07", "B30", "B01"])
    # Only the requested rows count.
    assert load_features(directory, ["Ü9"])["text"].matrix.tolist() == MATRIX[3:].tolist()


def test_shape_that_is_not_the_manifest_s(directory: Path) -> None:
    _replace_matrix(directory, MATRIX[:, :2])
    assert "shape (4, 2)" in _message(directory)
    _replace_matrix(directory, MATRIX[:3], rows=3)
    assert "4 item tokens" in _message(directory)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(directory: Path, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    _replace_matrix(directory, np.full((4, 3), trap, dtype=object))
    assert "cannot be read as a plain array" in _message(directory)
    path = directory / "features" / "text-tfidf.npy"
    path.write_bytes(pickle.dumps(trap))
    _edit_manifest(directory, matrix_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert "cannot be read as a plain array" in _message(directory)
    assert not trap.path.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"modality": "text"}'])
def test_manifest_that_is_none(directory: Path, text: str) -> None:
    (directory / "features" / "text-tfidf.json").write_text(text, "utf-8")
    assert "text-tfidf.json" in _message(directory)


def test_manifest_of_another_set(directory: Path) -> None:
    _edit_manifest(directory, encoder="minilm")
    assert "describes text-minilm, not text-tfidf" in _message(directory)


def test_a_broken_set_does_not_hurt_the_others(directory: Path) -> None:
    save_features(directory, "image", "clip", TOKENS, MATRIX)
    (directory / "features" / "text-tfidf.json").write_text("{", "utf-8")
    assert list(load_features(directory, TOKENS, ["image-clip"])) == ["image"]


def test_fingerprint_follows_content_not_order(directory: Path) -> None:
    save_features(directory, "image", "clip", TOKENS, MATRIX + 1)
    first = features_fingerprint(load_features(directory, TOKENS))
    names = ["text-tfidf", "image-clip"]
    assert first == features_fingerprint(load_features(directory, TOKENS[::-1], names))
    assert first != features_fingerprint(load_features(directory, TOKENS, names[:1]))

    # The same matrix for other items is another content, and so is a changed value.
    save_features(directory, "image", "clip", TOKENS[::-1], MATRIX + 1)
    second = features_fingerprint(load_features(directory, TOKENS))
    save_features(directory, "image", "clip", TOKENS, MATRIX + 2)
    third = features_fingerprint(load_features(directory, TOKENS))
    assert len({first, second, third}) == 3
