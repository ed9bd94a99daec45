"""What a tracker is: an object that is told of a run while it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["finished", "failed", "stopped"]
"""How a training ended: as it should, by an error, or by its user or a search's pruning."""

LOCAL_STORES = ("mlflow", "wandb")
"""Folders in ``runs_dir`` in which trackers keep what they were told."""


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is told of.

    Attributes
    ----------
    model, dataset, id : str
        The three parts of its directory's name.
    directory : Path
        Its directory.
    training : str
        A name for this training alone. It stays the same when the training is resumed, and is a
        new one when the run is trained again.
    resumed : bool
        Whether a tracker may have been told of this training before.
    options : Mapping
        All settings of the run by key, for a tracker's own needs.
    """

    model: str
    dataset: str
    id: str
    directory: Path
    training: str
    resumed: bool
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``<dataset>/<model>/<id>``."""
        return f"{self.dataset}/{self.model}/{self.id}"


class Tracker(Protocol):
    """Told of a run's settings, curves, metrics and files; in several processes only the first is.

    A class of your own needs a constructor without arguments and these five methods. Derived from
    this class, it inherits those that it does not define, which do nothing. An exception of
    ``start`` ends the run before it trains. After any other one the tracker is left out, and
    training goes on.
    """

    def start(self, run: TrackedRun, settings: Mapping[str, Any]) -> int:
        """Begin a run, or continue the one of the same ``run.training``.

        Parameters
        ----------
        run : TrackedRun
        settings : Mapping
            The settings to show: texts, numbers, truth values, None, lists and mappings of these.

        Returns
        -------
        int
            Number of epochs whose curves the tracker holds already. Resumed, it is told of those
            that follow, and of no epoch twice.
        """
        return 0

    def curves(self, values: Mapping[str, float], step: int) -> None:
        """The values of an epoch by name, such as ``loss/total``; steps count epochs from 0."""

    def results(self, metrics: Mapping[str, float], step: int) -> None:
        """What the run came to, by name, and the epoch that validation chose.

        Files in the run directory have to be complete after this call: their checksums follow. A
        trial of ``tune`` has no test metrics; if the run is tested later, this is called again.
        """

    def artefact(self, path: Path, name: str) -> None:
        """A file of the run, and its name relative to the run directory, with slashes."""

    def finish(self, status: Status) -> None:
        """The end of the training; nothing follows."""
