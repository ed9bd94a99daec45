from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.cli import main as cli
from recbole_hellm.cli.main import main, parse_options
from recbole_hellm.errors import ConfigError
from recbole_hellm.runs import running

Tell = Callable[..., str]
HEADER = "user_id:token\titem_id:token\ttimestamp:float"


@pytest.fixture
def options(quick: dict[str, Any]) -> list[str]:
    return ["--dataset=tiny", *(f"--{key}={value}" for key, value in quick.items())]


@pytest.fixture
def tell(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Tell:
    """Run a command line that must fail before anything is trained; gives its sentence."""

    def never(*_: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(running, "train", never)

    def run(*arguments: str, keep: bool = True) -> str:
        given = {argument.partition("=")[0] for argument in arguments}
        rest = [option for option in options if option.partition("=")[0] not in given]
        capsys.readouterr()
        assert main([*arguments, *(rest if keep else [])]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        last = captured.err.strip().splitlines()[-1]
        assert last.startswith("recbole-hellm: ")
        assert last.endswith((".", "'"))
        return last.removeprefix("recbole-hellm: ")

    return run


# Arguments ---------------------------------------------------------------------------------------


def test_options_in_every_form() -> None:
    given = ["--model=SASRec,Pop", "--tau", "0.5", "--resume", "--seed=3", "--x", "-1"]
    given += ["--HeLLMPre.tau=1e-1", "--flag"]
    assert parse_options(given) == {
        "model": "SASRec,Pop",
        "tau": 0.5,
        "resume": True,
        "seed": 3,
        "x": -1,
        "HeLLMPre.tau": 0.1,
        "flag": True,
    }
    assert parse_options(["--resume", "--force"]) == {"resume": True, "force": True}
    assert parse_options(["--topk=[5, 10]", "--a", "~"]) == {"topk": [5, 10], "a": None}
    assert parse_options(["--equation=a=b"]) == {"equation": "a=b"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["oops"], "Unexpected argument 'oops'"),
        (["--", "x"], "Unexpected argument '--'"),
        (["--seed=1", "--seed", "2"], "Option --seed is given twice"),
        (["--topk=[1"], r"--topk='\[1' is not a YAML value"),
        (["--interval=[5,inf)"], "put quotes inside to make it a text"),
        (["--x=!!python/name:os.getcwd"], "is not a YAML value"),
    ],
)
def test_arguments_that_cannot_be_read_are_told(given: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_options(given)


def test_the_way_out_of_bad_yaml_works() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(["--interval=[5,inf)"])
    shown = str(caught.value).split("for example ")[1].rstrip(".")
    key, _, quoted = shown.partition("=")
    assert parse_options([f"{key}={quoted.strip(chr(39))}"]) == {"interval": "[5,inf)"}


# Runs --------------------------------------------------------------------------------------------


def test_several_models_make_one_table(
    options: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("embedding_size: 4\nseed: 5\n")
    (tmp_path / "b.yaml").write_text("seed: 6\n")
    files = f"--config={tmp_path / 'a.yaml'},{tmp_path / 'b.yaml'}"
    assert main(["run", "--model=Pop, BPR", "--BPR.epochs=1", *options, files]) == 2
    assert "Unknown option 'embedding_size' for model Pop" in capsys.readouterr().err
    (tmp_path / "a.yaml").write_text("BPR.embedding_size: 4\nseed: 5\n")
    assert main(["run", "--model", "Pop, BPR", "--BPR.epochs=1", *options, files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Dataset tiny: 36 test users, 30 candidate items")
    assert [line.split()[0] for line in lines[5:7]] == ["Pop", "BPR"]
    runs = [line.split(": ")[1] for line in lines[-2:]]
    records = [running.load_run(path).record for path in runs]
    assert [record["seed"] for record in records] == [6, 6]
    assert records[1]["cost"]["parameters"] == (41 + 31) * 4
    assert records[1]["epochs"] == 1


def test_pop_and_hellm_on_the_sample_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_hellm.reporting import tables

    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(running, "execute", lambda c: asked.append((c.model, c.dataset)))
    monkeypatch.setattr(tables, "comparison", lambda results: f"{len(results)} results")
    assert main([]) == 0
    assert asked == [("Pop", "sample"), ("HeLLM", "sample")]


def test_help_and_models(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["help"], ["run", "-h"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out == cli.USAGE
    assert main(["models"]) == 0
    assert "HeLLMPre" in capsys.readouterr().out
    assert main(["models", "--model=HeLLM"]) == 0
    shown = capsys.readouterr().out
    assert "\nbackbone_hidden_size: 128\n" in shown
    assert "\nbilinear_size: 32\n" in shown  # a default that no file repeats
    assert main(["models", "--model=HeLLMPre-wo-CL", "--dataset=Toys"]) == 0
    shown = capsys.readouterr().out
    assert "\nuse_contrast: False\n" in shown
    assert "\nalpha_u2u: 0.03\n" in shown


def test_a_kill_ends_in_a_hint(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(config: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "execute", interrupt)
    assert main(["--model=BPR", *options]) == 130
    assert "--resume goes on from here" in capsys.readouterr().err


def test_defects_keep_their_traceback(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(running, "execute", fail)
    with pytest.raises(ZeroDivisionError):
        main(["--model=BPR", *options])


def test_the_module_is_a_program() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "recbole_hellm", "runn"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("recbole-hellm: Unknown command 'runn' (did you mean run?);")
    script = Path(__file__).parents[2] / "run_hellm.py"
    command = [sys.executable, str(script), "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert (found.returncode, found.stdout) == (0, cli.USAGE)


# Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model=SASRek"], "Unknown model 'SASRek' (did you mean SASRec or"),
        (["--model=Pop,SASRek"], "Unknown model 'SASRek'"),
        (["--model=[]"], "--model names no model"),
        (["--model=HeLLM", "--dataset=Beuty"], "Unknown dataset 'Beuty' (did you mean Beauty?)"),
        (["--model=BPR", "--embeding_size=4"], "Unknown option 'embeding_size' for model BPR (did"),
        (["--model=HeLLM", "--seed=1", "--seed=2"], "Option --seed is given twice"),
        (["--model=HeLLM", "--topk=[1"], "--topk='[1' is not a YAML value"),
        (["--model=HeLLMPre", "--tau=abc"], "tau='abc' must be a number"),
        (["--model=HeLLM", "--HeLLMPre.tau=abc"], "tau='abc' must be a number"),
        (["--model=Pop,HeLLM", "--HeLLM.variant=foo"], "variant='foo' is not allowed; use one of"),
        (["--model=Pop,HeLLM", "--SASRec.n_heads=x"], "n_heads='x' must be a number"),
        (["--model=Pop", "--BPR.epochs=1"], "Option 'BPR.epochs' is for a model that is not run"),
        (["--model=BPR", "--mask_history=foo"], "mask_history='foo' is not allowed"),
        (["--model=BPR", "--eval_args={order: RO}"], "eval_args.order='RO' leaves this package's"),
        (["--model=BPR", "--epochs=0"], "epochs=0 must be at least 1"),
        (["--model=BPR", "--learner=adamm"], "learner='adamm' is not known"),
        (["--model=Pop,NCL"], "Model 'NCL' is trained by RecBole's NCLTrainer"),
        (["--model=BPR", "--config=nowhere.yaml"], "Settings file nowhere.yaml cannot be read"),
        (["--model=HeLLMPre", "--features=[text-x]"], "text-x.npy does not exist"),
        (["--model=BPR", "--TIME_FIELD=when"], "Dataset 'tiny' has neither the time field 'when'"),
        (["runn"], "Unknown command 'runn' (did you mean run?)"),
        (["models", "--modle=HeLLM"], "Unknown option '--modle' (did you mean model?)"),
        (["models", "--dataset=Toys"], "models --dataset needs --model"),
        (["--model=CoLLM", "--prefix=graph"], "prefix='graph' is not CoLLM, which is HeLLM with"),
        (["--model=CoLLM", "--HeLLM.epochs=1"], "is not run here; CoLLM, LightGCN are."),
        (["--model=BPR", "--dry_rn"], "(did you mean dry_run?)"),
        (
            ["compare", "--models=LightGCN", "--kept_onyl"],
            "'kept_onyl' for model LightGCN (did you mean kept_only?)",
        ),
        (["compare", "--models=Pop", "--datasets=Toys"], "--dataset and --datasets are the same"),
        (["compare", "--models=Pop", "--model=Pop"], "--model and --models are the same"),
        (["tune", "--model=VBPR", "--trails=4"], "(did you mean trials"),
    ],
)
def test_mistakes_are_told_in_one_sentence(tell: Tell, arguments: list[str], sentence: str) -> None:
    told = tell(*arguments, keep=arguments[0] not in ("runn", "models"))
    assert sentence in told


def test_a_commands_own_keys_are_meant_only_where_they_can_be_given(
    tell: Tell, tmp_path: Path
) -> None:
    for told in (
        tell("tune", "--model=VBPR", "--VBPR.trails=4"),
        tell("run", "--model=VBPR", "--trails=4"),
    ):
        assert "Unknown option 'trails' for model VBPR" in told
        assert "trials" not in told
    (tmp_path / "a.yaml").write_text("trials: 4\n", encoding="utf-8")
    told = tell("tune", "--model=VBPR", f"--config={tmp_path}/a.yaml")
    assert "did you mean trials" not in told


def test_missing_raw_files_are_told(tell: Tell, tmp_path: Path) -> None:
    where = [f"--data_path={tmp_path}", f"--raw_dir={tmp_path}"]
    assert "Dataset 'Beauty' needs" in tell("--model=HeLLM", "--dataset=Beauty", *where)
    assert "Dataset 'Toys' needs" in tell("prepare", "--dataset=Toys", *where, keep=False)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("user_id\titem_id:token\ttimestamp:float\n", "line 1: column 'user_id' must be"),
        ("user_id:token\ttimestamp:float\nu\t1\n", "has no column 'item_id:token'"),
        (f"{HEADER}\nu\ti\tnan\n", "line 2: timestamp='nan' is no finite number"),
        (f"{HEADER}\nu\ti\t\n", "line 2: the timestamp is missing"),
    ],
)
def test_malformed_data_is_told(tell: Tell, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/bad.inter").write_text(text)
    assert sentence in tell("--model=BPR", "--dataset=bad", f"--data_path={tmp_path}")


def test_unusable_features_are_told(
    tell: Tell, tmp_path: Path, interactions: Any, make_dataset: Any
) -> None:
    folder = tmp_path / "tiny"
    make_dataset(folder, interactions[interactions["item_id"] != "i07"])
    (folder / "tiny.inter").unlink()
    for name in (".npy", ".json", ".tokens.json"):
        (folder / f"features/text-toy{name}").rename(tmp_path / f"kept{name}")
    make_dataset(folder, interactions)
    for name in (".npy", ".json", ".tokens.json"):
        (tmp_path / f"kept{name}").replace(folder / f"features/text-toy{name}")
    where = f"--data_path={tmp_path}"
    for model in ("HeLLMPre", "HeLLM"):
        assert "lacks 1 of the 30 items (first: i07)" in tell(f"--model={model}", where)
    make_dataset(folder, interactions)
    path = folder / "features/text-toy.npy"
    np.save(path, np.full((30, 8), np.nan, dtype=np.float32))
    assert "differs from the checksum" in tell("--model=HeLLM", where)
    for file in (folder / "features").iterdir():
        file.unlink()
    assert "has neither item texts (tiny.item) nor features" in tell("--model=HeLLM", where)


def test_encode_needs_texts(tell: Tell, tmp_path: Path) -> None:
    told = tell("encode", "--dataset=tiny", f"--data_path={tmp_path}", keep=False)
    assert "tiny.item is missing, so there is no text to encode" in told


def test_preparing_and_encoding_the_sample(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = ["--dataset=sample", f"--data_path={tmp_path}"]
    assert main(["prepare", *where]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["sample", "1,000", "1,736"]
    assert main(["encode", *where, "--text_encoder=tfidf"]) == 0
    assert capsys.readouterr().out.strip().endswith("text-tfidf.npy")


# Files of one's own -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_from_files_to_a_run(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    interactions: Any,
    quick: dict[str, Any],
    kind: str,
) -> None:
    tokens = sorted(interactions["item_id"].unique())
    items = pd.DataFrame({"item_id": tokens, "title": [f"red {token} hat" for token in tokens]})
    for name, frame in (("log", interactions), ("items", items)):
        path = tmp_path / f"{name}.{kind}"
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_json(path, orient="records", lines=True)
    where = ["--dataset=mine", f"--data_path={tmp_path}"]
    files = [f"--interactions={tmp_path}/log.{kind}", f"--items={tmp_path}/items.{kind}"]
    assert main(["prepare", *where, *files]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["mine", "40", "30"]
    rest = [f"--{key}={value}" for key, value in quick.items() if key != "data_path"]
    rest = [option for option in rest if not option.startswith("--text_encoder")]
    assert main(["run", "--model=VBPR", "--text_encoder=tfidf", *where, *rest]) == 0
    assert "VBPR" in capsys.readouterr().out
    assert (tmp_path / "mine/features/text-tfidf.npy").is_file()
    made = (tmp_path / "mine/mine.inter").read_text().splitlines()[1:]
    wanted = interactions.drop_duplicates().sort_values(["user_id", "timestamp", "item_id"])
    rows = wanted[["user_id", "item_id", "timestamp"]].astype(str).to_numpy().tolist()
    assert [[line.split("\t")[place] for place in (0, 1, 3)] for line in made] == rows


def test_mistakes_in_files_of_ones_own_are_told(tell: Tell, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\nu,i,soon\n")
    where = [f"--data_path={tmp_path}", f"--interactions={tmp_path}/log.csv"]
    for options, sentence in (
        ([], "--interactions needs a name for the dataset: --dataset=NAME"),
        (["--dataset=mine"], f"{tmp_path}/log.csv, line 2: the time is 'soon'"),
        (
            ["--dataset=mine", "--time_column=when"],
            "has no column 'when' (it has user, item, time)",
        ),
        (["--dataset=mine", "--k_core=x"], "k_core='x' must be of type int"),
        (["--dataset=mine", "--layout=csv"], "layout='csv' is not allowed"),
        (["--dataset=Toys"], "'Toys' is a dataset that this package makes"),
        (["--dataset=mine", "--itms=x"], "Unknown option '--itms'"),
    ):
        assert sentence in tell("prepare", *where, *options, keep=False)
    options = ["--dataset=Toys", "--mirrors=none", f"--raw_dir={tmp_path}"]
    assert "switched off (mirrors=none)" in tell("prepare", *options, keep=False)
    assert "'nowhere' must be an http" in tell("prepare", "--mirrors=nowhere", keep=False)


@pytest.mark.parametrize("command", ["run", "prepare", "encode", "images", "import", "tune"])
@pytest.mark.parametrize("name", ["2024_01", "1e3", "on", "null", "~", "2024-01-01", "a: b", "0x1"])
def test_names_are_texts(command: str, name: str) -> None:
    assert parse_options([f"--dataset={name}", "--seed=1_0"], command) == {
        "dataset": name,
        "seed": 10,
    }


def test_paths_and_columns_are_texts() -> None:
    keys = ("data_path", "raw_dir", "interactions", "user_column", "output", "HeLLM.runs_dir")
    assert parse_options([f"--{key}=12" for key in keys]) == dict.fromkeys(keys, "12")
    assert parse_options(["--raw_dir=null", "--mirrors="]) == {"raw_dir": None, "mirrors": None}
    assert parse_options(["--k_core=5", "--config", "7"]) == {"k_core": 5, "config": "7"}
    with pytest.raises(ConfigError, match="Option --runs_dir needs a value"):
        parse_options(["--runs_dir", "--resume"])


def test_lists_of_names_are_lists_of_texts() -> None:
    given = ["--datasets=[2024_01, B]", "--mirrors=['a', 1]", "--dataset='1'"]
    expected = {"datasets": ["2024_01", "B"], "mirrors": ["a", "1"], "dataset": "1"}
    assert parse_options(given, "compare") == expected
    assert parse_options(["--datasets=A,2"], "compare") == {"datasets": "A,2"}
    with pytest.raises(ConfigError, match="is not a YAML value"):
        parse_options(["--datasets=[A"], "compare")
