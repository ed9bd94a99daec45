"""The command line: ``run_hellm.py``, ``recbole-hellm`` and ``python -m recbole_hellm``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_hellm.config.logs import configure_logging
from recbole_hellm.config.settings import names
from recbole_hellm.errors import ConfigError, HellmError, RunError, UnknownOptionError, nearest
from recbole_hellm.training.distributed import process_group

USAGE = """\
usage: recbole-hellm [command] [--key=value ...]

commands
  run       train and evaluate models (the default command)
              --model=HeLLM            one name, or several: LightGCN,SASRec,HeLLM
              --dataset=sample         sample, Beauty, Toys, Sports, ... or a folder under data_path
              --config=FILE.yaml       settings from a file; several: a.yaml,b.yaml
              --resume --force         go on after a kill; train again although finished
              --dry_run                tell what the runs will need, and train nothing
              --KEY=VALUE              any setting; --MODEL.KEY=VALUE for one model or stage
  prepare   make a dataset's files:    --dataset=Beauty [--raw_dir=FOLDER] [--k_core=5]
              [--mirrors=FILE.yaml|none]; raw files that are in no folder are downloaded
              --dataset=NAME --interactions=FILE [--items=FILE]: CSV, TSV, Parquet or JSON lines of
              your own [--user_column= --item_column= --time_column= --layout=amazon2023|...];
              without a header or with another separator: --columns='[user, item, rating, time]'
              --separator=:: [--item_columns= --item_separator= --encoding=latin-1]
              --dataset=NAME --family=my_package.my_module:MyFamily: datasets of your own by name
  encode    make item features:        --dataset=Beauty; after a kill the same command goes on
              [--text_encoder=auto|minilm|tfidf|bert|NAME|FOLDER|none] [--text_pooling=cls|mean]
              [--image_encoder=clip|NAME|FOLDER] [--images=FOLDER] [--encode_batch=64] [--force]
  images    fetch items' pictures:     --dataset=Beauty [--workers=8 --retry_missing]
  import    item features of your own: --dataset=Beauty --features=FILE_OR_FOLDER
              [--modality=image --encoder=NAME --tokens=FILE --fill_missing --force]
  tune      search settings on validation: --model=VBPR --dataset=Beauty [--trials=12]
              [--space=FILE.yaml|paper --studies_dir=studies --storage=FILE|URL]; processes and
              machines that share a storage work on one study
  compare   run what a benchmark lacks, keep records, show tables and tests:
              --benchmark=table1|table3|fig3|fig4 or --models=A,B,C [--reference=C]
              --datasets=Beauty,Toys --seeds=3 [--minutes=15]
              [--jobs=1 --records=records --output=FOLDER --kept_only --KEY=VALUE]
  recommend what a finished run's model recommends: --run=RUN --user=TOKEN[,TOKEN] [--topk=10]
              --users=FILE             a user token per line; --all_users for every user
              --history=ITEM1,ITEM2    for a user the model has not seen (sequential, LLM models)
              [--exclude_seen=False --recent=5 --format=table|json|csv|parquet --output=FILE]
  report    one HTML page of finished runs: RUN [RUN ...] [--output=report.html]
              [--users=12 --topk=10 --images=FOLDER]
  models    list the models, or one model's settings: [--model=HeLLM --dataset=Beauty]

`torchrun --nproc_per_node=2 run_hellm.py ...` shares a run among processes (--parallel=ddp|fsdp).
Without a model, `run` trains Pop and HeLLM. Values are YAML; names of datasets, files and columns
are texts. See runs: tensorboard --logdir runs
"""

Command = Callable[[dict[str, Any]], str]

# Arguments that are no options: the key under which a command gets the list of them.
POSITIONAL = {"report": "runs"}
# Options that stay the texts they are: tokens and files may look like numbers.
TEXTS = {
    "encode": ("text_encoder", "text_pooling", "image_encoder", "images"),
    "import": ("features", "modality", "encoder", "tokens"),
    "prepare": ("family", "separator", "item_separator", "encoding"),
    "recommend": ("run", "user", "users", "history", "format", "output", "backbone"),
    "report": ("runs", "output", "images", "backbone"),
}
# Names and paths of every command: a plain value is a text, a list in brackets is one of texts.
NAMES = (
    *("dataset", "datasets", "data_path", "runs_dir", "raw_dir", "records", "output", "config"),
    *("interactions", "items", "user_column", "item_column", "time_column", "mirrors"),
    *("columns", "item_columns"),
    *("space", "studies_dir", "storage", "graph_embeddings", "sequence_embeddings"),
    *("text_encoder", "backbone"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0, or 2 after a user's mistake, which is told in one sentence on standard error.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given.pop(0) if given and not given[0].startswith("-") else "run"
    configure_logging()
    # Tokenizers would otherwise warn about forks that DataLoader workers may make.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        options = parse_options(given, command)
        if command == "help" or "help" in options or "h" in options:
            print(USAGE, end="")
            return 0
        if command not in COMMANDS:
            raise ConfigError(
                f"Unknown command '{command}'{nearest(command, COMMANDS)} "
                f"use one of {', '.join(COMMANDS)}."
            )
        with process_group() as processes:
            if processes.size > 1 and command != "run":
                raise ConfigError(f"{command} works in one process; start it without torchrun.")
            text = COMMANDS[command](options)
            if processes.first:
                print(text)
    except HellmError as error:
        print(f"recbole-hellm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        way = "--resume" if command == "run" else "the same command"
        print(f"recbole-hellm: interrupted; {way} goes on from here.", file=sys.stderr)
        return 130
    return 0


def parse_options(arguments: Sequence[str], command: str = "run") -> dict[str, Any]:
    """Read ``--key=value``, ``--key value`` and ``--flag`` for a command; values are YAML.

    Options in :data:`TEXTS`, and plain values of those in :data:`NAMES`, are texts instead. Where
    :data:`POSITIONAL` names a key for it, arguments that are no options are a list under that key.

    Raises
    ------
    ConfigError
        If an argument is no option, a key is given twice, a text is missing or a value is not YAML.
    """
    from recbole_hellm.config.yaml_files import parse_yaml

    options: dict[str, Any] = {}
    positional: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or argument in ("-", "--"):
            if command in POSITIONAL and not argument.startswith("-"):
                positional.append(argument)
                continue
            raise ConfigError(f"Unexpected argument '{argument}'; options look like --key=value.")
        key, equals, text = argument.lstrip("-").partition("=")
        key = "dry_run" if key == "dry-run" else key
        plain, name = key in TEXTS.get(command, ()), key.rpartition(".")[2] in NAMES
        if not equals:
            found = bool(rest) and not rest[0].startswith("--")
            if (plain or name) and not found:
                raise ConfigError(f"Option --{key} needs a value; write --{key}=VALUE.")
            text = rest.pop(0) if found else "true"
        if key in options:
            raise ConfigError(f"Option --{key} is given twice; keep one of them.")
        if plain:
            options[key] = text
            continue
        try:
            options[key] = _name(key, text) if name else parse_yaml(text)
        except Exception as error:  # PyYAML's errors share no public base with its resolvers'
            raise ConfigError(
                f"--{key}={text!r} is not a YAML value; put quotes inside to make it a text, for "
                f"example --{key}='\"{text}\"'."
            ) from error
    if positional:
        key = POSITIONAL[command]
        options[key] = [*positional, *names(options.get(key, []))]
    return options


def _name(key: str, text: str) -> Any:
    """A name or path, or a list of them; None takes back what a settings file says."""
    from recbole_hellm.config.yaml_files import parse_texts

    if text.startswith(("[", '"', "'")):
        return parse_texts(text)
    return None if text in ("", "null") and not key.startswith("dataset") else text


def _only(options: dict[str, Any], *allowed: str) -> None:
    for key in options:
        if key not in allowed:
            raise ConfigError(
                f"Unknown option '--{key}'{nearest(key, allowed)} "
                f"this command takes {', '.join('--' + name for name in allowed)}."
            )


@contextlib.contextmanager
def _or_one_of(own: Iterable[str], options: dict[str, Any]) -> Iterator[None]:
    """Where one of `options` is unknown to a model, a key of the command's own may be meant."""
    try:
        yield
    except UnknownOptionError as error:
        if error.key not in options:  # in a file, or for one model
            raise
        raise error.beside(own) from error


def _run(options: dict[str, Any]) -> str:
    from recbole_hellm.config.resolution import HellmConfig, check_addressed
    from recbole_hellm.reporting.tables import comparison
    from recbole_hellm.runs.running import execute

    dry = bool(options.pop("dry_run", False))
    models = names(options.pop("model", "Pop,HeLLM"))
    if not models:
        raise ConfigError("--model names no model; `recbole-hellm models` lists them.")
    dataset = str(options.pop("dataset", "sample"))
    files = [Path(name) for name in names(options.pop("config", []))]
    # Every configuration is checked before the first model trains.
    with _or_one_of(("config", "dry_run"), options):
        configs = [HellmConfig(model, dataset, options, files) for model in models]
    check_addressed(configs)
    if dry:
        from recbole_hellm.runs.dry_run import describe_needs

        return "\n\n".join(describe_needs(config) for config in configs)
    return comparison([execute(config) for config in configs])


def _tune(options: dict[str, Any]) -> str:
    from tabulate import tabulate

    from recbole_hellm.benchmark.tuning import TuningSettings, tune

    given = {key: options.pop(key) for key in TuningSettings.keys() if key in options}  # noqa: SIM118
    models = names(options.pop("model", ""))
    if len(models) != 1:
        raise ConfigError("tune searches one model at a time; name it with --model=NAME.")
    dataset = str(options.pop("dataset", "sample"))
    files = [Path(name) for name in names(options.pop("config", []))]
    with _or_one_of(("config", *TuningSettings.keys()), options):
        study = tune(models[0], dataset, TuningSettings.from_config(given), options, files)
    table = tabulate(study.trials.to_dict("records"), headers="keys", floatfmt=".5g")
    return f"{table}\n\nBest settings: {study.path} (recbole-hellm run --config={study.path})"


def _compare(options: dict[str, Any]) -> str:
    from recbole_hellm.benchmark.compare_settings import CompareSettings
    from recbole_hellm.benchmark.comparing import compare

    for one, several in (("dataset", "datasets"), ("model", "models")):
        if one in options and several in options:
            raise ConfigError(f"--{one} and --{several} are the same; keep one of them.")
        if one in options:
            options[several] = options.pop(one)
    for key in ("datasets", "models", "seeds"):
        if isinstance(options.get(key), list):
            options[key] = tuple(options[key])
    given = {key: options.pop(key) for key in CompareSettings.keys() if key in options}  # noqa: SIM118
    files = [Path(name) for name in names(options.pop("config", []))]
    with _or_one_of(("config", *CompareSettings.keys()), options):
        shown = compare(CompareSettings.from_config(given), options, files)
    if shown.failed:
        print(shown.text)
        told = "; ".join(f"{what}: {reason}" for what, reason in shown.failed.items())
        raise RunError(f"The comparison is not complete: {told}")
    return shown.text


def _directory(options: dict[str, Any]) -> tuple[str, Path]:
    name = str(options.get("dataset", "sample"))
    return name, Path(options.get("data_path", "dataset")) / name


def _prepare(options: dict[str, Any]) -> str:
    from recbole_hellm.data.preparation.manifest import describe
    from recbole_hellm.data.preparation.prepare import prepare
    from recbole_hellm.data.preparation.settings import PrepareSettings

    _only(options, "dataset", "data_path", *PrepareSettings.keys())
    name, directory = _directory(options)
    settings = PrepareSettings.from_config(options)
    for key in ("interactions", "family"):
        if getattr(settings, key) is not None and "dataset" not in options:
            raise ConfigError(f"--{key} needs a name for the dataset: --dataset=NAME.")
    return describe(prepare(name, directory, settings))


def _encode(options: dict[str, Any]) -> str:
    from recbole_hellm.data.features.encoding import EncodeSettings, encode_features

    _only(options, "dataset", "data_path", *EncodeSettings.keys())
    name, directory = _directory(options)
    made = encode_features(name, directory, EncodeSettings.from_config(options))
    return "\n".join(f"Features: {path}" for path in made)


def _images(options: dict[str, Any]) -> str:
    from recbole_hellm.data.downloads.images import ImageSettings, fetch_images

    _only(options, "dataset", "data_path", *ImageSettings.keys())
    name, directory = _directory(options)
    return fetch_images(name, directory, ImageSettings.from_config(options)).describe()


def _import(options: dict[str, Any]) -> str:
    from recbole_hellm.data.features.importing import ImportSettings, import_features

    _only(options, "dataset", "data_path", *ImportSettings.keys())
    name, directory = _directory(options)
    imported = import_features(name, directory, ImportSettings.from_config(options))
    return "\n".join(found.describe() for found in imported)


def _recommend(options: dict[str, Any]) -> str:
    from recbole_hellm.reporting.recommendations import RecommendSettings, listing

    _only(options, "run", *RecommendSettings.keys())
    if "run" not in options:
        raise ConfigError("recommend needs a finished run; name its directory with --run=RUN.")
    return listing(options.pop("run"), RecommendSettings.from_config(options))


def _report(options: dict[str, Any]) -> str:
    from recbole_hellm.reporting.report import ReportSettings, write_report

    _only(options, "runs", *ReportSettings.keys())
    runs = names(options.pop("runs", []))
    if not runs:
        raise ConfigError("report needs finished runs; name their directories: report RUN [RUN].")
    return f"Report: {write_report(runs, ReportSettings.from_config(options))}"


def _models(options: dict[str, Any]) -> str:
    from recbole_hellm.reporting.tables import model_list, model_settings

    _only(options, "model", "dataset")
    if "model" in options:
        return model_settings(str(options["model"]), str(options.get("dataset", "sample")))
    if "dataset" in options:
        raise ConfigError("models --dataset needs --model, the one whose settings to list.")
    return model_list()


COMMANDS: dict[str, Command] = {
    "run": _run,
    "prepare": _prepare,
    "encode": _encode,
    "images": _images,
    "import": _import,
    "tune": _tune,
    "compare": _compare,
    "recommend": _recommend,
    "report": _report,
    "models": _models,
}
