"""What views are given."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.limits import LIMITS


def test_a_job_seen_while_it_runs(desk: Any) -> None:
    """Items finished and in flight, rate, time left, and a lane per worker that may run it."""
    desk.tell(ev.WorkerJoined(1, 1, "lab7"), ev.WorkerJoined(2, 2, "other", tags=frozenset({"x"})))
    assigns = desk.job(size=8, chunksize=2, tags=frozenset({"x"}), name="squares")
    desk.now += 1.0
    desk.report(assigns[0], seconds=1.0)
    seen = desk.snapshot()
    assert (seen.name, seen.state, seen.total, seen.done, seen.in_flight) == ("squares", "running", 8, 2, 6)
    assert (seen.elapsed, seen.rate, seen.eta) == (1.0, 2.0, 3.0)
    (lane,) = seen.lanes
    assert lane[:7] == ("other", 2, "busy", 2, 1, 6, 1.0)


def test_a_pause_is_not_counted_in_the_rate(desk: Any) -> None:
    """After a pause the rate begins anew; to resume what was not paused changes nothing."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign,) = desk.job(size=8, chunksize=8)
    desk.now += 1.0
    desk.report(assign, hi=2, ended=False)
    desk.tell(ev.ResumeRequested(1))
    assert desk.snapshot().rate == 2.0
    desk.tell(ev.PauseRequested(1))
    desk.now += 99.0
    desk.tell(ev.ResumeRequested(1))
    assert (desk.snapshot().rate, desk.snapshot().eta) == (0.0, None)
    desk.now += 1.0
    desk.report(assign, lo=2, hi=4, ended=False)
    assert (desk.snapshot().done, desk.snapshot().rate) == (4, 2.0)


def test_a_lost_worker_keeps_its_lane(desk: Any) -> None:
    """If it did something for the job, or was about to; states of the others are told."""
    for worker in (1, 2, 3, 4):
        desk.tell(ev.WorkerJoined(worker, 1))
    assigns = desk.job(size=4, chunksize=1)
    desk.report(assigns[0])
    desk.report(assigns[1])
    desk.tell(ev.WorkerLost(assigns[0].worker), ev.WorkerSuspected(assigns[1].worker), ev.WorkerLost(4, charged=False))
    states = {lane.name: lane.state for lane in desk.snapshot().lanes}
    assert states == {"worker 1": "lost", "worker 2": "suspect", "worker 3": "busy", "worker 4": "lost"}
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
    """Between nothing and all of the slots' time, whatever the reports claim; what runs counts already."""
    desk.tell(ev.WorkerJoined(1, 1))
    assign, *assigns = desk.job(size=2)
    assert desk.snapshot().lanes[0].busy == 0.0
    desk.now += 1.0
    assert desk.snapshot().lanes[0].busy == pytest.approx(1.0)
    desk.report(assign, seconds=0.5)
    desk.now += 1.0
    assert desk.snapshot().lanes[0].busy == pytest.approx(0.75)
    desk.report(assigns[0], seconds=5.0)
    assert desk.snapshot().lanes[0].busy == pytest.approx(1.0)


def blocks(desk: Any, name: str, job: int = 1) -> list[tuple[int, float, float, str]]:
    (lane,) = [lane for lane in desk.snapshot(job).lanes if lane.name == name]
    return [(row, round(begin, 6), round(end, 6), kind) for row, begin, end, kind in lane.blocks]


def test_the_timeline_of_a_worker(desk: Any) -> None:
    """What runs, in a row for each slot, and before it what was reported."""
    desk.now = 100.0
    desk.tell(ev.WorkerJoined(1, 2, "lab7"))
    assigns = desk.job(size=8, chunksize=2, retries=1, stop_on_failure=False)
    first, second = [assign for assign in assigns if assign.attempt < 2]
    desk.now += 1.0
    assert blocks(desk, "lab7") == [(0, 0.0, 1.0, "running"), (1, 0.0, 1.0, "running")]
    desk.report(first, hi=1, seconds=0.75, ended=False)
    desk.now += 1.0
    desk.report(first, lo=1, seconds=1.0)
    desk.report(second, failed=(0,), seconds=2.0)
    desk.now += 0.5
    lane = desk.snapshot().lanes[0]
    assert lane.rows == 2
    assert blocks(desk, "lab7") == [
        (0, 2.0, 2.5, "running"),
        (1, 2.0, 2.5, "running"),
        (0, 0.25, 2.0, "done"),
        (1, 0.0, 2.0, "retried"),
    ]


def test_a_final_failure_shows(desk: Any) -> None:
    """A report with an item that failed for good is another colour than one whose items run again."""
    desk.tell(ev.WorkerJoined(1, 1, "lab7"))
    assign, _ = desk.job(size=4, chunksize=2, retries=1, stop_on_failure=False)
    desk.now += 1.0
    (again,) = [c for c in desk.report(assign, failed=(0,), seconds=1.0) if isinstance(c, ev.Assign)]
    desk.now += 1.0
    desk.report(desk_assign(desk, 1), seconds=1.0)
    desk.now += 1.0
    desk.report(again, failed=(0,), seconds=1.0)
    assert [kind for *_, kind in blocks(desk, "lab7")] == ["retried", "done", "failed"]


def desk_assign(desk: Any, attempt: int) -> ev.Assign:
    (found,) = [c for c in desk.said if isinstance(c, ev.Assign) and c.attempt == attempt]
    return found


def test_slots_share_rows(desk: Any) -> None:
    """Of what runs in one row the earliest shows."""
    desk.tell(ev.WorkerJoined(1, 8, "big"))
    assigns = desk.job(size=24, chunksize=1)
    desk.now += 1.0
    desk.report(assigns[0], seconds=1.0)
    desk.now += 1.0
    runs = [(row, 0.0, 2.0, "running") for row in range(4)]
    assert sorted(blocks(desk, "big")) == sorted([*runs, (0, 0.0, 1.0, "done")])
    assert desk.snapshot().lanes[0].rows == 4


def test_what_was_lost_shows(desk: Any) -> None:
    """A process that died, a worker that was lost, an item that took too long; not what only waited."""
    desk.tell(ev.WorkerJoined(1, 1, "a"), ev.WorkerJoined(2, 1, "b"), ev.WorkerJoined(3, 1, "c"))
    assigns = desk.job(size=30, chunksize=1, stop_on_failure=False)
    head = {assign.worker: assign for assign in reversed(assigns)}
    desk.now += 2.0
    desk.tell(
        ev.SlotDied(1, 0, head[1].attempt, 0, "died"),
        ev.SlotDied(2, 0, head[2].attempt, 0, "timeout"),
        ev.WorkerLost(3),
    )
    assert blocks(desk, "a") == [(0, 0.0, 2.0, "lost")]
    assert blocks(desk, "b") == [(0, 0.0, 2.0, "failed")]
    assert blocks(desk, "c") == [(0, 0.0, 2.0, "lost")]
    assert [lane.state for lane in desk.snapshot().lanes] == ["idle", "idle", "lost"]


def test_a_process_that_died_idle_lost_nothing(desk: Any) -> None:
    """It had not begun."""
    desk.tell(ev.WorkerJoined(1, 1, "a"))
    desk.job(size=3, chunksize=1)
    desk.now += 1.0
    desk.tell(ev.SlotDied(1, 0, None, None, "idle"))
    assert blocks(desk, "a") == []


def test_a_job_that_is_over_has_nothing_in_flight(desk: Any) -> None:
    """Workers rest, nothing is left to wait for, and what ran at the end is shown as broken off."""
    desk.tell(ev.WorkerJoined(1, 1, "a"), ev.WorkerJoined(2, 1, "b"), ev.WorkerJoined(3, 1, "c"))
    assigns = desk.job(size=30, chunksize=1)
    heads = {assign.worker: assign for assign in reversed(assigns)}
    desk.now += 1.0
    desk.tell(ev.CancelRequested(1), ev.WorkerSuspected(3))
    desk.now += 0.25
    for assign in assigns:
        if assign.worker == 1:
            seconds = 1.25 if assign == heads[1] else 0.0
            desk.report(assign, hi=assign.lo, seconds=seconds)
    assert desk.snapshot().state == "cancelled"
    desk.now += 0.25
    desk.tell(ev.Ticked())
    desk.now += 5.0
    seen = desk.snapshot()
    assert (seen.state, seen.in_flight, seen.eta, seen.elapsed) == ("cancelled", 0, None, 1.5)
    assert [(lane.state, lane.in_flight) for lane in seen.lanes] == [("idle", 0)] * 3
    assert blocks(desk, "a") == [(0, 0.0, 1.25, "running")]
    assert blocks(desk, "b") == blocks(desk, "c") == [(0, 0.0, 1.5, "running")]


def test_nobody_looks_at_pushed_items(desk: Any) -> None:
    """Of `submit` no timeline is kept, whatever becomes of the items."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(pushed=True)
    (assign,) = desk.feed(desk.tell(ev.ItemsAdded(1, 1)))
    desk.now += 1.0
    assert desk.snapshot().lanes[0].blocks == ()
    desk.report(assign, seconds=1.0)
    assert desk.snapshot().lanes[0].blocks == ()
    desk.feed(desk.tell(ev.ItemsAdded(1, 1)))
    desk.tell(ev.WorkerLost(1))
    assert desk.snapshot().lanes[0].blocks == ()


def test_old_timelines_are_forgotten(desk: Any) -> None:
    """The last jobs that ended keep theirs, those before keep their numbers only."""
    desk.tell(ev.WorkerJoined(1, 1))
    for job in range(LIMITS.timelines_kept + 3):
        assigns = desk.job(job, size=1)
        desk.now += 1.0
        desk.finish(assigns)
    drawn = [bool(desk.snapshot(job).lanes[0].blocks) for job in range(LIMITS.timelines_kept + 3)]
    assert drawn == [False] * 3 + [True] * LIMITS.timelines_kept
    assert desk.snapshot(0).done == 1


def test_lost_workers_leave_nothing_behind(desk: Any) -> None:
    """However many workers come and go, the timelines keep no record of them."""
    for worker in range(50):
        desk.tell(ev.WorkerJoined(worker, 1), ev.WorkerLost(worker), ev.WorkerLost(worker))
    sizes = [len(value) for value in vars(desk.scheduler._timelines).values() if isinstance(value, dict)]
    assert sizes == [0] * len(sizes)


def test_the_total_of_a_job_that_ended_early(desk: Any) -> None:
    """What was read when the job was ending already belongs to the input all the same."""
    desk.tell(ev.WorkerJoined(1, 1))
    assigns = desk.job(size=None, chunksize=3, feed=False)
    (read,) = [c for c in desk.said if isinstance(c, ev.Read)]
    out = desk.tell(ev.ChunkRead(1, read.chunk, 3, 24, False))
    assigns += [c for c in out if isinstance(c, ev.Assign)]
    (read,) = [c for c in out if isinstance(c, ev.Read)]
    desk.report(assigns[0], hi=2, failed=(1,), ended=False)
    desk.tell(ev.ChunkRead(1, read.chunk, 2, 16, True))
    desk.report(assigns[0], lo=2, hi=2)
    seen = desk.snapshot()
    assert (seen.state, seen.done, seen.total) == ("failed", 2, 5)


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
    assert [lane.state for lane in desk.snapshot().lanes] == ["resting", "busy"]
    for _ in range(5):
        desk.tell(ev.SlotDied(2, 0, None, None, "idle"), ev.SlotReady(2, 0))
    assert [lane.state for lane in desk.snapshot().lanes] == ["resting", "resting"]
