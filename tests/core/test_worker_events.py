"""Workers that join, are measured, fall silent, leave and are lost."""

from __future__ import annotations

from typing import Any

from distmap.core import events as ev


def test_a_heartbeat_moves_a_worker(harness: Any, pick: Any) -> None:
    """Measured figures count from then on."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    harness.send(ev.WorkerMeasured(1, 0.0, 0.1, 0.99))
    assert {assign.worker for assign in harness.job(size=2)} == {2}


def test_draining_takes_back_what_waits(harness: Any, pick: Any) -> None:
    """A worker that wants to leave finishes what runs, gets nothing new, and nobody is charged."""
    harness.send(ev.WorkerJoined(1, 1))
    running, waiting = harness.job(size=3)
    assert harness.send(ev.WorkerDraining(1)) == [ev.Revoke(1, 0, waiting.attempt, 0)]
    assert pick(harness.report(running), ev.Deliver)
    assert harness.report(waiting, hi=0) == []
    assert harness.send(ev.WorkerLost(1, charged=False)) == []
    assert harness.snapshot().losses == 0
    harness.finish(harness.feed(harness.send(ev.WorkerJoined(2, 1))))
    assert harness.commands[-1] == ev.Finish(1, "done")


def test_a_suspect_worker_gets_nothing_new(harness: Any, pick: Any) -> None:
    """Until it is trusted again; what it reports meanwhile counts."""
    harness.send(ev.WorkerJoined(1, 1))
    running, _waiting = harness.job(size=9)
    harness.send(ev.WorkerSuspected(1))
    out = harness.report(running)
    assert pick(out, ev.Deliver)
    assert not pick(out, ev.Read)
    assert harness.snapshot().lanes[0].state == "suspect"
    assert pick(harness.send(ev.WorkerTrusted(1)), ev.Read)


def test_what_a_lost_worker_still_says_changes_nothing(harness: Any, pick: Any) -> None:
    """Late news of a worker that was given up is legal; its results are refused and counted."""
    harness.send(ev.WorkerJoined(1, 1))
    running, _waiting = harness.job(size=2)
    harness.send(ev.WorkerLost(1))
    late = [
        *(ev.WorkerLost(1), ev.WorkerSuspected(1), ev.WorkerTrusted(1), ev.WorkerDraining(1)),
        *(ev.WorkerMeasured(1, 0.1, 0.1, 0.1), ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0)),
        ev.AttemptProgressed(running.attempt, 0),
    ]
    assert harness.send(*late) == []
    assert harness.report(running) == [ev.Discard(running.attempt, 0, 1)]
    assert harness.report(running, hi=0) == []
    assert harness.snapshot().duplicates == 1
