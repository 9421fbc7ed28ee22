"""Which work goes where: the next job for a free place, and what is taken back from other slots and jobs.

Owns the four rules that run after every event:
- `_next_assignment`: a free place goes to the job with the smallest scheduling key.
- `_claim_place`: a job without a place takes the place of a waiting chunk of another job.
- `_steal`: an idle slot gets items from the attempt that would end last.
- `_send_ahead`: a slot whose worker may be out of reach for a while gets more chunks than its places.

A place is room for one more chunk on a slot. What is sent ahead takes no place, and is taken back before anything else.
Each rule looks at the tops of heaps only, so an event takes O(log n) time for n slots and jobs.
"""

from __future__ import annotations

import heapq
from itertools import islice

from distmap.core import alone, chunk_queue, chunks, faults
from distmap.core.records import Attempt, JobRecord, SlotRecord, TagGroup
from distmap.core.state import SchedulerState

#: Jobs and attempts that one claim or steal looks at. The oldest jobs come first, and a long job is old.
CANDIDATES = 8
#: Seconds gained that are too few for a Revoke now; the attempt is looked at again later.
UNSURE = 1e-9


def assign_work(state: SchedulerState) -> None:
    """Give all free places to jobs; then let idle slots take from busy ones."""
    state.next_check = faults.wake_rested(state) if state.resting else None
    if state.lone:
        alone.place(state)
    if state.slots_with_calls:
        for slot in list(state.slots_with_calls):
            while slot.setup_calls and state.worker_index.can_take(slot):
                chunk_queue.assign_setup_call(state, slot)
    index = state.worker_index
    groups = list(index.groups.values())
    if len(groups) == 1:  # most often; a group without a job or a place takes no time here
        (group,) = groups
        while group.free_places and group.job_heap and (job := index.next_job(group)) is not None:
            if group.reservations and not _has_unreserved_place(state, group, job):
                break
            best = index.best_slot(group)
            assert best is not None, "a free place without a slot"
            _give(state, job, best)
    else:
        while (choice := _next_assignment(state, groups)) is not None:
            _give(state, *choice)
    for group in groups:
        if group.job_heap and not group.free_places and len(state.jobs) > 1:
            _claim_place(state, group)
        if group.idle and group.victims:
            _steal(state, group)
        # An idle slot may be reserved for a chunk that is being read. What comes then goes there, or waits for it.
        if group.ahead_heap and group.job_heap and not group.idle:
            _send_ahead(state, group)


def _give(state: SchedulerState, job: JobRecord, slot: SlotRecord) -> None:
    """Assign the next chunk of the job to the slot, or have it read."""
    if not job.queue and job.spec.pushed:
        chunk_queue.take_pushed(state, job, slot.worker)
    if job.queue:
        chunk_queue.assign(state, job, slot)
    else:
        chunk_queue.request_chunk(state, job, slot)
    state.worker_index.update_job(job.group, job)


def _send_ahead(state: SchedulerState, group: TagGroup) -> None:
    """Send the next job's chunks ahead, but leave to every other slot its share of what is left of the job."""
    while (slot := state.worker_index.ahead_slot(group)) is not None:
        job = state.worker_index.next_job(group)
        if job is None or slot.waits >= job.fair_seconds(slot.worker):
            return
        _give(state, job, slot)


def _next_assignment(state: SchedulerState, groups: list[TagGroup]) -> tuple[JobRecord, SlotRecord] | None:
    """The job that gets the next place, and the best slot for it."""
    best: tuple[JobRecord, SlotRecord] | None = None
    index = state.worker_index
    for group in groups:
        if not group.free_places or not group.job_heap or (job := index.next_job(group)) is None:
            continue
        slot = index.best_slot(group)
        assert slot is not None, "a free place without a slot"
        if best is not None and best[0].scheduling_key() < job.scheduling_key():
            continue
        if not group.reservations or _has_unreserved_place(state, group, job):
            best = job, slot
    return best


def _has_unreserved_place(state: SchedulerState, group: TagGroup, job: JobRecord) -> bool:
    """Whether a place is left that no other job of at least the same priority has reserved for a chunk it reads.

    Without reservations a job that has a chunk already would always be quicker than the job whose turn it is.
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
    """If no place is left for the next job, have the waiting chunk of another job taken back for it.

    The job must have a higher priority, or nothing on any slot while the other job has more than one chunk there; else
    two jobs would take the same place from each other for ever.
    """
    job = state.worker_index.next_job(group)
    if job is None:
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
            # There will be a place: first read the chunk for it.
            chunk_queue.request_chunk(state, job, attempt.slot)
            state.worker_index.update_job(job.group, job)
            return
        if job.claims < len(job.queue):
            attempt.claimant = job
            job.claims += 1
            state.revoke(attempt, attempt.lo)
            # What was sent ahead would run before it.
            state.take_back([one for one in _waiters(attempt) if one.job.spec.priority <= job.spec.priority])
        return


def _waiters(attempt: Attempt) -> list[Attempt]:
    """What waits with it on its slot, and can run elsewhere."""
    return [one for one in attempt.slot.queue if one.state == "waiting" and one.chunk.only_slot is None]


def _first_waiter(giver: JobRecord, job: JobRecord) -> Attempt | None:
    """The waiting attempt of `giver` that would begin first, on a slot that `job` may use."""
    while giver.waiting_heap and giver.waiting_heap[0][2].state != "waiting":
        heapq.heappop(giver.waiting_heap)
    for _, _, attempt in giver.waiting_heap[:CANDIDATES]:
        worker = attempt.slot.worker
        if attempt.state == "waiting" and worker.state == "trusted" and job.group.takes(worker):
            return attempt
    return None


def _steal(state: SchedulerState, group: TagGroup) -> None:
    """While slots are idle and nothing is queued for them, take items from the attempt that would end last.

    One Revoke for each idle slot. A running attempt is stopped at its next item, not in the middle of the rest: the
    rest comes back only when the attempt ends, so the idle slot would wait longer. What comes back is divided by the
    rule for chunk sizes, among all slots.
    """
    heap = group.victims
    aside: list[tuple[float, int, Attempt]] = []
    aim, floor = chunks.seconds_of_work(state.limits, 0.0, 0.0, state.dispatch, group.capacity)
    # Idle slots get the chunks that are being read: only what would wait longer than usual is taken from others.
    least_gain, most = (aim, 1) if group.reservations else (floor, CANDIDATES)
    while heap and group.stealing + len(group.reservations) < group.idle and len(aside) < most:
        key, attempt_id, attempt = entry = heapq.heappop(heap)
        stale = attempt_id not in state.attempts or -key != attempt.end or attempt.state not in ("waiting", "running")
        if stale or attempt.job.state != "running" or attempt.slot.worker.state == "suspect":
            continue
        thief = state.worker_index.best_slot(group)
        assert thief is not None, "an idle slot without a place"
        least = max(least_gain, 2 * (attempt.slot.worker.rtt + thief.worker.rtt))
        gain = _seconds_gained(state, attempt)
        if gain > least:
            attempt.stolen = True
            group.stealing += 1
            if attempt.state == "waiting":
                waiters = _waiters(attempt)
                state.revoke(attempt, attempt.lo)
                # Of several that wait, half come back, so that both slots end at about the same time.
                state.take_back(waiters[len(waiters) // 2 :])
            else:
                state.revoke(attempt, max(attempt.at, attempt.next) + 1)
        elif gain > 0:
            # Not worth a Revoke if it ends as expected, which is soon.
            aside.append(entry)
            _check_again_by(state, max(attempt.end, state.now) + least)
    for entry in aside:
        heapq.heappush(heap, entry)


def _check_again_by(state: SchedulerState, when: float) -> None:
    state.next_check = when if state.next_check is None else min(state.next_check, when)


def _seconds_gained(state: SchedulerState, attempt: Attempt) -> float:
    """Seconds of work that could begin elsewhere at once; 0 if there will never be any."""
    if attempt.state == "waiting":
        head = attempt.slot.queue[0]
        if head.end <= state.now:
            # It runs an item that takes longer than any before: the end is unknown.
            return state.limits.reconnect_grace
        begins = head.end if attempt is attempt.slot.queue[1] else max(head.end, attempt.end - attempt.charge)
        return begins - state.now
    job = attempt.job
    behind = attempt.hi - max(attempt.at, attempt.next) - 1
    # A chunk of fixed size is not cut while it runs; it waited when it was entered here.
    if job.spec.chunksize is not None or behind < 1:
        return 0.0
    item_time = job.item_time_on(attempt.slot.worker)
    elapsed = state.now - attempt.heard_at
    # Before its expected end, the time per item tells its position. After it, guess that it takes as long again.
    if item_time is None:
        gain = elapsed
    else:
        gain = behind * item_time - elapsed if attempt.end > state.now else max(behind * item_time, elapsed)
    # While the window holds back items that are not read yet, a cut that saves little only makes small chunks.
    least = 0.0 if job.unread() == 0 else 2 * state.limits.chunk_seconds
    return gain if gain > least else UNSURE
