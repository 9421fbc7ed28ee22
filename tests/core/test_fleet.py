"""Which slots can take a chunk, best first."""

from __future__ import annotations

from typing import Any

from distmap.core import events as ev
from distmap.core.state import SchedulerState
from distmap.core.fleet import Fleet
from distmap.core.limits import LIMITS
from distmap.core.records import Worker

ANY: frozenset[str] = frozenset()


def fleet_of(*rtts: float, slots: int = 2) -> Fleet:
    fleet = Fleet(LIMITS)
    for number, rtt in enumerate(rtts):
        fleet.join(Worker(number, f"w{number}", ANY, rtt, 0.0), slots)
    return fleet


def fill(fleet: Fleet, count: int, tags: frozenset[str] = ANY) -> list[tuple[int, int]]:
    """Take so many places, one after the other."""
    out = []
    for _ in range(count):
        slot = fleet.place(fleet.group(tags))
        if slot is None:
            break
        out.append((slot.worker.id, slot.index))
        slot.queue.append(None)  # type: ignore[arg-type]
        fleet.touch(slot)
    return out


def test_empty_slots_come_first_and_are_spread_over_workers() -> None:
    """No second chunk anywhere before every slot has one; like workers take turns."""
    fleet = fleet_of(0.0, 0.0)
    taken = fill(fleet, 99)
    assert taken == [(0, 0), (1, 0), (0, 1), (1, 1)] * 2


def test_near_workers_come_first() -> None:
    """A long round trip makes a worker second choice."""
    assert fill(fleet_of(0.5, 0.0), 3) == [(1, 0), (1, 1), (0, 0)]


def test_fast_workers_come_first() -> None:
    """So does slowness as measured."""
    fleet = fleet_of(0.0, 0.0)
    fleet.workers[0].slowness = 3.0
    fleet.refresh(fleet.workers[0])
    assert fill(fleet, 3) == [(1, 0), (1, 1), (0, 0)]


def test_workers_short_of_memory_come_last() -> None:
    """They get nothing, not even a first chunk, while others have a place at all."""
    fleet = fleet_of(0.0, 0.0, slots=1)
    fleet.workers[0].memory = 0.95
    fleet.refresh(fleet.workers[0])
    assert fill(fleet, 9) == [(1, 0), (1, 0), (0, 0), (0, 0)]


def test_tags() -> None:
    """A group holds the workers that carry all its tags, whether they join before or after it is made."""
    fleet = fleet_of(0.0)
    fleet.join(Worker(7, "gpu", frozenset({"gpu", "big"}), 0.0, 0.0), 1)
    group = fleet.group(frozenset({"gpu"}))
    assert group.capacity == 1
    fleet.join(Worker(8, "gpu2", frozenset({"gpu"}), 0.0, 0.0), 1)
    fleet.join(Worker(9, "cpu", ANY, 0.0, 0.0), 1)
    assert fill(fleet, 9, frozenset({"gpu"})) == [(7, 0), (8, 0)] * 2


def test_a_group_is_disbanded_with_its_last_job() -> None:
    """Tags that nobody asks for any more cost nothing."""
    fleet = fleet_of(0.0)
    fleet.join(Worker(7, "gpu", frozenset({"gpu"}), 0.0, 0.0), 1)
    group = fleet.group(frozenset({"gpu"}))
    fleet.disband(group)
    assert not fleet.groups
    assert fleet.workers[7].groups == []


def test_a_new_group_knows_who_is_idle() -> None:
    """Slots that hold something, or cannot take anything, are not counted."""
    fleet = fleet_of(0.0, 0.0)
    fill(fleet, 2)
    fleet.turn(fleet.workers[1], "suspect")
    fleet.refresh(fleet.workers[1])
    fleet.groups.clear()
    for worker in fleet.workers.values():
        worker.groups.clear()
    group = fleet.group(ANY)
    assert (group.idle, group.capacity) == (1, 2)


def test_heaps_stay_small() -> None:
    """Entries that are out of date are thrown out when they are most of a heap."""
    state = SchedulerState(LIMITS)
    state.fleet.join(Worker(1, "w", ANY, 0.0, 0.0), 1)
    job = state.open_job(1, ev.JobSpec(size=10))
    slot = state.fleet.workers[1].slots[0]
    for _ in range(1000):
        state.fleet.touch(slot)
        state.fleet.want(job.group, job)
    assert len(job.group.ready) <= 65
    assert len(job.group.places[0]) <= 65
    assert state.fleet.best(job.group) is job
    assert state.fleet.place(job.group) is slot


def test_a_lost_worker_is_no_place(desk: Any) -> None:
    """Its slots go out of every heap."""
    fleet = fleet_of(0.0)
    group = fleet.group(ANY)
    fleet.turn(fleet.workers[0], "lost")
    fleet.leave(fleet.workers[0])
    assert fleet.place(group) is None
    assert (group.idle, group.capacity, fleet.gone) == (0, 0, {0})
