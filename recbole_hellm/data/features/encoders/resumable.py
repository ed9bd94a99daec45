"""Encoding in batches that survives a kill.

Two files beside the features hold the finished batches. ``<modality>-<encoder>.partial`` is the
matrix in NumPy's .npy format, with a row per input. ``<modality>-<encoder>.partial.progress`` is
text: one line with the recipe, then one line per finished batch with the SHA-256 of its rows. If a
kill or a full disk damaged a batch, its checksum shows it, and the batch is computed again. The
inputs and the recipe alone decide which inputs share a batch, and every batch is computed by
itself. A matrix made in several runs is therefore identical, bit for bit, to one made in one run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from recbole_hellm.data.features.encoders.base import BatchEncoder
from recbole_hellm.errors import FeatureError
from recbole_hellm.progress import progress_bar
from recbole_hellm.storage.files import write_text
from recbole_hellm.storage.locks import locked

logger = logging.getLogger(__name__)

T = TypeVar("T")
Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
_FORMAT = 2


class Partial:
    """The finished batches of one encoding: a matrix on disk and a progress file.

    Use it as a context manager, which keeps other processes from the files.

    Parameters
    ----------
    path : Path
        The matrix; its folder is created if it is missing.
    recipe : mapping of str to str or int
        Everything that decides the vectors and their batches. Batches of another recipe are
        discarded.

    Attributes
    ----------
    matrix : ndarray or None
        float32 [N, D], mapped from the file; None while there is no finished batch.
    """

    def __init__(self, path: Path, recipe: Mapping[str, str | int]) -> None:
        self.path = path
        self.matrix: Matrix | None = None
        self._progress_path = path.with_name(f"{path.name}.progress")
        self._header = json.dumps({"format": _FORMAT, **recipe}, sort_keys=True) + "\n"
        self._rows = 0
        self._resources = contextlib.ExitStack()
        self._progress: IO[str] | None = None

    def __enter__(self) -> Partial:
        busy = FeatureError(
            f"{self.path} is being written by another process; wait until that has finished."
        )
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(f"{self.path.name}.lock")
            self._resources.enter_context(locked(lock, busy))
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._resources.close()

    def resume(self, batches: Sequence[Rows]) -> int:
        """Open the files and find the batches that are finished.

        Parameters
        ----------
        batches : sequence of ndarray
            The rows of every batch, in the order of encoding.

        Returns
        -------
        int
            How many batches, from the first on, are complete in :attr:`matrix`.

        Raises
        ------
        FeatureError
            If the files cannot be written.
        """
        self._rows = sum(map(len, batches))
        with self._writing():
            checksums = self._read()
            finished = 0
            for rows, checksum in zip(batches, checksums, strict=False):
                if self.matrix is None or _checksum(self.matrix[rows]) != checksum:
                    break
                finished += 1
            if not finished:
                self.matrix = None
            lines = [f"{checksum}\n" for checksum in checksums[:finished]]
            write_text(self._progress_path, self._header + "".join(lines))
            self._progress = self._progress_path.open("a", encoding="utf-8", newline="\n")
        return finished

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Add a finished batch.

        Parameters
        ----------
        rows : ndarray
            Its rows in the matrix.
        vectors : ndarray
            float32 [len(rows), D].

        Raises
        ------
        FeatureError
            If the disk is full.
        """
        if self._progress is None:
            raise RuntimeError(f"{self.path} is not open.")
        with self._writing():
            if self.matrix is None:
                self.matrix = _create(self.path, (self._rows, vectors.shape[1]))
            self.matrix[rows] = vectors
            self._progress.write(f"{_checksum(vectors)}\n")
            self._progress.flush()  # what the system has received survives a kill of this process

    def discard(self) -> None:
        """Remove the files, once the features are saved."""
        self._close()
        self.path.unlink(missing_ok=True)
        self._progress_path.unlink(missing_ok=True)

    def _read(self) -> list[str]:
        """Open the matrix and read the checksums of its batches; [] to start anew."""
        try:
            text = self._progress_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        header, line_end, checksums = text.partition("\n")
        if header + line_end != self._header:
            if line_end:
                logger.info("%s belongs to other inputs or options; beginning anew.", self.path)
            return []
        try:
            matrix = open_memmap(self.path, "r+")
        except (FileNotFoundError, ValueError, SyntaxError, TokenError):  # no .npy file, or damaged
            return []
        if matrix.dtype != np.float32 or matrix.ndim != 2 or len(matrix) != self._rows:
            return []
        self.matrix = matrix
        return checksums.splitlines()

    def _close(self) -> None:
        self.matrix = None
        if self._progress is not None:
            with contextlib.suppress(OSError):  # a full disk, which `add` has reported
                self._progress.close()
            self._progress = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FeatureError(
                f"{self.path} cannot be written ({error.strerror or error}); make room or correct "
                "the folder's permissions, and the same command goes on from the finished batches."
            ) from error


def encode_batches(
    encoder: BatchEncoder[T],
    inputs: Sequence[T],
    partial: Partial | None = None,
    sizes: Sequence[int] | None = None,
    progress: bool = True,
) -> Matrix:
    """Encode `inputs` batch by batch, going on from the batches in `partial`.

    Parameters
    ----------
    encoder : BatchEncoder
    inputs : sequence
        N inputs, at least one.
    partial : Partial, optional
        Open, with a recipe that identifies `encoder` and `inputs`.
    sizes : sequence of int, optional
        One per input. The largest inputs come first: the inputs of a batch are then of similar
        size and need little padding, and insufficient memory shows at once.
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
    if not len(inputs):
        raise ValueError("There are no inputs to encode.")
    order = np.arange(len(inputs))
    if sizes is not None:
        order = np.argsort(-np.asarray(sizes, dtype=np.int64), kind="stable")
    batches = np.split(order, np.arange(encoder.batch_size, len(order), encoder.batch_size))
    finished = partial.resume(batches) if partial else 0
    if finished:
        logger.info("Going on after %d of %d batches.", finished, len(batches))
    done = sum(map(len, batches[:finished]))
    matrix = partial.matrix if partial else None
    with progress_bar(
        show=progress,
        total=len(inputs),
        initial=done,
        desc=f"encoding ({encoder.name})",
        unit=" items",
    ) as bar:
        for rows in batches[finished:]:
            vectors = encoder.encode_batch([inputs[row] for row in rows])
            shape = (len(rows), vectors.shape[1] if matrix is None else matrix.shape[1])
            if vectors.shape != shape:
                raise ValueError(
                    f"A batch of {len(rows)} inputs has the shape {vectors.shape}, not {shape}."
                )
            if partial:
                partial.add(rows, vectors)
                matrix = partial.matrix
            else:
                if matrix is None:
                    matrix = np.empty((len(inputs), shape[1]), dtype=np.float32)
                matrix[rows] = vectors
            bar.update(len(rows))
    return np.array(matrix) if partial else np.asarray(matrix)  # a copy outlives the file


def _create(path: Path, shape: tuple[int, int]) -> Matrix:
    matrix = open_memmap(path, "w+", np.float32, shape)
    # Reserve the space now: on a full disk a write to a mapped file kills the process.
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not on this file system
                raise
    return matrix


def _checksum(vectors: Matrix) -> str:
    return hashlib.sha256(np.asarray(vectors, dtype=np.float32).tobytes()).hexdigest()
