"""The sample must hold every signal that a model in this package can learn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_hellm.data.interactions.atomic_files import read_items
from recbole_hellm.data.preparation import sample
from recbole_hellm.data.preparation.manifest import read_manifest
from recbole_hellm.data.preparation.sample import generate_sample

features = pytest.importorskip("recbole_hellm.data.features.store")


@dataclasses.dataclass
class Shop:
    directory: Path
    manifest: dict
    frame: pd.DataFrame
    items: pd.DataFrame
    histories: list[np.ndarray]  # 0-based item rows per user, in order

    @property
    def train(self) -> list[np.ndarray]:
        return [history[:-2] for history in self.histories]

    @property
    def popularity(self) -> np.ndarray:
        return np.bincount(np.concatenate(self.train), minlength=len(self.items)).astype(float)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    directory = tmp_path_factory.mktemp("data") / "sample"
    manifest = generate_sample(directory)
    frame = pd.read_csv(directory / "sample.inter", sep="\t")
    frame.columns = [column.split(":")[0] for column in frame.columns]
    items = read_items(directory, "sample")
    row_of = {token: row for row, token in enumerate(items["item_id"])}
    histories = [
        np.array([row_of[token] for token in tokens])
        for _, tokens in frame.groupby("user_id", sort=True)["item_id"]
    ]
    return Shop(directory, manifest, frame, items, histories)


def recall(shop: Shop, score: Callable[[np.ndarray], np.ndarray], k: int = 10) -> float:
    """Recall@k on test items, seen items masked; ties count against the recommender."""
    hits = 0
    for history in shop.histories:
        scores = score(history[:-1]) + 1e-9 * shop.popularity
        scores[history[:-1]] = -np.inf
        hits += int((scores >= scores[history[-1]]).sum() <= k)
    return hits / len(shop.histories)


def transitions(sequences: list[np.ndarray], n_items: int) -> np.ndarray:
    counts = np.zeros((n_items, n_items))
    for sequence in sequences:
        np.add.at(counts, (sequence[:-1], sequence[1:]), 1)
    return counts


def cooccurrence(shop: Shop) -> np.ndarray:
    taken = np.zeros((len(shop.histories), len(shop.items)))
    for user, sequence in enumerate(shop.train):
        taken[user, sequence] = 1
    norms = np.sqrt(taken.sum(axis=0)) + 1e-9
    similarity = taken.T @ taken / norms / norms[:, None]
    np.fill_diagonal(similarity, 0)
    return similarity


def image_similarity(shop: Shop) -> np.ndarray:
    loaded = features.load_features(shop.directory, shop.items["item_id"].tolist())
    assert list(loaded) == ["image"]
    assert loaded["image"].encoder == "synthetic"
    matrix = loaded["image"].matrix
    assert matrix.shape == (len(shop.items), 32)
    matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix @ matrix.T


def title_similarity(shop: Shop) -> np.ndarray:
    vectors = TfidfVectorizer().fit_transform(shop.items["title"])
    return (vectors @ vectors.T).toarray()


def test_popularity_is_weak_but_better_than_chance(shop: Shop) -> None:
    chance = 50 / len(shop.items)
    popular = recall(shop, lambda _: shop.popularity.copy(), k=50)
    assert 1.2 * chance < popular < 3 * chance


@pytest.mark.parametrize("similarity", [cooccurrence, image_similarity, title_similarity])
def test_neighbours_beat_popularity(shop: Shop, similarity: Callable[[Shop], np.ndarray]) -> None:
    matrix = similarity(shop)
    popular = recall(shop, lambda _: shop.popularity.copy())
    assert recall(shop, lambda seen: matrix[seen].sum(axis=0)) > 1.5 * popular


def test_order_beats_popularity_and_order_destroyed(shop: Shop) -> None:
    counts = transitions(shop.train, len(shop.items))
    rng = np.random.default_rng(0)
    shuffled = transitions([rng.permutation(h) for h in shop.train], len(shop.items))
    markov = recall(shop, lambda seen: counts[seen[-1]].copy())
    assert markov > 2 * recall(shop, lambda _: shop.popularity.copy())
    assert markov > 1.4 * recall(shop, lambda seen: shuffled[seen[-1]].copy())


def test_every_item_has_a_follower_of_its_category(shop: Shop) -> None:
    counts = transitions(shop.train, len(shop.items))
    category = shop.items["categories"].map(lambda path: path[0]).to_numpy()
    often = np.flatnonzero(counts.sum(axis=1) >= 8)
    assert len(often) > 50
    best = counts[often].argmax(axis=1)
    assert (category[best] == category[often]).mean() > 0.65
    share = counts[often].max(axis=1) / counts[often].sum(axis=1)
    assert share.mean() > 0.2


@pytest.mark.parametrize("similarity", [cooccurrence, image_similarity, title_similarity])
def test_neighbours_tell_more_than_category_and_order(
    shop: Shop, similarity: Callable[[Shop], np.ndarray]
) -> None:
    """Within the category of the test item, without the item before it."""
    matrix, popularity = similarity(shop), shop.popularity
    category = pd.factorize(shop.items["categories"].map(lambda path: path[0]))[0]
    hits = np.zeros(2)
    for history in shop.histories:
        target, seen = history[-1], history[:-2]
        rivals = np.flatnonzero(category == category[target])
        rivals = rivals[~np.isin(rivals, history[:-1])]
        for column, scores in enumerate((matrix[seen].sum(axis=0), popularity)):
            hits[column] += (scores[rivals] >= scores[target]).sum() <= 3
    assert hits[0] > 1.4 * hits[1]


def test_users_keep_to_a_circle_that_content_does_not_show(shop: Shop) -> None:
    """Steps that are not neighbours share a circle more often than circles dealt out anew."""
    rng = np.random.default_rng(2024)  # the first draws of the generator
    made = sample._make_items(1800, rng)
    made_row = {f"I{number:04d}": row for row, number in enumerate(rng.permutation(1800) + 1)}
    rows = shop.items["item_id"].map(made_row).to_numpy()
    paths = shop.items["categories"]
    assert [path[0] for path in paths] == [list(sample.SHOP)[c] for c in made.category[rows]]
    circle = made.circle[rows]

    def agreement(circle: np.ndarray) -> float:
        same = [circle[history[:-2]] == circle[history[2:]] for history in shop.histories]
        return float(np.concatenate(same).mean())

    assert agreement(circle) > agreement(rng.permutation(circle)) + 0.1


def test_interests_drift(shop: Shop) -> None:
    """The further apart two steps, the rarer their categories agree; chains seldom last 4 steps."""
    category = pd.factorize(shop.items["categories"].map(lambda path: path[0]))[0]
    near, far = [], []
    for history in (category[h] for h in shop.histories):
        for lag in range(4, len(history)):
            agrees = history[lag:] == history[:-lag]
            (near if lag <= 6 else far if lag >= 10 else []).extend(agrees)
    assert np.mean(near) > np.mean(far) + 0.03


def test_shape_of_the_data(shop: Shop) -> None:
    lengths = shop.frame.groupby("user_id").size()
    assert lengths.min() >= 5
    assert 15 < lengths.max() <= 20
    assert (shop.manifest["users"], shop.manifest["items"]) == (1000, 1736)
    assert 4 < shop.popularity.mean() < 6  # as sparse as Amazon's
    assert shop.manifest["users_below_three"] == 0
    assert 50 < shop.manifest["users_with_tied_test"] < 300
    assert not shop.frame.duplicated(["user_id", "item_id"]).any()
    assert (shop.frame["timestamp"] % 86_400 == 0).all()
    assert read_manifest(shop.directory) == shop.manifest


def test_item_texts(shop: Shop) -> None:
    paths = shop.items["categories"]
    assert paths.map(len).eq(2).all()
    assert paths.map(lambda path: path[0]).nunique() == 8
    assert paths.map(tuple).nunique() == 24
    assert "Coffee Making" in set(paths.map(lambda path: path[1]))
    assert (shop.items["title"] != "").all()
    assert 0 < (shop.items["brand"] == "").mean() < 0.2
    assert 0 < (shop.items["description"] == "").mean() < 0.4


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_same_seed_same_bytes(shop: Shop, tmp_path: Path) -> None:
    generate_sample(tmp_path / "again")
    generate_sample(tmp_path / "other", seed=7)
    first, again, other = map(contents, (shop.directory, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert first.keys() == other.keys()
    assert all(
        first[file] != other[file]
        for file in ("sample.inter", "sample.item", "features/image-synthetic.npy")
    )
    assert sum(map(len, first.values())) < 600_000


def test_other_sizes(tmp_path: Path) -> None:
    manifest = generate_sample(tmp_path, users=40, items=240, name="tiny")
    assert manifest["users"] == 40
    items = read_items(tmp_path, "tiny")["item_id"].tolist()
    assert len(items) == manifest["items"] < 240  # what nobody took is left out
    assert features.load_features(tmp_path, items)["image"].matrix.shape == (len(items), 32)
    with pytest.raises(ValueError, match="items >= 240"):
        generate_sample(tmp_path, items=100)
