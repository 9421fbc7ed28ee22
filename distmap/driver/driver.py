"""The one loop: events -> scheduler -> commands -> engines.

Owns bytes and the clock: the payloads of chunks, the reports of attempts, which worker holds which blob, and the
timer that the scheduler asks for. It decides nothing: every decision is `Scheduler.handle`. Lives on the portal's
loop thread; consumers are given messages through `JobEntry.sink`, which must not block.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from distmap.core.events import Assign as AssignCommand
from distmap.core.events import (
    AttemptLost,
    AttemptRefused,
    AttemptReported,
    CancelRequested,
    ChunkRead,
    Command,
    Consumed,
    Deliver,
    DeliverLoss,
    Discard,
    Event,
    Finish,
    InputClosed,
    InputFailed,
    InputGrew,
    Interrupt,
    ItemsAdded,
    JobSubmitted,
    Kill,
    PauseRequested,
    Read,
    Release,
    ResumeRequested,
    Revoke,
    SetUp,
    SlotDied,
    Take,
    Ticked,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
    WorkerMeasured,
    WorkerSuspected,
    WorkerTrusted,
)
from distmap.core.limits import LIMITS, Limits
from distmap.core.progress import Snapshot
from distmap.core.scheduler import Scheduler
from distmap.driver.blobs import Blobs, Holder
from distmap.driver.jobs import MAX_INCIDENTS, ChunkEntry, JobEntry
from distmap.driver.messages import (
    Finished,
    Incident,
    Landed,
    Lost,
    Placed,
    Printed,
    ReadRequest,
    ReportData,
    empty_snapshot,
)
from distmap.driver.workers import WorkerEntry, needs_of
from distmap.engine.base import Engine, Parts, WorkerInfo
from distmap.errors import JobCancelled, PoolClosed
from distmap.tasks.items import dump_items
from distmap.tasks.payload import Blob, Payload, size
from distmap.tasks.surroundings import CallSurroundings
from distmap.wire.messages import NOTICE, Output, Report, Task

if TYPE_CHECKING:
    from distmap.driver.output import OutputRouter

log = logging.getLogger("distmap")
# Whoever wants the log sets a handler; without one Python would print warnings into the notebook's cell.
log.addHandler(logging.NullHandler())

#: How often snapshots are taken for jobs that are watched, in seconds.
SNAPSHOT_EVERY = 0.1
#: Lines of output that were dropped are counted so long before it is said how many, in seconds.
REMIND = 1.0
#: Events and commands kept for `pool.trace()`.
TRACE = 1000


class Driver:
    """Drives one scheduler over any number of engines. All methods run on the loop thread.

    Args:
        worker_timeout: seconds that jobs may wait with no worker at all.
        no_workers: makes the error that they then end with.
        hopeless: tells whether no worker can come any more, so that nobody need wait.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        worker_timeout: float = 60.0,
        no_workers: Callable[[], BaseException] = lambda: RuntimeError("no workers"),
        hopeless: Callable[[], bool] = lambda: False,
        limits: Limits = LIMITS,
    ) -> None:
        self._loop = loop
        self._scheduler = Scheduler(limits)
        self._records: dict[int, JobEntry] = {}
        self._members: dict[int, WorkerEntry] = {}
        #: Broadcast values whose handle lives, and the surroundings of the last call.
        self._pinned: set[bytes] = set()
        self._around: set[bytes] = set()
        self._blobs = Blobs(self._pinned)
        #: attempt -> (record, chunk, worker, slot, lo, hi)
        self._attempts: dict[int, tuple[JobEntry, int, int, int, int, int]] = {}
        self._reports: dict[int, tuple[JobEntry, list[ReportData]]] = {}
        self._queue: deque[Event] = deque()
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._snapshots: asyncio.TimerHandle | None = None
        self._worker_timeout = worker_timeout
        self._no_workers = no_workers
        self._hopeless = hopeless
        self._next_worker = 1
        self._ids = itertools.count(1)
        self._counting = threading.Lock()
        #: What a job ends with at once, since the driver broke or was closed.
        self._refuses: BaseException | None = None
        self._when_idle: Callable[[], object] | None = None
        self.trace: deque[tuple[float, Event | Command]] = deque(maxlen=TRACE)
        #: What the driver itself takes note of, beside the scheduler.
        self._notes: dict[type, Callable[[Any], None]] = {
            WorkerMeasured: self._measured,
            WorkerSuspected: self._turned,
            WorkerTrusted: self._turned,
            WorkerDraining: self._turned,
            WorkerLost: self._gone,
        }
        self._deeds: dict[type, Callable[[Any], None]] = {
            AssignCommand: self._assign,
            Read: self._read,
            Take: self._read,
            SetUp: self._set_up,
            Deliver: self._deliver,
            DeliverLoss: self._deliver_loss,
            Discard: self._discard,
            Release: self._release,
            Revoke: self._revoke,
            Interrupt: self._interrupt,
            Kill: self._kill,
            Finish: self._finish,
        }
        #: Called after workers came, changed or went.
        self.on_members: Callable[[], None] = lambda: None

    # --- jobs -------------------------------------------------------------------------------------------------------

    def new_id(self) -> int:
        """An id for a job, from any thread: whoever has it may cancel before the loop has even heard of the job."""
        with self._counting:
            return next(self._ids)

    def open(self, record: JobEntry) -> int:
        """Start a job; its messages begin at once."""
        record.id = record.id or self.new_id()
        if self._refuses is not None:
            record.let_go()
            record.sink(Finished("failed", False, self._refuses, None, empty_snapshot(record.spec)))
            return record.id
        self._records[record.id] = record
        code = record.code
        around = [blob for blob in code.surroundings if blob is not None]
        self._blobs.keep(Holder(record.id), around)
        for one in (code, *[setup.code for setup in code.setups]):
            self._blobs.keep(Holder(record.id), (*one.blobs, Blob(one.digest, "code", one.payload)))
        self.post(JobSubmitted(record.id, record.spec))
        self._update_no_worker_timers()
        if record.watched:
            self._arm_snapshots()
        return record.id

    def chunk_read(self, job: int, chunk: int, payload: Payload, blobs: Sequence[Blob], count: int, last: bool) -> None:
        """The answer to a ReadRequest."""
        record = self._records.get(job)
        if record is None:
            return
        grown = self._enter(record, chunk, payload, blobs, count) if count else 0
        self.post(ChunkRead(job, chunk, count, payload.nbytes, last))
        if grown:
            self.post(InputGrew(job, chunk, grown))

    def chunk_taken(self, job: int, chunk: int, payload: Payload, blobs: Sequence[Blob], count: int) -> None:
        """The answer to a ReadRequest of a pushed job, from inside its sink."""
        if grown := self._enter(self._records[job], chunk, payload, blobs, count):
            self.post(InputGrew(job, chunk, grown))

    def _enter(self, record: JobEntry, chunk: int, payload: Payload, blobs: Sequence[Blob], count: int) -> int:
        """Gives the bytes of values that are kept for this chunk alone: their handles are gone already."""
        # A module bundle comes with chunk after chunk; a value may be one item's alone.
        grown = 0
        if blobs:
            grown = self._blobs.keep(Holder(record.id, chunk), [blob for blob in blobs if blob.kind == "value"])
            self._blobs.keep(Holder(record.id), [blob for blob in blobs if blob.kind != "value"])
        record.chunks[chunk] = ChunkEntry(record.next_start, count, payload, tuple([blob.digest for blob in blobs]))
        record.next_start += count
        return grown

    def input_failed(self, job: int, chunk: int, error: BaseException) -> None:
        """Reading the input raised."""
        record = self._records.get(job)
        if record is not None:
            if record.error is None:  # an exception may well be false
                record.error = error
            self.post(InputFailed(job, chunk))

    def consumed(self, job: int, count: int, nbytes: int) -> None:
        if job in self._records:
            self.post(Consumed(job, count, nbytes))

    def added(self, job: int, count: int, nbytes: int) -> None:
        """More items of a pushed job are there to be taken."""
        if job in self._records:
            self.post(ItemsAdded(job, count, nbytes))

    def close_input(self, job: int) -> None:
        if job in self._records:
            self.post(InputClosed(job))

    def cancel(self, job: int, error: BaseException | None = None) -> None:
        """End a job early; with `error`, that is what its consumer raises."""
        record = self._records.get(job)
        if record is not None:
            if record.error is None:  # an exception may well be false
                record.error = error
            self.post(CancelRequested(job))

    def pause(self, job: int) -> None:
        if job in self._records:
            self.post(PauseRequested(job))

    def resume(self, job: int) -> None:
        if job in self._records:
            self.post(ResumeRequested(job))

    def watch(self, job: int, watched: bool) -> None:
        """Whether somebody looks at the job's snapshots."""
        record = self._records.get(job)
        if record is not None:
            record.watched = watched
            self._arm_snapshots()

    def snapshot(self, job: int) -> Snapshot | None:
        """The job at this moment; None when it is over."""
        record = self._records.get(job)
        return None if record is None else self._snapshot(record)

    def members(self) -> list[WorkerEntry]:
        now = self._loop.time()
        busy = {held[2] for held in self._attempts.values()}
        found = []
        for member in self._members.values():
            resting, rest = self._scheduler.resting(member.id, now)
            unready = member.state == "ready" and self._scheduler.unready(member.id)
            state = "unready" if unready else member.state
            found.append(replace(member, blobs=set(), busy=member.id in busy, resting=resting, rest=rest, state=state))
        return found

    def when_idle(self, then: Callable[[], object]) -> None:
        """Call `then()` once there is no job left. Set-ups end when what they run is done."""
        self._when_idle = then
        for record in list(self._records.values()):
            if record.spec.each:
                self.post(InputClosed(record.id))
        self._rest()

    def _rest(self) -> None:
        if self._when_idle is not None and not self._records:
            self._when_idle()

    # --- Sink: what engines tell ------------------------------------------------------------------------------------

    def joined(self, engine: Engine, info: WorkerInfo) -> int:
        worker = self._next_worker
        self._next_worker += 1
        names = {member.info.name for member in self._members.values()}
        name, number = info.name, 2
        while name in names:
            name, number = f"{info.name}-{number}", number + 1
        info = info._replace(name=name)
        self._members[worker] = WorkerEntry(worker, info, engine, rtt=info.rtt)
        self.post(WorkerJoined(worker, info.slots, name, info.tags, info.rtt))
        self._update_no_worker_timers()
        self.on_members()
        return worker

    def post(self, event: Event) -> None:
        """Tell the scheduler, and do what it answers. Events posted while it answers wait their turn."""
        self._queue.append(event)
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._queue:
                event = self._queue.popleft()
                now = self._loop.time()
                self.trace.append((now, event))
                if (note := self._notes.get(type(event))) is not None:
                    note(event)
                for command in self._scheduler.handle(event, now):
                    self.trace.append((now, command))
                    self._perform(command)
        finally:
            self._pumping = False
        self._arm_timer()

    def reported(self, worker: int, report: Report, parts: Parts) -> None:
        held = self._attempts.get(report.attempt)
        nbytes = sum(map(size, parts))
        if held is not None and report.hi > report.lo:
            record, chunk, *_ = held
            member = self._members.get(worker)
            name = member.info.name if member else "?"
            read = record.chunks.get(chunk)  # None: it is stale, and is discarded
            start = 0 if read is None else read.start
            data = ReportData(start, report.lo, report.hi, report.failed, parts, name, nbytes)
            if read is not None:
                for at in report.failed:
                    data.attempts[at] = read.tries[at] = read.tries.get(at, 0) + 1
            self._reports.setdefault(report.attempt, (record, []))[1].append(data)
        if report.ended:
            self._attempts.pop(report.attempt, None)
        self.post(
            AttemptReported(report.attempt, report.lo, report.hi, report.failed, report.seconds, nbytes, report.ended)
        )

    def printed(self, worker: int, output: Output, parts: Parts) -> None:
        held = self._attempts.get(output.attempt)
        member = self._members.get(worker)
        if held is None or held[2] != worker or member is None:
            return  # of an attempt that was given up: it is run again, and prints again
        record, chunk, *_ = held
        text, pieces, lo = bytes(parts[0]) if parts else b"", [], 0
        for at, stream, length in output.pieces:
            if stream == NOTICE:
                record.notice(text[lo : lo + length].decode(errors="replace"), member.info.name)
            else:
                pieces.append((at, stream, text[lo : lo + length]))
            lo += length
        router, place = record.router, record.chunks.get(chunk)
        if router is None:
            return
        start = None if place is None else place.start
        if router.put(self._loop.time(), member.info.name, chunk, start, output.dropped, pieces):
            record.sink(Printed())
        if router.has_unreported and record.reminder is None:
            record.reminder = self._loop.call_later(REMIND, self._remind, record, router)

    def _remind(self, record: JobEntry, router: OutputRouter) -> None:
        record.reminder = None
        if record.id in self._records and router.report_dropped():
            record.sink(Printed())

    def refused(self, worker: int, attempt: int, parts: Parts) -> None:
        held = self._attempts.pop(attempt, None)
        if held is not None:
            member = self._members.get(worker)
            held[0].refusal = (parts, member.info.name if member else "?")
        self.post(AttemptRefused(attempt))

    def lost(self, worker: int, charged: bool, reason: str) -> None:
        if (member := self._members.get(worker)) is not None:
            member.why = reason
        self.post(WorkerLost(worker, charged))

    def died(self, worker: int, slot: int, attempt: int | None, at: int | None, reason: Any, text: str) -> None:
        member = self._members.get(worker)
        if member is None:
            return
        if attempt is not None and at is not None:
            self._note_death(member, attempt, at, text, told=reason == "died")
        # What it held is void; a job may go on for as long as the pool.
        for key in [key for key, held in self._attempts.items() if held[2:4] == (worker, slot)]:
            del self._attempts[key]
        log.warning("x slot %d of %s: %s", slot, member.info.name, text)
        self.post(SlotDied(worker, slot, attempt, at, reason))

    def broke(self, worker: int, attempt: int, at: int | None, text: str) -> None:
        if (member := self._members.get(worker)) is not None:
            if at is not None:
                self._note_death(member, attempt, at, text, told=True)
            self._attempts.pop(attempt, None)
            log.warning("x attempt %d on %s: %s", attempt, member.info.name, text)
            self.post(AttemptLost(attempt))

    def _note_death(self, member: WorkerEntry, attempt: int, at: int, text: str, *, told: bool) -> None:
        """An item ended its process: the error of the item says so, if it comes to that."""
        held = self._attempts.get(attempt)
        if held is None or (read := held[0].chunks.get(held[1])) is None:
            return
        deaths = read.deaths.setdefault(at, [])
        deaths.append((member.info.name, text))
        if told:
            tries = len(deaths) + read.tries.get(at, 0)
            self._report_incident(held[0], Incident("died", read.start + at, member.info.name, tries, text))

    # --- commands ---------------------------------------------------------------------------------------------------

    def _perform(self, command: Command) -> None:
        job = getattr(command, "job", None)
        if job is None or job in self._records:  # not if the driver was closed while the scheduler still had plans
            self._deeds[type(command)](command)

    def _read(self, command: Read | Take) -> None:
        self._records[command.job].sink(ReadRequest(command.chunk, command.count))

    def _set_up(self, command: SetUp) -> None:
        record = self._records[command.job]
        record.sink(Placed(record.next_start, self._members[command.worker].info.name, command.slot))
        record.places.append(self._members[command.worker])
        self._enter(record, command.chunk, _call(), (), 1)

    def _deliver_loss(self, command: DeliverLoss) -> None:
        record, chunk, at = self._records[command.job], command.chunk, command.at
        held = record.chunks[chunk]
        deaths = tuple(held.deaths.get(at, ()))
        if command.cause == "gone":
            member = record.places[held.start + at]
            deaths = ((member.info.name, member.why),)
        refusal, record.refusal = record.refusal, None
        lost = Lost(
            command.job, chunk, held.start + at, at, command.cause, deaths, held.payload, record.timeout, refusal
        )
        record.sink(lost)
        self._delivered(record, chunk, 1)
        if record.spec.each:
            self._failed_to_set_up(record, lost.item)

    def _discard(self, command: Discard) -> None:
        held = self._reports.get(command.attempt)
        for lo, hi, report in self._settled(command.attempt, command.lo, command.hi):
            if held is not None and hi - lo == 1 and report.attempts.get(lo, 0) in range(1, held[0].spec.retries + 1):
                self._retried(held[0], lo, report)

    def _retried(self, record: JobEntry, at: int, report: ReportData) -> None:
        """The failure of an item was discarded: it is run again, unless its job is being stopped."""
        if record.incidents >= MAX_INCIDENTS or record.id not in self._records:
            record.incidents += 1
        elif self._snapshot(record).state in ("running", "paused"):
            self._report_incident(
                record, Incident("retried", report.start + at, report.worker, report.attempts[at], "", report, at)
            )

    def _report_incident(self, record: JobEntry, incident: Incident) -> None:
        record.incidents += 1
        if record.incidents <= MAX_INCIDENTS:
            record.sink(incident)

    def _release(self, command: Release) -> None:
        # An ordered job may deliver later what is settled now; the bytes are kept only to name a lost item.
        record = self._records[command.job]
        held = record.chunks.get(command.chunk)
        if held is not None and not held.deaths:
            held.payload = None
        self._forget(self._blobs.let_go(Holder(command.job, command.chunk)))

    def _revoke(self, command: Revoke) -> None:
        if (member := self._members.get(command.worker)) is not None:
            member.engine.revoke(command.worker, command.slot, command.attempt, command.stop)

    def _interrupt(self, command: Interrupt) -> None:
        if (member := self._members.get(command.worker)) is not None:
            member.engine.interrupt(command.worker, command.slot, command.attempt)

    def _kill(self, command: Kill) -> None:
        if (member := self._members.get(command.worker)) is not None:
            member.engine.kill(command.worker, command.slot)

    def _assign(self, command: AssignCommand) -> None:
        record = self._records[command.job]
        chunk = record.chunks[command.chunk]
        assert chunk.payload is not None, "a released chunk was assigned"
        member = self._members.get(command.worker)
        if member is None:
            return
        code = record.code
        needs = record.needs.get(member.id)
        if needs is None:
            needs = record.needs[member.id] = self._there(needs_of(code, member), member)
        if chunk.needs:
            needs = (*needs, *self._there(chunk.needs, member))
        for digest in (*needs, code.digest):
            if digest not in member.blobs:
                blob = self._blobs[digest]
                member.blobs.add(digest)
                name = record.spec.name if digest == code.digest else ""
                member.engine.put(command.worker, digest, blob.kind, blob.payload.parts, name)
        where = (command.worker, command.slot, command.lo, command.hi)
        self._attempts[command.attempt] = (record, command.chunk, *where)
        task = Task(
            command.slot, command.attempt, code.digest, needs, command.lo, command.hi, chunk.start,
            record.timeout, record.router is not None,
        )  # fmt: skip
        member.engine.assign(command.worker, task, chunk.payload.parts)

    def _there(self, needs: Iterable[bytes], member: WorkerEntry) -> tuple[bytes, ...]:
        """Those that the worker is sent.

        What modules find on this machine need not travel here, what processes of it share cannot travel elsewhere.
        """
        not_there = ("extras",) if member.engine.place == "here" else ("secret", "descriptor")
        return tuple([digest for digest in needs if self._blobs[digest].kind not in not_there])

    def _deliver(self, command: Deliver) -> None:
        record = self._records[command.job]
        start = record.chunks[command.chunk].start
        for lo, hi, report in self._settled(command.attempt, command.lo, command.hi):
            record.sink(Landed(record.id, command.chunk, start, lo, hi, report))
            if record.spec.each and report.failed:
                self._failed_to_set_up(record, start)
        self._delivered(record, command.chunk, command.hi - command.lo)

    def _failed_to_set_up(self, record: JobEntry, item: int) -> None:
        """A call of a set-up failed for good: a worker that joined later takes nothing, so jobs may have no worker."""
        member = record.places[item]
        if self._scheduler.unready(member.id):
            member.unfit[record.id] = record.spec.name
            log.warning("x worker %s is left out: the set-up %s failed there", member.info.name, record.spec.name)
            self._update_no_worker_timers()

    def _delivered(self, record: JobEntry, chunk: int, count: int) -> None:
        held = record.chunks[chunk]
        held.left -= count
        if not held.left:
            del record.chunks[chunk]

    def _settled(self, attempt: int, lo: int, hi: int) -> list[tuple[int, int, ReportData]]:
        """Results [lo, hi) are delivered or discarded: the reports that hold them, each forgotten with its last one."""
        held = self._reports.get(attempt)
        if held is None:
            return []
        found = []
        for report in held[1]:
            first, end = max(lo, report.lo), min(hi, report.hi)
            if first < end:
                report.left -= end - first
                found.append((first, end, report))
        held[1][:] = [report for report in held[1] if report.left > 0]
        if not held[1]:
            del self._reports[attempt]
        return found

    def _finish(self, command: Finish) -> None:
        record = self._records[command.job]
        snapshot = self._snapshot(record)
        record.latest = snapshot
        del self._records[record.id]
        if record.no_worker_timer is not None:
            record.no_worker_timer.cancel()
        for attempt in [key for key, held in self._attempts.items() if held[0] is record]:
            del self._attempts[attempt]
        for attempt in [key for key, reports in self._reports.items() if reports[0] is record]:
            del self._reports[attempt]
        self._forget(self._blobs.end(record.id))
        for member in self._members.values():
            member.unfit.pop(record.id, None)
        record.let_go()
        record.sink(Finished(command.outcome, command.crashed, record.error, record.refusal, snapshot))
        self._update_no_worker_timers()
        self._rest()

    def pin(self, digest: bytes) -> None:
        """Keep a broadcast value on the workers beyond the jobs that use it, until `unpin`."""
        self._pinned.add(digest)

    def unpin(self, digest: bytes) -> None:
        """The handle of a broadcast value is gone, or was released."""
        self._pinned.discard(digest)
        forgotten, growth = self._blobs.unpinned(digest)
        self._forget(forgotten)
        if growth is not None:
            self.post(InputGrew(*growth.holder, growth.nbytes))

    def turn(self, around: CallSurroundings) -> None:
        """Keep these surroundings on the workers between one job and the next, and no longer the last ones."""
        before, self._around = self._around, {blob.digest for blob in around if blob is not None}
        self._pinned |= self._around
        for digest in before - self._around:
            self.unpin(digest)

    def _forget(self, digests: Sequence[bytes]) -> None:
        """Let the workers forget what nobody needs any more."""
        for digest in digests:
            for member in self._members.values():
                if digest in member.blobs:
                    member.blobs.discard(digest)
                    member.engine.drop(member.id, digest)

    # --- workers, time ----------------------------------------------------------------------------------------------

    def _measured(self, event: WorkerMeasured) -> None:
        if (member := self._members.get(event.worker)) is not None:
            member.rtt, member.cpu, member.memory = event.rtt, event.cpu, event.memory

    def _turned(self, event: WorkerSuspected | WorkerTrusted | WorkerDraining) -> None:
        if (member := self._members.get(event.worker)) is not None:
            member.state = {WorkerSuspected: "suspect", WorkerTrusted: "ready"}.get(type(event), "draining")
            self.on_members()

    def _gone(self, event: WorkerLost) -> None:
        if (member := self._members.pop(event.worker, None)) is not None:
            held: dict[int, list[int]] = {}
            for attempt in [key for key, value in self._attempts.items() if value[2] == event.worker]:
                record, chunk, _, _, lo, hi = self._attempts.pop(attempt)
                held.setdefault(record.id, []).append(chunk)
                if event.charged and (read := record.chunks.get(chunk)) is not None:
                    record.suspects.append(range(read.start + lo, read.start + hi))
            for job, chunks in held.items():
                if event.charged and job in self._records:
                    one = len(chunks) == 1
                    text = f"{len(chunks)} chunk{'' if one else 's'} that it held {'is' if one else 'are'} run again"
                    text = f"{member.why}; {text}" if member.why else text
                    self._report_incident(self._records[job], Incident("lost", None, member.info.name, 0, text))
            self._update_no_worker_timers()
            self.on_members()

    def _update_no_worker_timers(self) -> None:
        """Jobs with no worker at all end after a while, with an error that says what to try."""
        for record in self._records.values():
            if record.spec.each:
                continue  # it waits for workers, not for work
            unserved = not any(self._fits(record, member) for member in self._members.values())
            if unserved and record.no_worker_timer is None:
                patience = 0.0 if self._hopeless() else self._worker_timeout
                record.no_worker_timer = self._loop.call_later(patience, self._fail_unserved, record)
            elif not unserved and record.no_worker_timer is not None:
                record.no_worker_timer.cancel()
                record.no_worker_timer = None

    def _fits(self, record: JobEntry, member: WorkerEntry) -> bool:
        return not member.unfit and record.spec.tags <= member.info.tags

    def _fail_unserved(self, record: JobEntry) -> None:
        record.no_worker_timer = None
        if record.id not in self._records:
            return
        error = self._no_workers()
        wanted = sorted(record.spec.tags)
        unfit = [f"{name} on {m.info.name}" for m in self._members.values() for name in m.unfit.values()]
        if unfit:
            error = type(error)(
                f"no worker for {self._worker_timeout:g} s: what set them up failed ({', '.join(unfit)}), "
                "and without it they run nothing while its handle is kept; its `failures` say why"
            )
        elif self._members and wanted:
            there = ", ".join(
                f"{m.info.name} ({', '.join(sorted(m.info.tags)) or 'no tags'})" for m in self._members.values()
            )
            error = type(error)(f"no worker has the tags {wanted} for {self._worker_timeout:g} s; there are: {there}")
        elif self._hopeless() and record.suspects:
            error.add_note(f"It had {_spans(record.suspects)} when it broke: one of them ended its process.")
        if done := self._snapshot(record).done:
            error.add_note(f"{done} item{'s' * (done != 1)} had been finished; they are in the job's `partial`.")
        self.cancel(record.id, error)

    def _arm_timer(self) -> None:
        deadline = self._scheduler.deadline()
        if self._timer is not None:
            if deadline == self._timer.when():
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.post(Ticked())

    def _snapshot(self, record: JobEntry) -> Snapshot:
        snapshot = self._scheduler.snapshot(record.id, self._loop.time())
        if snapshot.total is None and record.total is not None:
            left = max(0, record.total - snapshot.done)
            eta = left / snapshot.rate if snapshot.rate else None
            snapshot = snapshot._replace(total=record.total, eta=eta)
        return snapshot

    def _arm_snapshots(self) -> None:
        if self._snapshots is None and any(record.watched for record in self._records.values()):
            self._snapshots = self._loop.call_later(SNAPSHOT_EVERY, self._take_snapshots)

    def _take_snapshots(self) -> None:
        self._snapshots = None
        for record in self._records.values():
            if record.watched:
                record.latest = self._snapshot(record)
        self._arm_snapshots()

    def crashed(self, error: BaseException) -> None:
        """A bug showed: every job ends with it, so that nobody waits for ever."""
        log.error("! the driver failed", exc_info=error)
        self._pumping = False
        self._queue.clear()
        self._refuses = RuntimeError("a bug of distmap broke this pool; make a new one, and please report its cause")
        self._refuses.__cause__ = error
        records, self._records = list(self._records.values()), {}
        for record in records:
            record.let_go()
            record.sink(Finished("failed", False, error, None, record.latest or empty_snapshot(record.spec)))
        self._rest()

    def close(self, why: str = "closed") -> None:
        """The pool ends: stop the timers, and end what is left as cancelled, without waiting for any worker.

        Args:
            why: how the pool ended, and where: "closed at script.py:12".
        """
        self._refuses = PoolClosed(f"Pool not running: it was {why}; make a new one")
        records, self._records = list(self._records.values()), {}
        for record in records:
            record.let_go()
            error = record.error
            if error is None:
                error = JobCancelled(f"{record.spec.name} was cancelled: its pool was {why}")
            record.sink(Finished("cancelled", False, error, None, self._snapshot(record)))
        for timer in (self._timer, self._snapshots, *(record.no_worker_timer for record in records)):
            if timer is not None:
                timer.cancel()
        self._timer = self._snapshots = None
        # Whatever is still said of values and workers comes too late.
        self._blobs = Blobs(self._pinned)
        self._members.clear()


def _spans(spans: Sequence[range]) -> str:
    """Items in words: "items 3, 10 to 20 and 31"."""
    parts = [f"{s[0]} to {s[-1]}" if len(s) > 1 else f"{s[0]}" for s in sorted(spans, key=lambda span: span.start)]
    *before, last = parts
    words = f"{', '.join(before)} and {last}" if before else last
    return f"item{'s' * (sum(map(len, spans)) > 1)} {words}"


@cache
def _call() -> Payload:
    """The one item of a chunk of a set-up: a call without arguments."""
    return dump_items([((), {})])[0]
