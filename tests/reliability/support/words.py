"""Generated settings files and command lines."""

from __future__ import annotations

import contextlib
from typing import Any

import yaml
from hypothesis import strategies as st
from reliability.support.generating import Part, emptied, give

KEYS = (
    *("model", "dataset", "data_path", "runs_dir", "epochs", "learning_rate", "seed", "topk"),
    *("metrics", "valid_metric", "embedding_size", "train_batch_size", "device", "show_progress"),
    *("mask_history", "save_topk", "load_col", "eval_users", "stopping_step", "weight_decay"),
    *("threads", "encoding", "field_separator", "seq_separator", "USER_ID_FIELD", "TIME_FIELD"),
    *("eval_args", "benchmark_filename", "no_such_key", "BPR.epochs", "HeLLM.epochs", "resume"),
    *("train_neg_sample_args", "optimizer", "learner", "text_encoder", "val_interval"),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 100),
    st.floats(),
    st.sampled_from(
        ["", "x", "BPR", "shop", "data", "1", "[", "{", "\x00", "NDCG@10", "../..", "Ä"]
    ),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-1, 20), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
_ODD = st.sampled_from(
    [
        "a: &a [*a]",
        "? [1]\n: 2",
        "!!python/object/apply:os.system ['true']",
        "a: !!binary =",
        "a: 2024-99-99",
        "- 1\n- 2",
        "just text",
        "",
        "---\na: 1\n---\nb: 2",
        "a: 1\na: 2",
        "<<: {epochs: 1}",
        "a: 0o9",
        "epochs: 1_000",
        "\t- x",
        "a: 'open",
        "%YAML 9.9\n---\na: 1",
        "a: " + "[" * 3000,
        "{" * 3000,
        "a: 1e999999",
        "a: 12:30:45",
        "a: .nan",
        "\ufeffepochs: 1",
        "\n".join(["a0: &a0 [x,x]", *(f"a{n}: &a{n} [*a{n - 1},*a{n - 1}]" for n in range(1, 40))]),
    ]
)


@st.composite
def settings(draw: st.DrawFn) -> bytes:
    """Settings files, most of them of known keys with odd values."""
    form = draw(st.integers(0, 5))
    if form == 0:
        return draw(st.binary(max_size=40))
    if form == 1:
        return draw(_ODD).encode("utf-8", "surrogatepass")
    count = 3 if form == 2 else 1
    chosen = draw(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=count))
    return yaml.dump(chosen, allow_unicode=draw(st.booleans())).encode("utf-8", "replace")


def configure(content: bytes) -> str:
    """Read a settings file, and open the dataset with it."""
    from recbole_hellm.config.resolution import HellmConfig, check_addressed
    from recbole_hellm.runs.opening import open_dataset

    with emptied("own.yaml") as folder:
        path = folder / "own.yaml"
        path.write_bytes(content)
        config = HellmConfig("BPR", "shop", {"use_gpu": False}, [path])
        check_addressed([config])
        if str(config["data_path"]).rstrip("/").endswith("data"):
            open_dataset(config, features=False)
    return ""


_WORDS = st.one_of(
    st.sampled_from(
        [
            "run",
            "prepare",
            "encode",
            "import",
            "report",
            "models",
            "recommend",
            "compare",
            "tune",
            "check",
            "help",
            "images",
            "--help",
            "--dry_run",
            "--",
            "-",
            "=",
            "--=",
            "--=x",
            "---a=b",
        ]
    ),
    st.builds(
        lambda key, value: f"--{key}={value}",
        st.sampled_from(
            [
                *KEYS,
                "run",
                "user",
                "users",
                "history",
                "output",
                "format",
                "config",
                "interactions",
                "items",
                "features",
                "tokens",
                "space",
                "trials",
                "models",
                "datasets",
                "seeds",
                "records",
                "raw_dir",
                "k_core",
                "storage",
                "backbone",
            ]
        ),
        VALUES,
    ),
    st.text(max_size=6),
)


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """Command lines that train and download nothing."""
    first = draw(
        st.sampled_from(
            [
                "run",
                "run",
                "prepare",
                "encode",
                "import",
                "report",
                "models",
                "recommend",
                "check",
                "help",
                "no-such",
                "tune",
                "compare",
            ]
        )
    )
    words = [first, *draw(st.lists(_WORDS, max_size=3))]
    return [word.replace("\x00", "") for word in words]


class _Reached(Exception):  # noqa: N818 (no error: the command line was right)
    """Work would have begun."""


def parse(words: list[str]) -> str:
    """Give a command line whose work is not carried out."""
    import recbole_hellm.benchmark.comparing as comparing
    import recbole_hellm.benchmark.tuning as tuning
    import recbole_hellm.data.features.encoding as encoding
    import recbole_hellm.data.preparation.prepare as preparing
    import recbole_hellm.runs.dry_run as dry_run
    import recbole_hellm.runs.running as running

    def reached(*_: Any, **__: Any) -> Any:
        raise _Reached

    comparing.carry_out = reached
    tuning.validate = reached
    running.execute = running._execute_here = reached
    encoding.encode_features = reached
    preparing.prepare_dataset = reached
    dry_run.describe_needs = reached
    with contextlib.suppress(_Reached):
        give(*words)
    return ""


PARTS: dict[str, Part] = {
    "settings": (settings(), configure),
    "commands": (commands(), parse),
}
