"""From the input into the queue: chunks that are read, pushed, or come with the job; set-ups."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.limits import LIMITS, Limits
from distmap.errors import InvalidTransition


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


def test_a_heavy_chunk_bounds_the_next(make_desk: Any, pick: Any) -> None:
    """Bytes per item, as read so far, bound how many are asked for."""
    desk = make_desk(Limits(chunk_bytes=100))
    desk.tell(ev.WorkerJoined(1, 1))
    todo = desk.feed(desk.tell(ev.JobSubmitted(1, ev.JobSpec())), nbytes=40)
    for _ in range(4):
        todo += desk.feed(desk.report(todo.pop(0), seconds=1e-6), nbytes=40)
    assert max(read.count for read in pick(desk.said, ev.Read)) == 2


def test_large_pushed_items_wait_for_room(make_desk: Any, pick: Any) -> None:
    """No more is taken than the limits on bytes allow; with nothing under way one item always is."""
    desk = make_desk(LIMITS._replace(job_bytes=100, chunk_bytes=50))
    desk.tell(ev.WorkerJoined(1, 2))
    desk.job(pushed=True)
    todo = pick(desk.tell(ev.ItemsAdded(1, 3, 180)), ev.Assign)
    assert len(todo) == 2
    while todo:
        todo += pick(desk.report(todo.pop(0), seconds=1e-6), ev.Assign)
    assert [take.count for take in pick(desk.said, ev.Take)] == [1, 1, 1]


def set_up(desk: Any, job: int = 1, each: str = "slot", **spec: Any) -> list[Any]:
    """Submit a set-up; give what the scheduler answers."""
    made = ev.JobSpec(pushed=True, stop_on_failure=False, each=each, **spec)  # type: ignore[arg-type]
    out: list[Any] = desk.tell(ev.JobSubmitted(job, made))
    return out


def places(commands: list[Any], pick: Any) -> list[tuple[int, int]]:
    return [(one.worker, one.slot) for one in pick(commands, ev.SetUp)]


def test_a_set_up_runs_once_in_each_slot(desk: Any, pick: Any) -> None:
    """Every slot of every worker with the tags gets one call of its own; with the last handle it ends."""
    desk.tell(ev.WorkerJoined(1, 2, tags=frozenset(["gpu"])), ev.WorkerJoined(2, 1), ev.WorkerJoined(3, 1))
    desk.tell(ev.WorkerDraining(3))
    out = set_up(desk)
    assigns = pick(out, ev.Assign)
    assert places(out, pick) == [(one.worker, one.slot) for one in assigns] == [(1, 0), (1, 1), (2, 0)]
    for assign, made in zip(assigns, pick(out, ev.SetUp), strict=True):
        assert assign.chunk == made.chunk
        assert len(pick(desk.report(assign), ev.Deliver)) == 1
    assert places(set_up(desk, 2, tags=frozenset(["gpu"])), pick) == [(1, 0), (1, 1)]
    assert desk.tell(ev.InputClosed(1)) == [ev.Finish(1, "done")]
    assert not desk.scheduler.unready(1)
    assert desk.snapshot(1).done == 3


def test_a_set_up_of_workers_takes_the_slot_that_is_free(desk: Any, pick: Any) -> None:
    """It runs once on each worker, where it need not wait."""
    desk.tell(ev.WorkerJoined(1, 2))
    (busy,) = desk.job(2, size=1)
    assert busy.slot == 0
    assert places(set_up(desk, each="worker"), pick) == [(1, 1)]


def test_a_set_up_goes_before_what_waits(desk: Any, pick: Any) -> None:
    """It waits for what the slot has, nothing is taken back for it, and further work waits behind it."""
    desk.tell(ev.WorkerJoined(1, 1))
    first, second = desk.job(1, size=10, chunksize=1)
    out = set_up(desk, 2)
    assert places(out, pick) == [(1, 0)]
    assert pick(out, ev.Assign) == []
    (call,) = pick(desk.feed(desk.report(first)), ev.Assign)
    assert call.job == 2
    assert {one.job for one in desk.feed(desk.report(second))} == {1}
    assert {one.job for one in desk.feed(desk.report(call))} == {1}


def test_what_waits_of_a_set_up_is_not_taken_back_for_others(desk: Any, pick: Any) -> None:
    """Neither an idle slot nor a job of higher priority gets a call that is for another slot."""
    desk.tell(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    desk.job(1, size=1)
    assert len(pick(set_up(desk, 2), ev.Assign)) == 2
    assert pick(desk.tell(ev.JobSubmitted(3, ev.JobSpec(size=9, priority=5)), after=9.0), ev.Revoke) == []


def test_a_worker_that_comes_later_is_set_up_first(desk: Any, pick: Any) -> None:
    """It takes nothing else until all its calls succeeded; a second set-up follows the first."""
    desk.tell(ev.WorkerJoined(1, 1))
    (own,) = pick(set_up(desk, 1), ev.Assign)
    (other,) = pick(set_up(desk, 2, each="worker"), ev.Assign)
    desk.report(own), desk.report(other)
    desk.job(3, size=100, chunksize=1)
    out = desk.tell(ev.WorkerJoined(2, 2))
    assert places(out, pick) == [(2, 0), (2, 1), (2, 0)]
    calls = desk.feed(out)
    assert [(one.job, one.slot) for one in calls] == [(1, 0), (2, 0), (1, 1)]
    for call in calls[:2]:
        assert desk.scheduler.unready(2)
        assert desk.feed(desk.report(call)) == []
    assert {(one.worker, one.job) for one in desk.feed(desk.report(calls[2]))} == {(2, 3)}
    assert not desk.scheduler.unready(2)


def test_all_slots_wait_for_a_set_up_that_runs_in_one(desk: Any, pick: Any) -> None:
    """The other slots of a worker that comes later take nothing before its one call succeeded."""
    desk.tell(ev.WorkerJoined(1, 1))
    (own,) = pick(set_up(desk, 1, each="worker"), ev.Assign)
    desk.report(own)
    desk.job(2, size=100, chunksize=1)
    (call,) = desk.feed(desk.tell(ev.WorkerJoined(2, 3)))
    assert call.job == 1
    assert {one.slot for one in desk.feed(desk.report(call))} == {0, 1, 2}


def test_a_call_of_a_set_up_that_is_over_is_refused(desk: Any, pick: Any) -> None:
    """That it could not be loaded came too late to matter to anybody."""
    desk.tell(ev.WorkerJoined(1, 1))
    (call,) = pick(set_up(desk), ev.Assign)
    desk.tell(ev.CancelRequested(1))
    assert ev.Finish(1, "cancelled") in desk.tell(ev.Ticked(), after=1.0)
    assert desk.tell(ev.AttemptRefused(call.attempt)) == []


def test_a_worker_where_a_set_up_failed_is_left_out_until_it_ends(desk: Any, pick: Any) -> None:
    """The failure is delivered, the worker takes nothing, others go on; with the set-up its demand ends."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.report(pick(set_up(desk), ev.Assign)[0])
    desk.job(2, size=100, chunksize=1)
    (call,) = desk.feed(desk.tell(ev.WorkerJoined(2, 1)))
    out = desk.report(call, failed=(0,))
    assert len(pick(out, ev.Deliver)) == 1
    assert desk.feed(out) == []
    assert desk.scheduler.unready(2)
    assert {one.worker for one in desk.feed(desk.tell(ev.CancelRequested(1)))} == {2}


def test_a_set_up_that_is_cancelled_lets_its_slots_go(desk: Any, pick: Any) -> None:
    """Calls that wait are forgotten, those that run are interrupted, and workers that come meanwhile owe nothing."""
    desk.tell(ev.WorkerJoined(1, 2))
    desk.job(1, size=100, chunksize=1)
    set_up(desk, 2), set_up(desk, 3)
    desk.tell(ev.WorkerJoined(2, 1))
    running = pick(desk.said, ev.Assign)[-2:]
    assert [one.job for one in running] == [2, 3]
    out = desk.tell(ev.CancelRequested(2))
    assert [one.attempt for one in pick(out, ev.Interrupt)] == [running[0].attempt]
    assert places(desk.tell(ev.WorkerJoined(3, 1)), pick) == [(3, 0)]
    out = desk.report(running[0], hi=0)
    assert pick(out, ev.Finish) == [ev.Finish(2, "cancelled")]


def test_a_worker_that_leaves_takes_its_calls_along(desk: Any, pick: Any) -> None:
    """Calls that ran or waited there are lost for that reason, and charged to nobody."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(1, size=100, chunksize=1)
    set_up(desk, 2)
    desk.tell(ev.WorkerJoined(2, 1))
    gone = desk.tell(ev.WorkerLost(1), ev.WorkerLost(2))
    assert [(one.job, one.cause) for one in pick(gone, ev.DeliverLoss)] == [(2, "gone")] * 2
    assert desk.tell(ev.InputClosed(2)) == [ev.Finish(2, "done")]


def test_a_slot_that_dies_in_a_set_up_is_set_up_again(desk: Any, pick: Any) -> None:
    """The call is charged as an item is: it runs again in the fresh process, and the third death is its end."""
    desk.tell(ev.WorkerJoined(1, 1))
    (call,) = pick(set_up(desk), ev.Assign)
    for _ in range(2):
        desk.tell(ev.SlotDied(1, 0, call.attempt, 0, "died"))
        (call,) = desk.tell(ev.SlotReady(1, 0))
    out = desk.tell(ev.SlotDied(1, 0, call.attempt, 0, "died"))
    assert [one.cause for one in pick(out, ev.DeliverLoss)] == ["poison"]


def test_a_set_up_that_does_not_load_fails_there_only(desk: Any, pick: Any) -> None:
    """A refusal is the end of that call, and its worker is left out; the set-up itself goes on."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.report(pick(set_up(desk), ev.Assign)[0])
    (call,) = desk.feed(desk.tell(ev.WorkerJoined(2, 1)))
    out = desk.tell(ev.AttemptRefused(call.attempt))
    assert [one.cause for one in pick(out, ev.DeliverLoss)] == ["refused"]
    assert desk.scheduler.unready(2)
    assert desk.tell(ev.InputClosed(1)) == [ev.Finish(1, "done")]


def test_a_set_up_is_pushed(desk: Any) -> None:
    """It has no input that could be read."""
    with pytest.raises(InvalidTransition, match="must be pushed"):
        desk.tell(ev.JobSubmitted(1, ev.JobSpec(each="slot")))


def test_the_first_chunk_comes_with_the_job(desk: Any, pick: Any) -> None:
    """Its items are sent at once; the next ones are read."""
    desk.tell(ev.WorkerJoined(1, 1))
    take, assign, read = desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=2), count=1, nbytes=8))
    assert take == ev.Take(1, assign.chunk, 1)
    assert (assign.lo, assign.hi) == (0, 1)
    assert isinstance(read, ev.Read)
    (waiting,) = desk.tell(ev.ChunkRead(1, read.chunk, 1, 8, True))
    desk.report(assign)
    assert desk.report(waiting)[-1] == ev.Finish(1, "done")


def test_all_items_come_with_the_job(desk: Any) -> None:
    """Nothing is read when the first chunk is the last one."""
    desk.tell(ev.WorkerJoined(1, 2))
    take, assign = desk.tell(ev.JobSubmitted(1, ev.JobSpec(chunksize=2), count=2, nbytes=16, last=True))
    assert take == ev.Take(1, assign.chunk, 2)
    assert desk.snapshot().total == 2
    assert desk.report(assign)[-1] == ev.Finish(1, "done")


def test_an_input_known_to_be_empty_ends_the_job(desk: Any) -> None:
    """An iterator without items is done when it is submitted."""
    assert desk.tell(ev.JobSubmitted(1, ev.JobSpec(), last=True)) == [ev.Finish(1, "done")]


def test_the_first_chunk_waits_for_a_worker(desk: Any, pick: Any) -> None:
    """It is taken at once, and sent when a worker comes; a cancelled job releases it."""
    for job in (1, 2):
        (take,) = desk.tell(ev.JobSubmitted(job, ev.JobSpec(gather="ordered", buffer=1), count=1, nbytes=8))
    assert desk.tell(ev.CancelRequested(2)) == [ev.Release(2, take.chunk), ev.Finish(2, "cancelled")]
    (assign,) = desk.tell(ev.WorkerJoined(1, 1))
    assert assign.job == 1


@pytest.mark.parametrize(
    ("spec", "count", "nbytes", "last", "match"),
    [
        pytest.param({}, -1, 0, False, "-1 items, 0 bytes", id="fewer-than-none"),
        pytest.param({}, 1, -1, False, "1 items, -1 bytes", id="negative-bytes"),
        pytest.param({"pushed": True}, 1, 8, False, "so none can come with it", id="pushed"),
        pytest.param({"pushed": True}, 0, 0, True, "so none can come with it", id="pushed-and-over"),
        pytest.param({"size": 0}, 1, 8, True, "its size is 0", id="of-nothing"),
        pytest.param({"chunksize": 2}, 3, 8, False, "its chunksize is 2", id="over-the-chunksize"),
        pytest.param({"buffer": 2, "gather": "ordered"}, 3, 8, False, "its buffer is 2", id="over-the-buffer"),
    ],
)
def test_a_first_chunk_that_cannot_be(desk: Any, spec: Any, count: int, nbytes: int, last: bool, match: str) -> None:
    """A first chunk that does not fit the job is refused, and the job with it."""
    with pytest.raises(InvalidTransition, match=match):
        desk.tell(ev.JobSubmitted(1, ev.JobSpec(**spec), count, nbytes, last))
    assert desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=0))) == [ev.Finish(1, "done")]
