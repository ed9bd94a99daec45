"""The header of a GGUF file: whether its lengths and counts fit the file.

The package gguf believes them: an array that is said to be huge would keep it busy for hours, and
so would a decoder of a thousand million layers transformers.

Format: ggml, ``docs/gguf.md``.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_STRING, _ARRAY = 8, 9
_SIZES = dict(enumerate((1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8)))
"""Bytes of a value by its type; strings and arrays tell their own."""
_INTEGERS = {0: "B", 2: "H", 4: "I", 10: "Q"}
""":mod:`struct`'s letter for unsigned integers, by type."""
_LAYERS = b".block_count"
_BEGIN = 24  # magic, version, number of tensors, number of entries


def check_header(file: Path) -> None:
    """Check that all that a header announces can be in the file.

    Parameters
    ----------
    file : Path
        What its first bytes are is not checked.

    Raises
    ------
    ValueError, RecursionError
        If it cannot.
    OSError
        If the file cannot be read.
    """
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        # Of a file in the other byte order the low half of the version is zero.
        order = ">" if content[4:6] == b"\0\0" else "<"
        header = _Header(content, order)
        tensors, entries = header.read("Q", 8), header.read("Q", 16)
        place = _BEGIN
        for _ in range(entries):
            begin, place = place + 8, header.after(_STRING, place)
            kind = header.read("I", place)
            if content[begin:place].endswith(_LAYERS) and kind in _INTEGERS:
                layers = header.read(_INTEGERS[kind], place + 4)
                if layers > tensors:
                    raise ValueError(f"it announces {layers} layers and holds {tensors} weights")
            place = header.after(kind, place + 4)


class _Header:
    def __init__(self, content: mmap.mmap, order: str) -> None:
        self.content = content
        self.order = order

    def read(self, letter: str, place: int) -> int:
        """An integer of struct's type `letter`."""
        form = self.order + letter
        self._within(place + struct.calcsize(form))
        return int(struct.unpack_from(form, self.content, place)[0])

    def after(self, kind: int, place: int) -> int:
        """Where the value that begins at `place` ends."""
        if kind == _STRING:
            return self._within(place + 8 + self.read("Q", place))
        if kind != _ARRAY:
            if kind not in _SIZES:
                raise ValueError(f"it holds a value of the unknown type {kind}")
            return self._within(place + _SIZES[kind])
        inner, count = self.read("I", place), self.read("Q", place + 4)
        place += 12
        if inner in (_STRING, _ARRAY):
            for _ in range(count):
                place = self.after(inner, place)
            return place
        if inner not in _SIZES:
            raise ValueError(f"it holds an array of the unknown type {inner}")
        return self._within(place + count * _SIZES[inner])

    def _within(self, place: int) -> int:
        if place > len(self.content):
            raise ValueError("its header announces more than the file holds")
        return place
