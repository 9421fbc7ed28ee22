"""The state of the scheduler, and the steps that change it.

Owns jobs, attempts, timers and the commands of the current event. A step changes all records that belong together and
appends the command that goes with it. Which step to take is decided elsewhere: for events in `scheduler.py`,
`worker_events.py` and `reports.py`, for free slots in `placing.py`, for deaths and losses in `faults.py`.
"""

from __future__ import annotations

import heapq
from itertools import count

from distmap.core import events as ev
from distmap.core.gather import Accepted, InOrder, Unordered
from distmap.core.known_pace import KnownPace, KnownPaces
from distmap.core.limits import Limits
from distmap.core.progress import Snapshot
from distmap.core.records import (
    Attempt,
    ChunkRecord,
    JobRecord,
    LoneItem,
    SlotRecord,
    Span,
    WorkerRecord,
    WorkerStats,
)
from distmap.core.snapshots import snapshot
from distmap.core.transitions import ATTEMPT, JOB, SLOT, next_state
from distmap.core.worker_index import WorkerIndex


class SchedulerState:
    """Everything that the scheduler knows."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.now = 0.0
        self.commands: list[ev.Command] = []
        self.worker_index = WorkerIndex(limits)
        self.jobs: dict[int, JobRecord] = {}
        #: The highest id of a job so far. A lower id that is not in `jobs` belongs to a job that is over.
        self.last_job = -1
        self.last_snapshots: dict[int, Snapshot] = {}
        self.known_paces = KnownPaces(limits.paces_kept)
        self.attempts: dict[int, Attempt] = {}
        #: Attempts that were given up while their job goes on -> the job.
        self.stale: dict[int, JobRecord] = {}
        #: Set-ups that are not over, the oldest first; slots for which calls of set-ups wait.
        self.setups: dict[int, JobRecord] = {}
        self.slots_with_calls: dict[SlotRecord, None] = {}
        #: Jobs with an attempt that waits on a slot and can be taken back.
        self.jobs_with_waiting: dict[int, JobRecord] = {}
        #: (time, serial, job): when the slots that still run a stopping job are killed.
        self.kill_timers: list[tuple[float, int, JobRecord]] = []
        #: Slots that rest, in the order in which they began to rest.
        self.resting: list[SlotRecord] = []
        #: Items that wait to run alone or do, the oldest first.
        self.lone: list[LoneItem] = []
        self.last_attempt = -1
        self.last_chunk = -1
        self.serial = count()
        #: Served time of the job chosen last (start-time fair queueing): a new job starts with it.
        self.virtual_time = 0.0
        #: Seconds that one chunk costs the loop, as measured recently.
        self.dispatch = limits.dispatch_seconds
        self.deaths = 0
        self.losses = 0
        #: When to look at waiting work again even without an event; None: at the next event.
        self.next_check: float | None = None

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def open_job(self, job_id: int, spec: ev.JobSpec) -> JobRecord:
        """Add a new job."""
        group = self.worker_index.tag_group(spec.tags)
        gather = InOrder() if spec.gather in ("ordered", "fold") else Unordered()
        job = JobRecord(job_id, spec, group, self.now, gather, self.deaths, self.losses, self.virtual_time)
        job.meter.add(self.now, 0)
        if spec.function and spec.size and not job.streaming:
            job.known = self.known_paces.get(spec.function)
            job.item_bytes = 0.0 if job.known is None else job.known.item_bytes
        group.jobs += 1
        self.jobs[job_id] = job
        self.last_job = max(self.last_job, job_id)
        return job

    def stop_job(
        self,
        job: JobRecord,
        outcome: ev.Outcome,
        trigger: str = "halted",
        *,
        crashed: bool = False,
        refused: bool = False,
    ) -> None:
        """End a job early: take back what waits, interrupt what runs. Slots that do not answer are killed later."""
        job.state = next_state(JOB, job.state, trigger, job)
        job.outcome = outcome
        job.crashed, job.refused = crashed, refused
        job.queue.clear()
        job.queued = 0
        if job.spec.each:
            for slot in list(self.slots_with_calls):
                self.set_setup_calls(slot, [entry for entry in slot.setup_calls if entry[0] is not job])
        # Waiting attempts first: a slot whose item was interrupted would begin the next one at once.
        for attempt in sorted(job.attempts.values(), key=lambda attempt: attempt.slot.queue[0] is attempt):
            if attempt.slot.queue[0] is attempt:
                attempt.state = next_state(ATTEMPT, attempt.state, "interrupted", attempt)
                self.commands.append(ev.Interrupt(attempt.slot.worker.id, attempt.slot.index, attempt.id))
            elif attempt.state == "waiting":
                self.revoke(attempt, attempt.lo)
        heapq.heappush(self.kill_timers, (self.now + self.limits.interrupt_grace, next(self.serial), job))

    def kill_slots_of(self, job: JobRecord) -> None:
        """Kill the slots that still run the job, and do not wait for their answers."""
        for attempt in list(job.attempts.values()):
            slot = attempt.slot
            self.uncount(attempt)
            attempt.state = next_state(ATTEMPT, attempt.state, "voided", attempt)
            if slot.queue[0] is attempt and slot.state == "ready":
                slot.state = next_state(SLOT, slot.state, "killed", slot)
                self.commands.append(ev.Kill(slot.worker.id, slot.index))
                self.worker_index.update_slot(slot)

    def finish_if_done(self, job: JobRecord) -> None:
        """Finish the job if nothing of it is left to do; else update whether it wants a slot."""
        if job.state == "over":
            return
        if not job.attempts:
            if job.state == "stopping":
                return self._finish(job)
            if job.input in ("ended", "failed") and job.settled == job.read:
                job.outcome = "failed" if job.input == "failed" else "done"
                return self._finish(job)
        self.worker_index.update_job(job.group, job)

    def _finish(self, job: JobRecord) -> None:
        assert not job.attempts, "a job finishes with an attempt on record"
        for run in job.gather.drain():
            if run.cause is None:
                self.commands.append(ev.Discard(run.attempt, run.lo, run.hi))
        for chunk in job.chunks:
            self.commands.append(ev.Release(job.id, chunk))
        job.state = next_state(JOB, job.state, "finished", job)
        job.stamp += 1
        job.group.jobs -= 1
        job.group.reservations.pop(job.id, None)
        for attempt in job.stale:
            self.stale.pop(attempt, None)
        self.jobs_with_waiting.pop(job.id, None)
        if self.setups.pop(job.id, None) is not None:
            for worker in self.worker_index.workers.values():
                if worker.unready.pop(job.id, None) is not None:
                    self.worker_index.update_slots(worker)
        del self.jobs[job.id]
        self._remember(job)
        if not job.group.jobs:
            self.worker_index.remove_group(job.group)
        self.commands.append(ev.Finish(job.id, job.outcome, job.crashed, job.refused))

    def _remember(self, job: JobRecord) -> None:
        if job.spec.function and job.item_time.seconds is not None:
            largest = max([stats.largest for stats in job.worker_stats.values()])
            self.known_paces.keep(job.spec.function, KnownPace(job.item_time.seconds, largest, job.item_bytes))
        self.last_snapshots[job.id] = snapshot(job, self.worker_index, self.now, self.deaths, self.losses)
        if len(self.last_snapshots) > self.limits.snapshots_kept:
            del self.last_snapshots[next(iter(self.last_snapshots))]

    def set_setup_calls(self, slot: SlotRecord, due: list[tuple[JobRecord, Span]]) -> None:
        slot.setup_calls = due
        if due:
            self.slots_with_calls[slot] = None
        else:
            self.slots_with_calls.pop(slot, None)
        self.worker_index.update_slot(slot)

    # --- attempts -----------------------------------------------------------------------------------------------------

    def start_attempt(
        self, job: JobRecord, slot: SlotRecord, chunk: ChunkRecord, lo: int, hi: int, losses: int
    ) -> None:
        """Assign items [lo, hi) of the chunk to the slot, as a new attempt."""
        worker, items = slot.worker, hi - lo
        item_time = job.item_time_on(worker)
        charge = self.limits.chunk_seconds if item_time is None else item_time * items
        self.virtual_time = max(self.virtual_time, job.served)
        job.served += charge
        slot.state = next_state(SLOT, slot.state, "assigned", slot)
        most = self.limits.slot_depth if not worker.ahead else 1 + self.limits.ahead_chunks
        assert len(slot.queue) < most, "a slot holds too much"
        self.last_attempt += 1
        starts = max(self.now, slot.queue[-1].end) if slot.queue else self.now
        state = "waiting" if slot.queue else "running"
        ends = starts + charge
        attempt = Attempt(self.last_attempt, job, chunk, lo, hi, losses, slot, lo, state, lo, self.now, ends, charge)
        attempt.unaccounted_since = self.now
        slot.queue.append(attempt)
        self.attempts[attempt.id] = job.attempts[attempt.id] = attempt
        if state == "waiting":
            self._count_waiting(attempt, starts)
        self.expect_end(attempt, ends)
        self.worker_index.update_slot(slot)
        self.commands.append(ev.Assign(worker.id, slot.index, attempt.id, job.id, chunk.id, lo, hi))

    def expect_end(self, attempt: Attempt, end: float) -> None:
        """Set when the attempt is expected to end, so that idle slots find the one that ends last."""
        attempt.end = end
        if attempt.chunk.only_slot is not None:
            return  # it can run nowhere else
        waits = attempt.state == "waiting"
        if not waits and (attempt.state != "running" or attempt.job.spec.chunksize or attempt.hi - attempt.next < 2):
            return
        group = attempt.job.group
        heapq.heappush(group.victims, (-end, attempt.id, attempt))
        live = max(self.limits.slot_depth * group.capacity, len(self.attempts))
        if len(group.victims) > 64 and len(group.victims) > 8 * live:
            group.victims[:] = {
                entry[1]: entry for entry in group.victims if entry[1] in self.attempts and -entry[0] == entry[2].end
            }.values()
            heapq.heapify(group.victims)

    def revoke(self, attempt: Attempt, stop: int) -> None:
        """Take back items of the attempt that did not begin, from offset `stop` on."""
        if attempt.state == "waiting":
            self._uncount_waiting(attempt)
        attempt.state = next_state(ATTEMPT, attempt.state, "revoked", attempt)
        self.commands.append(ev.Revoke(attempt.slot.worker.id, attempt.slot.index, attempt.id, stop))

    def take_back(self, attempts: list[Attempt]) -> None:
        """Revoke those of the attempts that did not begin."""
        for attempt in attempts:
            if attempt.state == "waiting":
                self.revoke(attempt, attempt.lo)

    def uncount(self, attempt: Attempt) -> None:
        """Count the attempt no longer for its job; the slot still holds it."""
        job = attempt.job
        if attempt.state == "waiting":
            self._uncount_waiting(attempt)
        del job.attempts[attempt.id]
        job.served += attempt.spent - attempt.charge
        job.group.stealing -= attempt.stolen
        if attempt.claimant is not None:
            attempt.claimant.claims -= 1
            attempt.claimant.owed_places += 1
            self.worker_index.update_job(attempt.claimant.group, attempt.claimant)

    def end_attempt(self, attempt: Attempt) -> None:
        """The slot has finished the attempt: it runs the next one."""
        slot = attempt.slot
        if attempt.state != "void":
            self.uncount(attempt)
        attempt.state = next_state(ATTEMPT, attempt.state, "ended", attempt)
        del self.attempts[attempt.id]
        head = slot.queue[0] is attempt
        slot.queue.remove(attempt)
        if head and slot.queue:
            follower = slot.queue[0]
            if follower.state == "waiting":
                self._uncount_waiting(follower)
            follower.state = next_state(ATTEMPT, follower.state, "promoted", follower)
            follower.heard_at = follower.unaccounted_since = self.now
            self.expect_end(follower, self.now + follower.charge)
        self.worker_index.update_slot(slot)

    def clear_slot(self, slot: SlotRecord) -> list[Attempt]:
        """Remove all attempts from a slot whose process is gone; return those that still count for a job."""
        held = [attempt for attempt in slot.queue if attempt.state != "void"]
        if held and held[0] is slot.queue[0]:
            # It may have run, so the panel of the job has to show this worker.
            self.stats(held[0].job, slot.worker)
        for attempt in slot.queue:
            if attempt.state != "void":
                self.uncount(attempt)
                self.stale[attempt.id] = attempt.job
                attempt.job.stale.append(attempt.id)
            attempt.state = next_state(ATTEMPT, attempt.state, "ended", attempt)
            del self.attempts[attempt.id]
        slot.queue.clear()
        return held

    def _count_waiting(self, attempt: Attempt, starts: float) -> None:
        """Count an attempt that waits and can be taken back; a call of a set-up cannot, it is for this slot only."""
        job = attempt.job
        if attempt.chunk.only_slot is not None:
            return
        job.waiting += 1
        self.jobs_with_waiting[job.id] = job
        heapq.heappush(job.waiting_heap, (starts, attempt.id, attempt))
        if len(job.waiting_heap) > 64 and len(job.waiting_heap) > 4 * job.waiting:
            job.waiting_heap[:] = [entry for entry in job.waiting_heap if entry[2].state == "waiting"]
            heapq.heapify(job.waiting_heap)

    def _uncount_waiting(self, attempt: Attempt) -> None:
        job = attempt.job
        if attempt.chunk.only_slot is not None:
            return
        job.waiting -= 1
        if not job.waiting:
            del self.jobs_with_waiting[job.id]

    # --- results ------------------------------------------------------------------------------------------------------

    def accept(self, job: JobRecord, chunk: ChunkRecord, accepted: Accepted, *, out_of_order: bool = False) -> None:
        """Accept results, or one lost item, and deliver what may be delivered now.

        out_of_order: the job ends with this item, so it is delivered although earlier items are missing.
        """
        job.settled += accepted.hi - accepted.lo
        assert job.settled <= job.read, "more settled than read"
        if accepted.cause is None:
            self._close(chunk, accepted.hi - accepted.lo)
            job.deaths_in_a_row = 0
        index = chunk.start + accepted.lo
        if out_of_order and isinstance(job.gather, InOrder) and job.gather.next != index:
            ready = [accepted]
        else:
            ready = job.gather.accept(index, accepted)
        if ready and job.delivered == job.consumed:
            job.pace.waits(self.now)
        for run in ready:
            job.delivered += run.hi - run.lo
            if run.cause is None:
                self.commands.append(ev.Deliver(job.id, run.chunk, run.lo, run.hi, run.attempt))
            else:
                self.commands.append(ev.DeliverLoss(job.id, run.chunk, run.lo, run.cause))
                # Not before it is delivered: the text of the error shows the item, which needs the input.
                self._close(job.chunks[run.chunk], 1)
        if not chunk.open_items:
            self._release(job, chunk.id)
        for run in ready:
            if run is not accepted:
                self._release(job, run.chunk)

    def _close(self, chunk: ChunkRecord, items: int) -> None:
        chunk.open_items -= items
        assert chunk.open_items >= 0, "more items closed than the chunk has"

    def _release(self, job: JobRecord, chunk_id: int) -> None:
        chunk = job.chunks.get(chunk_id)
        if chunk is not None and chunk.open_items == 0:
            job.input_bytes -= chunk.nbytes
            del job.chunks[chunk_id]
            self.commands.append(ev.Release(job.id, chunk_id))

    def stats(self, job: JobRecord, worker: WorkerRecord) -> WorkerStats:
        """The figures of what the worker did for the job, to be added to."""
        stats = job.worker_stats.get(worker.id)
        if stats is None:
            since = max(job.began, worker.joined)
            stats = job.worker_stats[worker.id] = WorkerStats(worker.name, len(worker.slots), since)
        return stats
