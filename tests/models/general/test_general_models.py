"""What every general recommender has to do alike; equations are in each model's own test file."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recbole_hellm.errors import ConfigError, FeatureError
from recbole_hellm.models.general.bm3 import BM3
from recbole_hellm.models.general.freedom import FREEDOM
from recbole_hellm.models.general.grcn import GRCN
from recbole_hellm.models.general.hellm_pre import HeLLMPre
from recbole_hellm.models.general.lattice import LATTICE
from recbole_hellm.models.general.slmrec import SLMRec
from recbole_hellm.models.general.vbpr import VBPR

M, N = 50, 40
OUT_OF_RANGE: dict[type[Any], list[tuple[str, Any]]] = {
    BM3: [
        ("n_layers", -1),
        ("cl_weight", -0.5),
        ("reg_weight", -1.0),
        ("dropout", 1.0),
        ("dropout", -0.1),
    ],
    FREEDOM: [
        ("knn_search", "faiss"),
        ("knn_k", 0),
        ("n_layers_ui", -1),
        ("n_layers_i2i", -1),
        ("reg_weight", -1.0),
        ("pruning_ratio", 1.0),
        ("pruning_ratio", -0.1),
        ("modality_weights", {"image": -0.1}),
        ("modality_weights", {"image": "much"}),
        ("modality_weights", {"image": True}),
        ("modality_weights", {"image": math.nan}),
        ("modality_weights", 0.1),
    ],
    GRCN: [("n_layers", -1), ("n_routings", -1), ("reg_weight", -0.1)],
    HeLLMPre: [
        ("tau", 0.001),
        ("knn_k", 0),
        ("reg_weight", -1.0),
        ("variant", "other"),
        ("knn_search", "hnsw"),
    ],
    LATTICE: [
        ("knn_search", "faiss"),
        ("n_layers_ui", -1),
        ("n_layers_i2i", 0),
        ("knn_k", 0),
        ("lambda_coeff", -0.1),
        ("lambda_coeff", 1.1),
        ("reg_weight", -1.0),
    ],
    SLMRec: [
        ("n_layers", 0),
        ("tau", 0.0),
        ("ssl_tau", -1.0),
        ("ssl_weight", -0.1),
        ("ssl_similarity", "other"),
    ],
    VBPR: [("reg_weight", -1.0), ("reg_projection", -0.1)],
}
OF_BASELINES: list[tuple[str, Any]] = [("embedding_size", 0), ("sampling", "other")]
# The last components of the names of what is saved, which is what is learned and nothing else.
# LATTICE, which also saves its neighbours, has its own test.
STATE: dict[type[Any], set[str]] = {
    BM3: {"user_table", "item_table", "weight", "bias"},
    FREEDOM: {"user_table", "item_table", "text_projection", "image_projection"},
    GRCN: {
        "user_table",
        "item_table",
        "weight",
        "bias",
        "preference",
        "user_confidence",
        "item_confidence",
    },
    HeLLMPre: {"user_table", "item_table", "user_hyper_table", "item_hyper_table"},
    SLMRec: {"user_table", "item_table", "weight", "bias"},
    VBPR: {
        "gamma_user",
        "theta_user",
        "gamma_item",
        "item_bias",
        "projection",
        "feature_bias",
    },
}
# The value of parameters that do not start Xavier-uniform; SLMRec and LATTICE have own tests.
CONSTANTS: dict[type[Any], dict[str, float]] = {
    BM3: {"bias": 0.0},
    FREEDOM: {},
    GRCN: {"bias": 0.0, "confidence": 1.0},
    HeLLMPre: {},
    VBPR: {"bias": 0.0},
}


@pytest.fixture
def fresh(build_model: Any, toy_dataset: Any) -> Callable[..., Any]:
    """``fresh(cls, **settings)``: an untrained model of 50 users, 40 items and two modalities."""

    def make(cls: type[Any], **settings: Any) -> Any:
        rng = np.random.default_rng(5)
        pairs = [(user, 1 + int(rng.integers(N))) for user in range(1, M) for _ in range(3)]
        tables = {name: rng.normal(size=(N, width)) for name, width in (("text", 30), ("image", 9))}
        dataset = toy_dataset(pairs, M, N, tables)
        return build_model(cls, dataset, redraw=False, **({"embedding_size": 20} | settings))

    return make


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [(cls, *case) for cls, cases in OUT_OF_RANGE.items() for case in cases]
    + [(cls, *case) for cls in OUT_OF_RANGE if cls is not HeLLMPre for case in OF_BASELINES],
)
def test_settings_out_of_range_are_named(cls: type[Any], key: str, value: Any) -> None:
    (settings,) = cls.settings_classes
    with pytest.raises(ConfigError, match=key):
        settings(**{key: value})


@pytest.mark.parametrize("cls", [BM3, FREEDOM, GRCN, LATTICE, SLMRec])
def test_features_that_do_not_fit_are_named(
    build_model: Any, toy_dataset: Any, cls: type[Any]
) -> None:
    def build(**rows: int) -> Any:
        tables = {name: np.ones((count, 2)) for name, count in rows.items()}
        return build_model(cls, toy_dataset([(1, 1)], 2, N, tables))

    with pytest.raises(FeatureError, match=f"{cls.__name__} .* at least one modality"):
        build()
    with pytest.raises(FeatureError, match=rf"{cls.__name__} .* {N} items; .*'image' .* 4,"):
        build(text=N, image=4)


@pytest.mark.parametrize("cls", [FREEDOM, HeLLMPre, LATTICE])
def test_models_search_nearest_items_as_asked(
    fresh: Callable[..., Any],
    cls: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("faiss", reason="needs the extra faiss")
    exact = fresh(cls).eval().vectors()
    flat = fresh(cls, knn_search="faiss-flat").eval().vectors()
    assert all(torch.equal(mine, other) for mine, other in zip(exact, flat, strict=True))
    with caplog.at_level("INFO", logger="recbole_hellm"):
        fresh(cls, knn_search="faiss-ivf", knn_k=3)
    told = [one for one in caplog.messages if one.startswith("knn_search=faiss-ivf found")]
    # For both modalities; LATTICE has a graph of raw features and a learned one.
    assert len(told) == (4 if cls is LATTICE else 2)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"knn_search=faiss-hnsw needs faiss"):
        fresh(cls, knn_search="faiss-hnsw")


@pytest.mark.parametrize(("cls", "names"), STATE.items())
def test_state_holds_what_is_learned_only(
    fresh: Callable[..., Any], cls: type[Any], names: set[str]
) -> None:
    model = fresh(cls)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert {name.split(".")[-1] for name in model.state_dict()} == names


@pytest.mark.parametrize(("cls", "constants"), CONSTANTS.items())
def test_weights_start_xavier_uniform(
    fresh: Callable[..., Any], cls: type[Any], constants: dict[str, float]
) -> None:
    constant_endings = set()
    for name, parameter in fresh(cls).named_parameters():
        ending = next((ending for ending in constants if name.endswith(ending)), None)
        if ending is None:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.9 * bound < parameter.abs().max() <= bound, name
        else:
            constant_endings.add(ending)
            assert (parameter == constants[ending]).all(), name
    assert constant_endings == set(constants)
