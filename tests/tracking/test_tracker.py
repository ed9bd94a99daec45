from __future__ import annotations

from pathlib import Path

from recbole_hellm.tracking.tracker import TrackedRun, Tracker


class Quiet(Tracker):
    """Defines nothing."""


def test_what_a_tracker_does_not_define_does_nothing() -> None:
    run = TrackedRun("BPR", "tiny", "0123", Path("runs/tiny/BPR/0123"), "name", False, {})
    assert run.name == "tiny/BPR/0123"
    quiet = Quiet()
    assert quiet.start(run, {}) == 0
    quiet.curves({"loss/total": 1.0}, 0)
    quiet.results({"best/epoch": 1}, 0)
    quiet.artefact(Path("metrics.json"), "metrics.json")
    quiet.finish("finished")
