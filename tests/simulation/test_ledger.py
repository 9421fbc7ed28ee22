"""The ledger: what follows from events alone."""

from __future__ import annotations

from simulation.ledger import AttemptAccount, Ledger

from distmap.core import events as ev
from distmap.core.limits import LIMITS


def ledger() -> Ledger:
    """One slot that holds one attempt of three items, of which one is reported."""
    ledger = Ledger(LIMITS)
    ledger.take_event(ev.WorkerJoined(1, 1), 0.0)
    ledger.take_event(ev.JobSubmitted(1, ev.JobSpec()), 0.0)
    ledger.take_event(ev.ChunkRead(1, 0, 3, 24, False), 0.0)
    ledger.attempts[0] = AttemptAccount(1, 0, 0, 3, (1, 0), 0)
    ledger.workers[1].slots[0].held.append(0)
    ledger.jobs[1].items = {0: "running", 1: "running", 2: "running"}
    ledger.take_event(ev.AttemptReported(0, 0, 1, (), 0.1, 8, False), 0.0)
    return ledger


def test_a_death_charges_the_item_that_ran() -> None:
    """And frees what was not reported."""
    mine = ledger()
    mine.take_event(ev.SlotDied(1, 0, 0, 1, "died"), 1.0)
    assert dict(mine.jobs[1].deaths) == {1: 1}
    assert mine.jobs[1].items == {0: "running"}
    assert not mine.attempts[0].live


def test_a_lost_worker_charges_what_ran() -> None:
    """Every item that was not reported, once."""
    mine = ledger()
    mine.take_event(ev.WorkerLost(1), 1.0)
    mine.take_event(ev.WorkerLost(1), 1.0)
    assert dict(mine.jobs[1].hosts) == {1: 1, 2: 1}


def test_five_deaths_make_a_slot_rest() -> None:
    """Until a minute after the last one."""
    mine = ledger()
    for second in range(5):
        mine.take_event(ev.SlotDied(1, 0, None, None, "idle"), float(second))
        mine.take_event(ev.SlotReady(1, 0), float(second))
    assert mine.workers[1].slots[0].state == "resting"
    assert mine.workers[1].slots[0].rest_until == 64.0
