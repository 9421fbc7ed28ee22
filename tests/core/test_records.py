"""What follows from one record alone."""

from __future__ import annotations

from typing import Any

from distmap.core import events as ev
from distmap.core.gather import Unordered
from distmap.core.limits import Limits
from distmap.core.records import JobRecord, SlotRecord, WorkerRecord
from distmap.core.worker_index import WorkerIndex

LIMITS = Limits(job_bytes=1000, chunk_items=500)


def make(**spec: Any) -> JobRecord:
    group = WorkerIndex(LIMITS).tag_group(frozenset())
    group.capacity = 2
    return JobRecord(1, ev.JobSpec(**spec), group, 0.0, Unordered(), 0, 0, 0.0)


def test_names() -> None:
    """Records name themselves in errors."""
    worker = WorkerRecord(3, "gpu", frozenset(), 0.0, 0.0)
    assert (str(worker), str(SlotRecord(worker, 1)), str(make())) == ("worker 3", "slot 1 of worker 3", "job 1")


def test_unread() -> None:
    """Known, unknown, announced, or nothing more."""
    job = make(size=10)
    job.read = 4
    assert job.unread() == 6
    job.read = 10
    assert job.unread() is None
    assert make().unread() is None
    pushed = make(pushed=True)
    pushed.available = 3
    assert pushed.unread() == 3
    pushed.input = "ended"
    assert pushed.unread() == 0


def test_room_with_nothing_under_way() -> None:
    """One item is always let in, however heavy, or it would stop the job for ever."""
    job = make()
    job.item_bytes = 10_000.0
    assert job.room(LIMITS) == 1
    assert make().room(LIMITS) == 500
    assert make(gather="ordered", buffer=7).room(LIMITS) == 7


def test_room_in_bytes() -> None:
    """What is read and what is not consumed share the limit."""
    job = make(gather="ordered", buffer=100)
    job.read, job.input_bytes, job.result_bytes, job.item_bytes = 5, 400, 400, 50.0
    assert job.room(LIMITS) == 4
    job.result_bytes = 600
    assert job.room(LIMITS) == 0
    job.result_bytes, job.item_bytes = 599, 50.0
    assert job.room(LIMITS) == 1


def test_room_for_results_that_are_to_come() -> None:
    """Items that run will give results: their bytes are counted before they are there, but one for each slot."""
    job = make(gather="ordered", buffer=100)
    job.read, job.settled, job.result_item_bytes, job.item_bytes = 8, 2, 150.0, 50.0
    assert job.room(LIMITS) == 2  # 1000 - 4 * 150, at 200 each
    job.read = 11
    assert job.room(LIMITS) == 0
    job.read = job.settled = 20
    job.result_item_bytes = 1e6
    assert job.room(LIMITS) == 1


def test_room_of_a_list_counts_bytes_only() -> None:
    """Nobody consumes a list, so its window is bytes of input."""
    job = make()
    job.read = 100_000
    assert job.room(LIMITS) == 500
    assert not job.streaming


def test_room_in_items_and_chunks() -> None:
    """`buffer` counts items; without it, two chunks a slot, of what may be read before anything was consumed."""
    job = make(gather="unordered", buffer=8)
    job.read, job.consumed = 7, 2
    assert job.room(LIMITS) == 3
    job = make(gather="unordered")
    job.read = 3
    job.unconsumed.extend((1, 1, 1))
    assert job.room(LIMITS) == 4 * 64 - 3
    job.unconsumed.append(1)
    assert job.room(LIMITS) == 0


def consumed(job: JobRecord, items: int, seconds: float) -> JobRecord:
    """The job, some of whose results were taken in this time."""
    job.read = job.consumed = items
    job.pace.took(items, seconds, LIMITS.pace_seconds)
    return job


def test_room_follows_the_consumer() -> None:
    """Two seconds of what the consumer takes may be read ahead, but at least an item for each chunk of the window."""
    job = consumed(make(gather="ordered"), 20, 0.2)
    assert (job.room(LIMITS), job.consumer_chunk(LIMITS)) == (200, 50)
    job.read += 150
    assert job.room(LIMITS) == 50
    job.read += 100
    assert job.room(LIMITS) == 0
    slow = consumed(make(gather="ordered"), 1, 10.0)
    assert (slow.room(LIMITS), slow.consumer_chunk(LIMITS)) == (4, 1)
    fast = consumed(make(gather="ordered"), 1, 0.0)
    assert (fast.room(LIMITS), fast.consumer_chunk(LIMITS)) == (500, 500)
    fold = consumed(make(gather="fold"), 10_000, 1.0)
    assert fold.consumer_chunk(LIMITS) == 500  # bounded by chunk_items; 20 ms of it were 200 of 20,000 / 32
    assert consumed(make(gather="fold"), 1_000, 1.0).consumer_chunk(LIMITS) == 62


def test_room_covers_an_outage() -> None:
    """What the consumer takes while a worker is out of reach may be read too, in as many chunks as are sent ahead."""
    job = consumed(make(gather="ordered"), 20, 0.2)
    job.group.ahead, job.group.ahead_slots = 1.0, 2
    assert job.room(LIMITS) == 300
    job.unconsumed.extend([1] * (4 + 2 * LIMITS.ahead_chunks))
    assert job.room(LIMITS) == 0


def test_what_the_caller_fixed_is_kept() -> None:
    """`buffer=` and `chunksize=` are not made smaller for a slow consumer; a list has no consumer."""
    job = consumed(make(gather="ordered", buffer=300), 1, 10.0)
    assert (job.room(LIMITS), job.consumer_chunk(LIMITS)) == (300, 500)
    job = consumed(make(gather="ordered", chunksize=90), 1, 10.0)
    assert job.room(LIMITS) == 360
    assert make().consumer_chunk(LIMITS) == 500


def test_hungry() -> None:
    """A job wants a place when something waits or may be read, and it is running."""
    job = make(size=3)
    assert job.wants_slot(LIMITS)
    job.input = "reading"
    assert not job.wants_slot(LIMITS)
    job.queue.append((0, 0, 1, 0, None))  # type: ignore[arg-type]
    assert job.wants_slot(LIMITS)
    job.state = "paused"
    assert not job.wants_slot(LIMITS)
