"""Items that run alone: one item, in one slot, on a worker whose other slots run nothing meanwhile.

Owns which items have to (`mark`), and how a worker is kept quiet for one of them (`place`): it gets nothing new, what
waits there is taken back, what runs there ends; then the item begins. An item runs alone after it ended its process for
want of memory, because the others may have used the memory; and after many losses of its workers, because others may
have been the cause. Its next death is then its own.

Called by `faults.py` (mark), `chunk_queue.py` (add) and `placing.py` (place, before anything else is assigned).
"""

from __future__ import annotations

from distmap.core.records import Attempt, LoneItem, WorkerRecord
from distmap.core.state import SchedulerState


def mark(attempt: Attempt, at: int) -> None:
    """From now on the item runs alone, if possible on another worker than this one."""
    chunk = attempt.chunk
    chunk.alone = {**(chunk.alone or {}), at: attempt.slot.worker.id}


def place(state: SchedulerState) -> None:
    """Keep workers quiet for items that wait to run alone, and begin those whose worker is quiet."""
    for item in list(state.lone):
        if item.attempt is None:
            over = item.job.state in ("stopping", "over")
        else:
            # However it ended: if its item has to run again, that is an entry of its own.
            over = item.attempt not in state.attempts
        worker = item.worker
        if over:
            state.lone.remove(item)
        if worker is not None and (over or (item.attempt is None and not _may_keep(item, worker))):
            worker.quiet_for = item.worker = None
            state.worker_index.update_slots(worker)
    waiting = [item for item in state.lone if item.attempt is None and item.job.state == "running"]
    for item in waiting:
        if item.worker is None:
            _reserve(state, item)
        if item.worker is not None:
            _begin(state, item, item.worker)


def _may_keep(item: LoneItem, worker: WorkerRecord) -> bool:
    return worker.state == "trusted" and item.job.state != "paused" and item.job.group.takes(worker)


def _reserve(state: SchedulerState, item: LoneItem) -> None:
    """Keep the best worker for the item, if there is one: at most half of all, so that other work goes on."""
    trusted = [worker for worker in state.worker_index.workers.values() if worker.state == "trusted"]
    if sum(worker.quiet_for is not None for worker in trusted) >= max(1, len(trusted) // 2):
        return
    fit = [
        worker
        for worker in trusted
        if worker.quiet_for is None
        and item.job.group.takes(worker)
        and not worker.unready
        and not any(slot.setup_calls for slot in worker.slots)
    ]
    if not fit:
        return

    def rank(worker: WorkerRecord) -> tuple[bool, bool, bool, float, float, int]:
        return (
            not any(slot.state == "ready" for slot in worker.slots),
            worker.memory >= state.limits.memory_pressure,
            worker.id == item.last,
            # When it will be quiet; what is late may take for ever.
            max((attempt.end for slot in worker.slots for attempt in slot.queue[:1]), default=0.0),
            worker.memory,
            worker.id,
        )

    item.worker = worker = min(fit, key=rank)
    worker.quiet_for = item
    state.worker_index.update_slots(worker)
    for slot in worker.slots:
        state.take_back(slot.queue)


def _begin(state: SchedulerState, item: LoneItem, worker: WorkerRecord) -> None:
    """Begin the item if its worker is quiet and has a process for it."""
    if any(slot.queue for slot in worker.slots):
        return
    slot = next((slot for slot in worker.slots if slot.state == "ready"), None)
    if slot is not None:
        _, lo, hi, losses, chunk = item.span
        item.job.queued -= 1
        state.start_attempt(item.job, slot, chunk, lo, hi, losses)
        item.attempt = state.last_attempt
