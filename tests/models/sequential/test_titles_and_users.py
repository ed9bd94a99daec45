"""Whole runs of LLaRA-titles and CoLLM-user on a small backbone that knows words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from recbole_hellm import recommend, run
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.errors import BackboneError, ConfigError, DataError
from recbole_hellm.models.llm.artefacts import load_artefacts
from recbole_hellm.models.llm.prompt import PromptTemplate
from recbole_hellm.models.sequential.hellm import HeLLM, longest_history
from recbole_hellm.runs.dry_run import describe_needs
from recbole_hellm.runs.results import RunResult

COLOURS = ["red", "blue", "dark green", ""]


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small decoder and a tokenizer that knows the prompt and the titles."""
    folder = tmp_path_factory.mktemp("backbones") / "reader"
    template = PromptTemplate()
    splitter = pre_tokenizers.Whitespace()
    text = " ".join([template.instruction, template.response, *COLOURS, *map(str, range(30))])
    words = dict.fromkeys(word for word, _ in splitter.pre_tokenize_str(text))
    vocabulary = {word: place for place, word in enumerate(["<unk>", "<s>", *words])}
    raw: Any = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    raw.pre_tokenizer = splitter
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.add_special_tokens({"bos_token": "<s>", "unk_token": "<unk>"})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    LlamaModel(LlamaConfig(**shape, **heads, vocab_size=len(vocabulary))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def titled(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset ``tiny`` with a title for most items."""
    root = tmp_path_factory.mktemp("titled")
    shutil.copytree(tiny_data / "tiny", root / "tiny")
    rows = [f"i{item:02d}\t{item} {COLOURS[item % 4]}".rstrip() for item in range(30)]
    rows[3] = "i03\t"
    table = "\n".join(["item_id:token\ttitle:token_seq", *rows])
    (root / "tiny/tiny.item").write_text(table + "\n")
    return root


@pytest.fixture
def options(
    quick: dict[str, Any],
    small_variant: Callable[[str], dict[str, Any]],
    reader: Path,
    titled: Path,
) -> Callable[[str], dict[str, Any]]:
    def of(model: str) -> dict[str, Any]:
        more = {"data_path": str(titled), "backbone": str(reader), "epochs": 1, "lora_r": 2}
        return quick | small_variant(model) | more | {"train_batch_size": 64}

    return of


def parts(model: str, given: dict[str, Any]) -> tuple[Any, Any, list[Any], HeLLM]:
    from recbole_hellm.data.interactions.dataset import create_dataset

    config = HellmConfig(model, "tiny", given)
    dataset = create_dataset(config)
    splits = dataset.build()
    return config, dataset, splits, HeLLM(config, splits[0])


def same_scores(result: RunResult) -> None:
    """The saved model scores as the trained one did."""
    for masking, metrics in result.evaluate("test").items():
        assert metrics == pytest.approx(result.record["test"][masking], abs=1e-12)


def test_a_run_with_titles_is_saved_with_them(options: Any, titled: Path, tmp_path: Path) -> None:
    given = options("LLaRA-titles")
    result = run("LLaRA-titles", "tiny", **given)
    same_scores(result)
    stored = load_file(result.path / "model/item_texts.safetensors")
    items = json.loads((result.path / "model/items.json").read_text())
    lengths = dict(zip(items, stored["texts.lengths"].tolist(), strict=True))
    assert [lengths[f"i{item:02d}"] for item in (0, 2, 3, 4, 6, 7)] == [2, 3, 0, 2, 3, 1]
    assert result.restore().tokens_per_item == 1 + max(lengths.values())
    card = (result.path / "model/README.md").read_text()
    assert "as item tokens behind the words of their titles and scores" in card
    # Without the dataset, in another order of the items.
    alone = load_artefacts(result.path / "model")
    turned = load_artefacts(result.path / "model", item_tokens=items[::-1])
    ids, n = torch.tensor([[5, 9, 2]]), len(items)
    one = alone.logits(alone.hidden_states(ids, torch.tensor([3])))[0, 1:]
    other = turned.logits(turned.hidden_states(n + 1 - ids, torch.tensor([3])))[0, 1:]
    torch.testing.assert_close(other.flip(0), one)
    assert len(recommend(result, history=["i05", "i09"], topk=3)) == 3
    # Other titles make another run.
    moved = tmp_path / "moved"
    shutil.copytree(titled, moved)
    table = moved / "tiny/tiny.item"
    table.write_text(table.read_text().replace("red", "blue"))
    assert run("LLaRA-titles", "tiny", **given | {"data_path": str(moved)}).path != result.path
    assert run("LLaRA-titles", "tiny", **given) == result


def test_a_run_with_users_is_saved_with_them(options: Any) -> None:
    result = run("CoLLM-user", "tiny", **options("CoLLM-user"))
    same_scores(result)
    (stage,) = result.stages
    users = load_file(stage.path / "embeddings.safetensors")["user"]
    stored = load_file(result.path / "model/user_tokens.safetensors")["users.weight"]
    torch.testing.assert_close(stored[1:], users)
    torch.testing.assert_close(stored[0], users.mean(0))
    names = json.loads((result.path / "model/users.json").read_text())
    turned = load_artefacts(result.path / "model", user_tokens=names[::-1])
    assert turned.users is not None
    assert torch.equal(turned.users.weight[1:], stored[1:].flip(0))
    # Known users are read by their vectors; a history without a user by the mean.
    model = result.restore()
    rows = {"item_id_list": torch.tensor([[5, 9]]), "item_length": torch.tensor([2])}
    scores = [model.full_sort_predict(rows | user) for user in ({}, {"user_id": torch.tensor([4])})]
    assert not torch.allclose(*scores)
    assert len(recommend(result, history=["i05", "i09"], topk=3)) == 3
    assert len(recommend(result, users=["u00"], topk=3)) == 3


@pytest.mark.parametrize(
    "way",
    [
        {"targets": "last"},
        {"targets": "last", "multi_target": True},
        {"targets": "every"},
        {"targets": "every", "prompt": "none", "max_tokens": 90},
        {"targets": "last", "first_item_target": True},
        {"targets": "last", "multi_target": True, "first_item_target": True},
        {"targets": "every", "first_item_target": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["LLaRA-titles", "CoLLM-user"])
def test_tokens_are_counted(options: Any, model: str, way: dict[str, Any]) -> None:
    """Those that pass through the decoder, those that a batch announces and those of --dry_run."""
    given = options(model) | {"train_batch_size": 40} | way
    config, dataset, splits, made = parts(model, given)
    network, total, announced, steps = made.network, 0, 0, 0
    run_pass = network._run

    def counted(inputs: Any, visible: Any, positions: Any, context: Any) -> Any:
        nonlocal total
        if context.cached_positions is None:
            # Slots that see more than themselves, or stand alone, are tokens; count by content.
            total += int(inputs.detach().abs().sum(-1).ne(0).sum())
        return run_pass(inputs, visible, positions, context)

    network._run = counted  # type: ignore[method-assign]
    with torch.no_grad():
        for batch in training_loader(config, dataset, splits, made):
            tokens = made.sample_tokens(batch)
            made.train().calculate_loss(batch)
            announced, steps = announced + int(tokens.sum()), steps + 1
    assert total == announced
    packed = "every" in way.values() or "multi_target" in way
    shared = len(network.prompt.instruction) * steps if packed else 0
    assert f"  {announced + shared:,} an epoch, padding not counted" in describe_needs(config)


def test_the_longest_history_counts_titles(options: Any) -> None:
    config, dataset, _, made = parts("LLaRA-titles", options("LLaRA-titles"))
    histories, texts = dataset.histories, made.network.texts
    assert texts is not None
    longest = 0
    for user in range(1, dataset.user_num):
        items = histories.items[histories.offsets[user] : histories.offsets[user + 1]]
        for target in range(1, len(items)):
            read = items[max(0, target - 6) : target]
            longest = max(longest, sum(1 + int(texts.lengths[item]) for item in read))
    assert longest_history(config, dataset, made.network) == longest
    assert longest > 6


def test_what_cannot_be_is_refused(options: Any, tiny_data: Path, tmp_path: Path) -> None:
    given = options("LLaRA-titles")
    with pytest.raises(BackboneError, match="item_text=title needs a pre-trained backbone"):
        run("LLaRA-titles", "tiny", **given | {"backbone": "tiny"})
    with pytest.raises(BackboneError, match="item_text=title needs a pre-trained backbone"):
        describe_needs(HellmConfig("LLaRA-titles", "tiny", given | {"backbone": "tiny"}))
    with pytest.raises(DataError, match=r"tiny\.item has no titles of the items of 'tiny'"):
        run("LLaRA-titles", "tiny", **given | {"data_path": str(tiny_data)})
    bare = tmp_path / "bare"
    shutil.copytree(given["backbone"], bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BackboneError, match=r"which item_text=title needs; put its tokenizer"):
        run("LLaRA-titles", "tiny", **given | {"backbone": str(bare), "prompt": "none"})
    stageless = {key: value for key, value in options("CoLLM-user").items() if "." not in key}
    table = tmp_path / "items.npy"
    np.save(table, np.ones((30, 8), dtype=np.float32))
    with pytest.raises(ConfigError, match="reads the users of the graph stage, and there is no"):
        run("CoLLM-user", "tiny", **stageless | {"graph_embeddings": str(table)})
    with pytest.raises(ConfigError, match=r"user_token=True needs item_inputs=\[graph\]"):
        HellmConfig("HeLLM", "tiny", {"user_token": True})
