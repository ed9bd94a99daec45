"""The trackers of a run, told together."""

from __future__ import annotations

import contextlib
import logging
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.errors import reason, without_passwords
from recbole_hellm.tracking.finding import make_trackers
from recbole_hellm.tracking.tracker import Status, TrackedRun, Tracker
from recbole_hellm.training.distributed import current

logger = logging.getLogger(__name__)


class Tracking:
    """Tells each tracker the same, and each epoch once.

    A tracker that fails after its start is left out from then on, with a warning. At the end of a
    ``with`` block, trackers are told how it ended.

    Parameters
    ----------
    trackers : Mapping of str to Tracker
        By name; none in processes beside the first.
    searched : Mapping
        What a trial of ``tune`` tries; empty for other runs.
    """

    def __init__(
        self,
        trackers: Mapping[str, Tracker] | None = None,
        searched: Mapping[str, Any] | None = None,
    ) -> None:
        self._trackers = dict(trackers or {})
        self._started: dict[str, int] = {}  # the epochs that each one holds
        self.searched = dict(searched or {})

    @classmethod
    def of(cls, config: Mapping[str, Any], searched: Mapping[str, Any] | None = None) -> Tracking:
        """The trackers that a configuration names; none in processes beside the first.

        Raises
        ------
        ConfigError
            If one cannot be had.
        """
        names = RunSettings.from_config(config).trackers if current().first else ()
        return cls(make_trackers(names), searched)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the trackers that are still told."""
        return tuple(self._trackers)

    def start(
        self,
        run: TrackedRun,
        settings: Mapping[str, Any],
        curves: Mapping[int, Mapping[str, float]],
    ) -> None:
        """Start all trackers, and tell them of earlier epochs that they do not hold.

        Parameters
        ----------
        run : TrackedRun
        settings : Mapping
        curves : Mapping
            Values by name of each earlier epoch, in order.
        """
        # At most, one has the epoch whose checkpoint was not written any more.
        most = max(curves, default=-1) + 2
        for name, tracker in self._trackers.items():
            self._started[name] = min(int(tracker.start(run, settings) or 0), most)
        for step, values in curves.items():
            self.curves(values, step)

    def curves(self, values: Mapping[str, float], step: int) -> None:
        """Tell those that do not hold it of an epoch."""
        new = [name for name, held in self._started.items() if step >= held]
        self._tell("an epoch", lambda tracker: tracker.curves(values, step), new)

    def results(self, metrics: Mapping[str, float], step: int) -> None:
        """Tell of what the run came to."""
        self._tell("results", lambda tracker: tracker.results(metrics, step))

    def artefacts(self, directory: Path, names: Iterable[str]) -> None:
        """Tell of files in the run directory, by names of files and folders; passes over others."""
        for name in names:
            path = directory / name
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    self._hand_over(file, file.relative_to(directory).as_posix())

    def _hand_over(self, path: Path, name: str) -> None:
        self._tell(f"the file {name}", lambda tracker: tracker.artefact(path, name))

    def finish(self, status: Status) -> None:
        """Tell of the end; only the first call counts."""
        self._tell("the end", lambda tracker: tracker.finish(status))
        self._started.clear()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        ended_by_error: Status = "failed" if isinstance(error, Exception) else "stopped"
        self.finish("finished" if error is None else ended_by_error)

    def _tell(
        self, what: str, tell: Callable[[Tracker], None], names: Iterable[str] | None = None
    ) -> None:
        for name in list(self._started if names is None else names):
            tracker = self._trackers[name]
            try:
                tell(tracker)
            except Exception as error:  # whatever it is, a training is worth more
                logger.warning(
                    "The tracker %s failed at %s (%s: %s); training goes on without it.",
                    *(name, what, type(error).__name__, without_passwords(reason(error))),
                )
                logger.debug("The tracker %s failed:", name, exc_info=True)
                del self._trackers[name], self._started[name]
                with contextlib.suppress(Exception):  # it may hold files open
                    tracker.finish("failed")
