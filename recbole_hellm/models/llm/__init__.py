"""HeLLM's second stage: language-model backbones, graph prefixes, item tokens."""

from __future__ import annotations

from recbole_hellm.models.llm.backbone import Backbone, build_backbone, wrap_backbone
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.settings import LLMSettings

__all__ = ["Backbone", "HeLLMNetwork", "LLMSettings", "build_backbone", "wrap_backbone"]
