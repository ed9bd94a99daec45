from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.cli.main import COMMANDS, COMPLETION_VARIABLE, load_command, main
from recbole_hellm.runs import running

Tell = Callable[..., str]


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = set()
    for arguments in (["--help"], ["help"], ["-h"]):
        assert main(arguments) == 0
        shown.add(capsys.readouterr().out)
    (text,) = shown
    assert text.startswith("Usage: recbole-hellm [COMMAND] [--KEY=VALUE ...]\n")
    for name in COMMANDS:
        (first,) = re.findall(rf"^  {name} +(\S.*)$", text, flags=re.MULTILINE)
        assert first == load_command(name).get_short_help_str(100)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: recbole-hellm {name} ")
    assert "\n  Examples:\n    recbole-hellm " in text
    assert f"    recbole-hellm {name}" in text
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == text
    assert main([name, "-h"]) == 0
    assert capsys.readouterr().out == text


def test_options_without_a_command_belong_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed=1", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: recbole-hellm run ")


def test_the_help_is_quick() -> None:
    script = """
import sys
from recbole_hellm.cli.main import main
assert main(["--help"]) == 0
slow = {"torch", "recbole", "transformers", "pandas", "pydantic", "scipy", "sklearn"}
sys.exit(", ".join(slow & set(sys.modules)) or 0)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")
    assert "Commands:" in done.stdout


def complete(*words: str) -> list[str]:
    """What bash is offered for the last of words, which it has divided at ``=``."""
    environment = {
        **os.environ,
        COMPLETION_VARIABLE: "bash_complete",
        "COMP_WORDS": " ".join(["recbole-hellm", *words]),
        "COMP_CWORD": str(len(words)),
    }
    command = [sys.executable, "-m", "recbole_hellm"]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.split()


def test_shells_complete_commands_options_and_values() -> None:
    assert complete("re") == ["plain,recommend", "plain,report"]
    assert complete("--mask") == ["plain,--mask_history"]
    assert complete("compare", "--kept") == ["plain,--kept_only"]
    assert complete("run", "--scheduler", "=", "c") == ["plain,cosine"]
    assert complete("run", "--model", "=", "HeLLMPre", "--use_con") == ["plain,--use_contrast"]
    assert complete("help", "com") == ["plain,compare"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell: str, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv(COMPLETION_VARIABLE, f"{shell}_source")
    monkeypatch.setattr(sys, "argv", ["recbole-hellm"])
    assert main() == 0
    assert f"{COMPLETION_VARIABLE}={shell}_complete" in capfd.readouterr().out


def test_mistakes_that_click_finds_are_told_alike(tell: Tell) -> None:
    assert tell("help", "run", "tune", keep=False) == "Got unexpected extra argument (tune)."


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--model=BPR"], "--resume"),
        (["run"], "--resume"),
        (["images", "--dataset=Beauty"], "the same command"),
    ],
)
@pytest.mark.parametrize("place", ["read", "callback"])
def test_a_kill_ends_in_a_hint(
    words: list[str],
    hint: str,
    place: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    command = load_command(words[0] if words[0] in COMMANDS else "run")
    monkeypatch.setattr(command, place, interrupt)
    assert main(words) == 130
    assert capsys.readouterr().err == f"recbole-hellm: interrupted; {hint} goes on from here.\n"


def test_defects_keep_their_traceback(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(running, "execute", fail)
    with pytest.raises(ZeroDivisionError):
        main(["--model=BPR", *options])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_of_a_missing_recbole(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module: None if module == "recbole" else find(module)
    )
    monkeypatch.chdir(tmp_path)
    assert main([name]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    command = r"`pip install (--no-deps )?recbole==\S+`"
    assert re.fullmatch(rf"recbole-hellm: RecBole is not installed.*; run {command}\.\n", told.err)
    assert not list(tmp_path.iterdir())
    assert main([name, "--help"]) == 0


def test_the_module_is_a_program() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "recbole_hellm", "runn"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("recbole-hellm: Unknown command 'runn' (did you mean run?);")
    script = Path(__file__).parents[2] / "run_hellm.py"
    command = [sys.executable, str(script), "run", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert found.returncode == 0
    assert found.stdout.startswith("Usage: recbole-hellm run ")


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
        (["--model=BPR", "--config=nowhere.yaml"], "nowhere.yaml cannot be read (No such file"),
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
