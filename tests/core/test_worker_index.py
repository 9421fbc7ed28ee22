"""Which slots can take a chunk, best first."""

from __future__ import annotations

from typing import Any

from distmap.core import events as ev
from distmap.core.limits import LIMITS
from distmap.core.records import WorkerRecord
from distmap.core.state import SchedulerState
from distmap.core.worker_index import WorkerIndex

ANY: frozenset[str] = frozenset()


def fleet_of(*rtts: float, slots: int = 2) -> WorkerIndex:
    worker_index = WorkerIndex(LIMITS)
    for number, rtt in enumerate(rtts):
        worker_index.add(WorkerRecord(number, f"w{number}", ANY, rtt, 0.0), slots)
    return worker_index


def fill(worker_index: WorkerIndex, count: int, tags: frozenset[str] = ANY) -> list[tuple[int, int]]:
    """Take so many places, one after the other."""
    out = []
    for _ in range(count):
        slot = worker_index.best_slot(worker_index.tag_group(tags))
        if slot is None:
            break
        out.append((slot.worker.id, slot.index))
        slot.queue.append(None)  # type: ignore[arg-type]
        worker_index.update_slot(slot)
    return out


def test_empty_slots_come_first_and_are_spread_over_workers() -> None:
    """No second chunk anywhere before every slot has one; like workers take turns."""
    worker_index = fleet_of(0.0, 0.0)
    taken = fill(worker_index, 99)
    assert taken == [(0, 0), (1, 0), (0, 1), (1, 1)] * 2


def test_near_workers_come_first() -> None:
    """A long round trip makes a worker second choice."""
    assert fill(fleet_of(0.5, 0.0), 3) == [(1, 0), (1, 1), (0, 0)]


def test_fast_workers_come_first() -> None:
    """So does slowness as measured."""
    worker_index = fleet_of(0.0, 0.0)
    worker_index.workers[0].slowness = 3.0
    worker_index.update_slots(worker_index.workers[0])
    assert fill(worker_index, 3) == [(1, 0), (1, 1), (0, 0)]


def test_workers_short_of_memory_come_last() -> None:
    """They get nothing, not even a first chunk, while others have a place at all."""
    worker_index = fleet_of(0.0, 0.0, slots=1)
    worker_index.workers[0].memory = 0.95
    worker_index.update_slots(worker_index.workers[0])
    assert fill(worker_index, 9) == [(1, 0), (1, 0), (0, 0), (0, 0)]


def test_tags() -> None:
    """A group holds the workers that carry all its tags, whether they join before or after it is made."""
    worker_index = fleet_of(0.0)
    worker_index.add(WorkerRecord(7, "gpu", frozenset({"gpu", "big"}), 0.0, 0.0), 1)
    group = worker_index.tag_group(frozenset({"gpu"}))
    assert group.capacity == 1
    worker_index.add(WorkerRecord(8, "gpu2", frozenset({"gpu"}), 0.0, 0.0), 1)
    worker_index.add(WorkerRecord(9, "cpu", ANY, 0.0, 0.0), 1)
    assert fill(worker_index, 9, frozenset({"gpu"})) == [(7, 0), (8, 0)] * 2


def test_a_group_is_disbanded_with_its_last_job() -> None:
    """Tags that nobody asks for any more cost nothing."""
    worker_index = fleet_of(0.0)
    worker_index.add(WorkerRecord(7, "gpu", frozenset({"gpu"}), 0.0, 0.0), 1)
    group = worker_index.tag_group(frozenset({"gpu"}))
    worker_index.remove_group(group)
    assert not worker_index.groups
    assert worker_index.workers[7].groups == []


def test_the_group_of_all_slots_waits_for_the_next_job() -> None:
    """With its slots, and nothing of the jobs that are over."""
    worker_index = fleet_of(0.0)
    group = worker_index.tag_group(ANY)
    group.job_heap.append(((0, True, 0.0, 1), 1, None))  # type: ignore[arg-type]
    worker_index.remove_group(group)
    assert worker_index.tag_group(ANY) is group
    assert (group.job_heap, group.victims, group.capacity) == ([], [], 2)


def test_a_new_group_knows_who_is_idle() -> None:
    """Slots that hold something, or cannot take anything, are not counted."""
    worker_index = fleet_of(0.0, 0.0)
    fill(worker_index, 2)
    worker_index.set_state(worker_index.workers[1], "suspect")
    worker_index.update_slots(worker_index.workers[1])
    worker_index.groups.clear()
    for worker in worker_index.workers.values():
        worker.groups.clear()
    group = worker_index.tag_group(ANY)
    assert (group.idle, group.capacity) == (1, 2)


def test_heaps_stay_small() -> None:
    """Entries that are out of date are thrown out when they are most of a heap."""
    state = SchedulerState(LIMITS)
    state.worker_index.add(WorkerRecord(1, "w", ANY, 0.0, 0.0), 1)
    job = state.open_job(1, ev.JobSpec(size=10))
    slot = state.worker_index.workers[1].slots[0]
    for _ in range(1000):
        state.worker_index.update_slot(slot)
        state.worker_index.update_job(job.group, job)
    assert len(job.group.job_heap) <= 65
    assert len(job.group.slot_heaps[0]) <= 65
    assert state.worker_index.next_job(job.group) is job
    assert state.worker_index.best_slot(job.group) is slot


def test_a_lost_worker_is_no_place(harness: Any) -> None:
    """Its slots go out of every heap."""
    worker_index = fleet_of(0.0)
    group = worker_index.tag_group(ANY)
    worker_index.set_state(worker_index.workers[0], "lost")
    worker_index.remove(worker_index.workers[0])
    assert worker_index.best_slot(group) is None
    assert (group.idle, group.capacity, worker_index.lost) == (0, 0, {0})
