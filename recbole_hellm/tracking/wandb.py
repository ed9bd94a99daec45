"""The Weights & Biases tracker: a folder to send later, or their server."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Before the import, which reads it: nothing is sent that nobody asked for.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.errors import ConfigError, reason
from recbole_hellm.tracking.tracker import Status, TrackedRun, Tracker

logger = logging.getLogger(__name__)

LONGEST_WAIT = 120
"""Seconds that the end of a run waits for what is left to upload."""


class WandbTracker(Tracker):
    """Writes into ``<runs_dir>/wandb``, and sends it with ``wandb_mode=online``.

    An offline run loses what its process held when it was killed, and cannot be continued. A
    resumed training therefore writes all of its epochs into a new folder, which replaces the one
    before.
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._offline = True

    def start(self, run: TrackedRun, settings: Mapping[str, Any]) -> int:
        """Begin the run; the name of the training is its id.

        Raises
        ------
        ConfigError
            If it cannot begin, for want of a login for example.
        """
        chosen = RunSettings.from_config(run.options)
        self._offline = chosen.wandb_mode == "offline"
        earlier = _folders(chosen, run) if self._offline and run.resumed else []
        # What the other trackers are not told of either is left out.
        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            reinit="create_new",
            finish_timeout=LONGEST_WAIT,
        )
        try:
            self._run = wandb.init(
                project=chosen.tracking_project,
                id=run.training,
                name=run.name,
                tags=[run.model, run.dataset],
                job_type="tune" if "searched" in settings else "train",
                config=dict(settings),
                dir=chosen.runs_dir,
                mode=chosen.wandb_mode,
                resume=None if self._offline else "allow",
                settings=quiet,
            )
        except Exception as error:  # its errors have no class in common
            raise ConfigError(
                f"Weights & Biases cannot start ({reason(error)}); mend that, write "
                "--wandb_mode=offline, or take wandb out of --trackers."
            ) from error
        for folder in earlier:
            shutil.rmtree(folder, ignore_errors=True)
        return int(self._run.step) if run.resumed else 0

    def curves(self, values: Mapping[str, float], step: int) -> None:
        """Log a row."""
        self._run.log(dict(values), step=step, commit=True)

    def results(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the run's summary."""
        self._run.summary.update(dict(metrics))

    def artefact(self, path: Path, name: str) -> None:
        """Copy a file into the run's folder, from where it is sent."""
        # In a folder, since W&B has a config.yaml of its own.
        copy = Path(self._run.dir) / "run" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        self._run.save(str(copy), base_path=self._run.dir, policy="now")

    def finish(self, status: Status) -> None:
        """End the run."""
        if self._run is None:
            return
        folder = Path(self._run.dir).parent
        self._run.finish(exit_code=0 if status == "finished" else 1)
        self._run = None
        if self._offline:
            logger.info("Weights & Biases: `wandb sync %s` sends this run.", folder)


def _folders(chosen: RunSettings, run: TrackedRun) -> list[Path]:
    """Folders of this training's earlier, killed processes."""
    return sorted(Path(chosen.runs_dir, "wandb").glob(f"offline-run-*-{run.training}"))
