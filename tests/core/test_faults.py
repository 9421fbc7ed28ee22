"""Who is charged, and what goes back."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.limits import Limits

GENTLE = {"stop_on_failure": False}


def die(harness: Any, assign: Any, at: int | None, reason: Any = "died") -> list[Any]:
    """The slot of an assignment dies and comes back; gives what follows."""
    died = ev.SlotDied(assign.worker, assign.slot, assign.attempt if at is not None else None, at, reason)
    return harness.send(died, ev.SlotReady(assign.worker, assign.slot))


def spans(assigns: list[Any]) -> list[tuple[int, int]]:
    return [(assign.lo, assign.hi) for assign in assigns]


def test_only_the_item_that_ran_is_charged(harness: Any, pick: Any) -> None:
    """Reported items are kept, the others go back free, the one that ran goes by itself."""
    harness.send(ev.WorkerJoined(1, 2))
    (assign,) = harness.job(size=8, chunksize=8, **GENTLE)
    harness.report(assign, hi=2, ended=False)
    out = die(harness, assign, 4)
    assert sorted(spans(pick(out, ev.Assign))) == [(2, 4), (4, 5), (5, 8)]
    snapshot = harness.snapshot()
    assert (snapshot.requeued, snapshot.deaths, snapshot.done) == (6, 1, 2)


def test_the_third_death_is_final(harness: Any, pick: Any) -> None:
    """The item is lost as poison; all others complete."""
    harness.send(ev.WorkerJoined(1, 1))
    todo = harness.job(size=3, chunksize=3, **GENTLE)
    deaths = 0
    while todo:
        assign = todo.pop(0)
        if assign.lo <= 1 < assign.hi:
            deaths += 1
            todo = pick(die(harness, assign, 1), ev.Assign)
        else:
            todo += pick(harness.report(assign), ev.Assign)
    assert deaths == 3
    assert pick(harness.commands, ev.DeliverLoss) == [ev.DeliverLoss(1, 0, 1, "poison")]
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert harness.snapshot().failed == 1


def test_poison_ends_a_job_that_stops_on_failure(harness: Any, pick: Any) -> None:
    """The loss is delivered, then the job fails; what ran elsewhere is interrupted."""
    harness.send(ev.WorkerJoined(1, 2))
    todo = harness.job(size=2, chunksize=1)
    other = todo.pop()
    for _ in range(3):
        harness.send(ev.SlotDied(1, 0, todo.pop().attempt, 0, "died"))
        assert (
            pick(harness.commands[-1:], ev.Assign) == harness.commands[-1:]
            or ev.DeliverLoss(1, 0, 0, "poison") in harness.commands
        )
        if isinstance(harness.commands[-1], ev.Assign):
            moved = harness.commands[-1]
            (revoke,) = harness.send(ev.SlotReady(1, 0), after=1.0)
            assert revoke == ev.Revoke(1, 1, moved.attempt, 0)
            todo = pick(harness.report(moved, hi=0), ev.Assign)
    assert pick(harness.commands, ev.Interrupt) == [ev.Interrupt(1, 1, other.attempt)]
    assert harness.report(other) == [ev.Discard(other.attempt, 0, 1), ev.Release(1, 1), ev.Finish(1, "failed")]


def test_a_timeout_is_final_at_once(harness: Any, pick: Any) -> None:
    """The item is lost, the rest goes back free."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=3, chunksize=3, **GENTLE)
    out = die(harness, assign, 0, "timeout")
    assert out[0] == ev.DeliverLoss(1, 0, 0, "timeout")
    assert spans(pick(out, ev.Assign)) == [(1, 3)]


@pytest.mark.parametrize(("at", "reason"), [(1, "killed"), (None, "idle"), (None, "died"), (7, "died")])
def test_nobody_is_charged_without_proof(harness: Any, pick: Any, at: int | None, reason: str) -> None:
    """Our own kill, a death between items, or one that names nothing that ran: all goes back free."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=3, chunksize=3)
    for _ in range(4):
        (assign,) = pick(die(harness, assign, at, reason), ev.Assign)
        assert (assign.lo, assign.hi) == (0, 3)
    assert harness.snapshot().deaths == (0 if reason == "killed" else 4)


def test_a_dead_slot_takes_nothing(harness: Any, pick: Any) -> None:
    """Until it has a fresh process; a second death before that cannot be."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign, _) = harness.job(size=2)
    assert harness.send(ev.SlotDied(1, 0, assign.attempt, 0, "died")) == []
    assert len(pick(harness.send(ev.SlotReady(1, 0)), ev.Assign)) == 2


def test_a_slot_that_dies_too_often_rests(harness: Any, pick: Any) -> None:
    """Five deaths in 30 s: a minute without work, then it goes on. Deaths far apart do not count together."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    harness.send(ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0))
    harness.now += 31.0
    for _ in range(4):
        harness.send(ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0))
    assert harness.scheduler.deadline() is None
    harness.send(ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0))
    assert [assign.worker for assign in harness.job(size=3, chunksize=1)] == [2, 2]
    assert harness.scheduler.deadline() == 91.0
    assert harness.scheduler.resting(1, harness.now) == (1, 60.0)
    assert harness.scheduler.resting(2, harness.now) == (0, 0.0)
    assert harness.feed(harness.send(ev.Ticked(), after=59.0)) == []
    assert [assign.worker for assign in harness.feed(harness.send(ev.Ticked(), after=1.0))] == [1]
    assert harness.scheduler.resting(1, harness.now) == (0, 0.0)


def tire(harness: Any, worker: int, slot: int) -> None:
    """Five deaths, and it is back."""
    for _ in range(5):
        harness.send(ev.SlotDied(worker, slot, None, None, "idle"), ev.SlotReady(worker, slot))


def test_the_last_slot_of_a_job_rests_for_a_moment_only(harness: Any, pick: Any) -> None:
    """Where every slot rests one goes on after five seconds, the others rest out their minute."""
    harness.send(ev.WorkerJoined(1, 2))
    tire(harness, 1, 0)
    assert harness.scheduler.deadline() == 60.0
    harness.job(size=9, chunksize=1)
    harness.send(after=1.0)
    tire(harness, 1, 1)
    assert harness.scheduler.deadline() == 5.0
    assert harness.scheduler.resting(1, harness.now) == (2, 4.0)
    assert harness.send(ev.Ticked(), after=3.9) == []
    assigns = harness.feed(harness.send(ev.Ticked(), after=0.1))
    assert [assign.slot for assign in assigns] == [0, 0]
    harness.feed(harness.report(assigns[0]))
    assert harness.scheduler.resting(1, harness.now) == (1, 56.0)
    # While the one that works is away for a moment, the other need not go on.
    harness.send(ev.SlotDied(1, 0, None, None, "idle"), after=5.0)
    assert harness.scheduler.deadline() == 61.0
    harness.send(ev.SlotReady(1, 0))
    for _ in range(3):
        harness.send(ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0))
    # It dies once too often: the other has rested for more than a moment by now.
    out = harness.send(ev.SlotDied(1, 0, None, None, "idle"))
    assert {assign.slot for assign in pick(out, ev.Assign)} == {1}


def test_a_rest_is_short_for_whoever_has_no_other_slot(harness: Any, pick: Any) -> None:
    """What counts are the slots with a job's tags, on workers that are there and trusted."""
    gpu = frozenset(["gpu"])
    harness.send(ev.WorkerJoined(1, 1, tags=gpu), ev.WorkerJoined(2, 1), ev.WorkerJoined(3, 1, tags=gpu))
    tire(harness, 1, 0)
    harness.job(1, size=9, chunksize=1)
    harness.job(2, size=9, chunksize=1, tags=gpu)
    assert harness.scheduler.deadline() == 60.0
    harness.send(ev.WorkerSuspected(3), after=1.0)
    assert harness.scheduler.deadline() == 5.0
    harness.send(ev.WorkerTrusted(3))
    assert harness.scheduler.deadline() == 60.0
    (assign,) = pick(harness.send(ev.WorkerLost(3), after=5.0), ev.Assign)[:1]
    assert (assign.job, assign.worker) == (2, 1)


def test_a_silence_does_not_end_a_rest(harness: Any, pick: Any) -> None:
    """A worker that is silent takes nothing, so that no slot of it has to go on; heard again, it has another slot."""
    harness.send(ev.WorkerJoined(1, 2))
    tire(harness, 1, 0)
    harness.job(size=9, chunksize=1)
    harness.send(ev.WorkerSuspected(1), after=1.0)
    assert harness.scheduler.deadline() == 60.0
    harness.send(ev.Ticked(), after=6.0)
    out = harness.send(ev.WorkerTrusted(1))
    assert harness.scheduler.resting(1, harness.now) == (1, 53.0)
    assert {assign.slot for assign in pick(out, ev.Assign)} <= {1}


def test_a_rest_is_short_for_a_call_of_a_set_up(harness: Any, pick: Any) -> None:
    """It is for this slot and has no other, though the rest of the pool is well."""
    harness.send(ev.WorkerJoined(1, 2))
    for _ in range(5):
        harness.send(ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0))
    assert harness.scheduler.resting(1, harness.now) == (1, 60.0)
    harness.send(ev.JobSubmitted(1, ev.JobSpec(pushed=True, stop_on_failure=False, each="slot")))
    assert harness.scheduler.resting(1, harness.now) == (1, 5.0)
    (call,) = pick(harness.send(ev.Ticked(), after=5.0), ev.Assign)
    assert (call.slot, call.job) == (0, 1)


def test_a_lost_worker_takes_its_resting_slots_along(harness: Any) -> None:
    """Nothing is due for them any more."""
    harness.send(ev.WorkerJoined(1, 1))
    tire(harness, 1, 0)
    harness.send(ev.WorkerLost(1))
    assert harness.scheduler.deadline() is None


def test_a_death_while_resting(harness: Any) -> None:
    """It comes back to its rest; the old timer means nothing then, the new one ends it."""
    harness.send(ev.WorkerJoined(1, 1))
    for _ in range(5):
        harness.send(ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0))
    harness.send(ev.SlotDied(1, 0, None, None, "idle"), after=1.0)
    assert harness.scheduler.deadline() is None
    harness.send(ev.SlotReady(1, 0))
    assert harness.scheduler.deadline() == 60.0


def test_a_ready_slot_whose_rest_has_passed(harness: Any, pick: Any) -> None:
    """Its process came back so late that no rest is left."""
    harness.send(ev.WorkerJoined(1, 1))
    for _ in range(4):
        harness.send(ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0))
    harness.send(ev.SlotDied(1, 0, None, None, "idle"))
    harness.send(ev.SlotReady(1, 0), after=61.0)
    assert harness.job(size=1)


def test_a_job_that_only_kills_is_stopped(harness: Any, pick: Any) -> None:
    """Ten deaths with nothing finished in between."""
    harness.send(ev.WorkerJoined(1, 3))
    todo = harness.job(size=9, chunksize=1, **GENTLE)
    for count in range(10):
        todo = [assign for assign in todo if assign.slot == count % 3] or todo
        assign = next(a for a in harness.state.attempts.values() if a.slot.queue[0] is a)
        out = harness.send(ev.SlotDied(1, assign.slot.index, None, None, "idle"), ev.SlotReady(1, assign.slot.index))
    assert pick(out, ev.Interrupt)
    out = harness.send(ev.Ticked(), after=1.0)
    assert out[-1] == ev.Finish(1, "failed", crashed=True)


def test_a_lost_worker_charges_what_ran(harness: Any, pick: Any) -> None:
    """From the second loss on in halves; what only waited is free. After ten losses an item is given up."""
    harness.send(ev.WorkerJoined(1, 1))
    todo = harness.job(size=8, chunksize=8, **GENTLE)
    seen = []
    worker = 1
    while pick(harness.commands, ev.Finish) == []:
        head = next(a for a in harness.state.attempts.values() if a.slot.queue[0] is a)
        seen.append(head.hi - head.next)
        if head.lo <= 3 < head.hi:
            harness.send(ev.WorkerLost(worker))
            worker += 1
            harness.send(ev.WorkerJoined(worker, 1))
        else:
            harness.send(ev.AttemptReported(head.id, head.lo, head.hi, (), 0.1, 8, True))
    assert todo
    assert seen[:3] == [8, 8, 4]
    assert pick(harness.commands, ev.DeliverLoss) == [ev.DeliverLoss(1, 0, 3, "hosts")]
    assert harness.snapshot().losses == 10
    assert harness.snapshot().failed == 1


def test_a_lost_attempt_is_tried_again_in_parts(harness: Any, pick: Any) -> None:
    """In eighths, then item by item; the one that ends whatever runs it is charged, all others complete."""
    harness.send(ev.WorkerJoined(1, 2))
    todo = harness.job(size=64, chunksize=64, **GENTLE)
    seen = []
    while todo:
        assign = todo.pop(0)
        if assign.lo <= 19 < assign.hi:
            seen.append(assign.hi - assign.lo)
            todo += pick(harness.send(ev.AttemptLost(assign.attempt)), ev.Assign)
        else:
            todo += pick(harness.report(assign), ev.Assign)
    assert seen == [64, 8, 1, 1, 1]
    assert pick(harness.commands, ev.DeliverLoss) == [ev.DeliverLoss(1, 0, 19, "poison")]
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert (harness.snapshot().deaths, harness.snapshot().failed, harness.snapshot().losses) == (5, 1, 0)


def test_a_lost_attempt_leaves_its_slot_as_it_is(harness: Any, pick: Any) -> None:
    """What waits behind it runs, results that it reported stay, and its second loss means nothing."""
    harness.send(ev.WorkerJoined(1, 1))
    head, waiting = harness.job(size=4, chunksize=2, **GENTLE)
    harness.report(head, hi=1, ended=False)
    out = harness.send(ev.AttemptLost(head.attempt))
    assert spans(pick(out, ev.Assign)) == [(1, 2)]
    assert harness.send(ev.AttemptLost(head.attempt)) == []
    assert pick(harness.send(ev.AttemptLost(waiting.attempt)), ev.Kill) == []
    assert harness.snapshot().deaths == 2


def test_a_lost_attempt_may_name_the_item_that_ran(harness: Any, pick: Any) -> None:
    """Only that one is charged, for the reason that is given; of one that was killed or ran nothing nobody is."""
    harness.send(ev.WorkerJoined(1, 1))
    todo = harness.job(size=24, chunksize=8, **GENTLE)
    todo += harness.feed(harness.send(ev.AttemptLost(todo.pop(0).attempt, 3, "timeout")))
    assert pick(harness.commands, ev.DeliverLoss) == [ev.DeliverLoss(1, 0, 3, "timeout")]
    for reason in ("killed", "idle"):
        todo += harness.feed(harness.send(ev.AttemptLost(todo.pop(0).attempt, None, reason)))
    assert (harness.snapshot().deaths, harness.snapshot().failed) == (2, 1)
    while todo:
        todo += harness.feed(harness.report(todo.pop(0)))
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert harness.snapshot().failed == 1


def test_lost_attempts_end_a_job_that_only_kills(harness: Any, pick: Any) -> None:
    """One after the other is lost and nothing is finished: the job is stopped."""
    harness.send(ev.WorkerJoined(1, 1))
    todo = harness.job(size=90, chunksize=1, **GENTLE)
    for _ in range(10):
        todo += harness.feed(harness.send(ev.AttemptLost(todo.pop(0).attempt)))
    harness.send(ev.Ticked(), after=1.0)
    assert harness.commands[-1] == ev.Finish(1, "failed", crashed=True)


def test_an_attempt_lost_while_its_job_is_being_stopped(harness: Any) -> None:
    """Nothing goes back; that of a job that is over concerns nobody."""
    harness.send(ev.WorkerJoined(1, 1))
    first, second = harness.job(size=9, chunksize=3)
    harness.send(ev.CancelRequested(1))
    assert harness.send(ev.AttemptLost(second.attempt)) == []
    harness.send(ev.Ticked(), after=1.0)
    assert harness.send(ev.AttemptLost(first.attempt)) == []
    assert harness.snapshot().requeued == 0


def test_a_worker_that_left_charges_nobody(harness: Any, pick: Any) -> None:
    """Announced leaving is free, however often."""
    harness.send(ev.WorkerJoined(0, 1))
    harness.job(size=8, chunksize=8)
    for worker in range(15):
        harness.send(ev.WorkerLost(worker, charged=False))
        (assign,) = pick(harness.send(ev.WorkerJoined(worker + 1, 1)), ev.Assign)
        assert (assign.lo, assign.hi) == (0, 8)


def test_the_loss_of_one_item_may_end_the_job_on_all_slots(make_harness: Any, pick: Any) -> None:
    """Several slots are lost at once: the charge of one ends the job, and the others are not interrupted."""
    harness = make_harness(Limits(host_losses=1))
    harness.send(ev.WorkerJoined(1, 3))
    harness.job(size=3, chunksize=1)
    out = harness.send(ev.WorkerLost(1))
    assert len(pick(out, ev.DeliverLoss)) == 1
    assert pick(out, ev.Interrupt) == []
    assert out[-1] == ev.Finish(1, "failed")


def test_all_of_it_was_reported_already(harness: Any, pick: Any) -> None:
    """A worker lost between the last report and its end takes nothing with it."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=2, chunksize=2)
    harness.report(assign, ended=False)
    assert harness.send(ev.WorkerLost(1)) == [ev.Finish(1, "done")]


def test_deaths_while_a_job_is_being_stopped(harness: Any, pick: Any) -> None:
    """Nobody is charged and nothing goes back: it only ends."""
    harness.send(ev.WorkerJoined(1, 2))
    first, second, _third, _fourth = harness.job(size=9, chunksize=1)
    harness.send(ev.CancelRequested(1))
    assert harness.send(ev.SlotDied(1, first.slot, first.attempt, 0, "died")) == []
    assert harness.send(ev.SlotDied(1, second.slot, second.attempt, 0, "died"))[-1] == ev.Finish(1, "cancelled")
    assert harness.snapshot().requeued == 0


def test_a_lost_worker_while_a_job_is_being_stopped(harness: Any) -> None:
    """The same for a worker."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(size=9, chunksize=1)
    harness.send(ev.CancelRequested(1))
    assert harness.send(ev.WorkerLost(1))[-1] == ev.Finish(1, "cancelled")


def test_an_abandoned_attempt_goes_with_its_slot(harness: Any, pick: Any) -> None:
    """What a killed slot still held for a job that is over concerns nobody."""
    harness.send(ev.WorkerJoined(1, 1))
    first, _ = harness.job(size=9, chunksize=1)
    harness.send(ev.CancelRequested(1))
    harness.send(ev.Ticked(), after=1.0)
    assert harness.send(ev.SlotDied(1, 0, first.attempt, 0, "killed")) == []
    assert not harness.state.attempts


def test_a_worker_that_is_cut_off_as_it_leaves_charges_nobody(harness: Any, pick: Any) -> None:
    """It said that it leaves: a second signal, or its host's end, is no item's fault."""
    harness.send(ev.WorkerJoined(0, 1))
    harness.job(size=1, **GENTLE)
    for worker in range(15):
        harness.send(ev.WorkerDraining(worker), ev.WorkerLost(worker, charged=True))
        (assign,) = pick(harness.send(ev.WorkerJoined(worker + 1, 1)), ev.Assign)
        assert (assign.lo, assign.hi) == (0, 1)
    assert harness.snapshot().losses == 0


def test_many_workers_that_leave_at_once_charge_nobody(harness: Any, pick: Any) -> None:
    """Half of the workers are taken away again and again: all items complete."""
    harness.send(*[ev.WorkerJoined(number, 2) for number in range(8)])
    harness.job(size=64, chunksize=4, **GENTLE)
    for turn in range(12):
        going = range(4 * turn, 4 * turn + 4)
        harness.send(*[ev.WorkerDraining(number) for number in going])
        harness.send(*[ev.WorkerLost(number, charged=turn % 2 == 0) for number in going])
        harness.send(*[ev.WorkerJoined(4 * turn + 8 + number, 2) for number in range(4)])
    while harness.state.attempts:
        attempt = next(a for a in harness.state.attempts.values() if a.slot.queue[0] is a)
        harness.feed(harness.send(ev.AttemptReported(attempt.id, attempt.lo, attempt.hi, (), 0.01, 8, True)))
    assert harness.commands[-1] == ev.Finish(1, "done")
    assert (harness.snapshot().failed, harness.snapshot().losses) == (0, 0)


def test_a_job_that_is_always_out_of_memory_is_stopped(harness: Any, pick: Any) -> None:
    """Ten deaths with nothing finished in between, whether they count for an item or not."""
    harness.send(ev.WorkerJoined(1, 1))
    todo = harness.job(size=30, chunksize=1, **GENTLE)
    for _ in range(10):
        assert todo
        head = next(a for a in harness.state.attempts.values() if a.slot.queue[0] is a)
        todo = harness.feed(harness.send(ev.SlotDied(1, 0, head.id, head.lo, "memory"), ev.SlotReady(1, 0)))
    assert harness.commands[-1] == ev.Finish(1, "failed", crashed=True)
