"""Workers that join, are measured, fall silent, leave and are lost."""

from __future__ import annotations

from typing import Any

from distmap.core import events as ev


def test_a_heartbeat_moves_a_worker(desk: Any, pick: Any) -> None:
    """Measured figures count from then on."""
    desk.tell(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    desk.tell(ev.WorkerMeasured(1, 0.0, 0.1, 0.99))
    assert {assign.worker for assign in desk.job(size=2)} == {2}


def test_draining_takes_back_what_waits(desk: Any, pick: Any) -> None:
    """A worker that wants to leave finishes what runs, gets nothing new, and nobody is charged."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=3)
    assert desk.tell(ev.WorkerDraining(1)) == [ev.Revoke(1, 0, waiting.attempt, 0)]
    assert pick(desk.report(running), ev.Deliver)
    assert desk.report(waiting, hi=0) == []
    assert desk.tell(ev.WorkerLost(1, charged=False)) == []
    assert desk.snapshot().losses == 0
    desk.finish(desk.feed(desk.tell(ev.WorkerJoined(2, 1))))
    assert desk.said[-1] == ev.Finish(1, "done")


def test_a_suspect_worker_gets_nothing_new(desk: Any, pick: Any) -> None:
    """Until it is trusted again; what it reports meanwhile counts."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, _waiting = desk.job(size=9)
    desk.tell(ev.WorkerSuspected(1))
    out = desk.report(running)
    assert pick(out, ev.Deliver)
    assert not pick(out, ev.Read)
    assert desk.snapshot().lanes[0].state == "suspect"
    assert pick(desk.tell(ev.WorkerTrusted(1)), ev.Read)


def test_what_a_lost_worker_still_says_changes_nothing(desk: Any, pick: Any) -> None:
    """Late news of a worker that was given up is legal; its results are refused and counted."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, _waiting = desk.job(size=2)
    desk.tell(ev.WorkerLost(1))
    late = [
        *(ev.WorkerLost(1), ev.WorkerSuspected(1), ev.WorkerTrusted(1), ev.WorkerDraining(1)),
        *(ev.WorkerMeasured(1, 0.1, 0.1, 0.1), ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0)),
        ev.AttemptProgressed(running.attempt, 0),
    ]
    assert desk.tell(*late) == []
    assert desk.report(running) == [ev.Discard(running.attempt, 0, 1)]
    assert desk.report(running, hi=0) == []
    assert desk.snapshot().duplicates == 1
