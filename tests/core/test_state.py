"""The moves, as far as no policy's test shows them: input, windows, release, order."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.gather import Accepted
from distmap.core.limits import LIMITS
from distmap.core.records import ChunkRecord
from distmap.core.state import SchedulerState


def test_input_is_released_when_all_its_items_are_settled(desk: Any, pick: Any) -> None:
    """Not before the last one, and once."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign,) = desk.job(size=4, chunksize=4)
    assert pick(desk.report(assign, hi=3, ended=False), ev.Release) == []
    assert pick(desk.report(assign, lo=3), ev.Release) == [ev.Release(1, assign.chunk)]


def test_a_lost_item_keeps_its_input_until_it_is_delivered(desk: Any, pick: Any) -> None:
    """The error's text shows the item, so in an ordered job the chunk stays until the loss goes out."""
    desk.tell(ev.WorkerJoined(1, 2))
    first, second, *_ = desk.job(size=4, chunksize=1, gather="ordered", stop_on_failure=False)
    out = desk.tell(ev.SlotDied(1, second.slot, second.attempt, 0, "timeout"))
    assert pick(out, ev.Release) == []
    assert pick(out, ev.DeliverLoss) == []
    out = desk.report(first)
    kinds = [type(command).__name__ for command in out if type(command).__name__ != "Assign"]
    assert kinds[:4] == ["Deliver", "DeliverLoss", "Release", "Release"]


def test_ordered_results_wait_for_their_turn(desk: Any, pick: Any) -> None:
    """What is accepted early is delivered after what was missing."""
    desk.tell(ev.WorkerJoined(1, 2))
    first, second, *_ = desk.job(size=4, gather="ordered")
    assert pick(desk.report(second), ev.Deliver) == []
    assert [deliver.attempt for deliver in pick(desk.report(first), ev.Deliver)] == [first.attempt, second.attempt]


def test_what_never_got_its_turn_is_discarded(desk: Any, pick: Any) -> None:
    """A cancelled ordered job gives up the results that wait behind a missing one; losses among them just go."""
    desk.tell(ev.WorkerJoined(1, 3))
    first, second, third, *_ = desk.job(size=9, gather="ordered", stop_on_failure=False)
    desk.report(second)
    desk.tell(ev.SlotDied(1, third.slot, third.attempt, 0, "timeout"))
    desk.tell(ev.CancelRequested(1))
    out = desk.tell(ev.Ticked(), after=1.0)
    assert pick(out, ev.Discard) == [ev.Discard(second.attempt, 0, 1)]
    assert out[-1] == ev.Finish(1, "cancelled")
    assert first.slot in {kill.slot for kill in pick(out, ev.Kill)}


def test_a_wrong_count_of_consumed_bytes_does_not_add_up(desk: Any) -> None:
    """When everything is consumed, nothing is held."""
    desk.tell(ev.WorkerJoined(1, 1))
    first, _second = desk.job(gather="unordered")
    desk.report(first, nbytes=100)
    desk.tell(ev.Consumed(1, 1, 40))
    assert desk.state.jobs[1].result_bytes == 0


def test_waiters_and_victims_stay_few(desk: Any) -> None:
    """Heaps of attempts shed what is out of date, however long a job runs."""
    desk.tell(ev.WorkerJoined(1, 1))
    todo = desk.job()
    for _ in range(2000):
        todo += desk.feed(desk.report(todo.pop(0), seconds=0.001))
    job = desk.state.jobs[1]
    assert len(job.waiting_heap) <= 65
    assert len(job.group.victims) <= 65


def test_invariants_stay_on() -> None:
    """Accepting more than was read is noticed at once."""
    state = SchedulerState(LIMITS)
    job = state.open_job(1, ev.JobSpec())
    chunk = ChunkRecord(0, 0, 1, 8, 1)
    job.chunks[0] = chunk
    with pytest.raises(AssertionError, match="more settled than read"):
        state.accept(job, chunk, Accepted(0, 0, 1, 0))


def test_a_group_lasts_as_long_as_one_of_its_jobs(desk: Any, pick: Any) -> None:
    """The end of one job leaves the others their places."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(1)
    desk.tell(ev.JobSubmitted(2, ev.JobSpec(size=0)))
    assert len(desk.state.worker_index.groups) == 1
    desk.tell(ev.CancelRequested(1))
    assert desk.tell(ev.Ticked(), after=1.0)[-1] == ev.Finish(1, "cancelled")
    assert not desk.state.worker_index.groups
