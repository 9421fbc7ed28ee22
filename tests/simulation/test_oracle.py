"""What the oracle lets pass and what it does not, one promise at a time."""

from __future__ import annotations

from typing import Any

import pytest
from simulation.oracle import Broken, Oracle

from distmap.core import events as ev
from distmap.core.limits import LIMITS


def oracle_of(*steps: Any, **spec: Any) -> Oracle:
    """One worker of one slot, one job, one chunk of three items; then what is given."""
    oracle = Oracle(LIMITS)
    oracle.take_event(ev.WorkerJoined(1, 1), 0.0)
    oracle.take_event(ev.JobSubmitted(1, ev.JobSpec(**spec)), 0.0)
    oracle.check_command(ev.Read(1, 0, 3))
    oracle.take_event(ev.ChunkRead(1, 0, 3, 24, True), 0.0)
    for one in steps:
        if type(one).__name__ in ("Assign", "Deliver", "Discard", "Release", "Finish", "Revoke", "Interrupt"):
            oracle.check_command(one)
        else:
            oracle.take_event(one, 0.0)
    return oracle


ASSIGN = ev.Assign(1, 0, 0, 1, 0, 0, 3)
DONE = ev.AttemptReported(0, 0, 3, (), 0.1, 24, True)


def test_a_good_life() -> None:
    """Read, assigned, reported, delivered, released, finished."""
    oracle = oracle_of(
        ASSIGN, DONE, ev.Deliver(1, 0, 0, 3, 0), ev.Release(1, 0), ev.Finish(1, "done"), gather="ordered"
    )
    oracle.done()


@pytest.mark.parametrize(
    ("before", "command", "text"),
    [
        ((), ev.Read(1, 1, 1), "nothing is wanted"),
        ((ev.WorkerSuspected(1),), ASSIGN, "the worker is suspect"),
        ((ev.SlotDied(1, 0, None, None, "idle"),), ASSIGN, "the slot is dead"),
        ((ASSIGN,), ev.Assign(1, 0, 1, 1, 0, 2, 3), "item 2 is running"),
        ((ASSIGN,), ev.Deliver(1, 0, 0, 1, 0), "was not reported"),
        ((ASSIGN,), ev.Interrupt(1, 0, 0), "its job goes on"),
        ((ASSIGN, ev.Revoke(1, 0, 0, 1)), ev.Revoke(1, 0, 0, 2), "a second Revoke"),
        ((ASSIGN, DONE), ev.Finish(1, "done"), "0 of 3 items were delivered"),
        ((ASSIGN, DONE), ev.Finish(1, "cancelled"), "for no reason"),
        ((ASSIGN, ev.WorkerLost(1), DONE), ev.Deliver(1, 0, 0, 3, 0), "had been given up"),
        ((), ev.DeliverLoss(1, 0, 0, "poison"), "was not charged so"),
        ((ASSIGN,), ev.Kill(1, 0), "not being stopped"),
        ((ASSIGN, DONE, ev.Deliver(1, 0, 0, 1, 0)), ev.Finish(1, "cancelled"), "for no reason"),
    ],
)
def test_a_breach(before: tuple[Any, ...], command: Any, text: str) -> None:
    """Broken names the command and the broken promise."""
    with pytest.raises(Broken, match=text):
        oracle_of(*before).check_command(command)


JOIN = ev.WorkerJoined(2, 2)


@pytest.mark.parametrize(
    ("each", "steps", "command", "text"),
    [
        ("slot", (), ev.SetUp(2, 1, 2, 2), "no such call"),
        ("slot", (ev.SetUp(2, 1, 2, 0),), ev.SetUp(2, 2, 2, 0), "no such call"),
        ("worker", (ev.SetUp(2, 1, 2, 0),), ev.SetUp(2, 2, 2, 1), "a second call on that worker"),
        ("slot", (), ev.SetUp(1, 1, 2, 0), "no set-up"),
        ("slot", (ev.WorkerLost(2),), ev.SetUp(2, 1, 2, 0), "not for that worker"),
        ("slot", (ev.SetUp(2, 1, 2, 0),), ev.Assign(2, 1, 0, 2, 1, 0, 1), "this call is for"),
        ("slot", (ev.SetUp(2, 1, 2, 0),), ev.Assign(2, 1, 0, 1, 0, 0, 3), "set-up 2 has not succeeded"),
        ("slot", (ev.SetUp(2, 1, 2, 0), ev.CancelRequested(2)), ev.Finish(2, "cancelled"), "had calls in slots"),
        ("slot", (ev.SetUp(2, 1, 2, 0),), ev.DeliverLoss(2, 1, 0, "gone"), "was not charged so"),
        ("slot", (ev.SetUp(2, 1, 2, 0),), ev.DeliverLoss(2, 1, 0, "refused"), "was not charged so"),
    ],
)
def test_a_breach_of_a_set_up(each: Any, steps: tuple[Any, ...], command: Any, text: str) -> None:
    """Its calls are where they should be, and nothing runs on a worker that came later before they succeeded."""
    oracle = Oracle(LIMITS)
    oracle.take_event(ev.JobSubmitted(1, ev.JobSpec()), 0.0)
    oracle.take_event(ev.JobSubmitted(2, ev.JobSpec(pushed=True, each=each)), 0.0)
    for one in (JOIN, *steps):
        if isinstance(one, ev.SetUp):
            oracle.check_command(one)
        else:
            oracle.take_event(one, 0.0)
    oracle.jobs[1].chunks[0] = (0, 3, 24)
    with pytest.raises(Broken, match=text):
        oracle.check_command(command)


def test_order() -> None:
    """An ordered job's results come in input order."""
    oracle = oracle_of(ASSIGN, DONE, gather="ordered")
    with pytest.raises(Broken, match="out of order, 0 is due"):
        oracle.check_command(ev.Deliver(1, 0, 1, 2, 0))


def test_a_failure_with_retries_left() -> None:
    """It must be run again, not delivered."""
    oracle = oracle_of(ASSIGN, ev.AttemptReported(0, 0, 3, (1,), 0.1, 24, True), retries=1)
    with pytest.raises(Broken, match="to be run again"):
        oracle.check_command(ev.Deliver(1, 0, 0, 3, 0))


def test_what_never_ended() -> None:
    """At the end all jobs are over and no result was forgotten."""
    with pytest.raises(Broken, match="never ended"):
        oracle_of().done()


def test_a_resting_slot_may_go_on_early_where_nothing_else_can() -> None:
    """After a minute as every slot, after five seconds if its job has no other, and not before that."""
    for workers, seconds, may in ((1, 4.0, False), (1, 6.0, True), (2, 6.0, False), (2, 61.0, True)):
        oracle = Oracle(LIMITS)
        for worker in range(1, workers + 1):
            oracle.take_event(ev.WorkerJoined(worker, 1), 0.0)
        oracle.take_event(ev.JobSubmitted(1, ev.JobSpec()), 0.0)
        oracle.check_command(ev.Read(1, 0, 3))
        oracle.take_event(ev.ChunkRead(1, 0, 3, 24, True), 0.0)
        for _ in range(5):
            oracle.take_event(ev.SlotDied(1, 0, None, None, "idle"), 0.0)
            oracle.take_event(ev.SlotReady(1, 0), 0.0)
        oracle.take_event(ev.Ticked(), seconds)
        if may:
            oracle.check_command(ASSIGN)
        else:
            with pytest.raises(Broken, match="the slot is resting"):
                oracle.check_command(ASSIGN)
