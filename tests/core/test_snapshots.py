"""What views are given."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.progress import Lane


def test_a_job_seen_while_it_runs(desk: Any) -> None:
    """Items finished and in flight, rate, time left, and a lane per worker that may run it."""
    desk.tell(ev.WorkerJoined(1, 1, "lab7"), ev.WorkerJoined(2, 2, "other", tags=frozenset({"x"})))
    assigns = desk.job(size=8, chunksize=2, tags=frozenset({"x"}), name="squares")
    desk.now += 1.0
    desk.report(assigns[0], seconds=1.0)
    seen = desk.snapshot()
    assert (seen.name, seen.state, seen.total, seen.done, seen.in_flight) == ("squares", "running", 8, 2, 6)
    assert (seen.elapsed, seen.rate, seen.eta) == (1.0, 2.0, 3.0)
    assert seen.lanes == (Lane("other", 2, "busy", 2, 1, 6, 0.5),)


def test_a_lost_worker_keeps_its_lane(desk: Any) -> None:
    """If it did something for the job; states of the others are told."""
    for worker in (1, 2, 3, 4):
        desk.tell(ev.WorkerJoined(worker, 1))
    assigns = desk.job(size=4, chunksize=1)
    desk.report(assigns[0])
    desk.report(assigns[1])
    desk.tell(ev.WorkerLost(assigns[0].worker), ev.WorkerSuspected(assigns[1].worker), ev.WorkerLost(4, charged=False))
    states = {lane.name: lane.state for lane in desk.snapshot().lanes}
    assert states == {"worker 1": "lost", "worker 2": "suspect", "worker 3": "busy"}
    assert desk.snapshot().losses == 1


def test_idle_lanes(desk: Any) -> None:
    """A worker with nothing of this job is idle, whether it had some before or not."""
    desk.tell(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1), ev.WorkerJoined(3, 1))
    (assign,) = desk.job(1, pushed=True) or desk.feed(desk.tell(ev.ItemsAdded(1, 1)))
    assert {lane.state for lane in desk.snapshot().lanes} == {"idle", "busy"}
    desk.report(assign)
    desk.tell(ev.WorkerSuspected(3))
    assert [lane.state for lane in desk.snapshot().lanes].count("idle") == 2


def test_the_total_of_pushed_items(desk: Any) -> None:
    """Unknown while more may come, then what was announced."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(pushed=True)
    desk.feed(desk.tell(ev.ItemsAdded(1, 5)))
    assert desk.snapshot().total is None
    desk.tell(ev.InputClosed(1))
    assert desk.snapshot().total == 5


def test_done_never_goes_back(desk: Any) -> None:
    """Items inside a chunk that was lost stay counted."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign,) = desk.job(size=10, chunksize=10)
    desk.tell(ev.AttemptProgressed(assign.attempt, 7))
    assert desk.snapshot().done == 7
    desk.tell(ev.WorkerLost(1))
    assert desk.snapshot().done == 7


def test_busy_is_a_share(desk: Any) -> None:
    """Between nothing and all of the slots' time, whatever the reports claim."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign, _) = desk.job(size=2)
    desk.report(assign, seconds=5.0)
    assert desk.snapshot().lanes[0].busy == 0.0
    desk.now += 1.0
    assert desk.snapshot().lanes[0].busy == pytest.approx(1.0)


def test_a_worker_whose_slots_all_rest(desk: Any) -> None:
    """Its lane says so, whether it has done something for the job or not."""
    desk.tell(ev.WorkerJoined(1, 2))
    (first, *_) = desk.job(size=9, chunksize=1)
    desk.feed(desk.report(first))
    for slot in (0, 1):
        assert desk.snapshot().lanes[0].state == "busy"
        for _ in range(4):
            desk.tell(ev.SlotDied(1, slot, None, None, "idle"), ev.SlotReady(1, slot))
        desk.report(next(command for command in reversed(desk.said) if isinstance(command, ev.Assign)))
        desk.tell(ev.SlotDied(1, slot, None, None, "idle"), ev.SlotReady(1, slot))
    assert [lane.state for lane in desk.snapshot().lanes] == ["resting"]
    desk.tell(ev.WorkerJoined(2, 1))
    assert [lane.state for lane in desk.snapshot().lanes] == ["busy", "resting"]
    for _ in range(5):
        desk.tell(ev.SlotDied(2, 0, None, None, "idle"), ev.SlotReady(2, 0))
    assert [lane.state for lane in desk.snapshot().lanes] == ["resting", "resting"]
