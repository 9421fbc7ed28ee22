"""Deaths of task processes and losses of workers: which item is charged, and what is queued again.

Owns these rules:
- Only the item that ran is charged with a death.
- An item that ended its process for want of memory runs again alone, before that counts. One that passed the limit of
  its slot fails at once.
- If it is unknown which item ran, those that may have run are queued again in parts, until one item is left. After the
  loss of a worker: in halves, from the second loss on; what is left runs alone at last. If only an attempt was lost,
  one of its items is the cause: in eighths, at once, unless the one that ran is named.
- A worker that said that it leaves charges nobody, however it goes then.
- Slots that die too often rest.
- A job whose processes die again and again, without a result in between, is stopped.
"""

from __future__ import annotations

from distmap.core import alone, chunk_queue
from distmap.core.events import AttemptLost, DeathReason, SlotDied
from distmap.core.gather import Accepted, Cause
from distmap.core.records import Attempt, JobRecord, SlotRecord, TagGroup, WorkerRecord
from distmap.core.state import SchedulerState
from distmap.core.transitions import SLOT, next_state

#: Parts into which a lost attempt is cut: each further round would cost at least one more process.
PARTS = 8
#: Reasons of a death that name the item which ran.
CHARGED = ("died", "timeout", "memory", "limit")


def slot_died(state: SchedulerState, slot: SlotRecord, event: SlotDied) -> None:
    """A task process ended: what it held is queued again, and at most one item is charged."""
    if slot.state == "resting":
        state.resting.remove(slot)
    slot.state = next_state(SLOT, slot.state, "SlotDied", slot)
    head = slot.queue[0] if slot.queue else None
    held = state.clear_slot(slot)
    state.worker_index.update_slot(slot)
    if event.reason != "killed":
        state.deaths += 1
    for attempt in held:
        named = attempt.id == event.attempt and event.reason in CHARGED
        if named and event.at is not None and attempt.next <= event.at < attempt.hi:
            _charge_item(state, attempt, event.at, event.reason)
        else:
            _requeue_free(state, attempt)
    if event.reason in ("died", "idle"):
        _count_death(state, slot)
    # A time limit and a memory limit end their item for good, so a job cannot go on like that for ever.
    if event.reason in ("died", "idle", "memory") and head is not None and head in held:
        _check_crash_loop(state, head.job)
    for attempt in held:
        state.finish_if_done(attempt.job)


def worker_lost(state: SchedulerState, worker: WorkerRecord, *, charged: bool) -> None:
    """A worker is lost with all it held. Only items that ran can be the cause, so only those are charged."""
    charged = charged and worker.state != "draining"
    state.worker_index.set_state(worker, "lost")
    state.resting = [slot for slot in state.resting if slot.worker is not worker]
    state.losses += charged
    # First remove all attempts, then charge: a charge may stop a job, which must find none of its attempts here.
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


def attempt_lost(state: SchedulerState, attempt: Attempt, event: AttemptLost) -> None:
    """The process of the attempt ended because of one of its items: a single item is charged, several are separated."""
    state.deaths += event.reason != "killed"
    counts = attempt.state != "void"
    state.stats(attempt.job, attempt.slot.worker)
    state.end_attempt(attempt)
    if counts:
        at = attempt.next if event.at is None and attempt.hi - attempt.next == 1 else event.at
        if event.reason not in CHARGED:
            _requeue_free(state, attempt)
        elif at is not None and attempt.next <= at < attempt.hi:
            _charge_item(state, attempt, at, event.reason)
        else:
            _requeue_in_parts(state, attempt, attempt.losses, PARTS)
        if event.reason in ("died", "idle", "memory"):
            _check_crash_loop(state, attempt.job)
    state.finish_if_done(attempt.job)


def fail_item(state: SchedulerState, attempt: Attempt, at: int, cause: Cause) -> None:
    """One item fails, without a report of its own."""
    job = attempt.job
    job.failed += 1
    ends = job.spec.stop_on_failure
    accepted = Accepted(attempt.chunk.id, at, at + 1, attempt.id, cause)
    state.accept(job, attempt.chunk, accepted, out_of_order=ends)
    if ends:
        state.stop_job(job, "failed")


def _requeue_free(state: SchedulerState, attempt: Attempt) -> None:
    """Queue again what was not reported; nothing is charged."""
    if attempt.job.state != "stopping":
        attempt.job.requeued += attempt.hi - attempt.next
        chunk_queue.requeue(state, attempt.job, attempt.chunk, attempt.next, attempt.hi, attempt.losses)


def _charge_item(state: SchedulerState, attempt: Attempt, at: int, reason: DeathReason) -> None:
    """Charge the item at offset `at`, which ended its process; the others are queued again."""
    job, chunk = attempt.job, attempt.chunk
    if job.state == "stopping":
        return
    chunk_queue.requeue(state, job, chunk, attempt.next, at, attempt.losses)
    chunk_queue.requeue(state, job, chunk, at + 1, attempt.hi, attempt.losses)
    job.requeued += attempt.hi - attempt.next - 1
    if reason == "timeout" or reason == "limit":
        return fail_item(state, attempt, at, reason)
    if reason == "memory" and chunk.alone is not None and at in chunk.alone:
        return fail_item(state, attempt, at, "memory")
    if reason == "memory" and chunk.only_slot is None:
        alone.mark(attempt, at)
        chunk_queue.requeue(state, job, chunk, at, at + 1, attempt.losses)
        job.requeued += 1
        return None
    chunk.deaths[at] = chunk.deaths.get(at, 0) + 1
    if chunk.deaths[at] >= state.limits.item_deaths:
        return fail_item(state, attempt, at, "poison")
    # It runs alone from now on, so that its next death does not make others run again.
    chunk_queue.requeue(state, job, chunk, at, at + 1, attempt.losses)
    job.requeued += 1


def _charge_lost_worker(state: SchedulerState, attempt: Attempt) -> None:
    """The attempt ran on a worker that was lost: any of its items may be the cause, or none."""
    job, lo, hi = attempt.job, attempt.next, attempt.hi
    if job.state == "stopping":
        return
    losses = attempt.losses + 1
    if hi - lo == 1 and losses >= state.limits.host_losses:
        return fail_item(state, attempt, lo, "hosts")
    parts = _parts(hi - lo, state.limits.host_losses - losses) if losses >= 2 else 1
    if parts >= hi - lo and losses >= state.limits.host_losses_beside and attempt.chunk.only_slot is None:
        for at in range(lo, hi):
            alone.mark(attempt, at)
    _requeue_in_parts(state, attempt, losses, parts)


def _parts(items: int, losses_left: int) -> int:
    """Halves; of many items smaller parts, so that one item is left while there are losses left to run it alone."""
    rounds, parts = max(1, losses_left - 1), 2
    while parts**rounds < items:
        parts += 1
    return parts


def _requeue_in_parts(state: SchedulerState, attempt: Attempt, losses: int, parts: int) -> None:
    """Queue again what was not reported, cut into `parts`: one of them may have the item that is the cause."""
    job, lo, hi = attempt.job, attempt.next, attempt.hi
    if job.state == "stopping" or lo == hi:
        return
    job.requeued += hi - lo
    size = -(-(hi - lo) // parts)
    for at in range(lo, hi, size):
        chunk_queue.requeue(state, job, attempt.chunk, at, min(at + size, hi), losses)


def _count_death(state: SchedulerState, slot: SlotRecord) -> None:
    """Count a death of the slot; after too many in a short time it will rest."""
    limits = state.limits
    slot.deaths.append(state.now)
    while state.now - slot.deaths[0] > limits.slot_deaths_window:
        slot.deaths.popleft()
    if len(slot.deaths) >= limits.slot_deaths:
        slot.deaths.clear()
        slot.rest_until = state.now + limits.slot_rest


def slot_ready(state: SchedulerState, slot: SlotRecord) -> None:
    """A dead slot has a new process: it takes work now, or after its rest."""
    rests = slot.rest_until > state.now
    slot.state = next_state(SLOT, slot.state, "SlotReady.rest" if rests else "SlotReady", slot)
    if rests:
        state.resting.append(slot)
    state.worker_index.update_slot(slot)


def wake_rested(state: SchedulerState) -> float | None:
    """Let slots whose rest is over take work; return when the next rest ends, None if no slot rests."""
    for slot in list(state.resting):
        if rest_ends(state, slot) <= state.now:
            state.resting.remove(slot)
            slot.state = next_state(SLOT, slot.state, "rested", slot)
            slot.rest_until = state.now
            state.worker_index.update_slot(slot)
    return min((rest_ends(state, slot) for slot in state.resting), default=None)


def rest_ends(state: SchedulerState, slot: SlotRecord) -> float:
    """When the rest of a slot ends: earlier if a job has no other slot, or a call of a set-up waits for this one."""
    # A worker that takes nothing now has no slot that must go on.
    alone = slot.worker.state == "trusted" and any(_all_slots_rest(state, group) for group in slot.worker.groups)
    if slot.setup_calls or alone:
        return slot.rest_until - state.limits.slot_rest + state.limits.slot_rest_alone
    return slot.rest_until


def _all_slots_rest(state: SchedulerState, group: TagGroup) -> bool:
    """Whether all slots of the group rest, or will rest once they have a new process."""
    return all(
        slot.state == "resting" or (slot.state == "dead" and slot.rest_until > state.now)
        for worker in state.worker_index.workers.values()
        if worker.state == "trusted" and group in worker.groups
        for slot in worker.slots
    )


def _check_crash_loop(state: SchedulerState, job: JobRecord) -> None:
    """Count a death of the job, and stop the job after too many without a result in between."""
    if job.state == "stopping":
        return
    job.deaths_in_a_row += 1
    limits = state.limits
    if job.deaths_in_a_row >= max(limits.crash_loop_deaths, limits.crash_loop_deaths_per_slot * job.group.capacity):
        state.stop_job(job, "failed", crashed=True)
