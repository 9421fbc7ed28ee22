"""The scheduler: takes events and returns commands.

`Scheduler.handle(event, now)` is the one place where retries, lost workers, order, back-pressure, chunk sizes and
fairness are decided. It checks that the event is legal, changes the state and returns the commands. An illegal event
raises InvalidTransition and changes nothing. Owns the rules for events of jobs; the rules for workers are in
`worker_events.py`, those for attempts in `reports.py`. After each event `placing.py` assigns work to free slots.

Must not know clocks, threads, sockets, random numbers or bytes: the driver has those.

Events of a job that is over, of a worker that was lost or of an attempt that is no longer on record are legal: they
were sent before the sender knew that it had ended. Their results are discarded, the rest is ignored. After Finish no
command names the job; only a Discard may name one of its attempts.
"""

from __future__ import annotations

import heapq

from distmap.core import chunk_queue, faults, reports, worker_events
from distmap.core import events as ev
from distmap.core.limits import LIMITS, Limits
from distmap.core.placing import assign_work
from distmap.core.progress import Meter, Snapshot
from distmap.core.records import JobRecord
from distmap.core.snapshots import snapshot
from distmap.core.state import SchedulerState
from distmap.core.timeline import Timelines
from distmap.core.transitions import INPUT, JOB, check, illegal, next_state
from distmap.errors import InvalidTransition


class Scheduler:
    """Turns events into commands. One per pool; not thread-safe: the driver calls it on the loop's thread only."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._state = SchedulerState(limits)
        self._timelines = Timelines(limits)

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        """Take one event at `now` (monotonic seconds); return the commands to carry out, in order.

        Raises:
            InvalidTransition: The event is illegal; nothing was changed.
        """
        state = self._state
        if now < state.now:
            raise InvalidTransition(f"time went back from {state.now} to {now}")
        before, state.now = state.now, now
        try:
            self._dispatch(event)
        except InvalidTransition:
            state.now = before
            assert not state.commands, "an illegal event left commands"
            raise
        assign_work(state)
        out, state.commands = state.commands, []
        self._timelines.observe(event, out, now)
        return out

    def _dispatch(self, event: ev.Event) -> None:
        state = self._state
        # The most frequent events come first: each case costs those after it a comparison.
        match event:
            case ev.AttemptReported():
                reports.attempt_reported(state, event)
            case ev.ChunkRead():
                self._chunk_read(event)
            case ev.Consumed():
                self._consumed(event)
            case ev.AttemptProgressed():
                reports.attempt_progressed(state, event)
            case ev.ItemsAdded():
                self._items_added(event)
            case ev.JobSubmitted():
                self._job_submitted(event)
            case ev.InputClosed():
                self._input_closed(event)
            case ev.InputFailed():
                self._input_failed(event)
            case ev.InputGrew():
                self._input_grew(event)
            case ev.CancelRequested():
                self._cancel(event)
            case ev.PauseRequested():
                self._pause(event)
            case ev.ResumeRequested():
                self._resume(event)
            case ev.Ticked():
                self._ticked()
            case ev.DispatchMeasured(seconds):
                check(seconds >= 0, "{} seconds for a chunk, expected at least 0", seconds)
                state.dispatch = (state.dispatch + min(seconds, state.limits.dispatch_most)) / 2
            case ev.AttemptLost():
                reports.attempt_lost(state, event)
            case ev.AttemptRefused():
                reports.attempt_refused(state, event)
            case ev.WorkerMeasured():
                worker_events.worker_measured(state, event)
            case ev.WorkerJoined():
                worker_events.worker_joined(state, event)
            case ev.WorkerLost():
                worker_events.worker_lost(state, event)
            case ev.WorkerSuspected() | ev.WorkerTrusted() | ev.WorkerDraining():
                worker_events.worker_turned(state, event)
            case ev.SlotDied():
                worker_events.slot_died(state, event)
            case ev.SlotReady():
                worker_events.slot_ready(state, event)
            case _:
                raise InvalidTransition(f"{event!r} is no event of the scheduler")

    def deadline(self) -> float | None:
        """When to send Ticked at the latest; None: no Ticked is needed before the next event."""
        timers, patience = self._state.kill_timers, self._state.next_check
        while timers and not self._pending(timers[0][2]):
            heapq.heappop(timers)
        if not timers:
            return patience
        return timers[0][0] if patience is None else min(timers[0][0], patience)

    def snapshot(self, job: int, now: float) -> Snapshot:
        """The progress of a job. Of the jobs that are over, the last 256 can be asked for."""
        state = self._state
        record = state.jobs.get(job)
        if record is not None:
            found = snapshot(record, state.worker_index, now, state.deaths, state.losses)
        else:
            check(job in state.last_snapshots, "job {} is not known (any more)", job)
            found = state.last_snapshots[job]
        return self._timelines.draw(job, found, now)

    def resting(self, worker: int, now: float) -> tuple[int, float]:
        """The number of slots of the worker that rest after too many deaths, and seconds until the first goes on."""
        state = self._state
        ends = [faults.rest_ends(state, slot) for slot in state.resting if slot.worker.id == worker]
        return len(ends), max(0.0, min(ends, default=now) - now)

    def unready(self, worker: int) -> bool:
        """Whether the worker has to be set up before it runs anything else, and was not yet."""
        found = self._state.worker_index.workers.get(worker)
        return found is not None and bool(found.unready)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _job(self, job: int) -> JobRecord | None:
        """The job; None if it is over."""
        found = self._state.jobs.get(job)
        if found is None:
            check(0 <= job <= self._state.last_job, "job {} was never submitted", job)
        return found

    def _job_submitted(self, event: ev.JobSubmitted) -> None:
        state, spec = self._state, event.spec
        if event.job in state.jobs or event.job in state.last_snapshots:
            raise illegal("job {} was submitted before", event.job)
        if spec.pushed and spec.size is not None:
            raise illegal("job {}: items are pushed, so its size must be None", event.job)
        if spec.each and not spec.pushed:
            raise illegal("job {}: a set-up must be pushed", event.job)
        for name, value, least in (
            ("size", spec.size, 0), ("chunksize", spec.chunksize, 1), ("buffer", spec.buffer, 1),
            ("retries", spec.retries, 0),
        ):  # fmt: skip
            if value is not None and value < least:
                raise illegal("job {}: {} is {}, expected at least {}", event.job, name, value, least)
        if event.count or event.nbytes or event.last:
            self._check_first_chunk(event)
        job = state.open_job(event.job, spec)
        if spec.each:
            state.setups[job.id] = job
            for worker in state.worker_index.workers.values():
                if spec.tags <= worker.tags and worker.state != "draining":
                    chunk_queue.set_up(state, job, worker)
        if event.count:
            chunk_queue.add_taken_chunk(state, job, event.count, event.nbytes)
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
        check(not spec.pushed or not (count or event.last), "job {}: items are pushed, so none can come with it", job)
        for name in ("size", "chunksize", "buffer"):
            most = getattr(spec, name)
            # Of the sizes only 0 is sure.
            fits = most is None or count <= most or (name == "size" and most > 0)
            check(fits, "job {}: {} first items, its {} is {}", job, count, name, most)

    def _items_added(self, event: ev.ItemsAdded) -> None:
        job = self._job(event.job)
        if job is None:
            return
        if not job.spec.pushed:
            raise illegal("{} reads its items: only a pushed job takes ItemsAdded", job)
        if event.count < 1:
            raise illegal("{}: {} items added, expected at least 1", job, event.count)
        if event.nbytes < 0:
            raise illegal("{}: {} bytes, expected at least 0", job, event.nbytes)
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
        check(job.spec.pushed, "{} reads its items: only a pushed job takes InputClosed", job)
        if job.state == "stopping":
            return
        job.input = next_state(INPUT, job.input, "InputClosed", job)
        chunk_queue.end_pushed_input(self._state, job)
        self._state.finish_if_done(job)

    def _chunk_read(self, event: ev.ChunkRead) -> None:
        job, state = self._job(event.job), self._state
        if job is None:
            return
        count = event.count
        if not (job.input == "reading" and event.chunk == job.requested_chunk):
            raise illegal("{}, chunk {} was not requested", job, event.chunk)
        if not 0 <= count <= job.requested:
            raise illegal("{}: {} items read, expected 0 to {}", job, count, job.requested)
        if event.nbytes < 0:
            raise illegal("{}: {} bytes, expected at least 0", job, event.nbytes)
        if not (count or event.last):
            raise illegal("{}: no item was read, and the input did not end", job)
        job.input = next_state(INPUT, job.input, "ChunkRead.last" if event.last else "ChunkRead", job)
        del job.group.reservations[job.id]
        if job.state == "stopping":
            if event.count:
                job.unrun_items += event.count
                state.commands.append(ev.Release(job.id, event.chunk))
            return state.finish_if_done(job)
        if event.count:
            chunk_queue.add_chunk(state, job, event.chunk, event.count, event.nbytes)
            job.chunks[event.chunk].sized_for = job.requested_for
        state.finish_if_done(job)

    def _input_failed(self, event: ev.InputFailed) -> None:
        job = self._job(event.job)
        if job is None:
            return
        asked = job.is_reading and event.chunk == job.requested_chunk
        check(asked, "{}, chunk {} was not requested", job, event.chunk)
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
        job.pace.took(event.count, self._state.now, self._state.limits.pace_seconds)
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
            self._state.take_back(list(job.attempts.values()))
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

    # --- time ---------------------------------------------------------------------------------------------------------

    def _pending(self, job: JobRecord) -> bool:
        """The timer still means something."""
        return job.state == "stopping"

    def _ticked(self) -> None:
        state = self._state
        while state.kill_timers and state.kill_timers[0][0] <= state.now:
            job = heapq.heappop(state.kill_timers)[2]
            if self._pending(job):
                state.kill_slots_of(job)
                state.finish_if_done(job)
