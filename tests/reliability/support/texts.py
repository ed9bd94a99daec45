"""Generated atomic files and feature files."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
from hypothesis import strategies as st
from reliability.support.generating import Part, emptied, give
from reliability.support.tables import COMMENTS, IDS
from reliability.support.worlds import ITEMS

# Atomic files --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Atomic:
    """Files of a dataset that the user made, and their interactions; None if unknown."""

    inter: bytes
    item: bytes | None
    rows: set[tuple[str, str, int]] | None
    options: tuple[tuple[str, str], ...] = ()


@st.composite
def atomic(draw: st.DrawFn) -> Atomic:
    """Atomic files as RecBole reads them, some of them broken."""
    separator = draw(st.sampled_from(["\t", "\t", ","]))
    gone = str.maketrans(dict.fromkeys(f"{separator}\n\r", "_"))
    users = st.sampled_from(draw(st.lists(IDS, min_size=1, max_size=3)))
    rows = draw(st.lists(st.tuples(users, IDS, st.integers(0, 99_999)), min_size=7, max_size=14))
    rows = [(user.translate(gone), item.translate(gone), time) for user, item, time in rows]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    header = separator.join(["user_id:token", "item_id:token", "timestamp:float"])
    lines = [header, *(separator.join((user, item, str(time))) for user, item, time in rows)]
    broken = draw(st.sampled_from(["", "", "", "short", "long", "header", "number", "blank"]))
    place = draw(st.integers(1, len(lines) - 1))
    if broken == "short":
        lines[place] = lines[place].rpartition(separator)[0]
    elif broken == "long":
        lines[place] += f"{separator}more"
    elif broken == "header":
        lines[0] = draw(
            st.sampled_from(["", "user_id", "user_id:token", "a:b:c", "user_id:token\t"])
        )
    elif broken == "number":
        lines[place] = separator.join([*lines[place].split(separator)[:2], "soon"])
    elif broken == "blank":
        lines.insert(place, "")
    items = sorted({item for _, item, _ in rows})
    table = [separator.join(["item_id:token", "title:token_seq"])]
    table += [separator.join((item, draw(COMMENTS).translate(gone))) for item in items]
    options = {"field_separator": separator} if separator != "\t" else {}
    if encoding not in ("utf-8", "utf-8-sig"):
        options["encoding"] = encoding
    return Atomic(
        (end.join(lines) + end).encode(encoding, "replace"),
        "\n".join([*table, ""]).encode(encoding, "replace") if draw(st.booleans()) else None,
        set(rows) if not broken and encoding != "latin-1" else None,
        tuple(options.items()),
    )


def open_atomic(files: Atomic) -> str:
    """Open a dataset; returns what was lost."""
    from recbole_hellm.config.resolution import HellmConfig
    from recbole_hellm.runs.opening import open_dataset

    with emptied("data") as folder:
        directory = folder / "data/own"
        directory.mkdir(parents=True)
        (directory / "own.inter").write_bytes(files.inter)
        if files.item is not None:
            (directory / "own.item").write_bytes(files.item)
        settings = {"data_path": "data", "show_progress": False, "use_gpu": False, "threads": 1}
        config = HellmConfig("Pop", "own", settings | dict(files.options))
        dataset = open_dataset(config, features=False)
        found = {
            (str(dataset.id2token("user_id", user)), str(dataset.id2token("item_id", item)))
            for user, item in zip(
                dataset.inter_feat["user_id"].tolist(),
                dataset.inter_feat["item_id"].tolist(),
                strict=True,
            )
        }
        if files.rows is None:
            return ""
        wanted = {(user, item) for user, item, _ in files.rows}
        return "" if found == wanted else f"missing {wanted - found}, made up {found - wanted}"


# Features ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Features:
    """A feature file, its tokens, and the matrix in the order of tokens, if it can be read."""

    content: bytes
    suffix: str
    tokens: bytes
    matrix: dict[str, list[float]] | None
    options: tuple[str, ...] = ()


@st.composite
def features(draw: st.DrawFn) -> Features:
    """Matrices of many types, shapes and formats."""
    import torch
    from safetensors.numpy import save

    count = draw(st.sampled_from([ITEMS] * 4 + [ITEMS - 1, ITEMS + 2, 1, 0]))
    width = draw(st.sampled_from([1, 3, 5, 0]))
    kind = draw(st.sampled_from(["float32", "float64", "float16", "int64", "bool", "complex64"]))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    matrix = rng.normal(size=(count, width)).astype(np.float64)
    special = draw(st.sampled_from(["", "", "", "nan", "inf", "3d", "1d", "object", "huge"]))
    if special in ("nan", "inf") and matrix.size:
        matrix[0, 0] = float(special)
    with np.errstate(all="ignore"):
        array: Any = matrix.astype(kind)
    if special == "3d":
        array = array[None]
    elif special == "1d":
        array = array.ravel()
    elif special == "huge" and array.dtype == np.float64 and array.size:
        array[0] = 1e300
    tokens = [f"i{n:02d}" for n in range(count)]
    order = draw(st.permutations(tokens))
    suffix = draw(st.sampled_from(["npy", "pt", "safetensors", "csv", "txt"]))
    buffer = io.BytesIO()
    if suffix == "npy":
        np.save(buffer, array.astype(object) if special == "object" else array)
    elif suffix == "pt":
        tensor = torch.from_numpy(array)
        form = draw(st.sampled_from(["dense", "dict", "list", "sparse"]))
        torch.save(
            {
                "dict": {"a": tensor},
                "list": [tensor],
                "sparse": tensor.to_sparse(),
                "dense": tensor,
            }[form],
            buffer,
        )
        special = special or ("" if form == "dense" else form)
    elif suffix == "safetensors":
        buffer.write(save({"features": np.ascontiguousarray(array)}))
    else:
        np.savetxt(buffer, np.atleast_2d(matrix), delimiter=",")
    content = buffer.getvalue()
    if draw(st.integers(0, 3)) == 0 and content:
        special = "broken"
        place = draw(st.integers(0, len(content) - 1))
        if draw(st.booleans()):
            content = content[:place]
        else:
            content = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
    known = not special and count == ITEMS and width and suffix in ("npy", "pt", "safetensors")
    rows = (
        {
            token: [float(value) for value in array[row].astype(np.float32)]
            for row, token in enumerate(order)
        }
        if known and kind != "complex64"
        else None
    )
    return Features(content, suffix, "".join(f"{t}\n" for t in order).encode(), rows)


def import_features(given: Features) -> str:
    """Import a feature file; returns what is wrong with the stored matrix."""
    with emptied("data/shop/features") as folder:
        source = folder / f"given.{given.suffix}"
        source.write_bytes(given.content)
        (folder / "rows.txt").write_bytes(given.tokens)
        give(
            "import",
            "--dataset=shop",
            "--data_path=data",
            f"--features={source}",
            "--tokens=rows.txt",
            "--modality=image",
            "--encoder=own",
        )
        (stored,) = (folder / "data/shop/features").glob("*.npy")
        matrix = np.load(stored, allow_pickle=False)
        if matrix.shape[0] != ITEMS or not np.isfinite(matrix).all():
            return f"stored {matrix.shape}, finite: {np.isfinite(matrix).all()}"
        if given.matrix is None:
            return ""
        names = json.loads(stored.with_suffix(".tokens.json").read_text(encoding="utf-8"))
        if isinstance(names, dict):
            names = names["tokens"]
        for token, row in zip(names, matrix, strict=True):
            if not np.array_equal(row.astype(np.float32), np.float32(given.matrix[token])):
                return f"{token}: {row} instead of {given.matrix[token]}"
        return ""


PARTS: dict[str, Part] = {
    "atomic": (atomic(), open_atomic),
    "features": (features(), import_features),
}
