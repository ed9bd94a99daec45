from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.dataset import SequentialDataset

from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.features.store import save_features
from recbole_hellm.data.interactions.dataset import HistoryDataset, create_dataset
from recbole_hellm.data.preparation.atomic import write_atomic_dataset
from recbole_hellm.data.preparation.prepare import prepare_dataset
from recbole_hellm.errors import ConfigError, DataError

Parts = Callable[..., tuple[Any, Any, list[Any]]]
MODELS = ["BPR", "SASRec"]
ROWS = [f"u{u}\ti{(u + k) % 7}\t{1_390_000_000 + 20 * k}" for u in range(5) for k in range(5)]
HEADER = "user_id:token\titem_id:token\ttimestamp:float"


def canonical(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Every user's items by time and then item token, in plain pandas."""
    ordered = frame.sort_values(["user_id", "timestamp", "item_id"], kind="stable")
    return {str(user): rows["item_id"].tolist() for user, rows in ordered.groupby("user_id")}


def targets(dataset: Any, part: Any) -> dict[str, str]:
    users = dataset.id2token("user_id", part.inter_feat["user_id"].numpy())
    items = dataset.id2token("item_id", part.inter_feat["item_id"].numpy())
    return dict(zip(users, items, strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_targets_are_the_canonical_ones(
    make_parts: Parts, interactions: pd.DataFrame, model: str
) -> None:
    _, dataset, parts = make_parts(model)
    lists = canonical(interactions)
    evaluated = {user: items for user, items in lists.items() if len(items) >= 3}
    assert len(evaluated) == len(lists) - 4
    assert targets(dataset, parts[1]) == {user: items[-2] for user, items in evaluated.items()}
    assert targets(dataset, parts[2]) == {user: items[-1] for user, items in evaluated.items()}


def test_the_data_would_show_a_wrong_order(interactions: pd.DataFrame) -> None:
    """The two traps are in the data: ties at the end, and times that float32 merges."""
    ordered = interactions.sort_values(["user_id", "timestamp"])
    last = [times.tolist()[-2:] for _, times in ordered.groupby("user_id")["timestamp"]]
    assert sum(len(times) == 2 and times[0] == times[1] for times in last) >= 10
    rough = interactions.assign(timestamp=interactions["timestamp"].astype(np.float32))
    right, wrong = canonical(interactions), canonical(rough)
    assert sum(right[user][-1] != wrong[user][-1] for user in right) >= 5


def test_training_rows_of_a_general_model(make_parts: Parts, interactions: pd.DataFrame) -> None:
    _, dataset, parts = make_parts("BPR")
    rows = parts[0].inter_feat
    users = dataset.id2token("user_id", rows["user_id"].numpy())
    items = dataset.id2token("item_id", rows["item_id"].numpy())
    found = pd.Series(items).groupby(users).agg(list).to_dict()
    wanted = {
        user: sorted(items if len(items) < 3 else items[:-2])
        for user, items in canonical(interactions).items()
    }
    assert {user: sorted(items) for user, items in found.items()} == wanted


def test_training_rows_of_a_sequential_model(make_parts: Parts, interactions: pd.DataFrame) -> None:
    _, dataset, parts = make_parts("SASRec", MAX_ITEM_LIST_LENGTH=4)
    rows, found = parts[0].inter_feat, []
    for row in range(len(rows)):
        length = int(rows["item_length"][row])
        history = dataset.id2token("item_id", rows["item_id_list"][row, :length].numpy())
        target = dataset.id2token("item_id", int(rows["item_id"][row]))
        found.append((dataset.id2token("user_id", int(rows["user_id"][row])), *history, target))
    wanted = [
        (user, *items[max(0, end - 4) : end], items[end])
        for user, items in canonical(interactions).items()
        for end in range(1, len(items) - 2 if len(items) >= 3 else len(items))
    ]
    assert sorted(found) == sorted(wanted)


def test_first_items_are_rows_whose_history_is_one_item_of_padding(
    make_parts: Parts, interactions: pd.DataFrame
) -> None:
    _, dataset, parts = make_parts("SASRec", MAX_ITEM_LIST_LENGTH=4)
    before = len(parts[0].inter_feat)
    rows = parts[0].with_first_items().inter_feat
    assert len(parts[0].inter_feat) == before
    assert len(rows) == int(dataset.histories.training_lengths.sum())
    assert rows.columns == parts[0].inter_feat.columns
    for name in rows.columns:
        assert torch.equal(rows[name][:before], parts[0].inter_feat[name])
        assert rows[name].dtype == parts[0].inter_feat[name].dtype
    new = rows[before:]
    users = dataset.id2token("user_id", new["user_id"].numpy())
    items = dataset.id2token("item_id", new["item_id"].numpy())
    firsts = {user: items[0] for user, items in canonical(interactions).items()}
    assert dict(zip(users, items, strict=True)) == firsts
    assert len(users) == len(firsts)
    assert new["item_length"].tolist() == [1] * len(firsts)
    for name in ("item_id_list", "timestamp_list"):
        assert new[name].shape == (len(firsts), 4)
        assert not new[name].any()
    assert new["timestamp"].all()


@pytest.mark.parametrize("model", MODELS)
def test_short_users_are_trained_on_and_never_evaluated(
    make_parts: Parts, interactions: pd.DataFrame, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, dataset, parts = make_parts(model)
    assert "4 users of 'tiny' have fewer than 3 interactions; they are trained on" in caplog.text
    sizes = interactions.groupby("user_id").size()
    for part in parts[1:]:
        assert not set(targets(dataset, part)) & set(sizes[sizes < 3].index)
    in_training = set(dataset.id2token("user_id", parts[0].inter_feat["user_id"].numpy()))
    least = 1 if model == "BPR" else 2  # one item makes no (history, target) pair
    assert set(sizes[(sizes < 3) & (sizes >= least)].index) <= in_training


def test_both_families_and_any_row_order_have_one_fingerprint(
    make_config: Callable[..., Any], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    found = set()
    orders = [interactions.sample(frac=1, random_state=seed) for seed in range(3)]
    orders.append(interactions.sort_values("timestamp", ascending=False))
    for number, frame in enumerate(orders):
        make_dataset(tmp_path / str(number) / "tiny", frame)
        for model in MODELS:
            dataset = create_dataset(make_config(model, data_path=str(tmp_path / str(number))))
            parts = dataset.build()
            tables = [tuple(sorted(targets(dataset, part).items())) for part in parts[1:]]
            hashes = (dataset.fingerprint, dataset.candidates_hash, dataset.interactions_hash)
            found.add((*hashes, *tables, tuple(dataset.item_tokens)))
    assert len(found) == 1


def test_fingerprints_tell_what_changed(
    make_config: Callable[..., Any], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    """Another test item changes the split, another early item only the content."""
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"]).reset_index(drop=True)
    last = ordered.index[ordered["user_id"] == "u39"][-1]
    first = ordered.index[ordered["user_id"] == "u39"][0]
    datasets = []
    for name, row in (("same", None), ("last", last), ("first", first)):
        frame = ordered.copy()
        if row is not None:
            frame.loc[row, "item_id"] = "i29"
        make_dataset(tmp_path / name / "tiny", frame)
        datasets.append(create_dataset(make_config("BPR", data_path=str(tmp_path / name))))
    same, other_test, other_past = datasets
    assert same.fingerprint != other_test.fingerprint
    assert same.fingerprint == other_past.fingerprint
    assert same.interactions_hash != other_past.interactions_hash
    assert same.candidates_hash == other_past.candidates_hash


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_augmentation_is_recboles_row_for_row(
    make_config: Callable[..., Any], tmp_path: Path, interactions: pd.DataFrame, limit: int
) -> None:
    """With float, token_seq and float_seq columns, short users, and lists that are cut."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "tiny"
    folder.mkdir()
    lines = [f"{HEADER}\tprice:float\ttags:token_seq\tv:float_seq"]
    for user, item, time in interactions.itertuples(index=False):
        tags = " ".join(f"t{rng.integers(9)}" for _ in range(rng.integers(0, 3)))
        vector = " ".join(f"{value:.2f}" for value in rng.normal(size=2))
        lines.append(f"{user}\t{item}\t{time}\t{rng.random():.3f}\t{tags}\t{vector}")
    (folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    columns = {"inter": ["user_id", "item_id", "timestamp", "price", "tags", "v"]}
    config = make_config(
        "GRU4Rec", data_path=str(tmp_path), MAX_ITEM_LIST_LENGTH=limit, load_col=columns
    )

    class Looped(HistoryDataset):
        data_augmentation = SequentialDataset.data_augmentation

    ours, theirs = HistoryDataset(config), Looped(config)
    ours._change_feat_format()
    theirs._change_feat_format()
    assert ours.inter_feat.columns == theirs.inter_feat.columns
    assert len(ours.inter_feat) == len(interactions) - 40
    for name in theirs.inter_feat.columns:
        first, second = ours.inter_feat[name], theirs.inter_feat[name]
        assert first.dtype == second.dtype, name
        assert torch.equal(first, second), name
    assert ours.field2seqlen == theirs.field2seqlen
    assert ours.field2type == theirs.field2type


@pytest.mark.parametrize("model", ["BPR", "GRU4Rec"])
@pytest.mark.parametrize(
    "split", [{}, {"split": "temporal", "split_points": [0.2, 0.5]}, {"split": "ratio"}]
)
def test_parts_have_their_rows_in_recboles_order(
    make_parts: Parts, model: str, split: dict[str, Any]
) -> None:
    _, dataset, parts = make_parts(model, **split)
    rows, fields = dataset.inter_feat, (dataset.uid_field, dataset.iid_field)
    left_out = int(model == "GRU4Rec")  # first items have no row
    by_user: dict[int, list[int]] = {}
    for row, user in enumerate(rows[dataset.uid_field].tolist()):
        by_user.setdefault(user, []).append(row)
    wanted: list[list[int]] = [[], [], []]
    for user, mine in by_user.items():
        first, second = (max(0, bound - left_out) for bound in dataset.histories.bounds[:, user])
        wanted[0] += mine[:first]
        wanted[1] += mine[first:second]
        wanted[2] += mine[second:]
    assert all(wanted)
    for part, chosen in zip(parts, wanted, strict=True):
        assert part.inter_feat.columns == rows.columns
        for field in (*fields, *rows.columns):
            assert torch.equal(part.inter_feat[field], rows[field][chosen]), field


def test_items_nobody_took_are_no_candidates(
    make_config: Callable[..., Any], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    make_dataset(tmp_path / "tiny", interactions)
    tokens = ["zz", *sorted(interactions["item_id"].unique()), "aa"]
    lines = [f"{token}\tc{row % 3}" for row, token in enumerate(tokens)]
    text = "\n".join(["item_id:token\tkind:token", *lines, ""])
    (tmp_path / "tiny/tiny.item").write_text(text)
    columns = {"inter": ["user_id", "item_id"], "item": ["item_id", "kind"]}
    plain = create_dataset(make_config("BPR", data_path=str(tmp_path)))
    loaded = create_dataset(make_config("BPR", data_path=str(tmp_path), load_col=columns))
    assert list(plain.item_tokens) == list(loaded.item_tokens)
    assert (plain.candidates_hash, loaded.item_num) == (loaded.candidates_hash, 31)
    kinds = loaded.id2token("kind", loaded.get_item_feature()["kind"].to_numpy())
    wanted = [f"c{tokens.index(token) % 3}" for token in loaded.item_tokens]
    assert list(kinds[1:]) == wanted


def test_changed_files_are_told(
    make_config: Callable[..., Any], interactions: pd.DataFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    items = pd.DataFrame({"item_id": ["i01"], "title": ["Tea"]})
    manifest = write_atomic_dataset("tiny", interactions, items, folder, [])
    config = make_config("BPR", data_path=str(tmp_path))
    assert create_dataset(config).interactions_hash == manifest["content"]
    (folder / "tiny.item").write_text("item_id:token\ni01\n")
    with pytest.raises(DataError, match=r"tiny\.item is damaged .*delete manifest\.json"):
        create_dataset(config)
    (folder / "manifest.json").unlink()
    create_dataset(config)


def test_positions_are_used_where_times_are_missing(
    make_config: Callable[..., Any], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"])
    numbered = ordered.assign(position=ordered.groupby("user_id").cumcount())
    frame = numbered.drop(columns="timestamp").sample(frac=1, random_state=0)
    make_dataset(tmp_path / "tiny", frame)
    found = create_dataset(make_config("SASRec", data_path=str(tmp_path)))
    assert found.fingerprint == create_dataset(make_config("BPR")).fingerprint
    assert not found.tied_tests.any()


def test_features_follow_the_items(make_parts: Parts, tiny_data: Path) -> None:
    _, dataset, _ = make_parts("HeLLMPre")
    stored = np.load(tiny_data / "tiny/features/text-toy.npy")
    tokens = sorted(dataset.item_tokens)
    rows = [tokens.index(token) for token in dataset.item_tokens]
    assert np.array_equal(dataset.item_features()["text"].matrix, stored[rows])
    assert len(dataset.features_fingerprint) == 64


def test_features_must_be_named_in_a_list(make_parts: Parts) -> None:
    with pytest.raises(ConfigError, match="features='text-toy' must be a list"):
        make_parts("HeLLMPre", features="text-toy")


@pytest.mark.parametrize(
    ("header", "extra", "sentence"),
    [
        ("user_id\titem_id:token\ttimestamp:float", [], "line 1: column 'user_id' must be written"),
        ("user_id:tok\titem_id:token\ttimestamp:float", [], "'user_id:tok' must be written"),
        ("usr:token\titem_id:token\ttimestamp:float", [], "has no column 'user_id:token'"),
        ("user_id:token\tthing:token\ttimestamp:float", [], "has no column 'item_id:token'"),
        ("uid:token\tthing:token\tts:float", [], "has no column 'user_id:token'"),
        ("user_id:token\titem_id:token\titem_id:token", [], "the column 'item_id' is named twice"),
        ("user_id:token\titem_id:token\twhen:float", [], "neither the time field 'timestamp'"),
        (HEADER, ["u1\ti1\tnan"], r"line 27: timestamp='nan' is no finite number"),
        (HEADER, ["u1\ti1\tinf"], r"line 27: timestamp='inf' is no finite number"),
        (HEADER, ["u1\ti1\tnow"], r"line 27: timestamp='now' is no finite number"),
        (HEADER, ["u1\ti1\t"], "line 27: the timestamp is missing"),
        (HEADER, ["u1\ti1"], "line 27: the timestamp is missing"),
        (HEADER, ["u1\ti1\t5\tmore"], "line 27 has 4 cells, and there are 3 columns"),
    ],
)
def test_malformed_files_are_told(
    quick: dict[str, Any], tmp_path: Path, header: str, extra: list[str], sentence: str
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "bad.inter").write_text("\n".join([header, *ROWS, *extra]) + "\n")
    config = HellmConfig("BPR", "bad", quick | {"data_path": str(tmp_path)})
    with pytest.raises(DataError, match=sentence) as caught:
        create_dataset(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "bad.inter is empty"),
        (HEADER.encode() + b"\n", "cannot be loaded|Some feat is empty"),
        (b"\xff\xfe\x00", "bad.inter is not encoded in utf-8"),
        ("\n".join([HEADER, *(f"{row}\tx" for row in ROWS)]).encode(), "line 2 has 4 cells"),
        ("\n".join([HEADER, "u1\ti1\t1", "u1\ti2\t2"]).encode(), "nothing to evaluate"),
    ],
)
def test_unusable_files_are_told(
    quick: dict[str, Any], tmp_path: Path, content: bytes, sentence: str
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "bad.inter").write_bytes(content)
    config = HellmConfig("BPR", "bad", quick | {"data_path": str(tmp_path)})
    with pytest.raises(DataError, match=sentence):
        create_dataset(config)


def test_missing_files_and_columns_are_told(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"needs .*tiny.inter; make it with `recbole-hellm"):
        create_dataset(make_config("BPR", data_path=str(tmp_path)))
    with pytest.raises(DataError, match=r"SASRecF.*reads the item columns \['class'\]"):
        create_dataset(make_config("SASRecF"))
    with pytest.raises(DataError, match=r"tiny\.kg"):
        create_dataset(make_config("CKE"))
    with pytest.raises(DataError, match="Some feat is empty"):
        create_dataset(make_config("BPR", user_inter_num_interval="[500,inf)"))


def test_a_split_that_is_not_canonical_is_refused(make_config: Callable[..., Any]) -> None:
    dataset = create_dataset(make_config("BPR"))
    items = dataset.histories.items
    items[-1] = items[-1] % 30 + 1
    with pytest.raises(DataError, match="The test split is not the canonical"):
        dataset.build()


@pytest.mark.realdata
def test_beauty_is_the_published_dataset_in_both_families(
    quick: dict[str, Any], raw_dir: Path, tmp_path: Path
) -> None:
    """Table 2's users and items, and the split that preparation fixed."""
    manifest = prepare_dataset("Beauty", tmp_path / "Beauty", raw_dir)
    for model in MODELS:
        config = HellmConfig(model, "Beauty", quick | {"data_path": str(tmp_path)})
        dataset = create_dataset(config)
        training = dataset.build()[0]
        if model == "SASRec":
            assert len(training.inter_feat) == 131_413
            assert len(training.with_first_items().inter_feat) == 153_776
        assert len(dataset.histories.evaluated("test")) == 22_363
        assert len(dataset.item_tokens) == 12_101
        assert len(dataset.histories.items) == 198_502
        assert dataset.fingerprint == manifest["split_fingerprint"]
        assert dataset.candidates_hash == manifest["candidate_fingerprint"]
        assert dataset.tied_tests.sum() == 9_719


def test_a_named_text_encoder_chooses_among_text_features(
    tmp_path: Path, make_dataset: Any, quick: dict[str, Any], interactions: pd.DataFrame
) -> None:
    make_dataset(tmp_path / "other", interactions)
    items = sorted(interactions["item_id"].unique())
    save_features(tmp_path / "other", "text", "tfidf", items, np.ones((len(items), 3)))
    options = quick | {"data_path": str(tmp_path)}
    newest = create_dataset(HellmConfig("VBPR", "other", options))
    assert newest.item_features()["text"].encoder == "tfidf"
    config = HellmConfig("VBPR", "other", options | {"text_encoder": "toy"})
    assert create_dataset(config).item_features()["text"].encoder == "toy"
