"""Models that several processes train together."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_hellm import recbole_models, registry
from recbole_hellm.errors import ConfigError
from recbole_hellm.training.sharing import data_parallel

MODELS = """
from recbole.model.general_recommender import BPR
from recbole_hellm.models.general.hellm_pre import HeLLMPre
from recbole_hellm.models.general.vbpr import VBPR
from recbole_hellm.models.sequential.hellm import HeLLM


class Silent(BPR):
    pass


class SilentVBPR(VBPR):
    pass


class MyHeLLM(HeLLM):
    pass


class Sharing(BPR):
    data_parallel = True


class SharingPre(HeLLMPre):
    data_parallel = True


class OwnLoss(SharingPre):
    data_parallel = True

    def calculate_loss(self, interaction):
        return 0.0


class BothLosses(OwnLoss):
    data_parallel = True

    def portion_loss(self, interaction, portion):
        return 0.0
"""


def shared(name: str) -> bool:
    return data_parallel(registry.describe(name))


def test_models_of_this_package_and_some_of_recboles_are_shared() -> None:
    for name, entry in registry.OWN_MODELS.items():
        assert data_parallel(entry), name
    assert shared("LightGCN")
    assert all(map(shared, recbole_models.DIVISIBLE))
    assert not any(map(shared, ["Pop", "NGCF", "MultiVAE", "BERT4Rec", "DIN", "CKE"]))


def test_other_classes_say_so_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = f"models_of_{tmp_path.name}"
    (tmp_path / f"{outside}.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("Sharing", "SharingPre", "BothLosses", "MyHeLLM"):
        assert shared(f"{outside}:{name}"), name
    for name in ("Silent", "SilentVBPR"):  # derived, so their losses may be other ones
        assert not shared(f"{outside}:{name}"), name
    with pytest.raises(ConfigError, match="OwnLoss has a calculate_loss of its own, but its"):
        shared(f"{outside}:OwnLoss")
