"""LoRA on decoders whose layers have other names than LLaMA's."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModel, PreTrainedModel

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.adapters import Targets, check_targets
from recbole_hellm.models.llm.backbone import Backbone, wrap_backbone
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.settings import LLMSettings

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 30,
    "pad_token_id": 0,
    "max_position_embeddings": 32,
}
GPT2: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 30}
OPT = {**SHAPE, "ffn_dim": 24, "word_embed_proj_dim": 16}
NONE = Targets((), (), ())
GATED = {"gate_proj", "up_proj", "down_proj"}
# Family -> its shape and the layers outside attention.
FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llama": (SHAPE, GATED),
    "mistral": (SHAPE, GATED),
    "qwen2": (SHAPE, GATED),
    "qwen3": (SHAPE | {"head_dim": 8}, GATED),
    "gemma2": (SHAPE | {"head_dim": 8}, GATED),
    "gemma3_text": (SHAPE | {"head_dim": 8}, GATED),
    "phi3": (SHAPE, {"gate_up_proj", "down_proj"}),
    "gpt2": (GPT2, {"c_fc", "mlp.c_proj"}),
    "gpt_neox": (SHAPE, {"dense_h_to_4h", "dense_4h_to_h"}),
    "opt": (OPT, {"fc1", "fc2"}),
}


def trunk(family: str) -> PreTrainedModel:
    model = AutoModel.from_config(AutoConfig.for_model(family, **FAMILIES[family][0]))
    decoder = model.get_decoder()
    return decoder if isinstance(decoder, PreTrainedModel) else model


def wrap(family: str, *targets: str, **options: Any) -> Backbone:
    if targets:
        options["lora_targets"] = targets
    return wrap_backbone(trunk(family), LLMSettings(backbone="folder", prompt="none", **options))


def adapted(backbone: Backbone) -> set[str]:
    modules = backbone.model.named_modules()
    return {".".join(n.split(".")[-2:]) for n, part in modules if isinstance(part, LoraLayer)}


def refused(family: str, *targets: str) -> str:
    """The sentence with which targets are refused."""
    settings = LLMSettings(backbone="folder", prompt="none", lora_targets=targets)
    with pytest.raises(BackboneError) as error:
        check_targets(wrap(family, *targets).targets or NONE, settings)
    text = str(error.value)
    assert text.endswith(".")
    assert text.count(". ") == 0
    return text


def test_a_misspelt_target_beside_a_right_one_is_refused_with_the_names() -> None:
    text = refused("llama", "q_proj", "v_prj")
    assert "backbone=folder has no layer 'v_prj' (did you mean v_proj" in text
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in text


@pytest.mark.parametrize("target", ["mlp", "input_layernorm", "all-linear", "lm_head", ""])
def test_what_is_no_layer_for_lora_is_refused(target: str) -> None:
    assert "q_proj, k_proj, v_proj" in refused("llama", target)
    assert "q_proj, k_proj, v_proj" in refused("llama", "q_proj", target)


def test_the_targets_at_fault_are_named() -> None:
    assert refused("llama", "self_attn.q_proj", "self_attn").startswith("lora_targets=['self_attn'")


def test_a_finished_run_with_such_targets_can_still_be_built() -> None:
    assert adapted(wrap("llama", "q_proj", "v_prj")) == {"self_attn.q_proj"}


def test_a_path_tells_layers_of_the_same_name_apart() -> None:
    backbone = wrap("gpt2", "mlp.c_proj", "h.1.attn.c_proj")
    modules = backbone.model.named_modules()
    paths = [name for name, part in modules if isinstance(part, LoraLayer)]
    assert paths == ["h.0.mlp.c_proj", "h.1.attn.c_proj", "h.1.mlp.c_proj"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_advice_for_each_family_works(family: str, caplog: pytest.LogCaptureFixture) -> None:
    """The advice of the error or the warning adapts all feed-forward layers, which then train."""
    layers = FAMILIES[family][1]
    with caplog.at_level(logging.WARNING, logger="recbole_hellm"):
        try:
            targets = wrap(family).targets
            assert targets is not None
            check_targets(targets, LLMSettings(backbone="folder"))
            told = caplog.text
        except BackboneError as error:
            told = str(error)
    if layers == GATED:
        assert told == ""
        return
    match = re.search(r"--lora_targets='\[(.+?)\]'", told)
    assert match
    names = tuple(match[1].split(", "))
    assert {*names} == layers
    settings = LLMSettings(
        backbone="folder",
        prompt="none",
        prefix="static",
        item_inputs=(),
        item_vectors=True,
        lora_targets=names,
    )
    backbone = wrap_backbone(trunk(family), settings)
    assert backbone.targets is not None
    check_targets(backbone.targets, settings)
    network = HeLLMNetwork(settings, n_items=9, backbone=backbone)
    network.loss(torch.tensor([[1, 2, 3]]), torch.tensor([3]), torch.tensor([4])).backward()
    trained = [p for n, p in backbone.model.named_parameters() if "lora_B" in n]
    assert len(trained) == 2 * len(layers)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


def test_the_warning_tells_which_layers_are_adapted(caplog: pytest.LogCaptureFixture) -> None:
    targets = wrap("phi3").targets
    assert targets is not None
    with caplog.at_level(logging.WARNING, logger="recbole_hellm"):
        check_targets(targets, LLMSettings(backbone="folder"))
    assert "backbone=folder has only down_proj, so" in caplog.text


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_attention_alone_may_be_adapted(family: str) -> None:
    names = {"llama": "q_proj", "phi3": "qkv_proj", "gpt2": "c_attn"}
    backbone = wrap(family, names[family])
    assert backbone.targets is not None
    assert backbone.targets.unmatched == ()
    assert len(adapted(backbone)) == 1
