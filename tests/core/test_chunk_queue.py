"""From the input into the queue: chunks that are read, pushed, or come with the job; set-ups."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.limits import LIMITS, Limits
from distmap.errors import InvalidTransition


def test_nothing_is_read_without_a_place(harness: Any, pick: Any) -> None:
    """Input is pulled when a slot can take it, one Read at a time."""
    assert harness.job(size=10) == []
    assert pick(harness.commands, ev.Read) == []
    reads = pick(harness.send(ev.WorkerJoined(1, 2)), ev.Read)
    assert len(reads) == 1
    harness.feed(reads)
    assert harness.snapshot().in_flight == 6


def test_an_item_that_is_measured_first_has_a_share_behind_it(harness: Any, pick: Any) -> None:
    """One item for each idle slot; behind it a quarter of the slot's share of all items, of no more than 1 MB."""
    harness.send(ev.WorkerJoined(1, 2))
    assert [assign.hi for assign in harness.job(size=80)] == [1, 1, 10, 10]
    harness.send(ev.WorkerJoined(2, 2), after=1.0)
    (read,) = harness.send(ev.JobSubmitted(2, ev.JobSpec(size=80)))
    while read.count == 1:
        (read,) = pick(harness.send(ev.ChunkRead(2, read.chunk, 1, 250_000, False)), ev.Read)
    assert read.count == 4
    assert [assign.hi for assign in harness.job(3, size=None, priority=1)] == [1, 1]


def test_a_stream_has_no_more_behind_its_first_item_than_its_window(harness: Any) -> None:
    """The window bounds what waits before anything is measured, too."""
    harness.send(ev.WorkerJoined(1, 2))
    assert [assign.hi for assign in harness.job(size=100_000, gather="ordered")] == [1, 1, 64, 64]


def test_the_answer_ends_the_input(harness: Any, pick: Any) -> None:
    """No Read follows the answer that nothing is left, whatever number of items was announced."""
    harness.send(ev.WorkerJoined(1, 8))
    harness.job(size=5, chunksize=2)
    assert [read.count for read in pick(harness.commands, ev.Read)] == [2, 2, 2]


def test_more_is_read_than_was_announced(harness: Any, pick: Any) -> None:
    """An announced number of items is a hint: what comes beyond it is run too, and the total is then unknown."""
    harness.send(ev.WorkerJoined(1, 8))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec(size=2, chunksize=2)))
    assigns = harness.send(ev.ChunkRead(1, read.chunk, 2, 16, False))
    assert harness.snapshot().total == 2
    (read,) = pick(assigns, ev.Read)
    assigns += harness.send(ev.ChunkRead(1, read.chunk, 2, 16, False))
    assert harness.snapshot().total is None
    (read,) = pick(assigns[1:], ev.Read)[-1:]
    assigns += harness.send(ev.ChunkRead(1, read.chunk, 0, 0, True))
    assert harness.snapshot().total == 4
    harness.finish(pick(assigns, ev.Assign))
    assert harness.commands[-1] == ev.Finish(1, "done")


def test_a_chunk_may_come_back_short(harness: Any, pick: Any) -> None:
    """Fewer items than asked for, because they are heavy: the rest is asked for next."""
    harness.send(ev.WorkerJoined(1, 8))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec(size=5, chunksize=4)))
    (again,) = pick(harness.send(ev.ChunkRead(1, read.chunk, 1, 8, False)), ev.Read)
    assert again.count == 4


def test_the_window_counts_what_is_not_consumed(harness: Any, pick: Any) -> None:
    """`buffer` items at most are read and not consumed, whatever is accepted meanwhile."""
    harness.send(ev.WorkerJoined(1, 4))
    assigns = harness.job(gather="ordered", buffer=3)
    assert len(assigns) == 3
    for assign in assigns:
        assert pick(harness.report(assign), ev.Read) == []
    assert pick(harness.send(ev.Consumed(1, 2, 16)), ev.Read)


def test_the_window_without_buffer_is_two_chunks_a_slot(harness: Any, pick: Any) -> None:
    """A consumer that does not consume stops the workers."""
    harness.send(ev.WorkerJoined(1, 2))
    todo = harness.job(gather="unordered")
    while todo:
        todo += harness.feed(harness.report(todo.pop(0)))
    assert len(pick(harness.commands, ev.Read)) == 4
    assert pick(harness.send(ev.Consumed(1, 1, 8)), ev.Read)


def test_a_stream_reads_what_its_consumer_takes_in_two_seconds(harness: Any, pick: Any) -> None:
    """Tiny items and a consumer of 5 ms an item: chunks hold at most its share of 400, at any moment."""
    harness.send(ev.WorkerJoined(1, 2))
    todo = harness.job(gather="ordered")
    waits: list[int] = []
    read = consumed = 0
    chunks: list[int] = []
    for _ in range(300):
        while todo:
            assign = todo.pop(0)
            out = harness.report(assign, seconds=3e-7 * (assign.hi - assign.lo))
            waits += [command.hi - command.lo for command in pick(out, ev.Deliver)]
            todo += harness.feed(out)
        reads = pick(harness.commands, ev.Read)
        read, chunks = sum(one.count for one in reads), [one.count for one in reads]
        assert 1 <= read - consumed <= 400
        count = min(10, waits[0])
        waits[0] -= count
        if not waits[0]:
            del waits[0]
        consumed += count
        todo += harness.feed(harness.send(ev.Consumed(1, count, 0), after=0.005 * count))
    assert max(chunks) == 100
    assert read - consumed > 300


def test_before_anything_is_consumed_chunks_stay_small(harness: Any, pick: Any) -> None:
    """A consumer that has not begun yet finds some results, not all that its window of chunks could hold."""
    harness.send(ev.WorkerJoined(1, 2))
    todo = harness.job(gather="ordered", feed=False)
    todo = []
    commands = list(harness.commands)
    while commands:
        commands = [one for one in commands if isinstance(one, ev.Read)]
        for one in commands:
            todo += harness.feed([one])
        commands = [command for assign in todo for command in harness.report(assign, seconds=1e-6)]
        todo = []
    assert sum(one.count for one in pick(harness.commands, ev.Read)) <= 256


def test_the_window_in_bytes(make_harness: Any, pick: Any) -> None:
    """Results that nobody consumes stop the reading; consuming lets it go on."""
    harness = make_harness(Limits(job_bytes=100))
    harness.send(ev.WorkerJoined(1, 1))
    (assign, _waiting) = harness.job(gather="unordered", buffer=100)
    assert pick(harness.report(assign, nbytes=95), ev.Read) == []
    assert pick(harness.send(ev.Consumed(1, 1, 95)), ev.Read)


def test_pushed_items_go_side_by_side(harness: Any, pick: Any) -> None:
    """While slots are idle each submitted item gets one; a backlog is coalesced."""
    harness.send(ev.WorkerJoined(1, 2))
    harness.job(1, pushed=True)
    first, second = harness.feed(harness.send(ev.ItemsAdded(1, 2)))
    assert first.slot != second.slot
    harness.report(first, seconds=1e-6)
    harness.report(second, seconds=1e-6)
    todo = harness.feed(harness.send(ev.ItemsAdded(1, 100_000), ev.InputClosed(1)))
    while todo:
        assign = todo.pop(0)
        todo += harness.feed(harness.report(assign, seconds=1e-6 * (assign.hi - assign.lo)))
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert len(pick(harness.commands, ev.Assign)) < 100


def test_a_heavy_chunk_bounds_the_next(make_harness: Any, pick: Any) -> None:
    """Bytes per item, as read so far, bound how many are asked for."""
    harness = make_harness(Limits(chunk_bytes=100))
    harness.send(ev.WorkerJoined(1, 1))
    todo = harness.feed(harness.send(ev.JobSubmitted(1, ev.JobSpec())), nbytes=40)
    for _ in range(4):
        todo += harness.feed(harness.report(todo.pop(0), seconds=1e-6), nbytes=40)
    assert max(read.count for read in pick(harness.commands, ev.Read)) == 2


def test_large_pushed_items_wait_for_room(make_harness: Any, pick: Any) -> None:
    """No more is taken than the limits on bytes allow; with nothing under way one item always is."""
    harness = make_harness(LIMITS._replace(job_bytes=100, chunk_bytes=50))
    harness.send(ev.WorkerJoined(1, 2))
    harness.job(pushed=True)
    todo = pick(harness.send(ev.ItemsAdded(1, 3, 180)), ev.Assign)
    assert len(todo) == 2
    while todo:
        todo += pick(harness.report(todo.pop(0), seconds=1e-6), ev.Assign)
    assert [take.count for take in pick(harness.commands, ev.Take)] == [1, 1, 1]


def set_up(harness: Any, job: int = 1, each: str = "slot", **spec: Any) -> list[Any]:
    """Submit a set-up; give what the scheduler answers."""
    made = ev.JobSpec(pushed=True, stop_on_failure=False, each=each, **spec)  # type: ignore[arg-type]
    out: list[Any] = harness.send(ev.JobSubmitted(job, made))
    return out


def places(commands: list[Any], pick: Any) -> list[tuple[int, int]]:
    return [(one.worker, one.slot) for one in pick(commands, ev.SetUp)]


def test_a_set_up_runs_once_in_each_slot(harness: Any, pick: Any) -> None:
    """Every slot of every worker with the tags gets one call of its own; with the last handle it ends."""
    harness.send(ev.WorkerJoined(1, 2, tags=frozenset(["gpu"])), ev.WorkerJoined(2, 1), ev.WorkerJoined(3, 1))
    harness.send(ev.WorkerDraining(3))
    out = set_up(harness)
    assigns = pick(out, ev.Assign)
    assert places(out, pick) == [(one.worker, one.slot) for one in assigns] == [(1, 0), (1, 1), (2, 0)]
    for assign, made in zip(assigns, pick(out, ev.SetUp), strict=True):
        assert assign.chunk == made.chunk
        assert len(pick(harness.report(assign), ev.Deliver)) == 1
    assert places(set_up(harness, 2, tags=frozenset(["gpu"])), pick) == [(1, 0), (1, 1)]
    assert harness.send(ev.InputClosed(1)) == [ev.Finish(1, "done")]
    assert not harness.scheduler.unready(1)
    assert harness.snapshot(1).done == 3


def test_a_set_up_of_workers_takes_the_slot_that_is_free(harness: Any, pick: Any) -> None:
    """It runs once on each worker, where it need not wait."""
    harness.send(ev.WorkerJoined(1, 2))
    (busy,) = harness.job(2, size=1)
    assert busy.slot == 0
    assert places(set_up(harness, each="worker"), pick) == [(1, 1)]


def test_a_set_up_goes_before_what_waits(harness: Any, pick: Any) -> None:
    """It waits for what the slot has, nothing is taken back for it, and further work waits behind it."""
    harness.send(ev.WorkerJoined(1, 1))
    first, second = harness.job(1, size=10, chunksize=1)
    out = set_up(harness, 2)
    assert places(out, pick) == [(1, 0)]
    assert pick(out, ev.Assign) == []
    (call,) = pick(harness.feed(harness.report(first)), ev.Assign)
    assert call.job == 2
    assert {one.job for one in harness.feed(harness.report(second))} == {1}
    assert {one.job for one in harness.feed(harness.report(call))} == {1}


def test_what_waits_of_a_set_up_is_not_taken_back_for_others(harness: Any, pick: Any) -> None:
    """Neither an idle slot nor a job of higher priority gets a call that is for another slot."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    harness.job(1, size=1)
    assert len(pick(set_up(harness, 2), ev.Assign)) == 2
    assert pick(harness.send(ev.JobSubmitted(3, ev.JobSpec(size=9, priority=5)), after=9.0), ev.Revoke) == []


def test_a_worker_that_comes_later_is_set_up_first(harness: Any, pick: Any) -> None:
    """It takes nothing else until all its calls succeeded; a second set-up follows the first."""
    harness.send(ev.WorkerJoined(1, 1))
    (own,) = pick(set_up(harness, 1), ev.Assign)
    (other,) = pick(set_up(harness, 2, each="worker"), ev.Assign)
    harness.report(own), harness.report(other)
    harness.job(3, size=100, chunksize=1)
    out = harness.send(ev.WorkerJoined(2, 2))
    assert places(out, pick) == [(2, 0), (2, 1), (2, 0)]
    calls = harness.feed(out)
    assert [(one.job, one.slot) for one in calls] == [(1, 0), (2, 0), (1, 1)]
    for call in calls[:2]:
        assert harness.scheduler.unready(2)
        assert harness.feed(harness.report(call)) == []
    assert {(one.worker, one.job) for one in harness.feed(harness.report(calls[2]))} == {(2, 3)}
    assert not harness.scheduler.unready(2)


def test_all_slots_wait_for_a_set_up_that_runs_in_one(harness: Any, pick: Any) -> None:
    """The other slots of a worker that comes later take nothing before its one call succeeded."""
    harness.send(ev.WorkerJoined(1, 1))
    (own,) = pick(set_up(harness, 1, each="worker"), ev.Assign)
    harness.report(own)
    harness.job(2, size=100, chunksize=1)
    (call,) = harness.feed(harness.send(ev.WorkerJoined(2, 3)))
    assert call.job == 1
    assert {one.slot for one in harness.feed(harness.report(call))} == {0, 1, 2}


def test_a_call_of_a_set_up_that_is_over_is_refused(harness: Any, pick: Any) -> None:
    """That it could not be loaded came too late to matter to anybody."""
    harness.send(ev.WorkerJoined(1, 1))
    (call,) = pick(set_up(harness), ev.Assign)
    harness.send(ev.CancelRequested(1))
    assert ev.Finish(1, "cancelled") in harness.send(ev.Ticked(), after=1.0)
    assert harness.send(ev.AttemptRefused(call.attempt)) == []


def test_a_worker_where_a_set_up_failed_is_left_out_until_it_ends(harness: Any, pick: Any) -> None:
    """The failure is delivered, the worker takes nothing, others go on; with the set-up its demand ends."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.report(pick(set_up(harness), ev.Assign)[0])
    harness.job(2, size=100, chunksize=1)
    (call,) = harness.feed(harness.send(ev.WorkerJoined(2, 1)))
    out = harness.report(call, failed=(0,))
    assert len(pick(out, ev.Deliver)) == 1
    assert harness.feed(out) == []
    assert harness.scheduler.unready(2)
    assert {one.worker for one in harness.feed(harness.send(ev.CancelRequested(1)))} == {2}


def test_a_set_up_that_is_cancelled_lets_its_slots_go(harness: Any, pick: Any) -> None:
    """Calls that wait are forgotten, those that run are interrupted, and workers that come meanwhile owe nothing."""
    harness.send(ev.WorkerJoined(1, 2))
    harness.job(1, size=100, chunksize=1)
    set_up(harness, 2), set_up(harness, 3)
    harness.send(ev.WorkerJoined(2, 1))
    running = pick(harness.commands, ev.Assign)[-2:]
    assert [one.job for one in running] == [2, 3]
    out = harness.send(ev.CancelRequested(2))
    assert [one.attempt for one in pick(out, ev.Interrupt)] == [running[0].attempt]
    assert places(harness.send(ev.WorkerJoined(3, 1)), pick) == [(3, 0)]
    out = harness.report(running[0], hi=0)
    assert pick(out, ev.Finish) == [ev.Finish(2, "cancelled")]


def test_a_worker_that_leaves_takes_its_calls_along(harness: Any, pick: Any) -> None:
    """Calls that ran or waited there are lost for that reason, and charged to nobody."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(1, size=100, chunksize=1)
    set_up(harness, 2)
    harness.send(ev.WorkerJoined(2, 1))
    gone = harness.send(ev.WorkerLost(1), ev.WorkerLost(2))
    assert [(one.job, one.cause) for one in pick(gone, ev.DeliverLoss)] == [(2, "gone")] * 2
    assert harness.send(ev.InputClosed(2)) == [ev.Finish(2, "done")]


def test_a_slot_that_dies_in_a_set_up_is_set_up_again(harness: Any, pick: Any) -> None:
    """The call is charged as an item is: it runs again in the fresh process, and the third death is its end."""
    harness.send(ev.WorkerJoined(1, 1))
    (call,) = pick(set_up(harness), ev.Assign)
    for _ in range(2):
        harness.send(ev.SlotDied(1, 0, call.attempt, 0, "died"))
        (call,) = harness.send(ev.SlotReady(1, 0))
    out = harness.send(ev.SlotDied(1, 0, call.attempt, 0, "died"))
    assert [one.cause for one in pick(out, ev.DeliverLoss)] == ["poison"]


def test_a_set_up_that_does_not_load_fails_there_only(harness: Any, pick: Any) -> None:
    """A refusal is the end of that call, and its worker is left out; the set-up itself goes on."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.report(pick(set_up(harness), ev.Assign)[0])
    (call,) = harness.feed(harness.send(ev.WorkerJoined(2, 1)))
    out = harness.send(ev.AttemptRefused(call.attempt))
    assert [one.cause for one in pick(out, ev.DeliverLoss)] == ["refused"]
    assert harness.scheduler.unready(2)
    assert harness.send(ev.InputClosed(1)) == [ev.Finish(1, "done")]


def test_a_set_up_is_pushed(harness: Any) -> None:
    """It has no input that could be read."""
    with pytest.raises(InvalidTransition, match="must be pushed"):
        harness.send(ev.JobSubmitted(1, ev.JobSpec(each="slot")))


def test_the_first_chunk_comes_with_the_job(harness: Any, pick: Any) -> None:
    """Its items are sent at once; the next ones are read."""
    harness.send(ev.WorkerJoined(1, 1))
    take, assign, read = harness.send(ev.JobSubmitted(1, ev.JobSpec(size=2), count=1, nbytes=8))
    assert take == ev.Take(1, assign.chunk, 1)
    assert (assign.lo, assign.hi) == (0, 1)
    assert isinstance(read, ev.Read)
    (waiting,) = harness.send(ev.ChunkRead(1, read.chunk, 1, 8, True))
    harness.report(assign)
    assert harness.report(waiting)[-1] == ev.Finish(1, "done")


def test_all_items_come_with_the_job(harness: Any) -> None:
    """Nothing is read when the first chunk is the last one."""
    harness.send(ev.WorkerJoined(1, 2))
    take, assign = harness.send(ev.JobSubmitted(1, ev.JobSpec(chunksize=2), count=2, nbytes=16, last=True))
    assert take == ev.Take(1, assign.chunk, 2)
    assert harness.snapshot().total == 2
    assert harness.report(assign)[-1] == ev.Finish(1, "done")


def test_an_input_known_to_be_empty_ends_the_job(harness: Any) -> None:
    """An iterator without items is done when it is submitted."""
    assert harness.send(ev.JobSubmitted(1, ev.JobSpec(), last=True)) == [ev.Finish(1, "done")]


def test_the_first_chunk_waits_for_a_worker(harness: Any, pick: Any) -> None:
    """It is taken at once, and sent when a worker comes; a cancelled job releases it."""
    for job in (1, 2):
        (take,) = harness.send(ev.JobSubmitted(job, ev.JobSpec(gather="ordered", buffer=1), count=1, nbytes=8))
    assert harness.send(ev.CancelRequested(2)) == [ev.Release(2, take.chunk), ev.Finish(2, "cancelled")]
    (assign,) = harness.send(ev.WorkerJoined(1, 1))
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
def test_a_first_chunk_that_cannot_be(harness: Any, spec: Any, count: int, nbytes: int, last: bool, match: str) -> None:
    """A first chunk that does not fit the job is refused, and the job with it."""
    with pytest.raises(InvalidTransition, match=match):
        harness.send(ev.JobSubmitted(1, ev.JobSpec(**spec), count, nbytes, last))
    assert harness.send(ev.JobSubmitted(1, ev.JobSpec(size=0))) == [ev.Finish(1, "done")]
