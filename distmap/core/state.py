"""The state of play and the moves that keep it consistent.

Owns jobs, attempts, timers and the commands of the event in hand. A move changes every record that the change
concerns and says the command that goes with it; which move to make is decided in `placing.py` (work to slots),
`faults.py` (deaths and losses) and `scheduler.py` (events).
"""

from __future__ import annotations

import heapq
from itertools import count

from distmap.core import chunks
from distmap.core.events import (
    Assign,
    Command,
    Deliver,
    DeliverLoss,
    Discard,
    Finish,
    Interrupt,
    JobSpec,
    Kill,
    Outcome,
    Read,
    Release,
    Revoke,
    SetUp,
    Take,
)
from distmap.core.gather import Accepted, InOrder, Unordered
from distmap.core.limits import Limits
from distmap.core.progress import Snapshot
from distmap.core.records import Attempt, ChunkRecord, JobRecord, SlotRecord, Span, WorkerRecord, WorkerStats
from distmap.core.snapshots import snapshot
from distmap.core.transitions import ATTEMPT, INPUT, JOB, SLOT, next_state
from distmap.core.worker_index import WorkerIndex

#: Last snapshots of jobs that are over, kept for `Scheduler.snapshot`.
SNAPSHOTS_KEPT = 256


class SchedulerState:
    """Everything the scheduler knows."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.now = 0.0
        self.commands: list[Command] = []
        self.worker_index = WorkerIndex(limits)
        self.jobs: dict[int, JobRecord] = {}
        #: The highest id of a job so far; a lower one that is not here belongs to a job that is over.
        self.last_job = -1
        self.last_snapshots: dict[int, Snapshot] = {}
        self.attempts: dict[int, Attempt] = {}
        #: Attempts given up while their job goes on -> job.
        self.stale: dict[int, JobRecord] = {}
        #: Set-ups that are not over, the oldest first; slots that calls of them wait for.
        self.setups: dict[int, JobRecord] = {}
        self.slots_with_calls: dict[SlotRecord, None] = {}
        #: Jobs with an attempt that waits and can be taken back.
        self.jobs_with_waiting: dict[int, JobRecord] = {}
        #: (due, serial, job): a stopping job whose slots are to be killed.
        self.kill_timers: list[tuple[float, int, JobRecord]] = []
        #: Slots that rest, in the order in which they began to.
        self.resting: list[SlotRecord] = []
        self.last_attempt = -1
        self.last_chunk = -1
        self.serial = count()
        #: Served time of the job chosen last: where a new job starts, so that it owes and is owed nothing.
        self.virtual_time = 0.0
        self.deaths = 0
        self.losses = 0
        #: When waiting work is to be looked at again though nothing may happen; None: at the next event.
        self.next_check: float | None = None

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def open_job(self, job_id: int, spec: JobSpec) -> JobRecord:
        """Enter a new job."""
        group = self.worker_index.tag_group(spec.tags)
        gather = InOrder() if spec.gather in ("ordered", "fold") else Unordered()
        job = JobRecord(job_id, spec, group, self.now, gather, self.deaths, self.losses, self.virtual_time)
        job.meter.add(self.now, 0)
        group.jobs += 1
        self.jobs[job_id] = job
        self.last_job = max(self.last_job, job_id)
        return job

    def stop_job(self, job: JobRecord, outcome: Outcome, trigger: str = "halted", *, crashed: bool = False) -> None:
        """End a job early: take back what waits, interrupt what runs; slots that do not answer are killed later."""
        job.state = next_state(JOB, job.state, trigger, job)
        job.outcome = outcome
        job.crashed = crashed
        job.queue.clear()
        job.queued = 0
        if job.spec.each:
            for slot in list(self.slots_with_calls):
                self.set_setup_calls(slot, [entry for entry in slot.setup_calls if entry[0] is not job])
        # What waits is taken back first: a slot whose item was interrupted would begin it at once.
        for attempt in sorted(job.attempts.values(), key=lambda attempt: attempt.slot.queue[0] is attempt):
            if attempt.slot.queue[0] is attempt:
                attempt.state = next_state(ATTEMPT, attempt.state, "interrupted", attempt)
                self.commands.append(Interrupt(attempt.slot.worker.id, attempt.slot.index, attempt.id))
            elif attempt.state == "waiting":
                self.revoke(attempt, attempt.lo)
        heapq.heappush(self.kill_timers, (self.now + self.limits.interrupt_grace, next(self.serial), job))

    def kill_slots_of(self, job: JobRecord) -> None:
        """The grace is over: kill the slots that still run the job, and do without the answers."""
        for attempt in list(job.attempts.values()):
            slot = attempt.slot
            self.uncount(attempt)
            attempt.state = next_state(ATTEMPT, attempt.state, "voided", attempt)
            if slot.queue[0] is attempt and slot.state == "ready":
                slot.state = next_state(SLOT, slot.state, "killed", slot)
                self.commands.append(Kill(slot.worker.id, slot.index))
                self.worker_index.update_slot(slot)

    def finish_if_done(self, job: JobRecord) -> None:
        """Finish the job if nothing of it is left to do; else note what it wants next."""
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
                self.commands.append(Discard(run.attempt, run.lo, run.hi))
        for chunk in job.chunks:
            self.commands.append(Release(job.id, chunk))
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
        self.commands.append(Finish(job.id, job.outcome, job.crashed))

    def _remember(self, job: JobRecord) -> None:
        self.last_snapshots[job.id] = snapshot(job, self.worker_index, self.now, self.deaths, self.losses)
        if len(self.last_snapshots) > SNAPSHOTS_KEPT:
            del self.last_snapshots[next(iter(self.last_snapshots))]

    # --- input --------------------------------------------------------------------------------------------------------

    def chunk_size_for(self, job: JobRecord, worker: WorkerRecord) -> int:
        """Items of the next chunk of the job for this worker."""
        if job.spec.chunksize is not None:
            return job.spec.chunksize
        stats = job.worker_stats.get(worker.id)
        unread = job.unread()
        return chunks.size(
            self.limits,
            item_time=self.item_time(job, worker),
            rtt=worker.rtt,
            largest=stats.largest if stats else 0,
            left=None if unread is None else unread + job.queued,
            slots=job.group.capacity,
            item_bytes=job.item_bytes,
        )

    def item_time(self, job: JobRecord, worker: WorkerRecord) -> float | None:
        """Seconds per item there; before anything was measured there, as elsewhere."""
        stats = job.worker_stats.get(worker.id)
        return job.item_time.seconds if stats is None or stats.item_time.seconds is None else stats.item_time.seconds

    def request_chunk(self, job: JobRecord, worker: WorkerRecord) -> None:
        """Ask for the next chunk, sized for this worker."""
        items = min(self.chunk_size_for(job, worker), job.room(self.limits))
        assert items >= 1, "a Read of nothing"
        self.last_chunk += 1
        job.input = next_state(INPUT, job.input, "read", job)
        job.requested, job.requested_chunk = items, self.last_chunk
        job.group.reservations[job.id] = self.now + self.limits.reservation_seconds, job.spec.priority
        self.commands.append(Read(job.id, self.last_chunk, items))

    def take_pushed(self, job: JobRecord, worker: WorkerRecord) -> None:
        """Make the next chunk of what was pushed, sized for this worker."""
        items = min(job.available, job.room(self.limits))
        if job.group.idle:
            # Whoever submits a few wants them side by side; only a backlog is worth coalescing.
            items = min(items, -(-job.available // job.group.idle))
        if items > 1:
            items = min(items, self.chunk_size_for(job, worker))
        assert items >= 1, "a Take of nothing"
        nbytes = job.available_bytes * items // job.available
        job.available -= items
        job.available_bytes -= nbytes
        self.add_taken_chunk(job, items, nbytes)
        self.end_pushed_input(job)

    def add_taken_chunk(self, job: JobRecord, items: int, nbytes: int) -> None:
        """Items that wait at the driver, pushed or submitted with the job, are a new chunk."""
        self.last_chunk += 1
        self.commands.append(Take(job.id, self.last_chunk, items))
        self.add_chunk(job, self.last_chunk, items, nbytes)

    def add_chunk(
        self, job: JobRecord, chunk_id: int, items: int, nbytes: int, place: SlotRecord | None = None
    ) -> None:
        """A chunk is there; all of it waits to be run."""
        chunk = job.chunks[chunk_id] = ChunkRecord(chunk_id, job.read, items, nbytes, items, place)
        job.read += items
        job.input_bytes += nbytes
        job.item_bytes = max(nbytes / items, job.item_bytes / 2)
        if job.streaming:
            job.unconsumed.append(items)
        self.requeue(job, chunk, 0, items)

    def end_pushed_input(self, job: JobRecord) -> None:
        """End the input of a pushed job when nothing more can come."""
        if job.input == "closing" and job.available == 0:
            job.input = next_state(INPUT, job.input, "exhausted", job)

    def requeue(self, job: JobRecord, chunk: ChunkRecord, lo: int, hi: int, losses: int = 0) -> None:
        """Items wait to be run (again), unless the job is being stopped."""
        if lo == hi or job.state == "stopping":
            return
        span = (chunk.start + lo, lo, hi, losses, chunk)
        if chunk.only_slot is None:
            heapq.heappush(job.queue, span)
            job.queued += hi - lo
        elif chunk.only_slot.worker.state == "lost":
            self.accept(job, chunk, Accepted(chunk.id, lo, hi, -1, "gone"))
        else:
            self.set_setup_calls(chunk.only_slot, [*chunk.only_slot.setup_calls, (job, span)])

    # --- set-ups ------------------------------------------------------------------------------------------------------

    def set_up(self, job: JobRecord, worker: WorkerRecord, *, first: bool = False) -> None:
        """Have the worker set up. `first`: it takes nothing else before that succeeded."""
        slots = worker.slots
        if job.spec.each == "worker":
            slots = [min(slots, key=lambda slot: (slot.state != "ready", len(slot.queue)))]
        if first:
            worker.unready[job.id] = len(slots)
            self.worker_index.update_slots(worker)
        for slot in slots:
            self.last_chunk += 1
            self.commands.append(SetUp(job.id, self.last_chunk, worker.id, slot.index))
            self.add_chunk(job, self.last_chunk, 1, 0, slot)

    def setup_succeeded(self, job: JobRecord, worker: WorkerRecord) -> None:
        """One call of the set-up succeeded there."""
        left = worker.unready.get(job.id)
        if left == 1:
            del worker.unready[job.id]
            self.worker_index.update_slots(worker)
        elif left is not None:
            worker.unready[job.id] = left - 1

    def assign_setup_call(self, slot: SlotRecord) -> None:
        """Send the slot the first call that waits for it."""
        job, (_, lo, hi, losses, chunk) = slot.setup_calls[0]
        self.set_setup_calls(slot, slot.setup_calls[1:])
        self._start_attempt(job, slot, chunk, lo, hi, losses)

    def drop_setup_calls(self, slot: SlotRecord) -> None:
        """Its worker is lost: what waits for the slot comes to nothing."""
        due = slot.setup_calls
        self.set_setup_calls(slot, [])
        for job, (_, lo, hi, losses, chunk) in due:
            self.requeue(job, chunk, lo, hi, losses)
            self.finish_if_done(job)

    def set_setup_calls(self, slot: SlotRecord, due: list[tuple[JobRecord, Span]]) -> None:
        slot.setup_calls = due
        if due:
            self.slots_with_calls[slot] = None
        else:
            self.slots_with_calls.pop(slot, None)
        self.worker_index.update_slot(slot)

    # --- attempts -----------------------------------------------------------------------------------------------------

    def assign(self, job: JobRecord, slot: SlotRecord) -> None:
        """Send the earliest waiting items of the job to the slot."""
        worker = slot.worker
        index, lo, hi, losses, chunk = heapq.heappop(job.queue)
        items = hi - lo
        if items > 1 and job.spec.chunksize is None:
            items = chunks.cut(items, self.chunk_size_for(job, worker), chunk.nbytes, job.group.capacity)
        if items < hi - lo:
            heapq.heappush(job.queue, (index + items, lo + items, hi, losses, chunk))
        job.queued -= items
        job.owed_places = max(0, job.owed_places - 1)
        self._start_attempt(job, slot, chunk, lo, lo + items, losses)

    def _start_attempt(
        self, job: JobRecord, slot: SlotRecord, chunk: ChunkRecord, lo: int, hi: int, losses: int
    ) -> None:
        """An attempt at items [lo, hi) of the chunk, on the slot."""
        worker, items = slot.worker, hi - lo
        item_time = self.item_time(job, worker)
        charge = self.limits.chunk_seconds if item_time is None else item_time * items
        self.virtual_time = max(self.virtual_time, job.served)
        job.served += charge
        slot.state = next_state(SLOT, slot.state, "assigned", slot)
        assert len(slot.queue) < self.limits.slot_depth, "a slot holds too much"
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
        self.commands.append(Assign(worker.id, slot.index, attempt.id, job.id, chunk.id, lo, hi))

    def expect_end(self, attempt: Attempt, end: float) -> None:
        """Note when the attempt should end, so that idle slots find the ones that take longest."""
        attempt.end = end
        if attempt.chunk.only_slot is not None:
            return  # it can run nowhere else
        waits = attempt.state == "waiting"
        if not waits and (attempt.state != "running" or attempt.job.spec.chunksize or attempt.hi - attempt.next < 2):
            return
        group = attempt.job.group
        heapq.heappush(group.victims, (-end, attempt.id, attempt))
        if len(group.victims) > 64 and len(group.victims) > 8 * self.limits.slot_depth * group.capacity:
            group.victims[:] = {
                entry[1]: entry for entry in group.victims if entry[1] in self.attempts and -entry[0] == entry[2].end
            }.values()
            heapq.heapify(group.victims)

    def revoke(self, attempt: Attempt, stop: int) -> None:
        """Take back what the attempt did not begin, from offset `stop` on."""
        if attempt.state == "waiting":
            self._uncount_waiting(attempt)
        attempt.state = next_state(ATTEMPT, attempt.state, "revoked", attempt)
        self.commands.append(Revoke(attempt.slot.worker.id, attempt.slot.index, attempt.id, stop))

    def uncount(self, attempt: Attempt) -> None:
        """The attempt no longer counts for its job; the slot still holds it."""
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
        """The slot is through with the attempt; what waits behind it runs now."""
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
        """Take every attempt off a slot that is no more; give those that still count for a job."""
        held = [attempt for attempt in slot.queue if attempt.state != "void"]
        if held and held[0] is slot.queue[0]:
            # It may have run: what is shown of the job names the worker.
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
        """It waits, and can be taken back for another slot or job; not if it is for this slot."""
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
        """Accept results (or one loss) for good and pass on what may go out.

        out_of_order: the job ends with this one, so it goes out although earlier items are missing.
        """
        job.settled += accepted.hi - accepted.lo
        assert job.settled <= job.read, "more settled than read"
        if accepted.cause is None:
            self._close(job, chunk, accepted.hi - accepted.lo)
            job.deaths_in_a_row = 0
        index = chunk.start + accepted.lo
        if out_of_order and isinstance(job.gather, InOrder) and job.gather.next != index:
            ready = [accepted]
        else:
            ready = job.gather.accept(index, accepted)
        for run in ready:
            job.delivered += run.hi - run.lo
            if run.cause is None:
                self.commands.append(Deliver(job.id, run.chunk, run.lo, run.hi, run.attempt))
            else:
                self.commands.append(DeliverLoss(job.id, run.chunk, run.lo, run.cause))
                # Only now: the text of the error shows the item, so its input is needed until then.
                self._close(job, job.chunks[run.chunk], 1)
        self._release(job, chunk.id)
        for run in ready:
            if run is not accepted:
                self._release(job, run.chunk)

    def _close(self, job: JobRecord, chunk: ChunkRecord, items: int) -> None:
        chunk.open_items -= items
        assert chunk.open_items >= 0, "more items closed than the chunk has"

    def _release(self, job: JobRecord, chunk_id: int) -> None:
        chunk = job.chunks.get(chunk_id)
        if chunk is not None and chunk.open_items == 0:
            job.input_bytes -= chunk.nbytes
            del job.chunks[chunk_id]
            self.commands.append(Release(job.id, chunk_id))

    def stats(self, job: JobRecord, worker: WorkerRecord) -> WorkerStats:
        """What the worker did for the job, to be added to."""
        stats = job.worker_stats.get(worker.id)
        if stats is None:
            since = max(job.began, worker.joined)
            stats = job.worker_stats[worker.id] = WorkerStats(worker.name, len(worker.slots), since)
        return stats
