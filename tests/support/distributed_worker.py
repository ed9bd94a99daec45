"""One of several processes that run what a file tells; started by processes.py.

Usage: distributed_worker.py PLAN.json, where the plan lists steps ``{"model", "dataset",
"options"}``: runs, or kills where ``"dies_in"`` names the epoch, or copies of a folder where
``"copy"`` names two.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from recbole_hellm import run
from recbole_hellm.cli import main as cli
from recbole_hellm.training.distributed import process_group
from recbole_hellm.training.trainer import RunTrainer


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


def carry_out(step: dict[str, Any], first: bool) -> None:
    if "copy" in step:
        if first:
            shutil.copytree(*step["copy"])
    elif "arguments" in step:
        assert cli.main(step["arguments"]) == 0
    elif "dies_in" in step:
        original = RunTrainer._log_epoch

        def dying(self: Any, epoch: int, *given: Any) -> None:
            if self.config["model"] == step["model"] and epoch == step["dies_in"]:
                raise Killed
            original(self, epoch, *given)

        RunTrainer._log_epoch = dying  # type: ignore[method-assign]
        try:
            run(step["model"], "tiny", **step["options"])
            raise AssertionError("it did not die")
        except Killed:
            RunTrainer._log_epoch = original  # type: ignore[method-assign]
    else:
        run(step["model"], step["dataset"], **step["options"])


def main() -> None:
    plan = Path(sys.argv[1])
    written: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = "w" in mode if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            if writes and isinstance(path, (str, bytes)):
                written.append(os.fsdecode(path))

    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("recbole_hellm").setLevel(logging.INFO)
    with process_group() as processes:
        sys.addaudithook(watch)
        for step in json.loads(plan.read_text()):
            carry_out(step, processes.first)
            processes.barrier()
    plan.with_name(f"written-{processes.rank}.json").write_text(json.dumps(written))


if __name__ == "__main__":
    main()
