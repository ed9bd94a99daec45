from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_hellm import compat, recbole_models, registry
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.reporting.tables import model_list


def test_the_files_name_the_models_that_recbole_exports() -> None:
    for family in recbole_models.FAMILIES:
        with compat.anomaly_mode_kept():
            package = importlib.import_module(f"recbole.model.{family}")
        exported = {
            name
            for name, value in vars(package).items()
            if inspect.isclass(value)
            and issubclass(value, AbstractRecommender)
            and value.__module__.startswith(package.__name__)
        }
        read = {n for n, m in recbole_models.modules().items() if m.startswith(package.__name__)}
        assert read == exported


def test_names_are_known_without_importing_recbole() -> None:
    script = (
        "import sys\n"
        "from recbole_hellm import registry\n"
        "assert registry.describe('BPR').name == 'BPR'\n"
        "registry.check_known('SASRec')\n"
        "assert not {'torch', 'recbole', 'pandas'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603


@pytest.mark.parametrize("name", recbole_models.REFUSED)
def test_models_that_cannot_run_are_refused_and_not_listed(name: str) -> None:
    for check in (registry.check_known, lambda name: registry.trainer_class(describe(name))):
        with pytest.raises(ConfigError, match=rf"^Model '{name}' .*; choose another model\.$"):
            check(name)
    assert not any(name in names for names in recbole_models.by_family().values())
    words = model_list().replace(",", " ").split()
    assert name not in words
    assert "GRU4Rec" in words


def describe(name: str) -> registry.ModelEntry:
    return registry.ModelEntry(name, recbole_models.modules()[name], "", ())


def test_errors_in_recboles_data_are_one_sentence(make_parts: Any) -> None:
    dataset = make_parts("BPR")[1]
    cannot = r"cannot load dataset 'tiny' .*\(ValueError: .*\); correct"
    with pytest.raises(ConfigError, match=cannot), recbole_models.reading("tiny"):
        dataset.field2feats("absent")
    fails = "code of BPR fails on this dataset"
    with pytest.raises(RunError, match=fails), recbole_models.failing("BPR"):
        dataset.field2feats("absent")
    for guard in (recbole_models.reading("tiny"), recbole_models.failing("BPR")):
        with pytest.raises(ValueError, match="ours"), guard:
            raise ValueError("ours")


def test_errors_in_recboles_models_are_one_sentence_and_others_stay() -> None:
    """DGCF samples as many users as items."""
    from recbole.model.general_recommender.dgcf import sample_cor_samples

    with (
        pytest.raises(RunError, match=r"code of DGCF fails .*\(ValueError: .*\); choose") as caught,
        recbole_models.failing("DGCF"),
    ):
        sample_cor_samples(3, 5, 4)
    assert str(caught.value).count(". ") == 0
    with pytest.raises(ValueError, match="mine"), recbole_models.failing("DGCF"):
        raise ValueError("mine")


def test_errors_of_other_models_keep_their_traceback() -> None:
    """They are built on RecBole's classes, so its files are in their tracebacks, too."""
    from recbole.model.general_recommender.dgcf import sample_cor_samples

    with pytest.raises(ValueError, match="Sample larger"), recbole_models.failing("FREEDOM"):
        sample_cor_samples(3, 5, 4)


def test_lacking_memory_is_no_fault_of_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.model.general_recommender import dgcf

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore of it.")

    monkeypatch.setattr(dgcf.rd, "sample", fail)
    with (
        pytest.raises(RunError, match=r"^DGCF needs more memory .*memory\); choose a smaller"),
        recbole_models.failing("DGCF"),
    ):
        dgcf.sample_cor_samples(3, 5, 4)


@pytest.mark.parametrize(
    ("version", "command"),
    [
        ((3, 10, 13), "pip install recbole==1.2.1"),
        ((3, 11, 7), "pip install recbole==1.2.1"),
        ((3, 12, 1), "pip install --no-deps recbole==1.2.1"),
        ((3, 13, 0), "pip install --no-deps recbole==1.2.1"),
    ],
)
def test_a_missing_recbole_is_told(
    version: tuple[int, int, int], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(recbole_models, "sys", SimpleNamespace(version_info=version))
    with pytest.raises(ConfigError, match=r"^RecBole is not installed.*; run") as caught:
        recbole_models.folder()
    assert str(caught.value).endswith(f"; run `{command}`.")


def test_the_python_interface_tells_of_a_missing_recbole(monkeypatch: pytest.MonkeyPatch) -> None:
    import recbole_hellm

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    for name in ("run", "load_run", "recommend"):
        with pytest.raises(ConfigError, match="RecBole is not installed"):
            getattr(recbole_hellm, name)
