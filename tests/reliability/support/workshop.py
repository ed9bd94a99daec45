"""Two processes that have imported everything and carry out tries in forks of themselves."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import queue
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HELLM_MIRRORS": "none",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "100",
}


class Workshop:
    """Processes that call functions of this suite.

    Parameters
    ----------
    folder : Path
        Where they work.
    size : int
        How many.
    """

    def __init__(self, folder: Path, size: int = 2) -> None:
        context = multiprocessing.get_context("spawn")
        os.environ.update(ENVIRONMENT)
        os.environ.pop("HELLM_RAW_DIR", None)
        self.free: queue.Queue[Connection] = queue.Queue()
        self.size = size
        self.processes = []
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, folder), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.free.put(ours)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The value of a function in one of the processes."""
        connection = self.free.get()
        try:
            connection.send((function, arguments))
            done, value = connection.recv()
        finally:
            self.free.put(connection)
        if not done:
            raise AssertionError(f"the suite itself failed:\n{value}")
        return value

    def map(self, function: Callable[..., Any], every: Iterable[tuple[Any, ...]]) -> list[Any]:
        """The values of a function for many arguments, in their order."""
        tasks = list(every)
        values: list[Any] = [None] * len(tasks)
        errors: list[BaseException] = []
        numbers = iter(range(len(tasks)))
        lock = threading.Lock()

        def work() -> None:
            while not errors:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                try:
                    values[number] = self.call(function, *tasks[number])
                except BaseException as error:
                    errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return values

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function in each of the processes."""
        taken = [self.free.get() for _ in range(self.size)]
        for connection in taken:
            connection.send((function, arguments))
        for connection in taken:
            done, value = connection.recv()
            assert done, value
            self.free.put(connection)

    def close(self) -> None:
        """End the processes."""
        while not self.free.empty():
            self.free.get().close()
        for process in self.processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()


def _serve(connection: Connection, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    # `compare` starts workers, which daemons may not do.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    tempfile.tempdir = str(folder)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            function, arguments = connection.recv()
            try:
                connection.send((True, function(*arguments)))
            except Exception:
                connection.send((False, traceback.format_exc()))


def load(names: Iterable[str]) -> int:
    """Import modules in this process; returns how many could be."""
    from recbole_hellm import compat

    loaded = 0
    with compat.anomaly_mode_kept():
        for name in names:
            with contextlib.suppress(Exception):  # not all can be imported by themselves
                importlib.import_module(name)
                loaded += 1
    return loaded


def imported(function: Callable[[], Any], folder: Path) -> list[str]:
    """Modules that a function imports, which is called in a fork."""
    from reliability.support.forks import call

    before = set(sys.modules)
    listed = folder.parent / f"modules-{os.getpid()}"

    def note() -> Any:
        status = function()
        listed.write_text("\n".join(name for name in sys.modules if name not in before))
        return status

    ended = call(note, folder)
    if ended.status:
        raise AssertionError(f"{ended.status}: {ended.out}\n{ended.err}")
    names = listed.read_text().split("\n")
    listed.unlink()
    return [name for name in names if name]


@contextlib.contextmanager
def copied(template: Path | None) -> Iterator[Path]:
    """A copy of a folder, or an empty one, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="try-", ignore_cleanup_errors=True) as root:
        folder = Path(root) / "here"
        if template is None:
            folder.mkdir()
        else:
            shutil.copytree(template, folder, symlinks=True)
        yield folder
