"""Carries out the commands of the scheduler.

Owns what each command means for bytes: which blobs a task needs, which parts a result has, what is forgotten when.
Must not know the clock or the order of events (`driver.py`). On the loop's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol

from distmap.core import events as ev
from distmap.core.scheduler import Scheduler
from distmap.driver.attempts import AttemptEntry, Attempts
from distmap.driver.blobs import Blobs, Holder
from distmap.driver.jobs import MAX_INCIDENTS, JobEntry
from distmap.driver.messages import Incident, Landed, Placed, ReadRequest
from distmap.driver.needs import needs_of, that_travel
from distmap.driver.recent import RecentCodes
from distmap.driver.snapshots import Snapshots
from distmap.driver.workers import Workers
from distmap.errors import PayloadError
from distmap.tasks.items import dump_items
from distmap.tasks.oversize import as_failed, refusal
from distmap.tasks.payload import Blob, Payload
from distmap.wire.messages import Refused, Report, Task

log = logging.getLogger("distmap")


class TakesChunks(Protocol):
    """The driver: it takes the items of chunks."""

    def chunk_taken(self, job: int, chunk: int, payload: Payload, blobs: Sequence[Blob], count: int) -> None: ...

    def chunk_read(
        self, job: int, chunk: int, payload: Payload, blobs: Sequence[Blob], count: int, last: bool
    ) -> None: ...


class Commands:
    """Carries out commands on what the driver holds: jobs by id, attempts, workers, blobs, snapshots."""

    def __init__(
        self,
        scheduler: Scheduler,
        jobs: dict[int, JobEntry],
        attempts: Attempts,
        workers: Workers,
        blobs: Blobs,
        recent: RecentCodes,
        snapshots: Snapshots,
        chunks: TakesChunks,
    ) -> None:
        self._scheduler = scheduler
        self._jobs = jobs
        self._attempts = attempts
        self._workers = workers
        self._blobs = blobs
        self._recent = recent
        self._snapshots = snapshots
        self._chunks = chunks
        #: Chunks that were assigned so far.
        self.assigned = 0

    def perform(self, command: ev.Command) -> None:
        """Carry out a command."""
        match command:
            case ev.Assign():
                self._assign(command)
            case ev.Deliver():
                self._deliver(command)
            case ev.Release(job, chunk):
                # An ordered job may deliver later what is settled now; input is kept only to name an item that died.
                held = self._jobs[job].chunks.get(chunk)
                if held is not None and not held.deaths:
                    held.payload = None
                if (job, chunk) in self._blobs.held:  # most chunks need nothing
                    self._blobs.let_go(Holder(job, chunk))
            case ev.Take(job, chunk) if (first := self._jobs[job].first) is not None:
                self._jobs[job].first = None
                self._chunks.chunk_taken(job, chunk, first.payload, first.blobs, first.count)
            case ev.Read(job, chunk, count):
                self._read(self._jobs[job], chunk, count)
            case ev.Take(job, chunk, count):
                self._jobs[job].sink(ReadRequest(chunk, count))
            case ev.Discard(attempt, lo, hi):
                self._discard(attempt, lo, hi)
            case ev.DeliverLoss():
                self._deliver_loss(command)
            case ev.Finish():
                self._finish(command)
            case ev.SetUp():
                self._set_up(command)
            case ev.Revoke(worker, slot, attempt, stop):
                if (entry := self._workers.get(worker)) is not None:
                    entry.engine.revoke(worker, slot, attempt, stop)
            case ev.Interrupt(worker, slot, attempt):
                if (entry := self._workers.get(worker)) is not None:
                    entry.engine.interrupt(worker, slot, attempt)
            case ev.Kill(worker, slot):
                if (entry := self._workers.get(worker)) is not None:
                    entry.engine.kill(worker, slot)

    def _read(self, job: JobEntry, chunk: int, count: int) -> None:
        """Read plain items here and now; of others ask whoever reads the job's input."""
        read = None if job.read_plain is None else job.read_plain(count)
        if read is None:
            job.sink(ReadRequest(chunk, count))
        else:
            self._chunks.chunk_read(job.id, chunk, *read)

    def _assign(self, command: ev.Assign) -> None:
        """Put what the chunk needs on the worker, once, and send it the items."""
        self.assigned += 1
        job = self._jobs[command.job]
        chunk = job.chunks[command.chunk]
        assert chunk.payload is not None, "a released chunk was assigned"
        worker = self._workers.get(command.worker)
        if worker is None:
            return
        code = job.code
        needs = job.needs.get(worker.id)
        if needs is None:
            needs = job.needs[worker.id] = needs_of(code, worker, self._blobs)
        if chunk.needs:
            needs = (*needs, *that_travel(chunk.needs, worker, self._blobs))
        first_time = worker.id not in job.refusals
        if not first_time:
            job.let_in(worker.id)
        where = (command.worker, command.slot, command.lo, command.hi)
        self._attempts.add(command.attempt, AttemptEntry(job, command.chunk, *where))
        try:
            for digest in (*needs, code.digest):
                if digest not in worker.blobs:
                    blob = self._blobs[digest]
                    name = job.spec.name if digest == code.digest else ""
                    worker.engine.put(worker.id, digest, blob.kind, blob.payload.parts, name)
                    worker.blobs.add(digest)
        except PayloadError as error:  # it is too large to be sent: the job cannot run there
            return worker.refused(Refused(command.slot, command.attempt), refusal(error))
        task = Task(
            command.slot, command.attempt, code.digest, needs, command.lo, command.hi, chunk.start,
            job.timeout, job.router is not None, first_time and worker.engine.place == "there" and not job.spec.each,
        )  # fmt: skip
        try:
            worker.engine.assign(worker.id, task, chunk.payload.parts)
        except PayloadError as error:  # the items, then, fail
            report = Report(command.slot, command.attempt, command.lo, command.hi, 0.0, True, ())
            worker.reported(*as_failed(report, error, "the item, or those that were to be sent with it"))

    def _deliver(self, command: ev.Deliver) -> None:
        """Give results to the job."""
        job = self._jobs[command.job]
        start = job.chunks[command.chunk].start
        for _, lo, hi, report in self._attempts.settle(command.attempt, command.lo, command.hi):
            job.sink(Landed(job.id, command.chunk, start, lo, hi, report))
            if job.spec.each and report.failed:
                self._setup_failed(job, job.places[start])
        job.settle(command.chunk, command.hi - command.lo)

    def _discard(self, attempt: int, lo: int, hi: int) -> None:
        """Forget results; of those that are errors the items are run again, and the job is told."""
        for job, first, end, report in self._attempts.settle(attempt, lo, hi):
            retried = range(1, job.spec.retries + 1)
            if end - first == 1 and report.attempts.get(first, 0) in retried and job.id in self._jobs:
                # Not while the job is being stopped: then nothing of it is run again.
                if job.incidents >= MAX_INCIDENTS or self._snapshots.of(job).state in ("running", "paused"):
                    item, tries = report.start + first, report.attempts[first]
                    job.report_incident(Incident("retried", item, report.worker, tries, "", report, first))

    def _deliver_loss(self, command: ev.DeliverLoss) -> None:
        """Tell the job of an item that failed without a report."""
        job = self._jobs[command.job]
        item = job.lose(command.chunk, command.at, command.cause)
        if job.spec.each:
            self._setup_failed(job, job.places[item])

    def _set_up(self, command: ev.SetUp) -> None:
        """Make the one call of a set-up that is for this slot."""
        job = self._jobs[command.job]
        worker = self._workers.get(command.worker)
        assert worker is not None, "a set-up was planned for a worker that is lost"
        job.sink(Placed(job.next_start, worker.info.name, command.slot))
        job.places.append(worker.id)
        job.add_chunk(command.chunk, _call(), (), 1)

    def _setup_failed(self, job: JobEntry, worker: int) -> None:
        """A call of a set-up failed for good: a worker that came after it takes nothing, so jobs may be unserved."""
        if self._scheduler.unready(worker) and (entry := self._workers.get(worker)) is not None:
            entry.failed_setups[job.id] = job.spec.name
            log.warning("x worker %s is left out: the set-up %s failed there", entry.info.name, job.spec.name)
            self._workers.check_unserved()

    def _finish(self, command: ev.Finish) -> None:
        """The job is over: forget all of it here and on the workers."""
        job = self._jobs[command.job]
        job.latest = snapshot = self._snapshots.of(job)
        del self._jobs[job.id]
        self._attempts.end_job(job)
        if command.outcome != "done" or job.notices or job.refusals:
            # It may not have loaded somewhere, and could now; what was noticed is to be said in each call; and what
            # items left behind is ended only where no code is loaded any more, also none of earlier jobs.
            self._recent.clear()
        elif job.code.stateless:
            self._recent.keep(job.code)
        self._blobs.end(job.id)
        job.finish(command.outcome, snapshot, crashed=command.crashed, refused=command.refused)
        if job.spec.each:
            for worker in self._workers:
                worker.failed_setups.pop(job.id, None)
            self._workers.check_unserved()


@cache
def _call() -> Payload:
    """The one item of a chunk of a set-up: a call without arguments."""
    return dump_items([((), {})])[0]
