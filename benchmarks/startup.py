"""Time what every user waits for first: the help, the import, and a run of `Pop` to its table.

Each is a process of its own, started anew; the first start does not count. Run directories are
temporary, and the dataset is prepared before.

    python benchmarks/startup.py --dataset=Beauty
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

from measuring import Goal, median_seconds, print_result

PROGRAM = [sys.executable, "-m", "recbole_hellm"]


def started(command: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="Beauty")
    parser.add_argument("--data-path", default="dataset")
    parser.add_argument("--times", type=int, default=5, help="timed starts of each command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        settings = {"dataset": options.dataset, "data_path": options.data_path, "runs_dir": runs}
        given = [f"--{key}={value}" for key, value in settings.items()]
        pop = [*PROGRAM, "run", "--model=Pop", *given, "--force=True", "--show_progress=False"]
        commands = {
            "help": [*PROGRAM, "--help"],
            "import": [sys.executable, "-c", "import recbole_hellm"],
            "pop": pop,
        }
        seconds = {
            name: median_seconds(lambda line=command: started(line), options.times)  # type: ignore[misc]
            for name, command in commands.items()
        }
    goals = (
        Goal("seconds of `recbole-hellm --help`", seconds["help"], 0.5),
        Goal("seconds of `import recbole_hellm`", seconds["import"], 1.0),
        Goal(f"seconds of `run --model=Pop --dataset={options.dataset}`", seconds["pop"], 8.0),
    )
    print_result(
        "startup",
        {f"{name}_seconds": value for name, value in seconds.items()},
        goals,
        f"Each is a process of its own; the median of {options.times} after one.",
    )


if __name__ == "__main__":
    main()
