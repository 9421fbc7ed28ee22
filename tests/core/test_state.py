"""The moves, as far as no policy's test shows them: input, windows, release, order."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.gather import Accepted
from distmap.core.limits import LIMITS, Limits
from distmap.core.records import ChunkRecord
from distmap.core.state import SchedulerState


def test_nothing_is_read_without_a_place(desk: Any, pick: Any) -> None:
    """Input is pulled when a slot can take it, one Read at a time."""
    assert desk.job(size=10) == []
    assert pick(desk.said, ev.Read) == []
    reads = pick(desk.tell(ev.WorkerJoined(1, 2)), ev.Read)
    assert len(reads) == 1
    desk.feed(reads)
    assert desk.snapshot().in_flight == 4


def test_the_answer_ends_the_input(desk: Any, pick: Any) -> None:
    """No Read follows the answer that nothing is left, whatever number of items was announced."""
    desk.tell(ev.WorkerJoined(1, 8))
    desk.job(size=5, chunksize=2)
    assert [read.count for read in pick(desk.said, ev.Read)] == [2, 2, 2]


def test_more_is_read_than_was_announced(desk: Any, pick: Any) -> None:
    """An announced number of items is a hint: what comes beyond it is run too, and the total is then unknown."""
    desk.tell(ev.WorkerJoined(1, 8))
    (read,) = desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=2, chunksize=2)))
    assigns = desk.tell(ev.ChunkRead(1, read.chunk, 2, 16, False))
    assert desk.snapshot().total == 2
    (read,) = pick(assigns, ev.Read)
    assigns += desk.tell(ev.ChunkRead(1, read.chunk, 2, 16, False))
    assert desk.snapshot().total is None
    (read,) = pick(assigns[1:], ev.Read)[-1:]
    assigns += desk.tell(ev.ChunkRead(1, read.chunk, 0, 0, True))
    assert desk.snapshot().total == 4
    desk.finish(pick(assigns, ev.Assign))
    assert desk.said[-1] == ev.Finish(1, "done")


def test_a_chunk_may_come_back_short(desk: Any, pick: Any) -> None:
    """Fewer items than asked for, because they are heavy: the rest is asked for next."""
    desk.tell(ev.WorkerJoined(1, 8))
    (read,) = desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=5, chunksize=4)))
    (again,) = pick(desk.tell(ev.ChunkRead(1, read.chunk, 1, 8, False)), ev.Read)
    assert again.count == 4


def test_the_window_counts_what_is_not_consumed(desk: Any, pick: Any) -> None:
    """`buffer` items at most are read and not consumed, whatever is accepted meanwhile."""
    desk.tell(ev.WorkerJoined(1, 4))
    assigns = desk.job(gather="ordered", buffer=3)
    assert len(assigns) == 3
    for assign in assigns:
        assert pick(desk.report(assign), ev.Read) == []
    assert pick(desk.tell(ev.Consumed(1, 2, 16)), ev.Read)


def test_the_window_without_buffer_is_two_chunks_a_slot(desk: Any, pick: Any) -> None:
    """A consumer that does not consume stops the workers."""
    desk.tell(ev.WorkerJoined(1, 2))
    todo = desk.job(gather="unordered")
    while todo:
        todo += desk.feed(desk.report(todo.pop(0)))
    assert len(pick(desk.said, ev.Read)) == 4
    assert pick(desk.tell(ev.Consumed(1, 1, 8)), ev.Read)


def test_the_window_in_bytes(make_desk: Any, pick: Any) -> None:
    """Results that nobody consumes stop the reading; consuming lets it go on."""
    desk = make_desk(Limits(job_bytes=100))
    desk.tell(ev.WorkerJoined(1, 1))
    (assign, _waiting) = desk.job(gather="unordered", buffer=100)
    assert pick(desk.report(assign, nbytes=95), ev.Read) == []
    assert pick(desk.tell(ev.Consumed(1, 1, 95)), ev.Read)


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


def test_pushed_items_go_side_by_side(desk: Any, pick: Any) -> None:
    """While slots are idle each submitted item gets one; a backlog is coalesced."""
    desk.tell(ev.WorkerJoined(1, 2))
    desk.job(1, pushed=True)
    first, second = desk.feed(desk.tell(ev.ItemsAdded(1, 2)))
    assert first.slot != second.slot
    desk.report(first, seconds=1e-6)
    desk.report(second, seconds=1e-6)
    todo = desk.feed(desk.tell(ev.ItemsAdded(1, 100_000), ev.InputClosed(1)))
    while todo:
        assign = todo.pop(0)
        todo += desk.feed(desk.report(assign, seconds=1e-6 * (assign.hi - assign.lo)))
    assert desk.said[-1] == ev.Finish(1, "done")
    assert len(pick(desk.said, ev.Assign)) < 100


def test_a_wrong_count_of_consumed_bytes_does_not_add_up(desk: Any) -> None:
    """When everything is consumed, nothing is held."""
    desk.tell(ev.WorkerJoined(1, 1))
    first, _second = desk.job(gather="unordered")
    desk.report(first, nbytes=100)
    desk.tell(ev.Consumed(1, 1, 40))
    assert desk.scheduler._state.jobs[1].result_bytes == 0


def test_waiters_and_victims_stay_few(desk: Any) -> None:
    """Heaps of attempts shed what is out of date, however long a job runs."""
    desk.tell(ev.WorkerJoined(1, 1))
    todo = desk.job()
    for _ in range(2000):
        todo += desk.feed(desk.report(todo.pop(0), seconds=0.001))
    job = desk.scheduler._state.jobs[1]
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


def test_a_heavy_chunk_bounds_the_next(make_desk: Any, pick: Any) -> None:
    """Bytes per item, as read so far, bound how many are asked for."""
    desk = make_desk(Limits(chunk_bytes=100))
    desk.tell(ev.WorkerJoined(1, 1))
    todo = desk.feed(desk.tell(ev.JobSubmitted(1, ev.JobSpec())), nbytes=40)
    for _ in range(4):
        todo += desk.feed(desk.report(todo.pop(0), seconds=1e-6), nbytes=40)
    assert max(read.count for read in pick(desk.said, ev.Read)) == 2


def test_a_group_lasts_as_long_as_one_of_its_jobs(desk: Any, pick: Any) -> None:
    """The end of one job leaves the others their places."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(1)
    desk.tell(ev.JobSubmitted(2, ev.JobSpec(size=0)))
    assert len(desk.scheduler._state.worker_index.groups) == 1
    desk.tell(ev.CancelRequested(1))
    assert desk.tell(ev.Ticked(), after=1.0)[-1] == ev.Finish(1, "cancelled")
    assert not desk.scheduler._state.worker_index.groups
