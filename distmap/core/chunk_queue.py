"""The way of items from the input of a job into its queue, and from there to a slot.

Owns the commands Read, Take and SetUp: how many items the next chunk gets, its record, and the spans of it that wait
to be run. Calls of set-ups are chunks too, but each waits for one slot. Called by `scheduler.py` (items came),
`placing.py` (a slot is free), and `reports.py` and `faults.py` (items have to run again).
"""

from __future__ import annotations

import heapq

from distmap.core import chunks
from distmap.core.events import Read, SetUp, Take
from distmap.core.gather import Accepted
from distmap.core.records import ChunkRecord, JobRecord, LoneItem, SlotRecord, WorkerRecord
from distmap.core.state import SchedulerState
from distmap.core.transitions import INPUT, next_state


def chunk_size_for(state: SchedulerState, job: JobRecord, worker: WorkerRecord, *, behind: bool = False) -> int:
    """The number of items that a chunk of the job should have for this worker.

    Args:
        behind: it will wait behind another chunk.
    """
    if job.spec.chunksize is not None:
        return job.spec.chunksize
    stats = job.worker_stats.get(worker.id)
    unread = job.unread()
    slots = job.group.capacity
    item_time = job.item_time_on(worker)
    item_bytes = max(job.item_bytes, job.result_item_bytes)
    total = 0 if unread is None or job.spec.pushed else unread + job.read
    if behind and item_time is None:
        size = chunks.unmeasured_size(state.limits, total=total, slots=slots, item_bytes=item_bytes)
        return min(size, job.consumer_chunk(state.limits)) if job.streaming else size
    aim, floor = chunks.seconds_of_work(state.limits, worker.rtt, worker.ahead, state.dispatch, slots)
    finished = max(stats.largest if stats else 0, job.known.largest if job.known else 0)
    size = chunks.chunk_size(
        state.limits,
        item_time=item_time,
        aim=aim,
        floor=floor,
        largest=max(state.limits.growth * finished, total // (2 * max(1, slots))),
        left=None if unread is None else unread + job.queued,
        slots=slots,
        item_bytes=item_bytes,
    )
    if job.known is not None and unread is not None and not job.settled:
        # Its items may be others than those of the earlier job, and a few long ones must not share a slot.
        size = min(size, max(1, (unread + job.read) // max(1, slots)))
    return min(size, job.consumer_chunk(state.limits)) if job.streaming else size


def request_chunk(state: SchedulerState, job: JobRecord, slot: SlotRecord) -> None:
    """Have the next chunk read, of a size for this slot."""
    worker = slot.worker
    items = min(chunk_size_for(state, job, worker, behind=bool(slot.queue)), job.room(state.limits))
    assert items >= 1, "a Read of nothing"
    state.last_chunk += 1
    job.input = next_state(INPUT, job.input, "read", job)
    job.requested, job.requested_chunk, job.requested_for = items, state.last_chunk, worker
    job.group.reservations[job.id] = state.now + state.limits.reservation_seconds, job.spec.priority
    state.commands.append(Read(job.id, state.last_chunk, items))


def take_pushed(state: SchedulerState, job: JobRecord, worker: WorkerRecord) -> None:
    """Make a chunk of pushed items, of a size for this worker."""
    items = min(job.available, job.room(state.limits))
    if job.group.idle:
        # A few submitted items should run side by side; only a backlog is put together into chunks.
        items = min(items, -(-job.available // job.group.idle))
    if items > 1:
        items = min(items, chunk_size_for(state, job, worker))
    assert items >= 1, "a Take of nothing"
    nbytes = job.available_bytes * items // job.available
    job.available -= items
    job.available_bytes -= nbytes
    add_taken_chunk(state, job, items, nbytes)
    end_pushed_input(state, job)


def add_taken_chunk(state: SchedulerState, job: JobRecord, items: int, nbytes: int) -> None:
    """Make a chunk of items that the driver holds already: pushed, or submitted with the job."""
    state.last_chunk += 1
    state.commands.append(Take(job.id, state.last_chunk, items))
    add_chunk(state, job, state.last_chunk, items, nbytes)


def add_chunk(
    state: SchedulerState, job: JobRecord, chunk_id: int, items: int, nbytes: int, place: SlotRecord | None = None
) -> None:
    """Add a chunk, all of whose items wait to be run."""
    chunk = job.chunks[chunk_id] = ChunkRecord(chunk_id, job.read, items, nbytes, items, place)
    job.read += items
    job.input_bytes += nbytes
    job.item_bytes = max(nbytes / items, job.item_bytes / 2)
    if job.streaming:
        job.unconsumed.append(items)
    requeue(state, job, chunk, 0, items)


def end_pushed_input(state: SchedulerState, job: JobRecord) -> None:
    """End the input of a pushed job if it was closed and all its items were taken."""
    if job.input == "closing" and job.available == 0:
        job.input = next_state(INPUT, job.input, "exhausted", job)


def requeue(state: SchedulerState, job: JobRecord, chunk: ChunkRecord, lo: int, hi: int, losses: int = 0) -> None:
    """Queue items to be run, for the first time or again, unless the job is being stopped."""
    if lo == hi or job.state == "stopping":
        return
    span = (chunk.start + lo, lo, hi, losses, chunk)
    if chunk.alone is not None and lo in chunk.alone:
        assert hi - lo == 1, "an item that runs alone has company"
        state.lone.append(LoneItem(job, span, chunk.alone[lo]))
        job.queued += 1
    elif chunk.only_slot is None:
        heapq.heappush(job.queue, span)
        job.queued += hi - lo
    elif chunk.only_slot.worker.state == "lost":
        state.accept(job, chunk, Accepted(chunk.id, lo, hi, -1, "gone"))
    else:
        state.set_setup_calls(chunk.only_slot, [*chunk.only_slot.setup_calls, (job, span)])


def assign(state: SchedulerState, job: JobRecord, slot: SlotRecord) -> None:
    """Assign the earliest waiting items of the job to the slot."""
    worker = slot.worker
    index, lo, hi, losses, chunk = heapq.heappop(job.queue)
    items = hi - lo
    sized_for, chunk.sized_for = chunk.sized_for, None
    if items > 1 and job.spec.chunksize is None and sized_for is not worker:
        size = chunk_size_for(state, job, worker, behind=bool(slot.queue))
        items = chunks.cut(items, size, chunk.nbytes, job.group.capacity)
    if items < hi - lo:
        heapq.heappush(job.queue, (index + items, lo + items, hi, losses, chunk))
    job.queued -= items
    job.owed_places = max(0, job.owed_places - 1)
    state.start_attempt(job, slot, chunk, lo, lo + items, losses)


# --- set-ups ---------------------------------------------------------------------------------------------------------


def set_up(state: SchedulerState, job: JobRecord, worker: WorkerRecord, *, first: bool = False) -> None:
    """Queue the calls of the set-up on the worker. `first`: the worker runs nothing else until they succeeded."""
    slots = worker.slots
    if job.spec.each == "worker":
        slots = [min(slots, key=lambda slot: (slot.state != "ready", len(slot.queue)))]
    if first:
        worker.unready[job.id] = len(slots)
        state.worker_index.update_slots(worker)
    for slot in slots:
        state.last_chunk += 1
        state.commands.append(SetUp(job.id, state.last_chunk, worker.id, slot.index))
        add_chunk(state, job, state.last_chunk, 1, 0, slot)


def setup_succeeded(state: SchedulerState, job: JobRecord, worker: WorkerRecord) -> None:
    """One call of the set-up succeeded on the worker."""
    left = worker.unready.get(job.id)
    if left == 1:
        del worker.unready[job.id]
        state.worker_index.update_slots(worker)
    elif left is not None:
        worker.unready[job.id] = left - 1


def assign_setup_call(state: SchedulerState, slot: SlotRecord) -> None:
    """Assign the first call that waits for the slot."""
    job, (_, lo, hi, losses, chunk) = slot.setup_calls[0]
    state.set_setup_calls(slot, slot.setup_calls[1:])
    state.start_attempt(job, slot, chunk, lo, hi, losses)


def drop_setup_calls(state: SchedulerState, slot: SlotRecord) -> None:
    """The slot's worker is lost: the calls that wait for the slot fail."""
    due = slot.setup_calls
    state.set_setup_calls(slot, [])
    for job, (_, lo, hi, losses, chunk) in due:
        requeue(state, job, chunk, lo, hi, losses)
        state.finish_if_done(job)
