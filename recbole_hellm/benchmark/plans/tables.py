"""Tables of methods, and the settings in which their rows differ."""

from __future__ import annotations

from typing import Any

from recbole_hellm import registry
from recbole_hellm.benchmark.paper import METRICS, TABLE_1, TABLE_3
from recbole_hellm.benchmark.plans.shapes import Family, Table

GENERAL = ("LightGCN", "VBPR", "GRCN", "LATTICE", "SLMRec", "BM3", "FREEDOM", "HeLLMPre")
SEQUENTIAL = ("SASRec", "BSARec", "WEARec", "CoLLM", "LLaRA", "HeLLM")

_ABLATIONS = {
    base: (*(name for name in TABLE_3 if name.startswith(f"{base}-wo-")), base)
    for base in ("HeLLMPre", "HeLLM")
}
# Without the contrast the first stage begins with content alone, falls and rises again, which the
# default patience of 6 epochs takes for the end. The authors' is 30 epochs
# (docs/method.md, Pre-training schedule).
PATIENT = {"stopping_step": 29}
# The rows of `pretrained` that are not a registered model with its defaults on SmolLM2.
_TENTH = {"train_users": 0.1}
# So few users make 16 steps an epoch. Titles make histories ten times as long, so they are cut
# short and validated twice, and so are the rows that they are compared with.
_LONGER = {"epochs": 12, "eval_step": 6}
_TITLES = {"item_text_tokens": 8, **_LONGER}
_PAPERS_RECIPE = {
    "prompt": "alpaca",
    "targets": "last",
    "head": "linear",
    "item_vectors": False,
    "train_item_tables": False,
    "normalise_tables": False,
    "learning_rate": 3e-4,
    "learning_rate_min": 5e-6,
    "weight_decay": 0.1,
    "betas": (0.9, 0.95),
    "train_batch_size": 7,
    "epochs": 2,
}
_BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "HeLLM-static-prefix": ("HeLLM", {"prefix": "static"}),
    "HeLLM-no-prefix": ("HeLLM", {"prefix": "none"}),
    "HeLLM-random": ("HeLLM", {"random_backbone": True}),
    "HeLLM-random-trained": ("HeLLM", {"random_backbone": True, "train_backbone": True}),
    "HeLLM-8-layers": ("HeLLM", {"backbone_layers": 8}),
    "HeLLM-16-layers": ("HeLLM", {"backbone_layers": 16}),
    "HeLLM-30-layers": ("HeLLM", {"backbone_layers": 30}),
    "HeLLM-language": ("HeLLM", {"item_inputs": ("graph", "sequence", "language")}),
    "CoLLM": ("CoLLM", {}),
    "LLaRA": ("LLaRA", {}),
    "HeLLM-tiny": ("HeLLM", {"backbone": "tiny"}),
    "HeLLM": ("HeLLM", {}),
}
_SOME_USERS: dict[str, tuple[str, dict[str, Any]]] = {
    "HeLLM-tenth-papers-recipe": ("HeLLM", _PAPERS_RECIPE),
    "HeLLM-tenth-titles": ("HeLLM", {"item_text": "title", **_TITLES}),
    "LLaRA-tenth-titles": ("LLaRA-titles", _TITLES),
    "LLaRA-tenth": ("LLaRA", _LONGER),
    "HeLLM-tenth-tiny": ("HeLLM", {"backbone": "tiny", **_LONGER}),
    "HeLLM-tenth": ("HeLLM", _LONGER),
}
_PRETRAINED = _BACKBONES | {name: (m, s | _TENTH) for name, (m, s) in _SOME_USERS.items()}
# HeLLM-plus without one kind of its members, and with LLaRA in HeLLM's place.
_LEFT_OUT: dict[str, dict[str, Any]] = {
    "HeLLM-plus-wo-LLM": {"llm_model": None},
    "HeLLM-plus-wo-sequence": {"sequence_model": None},
    "HeLLM-plus-wo-graph": {"graph_model": None},
    "LLaRA-plus": {"llm_model": "LLaRA"},
}
_PLUS = registry.variant_settings(registry.OWN_MODELS["HeLLM-plus"])
_WITHOUT = {name: _PLUS | settings for name, settings in _LEFT_OUT.items()}
# The paper's read-out: a pass for each target, in which all items see the whole history's prefix.
_LAST = {"HeLLM-last-no-prefix": "HeLLM-wo-GNN_PEFT", "HeLLM-last": "HeLLM"}
# One setting at a time, on the default HeLLM and on its sequence stage.
_CHANGES: dict[str, dict[str, Any]] = {
    "SASRec-first-items": {"first_item_target": True},
    "HeLLM-last": {"targets": "last"},
    "HeLLM-longer": {"epochs": 12},
    "HeLLM-first-items": {"SASRec.first_item_target": True},
    "HeLLM-text": {"item_inputs": ("graph", "sequence", "text")},
    "HeLLM-role-dropout": {"role_dropout": 0.2},
    "HeLLM-item-gate": {"item_gate": True},
    "HeLLM-cosine": {"head_scale": "cosine"},
    "HeLLM-stage-scores": {"stage_scores": True},
    "HeLLM-averaged": {"weight_averaging": "ema"},
}
TABLES: dict[str, Table] = {
    "table1": Table(
        "table1",
        "Every method (the paper's Table 1, with sequential models and HeLLM's first stage)",
        (Family("HeLLM", (*GENERAL, *SEQUENTIAL)),),
        # The first stage has its row in the paper's Table 3.
        printed={"HeLLMPre": TABLE_3["HeLLMPre"], **TABLE_1},
    ),
    "table3": Table(
        "table3",
        "Ablations of both stages (the paper's Table 3)",
        tuple(Family(base, models) for base, models in _ABLATIONS.items()),
        METRICS[2:],
        TABLE_3,
        dict.fromkeys(_ABLATIONS["HeLLMPre"], PATIENT),
        (
            "The first stage and its ablations train until 30 epochs in a row are no better, as "
            "the authors' do, or for 100 epochs; HeLLM's stage is the default one, which waits "
            "for 6.",
        ),
    ),
    "ranking": Table(
        "ranking",
        "The best ranking: HeLLM-plus, its parts and every other method",
        (Family("HeLLM-plus", (*GENERAL, *SEQUENTIAL, *_WITHOUT, "HeLLM-plus")),),
        settings=_WITHOUT,
        paths=dict.fromkeys(_WITHOUT, "Ensemble"),
        others=True,
    ),
    "prefix": Table(
        "prefix",
        "HeLLM with and without the graph prefix, under both ways to read it",
        (Family("HeLLM", ("HeLLM-wo-GNN_PEFT", "HeLLM")), Family("HeLLM-last", tuple(_LAST))),
        settings={name: {"targets": "last"} for name in _LAST},
        paths=_LAST,
        notes=(
            "In rows with 'last' each target has a pass of its own, in which all items see the "
            "prefix of the whole history, as in the paper (`targets=last`); in the others each "
            "item sees that of the items up to itself (`targets=every`).",
        ),
    ),
    "changes": Table(
        "changes",
        "HeLLM and SASRec with one setting changed",
        tuple(
            Family(base, (*(name for name in _CHANGES if name.startswith(base)), base))
            for base in ("SASRec", "HeLLM")
        ),
        settings=_CHANGES,
        paths={name: name.partition("-")[0] for name in _CHANGES},
        notes=(
            "Changes are: users' first items as targets of SASRec (`first_item_target=True`), "
            "alone and as HeLLM's stage; a pass for each target (`targets=last`); 12 epochs "
            "instead of 8; texts as a third item table (`item_inputs=[graph,sequence,text]`); "
            "`role_dropout=0.2`; `item_gate=True`; `head_scale=cosine`; `stage_scores=True`; and "
            "averaged weights (`weight_averaging=ema`).",
        ),
    ),
    "pretrained": Table(
        "pretrained",
        "Language models that have read: SmolLM2-135M under HeLLM, CoLLM and LLaRA",
        (Family("HeLLM", tuple(_BACKBONES)), Family("HeLLM-tenth", tuple(_SOME_USERS))),
        settings={
            name: {"backbone": "smollm2", **settings} for name, (_, settings) in _PRETRAINED.items()
        },
        paths={name: model for name, (model, _) in _PRETRAINED.items()},
        notes=(
            "The language models of rows with 'tenth' learn from a tenth of the users, for 12 "
            "epochs instead of 3 (the paper's recipe for 2); their stages learn from all users, "
            "who are also those that are evaluated.",
        ),
    ),
}
