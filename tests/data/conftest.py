"""Tiny encoders with random weights, saved as the hub keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "pink", "matte", "glossy"),
    *("lipstick", "nail", "polish", "hair", "shampoo", "curl", "dry", "quick", "long", "lasting"),
    *("anti", "frizz", "argan", "oil", "for", "men", "women", "set", "of", "2", "##s", "##y"),
    *(",", ".", "&", "-", "123"),
]


# As openai/clip-vit-base-patch32 has it, for pictures of 32 pixels.
CLIP_PROCESSOR = {
    "crop_size": 32,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 32,
}


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers, 24 wide, with a tokenizer of few words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "Tiny-BERT"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
        initializer_range=0.2,  # so that attention and order matter
    )
    BertModel(config).save_pretrained(folder)
    vocabulary = {word: row for row, word in enumerate(WORDS)}
    BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP whose vision tower sees 32 x 32 pixels and projects onto 12 dimensions."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    torch.manual_seed(1)
    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.2,
    }
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 20, "max_position_embeddings": 8},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP_PROCESSOR))
    return folder
