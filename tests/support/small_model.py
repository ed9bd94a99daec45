"""Settings of HeLLM and its stages in the smallest sensible size, and of its network alone."""

from __future__ import annotations

from typing import Any

SMALL_MODEL: dict[str, Any] = {
    "backbone_layers": 1,
    "backbone_hidden_size": 16,
    "backbone_heads": 2,
    "backbone_intermediate_size": 32,
    "bilinear_size": 4,
    "prefix_length": 2,
    "graph_dim": 8,
    "sequence_dim": 8,
    "MAX_ITEM_LIST_LENGTH": 6,
    "train_batch_size": 8,
    "HeLLMPre.embedding_size": 8,
    "HeLLMPre.knn_k": 3,
    "HeLLMPre.train_batch_size": 16,
    "HeLLMPre.epochs": 1,
    "SASRec.hidden_size": 8,
    "SASRec.inner_size": 16,
    "SASRec.n_layers": 1,
    "SASRec.train_batch_size": 32,
    "SASRec.epochs": 1,
}

SMALL_NETWORK: dict[str, Any] = {
    "backbone_hidden_size": 16,
    "backbone_intermediate_size": 20,
    "bilinear_size": 3,
    "prefix_length": 2,
}
