from __future__ import annotations

from typing import Any

import click
import pytest

from recbole_hellm.cli.arguments import TEXT
from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import SettingOption
from recbole_hellm.config.settings import Settings, setting
from recbole_hellm.errors import ConfigError


class Sample(Settings):
    files: tuple[str, ...] = setting((), "Files.")
    size: int = setting(3, "A size.")


def work(options: dict[str, Any]) -> str:
    """Work.

    \b
      an example
    """
    return f"worked with {options}"


@pytest.fixture
def command() -> SettingsCommand:
    return SettingsCommand(
        work,
        extra=[SettingOption("name", "A name.", "NAME", reader=TEXT)],
        settings=lambda: Sample,
        shared=["runs_dir"],
        aliases={"files": "file"},
        positional="files",
    )


def run(command: SettingsCommand, *words: str) -> None:
    with command.make_context("work", list(words)) as context:
        command.invoke(context)


def test_the_callback_gets_the_options(
    command: SettingsCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    run(command, "a", "--size=4", "--name=007", "--runs_dir=1")
    given = {"size": 4, "name": "007", "runs_dir": "1", "files": ["a"]}
    assert capsys.readouterr().out == f"worked with {given}\n"


def test_the_help_has_all_options(
    command: SettingsCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--help"], ["--size=4", "-h"], ["--help", "--unknown=1"]):
        with pytest.raises(click.exceptions.Exit):
            run(command, *words)
        shown = capsys.readouterr().out.splitlines()
        assert shown[0] == "Usage: work FILES... [--KEY=VALUE ...]"
        assert "    an example" in shown
        start = shown.index("Options:")
        assert shown[start + 1 :] == [
            "  --name=NAME           A name.",
            "  --runs_dir=TEXT       Folder of run directories.  [default: runs]",
            "  --files, --file=LIST  Files.",
            "  --size=NUMBER         A size.  [default: 3]",
        ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--size=1", "--size=2"], "Option --size is given twice; keep one of them."),
        (["--files=[a]", "--file=b"], "--file and --files are the same; keep one of them."),
        (["--name"], "Option --name needs a value; write --name=VALUE."),
        (["--"], "Unexpected argument '--'; options look like --key=value."),
        (
            ["--siz=1"],
            "Unknown option '--siz' (did you mean size?); this command takes --name, --runs_dir, "
            "--files, --size.",
        ),
    ],
)
def test_mistakes(command: SettingsCommand, words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(command, *words)
    assert str(caught.value) == sentence


def test_plain_words_only_where_they_mean_something(command: SettingsCommand) -> None:
    assert command.read(["a", "--file=b,c"]) == {"files": ["a", "b", "c"]}
    command.positional = None
    with pytest.raises(ConfigError, match="Unexpected argument 'a'"):
        command.read(["a"])


def test_completion(command: SettingsCommand) -> None:
    def completed(words: list[str], text: str) -> list[tuple[str, str]]:
        with command.make_context("work", words, resilient_parsing=True) as context:
            return [(item.value, item.type) for item in command.shell_complete(context, text)]

    assert completed([], "--n") == [("--name", "plain")]
    assert completed(["--name=a"], "--n") == []
    assert completed(["--name"], "--s") == [("--size", "plain")]  # not an error yet
    assert completed([], "fol") == [("fol", "dir")]
