"""The moves, as far as no policy's test shows them: input, windows, release, order."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.gather import Accepted
from distmap.core.limits import LIMITS
from distmap.core.records import ChunkRecord
from distmap.core.state import SchedulerState


def test_input_is_released_when_all_its_items_are_settled(harness: Any, pick: Any) -> None:
    """Not before the last one, and once."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=4, chunksize=4)
    assert pick(harness.report(assign, hi=3, ended=False), ev.Release) == []
    assert pick(harness.report(assign, lo=3), ev.Release) == [ev.Release(1, assign.chunk)]


def test_a_lost_item_keeps_its_input_until_it_is_delivered(harness: Any, pick: Any) -> None:
    """The error's text shows the item, so in an ordered job the chunk stays until the loss goes out."""
    harness.send(ev.WorkerJoined(1, 2))
    first, second, *_ = harness.job(size=4, chunksize=1, gather="ordered", stop_on_failure=False)
    out = harness.send(ev.SlotDied(1, second.slot, second.attempt, 0, "timeout"))
    assert pick(out, ev.Release) == []
    assert pick(out, ev.DeliverLoss) == []
    out = harness.report(first)
    kinds = [type(command).__name__ for command in out if type(command).__name__ != "Assign"]
    assert kinds[:4] == ["Deliver", "DeliverLoss", "Release", "Release"]


def test_ordered_results_wait_for_their_turn(harness: Any, pick: Any) -> None:
    """What is accepted early is delivered after what was missing."""
    harness.send(ev.WorkerJoined(1, 2))
    first, second, *_ = harness.job(size=4, gather="ordered")
    assert pick(harness.report(second), ev.Deliver) == []
    assert [deliver.attempt for deliver in pick(harness.report(first), ev.Deliver)] == [first.attempt, second.attempt]


def test_what_never_got_its_turn_is_discarded(harness: Any, pick: Any) -> None:
    """A cancelled ordered job gives up the results that wait behind a missing one; losses among them just go."""
    harness.send(ev.WorkerJoined(1, 3))
    first, second, third, *_ = harness.job(size=9, gather="ordered", stop_on_failure=False)
    harness.report(second)
    harness.send(ev.SlotDied(1, third.slot, third.attempt, 0, "timeout"))
    harness.send(ev.CancelRequested(1))
    out = harness.send(ev.Ticked(), after=1.0)
    assert pick(out, ev.Discard) == [ev.Discard(second.attempt, 0, 1)]
    assert out[-1] == ev.Finish(1, "cancelled")
    assert first.slot in {kill.slot for kill in pick(out, ev.Kill)}


def test_a_wrong_count_of_consumed_bytes_does_not_add_up(harness: Any) -> None:
    """When everything is consumed, nothing is held."""
    harness.send(ev.WorkerJoined(1, 1))
    first, _second = harness.job(gather="unordered")
    harness.report(first, nbytes=100)
    harness.send(ev.Consumed(1, 1, 40))
    assert harness.state.jobs[1].result_bytes == 0


def test_waiters_and_victims_stay_few(harness: Any) -> None:
    """Heaps of attempts shed what is out of date, however long a job runs."""
    harness.send(ev.WorkerJoined(1, 1))
    todo = harness.job()
    for _ in range(2000):
        todo += harness.feed(harness.report(todo.pop(0), seconds=0.001))
    job = harness.state.jobs[1]
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


def test_a_group_lasts_as_long_as_one_of_its_jobs(harness: Any, pick: Any) -> None:
    """The end of one job leaves the others their places."""
    harness.send(ev.WorkerJoined(1, 1, tags=frozenset({"gpu"})))
    harness.job(1, tags=frozenset({"gpu"}))
    harness.send(ev.JobSubmitted(2, ev.JobSpec(size=0, tags=frozenset({"gpu"}))))
    assert len(harness.state.worker_index.groups) == 1
    harness.send(ev.CancelRequested(1))
    assert harness.send(ev.Ticked(), after=1.0)[-1] == ev.Finish(1, "cancelled")
    assert not harness.state.worker_index.groups
