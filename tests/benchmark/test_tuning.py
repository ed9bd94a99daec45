from __future__ import annotations

import importlib.resources
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml

from recbole_hellm.benchmark import tuning
from recbole_hellm.benchmark.plans.tables import GENERAL
from recbole_hellm.benchmark.studies import Journal
from recbole_hellm.benchmark.tuning import TuningSettings, search_space, tune
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.config.yaml_files import PROPERTIES, read_yaml
from recbole_hellm.errors import BusyError, ConfigError, RunError, StorageError
from recbole_hellm.evaluation.evaluator import Evaluator
from recbole_hellm.runs.running import Validation, execute
from recbole_hellm.storage.checksums import content_hash
from recbole_hellm.training.trainer import HellmTrainer

SPACE = {"learning_rate": [0.01, 0.05], "embedding_size": [4, 8]}


@pytest.fixture
def space(tmp_path: Path) -> str:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    return str(path)


@pytest.fixture
def settings(tmp_path: Path, space: str) -> TuningSettings:
    return TuningSettings(
        trials=9, space=space, studies_dir=str(tmp_path / "studies"), startup=2, warmup=9
    )


def test_every_value_is_tried_once_and_the_test_split_never_scored(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = []
    original = Evaluator.evaluate

    def spy(self: Any, model: Any, phase: str, *args: Any, **kwargs: Any) -> Any:
        phases.append(phase)
        return original(self, model, phase, *args, **kwargs)

    monkeypatch.setattr(Evaluator, "evaluate", spy)
    study = tune("BPR", "tiny", settings, quick)
    assert set(phases) == {"valid"}
    tried = sorted(zip(study.trials["learning_rate"], study.trials["embedding_size"], strict=True))
    assert tried == [(0.01, 4), (0.01, 8), (0.05, 4), (0.05, 8)]
    assert list(study.trials["score"]) == sorted(study.trials["score"], reverse=True)
    best = study.trials.iloc[0]
    assert study.best == {key: best[key] for key in SPACE}
    assert yaml.safe_load(study.path.read_text(encoding="utf-8")) == study.best
    written = pd.read_csv(study.path.with_suffix(".csv"))
    assert list(written["trial"]) == list(study.trials["trial"])
    # Nothing is left to do the second time.
    phases.clear()
    again = tune("BPR", "tiny", settings, quick)
    assert not phases
    pd.testing.assert_frame_equal(again.trials, study.trials)


def test_the_winner_is_scored_without_training_again(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tune("BPR", "tiny", settings, quick)
    steps = []
    monkeypatch.setattr(HellmTrainer, "_train_epoch", lambda *_, **__: steps.append(1))
    config = HellmConfig("BPR", "tiny", quick | study.best | {"resume": True})
    result = execute(config)
    assert not steps
    assert result.metrics("valid")["ndcg@10"] == pytest.approx(study.trials["score"][0])


def test_poor_trials_are_pruned(quick: dict[str, Any], tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: [0.05, 1.0e-9, 2.0e-9, 3.0e-9]\n", encoding="utf-8")
    settings = TuningSettings(
        trials=4, space=str(space), studies_dir=str(tmp_path / "s"), startup=0, warmup=1
    )
    # The default is tried first, and the others do not learn.
    config = tmp_path / "default.yaml"
    config.write_text("learning_rate: 0.05\n", encoding="utf-8")
    study = tune("BPR", "tiny", settings, quick | {"epochs": 8}, [config])
    assert "pruned" in set(study.trials["state"])
    pruned = study.trials[study.trials["state"] == "pruned"]
    assert (pruned["epochs"] < 8).all()
    assert study.best == {"learning_rate": 0.05}


def test_a_pruned_trial_is_known_by_its_best_score(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def falling(config: Any, report: Any, searched: Any) -> Any:
        rate = config["learning_rate"]
        scores = [0.5, 0.6, 0.7] if rate == 0.01 else [0.3, 0.1, 0.0]
        for epoch, score in enumerate(scores):
            report(epoch, score)
        return Validation(tmp, max(scores), {}, 3, 3, 1.0)

    tmp = Path("nowhere")
    monkeypatch.setattr(tuning, "validate", falling)
    chosen = settings.replace(warmup=1, startup=0)
    trials = tune("BPR", "tiny", chosen, quick).trials
    pruned = trials[trials["state"] == "pruned"]
    assert set(pruned["score"]) <= {0.3}
    assert set(trials[trials["state"] == "complete"]["score"]) <= {0.3, 0.7}


def test_mistakes_are_told_before_training(
    settings: TuningSettings, quick: dict[str, Any], tmp_path: Path
) -> None:
    def with_space(text: str) -> TuningSettings:
        path = tmp_path / "bad.yaml"
        path.write_text(text, encoding="utf-8")
        return TuningSettings(space=str(path), studies_dir=str(tmp_path / "none"))

    for text, sentence in [
        ("learning_rate: 0.1", "learning_rate must be a list of values to try, not 0.1"),
        ("learning_rate: []", "learning_rate must be a list"),
        ("learning_rat: [0.1]", "Unknown option 'learning_rat'.*learning_rate"),
        ("learning_rate: [0.1, -1]", "learning_rate=-1 must be positive"),
        ("", "no packaged search space for 'BPR'"),
        ("learning_rate: [0.1, 0.2, 0.1]", r"bad.yaml\): learning_rate repeats 0.1; name each"),
        ("learning_rate: [1, 1.0]", "learning_rate repeats 1.0"),
        ("{a: [1], BPR.a: [2]}", r"bad.yaml\): BPR.a and a are the same"),
        ("VBPR.learning_rate: [0.1]", "'VBPR.learning_rate' is for a model that is not run here"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            tune("BPR", "tiny", with_space(text), quick)
    with pytest.raises(ConfigError, match="learning_rate is both searched and set"):
        tune("BPR", "tiny", settings, quick | {"learning_rate": 0.1})
    with pytest.raises(ConfigError, match="trials=0 must be at least 1"):
        TuningSettings(trials=0)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("BPR.embedding_size", "^embedding_size is both searched and set"),
        ("VBPR.embedding_size", "'VBPR.embedding_size' is for a model that is not run here"),
        ("VBRP.embedding_size", "Unknown model 'VBRP'"),
        ("BPR.embeding_size", "Unknown option 'embeding_size' for model BPR"),
    ],
)
def test_keys_for_one_model_are_checked_too(
    key: str, sentence: str, settings: TuningSettings, quick: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "given.yaml"
    file.write_text(f"{key}: 4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=sentence) as option:
        tune("BPR", "tiny", settings, quick | {key: 4})
    with pytest.raises(ConfigError, match=sentence) as in_file:
        tune("BPR", "tiny", settings, quick, [file])
    if "searched" in sentence:
        assert f"(--{key})" in str(option.value)
        assert f"({key} in {file})" in str(in_file.value)
    assert not Path(settings.studies_dir).exists()


def test_a_key_searched_for_one_model_is_given_under_its_plain_name(
    quick: dict[str, Any], tmp_path: Path
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("BPR.learning_rate: [0.01, 0.05]\n", encoding="utf-8")
    chosen = TuningSettings(space=str(space), studies_dir=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"searched and set \(--learning_rate"):
        tune("BPR", "tiny", chosen, quick | {"learning_rate": 0.1})


def test_without_optuna_the_way_out_is_named(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'recbole-hellm\[tune\]'"):
        tune("BPR", "tiny", settings, quick)


def test_a_training_that_diverges_is_a_pruned_trial(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tuning.validate

    def fail(config: Any, report: Any, searched: Any) -> Any:
        if config["learning_rate"] == 0.05:
            raise RunError("the loss is not finite.")
        return original(config, report)

    monkeypatch.setattr(tuning, "validate", fail)
    study = tune("BPR", "tiny", settings, quick)
    states = dict(zip(study.trials["learning_rate"], study.trials["state"], strict=True))
    assert states == {0.01: "complete", 0.05: "pruned"}


def test_a_search_whose_first_training_diverges_late_goes_on(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def diverging(config: Any, report: Any, searched: Any) -> Any:
        tried.append(config["learning_rate"])
        report(0, 0.2)
        if len(tried) == 1:
            raise RunError("the loss is not finite.")
        return Validation(Path("nowhere"), 0.2, {}, 1, 1, 1.0)

    monkeypatch.setattr(tuning, "validate", diverging)
    study = tune("BPR", "tiny", settings, quick)
    assert sorted(study.trials["state"]) == ["complete"] * 3 + ["pruned"]


def test_every_packaged_space_fits_its_model_and_holds_its_defaults() -> None:
    folder = Path(__file__).resolve().parents[2] / "properties/search"
    files = sorted(folder.glob("*.yaml"))
    assert files
    for file in files:
        space = search_space(file.stem)
        base = HellmConfig(file.stem, "Beauty")
        for key, values in space.items():
            for value in values:
                HellmConfig(file.stem, "Beauty", {key: value})
            assert base[key] in values, (file.stem, key)


PAPER_GRIDS = sorted(Path(str(importlib.resources.files(PROPERTIES) / "search/paper")).glob("*"))


def test_every_method_of_table_1_with_a_known_grid_has_one() -> None:
    names = {file.stem for file in PAPER_GRIDS}
    assert names == {*GENERAL, "BSARec", "WEARec"}
    for file in PAPER_GRIDS:
        for key, values in search_space(file.stem, "paper").items():
            for value in values:
                assert HellmConfig(file.stem, "Beauty", {key: value})[key] == value
    assert search_space("HeLLMPre-wo-CL", "paper") == search_space("HeLLMPre", "paper")
    with pytest.raises(ConfigError, match="no packaged grid of the paper for 'SASRec'"):
        search_space("SASRec", "paper")


SEQUENTIAL = ("SASRec", "BSARec", "WEARec")


def test_sequential_models_are_searched_over_the_same_space() -> None:
    common = search_space("SASRec")
    assert common["first_item_target"] == [False, True]
    assert common["weight_averaging"] == ["none", "ema", "last"]
    own = {"BSARec": {"alpha", "cutoff"}, "WEARec": {"alpha", "n_heads"}}
    for model, keys in own.items():
        space = search_space(model)
        assert {key: space[key] for key in common} == common
        assert space.keys() - common.keys() == keys
        grid = search_space(model, "paper")
        assert {key: space[key] for key in keys} == {key: grid[key] for key in keys}
    assert math.prod(map(len, search_space("WEARec", "paper").values())) == 72


@pytest.mark.parametrize("model", SEQUENTIAL)
def test_the_authors_recipe_is_one_file(model: str) -> None:
    file = Path(str(importlib.resources.files(PROPERTIES) / "recipes/sequential.yaml"))
    recipe = read_yaml(file)
    config = HellmConfig(model, "Beauty", {}, [file])
    assert {key: config[key] for key in recipe} == recipe
    searched = {key: config[key] for key in search_space(model)}  # the first trial
    assert all(value in search_space(model)[key] for key, value in searched.items())


def test_a_database_holds_the_studies_of_several_models(
    settings: TuningSettings, quick: dict[str, Any], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    shared = settings.replace(storage=url, trials=2)
    first = tune("BPR", "tiny", shared, quick)
    second = tune("LightGCN", "tiny", shared.replace(space=None), quick)
    assert len(first.trials) == len(second.trials) == 2
    assert not list((tmp_path / "studies/tiny").glob("*.journal"))
    written = pd.read_csv(first.path.with_suffix(".csv"))
    assert list(written["score"]) == pytest.approx(list(first.trials["score"]), rel=1e-4)
    names = set(optuna.study.get_all_study_names(url))
    assert {name.rpartition("/")[0] for name in names} == {"tiny/BPR", "tiny/LightGCN"}
    # Another process goes on with the same study.
    more = tune("BPR", "tiny", shared.replace(trials=3), quick)
    assert len(more.trials) == 3
    assert set(first.trials["trial"]) < set(more.trials["trial"])


def test_other_protocols_seeds_and_stages_are_other_studies(quick: dict[str, Any]) -> None:
    def name(**overrides: Any) -> str:
        config = HellmConfig("HeLLM", "sample", overrides)
        return content_hash(tuning._shared(config, {"learning_rate": [0.1]}))

    expected = name()
    assert name(learning_rate=0.1) == expected == name(threads=1, runs_dir="elsewhere")
    others = [
        {"mask_history": "none"},
        {"seed": 7},
        {"valid_metric": "Recall@20"},
        {"HeLLMPre.alpha_u2u": 0.5},
        {"MAX_ITEM_LIST_LENGTH": 10},
        {"train_batch_size": 64},
    ]
    assert len({expected, *(name(**other) for other in others)}) == 1 + len(others)


def test_other_data_of_the_same_name_are_another_study(
    settings: TuningSettings,
    quick: dict[str, Any],
    interactions: pd.DataFrame,
    make_dataset: Callable[[Path, pd.DataFrame], None],
    tmp_path: Path,
) -> None:
    one = settings.replace(trials=1)
    first = tune("BPR", "tiny", one, quick)
    make_dataset(tmp_path / "data/tiny", interactions[interactions["user_id"] != "u39"])
    second = tune("BPR", "tiny", one, quick | {"data_path": str(tmp_path / "data")})
    written = pd.read_csv(second.path.with_suffix(".csv"))
    assert sorted(written["score"]) == pytest.approx(
        sorted([first.trials["score"][0], second.trials["score"][0]]), rel=1e-4
    )
    assert written["study"].nunique() == 2


def test_a_journal_can_lie_anywhere(
    settings: TuningSettings, quick: dict[str, Any], tmp_path: Path
) -> None:
    place = tmp_path / "shared/all.journal"
    tune("BPR", "tiny", settings.replace(storage=str(place), trials=1), quick)
    assert place.is_file()


@pytest.mark.parametrize(
    "url", ["nosuch://user:secret@host/db", "sqlite:////nowhere/at/all/studies.db"]
)
def test_a_storage_that_cannot_be_opened_is_told_without_its_password(
    url: str, settings: TuningSettings, quick: dict[str, Any]
) -> None:
    with pytest.raises(
        ConfigError, match=r"storage=.* cannot be opened|needs the package"
    ) as found:
        tune("BPR", "tiny", settings.replace(storage=url), quick)
    assert "secret" not in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("studies_dir", "file"),
        ("studies_dir", "/proc/none"),
        ("storage", "file/all.journal"),
        ("storage", "/proc/none/all.journal"),
        ("storage", "."),
        ("storage", "file"),
    ],
)
def test_places_that_cannot_be_written_are_told_before_training(
    key: str,
    place: str,
    settings: TuningSettings,
    quick: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(tuning, "validate", never)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no\njournal\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^{key}={place} cannot be \w+ \(.*\); name a.*\.$"):
        tune("BPR", "tiny", settings.replace(**{key: place}), quick)
    assert Path("file").read_text(encoding="utf-8") == "no\njournal\n"


def test_keys_of_an_outside_model_are_checked_too(
    quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"tuned_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from recbole.model.general_recommender import BPR\nclass Tiny(BPR):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    space = tmp_path / "space.yaml"
    space.write_text("embedding_size: [4, 6]\n")
    settings = TuningSettings(space=str(space), studies_dir=str(tmp_path / "studies"), trials=1)
    with pytest.raises(ConfigError, match=r"^embedding_size is both searched"):
        tune(f"{name}:Tiny", "tiny", settings, quick | {"Tiny.embedding_size": 5})
    assert tune(f"{name}:Tiny", "tiny", settings, quick | {"epochs": 1}).path.name == "Tiny.yaml"


def test_an_interrupted_trial_is_no_result_and_is_gone_on_with(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tuning.validate
    begun: list[dict[str, Any]] = []

    def interrupt(config: Any, report: Any, searched: Any) -> Any:
        begun.append({key: config[key] for key in SPACE})
        if len(begun) == 2:
            report(0, 0.1)
            raise KeyboardInterrupt
        return original(config, report)

    monkeypatch.setattr(tuning, "validate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune("BPR", "tiny", settings, quick)
    study = tune("BPR", "tiny", settings, quick)
    assert begun[2] == begun[1]
    assert len(begun) == 5
    assert list(study.trials["state"]) == ["complete"] * 4


def test_what_a_killed_process_was_training_is_tried_again(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    original = tuning.validate

    def kill(*_: Any) -> Any:
        raise Killed

    for _ in range(2):
        monkeypatch.setattr(tuning, "validate", kill)
        with pytest.raises(Killed):
            tune("BPR", "tiny", settings, quick)
    monkeypatch.setattr(tuning, "validate", original)
    study = tune("BPR", "tiny", settings, quick)
    assert (study.trials["state"] == "complete").sum() == 4


def test_what_another_process_trains_is_left_to_it(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tuning.validate

    def busy(config: Any, report: Any, searched: Any) -> Any:
        if config["learning_rate"] == 0.05:
            raise BusyError("the run is being trained by another process.")
        return original(config, report)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "validate", busy)
        study = tune("BPR", "tiny", settings, quick)
    assert list(study.trials["state"]) == ["complete"] * 2
    assert set(study.trials["learning_rate"]) == {0.01}
    again = tune("BPR", "tiny", settings, quick)
    assert (again.trials["state"] == "complete").sum() == 4


def test_the_reason_is_told_where_every_training_fails(
    settings: TuningSettings, quick: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    diverging = quick | {"learner": "sgd", "epochs": 9, "reg_weight": 0}
    space = Path(str(settings.space))
    space.write_text("learning_rate: [1.0e30, 1.0e31]\n", encoding="utf-8")
    del diverging["reg_weight"]
    with pytest.raises(RunError, match=r"^No trial of BPR was completed \(the last one: .*\); "):
        tune("BPR", "tiny", settings, diverging)
    assert caplog.text.count("failed: ") == 2
    space.write_text("learning_rate: [0.01, 1.0e30]\n", encoding="utf-8")
    study = tune("BPR", "tiny", settings, diverging)
    assert study.best == {"learning_rate": 0.01}


def test_a_point_that_two_processes_finish_at_once_counts_once(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, folder = tuning.validate, Path(settings.studies_dir) / "tiny"

    def twice(config: HellmConfig, *args: Any) -> Validation:
        validation = original(config, *args)
        storage = tuning.open_storage(str(folder / "BPR.journal"))
        names = optuna.study.get_all_study_names(storage)
        other = optuna.load_study(study_name=names[0], storage=storage)
        values = {key: config[key] for key in SPACE}
        distributions = {
            key: optuna.distributions.CategoricalDistribution(SPACE[key]) for key in SPACE
        }
        for state in (optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.COMPLETE):
            other.add_trial(
                optuna.create_trial(
                    params=values, distributions=distributions, value=validation.score, state=state
                )
            )
        return validation

    monkeypatch.setattr(tuning, "validate", twice)
    study = tune("BPR", "tiny", settings.replace(trials=3), quick)
    assert list(study.trials["state"]) == ["complete"] * 3
    assert not study.trials.duplicated([*SPACE]).any()


def test_a_full_disk_while_a_result_is_stored_is_told(
    settings: TuningSettings, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Journal.append_logs

    def full(self: Journal, logs: list[dict[str, Any]]) -> None:
        if any(log.get("state") is not None for log in logs):
            raise StorageError("BPR.journal cannot be written (the disk is full).")
        original(self, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append_logs", full)
        with pytest.raises(StorageError, match="the disk is full"):
            tune("BPR", "tiny", settings, quick)
    assert (tune("BPR", "tiny", settings, quick).trials["state"] == "complete").sum() == 4


SCRIPT = """
import json, sys
from recbole_hellm.benchmark.tuning import TuningSettings, tune
settings, options = json.loads(sys.argv[1])
study = tune("BPR", "tiny", TuningSettings(**settings), options)
print(json.dumps(sorted(study.trials["state"])))
"""


def test_two_processes_share_a_study(
    settings: TuningSettings, quick: dict[str, Any], tmp_path: Path
) -> None:
    given = json.dumps([settings.to_dict(), quick])
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", SCRIPT, given], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300) for process in processes]
    for (_, errors), process in zip(told, processes, strict=True):
        assert b"Traceback" not in errors or process.returncode == 0, errors.decode()
    study = tune("BPR", "tiny", settings, quick)
    assert sorted(study.trials["state"]) == ["complete"] * 4
    folder = tmp_path / "studies/tiny"
    names = {"BPR.csv", "BPR.journal", "BPR.yaml"}
    assert {path.name for path in folder.iterdir()} == names
