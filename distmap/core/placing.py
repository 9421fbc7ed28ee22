"""Which work goes where: places to jobs, work from busy slots to idle ones, and from one job to another.

Owns the three policies that run after every event. Each looks at the tops of heaps only, so an event costs log n in
slots and jobs.
"""

from __future__ import annotations

import heapq
from itertools import islice

from distmap.core import chunk_queue, faults
from distmap.core.records import Attempt, JobRecord, SlotRecord, TagGroup
from distmap.core.state import SchedulerState

#: Jobs looked at when a place is claimed. The oldest come first, and a long batch is old.
CANDIDATES = 8
#: Seconds: not worth a Revoke, and yet not nothing.
UNSURE = 1e-9


def assign_work(state: SchedulerState) -> None:
    """Use every place there is; then let idle slots take from busy ones."""
    groups = list(state.worker_index.groups.values())
    state.next_check = faults.wake_rested(state) if state.resting else None
    for slot in list(state.slots_with_calls):
        while slot.setup_calls and state.worker_index.can_take(slot):
            chunk_queue.assign_setup_call(state, slot)
    while (choice := _next_assignment(state, groups)) is not None:
        job, slot = choice
        if not job.queue and job.spec.pushed:
            chunk_queue.take_pushed(state, job, slot.worker)
        if job.queue:
            chunk_queue.assign(state, job, slot)
        else:
            chunk_queue.request_chunk(state, job, slot.worker)
        state.worker_index.update_job(job.group, job)
    for group in groups:
        if group.job_heap:
            _claim_place(state, group)
        if group.idle and group.victims:
            _steal(state, group)


def _next_assignment(state: SchedulerState, groups: list[TagGroup]) -> tuple[JobRecord, SlotRecord] | None:
    """The job whose turn it is among those that have a place, and the best place for it."""
    best: tuple[JobRecord, SlotRecord] | None = None
    for group in groups:
        job = state.worker_index.next_job(group)
        if job is None:
            continue
        slot = state.worker_index.best_slot(group)
        if slot is None or (best is not None and best[0].scheduling_key() < job.scheduling_key()):
            continue
        if not group.reservations or _has_unreserved_place(state, group, job):
            best = job, slot
    return best


def _has_unreserved_place(state: SchedulerState, group: TagGroup, job: JobRecord) -> bool:
    """A place is left over from those that other jobs, not of lower priority, are just reading a chunk for.

    Without this a job with a chunk in hand would always be quicker than the one whose turn it is.
    """
    kept = [
        until
        for other, (until, priority) in group.reservations.items()
        if other != job.id and until > state.now and priority >= job.spec.priority
    ]
    if len(kept) < group.free_places:
        return True
    _check_again_by(state, min(kept))
    return False


def _claim_place(state: SchedulerState, group: TagGroup) -> None:
    """No place is left for the job whose turn it is: have another job's waiting chunk taken back for it.

    It must be of higher priority, or have nothing at all on any slot while the other has more than one chunk there;
    else two jobs would take the same place from each other for ever.
    """
    job = state.worker_index.next_job(group)
    if job is None or state.worker_index.best_slot(group) is not None:
        return
    for giver in list(islice(state.jobs_with_waiting.values(), CANDIDATES)):
        if giver is job or giver.spec.priority > job.spec.priority:
            continue
        if giver.spec.priority == job.spec.priority and (job.attempts or job.claims or len(giver.attempts) < 2):
            continue
        attempt = _first_waiter(giver, job)
        if attempt is None:
            continue
        if not job.queue and job.spec.pushed:
            chunk_queue.take_pushed(state, job, attempt.slot.worker)
        if not job.queue:
            # There will be a place; first see what is to go there.
            chunk_queue.request_chunk(state, job, attempt.slot.worker)
            state.worker_index.update_job(job.group, job)
            return
        if job.claims < len(job.queue):
            attempt.claimant = job
            job.claims += 1
            state.revoke(attempt, attempt.lo)
        return


def _first_waiter(giver: JobRecord, job: JobRecord) -> Attempt | None:
    """A waiting attempt of `giver` that would begin early, on a slot that `job` may use."""
    while giver.waiting_heap and giver.waiting_heap[0][2].state != "waiting":
        heapq.heappop(giver.waiting_heap)
    for _, _, attempt in giver.waiting_heap[:CANDIDATES]:
        worker = attempt.slot.worker
        if attempt.state == "waiting" and worker.state == "trusted" and job.spec.tags <= worker.tags:
            return attempt
    return None


def _steal(state: SchedulerState, group: TagGroup) -> None:
    """While slots are idle and nothing is left to give them: take from the attempt that would end last.

    One Revoke per idle slot. A running attempt is stopped at its next item, not in the middle of what is left: the
    rest comes back only when the attempt ends, so a later stop would keep the idle slot waiting. What comes back is
    shared out by the rule for chunk sizes, the slot it came from included.
    """
    heap = group.victims
    aside: list[tuple[float, int, Attempt]] = []
    while heap and group.stealing + len(group.reservations) < group.idle and len(aside) < CANDIDATES:
        key, attempt_id, attempt = entry = heapq.heappop(heap)
        stale = attempt_id not in state.attempts or -key != attempt.end or attempt.state not in ("waiting", "running")
        if stale or attempt.job.state != "running" or attempt.slot.worker.state == "suspect":
            continue
        thief = state.worker_index.best_slot(group)
        assert thief is not None, "an idle slot that is no place"
        least = max(state.limits.chunk_floor_seconds, 2 * (attempt.slot.worker.rtt + thief.worker.rtt))
        gain = _seconds_gained(state, attempt)
        if gain > least:
            attempt.stolen = True
            group.stealing += 1
            waits = attempt.state == "waiting"
            state.revoke(attempt, attempt.lo if waits else max(attempt.at, attempt.next) + 1)
        elif gain > 0:
            # Not worth it if it ends when it should, and that is soon.
            aside.append(entry)
            _check_again_by(state, max(attempt.end, state.now) + least)
    for entry in aside:
        heapq.heappush(heap, entry)


def _check_again_by(state: SchedulerState, when: float) -> None:
    state.next_check = when if state.next_check is None else min(state.next_check, when)


def _seconds_gained(state: SchedulerState, attempt: Attempt) -> float:
    """Seconds of work that could begin at once elsewhere; 0 if there can be none however long it takes."""
    if attempt.state == "waiting":
        ahead = attempt.slot.queue[0]
        # Overdue: it is in an item that takes longer than any before, nobody knows how long.
        return ahead.end - state.now if ahead.end > state.now else state.limits.lost_after
    job = attempt.job
    behind = attempt.hi - max(attempt.at, attempt.next) - 1
    # One of fixed size waited when it was noted; now that it runs it is not cut.
    if job.spec.chunksize is not None or behind < 1:
        return 0.0
    item_time = state.item_time(job, attempt.slot.worker)
    assert item_time is not None, "several items run together although none was measured"
    elapsed = state.now - attempt.heard_at
    # While it is in time, the item_time says where it is. Overdue, the best guess is that it takes as long again.
    gain = behind * item_time - elapsed if attempt.end > state.now else max(behind * item_time, elapsed)
    # While more is to come, and only the window holds it back, a cut that does not save much just makes small chunks.
    least = 0.0 if job.unread() == 0 else 2 * state.limits.chunk_seconds
    return gain if gain > least else UNSURE
