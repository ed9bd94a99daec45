"""Settings of HeLLM's second stage: backbone, graph prefix, item tokens, prompt and head."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from recbole_hellm.config.settings import Settings, hash_neutral, require

TINY = "tiny"


@dataclasses.dataclass(frozen=True)
class LLMSettings(Settings):
    """Configuration keys of the LLM stage (paper, section 3.5).

    Options that are ``None`` follow `variant` (the paper's equations, or what its released code
    does) or `backbone` (``tiny``, a small LLaMA trained whole, or a pre-trained model, frozen);
    :meth:`resolved` fills them in.

    Attributes
    ----------
    variant : {"paper", "released"}
        Sets the defaults of `bilinear`, `prefix_norm`, `prefix_projection`, `train_head` and
        `response_bos`, and the position offset of the released code.
    bilinear : {"linear", "none"}, optional
        The mapping W of Eq. 9; ``none`` pools the embeddings themselves.
    bilinear_size : int
        d' of Eq. 9.
    prefix_norm : {"before", "after"}, optional
        RMSNorm before the MLP (Eq. 10), or after it and again after the bias (released code).
    prefix_projection : {"direct", "frozen"}, optional
        Prefixes are keys and values themselves (Eq. 11), or pass the layer's own projections.
    train_head : bool, optional
        Whether the item head is trained.
    prefix : {"graph", "static", "none"}
        ``static`` keeps the learned prefix and drops the user's graph vector.
    prefix_length : int
        k, prefixes per layer.
    prefix_dropout : float
        Dropout inside the prefix MLPs.
    pooling_dropout : float, optional
        Share of a user's items that is left out of the pooling in training; without it the prefix
        is a noiseless fingerprint of a history whose tokens are noisy, and overfits.
    prefix_mlp_hidden : int, optional
        Width of the prefix MLPs' hidden layer; the backbone's hidden size by default.
    prefix_init_std : float, optional
        Standard deviation of the learned prefix at the start: 1 where it passes a projection,
        else 0.02, the scale of the keys and values it stands beside.
    gram_pad_bug : bool
        Reproduce the released code's pooling over padding while training: every padded slot
        of a batch adds the first item. The authors' batches are not sorted by length, so neither
        may these be (``bucket_by_length``).
    backbone : str
        ``tiny``, a Hugging Face model name, or a local folder.
    backbone_layers, backbone_hidden_size, backbone_heads, backbone_intermediate_size : int
        Shape of the tiny backbone.
    backbone_dropout : float
        Dropout of the tiny backbone: item tokens, attention weights, both residual branches.
    backbone_dtype : {"auto", "float32", "bfloat16", "float16"}
        Type of a frozen pre-trained backbone's weights. ``auto`` on a GPU: the checkpoint's own
        half precision, or bfloat16 for a checkpoint in float32, and float16 where the GPU lacks
        bfloat16. ``auto`` on a CPU: float32; bfloat16, which CPUs with AMX compute fast, can be
        asked for.
    load_in_4bit, load_in_8bit : bool
        Pack a frozen pre-trained backbone's weights with bitsandbytes, on a GPU: NF4 with double
        quantisation, computing in `backbone_dtype`, or LLM.int8().
    train_backbone : bool, optional
        Train the backbone's own weights instead of LoRA adapters.
    lora_r, lora_alpha, lora_dropout, lora_targets
        LoRA of a frozen backbone; ``lora_r=0`` switches it off.
    gradient_checkpointing : bool
        Recompute the backbone's layers in the backward pass.
    prompt : {"alpaca", "none"}, optional
        Words around the items; by default none for the tiny backbone, which knows no language.
    response_bos : bool, optional
        Begin the response segment with another BOS token, as the released code does.
    padding_side : {"left", "right"}
        Side of the item block on which shorter histories are padded. The results are equal.
    item_inputs : tuple of str
        Tables that an item token is made of: ``graph``, ``sequence``, item features such as
        ``text`` or ``text-minilm``, or a class (``package.module:Name``); see
        :mod:`recbole_hellm.data.features.item_inputs`.
    train_item_tables : bool, optional
        Fine-tune the tables of `item_inputs`.
    item_vectors : bool, optional
        Add a learned vector per item to its token.
    item_mlp_hidden : int, optional
        Width of the item MLP's hidden layer; the backbone's hidden size by default.
    item_mlp_activation : {"gelu", "relu"}
        Activation of the item MLP.
    normalise_tables : bool, optional
        Divide each table of `item_inputs` by its root mean square.
    head : {"linear", "tied"}, optional
        A weight row per item, or a linear read-out scored against the item tokens.
    targets : {"last", "every"}, optional
        One sample per (history, next item), or one pass over a sequence with every position a
        target.
    multi_target : bool
        Under ``targets=last``, train all targets of a user in one pass, a response segment behind
        the items for each, where the prefix does not depend on the target. The objective is the
        same and a fraction of the tokens is read, but batches of `train_batch_size` targets hold
        fewer users, so that models with and without it do not train alike.
    autocast : {"auto", "bfloat16", "float16"}
        Type of the products in the decoder; ``auto`` is that of its weights. What is trained
        stays float32.
    compile : bool
        Compile the decoder (``torch.compile``, dynamic shapes).
    """

    variant: Literal["paper", "released"] = "paper"
    bilinear: Literal["linear", "none"] | None = None
    bilinear_size: int = 32
    prefix_norm: Literal["before", "after"] | None = None
    prefix_projection: Literal["direct", "frozen"] | None = None
    train_head: bool | None = None
    prefix: Literal["graph", "static", "none"] = "graph"
    prefix_length: int = 10
    prefix_dropout: float = 0.3
    pooling_dropout: float | None = None
    prefix_mlp_hidden: int | None = None
    prefix_init_std: float | None = None
    gram_pad_bug: bool = False
    backbone: str = TINY
    backbone_layers: int = 2
    backbone_hidden_size: int = 128
    backbone_heads: int = 2
    backbone_intermediate_size: int = 512
    backbone_dropout: float = 0.5
    backbone_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    load_in_4bit: bool = hash_neutral(False)
    load_in_8bit: bool = hash_neutral(False)
    train_backbone: bool | None = None
    lora_r: int = 16
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    gradient_checkpointing: bool = False
    prompt: Literal["alpaca", "none"] | None = None
    response_bos: bool | None = None
    padding_side: Literal["left", "right"] = "left"
    item_inputs: tuple[str, ...] = ("graph", "sequence")
    train_item_tables: bool | None = None
    item_vectors: bool | None = None
    item_mlp_hidden: int | None = None
    item_mlp_activation: Literal["gelu", "relu"] = "gelu"
    normalise_tables: bool | None = None
    head: Literal["linear", "tied"] | None = None
    targets: Literal["last", "every"] | None = None
    multi_target: bool = hash_neutral(False)
    autocast: Literal["auto", "bfloat16", "float16"] = hash_neutral("auto")
    compile: bool = hash_neutral(False)

    @property
    def tiny(self) -> bool:
        """Whether the backbone is the small randomly initialised one."""
        return self.backbone == TINY

    @property
    def item_tables(self) -> list[str]:
        """Names of the tables that the network holds, those of `item_inputs` and of the prefix.

        They are sorted, since the order of parameters is part of an optimiser's state.
        """
        return sorted({*self.item_inputs, *(["graph"] if self.prefix == "graph" else [])})

    def validate(self) -> None:
        """Check the fields' ranges and the relations between them.

        Raises
        ------
        ConfigError
            If a value is out of range or two options exclude each other.
        """
        for key in (
            *("bilinear_size", "prefix_length", "prefix_mlp_hidden", "item_mlp_hidden"),
            *("backbone_layers", "backbone_hidden_size", "backbone_heads"),
            "backbone_intermediate_size",
        ):
            value = getattr(self, key)
            require(value is None or value >= 1, f"{key}={value} must be at least 1.")
        for key in ("prefix_dropout", "pooling_dropout", "backbone_dropout", "lora_dropout"):
            value = getattr(self, key)
            require(
                value is None or 0 <= value < 1, f"{key}={value} must be at least 0 and below 1."
            )
        require(self.lora_r >= 0, f"lora_r={self.lora_r} must be 0 (no LoRA) or more.")
        require(
            self.prefix_init_std is None or self.prefix_init_std >= 0,
            f"prefix_init_std={self.prefix_init_std} must not be negative.",
        )
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
            not (self.load_in_4bit and self.load_in_8bit),
            "load_in_4bit=True and load_in_8bit=True exclude each other; choose one.",
        )
        for key in ("load_in_4bit", "load_in_8bit"):
            require(
                not getattr(self, key) or not (self.tiny or self.train_backbone),
                f"{key}=True needs a frozen pre-trained backbone; name one with --backbone and "
                "leave out train_backbone, or leave out this key.",
            )
        resolved = self.resolved()
        require(
            bool(self.item_inputs) or bool(resolved.item_vectors),
            "item_inputs=[] leaves item tokens empty; name graph, sequence or text, for "
            "example, or set item_vectors=True.",
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

        `prefix_mlp_hidden` and `item_mlp_hidden` stay ``None`` where they follow the backbone's
        hidden size, which is known only once it is built.
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
            "train_backbone": self.tiny,
            "prompt": "none" if self.tiny else "alpaca",
            "train_item_tables": self.tiny,
            "item_vectors": self.tiny,
            "normalise_tables": self.tiny,
            "head": "tied" if self.tiny else "linear",
            "targets": "every" if self.tiny else "last",
        }
        missing = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        # replace() validates the copy, which resolves again: a complete copy returns itself.
        return dataclasses.replace(self, **missing) if missing else self
