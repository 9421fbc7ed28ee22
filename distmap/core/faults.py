"""Who is charged when a task process dies or a worker is lost, and what goes back.

Owns these rules: only the item that ran is charged with a death; where nobody knows which one ran, what may have run
is tried again in parts until one item is left (in halves, and from the second time on, for a lost worker; in eighths
and at once for a lost attempt, which nothing but its own items can have ended); slots that die too often rest; a job
that only kills is stopped.
"""

from __future__ import annotations

from distmap.core import chunk_queue
from distmap.core.events import SlotDied
from distmap.core.gather import Accepted, Cause
from distmap.core.records import Attempt, JobRecord, SlotRecord, TagGroup, WorkerRecord
from distmap.core.state import SchedulerState
from distmap.core.transitions import SLOT, next_state

#: Into how many parts a lost attempt is cut: each round costs whoever runs it at least one process.
PARTS = 8


def slot_died(state: SchedulerState, slot: SlotRecord, event: SlotDied) -> None:
    """A task process ended; what it held goes back, and at most one item is charged."""
    if slot.state == "resting":
        state.resting.remove(slot)
    slot.state = next_state(SLOT, slot.state, "SlotDied", slot)
    head = slot.queue[0] if slot.queue else None
    held = state.clear_slot(slot)
    state.worker_index.update_slot(slot)
    if event.reason != "killed":
        state.deaths += 1
    for attempt in held:
        named = attempt.id == event.attempt and event.reason in ("died", "timeout")
        if named and event.at is not None and attempt.next <= event.at < attempt.hi:
            _charge_item(state, attempt, event.at, event.reason)
        else:
            _requeue_free(state, attempt)
    if event.reason in ("died", "idle"):
        _count_death(state, slot)
        if head is not None and head in held:
            _check_crash_loop(state, head.job)
    for attempt in held:
        state.finish_if_done(attempt.job)


def worker_lost(state: SchedulerState, worker: WorkerRecord, *, charged: bool) -> None:
    """A worker is gone with all it held. Only what ran may be to blame, so only that is charged."""
    state.worker_index.set_state(worker, "lost")
    state.resting = [slot for slot in state.resting if slot.worker is not worker]
    state.losses += charged
    # All first, then the charges: one may halt a job, which must find none of its attempts there any more.
    held = []
    for slot in worker.slots:
        head = slot.queue[0] if slot.queue else None
        held += [(attempt, charged and attempt is head) for attempt in state.clear_slot(slot)]
    state.worker_index.remove(worker)
    for slot in worker.slots:
        chunk_queue.drop_setup_calls(state, slot)
    for attempt, ran in held:
        if ran:
            _charge_lost_worker(state, attempt)
        else:
            _requeue_free(state, attempt)
    for attempt, _ in held:
        state.finish_if_done(attempt.job)


def attempt_lost(state: SchedulerState, attempt: Attempt) -> None:
    """What ran the attempt ended, alone. One of its items did it: one by itself is charged, several are tried apart."""
    state.deaths += 1
    counts = attempt.state != "void"
    state.stats(attempt.job, attempt.slot.worker)
    state.end_attempt(attempt)
    if counts:
        if attempt.hi - attempt.next == 1:
            _charge_item(state, attempt, attempt.next, "died")
        else:
            _requeue_in_parts(state, attempt, attempt.losses, PARTS)
        _check_crash_loop(state, attempt.job)
    state.finish_if_done(attempt.job)


def fail_item(state: SchedulerState, attempt: Attempt, at: int, cause: Cause) -> None:
    """One item failed for good without a report of its own."""
    job = attempt.job
    job.failed += 1
    ends = job.spec.stop_on_failure
    accepted = Accepted(attempt.chunk.id, at, at + 1, attempt.id, cause)
    state.accept(job, attempt.chunk, accepted, out_of_order=ends)
    if ends:
        state.stop_job(job, "failed")


def _requeue_free(state: SchedulerState, attempt: Attempt) -> None:
    """All that was not reported goes back free."""
    if attempt.job.state != "stopping":
        attempt.job.requeued += attempt.hi - attempt.next
        chunk_queue.requeue(state, attempt.job, attempt.chunk, attempt.next, attempt.hi, attempt.losses)


def _charge_item(state: SchedulerState, attempt: Attempt, at: int, reason: str) -> None:
    """The item at `at` ended its process: it alone is charged."""
    job, chunk = attempt.job, attempt.chunk
    if job.state == "stopping":
        return
    chunk_queue.requeue(state, job, chunk, attempt.next, at, attempt.losses)
    chunk_queue.requeue(state, job, chunk, at + 1, attempt.hi, attempt.losses)
    job.requeued += attempt.hi - attempt.next - 1
    if reason == "timeout":
        return fail_item(state, attempt, at, "timeout")
    chunk.deaths[at] = chunk.deaths.get(at, 0) + 1
    if chunk.deaths[at] >= state.limits.item_deaths:
        return fail_item(state, attempt, at, "poison")
    # By itself from now on: its next death then costs nobody a second run.
    chunk_queue.requeue(state, job, chunk, at, at + 1, attempt.losses)
    job.requeued += 1


def _charge_lost_worker(state: SchedulerState, attempt: Attempt) -> None:
    """It ran on a worker that was lost; which of its items is to blame, if any, is unknown."""
    job, lo, hi = attempt.job, attempt.next, attempt.hi
    if job.state == "stopping":
        return
    losses = attempt.losses + 1
    if hi - lo == 1 and losses >= state.limits.host_losses:
        return fail_item(state, attempt, lo, "hosts")
    _requeue_in_parts(state, attempt, losses, 2 if losses >= 2 else 1)


def _requeue_in_parts(state: SchedulerState, attempt: Attempt, losses: int, parts: int) -> None:
    """What was not reported goes back in so many parts, of which one is (perhaps) to blame."""
    job, lo, hi = attempt.job, attempt.next, attempt.hi
    if job.state == "stopping" or lo == hi:
        return
    job.requeued += hi - lo
    size = -(-(hi - lo) // parts)
    for at in range(lo, hi, size):
        chunk_queue.requeue(state, job, attempt.chunk, at, min(at + size, hi), losses)


def _count_death(state: SchedulerState, slot: SlotRecord) -> None:
    """Too many deaths in a short time: the slot will rest."""
    limits = state.limits
    slot.deaths.append(state.now)
    while state.now - slot.deaths[0] > limits.slot_deaths_window:
        slot.deaths.popleft()
    if len(slot.deaths) >= limits.slot_deaths:
        slot.deaths.clear()
        slot.rest_until = state.now + limits.slot_rest


def slot_ready(state: SchedulerState, slot: SlotRecord) -> None:
    """A dead slot has a fresh process; it takes work now, or after its rest."""
    rests = slot.rest_until > state.now
    slot.state = next_state(SLOT, slot.state, "SlotReady.rest" if rests else "SlotReady", slot)
    if rests:
        state.resting.append(slot)
    state.worker_index.update_slot(slot)


def wake_rested(state: SchedulerState) -> float | None:
    """Slots whose rest is over go on; gives when the next one is due, None if none rests."""
    for slot in list(state.resting):
        if rest_ends(state, slot) <= state.now:
            state.resting.remove(slot)
            slot.state = next_state(SLOT, slot.state, "rested", slot)
            slot.rest_until = state.now
            state.worker_index.update_slot(slot)
    return min((rest_ends(state, slot) for slot in state.resting), default=None)


def rest_ends(state: SchedulerState, slot: SlotRecord) -> float:
    """When a resting slot goes on: early where a job could not go on without it, or a call of a set-up is for it."""
    if slot.setup_calls or any(_all_slots_rest(state, group) for group in slot.worker.groups):
        return slot.rest_until - state.limits.slot_rest + state.limits.slot_rest_alone
    return slot.rest_until


def _all_slots_rest(state: SchedulerState, group: TagGroup) -> bool:
    """All slots that its jobs could use rest, or will when their process is back."""
    return all(
        slot.state == "resting" or (slot.state == "dead" and slot.rest_until > state.now)
        for worker in state.worker_index.workers.values()
        if worker.state == "trusted" and group in worker.groups
        for slot in worker.slots
    )


def _check_crash_loop(state: SchedulerState, job: JobRecord) -> None:
    """Death after death and nothing finished in between: stop the job."""
    if job.state == "stopping":
        return
    job.deaths_in_a_row += 1
    limits = state.limits
    if job.deaths_in_a_row >= max(limits.crash_loop_deaths, limits.crash_loop_deaths_per_slot * job.group.capacity):
        state.stop_job(job, "failed", crashed=True)
