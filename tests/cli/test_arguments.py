from __future__ import annotations

import pytest

from recbole_hellm.cli.arguments import TEXT, YAML, ValueReader, split_arguments
from recbole_hellm.cli.main import parse_options
from recbole_hellm.errors import ConfigError


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


@pytest.mark.parametrize("command", ["run", "prepare", "encode", "images", "import", "tune"])
@pytest.mark.parametrize("name", ["2024_01", "1e3", "on", "null", "~", "2024-01-01", "a: b", "0x1"])
def test_names_are_texts(command: str, name: str) -> None:
    assert parse_options([f"--dataset={name}", "--seed=1_0"], command) == {
        "dataset": name,
        "seed": 10,
    }


def test_paths_and_columns_are_texts() -> None:
    for command, keys in (
        ("run", ("config", "data_path", "raw_dir", "mirrors", "HeLLM.runs_dir", "backbone")),
        ("prepare", ("data_path", "interactions", "user_column", "raw_dir", "mirrors")),
        ("compare", ("output", "records", "reference", "models")),
    ):
        words = [f"--{key}=12" for key in keys]
        assert parse_options(words, command) == dict.fromkeys(keys, "12")
    assert parse_options(["--k_core=5"], "prepare") == {"k_core": 5}
    with pytest.raises(ConfigError, match="Option --runs_dir needs a value"):
        parse_options(["--runs_dir", "--resume"])


def test_lists_of_names_are_lists_of_texts() -> None:
    given = ["--datasets=[2024_01, B]", "--mirrors=['a', 1]", "--models='1'"]
    expected = {"datasets": ["2024_01", "B"], "mirrors": ["a", "1"], "models": "1"}
    assert parse_options(given, "compare") == expected
    assert parse_options(["--dataset='1'"], "compare") == {"datasets": "1"}
    assert parse_options(["--features=[text-1, 2]"]) == {"features": ["text-1", "2"]}
    assert parse_options(["--datasets=A,2"], "compare") == {"datasets": "A,2"}
    with pytest.raises(ConfigError, match="is not a YAML value"):
        parse_options(["--datasets=[A"], "compare")


def test_words_become_keys_and_texts() -> None:
    words = ["--a=1=2", "-b", "x", "--c", "--d", "-1", "plain", "--", "-", "-h"]
    assert [*split_arguments(words)] == [
        ("a", "1=2"),
        ("b", "x"),
        ("c", None),
        ("d", "-1"),
        (None, "plain"),
        (None, "--"),
        (None, "-"),
        ("h", None),
    ]


@pytest.mark.parametrize(
    ("reader", "text", "value"),
    [
        (YAML, "1e-3", 1e-3),
        (YAML, "[a, 1]", ["a", 1]),
        (YAML, "", None),
        (YAML, None, True),
        (TEXT, "[a, 1]", ["a", "1"]),
        (TEXT, "'012'", "012"),
        (TEXT, "null", "null"),
        (TEXT, "", ""),
        (ValueReader(is_text=True, nullable=True), "null", None),
        (ValueReader(is_text=True, nullable=True), "", None),
        (ValueReader(is_text=True, nullable=True), "'null'", "null"),
        (ValueReader(is_text=True, raw=True, nullable=True), "null", "null"),
        (ValueReader(is_text=True, raw=True), "'[a", "'[a"),
    ],
)
def test_values(reader: ValueReader, text: str | None, value: object) -> None:
    assert reader.read("key", text) == value


def test_null_takes_back_what_a_settings_file_says() -> None:
    words = ["--raw_dir=null", "--mirrors=", "--HeLLM.graph_model=~", "--features=null"]
    assert parse_options(words) == dict.fromkeys(
        ["raw_dir", "mirrors", "HeLLM.graph_model", "features"]
    )
    assert parse_options(["--user=null", "--history="], "recommend") == {
        "user": "null",
        "history": "",
    }
