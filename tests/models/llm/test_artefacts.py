from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForFeatureExtraction, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, LlamaConfig, LlamaModel

from recbole_hellm.errors import BackboneError, DataError, RunError
from recbole_hellm.models.llm.artefacts import load_artefacts, save_artefacts
from recbole_hellm.models.llm.attention import AttentionContext
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.model_card import CardFacts
from recbole_hellm.models.llm.prompt import template_tokenizer
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.storage.checksums import file_sha256

N = 7
WIDTHS = {"graph": 4, "sequence": 3, "text": 5, "my.module:Given": 1}
TOKENS = [f"item-{letter}" for letter in "dbgfaec"]
TINY = {
    "backbone_layers": 1,
    "backbone_hidden_size": 16,
    "backbone_intermediate_size": 24,
    "bilinear_size": 4,
    "prefix_length": 2,
}
FACTS = CardFacts(
    model="HeLLM",
    dataset="tiny",
    split="abc",
    masking="seen",
    metrics={"seen": {"ndcg@10": 0.123456, "coverage": 0.5}, "none": {"ndcg@10": 0.1}},
    training={"learning_rate": 0.01, "seed": 3},
    versions={"torch": "2", "absent": None},
)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    """A folder with a random LLaMA with grouped-query attention, and its tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path / "llama"
    tokenizer = template_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**shape, **heads, vocab_size=len(tokenizer))
    LlamaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make(llama: str) -> Callable[..., HeLLMNetwork]:
    """``make(**settings)``: a network whose every trained parameter was drawn anew."""

    def build(**options: Any) -> HeLLMNetwork:
        if options.get("backbone") == "llama":
            options = {"backbone_layers": None, **options, "backbone": llama}
        torch.manual_seed(1)
        tables = {name: torch.randn(N + 1, width) for name, width in WIDTHS.items()}
        counts = torch.arange(N + 1) ** 2
        network = HeLLMNetwork(LLMSettings(**TINY | options), tables, item_counts=counts)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
                if name.startswith(("tokens.tables", "tokens.vectors")):
                    parameter.data[0] = 0  # the row of padding stays as it is
        return network.eval()

    return build


def scores(network: HeLLMNetwork) -> torch.Tensor:
    histories = torch.tensor([[1, 4, 7, 2], [3, 0, 0, 0], [5, 6, 0, 0]])
    with torch.no_grad():
        return network.logits(network.hidden_states(histories, torch.tensor([4, 1, 2])))


VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "tiny with words": {"prompt": "alpaca"},
    "tiny, frozen with adapters": {"train_backbone": False},
    "tiny, linear head": {"head": "linear", "item_inputs": ("graph",)},
    "tiny, four inputs": {"item_inputs": ("text", "graph", "my.module:Given", "sequence")},
    "tiny, no input of the paper": {"prefix": "none", "item_inputs": ("my.module:Given",)},
    "tiny, gated": {"item_gate": True, "role_dropout": 0.5},
    "tiny, cosine head": {"head_scale": "cosine"},
    "tiny, stages' scores": {"stage_scores": True},
    "frozen": {"backbone": "llama"},
    "frozen, released": {"backbone": "llama", "variant": "released"},
    "frozen without adapters": {"backbone": "llama", "lora_r": 0, "prompt": "none"},
    "frozen without prefix": {"backbone": "llama", "prefix": "none"},
    "frozen, static prefix": {"backbone": "llama", "prefix": "static", "item_vectors": True},
    "frozen, first layer": {"backbone": "llama", "backbone_layers": 1},
    "whole, first layer": {"backbone": "llama", "backbone_layers": 1, "train_backbone": True},
    "whole": {"backbone": "llama", "train_backbone": True},
    "random, frozen": {"backbone": "llama", "random_backbone": True, "prompt": "alpaca"},
    "random, half precision": {
        "backbone": "llama",
        "random_backbone": True,
        "backbone_dtype": "bfloat16",
    },
    "random, first layer, whole": {
        "backbone": "llama",
        "random_backbone": True,
        "backbone_layers": 1,
        "train_backbone": True,
    },
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_what_is_saved_is_what_is_loaded(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, options: dict[str, Any]
) -> None:
    network = make(**options)
    save_artefacts(network, tmp_path / "model", TOKENS)
    torch.manual_seed(99)
    loaded = load_artefacts(tmp_path / "model")
    assert not loaded.training
    assert loaded.settings == network.settings
    assert loaded.backbone.name == network.backbone.name
    left, right = network.state_dict(), loaded.state_dict()
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained == [name for name, p in loaded.named_parameters() if p.requires_grad]
    assert torch.equal(scores(network), scores(loaded))


@pytest.mark.parametrize("key", ["train_backbone", "random_backbone"])
def test_a_whole_model_needs_its_source_no_more(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, llama: str, key: str
) -> None:
    network = make(backbone="llama", **{key: True})
    save_artefacts(network, tmp_path / "model", TOKENS)
    Path(llama).rename(tmp_path / "gone")
    assert torch.equal(scores(load_artefacts(tmp_path / "model")), scores(network))


def test_files_by_kind_and_nothing_pickled(
    make: Callable[..., HeLLMNetwork], tmp_path: Path
) -> None:
    def files(**options: Any) -> set[str]:
        folder = tmp_path / "model"
        save_artefacts(make(**options), folder, TOKENS)
        return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}

    common = {"settings.json", "items.json", "README.md"}
    tensors = {"item_tokens.safetensors", "item_head.safetensors"}
    prefix = {"prefix.safetensors"}
    whole = {"backbone/config.json", "backbone/model.safetensors"}
    adapter = {"adapter_config.json", "adapter_model.safetensors"}
    assert files() == common | tensors | prefix | whole
    # Nothing of the model that was there before is left.
    assert files(backbone="llama") == common | tensors | prefix | adapter
    assert files(backbone="llama", lora_r=0, prefix="none") == common | tensors
    assert [path.name for path in tmp_path.iterdir() if path.name != "llama"] == ["model"]


def test_a_head_that_was_never_trained_is_kept(
    make: Callable[..., HeLLMNetwork], tmp_path: Path
) -> None:
    network = make(backbone="llama", variant="released")
    assert not network.head.linear.weight.requires_grad
    save_artefacts(network, tmp_path / "model", TOKENS)
    held = load_file(tmp_path / "model/item_head.safetensors")
    assert torch.equal(held["head.linear.weight"], network.head.linear.weight)
    assert held["head.linear.weight"].shape == (N, 16)


def test_rows_are_those_of_the_items(make: Callable[..., HeLLMNetwork], tmp_path: Path) -> None:
    network = make(head="linear")
    save_artefacts(network, tmp_path / "model", TOKENS)
    assert json.loads((tmp_path / "model/items.json").read_text()) == TOKENS
    held = load_file(tmp_path / "model/item_tokens.safetensors")
    for name in ("tables.graph", "tables.sequence", "vectors"):
        weight = network.tokens.get_parameter(f"{name}.weight")
        assert torch.equal(held[f"tokens.{name}.weight"], weight[1:])


@pytest.mark.parametrize(
    "options",
    [{"head": "linear"}, {"head": "tied"}, {"item_gate": True}],
    ids=["linear", "tied", "gated"],
)
def test_items_in_another_order_keep_their_rows(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, options: dict[str, Any]
) -> None:
    network = make(**options)
    save_artefacts(network, tmp_path / "model", TOKENS)
    wanted = sorted(TOKENS)
    loaded = load_artefacts(tmp_path / "model", item_tokens=wanted)
    new_id = torch.tensor([0] + [1 + wanted.index(token) for token in TOKENS])
    histories, lengths = torch.tensor([[2, 5, 1], [7, 3, 0]]), torch.tensor([3, 2])
    with torch.no_grad():
        before = network.logits(network.hidden_states(histories, lengths))
        after = loaded.logits(loaded.hidden_states(new_id[histories], lengths))
    torch.testing.assert_close(after[:, new_id], before)


def test_other_items_are_refused(make: Callable[..., HeLLMNetwork], tmp_path: Path) -> None:
    save_artefacts(make(), tmp_path / "model", TOKENS)
    with pytest.raises(RunError, match=r"\(7 and 7 items; 'item-a' is in one of them only\)"):
        load_artefacts(tmp_path / "model", item_tokens=["x", *sorted(TOKENS)[1:]])
    with pytest.raises(RunError, match="7 and 6 items"):
        load_artefacts(tmp_path / "model", item_tokens=TOKENS[:-1])
    with pytest.raises(DataError, match="6 item tokens were given for 7 items"):
        save_artefacts(make(), tmp_path / "model", TOKENS[:-1])


def test_peft_loads_the_adapters(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, llama: str
) -> None:
    """Hidden states of peft's model on given inputs are those of the trunk without prefix."""
    network = make(backbone="llama")
    save_artefacts(network, tmp_path / "model", TOKENS)
    inputs = torch.randn(2, 5, 16)
    with torch.no_grad():
        context = AttentionContext()
        trunk = network.model(inputs_embeds=inputs, use_cache=False, prefix_context=context)
        plain = AutoModel.from_pretrained(llama).eval()
        before = plain(inputs_embeds=inputs).last_hidden_state
        adapted = PeftModel.from_pretrained(plain, str(tmp_path / "model")).eval()
        after = adapted(inputs_embeds=inputs).last_hidden_state
        alone = AutoPeftModelForFeatureExtraction.from_pretrained(str(tmp_path / "model")).eval()
        again = alone(inputs_embeds=inputs).last_hidden_state
    assert (before - after).abs().max() > 1e-2
    torch.testing.assert_close(after, trunk.last_hidden_state)
    torch.testing.assert_close(again, after)
    config = json.loads((tmp_path / "model/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == llama
    assert config["inference_mode"] is True


def test_the_network_itself_is_left_as_it_was(
    make: Callable[..., HeLLMNetwork], tmp_path: Path
) -> None:
    network = make(backbone="llama")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    save_artefacts(network, tmp_path / "model", TOKENS)
    assert network.model.peft_config["default"].inference_mode is False
    assert network.model.peft_config["default"].base_model_name_or_path is None
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


def test_a_gathered_state_is_saved_in_place_of_the_own_one(
    make: Callable[..., HeLLMNetwork], tmp_path: Path
) -> None:
    network = make(backbone="llama")
    state = {name: value + 1 for name, value in network.state_dict().items()}
    for name in state:
        if name.startswith("tokens.tables"):
            state[name][0] = 0
    save_artefacts(network, tmp_path / "model", TOKENS, state=state)
    loaded = load_artefacts(tmp_path / "model").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_a_backbone_that_moved(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, llama: str
) -> None:
    network = make(backbone="llama")
    save_artefacts(network, tmp_path / "model", TOKENS)
    Path(llama).rename(tmp_path / "moved")
    with pytest.raises(BackboneError, match="is not a folder"):
        load_artefacts(tmp_path / "model")
    loaded = load_artefacts(tmp_path / "model", backbone=str(tmp_path / "moved"))
    assert torch.equal(scores(loaded), scores(network))


@pytest.fixture
def gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("gguf", reason="needs the package gguf")
    from support.gguf_files import small_llama, write_gguf

    monkeypatch.setenv("HELLM_CACHE", str(tmp_path / "cache"))
    return write_gguf(tmp_path / "small.gguf", small_llama())


@pytest.mark.parametrize("layers", [None, 2])
def test_a_gguf_file_is_named_and_found_again(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, gguf_file: Path, layers: int | None
) -> None:
    folder, sha256 = tmp_path / "model", file_sha256(gguf_file)
    network = make(backbone=str(gguf_file), backbone_layers=layers, prompt="alpaca")
    save_artefacts(network, folder, TOKENS)
    named = {"file": "small.gguf", "sha256": sha256}
    assert json.loads((folder / "settings.json").read_text())["backbone_file"] == named
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model is None
    assert f"the GGUF file `small.gguf` with SHA-256 `{sha256}`" in card.text
    assert ("the first 2 layers of" in card.text) == (layers == 2)
    # The code of the card adapts the trunk itself.
    block = next(b for b in card.text.split("```python\n")[1:] if "PeftModel" in b)
    lines = block.split("```")[0].replace("path/of/its/folder", str(tmp_path))
    names: dict[str, Any] = {}
    exec(lines.replace("path/of/this/folder", str(folder)), names)  # noqa: S102
    inputs = torch.randn(2, 5, 64)
    with torch.no_grad():
        options: dict[str, Any] = {"inputs_embeds": inputs, "use_cache": False}
        ours = network.model(**options, prefix_context=AttentionContext()).last_hidden_state
        theirs = names["model"].eval()(**options).last_hidden_state
    torch.testing.assert_close(theirs, ours)
    for moved in (False, True):
        if moved:
            gguf_file.rename(tmp_path / "moved.gguf")
        loaded = load_artefacts(folder)
        assert torch.equal(scores(loaded), scores(network))
        save_artefacts(loaded, tmp_path / "again", TOKENS)
        again = json.loads((tmp_path / "again/settings.json").read_text())
        assert again["backbone_file"] == named
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(BackboneError, match=rf"small.gguf \(SHA-256 {sha256}\), which is neither"):
        load_artefacts(folder)
    loaded = load_artefacts(folder, backbone=str(tmp_path / "moved.gguf"))
    assert torch.equal(scores(loaded), scores(network))


def test_a_model_of_an_earlier_version_has_all_layers(
    make: Callable[..., HeLLMNetwork], tmp_path: Path
) -> None:
    network = make(backbone="llama")
    save_artefacts(network, tmp_path / "model", TOKENS)
    path = tmp_path / "model/settings.json"
    described = json.loads(path.read_text())
    del described["backbone_file"]
    described["settings"]["backbone_layers"] = 1  # which was that of the tiny backbone
    path.write_text(json.dumps(described))
    assert torch.equal(scores(load_artefacts(tmp_path / "model")), scores(network))


def test_another_backbone_is_refused(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, llama: str
) -> None:
    save_artefacts(make(backbone="llama"), tmp_path / "model", TOKENS)
    weights = load_file(Path(llama) / "model.safetensors")
    weights["embed_tokens.weight"][3, 3] += 0.1
    save_file(weights, Path(llama) / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="holds other weights than the backbone"):
        load_artefacts(tmp_path / "model")


def test_precision_does_not_make_another_backbone(
    make: Callable[..., HeLLMNetwork], tmp_path: Path
) -> None:
    save_artefacts(make(backbone="llama", backbone_dtype="bfloat16"), tmp_path / "model", TOKENS)
    path = tmp_path / "model/settings.json"
    path.write_text(path.read_text().replace('"bfloat16"', '"float32"'))
    assert next(load_artefacts(tmp_path / "model").model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    [
        *("settings.json", "items.json", "prefix.safetensors", "item_tokens.safetensors"),
        *("item_head.safetensors", "adapter_model.safetensors"),
    ],
)
def test_missing_and_damaged_files_are_told_in_one_sentence(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, name: str
) -> None:
    save_artefacts(make(backbone="llama"), tmp_path / "model", TOKENS)
    path = tmp_path / "model" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match=f"{name} is (damaged|no JSON)") as error:
        load_artefacts(tmp_path / "model")
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        load_artefacts(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("kind", ["tiny", "llama"])
def test_a_damaged_backbone_is_told(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, name: str, kind: str
) -> None:
    save_artefacts(make(backbone=kind, train_backbone=True), tmp_path / "model", TOKENS)
    path = tmp_path / "model/backbone" / name
    path.write_bytes(path.read_bytes()[:-9])
    if (kind, name) == ("tiny", "config.json"):
        load_artefacts(tmp_path / "model")  # settings.json says the same
        return
    with pytest.raises(RunError, match=r"backbone.* is damaged"):
        load_artefacts(tmp_path / "model")


def test_files_of_different_models_are_told_apart(
    make: Callable[..., HeLLMNetwork], tmp_path: Path
) -> None:
    save_artefacts(make(), tmp_path / "model", TOKENS)
    path = tmp_path / "model/prefix.safetensors"
    held = load_file(path)
    held["prefix.keys.static"] = held["prefix.keys.static"][:, :1].contiguous()
    save_file(held, path)
    with pytest.raises(RunError, match=r"prefix.keys.static is \(1, 1, 16\) there and should be"):
        load_artefacts(tmp_path / "model")
    del held["prefix.keys.static"]
    save_file(held, path)
    with pytest.raises(RunError, match=r"prefix.keys.static is absent there"):
        load_artefacts(tmp_path / "model")
    (tmp_path / "model/items.json").write_text(json.dumps(TOKENS[:-1]))
    with pytest.raises(RunError, match=r"item_tokens.safetensors"):
        load_artefacts(tmp_path / "model")


def test_settings_of_a_later_version_are_refused(
    make: Callable[..., HeLLMNetwork], tmp_path: Path
) -> None:
    save_artefacts(make(), tmp_path / "model", TOKENS)
    path = tmp_path / "model/settings.json"
    content = json.loads(path.read_text())
    content["settings"]["later"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match="setting 'later', which this version"):
        load_artefacts(tmp_path / "model")


def test_a_kill_while_writing_leaves_the_old_folder(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make()
    save_artefacts(network, tmp_path / "model", TOKENS)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("recbole_hellm.models.llm.artefacts.model_card", die)
        with pytest.raises(KeyboardInterrupt):
            save_artefacts(make(prefix="none"), tmp_path / "model", TOKENS)
    assert torch.equal(scores(load_artefacts(tmp_path / "model")), scores(network))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "model"]


def test_parameters_without_a_file_are_a_defect(
    make: Callable[..., HeLLMNetwork], tmp_path: Path
) -> None:
    network = make()
    network.extra = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(RuntimeError, match="No artefact holds extra"):
        save_artefacts(network, tmp_path / "model", TOKENS)
    assert not (tmp_path / "model").exists()


def test_the_model_card(make: Callable[..., HeLLMNetwork], tmp_path: Path, llama: str) -> None:
    save_artefacts(make(backbone="llama"), tmp_path / "model", TOKENS, facts=FACTS)
    card = ModelCard.load(tmp_path / "model/README.md")
    assert card.data.base_model == llama
    assert card.data.library_name == "peft"
    assert card.data.pipeline_tag == "feature-extraction"
    assert "lora" in card.data.tags
    for text in (
        "Dataset `tiny`",
        "`abc`",
        "| **seen** | 0.12346 | 0.50000 |",
        "| none | 0.10000 |  |",
        "- `learning_rate`: 0.01",
        "torch 2",
        "keeps its own licence",
        f'AutoModel.from_pretrained("{llama}")',
    ):
        assert text in card.text
    assert "absent" not in card.text
    save_artefacts(make(), tmp_path / "model", TOKENS)
    card = ModelCard.load(tmp_path / "model/README.md")
    assert card.data.base_model is None
    assert card.data.library_name == "recbole-hellm"
    assert "PeftModel" not in card.text


def test_the_cards_code_runs(
    make: Callable[..., HeLLMNetwork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_artefacts(make(backbone="llama"), tmp_path / "model", TOKENS)
    text = (tmp_path / "model/README.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    names: dict[str, Any] = {}
    for block in blocks[1:]:  # the first one needs a run
        exec(block.replace("path/of/this/folder", str(tmp_path / "model")), names)  # noqa: S102
    assert isinstance(names["network"], HeLLMNetwork)
    assert isinstance(names["model"], PeftModel)


def test_artefacts_need_no_recbole(make: Callable[..., HeLLMNetwork], tmp_path: Path) -> None:
    save_artefacts(make(), tmp_path / "model", TOKENS)
    code = (
        "import sys; sys.modules['recbole'] = None\n"
        "from recbole_hellm.models.llm.artefacts import load_artefacts\n"
        f"assert load_artefacts({str(tmp_path / 'model')!r}).n_items == {N}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
