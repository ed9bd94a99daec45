"""Encoding in batches that a kill cannot take away.

Finished batches go to one file beside the features, ``<modality>-<encoder>.partial``: a line with
the recipe, then one record per batch. A record carries a digest of its vectors, so whatever a kill
or a full disk left half-written is found and cut off, and the batch is made again. Which inputs
share a batch follows from the inputs and the recipe alone, and every batch is computed by itself,
so an array that was made in several goes is, bit for bit, the one made in one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from recbole_hellm.data.features.encoders.base import BatchEncoder
from recbole_hellm.errors import FeatureError

try:
    import fcntl
except ImportError:  # Windows, where nothing stops two processes from encoding the same set
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Matrix = npt.NDArray[np.float32]
_FORMAT = 1
_SHAPE = struct.Struct("<II")  # rows and dimensions of a batch
_DIGEST = hashlib.sha256().digest_size


class Partial:
    """The finished batches of one encoding, kept in a file.

    A context manager: the file is open, and closed to other processes, in between.

    Parameters
    ----------
    path : Path
        The file; its folder is made where it is missing.
    recipe : mapping of str to str or int
        All that decides the vectors and their batches. Batches of another recipe are dropped.

    Attributes
    ----------
    batches : list of tuple of int
        Rows and D of those that are finished, in their order; see :meth:`vectors`.
    """

    def __init__(self, path: Path, recipe: Mapping[str, str | int]) -> None:
        self.path = path
        self.batches: list[tuple[int, int]] = []
        text = json.dumps({"format": _FORMAT, **recipe}, sort_keys=True)
        self._header = f"{text}\n".encode()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Partial:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Opened for appending, so that what is there survives until the lock is held.
            self._file = self.path.open("a+b")
            self._lock(self._file)
            self._read(self._file)
        except OSError as error:
            self._close()
            raise self._failure(error) from error
        except FeatureError:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def append(self, vectors: Matrix) -> None:
        """Add a finished batch.

        Parameters
        ----------
        vectors : ndarray
            float32 [rows, D].

        Raises
        ------
        FeatureError
            If the disk does not take it.
        """
        if self._file is None:
            raise RuntimeError(f"{self.path} is not open.")
        values = np.ascontiguousarray(vectors, dtype="<f4")
        try:
            self._file.write(_record(values.shape, values.tobytes()))
            self._file.flush()  # what the system has been given survives a kill of this process
        except OSError as error:
            raise self._failure(error) from error
        self.batches.append((values.shape[0], values.shape[1]))

    def vectors(self) -> Iterator[Matrix]:
        """The finished batches, float32 [rows, D], one after the other from the file.

        Raises
        ------
        FeatureError
            If the file is not as it was when it was opened.
        """
        if self._file is None:
            raise RuntimeError(f"{self.path} is not open.")
        self._file.seek(len(self._header))
        for shape in list(self.batches):
            batch = _next_batch(self._file)
            if batch is None or batch.shape != shape:
                raise FeatureError(
                    f"{self.path} changed while it was used; run the same command again."
                )
            yield batch

    def discard(self) -> None:
        """Remove the file, once the features are saved."""
        self.path.unlink(missing_ok=True)

    def _read(self, file: IO[bytes]) -> None:
        file.seek(0)
        start = file.readline()
        if start != self._header:
            if start.endswith(b"\n"):
                logger.info("%s belongs to other inputs or options; beginning anew.", self.path)
            file.truncate(0)
            file.write(self._header)
            file.flush()
            return
        end = file.tell()
        while (batch := _next_batch(file)) is not None:
            self.batches.append((batch.shape[0], batch.shape[1]))
            end = file.tell()
        file.truncate(end)

    def _lock(self, file: IO[bytes]) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FeatureError(
                f"{self.path} is being written by another process; wait until that has finished."
            ) from error
        except OSError:  # a network file system without locks
            logger.debug("%s cannot be locked.", self.path)

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk, which the write has told of
                self._file.close()
            self._file = None

    def _failure(self, error: OSError) -> FeatureError:
        return FeatureError(
            f"{self.path} cannot be written ({error.strerror or error}); make room or correct the "
            "folder's permissions, and the same command goes on from the batches that are there."
        )


def encode_batches(
    encoder: BatchEncoder[T],
    inputs: Sequence[T],
    partial: Partial | None = None,
    sizes: Sequence[int] | None = None,
    progress: bool = True,
) -> Matrix:
    """Encode `inputs` batch by batch, going on from the batches that `partial` holds.

    Parameters
    ----------
    encoder : BatchEncoder
    inputs : sequence
        N inputs, at least one.
    partial : Partial, optional
        Open, with a recipe that tells `encoder` and `inputs`.
    sizes : sequence of int, optional
        One per input: the largest come first, so that inputs of a batch are alike and need little
        padding, and memory that does not suffice shows at once.
    progress : bool
        Show inputs, rate and time left.

    Returns
    -------
    ndarray
        float32 [N, D], in the order of `inputs`.

    Raises
    ------
    FeatureError
        If `partial` cannot be written or the encoder fails.
    """
    order = np.arange(len(inputs))
    if sizes is not None:
        order = np.argsort(-np.asarray(sizes, dtype=np.int64), kind="stable")
    chunks = [
        order[start : start + encoder.batch_size]
        for start in range(0, len(order), encoder.batch_size)
    ]
    finished = list(partial.batches) if partial else []
    done = [chunk.size for chunk in chunks[: len(finished)]]
    if [rows for rows, _ in finished] != done:
        raise RuntimeError("The recipe of a partial encoding does not tell its batches.")
    if finished:
        logger.info("Going on after %d of %d batches.", len(finished), len(chunks))
    vectors: Matrix | None = None
    kept = partial.vectors() if partial else iter(())
    for chunk, batch in zip(chunks[: len(finished)], kept, strict=True):
        vectors = _placed(vectors, chunk, batch, len(inputs))
    title = f"encoding ({encoder.name})"
    with tqdm(
        total=len(inputs), initial=sum(done), desc=title, unit=" items", disable=not progress
    ) as bar:
        for chunk in chunks[len(finished) :]:
            batch = encoder.encode_batch([inputs[row] for row in chunk])
            if partial:
                partial.append(batch)
            vectors = _placed(vectors, chunk, batch, len(inputs))
            bar.update(chunk.size)
    if vectors is None:
        raise ValueError("There are no inputs to encode.")
    return vectors


def _placed(
    vectors: Matrix | None, rows: npt.NDArray[np.intp], batch: Matrix, total: int
) -> Matrix:
    """`vectors` with a batch in its rows; made, of `total` rows, for the first one."""
    if vectors is None:
        vectors = np.empty((total, batch.shape[1]), dtype=np.float32)
    if batch.shape != (len(rows), vectors.shape[1]):
        raise ValueError(
            f"A batch of {len(rows)} inputs has the shape {batch.shape}, not "
            f"{(len(rows), vectors.shape[1])}."
        )
    vectors[rows] = batch
    return vectors


def _record(shape: tuple[int, ...], content: bytes) -> bytes:
    head = _SHAPE.pack(*shape)
    return head + hashlib.sha256(head + content).digest() + content


def _next_batch(file: IO[bytes]) -> Matrix | None:
    """The batch of the record that begins here, or None where there is no whole one."""
    head = file.read(_SHAPE.size)
    if len(head) < _SHAPE.size:
        return None
    rows, dim = _SHAPE.unpack(head)
    digest, length = file.read(_DIGEST), 4 * rows * dim
    if length > os.fstat(file.fileno()).st_size - file.tell():  # nonsense or cut short
        return None
    content = file.read(length)
    if hashlib.sha256(head + content).digest() != digest:
        return None
    return np.frombuffer(content, dtype="<f4").reshape(rows, dim)
