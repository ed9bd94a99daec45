from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.general_recommender.pop import Pop
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import trainer as recbole_trainer
from scipy.sparse import dok_matrix

from recbole_hellm import compat
from recbole_hellm.compat import ModernPandasMixin
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.errors import DataError

INTER = """\
user_id:token	item_id:token	timestamp:float	price:float	shop:token	tags:token_seq	v:float_seq
u2	i1	10	2.0	s1	a b	0.5 1.5
u1	i1	10		s2		2.5
u1	i2	20	4.0		b c a	
u1	i3	30	6.0	s1	"a	1
u2	i3	40	nine	s2	c	3
"""


class Modern(ModernPandasMixin, Dataset):
    """RecBole's dataset with nothing but the workarounds."""


@pytest.fixture
def load(make_config: Callable[..., Any], tmp_path: Path) -> Callable[[str], Any]:
    columns = ["user_id", "item_id", "timestamp", "price", "shop", "tags", "v"]

    def make(text: str, **options: Any) -> Any:
        (tmp_path / "tiny").mkdir(exist_ok=True)
        (tmp_path / "tiny/tiny.inter").write_text(text)
        options = {"load_col": {"inter": columns}, "data_path": str(tmp_path)} | options
        return Modern(make_config("BPR", **options))

    return make


def test_numpy_has_the_names_that_recbole_uses() -> None:
    compat.supply_numpy_aliases()
    assert np.float is np.float64  # type: ignore[attr-defined]
    assert np.dtype(np.int) == np.int_  # type: ignore[attr-defined]
    assert np.dtype(np.bool) == np.bool_
    assert np.dtype(np.object) == object  # type: ignore[attr-defined]


def test_sparse_matrices_can_be_filled_at_once() -> None:
    compat.supply_dok_update()
    compat.supply_dok_update()
    matrix = dok_matrix((3, 4), dtype=np.float32)
    matrix._update({(0, 1): 2.0, (2, 3): 5.0})
    assert matrix.toarray()[[0, 2], [1, 3]].tolist() == [2, 5]
    assert matrix.tocoo().nnz == 2


def test_models_of_recbole_leave_anomaly_detection_alone() -> None:
    """In a fresh process, since the line that switches it on runs once."""
    script = (
        "import torch\n"
        "from recbole_hellm import registry\n"
        "registry.describe('SINE').load()\n"
        "assert not torch.is_anomaly_enabled()\n"
        "import recbole.model.sequential_recommender.sine as sine, importlib\n"
        "importlib.reload(sine)\n"
        "assert torch.is_anomaly_enabled(), 'RecBole mended it; the workaround can go'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603


def test_the_tensorboard_writer_is_handed_over_and_back() -> None:
    original, writer = recbole_trainer.get_tensorboard, object()
    with compat.tensorboard_writer(writer):
        assert recbole_trainer.get_tensorboard(None) is writer
    assert recbole_trainer.get_tensorboard is original


@pytest.mark.parametrize("size", [1, 3, 100])
def test_pop_counts_every_interaction(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(Pop, "calculate_loss", Pop.calculate_loss)  # undone after the test
    compat.count_every_interaction()
    config = make_config("Pop")
    model = Pop(config, create_dataset(config))
    items = np.random.default_rng(0).integers(1, 31, 100)
    for start in range(0, 100, size):
        batch = Interaction({"item_id": torch.from_numpy(items[start : start + size])})
        model.calculate_loss(batch).backward()
    counts = np.bincount(items, minlength=31)
    assert model.item_cnt.flatten().tolist() == counts.tolist()
    scores = model.full_sort_predict(Interaction({"user_id": torch.tensor([1])}))
    np.testing.assert_allclose(scores.numpy(), counts / counts.max())


def test_cells_are_read_and_gaps_are_filled(load: Callable[[str], Any]) -> None:
    dataset = load(INTER.replace("nine", "8.0"))
    frame = dataset.inter_feat
    tokens = {name: dataset.field2id_token[name] for name in ("user_id", "item_id", "shop", "tags")}
    assert {name: ids[0] for name, ids in tokens.items()} == dict.fromkeys(tokens, "[PAD]")
    assert [tokens["user_id"][i] for i in frame["user_id"]] == ["u2", "u1", "u1", "u1", "u2"]
    assert [tokens["shop"][i] for i in frame["shop"]] == ["s1", "s2", "[PAD]", "s1", "s2"]
    assert frame["shop"].dtype == np.int64
    assert frame["price"].tolist() == [2.0, 5.0, 4.0, 6.0, 8.0]
    lists = [[tokens["tags"][i] for i in row] for row in frame["tags"]]
    assert lists == [["a", "b"], [], ["b", "c", "a"], ['"a'], ["c"]]
    assert [list(row) for row in frame["v"]] == [[0.5, 1.5], [2.5], [], [1.0], [3.0]]
    assert (dataset.field2seqlen["tags"], dataset.field2seqlen["v"]) == (3, 2)
    assert dataset.field2token_id["item_id"] == {"[PAD]": 0, "i1": 1, "i2": 2, "i3": 3}


def test_tables_become_tensors_of_their_own(
    load: Callable[[str], Any], recwarn: pytest.WarningsRecorder
) -> None:
    dataset = load(INTER.replace("nine", "8.0"))
    before = dataset.inter_feat.copy()
    rows = dataset._dataframe_to_interaction(dataset.inter_feat)
    assert rows["tags"].shape == (5, 3)
    assert rows["v"].tolist()[1] == [2.5, 0.0]
    assert rows["timestamp"].dtype == torch.float32
    rows["user_id"] += 100
    assert dataset.inter_feat["user_id"].tolist() == before["user_id"].tolist()
    assert not [w for w in recwarn if "not writable" in str(w.message)]


def test_sequences_are_cut_where_a_length_is_set(load: Callable[..., Any]) -> None:
    dataset = load(INTER.replace("nine", "8.0"), seq_len={"tags": 2})
    assert [len(row) for row in dataset.inter_feat["tags"]] == [2, 0, 2, 1, 1]
    assert dataset.field2seqlen["tags"] == 2


def test_fields_may_share_tokens(load: Callable[..., Any]) -> None:
    """An alias makes one id map of several fields, also of one with lists."""
    dataset = load(
        INTER.replace("nine", "8.0").replace("a b\t", "i3 i1\t"), alias_of_item_id=["tags"]
    )
    ids = dataset.field2token_id["item_id"]
    assert dataset.field2token_id["tags"] is ids
    assert dataset.inter_feat["tags"][0].tolist() == [ids["i3"], ids["i1"]]
    assert len(set(ids.values())) == len(ids) == 8


def test_a_number_that_is_none_is_told_with_its_line(load: Callable[[str], Any]) -> None:
    with pytest.raises(DataError, match=r"tiny.inter, line 6: price='nine' is no finite number"):
        load(INTER)


def test_columns_that_are_not_wanted_are_not_read(load: Callable[..., Any]) -> None:
    dataset = load(INTER, load_col={"inter": ["user_id", "item_id", "timestamp"]})
    assert list(dataset.inter_feat) == ["user_id", "item_id", "timestamp"]


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_sasrec_reads_an_empty_history_as_one_item_of_padding(
    make_parts: Callable[..., Any], loss_type: str
) -> None:
    compat.see_padding_at_the_first_place()
    compat.see_padding_at_the_first_place()
    config, _, parts = make_parts("SASRec", MAX_ITEM_LIST_LENGTH=6, loss_type=loss_type)
    torch.manual_seed(1)
    model = SASRec(config, parts[0]).double().eval()
    alone = model(torch.zeros(1, 1, dtype=torch.long), torch.tensor([1]))
    # One place, whose attention is on itself: the value, projected.
    x = model.LayerNorm(model.item_embedding.weight[0] + model.position_embedding.weight[0])
    for layer in model.trm_encoder.layer:
        attention = layer.multi_head_attention
        x = attention.LayerNorm(attention.dense(attention.value(x)) + x)
        x = layer.feed_forward(x)
    torch.testing.assert_close(alone[0], x)
    histories = torch.tensor([[0, 0, 0, 0, 0, 0], [3, 1, 4, 0, 0, 0]])
    torch.testing.assert_close(model(histories, torch.tensor([1, 3]))[0], x)
    # As RecBole has it, the state depends on how far the batch is padded.
    mask = SequentialRecommender.get_attention_mask(model, histories)
    assert mask[0].unique().tolist() == [-10000.0]
    changed = model.get_attention_mask(histories)
    assert torch.equal(changed[1], mask[1])
    assert torch.equal(changed[0, ..., 1:], mask[0, ..., 1:])
    assert not changed[0, ..., 0].any()
