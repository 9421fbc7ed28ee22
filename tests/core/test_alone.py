"""Items that run alone: when, where, and what waits meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.limits import Limits

GENTLE = {"stop_on_failure": False}


def die(harness: Any, assign: Any, at: int, reason: Any = "memory") -> list[Any]:
    """The slot of an assignment dies at the item and comes back; gives what follows."""
    return harness.send(
        ev.SlotDied(assign.worker, assign.slot, assign.attempt, at, reason), ev.SlotReady(assign.worker, assign.slot)
    )


def where(assigns: list[Any]) -> list[tuple[int, int, int]]:
    return [(assign.worker, assign.lo, assign.hi) for assign in assigns]


def test_an_item_without_memory_runs_alone_before_that_counts(harness: Any, pick: Any) -> None:
    """Its worker is emptied for it: what waits is taken back, what runs ends, nothing new comes; then all go on."""
    harness.send(ev.WorkerJoined(1, 2))
    first, second, third, _fourth = harness.job(size=9, chunksize=1, **GENTLE)
    out = die(harness, first, 0)
    assert pick(out, ev.Assign) == []
    (revoke,) = pick(out, ev.Revoke)
    assert (revoke.slot, revoke.attempt) == (second.slot, _fourth.attempt)
    assert harness.report(_fourth, hi=0) == []
    assert third.slot == first.slot, "it went back with the process"
    (lone,) = pick(harness.report(second), ev.Assign)
    assert (lone.chunk, lone.lo, lone.hi) == (first.chunk, 0, 1)
    harness.finish([lone])
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert (harness.snapshot().failed, harness.snapshot().deaths) == (0, 1)


def test_what_takes_too_much_memory_alone_fails(harness: Any, pick: Any) -> None:
    """The second death for want of memory is its own; the slot does not rest for it."""
    harness.send(ev.WorkerJoined(1, 1))
    (first,) = harness.job(size=4, chunksize=4, **GENTLE)
    (lone,) = pick(die(harness, first, 1), ev.Assign)
    assert (lone.lo, lone.hi) == (1, 2)
    out = die(harness, lone, 1)
    assert pick(out, ev.DeliverLoss) == [ev.DeliverLoss(1, 0, 1, "memory")]
    harness.finish(harness.feed(out))
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert (harness.snapshot().failed, harness.snapshot().done) == (1, 4)


def test_the_limit_of_a_slot_is_final_at_once(harness: Any, pick: Any) -> None:
    """It concerns the item's own process, so the others have no part in it; many such items do not stop the job."""
    harness.send(ev.WorkerJoined(1, 1))
    todo = harness.job(size=30, chunksize=1, **GENTLE)
    while todo:
        todo += harness.feed(die(harness, todo[0], 0, "limit"))
        todo = [assign for assign in todo if assign.attempt in harness.state.attempts]
    assert [loss.cause for loss in pick(harness.commands, ev.DeliverLoss)] == ["limit"] * 30
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert not harness.state.resting


def test_another_worker_is_preferred(harness: Any, pick: Any) -> None:
    """One that is not short of memory; the first one goes on with other items meanwhile."""
    harness.send(*[ev.WorkerJoined(number, 1) for number in (1, 2, 3)], ev.WorkerMeasured(2, 0.0, 0.5, 0.95))
    assigns = harness.job(size=99, chunksize=1, **GENTLE)
    hungry = next(assign for assign in assigns if assign.worker == 1)
    out = die(harness, hungry, 0)
    assert {assign.worker for assign in pick(out, ev.Assign)} == {1}
    (revoke,) = pick(out, ev.Revoke)
    assert revoke.worker == 3
    waiting = next(assign for assign in assigns if assign.attempt == revoke.attempt)
    running = next(assign for assign in assigns if assign.worker == 3 and assign is not waiting)
    harness.report(waiting, hi=0)
    (lone,) = [assign for assign in pick(harness.report(running), ev.Assign) if assign.worker == 3]
    assert lone.chunk == hungry.chunk


def test_at_most_half_of_the_workers_are_kept(harness: Any, pick: Any) -> None:
    """Others wait for their turn, and the job goes on."""
    harness.send(*[ev.WorkerJoined(number, 1) for number in (1, 2, 3, 4)])
    assigns = harness.job(size=99, chunksize=1, **GENTLE)
    running = {assign.worker: assign for assign in reversed(assigns)}
    for number in (1, 2, 3, 4):
        harness.feed(die(harness, running[number], 0))
    kept = [worker.id for worker in harness.state.worker_index.workers.values() if worker.quiet_for is not None]
    assert len(kept) == 2
    harness.finish([attempt_of(attempt) for attempt in list(harness.state.attempts.values())])
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert harness.snapshot().failed == 0


def attempt_of(attempt: Any) -> ev.Assign:
    """The command that an attempt on record came of."""
    slot = attempt.slot
    return ev.Assign(slot.worker.id, slot.index, attempt.id, attempt.job.id, attempt.chunk.id, attempt.lo, attempt.hi)


@pytest.mark.parametrize("event", [ev.WorkerSuspected(2), ev.WorkerDraining(2), ev.WorkerLost(2)])
def test_a_kept_worker_that_goes_is_replaced(harness: Any, pick: Any, event: ev.Event) -> None:
    """The item waits for another worker, and the job for the item."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    assigns = harness.job(size=4, chunksize=1, **GENTLE)
    hungry = next(assign for assign in assigns if assign.worker == 1)
    die(harness, hungry, 0)
    (item,) = harness.state.lone
    assert item.worker.id == 2
    harness.send(event)
    assert item.worker.id == 1
    harness.send(ev.WorkerDraining(1))
    assert item.worker is None
    harness.send(ev.WorkerJoined(3, 1))
    assert item.worker.id == 3


def test_a_worker_is_set_up_first(harness: Any, pick: Any) -> None:
    """One that a set-up still has to reach is not kept; a call that comes later waits for the item."""
    harness.send(ev.WorkerJoined(1, 1))
    (hungry,) = harness.job(size=1, chunksize=1, **GENTLE)
    harness.send(ev.JobSubmitted(2, ev.JobSpec(pushed=True, each="slot", stop_on_failure=False)))
    (call,) = [attempt for attempt in harness.state.attempts.values() if attempt.job.id == 2]
    out = die(harness, hungry, 0)
    assert [assign.job for assign in pick(out, ev.Assign)] == [2], "its call had gone with the process"
    assert call.id not in harness.state.attempts
    (lone,) = pick(harness.report(pick(out, ev.Assign)[0]), ev.Assign)
    assert lone.job == 1
    harness.send(ev.JobSubmitted(3, ev.JobSpec(pushed=True, each="slot", stop_on_failure=False)))
    assert [assign.job for assign in pick(harness.report(lone), ev.Assign)] == [3]


def test_a_call_of_a_set_up_cannot_go_elsewhere(harness: Any, pick: Any) -> None:
    """It is charged as for any other death: the third one is final."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.send(ev.JobSubmitted(1, ev.JobSpec(pushed=True, each="slot", stop_on_failure=False)))
    for _ in range(3):
        (call,) = [attempt_of(attempt) for attempt in harness.state.attempts.values()]
        out = die(harness, call, 0)
    assert pick(out, ev.DeliverLoss) == [ev.DeliverLoss(1, 0, 0, "poison")]


def test_a_job_that_ends_lets_its_worker_go(harness: Any, pick: Any) -> None:
    """Whether its item waits to run alone, or runs."""
    for job in (1, 2):
        harness.send(ev.WorkerJoined(job, 2))
        assigns = harness.job(job, size=2, chunksize=1, **GENTLE)
        die(harness, assigns[0], 0)
        if job == 2:
            harness.report(assigns[1])
            (lone,) = [attempt for attempt in harness.state.attempts.values() if attempt.job.id == 2]
            assert lone.slot.worker.quiet_for is not None
        harness.send(ev.CancelRequested(job))
        for attempt in list(harness.state.attempts.values()):
            harness.report(attempt_of(attempt), hi=attempt.lo)
        assert not harness.state.lone
        assert harness.commands[-1] == ev.Finish(job, "cancelled")
        harness.send(ev.WorkerLost(job))


def test_a_paused_job_keeps_no_worker(harness: Any, pick: Any) -> None:
    """Others use it; when the job goes on, its item runs."""
    harness.send(ev.WorkerJoined(1, 2))
    assigns = harness.job(size=2, chunksize=1, **GENTLE)
    die(harness, assigns[0], 0)
    harness.send(ev.PauseRequested(1))
    (item,) = harness.state.lone
    assert item.worker is None
    (other,) = harness.job(2, size=1)
    harness.report(other)
    harness.report(assigns[1])
    (lone,) = pick(harness.send(ev.ResumeRequested(1)), ev.Assign)
    assert lone.chunk == assigns[0].chunk


def test_tags_hold_for_it_too(harness: Any) -> None:
    """No worker without them is kept."""
    gpu = frozenset(["gpu"])
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1, tags=gpu))
    (hungry, _) = harness.job(size=2, chunksize=1, tags=gpu, **GENTLE)
    die(harness, hungry, 0)
    (item,) = harness.state.lone
    assert item.worker.id == 2


def test_it_waits_for_a_process(harness: Any, pick: Any) -> None:
    """Its worker may have none at the moment."""
    harness.send(ev.WorkerJoined(1, 1))
    (hungry,) = harness.job(size=1, **GENTLE)
    assert harness.send(ev.SlotDied(1, 0, hungry.attempt, 0, "memory")) == []
    (lone,) = harness.send(ev.SlotReady(1, 0))
    assert lone.hi - lone.lo == 1


def test_what_raises_alone_is_tried_again_alone(harness: Any, pick: Any) -> None:
    """A retry is no proof that there is memory for it beside others."""
    harness.send(ev.WorkerJoined(1, 2))
    (hungry,) = harness.job(size=1, retries=1, **GENTLE)
    (lone,) = pick(die(harness, hungry, 0), ev.Assign)
    (again,) = pick(harness.report(lone, failed=(0,)), ev.Assign)
    assert harness.state.lone[0].attempt == again.attempt
    harness.report(again)
    assert not harness.state.lone
    assert harness.commands[-1] == ev.Finish(1, "done")


def test_innocents_beside_an_item_that_ends_its_workers(make_harness: Any, pick: Any) -> None:
    """Every loss takes two items along; the innocent one is never given up, as the other one runs alone at last."""
    harness = make_harness()
    harness.send(ev.WorkerJoined(1, 2))
    harness.job(size=2, chunksize=1, **GENTLE)
    worker = 1
    while pick(harness.commands, ev.Finish) == []:
        running = {attempt.chunk.start: attempt for attempt in harness.state.attempts.values()}
        if 1 in running:
            harness.send(ev.WorkerLost(worker))
            worker += 1
            harness.send(ev.WorkerJoined(worker, 2))
        else:
            harness.report(attempt_of(running[0]))
    (loss,) = pick(harness.commands, ev.DeliverLoss)
    assert (loss.at, loss.cause) == (0, "hosts")
    assert harness.snapshot().losses == Limits().host_losses
    assert (harness.snapshot().failed, harness.snapshot().done) == (1, 2)


@pytest.mark.parametrize("size", [1, 2, 100, 5_000, 1_000_000])
def test_ten_losses_find_one_item_among_many(harness: Any, pick: Any, size: int) -> None:
    """However large the chunk was, and the last loss is that of the item alone."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(size=size, chunksize=size, **GENTLE)
    worker, alone = 1, False
    while pick(harness.commands, ev.Finish) == []:
        head = next(a for a in harness.state.attempts.values() if a.slot.queue[0] is a)
        if head.lo <= size // 3 < head.hi:
            alone = bool(harness.state.lone) and harness.state.lone[0].attempt == head.id
            harness.send(ev.WorkerLost(worker))
            worker += 1
            harness.send(ev.WorkerJoined(worker, 1))
        else:
            harness.report(attempt_of(head))
    assert pick(harness.commands, ev.DeliverLoss) == [ev.DeliverLoss(1, 0, size // 3, "hosts")]
    assert harness.snapshot().losses == 10
    assert alone
