"""What views are given."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.limits import LIMITS


def test_a_job_seen_while_it_runs(harness: Any) -> None:
    """Items finished and in flight, rate, time left, and a lane per worker that may run it."""
    harness.send(ev.WorkerJoined(1, 1, "lab7"), ev.WorkerJoined(2, 2, "other", tags=frozenset({"x"})))
    assigns = harness.job(size=8, chunksize=2, tags=frozenset({"x"}), name="squares")
    harness.now += 1.0
    harness.report(assigns[0], seconds=1.0)
    seen = harness.snapshot()
    assert (seen.name, seen.state, seen.total, seen.done, seen.in_flight) == ("squares", "running", 8, 2, 6)
    assert (seen.elapsed, seen.rate, seen.eta) == (1.0, 2.0, 3.0)
    (lane,) = seen.lanes
    assert lane[:7] == ("other", 2, "busy", 2, 1, 6, 1.0)


def test_a_pause_is_not_counted_in_the_rate(harness: Any) -> None:
    """After a pause the rate begins anew; to resume what was not paused changes nothing."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=8, chunksize=8)
    harness.now += 1.0
    harness.report(assign, hi=2, ended=False)
    harness.send(ev.ResumeRequested(1))
    assert harness.snapshot().rate == 2.0
    harness.send(ev.PauseRequested(1))
    harness.now += 99.0
    harness.send(ev.ResumeRequested(1))
    assert (harness.snapshot().rate, harness.snapshot().eta) == (0.0, None)
    harness.now += 1.0
    harness.report(assign, lo=2, hi=4, ended=False)
    assert (harness.snapshot().done, harness.snapshot().rate) == (4, 2.0)


def test_a_lost_worker_keeps_its_lane(harness: Any) -> None:
    """If it did something for the job, or was about to; states of the others are told."""
    for worker in (1, 2, 3, 4):
        harness.send(ev.WorkerJoined(worker, 1))
    assigns = harness.job(size=4, chunksize=1)
    harness.report(assigns[0])
    harness.report(assigns[1])
    harness.send(
        ev.WorkerLost(assigns[0].worker), ev.WorkerSuspected(assigns[1].worker), ev.WorkerLost(4, charged=False)
    )
    states = {lane.name: lane.state for lane in harness.snapshot().lanes}
    assert states == {"worker 1": "lost", "worker 2": "suspect", "worker 3": "busy", "worker 4": "lost"}
    assert harness.snapshot().losses == 1


def test_idle_lanes(harness: Any) -> None:
    """A worker with nothing of this job is idle, whether it had some before or not."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1), ev.WorkerJoined(3, 1))
    (assign,) = harness.job(1, pushed=True) or harness.feed(harness.send(ev.ItemsAdded(1, 1)))
    assert {lane.state for lane in harness.snapshot().lanes} == {"idle", "busy"}
    harness.report(assign)
    harness.send(ev.WorkerSuspected(3))
    assert [lane.state for lane in harness.snapshot().lanes].count("idle") == 2


def test_the_total_of_pushed_items(harness: Any) -> None:
    """Unknown while more may come, then what was announced."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(pushed=True)
    harness.feed(harness.send(ev.ItemsAdded(1, 5)))
    assert harness.snapshot().total is None
    harness.send(ev.InputClosed(1))
    assert harness.snapshot().total == 5


def test_done_never_goes_back(harness: Any) -> None:
    """Items inside a chunk that was lost stay counted."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=10, chunksize=10)
    harness.send(ev.AttemptProgressed(assign.attempt, 7))
    assert harness.snapshot().done == 7
    harness.send(ev.WorkerLost(1))
    assert harness.snapshot().done == 7


def test_busy_is_a_share(harness: Any) -> None:
    """Between nothing and all of the slots' time, whatever the reports claim; what runs counts already."""
    harness.send(ev.WorkerJoined(1, 1))
    assign, *assigns = harness.job(size=2)
    assert harness.snapshot().lanes[0].busy == 0.0
    harness.now += 1.0
    assert harness.snapshot().lanes[0].busy == pytest.approx(1.0)
    harness.report(assign, seconds=0.5)
    harness.now += 1.0
    assert harness.snapshot().lanes[0].busy == pytest.approx(0.75)
    harness.report(assigns[0], seconds=5.0)
    assert harness.snapshot().lanes[0].busy == pytest.approx(1.0)


def blocks(harness: Any, name: str, job: int = 1) -> list[tuple[int, float, float, str]]:
    (lane,) = [lane for lane in harness.snapshot(job).lanes if lane.name == name]
    return [(row, round(begin, 6), round(end, 6), kind) for row, begin, end, kind in lane.blocks]


def test_the_timeline_of_a_worker(harness: Any) -> None:
    """What runs, in a row for each slot, and before it what was reported."""
    harness.now = 100.0
    harness.send(ev.WorkerJoined(1, 2, "lab7"))
    assigns = harness.job(size=8, chunksize=2, retries=1, stop_on_failure=False)
    first, second = [assign for assign in assigns if assign.attempt < 2]
    harness.now += 1.0
    assert blocks(harness, "lab7") == [(0, 0.0, 1.0, "running"), (1, 0.0, 1.0, "running")]
    harness.report(first, hi=1, seconds=0.75, ended=False)
    harness.now += 1.0
    harness.report(first, lo=1, seconds=1.0)
    harness.report(second, failed=(0,), seconds=2.0)
    harness.now += 0.5
    lane = harness.snapshot().lanes[0]
    assert lane.rows == 2
    assert blocks(harness, "lab7") == [
        (0, 2.0, 2.5, "running"),
        (1, 2.0, 2.5, "running"),
        (0, 0.25, 2.0, "done"),
        (1, 0.0, 2.0, "retried"),
    ]


def test_a_final_failure_shows(harness: Any) -> None:
    """A report with an item that failed for good is another colour than one whose items run again."""
    harness.send(ev.WorkerJoined(1, 1, "lab7"))
    assign, _ = harness.job(size=4, chunksize=2, retries=1, stop_on_failure=False)
    harness.now += 1.0
    (again,) = [c for c in harness.report(assign, failed=(0,), seconds=1.0) if isinstance(c, ev.Assign)]
    harness.now += 1.0
    harness.report(assign_of(harness, 1), seconds=1.0)
    harness.now += 1.0
    harness.report(again, failed=(0,), seconds=1.0)
    assert [kind for *_, kind in blocks(harness, "lab7")] == ["retried", "done", "failed"]


def assign_of(harness: Any, attempt: int) -> ev.Assign:
    (found,) = [c for c in harness.commands if isinstance(c, ev.Assign) and c.attempt == attempt]
    return found


def test_slots_share_rows(harness: Any) -> None:
    """Of what runs in one row the earliest shows."""
    harness.send(ev.WorkerJoined(1, 8, "big"))
    assigns = harness.job(size=24, chunksize=1)
    harness.now += 1.0
    harness.report(assigns[0], seconds=1.0)
    harness.now += 1.0
    runs = [(row, 0.0, 2.0, "running") for row in range(4)]
    assert sorted(blocks(harness, "big")) == sorted([*runs, (0, 0.0, 1.0, "done")])
    assert harness.snapshot().lanes[0].rows == 4


def test_what_was_lost_shows(harness: Any) -> None:
    """A process that died, a worker that was lost, an item that took too long; not what only waited."""
    harness.send(ev.WorkerJoined(1, 1, "a"), ev.WorkerJoined(2, 1, "b"), ev.WorkerJoined(3, 1, "c"))
    assigns = harness.job(size=30, chunksize=1, stop_on_failure=False)
    head = {assign.worker: assign for assign in reversed(assigns)}
    harness.now += 2.0
    harness.send(
        ev.SlotDied(1, 0, head[1].attempt, 0, "died"),
        ev.SlotDied(2, 0, head[2].attempt, 0, "timeout"),
        ev.WorkerLost(3),
    )
    assert blocks(harness, "a") == [(0, 0.0, 2.0, "lost")]
    assert blocks(harness, "b") == [(0, 0.0, 2.0, "failed")]
    assert blocks(harness, "c") == [(0, 0.0, 2.0, "lost")]
    assert [lane.state for lane in harness.snapshot().lanes] == ["idle", "idle", "lost"]


def test_a_process_that_died_idle_lost_nothing(harness: Any) -> None:
    """It had not begun."""
    harness.send(ev.WorkerJoined(1, 1, "a"))
    harness.job(size=3, chunksize=1)
    harness.now += 1.0
    harness.send(ev.SlotDied(1, 0, None, None, "idle"))
    assert blocks(harness, "a") == []


def test_a_job_that_is_over_has_nothing_in_flight(harness: Any) -> None:
    """Workers rest, nothing is left to wait for, and what ran at the end is shown as broken off."""
    harness.send(ev.WorkerJoined(1, 1, "a"), ev.WorkerJoined(2, 1, "b"), ev.WorkerJoined(3, 1, "c"))
    assigns = harness.job(size=30, chunksize=1)
    heads = {assign.worker: assign for assign in reversed(assigns)}
    harness.now += 1.0
    harness.send(ev.CancelRequested(1), ev.WorkerSuspected(3))
    harness.now += 0.25
    for assign in assigns:
        if assign.worker == 1:
            seconds = 1.25 if assign == heads[1] else 0.0
            harness.report(assign, hi=assign.lo, seconds=seconds)
    assert harness.snapshot().state == "cancelled"
    harness.now += 0.25
    harness.send(ev.Ticked())
    harness.now += 5.0
    seen = harness.snapshot()
    assert (seen.state, seen.in_flight, seen.eta, seen.elapsed) == ("cancelled", 0, None, 1.5)
    assert [(lane.state, lane.in_flight) for lane in seen.lanes] == [("idle", 0)] * 3
    assert blocks(harness, "a") == [(0, 0.0, 1.25, "running")]
    assert blocks(harness, "b") == blocks(harness, "c") == [(0, 0.0, 1.5, "running")]


def test_nobody_looks_at_pushed_items(harness: Any) -> None:
    """Of `submit` no timeline is kept, whatever becomes of the items."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(pushed=True)
    (assign,) = harness.feed(harness.send(ev.ItemsAdded(1, 1)))
    harness.now += 1.0
    assert harness.snapshot().lanes[0].blocks == ()
    harness.report(assign, seconds=1.0)
    assert harness.snapshot().lanes[0].blocks == ()
    harness.feed(harness.send(ev.ItemsAdded(1, 1)))
    harness.send(ev.WorkerLost(1))
    assert harness.snapshot().lanes[0].blocks == ()


def test_old_timelines_are_forgotten(harness: Any) -> None:
    """The last jobs that ended keep theirs, those before keep their numbers only."""
    harness.send(ev.WorkerJoined(1, 1))
    for job in range(LIMITS.timelines_kept + 3):
        assigns = harness.job(job, size=1)
        harness.now += 1.0
        harness.finish(assigns)
    drawn = [bool(harness.snapshot(job).lanes[0].blocks) for job in range(LIMITS.timelines_kept + 3)]
    assert drawn == [False] * 3 + [True] * LIMITS.timelines_kept
    assert harness.snapshot(0).done == 1


def test_lost_workers_leave_nothing_behind(harness: Any) -> None:
    """However many workers come and go, the timelines keep no record of them."""
    for worker in range(50):
        harness.send(ev.WorkerJoined(worker, 1), ev.WorkerLost(worker), ev.WorkerLost(worker))
    sizes = [len(value) for value in vars(harness.scheduler._timelines).values() if isinstance(value, dict)]
    assert sizes == [0] * len(sizes)


def test_the_total_of_a_job_that_ended_early(harness: Any) -> None:
    """What was read when the job was ending already belongs to the input all the same."""
    harness.send(ev.WorkerJoined(1, 1))
    assigns = harness.job(size=None, chunksize=3, feed=False)
    (read,) = [c for c in harness.commands if isinstance(c, ev.Read)]
    out = harness.send(ev.ChunkRead(1, read.chunk, 3, 24, False))
    assigns += [c for c in out if isinstance(c, ev.Assign)]
    (read,) = [c for c in out if isinstance(c, ev.Read)]
    harness.report(assigns[0], hi=2, failed=(1,), ended=False)
    harness.send(ev.ChunkRead(1, read.chunk, 2, 16, True))
    harness.report(assigns[0], lo=2, hi=2)
    seen = harness.snapshot()
    assert (seen.state, seen.done, seen.total) == ("failed", 2, 5)


def test_a_worker_whose_slots_all_rest(harness: Any) -> None:
    """Its lane says so, whether it has done something for the job or not."""
    harness.send(ev.WorkerJoined(1, 2))
    (first, *_) = harness.job(size=9, chunksize=1)
    harness.feed(harness.report(first))
    for slot in (0, 1):
        assert harness.snapshot().lanes[0].state == "busy"
        for _ in range(4):
            harness.send(ev.SlotDied(1, slot, None, None, "idle"), ev.SlotReady(1, slot))
        harness.report(next(command for command in reversed(harness.commands) if isinstance(command, ev.Assign)))
        harness.send(ev.SlotDied(1, slot, None, None, "idle"), ev.SlotReady(1, slot))
    assert [lane.state for lane in harness.snapshot().lanes] == ["resting"]
    harness.send(ev.WorkerJoined(2, 1))
    assert [lane.state for lane in harness.snapshot().lanes] == ["resting", "busy"]
    for _ in range(5):
        harness.send(ev.SlotDied(2, 0, None, None, "idle"), ev.SlotReady(2, 0))
    assert [lane.state for lane in harness.snapshot().lanes] == ["resting", "resting"]
