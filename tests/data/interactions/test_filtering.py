from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.errors import ConfigError, DataError

MODELS = ["BPR", "SASRec"]
ROWS = [f"u{u}\ti{(u + k) % 7}\t{1_390_000_000 + 20 * k}" for u in range(5) for k in range(5)]
HEADER = "user_id:token\titem_id:token\ttimestamp:float"


@pytest.mark.parametrize("source", ["item", "user"])
def test_rows_that_a_table_lacks_drop_no_interaction(
    make_config: Callable[..., Any],
    interactions: pd.DataFrame,
    make_dataset: Any,
    tmp_path: Path,
    source: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_dataset(tmp_path / "tiny", interactions)
    field = f"{source}_id"
    tokens = sorted(interactions[field].unique())
    table = tmp_path / f"tiny/tiny.{source}"
    header = f"{field}:token\tkind:token\tprice:float\ttags:token_seq\tv:float_seq"
    rows = [f"{token}\tc{row % 3}\t{row}\tx y\t1 2" for row, token in enumerate(tokens)]
    table.write_text("\n".join([header, *rows[4:], ""]))
    columns = [field, "kind", "price", "tags", "v"]
    load = {"inter": ["user_id", "item_id"], source: columns}
    for model in MODELS:
        plain = create_dataset(make_config(model, data_path=str(tmp_path)))
        config = make_config(model, data_path=str(tmp_path), load_col=load)
        loaded = create_dataset(config)
        for key in ("fingerprint", "interactions_hash", "candidates_hash"):
            assert getattr(plain, key) == getattr(loaded, key)
        feature = getattr(loaded, f"get_{source}_feature")()
        without = [loaded.token2id(field, token) for token in tokens[:4]]
        assert (feature["kind"][without] == 0).all()
        assert not feature["tags"][without].map(len).any()
        assert (feature["kind"] != 0).sum() == len(tokens) - 4
    assert f"4 {source}s of 'tiny' have no row in tiny.{source} (" in caplog.text
    # A filter on a column still drops what it is meant to.
    options = {"load_col": load, "val_interval": {"price": "[10,inf)"}, "data_path": str(tmp_path)}
    filtered = create_dataset(make_config("BPR", **options))
    kept = set(tokens[10:])
    assert set(filtered.field2id_token[field][1:]) == kept
    assert "are left out by the filters" in caplog.text


def test_a_table_of_another_dataset_is_told(
    make_config: Callable[..., Any], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    make_dataset(tmp_path / "tiny", interactions)
    (tmp_path / "tiny/tiny.item").write_text("item_id:token\tkind:token\n7\ta\n8\tb\n")
    load = {"inter": ["user_id", "item_id"], "item": ["item_id", "kind"]}
    with pytest.raises(DataError, match=r"a row for none of the 30 items .*\(7, 8 there, i"):
        create_dataset(make_config("BPR", data_path=str(tmp_path), load_col=load))


def test_items_without_a_link_are_told(
    make_config: Callable[..., Any],
    interactions: pd.DataFrame,
    make_dataset: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "tiny"
    make_dataset(folder, interactions)
    tokens = sorted(interactions["item_id"].unique())
    links = "\n".join(f"{token}\te{token}" for token in tokens[2:])
    (folder / "tiny.link").write_text(f"item_id:token\tentity_id:token\n{links}\n")
    triples = "\n".join(f"e{token}\tlike\te{tokens[5]}" for token in tokens)
    header = "head_id:token\trelation_id:token\ttail_id:token"
    (folder / "tiny.kg").write_text(f"{header}\n{triples}\n")
    dataset = create_dataset(make_config("CKE", data_path=str(tmp_path)))
    assert set(dataset.item_tokens) == set(tokens[2:])
    lost = int(interactions["item_id"].isin(tokens[:2]).sum())
    assert "2 items of 'tiny' are not linked to its knowledge graph (" in caplog.text
    assert f"leave out their {lost} interactions" in caplog.text


def test_interactions_without_an_id_are_counted(
    make_config: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tiny").mkdir()
    lines = [HEADER, *ROWS, "u1\t\t5", "\ti1\t6"]
    (tmp_path / "tiny/tiny.inter").write_text("\n".join([*lines, ""]))
    dataset = create_dataset(make_config("BPR", data_path=str(tmp_path)))
    assert len(dataset.inter_feat) == len(ROWS)
    assert "2 interactions of 'tiny' have no user_id or no item_id" in caplog.text


@pytest.mark.parametrize("text", ["zz", "[5,1]", "[a,b]", "5", "", "[1,2]]", "[1,2];x"])
def test_what_is_no_interval_is_refused(make_config: Callable[..., Any], text: str) -> None:
    with pytest.raises(ConfigError, match="is no interval; write one such as"):
        create_dataset(make_config("BPR", user_inter_num_interval=text))


@pytest.mark.parametrize("options", [{"val_interval": 1}, {"load_col": {"inter": 3}}])
def test_settings_of_other_types_are_told(
    make_config: Callable[..., Any], options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="RecBole cannot load dataset 'tiny' with these"):
        create_dataset(make_config("BPR", **options))
