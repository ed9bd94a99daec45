"""Batches that survive a kill, and arrays that do not show it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from recbole_hellm.data.features.encoders import resumable as module
from recbole_hellm.data.features.encoders.resumable import Partial, encode_batches
from recbole_hellm.data.features.store import load_features
from recbole_hellm.errors import FeatureError

RECIPE = {"encoder": "letters", "batch_size": 4, "inputs": "abc"}
WORDS = ["a", "bbb", "cc", "dddd", "e", "ffffff", "gg", "hhh", "iiii", "jj", "k"]


class Letters:
    """Length and first letter; remembers its batches, and may die in one."""

    name, revision, precision = "letters", "1", "exact"

    def __init__(self, batch_size: int = 4, dies_at: int | None = None) -> None:
        self.batch_size, self.dies_at = batch_size, dies_at
        self.asked: list[list[str]] = []

    def encode_batch(self, inputs: Sequence[str]) -> npt.NDArray[np.float32]:
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append(list(inputs))
        return np.array([[len(word), ord(word[0])] for word in inputs], dtype=np.float32)


def encode(
    path: Path, encoder: Letters, recipe: dict[str, str | int] | None = None
) -> npt.NDArray[np.float32]:
    with Partial(path, recipe or RECIPE) as partial:
        return encode_batches(encoder, WORDS, partial, list(map(len, WORDS)), progress=False)


EXPECTED = np.array([[len(word), ord(word[0])] for word in WORDS], dtype=np.float32)


def test_rows_keep_their_order_and_the_longest_come_first(tmp_path: Path) -> None:
    encoder = Letters()
    found = encode(tmp_path / "features" / "x.partial", encoder)
    np.testing.assert_array_equal(found, EXPECTED)
    assert found.dtype == np.float32
    assert encoder.asked == [
        ["ffffff", "dddd", "iiii", "bbb"],
        ["hhh", "cc", "gg", "jj"],
        ["a", "e", "k"],
    ]
    plain = Letters(batch_size=100)
    np.testing.assert_array_equal(encode_batches(plain, WORDS, progress=False), EXPECTED)
    assert plain.asked == [WORDS]


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_going_on_after_an_interruption(tmp_path: Path, dies_at: int) -> None:
    path, first, second = tmp_path / "a" / "x.partial", Letters(dies_at=dies_at), Letters()
    with pytest.raises(KeyboardInterrupt):
        encode(path, first)
    np.testing.assert_array_equal(encode(path, second), EXPECTED)
    whole = Letters()
    encode(tmp_path / "b" / "x.partial", whole)
    assert first.asked + second.asked == whole.asked
    assert files_of(path) == files_of(tmp_path / "b" / "x.partial")
    assert set(files_of(path)) == {"x.partial", "x.partial.progress"}


def test_progress_cut_anywhere_costs_one_batch_at_most(tmp_path: Path) -> None:
    path, progress = tmp_path / "x.partial", tmp_path / "x.partial.progress"
    encode(path, Letters())
    before, content = files_of(path), progress.read_bytes()
    header = len(content.splitlines(keepends=True)[0])
    ends = header + np.cumsum([65] * 3)  # a SHA-256 and a line end for each of three batches
    assert ends[-1] == len(content)
    for size in range(len(content) + 1):
        progress.write_bytes(content[:size])
        encoder = Letters()
        np.testing.assert_array_equal(encode(path, encoder), EXPECTED)
        # A checksum without its line end is complete.
        assert len(encoder.asked) == 3 - (ends - 1 <= size).sum()
        assert files_of(path) == before


def test_a_matrix_cut_anywhere_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "x.partial"
    encode(path, Letters())
    before = files_of(path)
    for size in range(len(before["x.partial"])):
        path.write_bytes(before["x.partial"][:size])
        np.testing.assert_array_equal(encode(path, Letters()), EXPECTED)
        assert files_of(path) == before
    path.unlink()
    np.testing.assert_array_equal(encode(path, Letters()), EXPECTED)


@pytest.mark.parametrize("flipped", [0x01, 0x40, 0x80])
@pytest.mark.parametrize("damaged", ["x.partial", "x.partial.progress"])
def test_damaged_batches_are_made_again(tmp_path: Path, damaged: str, flipped: int) -> None:
    path = tmp_path / "x.partial"
    encode(path, Letters())
    content = (tmp_path / damaged).read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= flipped
        (tmp_path / damaged).write_bytes(changed)
        encoder = Letters()
        np.testing.assert_array_equal(encode(path, encoder), EXPECTED)
        assert len(encoder.asked) <= 3
        if damaged == "x.partial" and place >= 128:  # behind the header
            assert encoder.asked
            assert path.read_bytes() == content
    np.testing.assert_array_equal(np.load(path), EXPECTED)


@pytest.mark.parametrize("key", ["encoder", "batch_size", "inputs"])
def test_another_recipe_begins_anew(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.partial"
    encode(path, Letters())
    encoder = Letters()
    with caplog.at_level(logging.INFO):
        encode(path, encoder, RECIPE | {key: "other"})
    assert len(encoder.asked) == 3
    assert "belongs to other inputs or options; beginning anew" in caplog.text
    progress = (tmp_path / "x.partial.progress").read_text().splitlines()
    assert json.loads(progress[0])[key] == "other"


def test_a_matrix_of_another_kind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.partial"
    encode(path, Letters())
    for other in (EXPECTED.astype(np.float64), EXPECTED[:-1], EXPECTED[0], EXPECTED[:, :1]):
        with path.open("wb") as file:
            np.save(file, other)
        np.testing.assert_array_equal(encode(path, Letters()), EXPECTED)


def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.partial"
    rows = np.arange(4)
    with Partial(path, RECIPE) as partial:
        assert partial.resume([rows]) == 0
        partial.add(rows, np.ones((4, 2), dtype=np.float32))
        with pytest.raises(FeatureError, match="is being written by another process"):
            encode(path, Letters())
    with Partial(path, RECIPE) as partial:
        assert partial.resume([rows]) == 1
        partial.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "features").write_text("a file where a folder should be")
    with pytest.raises(FeatureError, match=r"x\.partial cannot be written \(.*make room"):
        encode(tmp_path / "features" / "x.partial", Letters())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    path = tmp_path / "x.partial"
    monkeypatch.setattr(module.os, "posix_fallocate", full, raising=False)
    with pytest.raises(FeatureError, match="No space left"):
        encode(path, Letters())
    monkeypatch.undo()
    np.testing.assert_array_equal(encode(path, Letters()), EXPECTED)
    if Path("/dev/full").exists():
        with Partial(path, RECIPE | {"inputs": "others"}) as partial:
            partial.resume([np.arange(4)])
            partial._progress = Path("/dev/full").open("w")  # noqa: SIM115
            with pytest.raises(FeatureError, match="No space left"):
                partial.add(np.arange(4), np.ones((4, 2), dtype=np.float32))


def test_a_file_system_that_cannot_reserve_room_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(module.os, "posix_fallocate", unsupported, raising=False)
    np.testing.assert_array_equal(encode(tmp_path / "x.partial", Letters()), EXPECTED)


class Wide(Letters):
    """Vectors of 1,000 numbers."""

    def encode_batch(self, inputs: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.repeat(super().encode_batch(inputs), 500, axis=1)


@pytest.mark.parametrize("finished", [0, 30])
def test_no_more_than_the_result_is_held(tmp_path: Path, finished: int) -> None:
    words, encoder = [f"w{row}" for row in range(2_000)], Wide(batch_size=50)
    with contextlib.suppress(KeyboardInterrupt), Partial(tmp_path / "x.partial", RECIPE) as partial:
        encode_batches(Wide(50, finished), words, partial, progress=False)
    with Partial(tmp_path / "x.partial", RECIPE) as partial:
        tracemalloc.start()
        found = encode_batches(encoder, words, partial, progress=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(encoder.asked) == 40 - finished
    np.testing.assert_array_equal(found, encode_batches(Wide(50), words, progress=False))
    assert peak < 1.25 * found.nbytes


def test_no_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="no inputs to encode"):
        encode_batches(Letters(), [], progress=False)


def test_batches_of_another_shape_are_refused() -> None:
    class Odd(Letters):
        def encode_batch(self, inputs: Sequence[str]) -> npt.NDArray[np.float32]:
            return super().encode_batch(inputs)[:1]

    with pytest.raises(ValueError, match=r"4 inputs has the shape \(1, 2\), not \(4, 2\)"):
        encode_batches(Odd(), WORDS, progress=False)


# --- a real kill ------------------------------------------------------------------------------

CHILD = """
import sys, time
from pathlib import Path
import pandas as pd
from recbole_hellm.data.features.encoders import TransformerEncoder, encode_text

directory, model, log, seconds = sys.argv[1:]
original = TransformerEncoder.encode_batch

def slowly(self, inputs):
    time.sleep(float(seconds))
    vectors = original(self, inputs)
    with open(log, "a") as file:
        file.write(f"{inputs[0]} | {len(inputs)}\\n")
    return vectors

TransformerEncoder.encode_batch = slowly
words = "red blue pink matte glossy lipstick nail polish hair shampoo curl dry quick".split()
picked = [[(row * 7 + k * k) % 13 for k in range(1 + row % 11)] for row in range(150)]
titles = [" ".join(words[place] for place in places) for places in picked]
items = pd.DataFrame({"item_id": [f"i{row}" for row in range(150)], "title": titles})
encode_text(Path(directory), items, model, progress=False, batch_size=8, pooling="mean")
"""


def test_an_encoding_that_was_killed_goes_on_to_the_same_bits(
    tmp_path: Path, tiny_bert: Path
) -> None:
    def start(name: str, seconds: float) -> subprocess.Popen[bytes]:
        given = [str(tmp_path / name), str(tiny_bert), str(tmp_path / f"{name}.log"), str(seconds)]
        return subprocess.Popen([sys.executable, "-c", CHILD, *given])  # noqa: S603

    def batches(name: str) -> list[str]:
        path = tmp_path / f"{name}.log"
        return path.read_text().splitlines() if path.exists() else []

    partial = tmp_path / "killed/features/text-tiny-bert-mean.partial"
    child = start("killed", 0.1)
    limit = time.monotonic() + 120
    while len(batches("killed")) < 5 and time.monotonic() < limit and child.poll() is None:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    before = batches("killed")
    assert 5 <= len(before) < 19
    assert partial.exists()
    assert not partial.with_suffix(".npy").exists()

    for name in ("killed", "whole"):
        assert start(name, 0).wait() == 0
    # All that was finished is used; at most the batch that the kill hit is made twice.
    assert len(batches("whole")) == 19
    assert sorted(set(batches("killed"))) == sorted(set(batches("whole")))
    assert 19 <= len(batches("killed")) <= 20
    tokens = [f"i{row}" for row in range(150)]
    found, expected = (
        load_features(tmp_path / name, tokens)["text"].matrix for name in ("killed", "whole")
    )
    np.testing.assert_array_equal(found, expected)
    assert (
        partial.with_suffix(".npy").read_bytes()
        == (tmp_path / "whole/features/text-tiny-bert-mean.npy").read_bytes()
    )
    assert not list(partial.parent.glob("*.partial*"))
