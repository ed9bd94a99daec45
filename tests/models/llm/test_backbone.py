from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    GptOssConfig,
    GptOssModel,
    LlamaConfig,
    LlamaModel,
)

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.attention import AttentionContext
from recbole_hellm.models.llm.backbone import Backbone, build_backbone, wrap_backbone
from recbole_hellm.models.llm.settings import LLMSettings

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 9,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    LlamaModel(LlamaConfig(**SMALL, bos_token_id=1)).save_pretrained(tmp_path)
    return tmp_path


def forward(backbone: Backbone, seed: int = 0) -> torch.Tensor:
    tokens = torch.randn(2, 3, backbone.hidden_size, generator=torch.Generator().manual_seed(4))
    torch.manual_seed(seed)
    context = AttentionContext()
    output = backbone.model(inputs_embeds=tokens, use_cache=False, prefix_context=context)
    context.check_reached(backbone.n_layers)
    return output.last_hidden_state


def test_tiny_is_a_llama_of_the_given_shape_trained_whole() -> None:
    backbone = build_backbone(LLMSettings(backbone_layers=3, backbone_hidden_size=64))
    assert isinstance(backbone.model, LlamaModel)
    assert backbone.trained
    facts = (backbone.n_layers, backbone.hidden_size, backbone.n_kv_heads, backbone.head_dim)
    assert facts == (3, 64, 2, 32)
    frozen = {name for name, p in backbone.model.named_parameters() if not p.requires_grad}
    assert frozen == {"embed_tokens.weight"}  # no words, so no use for word embeddings
    assert not any("lora" in name for name, _ in backbone.model.named_parameters())
    assert backbone.tokenizer is None


def test_tiny_with_a_prompt_brings_a_tokenizer_and_trains_its_words() -> None:
    backbone = build_backbone(LLMSettings(prompt="alpaca"))
    assert backbone.tokenizer is not None
    words = backbone.model.get_input_embeddings().weight
    assert words.requires_grad
    assert len(words) == len(backbone.tokenizer)


def test_tiny_keeps_float64() -> None:
    backbone = build_backbone(LLMSettings(backbone_dropout=0.0))
    backbone.model.double()
    tokens = torch.randn(1, 4, 128, dtype=torch.float64)
    outputs = [
        backbone.model(inputs_embeds=x, use_cache=False).last_hidden_state
        for x in (tokens, tokens * (1 + 1e-12))
    ]
    difference = (outputs[0] - outputs[1]).abs().max()
    assert 0 < difference < 1e-9  # float32 anywhere would round the change away


def test_dropout_of_items_is_the_backbones_unless_it_is_given(folder: Path) -> None:
    def rate(**options: Any) -> float:
        return build_backbone(LLMSettings(**options), device="cpu").embedding_dropout

    frozen = {"backbone": str(folder), "prompt": "none"}
    assert (rate(), rate(item_dropout=0.2), rate(item_dropout=0.0)) == (0.5, 0.2, 0.0)
    assert (rate(**frozen), rate(**frozen, item_dropout=0.2)) == (0.0, 0.2)


def test_dropout_acts_in_training_only_and_at_both_branches() -> None:
    backbone = build_backbone(LLMSettings(backbone_dropout=0.5))
    backbone.model.eval()
    assert torch.equal(forward(backbone, 1), forward(backbone, 2))
    seen: dict[str, torch.Tensor] = {}
    layer = backbone.model.layers[0]
    for name, module in (("o_proj", layer.self_attn.o_proj), ("down_proj", layer.mlp.down_proj)):
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    forward(backbone)
    assert all((output != 0).all() for output in seen.values())
    backbone.model.train()
    assert not torch.equal(forward(backbone, 1), forward(backbone, 2))
    for output in seen.values():
        assert 0.3 < float((output == 0).float().mean()) < 0.7
    assert layer.self_attn.attention_dropout == 0.5


def test_pretrained_weights_stay_frozen_and_lora_sits_on_the_named_modules_only(
    folder: Path,
) -> None:
    backbone = build_backbone(LLMSettings(backbone=str(folder), prompt="none"), device="cpu")
    assert not backbone.trained
    assert backbone.tokenizer is None
    trained = {name for name, p in backbone.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    parents = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trained}
    assert parents == {"gate_proj", "up_proj", "down_proj"}
    assert len(trained) == 2 * 2 * 3
    forward(backbone).sum().backward()
    for name, parameter in backbone.model.named_parameters():
        assert (parameter.grad is not None) == (name in trained)
    original = LlamaModel.from_pretrained(folder).state_dict()
    for name, weight in backbone.model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(weight, original[name.replace("base_layer.", "")])


def test_lora_starts_as_the_identity_and_can_be_switched_off(folder: Path) -> None:
    with_lora = build_backbone(LLMSettings(backbone=str(folder), prompt="none"), device="cpu")
    without = build_backbone(
        LLMSettings(backbone=str(folder), lora_r=0, prompt="none"), device="cpu"
    )
    assert not any(p.requires_grad for p in without.model.parameters())
    with_lora.model.eval()
    torch.testing.assert_close(forward(with_lora), forward(without))
    with_lora.model.train()  # lora_dropout has nothing to act on: B is zero
    torch.testing.assert_close(forward(with_lora), forward(without))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_carry_float32_adapters(folder: Path, dtype: str) -> None:
    settings = LLMSettings(backbone=str(folder), prompt="none", backbone_dtype=dtype)  # type: ignore[arg-type]
    backbone = build_backbone(settings, device="cpu")
    for name, parameter in backbone.model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else getattr(torch, dtype))


def test_a_pretrained_backbone_can_be_trained_whole(folder: Path) -> None:
    settings = LLMSettings(backbone=str(folder), train_backbone=True, prompt="none")
    backbone = build_backbone(settings)
    assert backbone.trained
    frozen = {name for name, p in backbone.model.named_parameters() if not p.requires_grad}
    assert frozen == {"embed_tokens.weight"}
    assert not any("lora" in name for name, _ in backbone.model.named_parameters())


def test_frozen_trunks_drop_nothing_while_their_adapters_train() -> None:
    model = LlamaModel(LlamaConfig(**SMALL, attention_dropout=0.9))
    backbone = wrap_backbone(model, LLMSettings(backbone="x", lora_dropout=0.0))
    backbone.model.train()
    assert torch.equal(forward(backbone, 1), forward(backbone, 2))


def sentence(error: pytest.ExceptionInfo[BackboneError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert text.count(". ") == 0
    return text


def test_encoders_are_refused() -> None:
    bert = BertModel(BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8))
    with pytest.raises(BackboneError, match="is not a decoder") as error:
        wrap_backbone(bert, LLMSettings(backbone="bert"))
    assert "bert" in sentence(error)


def test_attention_with_terms_that_nobody_would_compute_is_refused() -> None:
    model = GptOssModel(GptOssConfig(**SMALL, num_local_experts=2, head_dim=4))  # sinks
    with pytest.raises(BackboneError, match=r"gpt_oss.*is not a decoder") as error:
        wrap_backbone(model, LLMSettings(backbone="g"))
    sentence(error)


def test_lora_targets_that_do_not_exist_are_named() -> None:
    model = LlamaModel(LlamaConfig(**SMALL))
    with pytest.raises(BackboneError, match=r"lora_targets=.*'wrong'") as error:
        wrap_backbone(model, LLMSettings(backbone="x", lora_targets=("wrong",)))
    sentence(error)


def test_words_scaled_by_the_decoder_itself_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Gemma2Model(Gemma2Config(**SMALL, head_dim=4))
    assert wrap_backbone(model, LLMSettings(backbone="g")).head_dim == 4
    # As in transformers 5.0, whose embeddings are plain ones.
    monkeypatch.setattr(model, "embed_tokens", torch.nn.Embedding(9, 16))
    with pytest.raises(BackboneError, match=r"gemma2.*pip install -U transformers") as error:
        wrap_backbone(model, LLMSettings(backbone="g"))
    sentence(error)
