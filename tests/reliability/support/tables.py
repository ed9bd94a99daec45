"""Generated tables of interactions and raw files, and what must become of their rows."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from reliability.support.generating import Part, emptied, give

Row = tuple[str, str, int, str]  # user, item, time, comment

_WORDS = st.sampled_from(
    ["u1", "u2", "U 3", "007", "NA", "nan", "null", "1e5", "-", "Ä", "日本", "a'b", "#x", "=1+1"]
)
IDS = st.one_of(
    _WORDS,
    st.integers(0, 30).map(lambda n: f"i{n}"),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=5),
)
COMMENTS = st.one_of(
    st.just("plain"),
    st.sampled_from(
        ['say "hi"', '"open', 'close"', "a, b", "x;y", "t\tt", "5' 3\"", "", '""', "'"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
)
ROWS: st.SearchStrategy[list[Row]] = st.lists(
    st.tuples(IDS, IDS, st.integers(0, 2_000_000_000), COMMENTS), min_size=3, max_size=12
)


@dataclasses.dataclass(frozen=True)
class Written:
    """A file's bytes and the interactions that it holds, as a simple reader sees them."""

    content: bytes
    rows: list[tuple[str, str, int]]
    suffix: str
    options: tuple[str, ...] = ()


def _triples(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    return [(user.strip(), item.strip(), time) for user, item, time, _ in rows]


@st.composite
def delimited(draw: st.DrawFn) -> Written:
    """Text with separators: quoted as RFC 4180 has it, or not at all."""
    rows = draw(ROWS)
    separator = draw(st.sampled_from([",", "\t", ";", "|"]))
    quoted = draw(st.booleans())
    named = draw(
        st.sampled_from(
            [
                ("user_id", "item_id", "timestamp", "comment"),
                ("userId", "movieId", "timestamp", "tag"),
                ("user", "item", "time", "text"),
            ]
        )
    )
    order = draw(st.permutations(range(4)))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig"]))
    if not quoted:
        # What cannot be written without quotes is left out of the cells.
        gone = str.maketrans({separator: " ", "\n": " ", "\r": " "})
        rows = [(u.translate(gone), i.translate(gone), t, c.translate(gone)) for u, i, t, c in rows]
    text = io.StringIO()
    if quoted:
        writer = csv.writer(text, delimiter=separator, lineterminator=end)
        writer.writerows([[(*row,)[n] for n in order] for row in [named, *rows]])
    else:
        for row in [named, *rows]:
            text.write(separator.join(str(row[n]) for n in order) + end)
    options = ("--separator=" + separator.replace("\t", "\\t"),) if draw(st.booleans()) else ()
    return Written(text.getvalue().encode(encoding), _triples(rows), "csv", options)


@st.composite
def objects(draw: st.DrawFn) -> Written:
    """JSON lines, or a JSON array."""
    rows = draw(ROWS)
    records: list[dict[str, Any]] = [
        {"user_id": user, "item_id": item, "timestamp": time, "comment": comment}
        for user, item, time, comment in rows
    ]
    ascii_only = draw(st.booleans())
    lines = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    array = draw(st.integers(0, 4)) == 0
    text = f"[{', '.join(lines)}]" if array else "\n".join(lines) + "\n" * draw(st.integers(0, 2))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig"]))
    return Written(text.encode(encoding), _triples(rows), "json")


@st.composite
def parquet(draw: st.DrawFn) -> Written:
    """Parquet with columns of several types."""
    import pandas as pd

    rows = draw(ROWS)
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "comment"])
    kind = draw(st.sampled_from(["int64", "float64", "category", "datetime"]))
    if kind == "category":
        frame["user_id"] = frame["user_id"].astype("category")
    elif kind == "datetime":
        frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="s")
    else:
        frame["timestamp"] = frame["timestamp"].astype(kind)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=draw(st.booleans()))
    return Written(buffer.getvalue(), _triples(rows), "parquet")


@st.composite
def mutilated(draw: st.DrawFn) -> Written:
    """One of the others with a few bytes changed; nothing is known of its rows."""
    written = draw(st.one_of(delimited(), objects(), parquet()))
    content = bytearray(written.content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        what = draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
        if what == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del content[place:]
        elif what == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=4))
        else:
            del content[place : place + 3]
    return dataclasses.replace(written, content=bytes(content), rows=[])


def kept_rows(path: Any) -> list[tuple[str, str, int]]:
    """Rows of an atomic file of interactions, read as simply as can be."""
    lines = path.read_bytes().decode("utf-8").split("\n")
    assert lines[-1] == ""
    header = lines[0].split("\t")
    rows = [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:-1]]
    return [
        (row["user_id:token"], row["item_id:token"], round(float(row["timestamp:float"])))
        for row in rows
    ]


def lost(wanted: list[tuple[str, str, int]], path: Any, manifest: dict[str, Any]) -> str:
    """What is missing or made up; rows that agree in all three count once."""
    found = collections.Counter(kept_rows(path))
    unique = collections.Counter(set(wanted))
    if found != unique:
        return f"missing {list((unique - found).elements())[:5]}, made up " + str(
            list((found - unique).elements())[:5]
        )
    counts = manifest["tables"][0]
    blank = counts["dropped"].get("blank", 0)  # they are counted, too
    told = counts["read"] - blank, counts["kept"], sum(counts["dropped"].values()) - blank
    true = len(wanted), len(unique), len(wanted) - len(unique)
    return "" if told == true else f"counted {told} instead of {true}"


def prepare(written: Written) -> str:
    """Prepare a dataset of a file; returns what was lost."""
    with emptied("data") as folder:
        source = folder / f"log.{written.suffix}"
        source.write_bytes(written.content)
        inter = folder / "data/own/own.inter"
        try:
            out = give(
                "prepare",
                "--dataset=own",
                "--data_path=data",
                f"--interactions={source}",
                *written.options,
            )
        finally:
            assert not list(folder.rglob("*.tmp")), "left over"
        if not inter.is_file():
            return f"no file, but {out!r}"
        manifest = json.loads((inter.parent / "manifest.json").read_text(encoding="utf-8"))
        if not written.rows:  # of a mutilated file: what it says of itself is true
            kept = len(kept_rows(inter))
            told = manifest["interactions"]
            return "" if kept == told else f"{kept} rows, but the manifest says {told}"
        return lost(written.rows, inter, manifest)


# Raw files -----------------------------------------------------------------------------------

_RAW = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 2_000_000_000), COMMENTS),
    min_size=3,
    max_size=12,
)


@dataclasses.dataclass(frozen=True)
class RawFiles:
    """Raw files of a dataset that is known by name."""

    dataset: str
    files: dict[str, bytes]
    rows: list[tuple[str, str, int]]


@st.composite
def raw(draw: st.DrawFn) -> RawFiles:
    """Raw files of a family, sometimes with a line that is broken."""
    kind = draw(st.sampled_from(["2014", "2018", "2023", "ml-100k", "ml-1m"]))
    rows = [(f"U{u}", f"B{i:03d}", t, c) for u, i, t, c in draw(_RAW)]
    if kind.startswith("ml"):
        rows = [
            (user[1:], item[1:].lstrip("0") or "0", time, text) for user, item, time, text in rows
        ]
    dataset, files = _RAW_FILES[kind](rows)
    broken = draw(st.sampled_from(["", "", "", "cut", "blank", "garbage"]))
    name = next(iter(files))
    lines = files[name].split(b"\n")
    place = draw(st.integers(0, len(lines) - 2))
    if broken == "cut":
        lines[place] = lines[place][: len(lines[place]) // 2]
    elif broken == "garbage":
        lines.insert(place, draw(st.binary(max_size=8)).replace(b"\n", b""))
    elif broken == "blank":
        lines.insert(place, b"")
    known = _triples(rows) if broken in ("", "blank") else []
    return RawFiles(dataset, files | {name: b"\n".join(lines)}, known)


def _amazon2014(rows: list[Row]) -> tuple[str, dict[str, bytes]]:
    reviews = [
        {"reviewerID": u, "asin": i, "unixReviewTime": t, "reviewText": c} for u, i, t, c in rows
    ]
    items = {i: {"asin": i, "title": c} for _, i, _, c in rows}
    return "Beauty", {
        "reviews_Beauty_5.json": _lines(map(json.dumps, reviews)),
        "meta_Beauty.json": _lines(map(repr, items.values())),
    }


def _amazon2018(rows: list[Row]) -> tuple[str, dict[str, bytes]]:
    reviews = [
        {"verified": True, "reviewerID": u, "asin": i, "unixReviewTime": t, "reviewText": c}
        for u, i, t, c in rows
    ]
    items = {i: {"asin": i, "title": c, "category": ["A", c]} for _, i, _, c in rows}
    return "Video_Games-2018", {
        "Video_Games_5.json": _lines(map(json.dumps, reviews)),
        "meta_Video_Games.json": _lines(map(json.dumps, items.values())),
    }


def _amazon2023(rows: list[Row]) -> tuple[str, dict[str, bytes]]:
    reviews = ["user_id,parent_asin,rating,timestamp", *(f"{u},{i},5.0,{t}" for u, i, t, _ in rows)]
    items = {i: {"parent_asin": i, "title": c} for _, i, _, c in rows}
    return "Video_Games-2023", {
        "Video_Games.csv": _lines(reviews),
        "meta_Video_Games.jsonl": _lines(map(json.dumps, items.values())),
    }


def _movielens(name: str, separator: str, files: tuple[str, str], blank: int, bar: str) -> Any:
    def write(rows: list[Row]) -> tuple[str, dict[str, bytes]]:
        gone = str.maketrans(dict.fromkeys("\n\r\t|:\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e", " "))
        ratings = [separator.join((u, i, "4", str(t))) for u, i, t, _ in rows]
        titles = {i: c.translate(gone).encode("latin-1", "replace") for _, i, _, c in rows}
        movies = [
            bar.encode().join([i.encode(), title or b"x", *[b"0"] * blank])
            for i, title in titles.items()
        ]
        return name, {files[0]: _lines(ratings), files[1]: b"\n".join([*movies, b""])}

    return write


def _lines(texts: Any) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode("utf-8", "surrogatepass")


_RAW_FILES: dict[str, Any] = {
    "2014": _amazon2014,
    "2018": _amazon2018,
    "2023": _amazon2023,
    "ml-100k": _movielens("ml-100k", "\t", ("u.data", "u.item"), 22, "|"),
    "ml-1m": _movielens("ml-1m", "::", ("ratings.dat", "movies.dat"), 1, "::"),
}


def prepare_raw(raw_files: RawFiles) -> str:
    """Prepare a dataset of raw files; returns what was lost."""
    with emptied("data", "raw") as folder:
        (folder / "raw").mkdir()
        for name, content in raw_files.files.items():
            (folder / "raw" / name).write_bytes(content)
        name = raw_files.dataset
        give(
            "prepare",
            f"--dataset={name}",
            "--data_path=data",
            "--raw_dir=raw",
            "--mirrors=none",
            "--k_core=0",
        )
        inter = folder / "data" / name / f"{name}.inter"
        manifest = json.loads((inter.parent / "manifest.json").read_text(encoding="utf-8"))
        items = inter.with_suffix(".item").read_bytes().decode().split("\n")
        widths = {line.count("\t") for line in items[:-1]}
        if len(widths) != 1:
            return f"rows of the item table differ in width: {items}"
        return lost(raw_files.rows, inter, manifest) if raw_files.rows else ""


PARTS: dict[str, Part] = {
    "delimited": (delimited(), prepare),
    "objects": (objects(), prepare),
    "parquet": (parquet(), prepare),
    "mutilated": (mutilated(), prepare),
    "raw": (raw(), prepare_raw),
}
