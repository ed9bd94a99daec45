from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.backbones import refusal

from recbole_hellm.models.llm.gguf_header import check_header

INT32, STRING, ARRAY, INT64 = 5, 8, 9, 11
U32, U64 = 4, 10


def text(content: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}Q", len(content)) + content


def entry(key: bytes, kind: int, value: bytes, order: str = "<") -> bytes:
    return text(key, order) + struct.pack(f"{order}I", kind) + value


def array(kind: int, count: int, values: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}IQ", kind, count) + values


def header(*entries: bytes, tensors: int = 2, order: str = "<", count: int | None = None) -> bytes:
    counts = struct.pack(f"{order}IQQ", 3, tensors, len(entries) if count is None else count)
    return b"GGUF" + counts + b"".join(entries)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def written(content: bytes) -> Path:
        (tmp_path / "small.gguf").write_bytes(content)
        return tmp_path / "small.gguf"

    return written


@pytest.mark.parametrize("order", ["<", ">"])
def test_whole_headers_pass(write: Callable[[bytes], Path], order: str) -> None:
    entries = [
        entry(b"llama.block_count", U32, struct.pack(f"{order}I", 2), order),
        entry(b"general.name", STRING, text(b"a small model", order), order),
        entry(b"numbers", ARRAY, array(INT32, 3, bytes(12), order), order),
        entry(
            b"words", ARRAY, array(STRING, 2, text(b"a", order) + text(b"", order), order), order
        ),
        entry(b"nested", ARRAY, array(ARRAY, 1, array(INT64, 1, bytes(8), order), order), order),
    ]
    check_header(write(header(*entries, order=order)))
    check_header(write(header(*entries, order=order) + b"weights"))


@pytest.mark.parametrize(
    "content",
    [
        header(entry(b"numbers", ARRAY, array(INT32, 2**60, bytes(400)))),
        header(entry(b"words", ARRAY, array(STRING, 2**60, text(b"a") * 40))),
        header(entry(b"nested", ARRAY, array(ARRAY, 2**60, array(INT64, 0, b"") * 40))),
        header(entry(b"deep", ARRAY, array(ARRAY, 1, b"") * 2000)),
        header(entry(b"name", STRING, struct.pack("<Q", 2**62) + b"short")),
        header(entry(b"name", STRING, text(b"x")), count=2**60),
        header(entry(b"name", 99, bytes(8))),
        header(entry(b"names", ARRAY, array(99, 1, bytes(8)))),
        header(entry(b"llama.block_count", U32, struct.pack("<I", 2**31))),
        header(entry(b"llama.block_count", U64, struct.pack("<Q", 2**60))),
        header()[:20],
        b"",
    ],
    ids=[
        *("numbers", "words", "nested", "deep", "string", "entries", "type", "type in an array"),
        *("layers", "layers in 64 bits", "cut", "empty"),
    ],
)
def test_what_announces_more_than_it_holds_is_refused_at_once(
    write: Callable[[bytes], Path], content: bytes
) -> None:
    file, begun = write(content), time.process_time()
    with pytest.raises((ValueError, RecursionError)):
        check_header(file)
    assert time.process_time() - begun < 1
    pytest.importorskip("gguf", reason="needs the package gguf")
    assert "cannot be read as a GGUF file (" in refusal(file)


def test_an_entry_cut_anywhere_is_refused(write: Callable[[bytes], Path]) -> None:
    whole = header(
        entry(b"words", ARRAY, array(STRING, 2, text(b"ab") + text(b"c"))),
        entry(b"number", INT64, bytes(8)),
    )
    check_header(write(whole))
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r"than the file holds|empty file"):
            check_header(write(whole[:end]))
