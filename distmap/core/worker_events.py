"""Events of workers and their slots: who joined, is silent, leaves, was measured or lost; which slot died or is ready.

Owns the checks of these events, and which of a worker's slots get work. Who is charged for what was lost is decided in
`faults.py`. Called by `Scheduler.handle` only.

Events of a worker that was given up are legal: they were sent before WorkerLost was known, and are ignored.
"""

from __future__ import annotations

from distmap.core import chunk_queue, faults, fitness
from distmap.core import events as ev
from distmap.core.records import SlotRecord, WorkerRecord
from distmap.core.state import SchedulerState
from distmap.core.transitions import WORKER, check, next_state


def worker_joined(state: SchedulerState, event: ev.WorkerJoined) -> None:
    """A worker with new slots; it is set up first."""
    worker_index = state.worker_index
    known = event.worker in worker_index.workers or event.worker in worker_index.lost
    check(not known, "worker {} joined before: every incarnation needs an id of its own", event.worker)
    check(event.slots >= 1, "worker {} has {} slots, expected at least 1", event.worker, event.slots)
    check(event.ahead >= 0, "worker {}: {} seconds to be sent ahead, expected at least 0", event.worker, event.ahead)
    name = event.name or f"worker {event.worker}"
    worker = WorkerRecord(event.worker, name, event.tags, event.rtt, state.now, ahead=event.ahead)
    worker_index.add(worker, event.slots)
    for job in state.setups.values():
        if job.state != "stopping" and job.spec.tags <= worker.tags:
            chunk_queue.set_up(state, job, worker, first=True)
    _window_changed(state)


def worker_lost(state: SchedulerState, event: ev.WorkerLost) -> None:
    """A worker is gone with all that it held."""
    worker = _worker(state, event.worker)
    if worker is not None:
        faults.worker_lost(state, worker, charged=event.charged)
        fitness.worker_gone(state)
        _window_changed(state)


def worker_turned(state: SchedulerState, event: ev.WorkerSuspected | ev.WorkerTrusted | ev.WorkerDraining) -> None:
    """A worker is silent, is heard again, or wants to leave."""
    worker = _worker(state, event.worker)
    if worker is None:
        return
    state.worker_index.set_state(worker, next_state(WORKER, worker.state, type(event).__name__, worker))
    if worker.state == "draining":
        for slot in worker.slots:
            state.take_back(slot.queue)
        fitness.worker_gone(state)
    elif worker.state == "trusted":
        for slot in worker.slots:
            for attempt in slot.queue:
                # While it was silent nobody could take from it, and those that looked forgot it.
                state.expect_end(attempt, attempt.end)
    state.worker_index.update_slots(worker)
    _window_changed(state)


def worker_measured(state: SchedulerState, event: ev.WorkerMeasured) -> None:
    """The figures of a worker's heartbeat."""
    worker = _worker(state, event.worker)
    check(event.ahead >= 0, "worker {}: {} seconds to be sent ahead, expected at least 0", event.worker, event.ahead)
    if worker is not None:
        worker.rtt, worker.memory = event.rtt, event.memory
        changed = state.worker_index.set_ahead(worker, event.ahead)
        state.worker_index.update_slots(worker)
        if changed:
            _window_changed(state)


def slot_died(state: SchedulerState, event: ev.SlotDied) -> None:
    """A task process ended."""
    slot = _slot(state, event.worker, event.slot)
    known = event.attempt is None or 0 <= event.attempt <= state.last_attempt
    check(known, "attempt {} was never assigned", event.attempt)
    if slot is not None:
        faults.slot_died(state, slot, event)


def slot_ready(state: SchedulerState, event: ev.SlotReady) -> None:
    """A dead slot has a fresh process."""
    slot = _slot(state, event.worker, event.slot)
    if slot is not None:
        faults.slot_ready(state, slot)


def _worker(state: SchedulerState, worker: int) -> WorkerRecord | None:
    """The worker; None if it was given up."""
    found = state.worker_index.workers.get(worker)
    check(found is not None or worker in state.worker_index.lost, "worker {} never joined", worker)
    return found


def _slot(state: SchedulerState, worker: int, index: int) -> SlotRecord | None:
    found = _worker(state, worker)
    if found is None:
        return None
    check(0 <= index < len(found.slots), "worker {} has {} slots, none is {}", worker, len(found.slots), index)
    return found.slots[index]


def _window_changed(state: SchedulerState) -> None:
    """The number of slots changed, and with it how far jobs may read ahead."""
    for job in state.jobs.values():
        state.worker_index.update_job(job.group, job)
