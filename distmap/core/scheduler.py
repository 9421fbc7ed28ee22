"""What to do next: the one place where retries, lost workers, order, back-pressure, sizes and fairness are decided.

Owns the meaning of every event: `handle(event, now)` checks that it can follow, changes the state, and gives the
commands. An event that cannot follow raises InvalidTransition before anything was changed. Pure: no clock, thread,
socket or chance of its own, and no bytes; the driver holds those. Read `state.py` for the records' moves,
`placing.py` for who gets which place, `faults.py` for who is charged.

Events of a job that is over, of a worker that was given up and of an attempt that is no longer on record crossed
each other on the way. They are legal: the results they carry are discarded, the rest is ignored. After Finish no
command names the job any more (but for Discard, which names an attempt): its reader's answer is simply dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from distmap.core import events as ev
from distmap.core import faults, reports
from distmap.core.limits import LIMITS, Limits
from distmap.core.placing import assign_work
from distmap.core.progress import Meter, Snapshot
from distmap.core.records import Attempt, JobRecord, SlotRecord, WorkerRecord
from distmap.core.snapshots import snapshot
from distmap.core.state import SchedulerState
from distmap.core.timeline import Timelines
from distmap.core.transitions import INPUT, JOB, WORKER, next_state
from distmap.errors import InvalidTransition


def check(true: bool, text: str, *args: object) -> None:
    """Raise InvalidTransition with the text, formatted with the arguments, unless `true`."""
    if not true:
        raise InvalidTransition(text.format(*args))


class Scheduler:
    """Turns what happened into what to do. One per pool; not thread-safe."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._state = SchedulerState(limits)
        self._timelines = Timelines()
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.WorkerJoined: self._worker_joined,
            ev.WorkerLost: self._worker_lost,
            ev.WorkerSuspected: self._worker_turned,
            ev.WorkerTrusted: self._worker_turned,
            ev.WorkerDraining: self._worker_turned,
            ev.WorkerMeasured: self._worker_measured,
            ev.SlotDied: self._slot_died,
            ev.SlotReady: self._slot_ready,
            ev.JobSubmitted: self._job_submitted,
            ev.ItemsAdded: self._items_added,
            ev.InputClosed: self._input_closed,
            ev.ChunkRead: self._chunk_read,
            ev.InputFailed: self._input_failed,
            ev.InputGrew: self._input_grew,
            ev.AttemptProgressed: self._attempt_progressed,
            ev.AttemptReported: self._attempt_reported,
            ev.AttemptLost: self._attempt_lost,
            ev.AttemptRefused: self._attempt_refused,
            ev.Consumed: self._consumed,
            ev.CancelRequested: self._cancel,
            ev.PauseRequested: self._pause,
            ev.ResumeRequested: self._resume,
            ev.Ticked: self._ticked,
        }

    # --- the face -----------------------------------------------------------------------------------------------------

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        """Take one event at `now` (monotonic seconds); give the commands to carry out, in order.

        Raises:
            InvalidTransition: The event cannot follow; nothing was changed.
        """
        handler = self._handlers.get(type(event))
        check(handler is not None, "{!r} is no event of the scheduler", event)
        assert handler is not None
        state = self._state
        check(now >= state.now, "time went back from {} to {}", state.now, now)
        before, state.now = state.now, now
        try:
            handler(event)
        except InvalidTransition:
            state.now = before
            assert not state.commands, "an illegal event left commands"
            raise
        assign_work(state)
        out, state.commands = state.commands, []
        self._timelines.observe(event, out, now)
        return out

    def deadline(self) -> float | None:
        """When a Ticked is wanted at the latest; None: only events move anything."""
        timers, patience = self._state.kill_timers, self._state.next_check
        while timers and not self._pending(timers[0][2]):
            heapq.heappop(timers)
        if not timers:
            return patience
        return timers[0][0] if patience is None else min(timers[0][0], patience)

    def snapshot(self, job: int, now: float) -> Snapshot:
        """How far a job is; of jobs that are over, the last 256 are remembered as they ended."""
        state = self._state
        record = state.jobs.get(job)
        if record is not None:
            found = snapshot(record, state.worker_index, now, state.deaths, state.losses)
        else:
            check(job in state.last_snapshots, "job {} is not known (any more)", job)
            found = state.last_snapshots[job]
        return self._timelines.draw(job, found, now)

    def resting(self, worker: int, now: float) -> tuple[int, float]:
        """How many slots of the worker rest after too many deaths, and in how many seconds the first one goes on."""
        state = self._state
        ends = [faults.rest_ends(state, slot) for slot in state.resting if slot.worker.id == worker]
        return len(ends), max(0.0, min(ends, default=now) - now)

    def unready(self, worker: int) -> bool:
        """Whether a set-up did not succeed yet on a worker that came after it, so that it takes nothing else."""
        found = self._state.worker_index.workers.get(worker)
        return found is not None and bool(found.unready)

    # --- workers ------------------------------------------------------------------------------------------------------

    def _worker(self, worker: int) -> WorkerRecord | None:
        """The worker; None if it was given up."""
        state = self._state
        found = state.worker_index.workers.get(worker)
        check(found is not None or worker in state.worker_index.lost, "worker {} never joined", worker)
        return found

    def _slot(self, worker: int, index: int) -> SlotRecord | None:
        found = self._worker(worker)
        if found is None:
            return None
        check(0 <= index < len(found.slots), "worker {} has {} slots, none is {}", worker, len(found.slots), index)
        return found.slots[index]

    def _worker_joined(self, event: ev.WorkerJoined) -> None:
        worker_index = self._state.worker_index
        known = event.worker in worker_index.workers or event.worker in worker_index.lost
        check(not known, "worker {} joined before: every incarnation needs an id of its own", event.worker)
        check(event.slots >= 1, "worker {} has {} slots, expected at least 1", event.worker, event.slots)
        name = event.name or f"worker {event.worker}"
        worker = WorkerRecord(event.worker, name, event.tags, event.rtt, self._state.now)
        worker_index.add(worker, event.slots)
        for job in self._state.setups.values():
            if job.state != "stopping" and job.spec.tags <= worker.tags:
                self._state.set_up(job, worker, first=True)
        self._window_changed()

    def _worker_lost(self, event: ev.WorkerLost) -> None:
        worker = self._worker(event.worker)
        if worker is not None:
            faults.worker_lost(self._state, worker, charged=event.charged)
            self._window_changed()

    def _worker_turned(self, event: ev.WorkerSuspected | ev.WorkerTrusted | ev.WorkerDraining) -> None:
        worker = self._worker(event.worker)
        if worker is None:
            return
        self._state.worker_index.set_state(worker, next_state(WORKER, worker.state, type(event).__name__, worker))
        if worker.state == "draining":
            for slot in worker.slots:
                self._take_back(slot.queue)
        self._state.worker_index.update_slots(worker)
        self._window_changed()

    def _worker_measured(self, event: ev.WorkerMeasured) -> None:
        worker = self._worker(event.worker)
        if worker is not None:
            worker.rtt, worker.memory = event.rtt, event.memory
            self._state.worker_index.update_slots(worker)

    def _slot_died(self, event: ev.SlotDied) -> None:
        slot = self._slot(event.worker, event.slot)
        known = event.attempt is None or 0 <= event.attempt <= self._state.last_attempt
        check(known, "attempt {} was never assigned", event.attempt)
        if slot is not None:
            faults.slot_died(self._state, slot, event)

    def _slot_ready(self, event: ev.SlotReady) -> None:
        slot = self._slot(event.worker, event.slot)
        if slot is not None:
            faults.slot_ready(self._state, slot)

    def _window_changed(self) -> None:
        """The number of slots changed, and with it how far jobs may read ahead."""
        for job in self._state.jobs.values():
            self._state.worker_index.update_job(job.group, job)

    def _take_back(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            if attempt.state == "waiting":
                self._state.revoke(attempt, attempt.lo)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _job(self, job: int) -> JobRecord | None:
        """The job; None if it is over."""
        found = self._state.jobs.get(job)
        check(found is not None or 0 <= job <= self._state.last_job, "job {} was never submitted", job)
        return found

    def _job_submitted(self, event: ev.JobSubmitted) -> None:
        state, spec = self._state, event.spec
        check(
            event.job not in state.jobs and event.job not in state.last_snapshots,
            "job {} was submitted before",
            event.job,
        )
        for name, least in (("size", 0), ("chunksize", 1), ("buffer", 1), ("retries", 0)):
            value = getattr(spec, name)
            fits = value is None or value >= least
            check(fits, "job {}: {} is {}, expected at least {}", event.job, name, value, least)
        check(not spec.pushed or spec.size is None, "job {}: items are pushed, so it has no size ahead", event.job)
        check(not spec.each or spec.pushed, "job {}: a set-up has no items, it counts as pushed", event.job)
        self._check_first_chunk(event)
        job = state.open_job(event.job, spec)
        if spec.each:
            state.setups[job.id] = job
            for worker in state.worker_index.workers.values():
                if spec.tags <= worker.tags and worker.state != "draining":
                    state.set_up(job, worker)
        if event.count:
            state.add_taken_chunk(job, event.count, event.nbytes)
        if spec.size == 0 or event.last:
            job.input = next_state(INPUT, job.input, "exhausted", job)
        state.finish_if_done(job)

    def _check_first_chunk(self, event: ev.JobSubmitted) -> None:
        job, spec, count = event.job, event.spec, event.count
        check(
            count >= 0 and event.nbytes >= 0,
            "job {}: {} items, {} bytes, expected at least 0",
            job,
            count,
            event.nbytes,
        )
        check(not spec.pushed or not (count or event.last), "job {}: items are pushed, none can come with it", job)
        for name in ("size", "chunksize", "buffer"):
            most = getattr(spec, name)
            # Of the sizes only 0 is sure.
            fits = most is None or count <= most or (name == "size" and most > 0)
            check(fits, "job {}: {} first items, its {} is {}", job, count, name, most)

    def _items_added(self, event: ev.ItemsAdded) -> None:
        job = self._job(event.job)
        if job is None:
            return
        check(job.spec.pushed, "{} pulls its items, none can be added", job)
        check(event.count >= 1, "{}: {} items added, expected at least 1", job, event.count)
        check(event.nbytes >= 0, "{}: {} bytes, expected at least 0", job, event.nbytes)
        if job.state == "stopping":
            return
        job.input = next_state(INPUT, job.input, "ItemsAdded", job)
        if not job.attempts and not job.queue and not job.available:
            # It asked for nothing for a while; that does not entitle it to all slots now.
            job.served = max(job.served, self._state.virtual_time)
        job.available += event.count
        job.available_bytes += event.nbytes
        job.item_bytes = max(event.nbytes / event.count, job.item_bytes)
        self._state.finish_if_done(job)

    def _input_closed(self, event: ev.InputClosed) -> None:
        job = self._job(event.job)
        if job is None:
            return
        check(job.spec.pushed, "{} pulls its items, its input ends by itself", job)
        if job.state == "stopping":
            return
        job.input = next_state(INPUT, job.input, "InputClosed", job)
        self._state.end_pushed_input(job)
        self._state.finish_if_done(job)

    def _chunk_read(self, event: ev.ChunkRead) -> None:
        job, state = self._job(event.job), self._state
        if job is None:
            return
        check(job.is_reading and event.chunk == job.requested_chunk, "{}, chunk {} was not asked for", job, event.chunk)
        check(0 <= event.count <= job.requested, "{}: {} items read, expected 0 to {}", job, event.count, job.requested)
        check(event.nbytes >= 0, "{}: {} bytes, expected at least 0", job, event.nbytes)
        check(event.count > 0 or event.last, "{}: no item was read, yet the input goes on", job)
        job.input = next_state(INPUT, job.input, "ChunkRead.last" if event.last else "ChunkRead", job)
        del job.group.reservations[job.id]
        if job.state == "stopping":
            if event.count:
                job.unrun_items += event.count
                state.commands.append(ev.Release(job.id, event.chunk))
            return state.finish_if_done(job)
        if event.count:
            state.add_chunk(job, event.chunk, event.count, event.nbytes)
        state.finish_if_done(job)

    def _input_failed(self, event: ev.InputFailed) -> None:
        job = self._job(event.job)
        if job is None:
            return
        asked = job.is_reading and event.chunk == job.requested_chunk
        check(asked, "{}, chunk {} was not asked for", job, event.chunk)
        job.input = next_state(INPUT, job.input, "InputFailed", job)
        del job.group.reservations[job.id]
        self._state.finish_if_done(job)

    def _input_grew(self, event: ev.InputGrew) -> None:
        job = self._job(event.job)
        check(event.nbytes >= 0, "job {}: {} bytes, expected at least 0", event.job, event.nbytes)
        chunk = None if job is None else job.chunks.get(event.chunk)
        if job is None or chunk is None:
            return
        chunk.nbytes += event.nbytes
        job.input_bytes += event.nbytes
        job.item_bytes = max(chunk.nbytes / chunk.count, job.item_bytes)
        self._state.finish_if_done(job)

    def _consumed(self, event: ev.Consumed) -> None:
        job = self._job(event.job)
        if job is None:
            return
        waits = job.delivered - job.consumed
        check(0 <= event.count <= waits, "{}: {} items consumed, expected 0 to {}", job, event.count, waits)
        job.consumed += event.count
        left = event.count
        while left and job.unconsumed:
            taken = min(left, job.unconsumed[0])
            left -= taken
            job.unconsumed[0] -= taken
            if not job.unconsumed[0]:
                job.unconsumed.popleft()
        # Results that were partly refused make the driver's count differ a little; it must not add up.
        job.result_bytes = max(0, job.result_bytes - event.nbytes) if job.consumed < job.settled else 0
        self._state.finish_if_done(job)

    def _cancel(self, event: ev.CancelRequested) -> None:
        job = self._job(event.job)
        if job is None or job.state == "stopping":
            return
        self._state.stop_job(job, "cancelled", "CancelRequested")
        self._state.finish_if_done(job)

    def _pause(self, event: ev.PauseRequested) -> None:
        job = self._job(event.job)
        if job is not None:
            job.state = next_state(JOB, job.state, "PauseRequested", job)
            self._take_back(list(job.attempts.values()))
            self._state.finish_if_done(job)

    def _resume(self, event: ev.ResumeRequested) -> None:
        job = self._job(event.job)
        if job is not None:
            if job.state == "paused":
                # The rate is that of the time in which it may run, or a pause would show as hours to go.
                job.meter = Meter()
                job.meter.add(self._state.now, job.peak_done)
            job.state = next_state(JOB, job.state, "ResumeRequested", job)
            self._state.finish_if_done(job)

    # --- attempts -----------------------------------------------------------------------------------------------------

    def _attempt(self, attempt: int) -> Attempt | None:
        """The attempt; None if it is no longer on record."""
        found = self._state.attempts.get(attempt)
        check(found is not None or 0 <= attempt <= self._state.last_attempt, "attempt {} was never assigned", attempt)
        return found

    def _attempt_progressed(self, event: ev.AttemptProgressed) -> None:
        attempt, state = self._attempt(event.attempt), self._state
        if attempt is None or attempt.state != "running" or not attempt.at < event.at < attempt.hi:
            return
        attempt.at = event.at
        reports.update_position(state, attempt)
        attempt.job.meter.add(state.now, attempt.job.settled + attempt.at - attempt.next)

    def _attempt_lost(self, event: ev.AttemptLost) -> None:
        attempt = self._attempt(event.attempt)
        if attempt is not None:
            faults.attempt_lost(self._state, attempt)

    def _attempt_refused(self, event: ev.AttemptRefused) -> None:
        attempt, state = self._attempt(event.attempt), self._state
        if attempt is None:
            return
        job = attempt.job
        state.end_attempt(attempt)
        if job.state in ("running", "paused"):
            if job.spec.each:
                faults.fail_item(state, attempt, attempt.lo, "refused")
            else:
                state.stop_job(job, "failed")
        state.finish_if_done(job)

    def _attempt_reported(self, event: ev.AttemptReported) -> None:
        attempt, state = self._attempt(event.attempt), self._state
        check(0 <= event.lo <= event.hi, "attempt {}: no span {}:{}", event.attempt, event.lo, event.hi)
        if attempt is None or attempt.state == "void":
            return reports.refuse_report(state, attempt, event)
        check(event.lo == attempt.next, "{}: a report from {}, expected from {}", attempt, event.lo, attempt.next)
        check(event.hi <= attempt.hi, "{}: a report up to {}, expected at most {}", attempt, event.hi, attempt.hi)
        if event.failed:
            bounds = zip((event.lo - 1, *event.failed), (*event.failed, event.hi), strict=True)
            check(all(a < b for a, b in bounds), "{}: failed offsets {} not in order", attempt, event.failed)
        check(event.seconds >= 0, "{}: {} seconds spent, expected at least 0", attempt, event.seconds)
        reports.accept_report(state, attempt, event)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _pending(self, job: JobRecord) -> bool:
        """The timer still means something."""
        return job.state == "stopping"

    def _ticked(self, event: ev.Ticked) -> None:
        state = self._state
        while state.kill_timers and state.kill_timers[0][0] <= state.now:
            job = heapq.heappop(state.kill_timers)[2]
            if self._pending(job):
                state.kill_slots_of(job)
                state.finish_if_done(job)
