"""The workers of a pool: who they are, what their engines report, and jobs that none of them can serve.

Owns an entry for each worker, which is also the port that its engine calls (`engine/base.py`), and the timers of jobs
without a worker. Turns reports into events and keeps their bytes; decides nothing. On the loop's thread; other threads
get a `WorkerStatus`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence

from distmap.core import events as ev
from distmap.core.limits import LIMITS
from distmap.core.progress import Device, LongItem
from distmap.driver.attempts import Attempts
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Incident, Printed, Refusal, ReportData
from distmap.driver.output import OutputRouter
from distmap.driver.unserved import unserved
from distmap.engine.base import Engine, WorkerInfo
from distmap.tasks._typing import Buffer
from distmap.tasks.payload import size
from distmap.views.words import counted
from distmap.wire.messages import NOTICE, REMARK, DeathReason, Died, Output, Ready, Refused, Report

log = logging.getLogger("distmap")

#: Seconds between the first dropped line of output and the line that says how many were dropped.
REPORT_DROPPED_AFTER = 1.0


class WorkerEntry:
    """One incarnation of a worker. Its engine calls the methods here; `Workers` and the driver use the fields."""

    def __init__(self, workers: Workers, id: int, info: WorkerInfo, engine: Engine) -> None:
        self.id = id
        self.info = info
        self.engine = engine
        self.state = "ready"
        self.rtt = info.rtt
        self.cpu = self.memory = 0.0
        self.devices = tuple(Device(id, name) for id, name in info.devices)
        #: Why it was lost.
        self.reason = ""
        #: Whether it is out of reach now, and since when (loop time).
        self.reconnecting = False
        self.since = 0.0
        #: How often its connection broke, how often it came back, and how many results it had kept until then.
        self.drops = self.resumes = self.kept = 0
        #: Digests of what was put there.
        self.blobs: set[bytes] = set()
        #: Names of set-ups that failed there, by job; while there is one it takes nothing.
        self.failed_setups: dict[int, str] = {}
        #: Of each slot whose item runs for long: attempt, offset, slot, when it began, state.
        self._long: list[tuple[int, int, int, float, str]] = []
        self._workers = workers
        self._attempts = workers.attempts
        self._post = workers.post

    # --- what the engine reports (WorkerListener) -------------------------------------------------------------------

    def reported(self, report: Report, parts: list[Buffer]) -> None:
        """Keep the results until the scheduler delivers or discards them."""
        entry = self._attempts.get(report.attempt)
        nbytes = sum(map(size, parts))
        if entry is not None and report.hi > report.lo:
            chunk = entry.job.chunks.get(entry.chunk)  # None: all was delivered; the scheduler discards these results
            start = 0 if chunk is None else chunk.start
            data = ReportData(start, report.lo, report.hi, report.failed, parts, self.info.name, nbytes)
            if chunk is not None and report.failed:
                data.ran_with = entry.job.input_of(chunk)
                data.attempts = chunk.tried(report.failed)
            self._attempts.add_report(report.attempt, entry.job, data)
        if report.ended:
            self._attempts.end(report.attempt)
        _, attempt, lo, hi, seconds, ended, failed = report
        self._post(ev.AttemptReported(attempt, lo, hi, failed, seconds, nbytes, ended))

    def printed(self, output: Output, parts: list[Buffer]) -> None:
        """Give the text to the job's router, and its notices to the job."""
        entry = self._attempts.get(output.attempt)
        if entry is None or entry.worker != self.id:
            return  # of an attempt that was given up: its items run again, and print again
        job, pieces, lo = entry.job, [], 0
        text = bytes(parts[0]) if parts else b""
        for at, stream, length in output.pieces:
            if stream in (NOTICE, REMARK):
                job.notice(stream, text[lo : lo + length].decode(errors="replace"), self.info.name)
            else:
                pieces.append((at, stream, text[lo : lo + length]))
            lo += length
        if (router := job.router) is None:
            return
        chunk = job.chunks.get(entry.chunk)
        start = None if chunk is None else chunk.start
        if router.put(self._workers.loop.time(), self.info.name, entry.chunk, start, output.dropped, pieces):
            job.sink(Printed())
        self._workers.watch_dropped(job, router)

    def refused(self, refused: Refused, parts: list[Buffer]) -> None:
        """Keep the reason: the job goes on without this worker, or ends with it."""
        entry = self._attempts.end(refused.attempt)
        if entry is not None:
            entry.job.refuse(self.id, Refusal(self.info.name, parts, refused.unfit))
        self._post(ev.AttemptRefused(refused.attempt, refused.unfit))
        self._workers.check_unserved()

    def died(self, died: Died) -> None:
        """What the slot held is void."""
        if not self._workers.has(self):
            return
        attempt = died.attempt if died.attempt >= 0 else None
        at = died.at if attempt is not None and died.at >= 0 else None
        if attempt is not None and at is not None:
            self._note_death(attempt, at, died.text, show=died.reason in ("died", "memory"))
        self._attempts.end_slot(self.id, died.slot)
        log.warning("x slot %d of %s: %s", died.slot, self.info.name, died.text)
        self._post(ev.SlotDied(self.id, died.slot, attempt, at, died.reason))

    def ready(self, ready: Ready) -> None:
        """The slot takes work again."""
        self._post(ev.SlotReady(self.id, ready.slot))

    def watched(self, slots: Sequence[tuple[int, int, float]], states: str) -> None:
        """Note what runs for long."""
        now = self._workers.loop.time()
        self._long = [
            (attempt, at, slot, now - seconds, state.strip())
            for slot, ((attempt, at, seconds), state) in enumerate(zip(slots, states.ljust(len(slots)), strict=False))
            if attempt >= 0 and at >= 0 and seconds >= LIMITS.state_after
        ]

    def long_items(self, job: JobEntry | None = None) -> tuple[LongItem, ...]:
        """What has been running there for long as far as it is known to run still, the longest first; `job`: of it."""
        now, found = self._workers.loop.time(), []
        for attempt, at, slot, since, state in self._long:
            entry = self._attempts.get(attempt)
            if entry is None or entry.worker != self.id or (job is not None and entry.job is not job):
                continue
            if (chunk := entry.job.chunks.get(entry.chunk)) is not None:
                found.append(LongItem(chunk.start + at, self.info.name, slot, now - since, state))
        return tuple(sorted(found, key=lambda item: -item.seconds))

    def broke(self, attempt: int, at: int | None, text: str, reason: DeathReason = "died") -> None:
        """The process that ran the attempt ended; the engine goes on without it."""
        if self._workers.has(self):
            if at is not None:
                self._note_death(attempt, at, text, show=reason in ("died", "memory"))
            self._attempts.end(attempt)
            log.warning("x attempt %d on %s: %s", attempt, self.info.name, text)
            self._post(ev.AttemptLost(attempt, at, reason))

    def progressed(self, attempt: int, at: int) -> None:
        """The attempt is at this item."""
        self._post(ev.AttemptProgressed(attempt, at))

    def measured(self, rtt: float, cpu: float, memory: float, ahead: float = 0.0) -> None:
        """Round trip and load as of now, and how much work to send ahead."""
        self.rtt, self.cpu, self.memory = rtt, cpu, memory
        self._post(ev.WorkerMeasured(self.id, rtt, cpu, memory, ahead))

    def devices_used(self, use: Sequence[tuple[float, float]]) -> None:
        """Note how busy its GPUs are."""
        if len(use) == len(self.devices):
            pairs = zip(self.devices, use, strict=True)
            self.devices = tuple(
                device._replace(load=_known(load), memory=_known(memory)) for device, (load, memory) in pairs
            )

    def suspected(self) -> None:
        """It has been silent for a while."""
        self._turn("suspect", ev.WorkerSuspected(self.id))

    def trusted(self) -> None:
        """It is heard again."""
        self._turn("ready", ev.WorkerTrusted(self.id))

    def disconnected(self, sentence: str) -> None:
        """It is out of reach, and goes on with what it holds."""
        self.reconnecting, self.since = True, self._workers.loop.time()
        self.drops += 1
        log.info("%% worker %s is out of reach: %s", self.info.name, sentence)
        self._workers.on_change()

    def resumed(self, seconds: float, results: int) -> None:
        """It is back with all that it held."""
        self.reconnecting = False
        self.resumes += 1
        self._workers.resumes += 1
        self.kept += results
        log.info("= worker %s is back after %.1f s, with %s", self.info.name, seconds, counted(results, "result"))
        self._workers.on_change()

    def draining(self) -> None:
        """It wants to leave."""
        self._turn("draining", ev.WorkerDraining(self.id))

    def lost(self, charged: bool, reason: str) -> None:
        """It is gone, with all that it held; `Workers.remove` follows."""
        self.reason = reason
        self._post(ev.WorkerLost(self.id, charged))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _turn(self, state: str, event: ev.Event) -> None:
        if self.state != "draining":  # it stays so until it is gone
            self.state = state
        self._post(event)
        self._workers.on_change()

    def _note_death(self, attempt: int, at: int, text: str, *, show: bool) -> None:
        if (entry := self._attempts.get(attempt)) is not None:
            entry.job.note_death(entry.chunk, at, self.info.name, text, show=show)


class Workers:
    """All workers of a pool that are not lost.

    Args:
        jobs: the driver's, by id.
        post: passes an event to the scheduler.
        timeout: seconds that a job may wait without any worker that can take it.
        no_workers: makes the error that it then ends with.
        none_can_come: why no worker with these tags can come any more, so that waiting is in vain; else empty.
        fail: ends a job with an error.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        jobs: dict[int, JobEntry],
        attempts: Attempts,
        post: Callable[[ev.Event], None],
        *,
        timeout: float,
        no_workers: Callable[[], BaseException],
        none_can_come: Callable[[frozenset[str]], str],
        fail: Callable[[JobEntry, BaseException], None],
    ) -> None:
        self.attempts = attempts
        self.post = post
        #: Whether workers that were started may still come, so that it is worth to wait longer.
        self.coming: Callable[[], bool] = lambda: False
        #: Called after workers came, changed or went.
        self.on_change: Callable[[], None] = lambda: None
        self.loop = loop
        self._jobs = jobs
        self._timeout = timeout
        self._no_workers = no_workers
        self._none_can_come = none_can_come
        self._fail = fail
        #: How often any of them came back after its connection broke.
        self.resumes = 0
        self._entries: dict[int, WorkerEntry] = {}
        self._last_id = 0
        # Of the last worker that was lost: until when it might have come back (loop time), who it was, and why.
        self._hoped_until, self._last_lost = -math.inf, ""

    def __iter__(self) -> Iterator[WorkerEntry]:
        return iter(self._entries.values())

    def get(self, worker: int) -> WorkerEntry | None:
        """The worker; None if it was lost."""
        return self._entries.get(worker)

    def has(self, entry: WorkerEntry) -> bool:
        """Whether this incarnation was not lost."""
        return self._entries.get(entry.id) is entry

    def add(self, engine: Engine, info: WorkerInfo) -> WorkerEntry:
        """A worker joined: give it an id, and a name that no other one has."""
        self._last_id += 1
        names = {entry.info.name for entry in self}
        name, number = info.name, 2
        while name in names:
            name, number = f"{info.name}-{number}", number + 1
        entry = self._entries[self._last_id] = WorkerEntry(self, self._last_id, info._replace(name=name), engine)
        return entry

    def remove(self, event: ev.WorkerLost) -> None:
        """A worker is lost. Called before the scheduler gives what it held to others."""
        entry = self._entries.pop(event.worker, None)
        if entry is None:
            return
        if event.charged:
            self._hoped_until = LIMITS.reconnect_grace + (entry.since if entry.reconnecting else self.loop.time())
            self._last_lost = f"{entry.info.name} was lost before ({entry.reason})"
        held: dict[int, int] = {}
        heads: set[int] = set()
        for attempt in self.attempts.end_worker(entry.id):
            job = attempt.job
            held[job.id] = held.get(job.id, 0) + 1
            runs = attempt.slot not in heads  # the others waited behind it
            heads.add(attempt.slot)
            if event.charged and (chunk := job.chunks.get(attempt.chunk)) is not None:
                job.suspects.append(range(chunk.start + attempt.lo, chunk.start + attempt.hi))
                if runs and attempt.hi - attempt.lo == 1:
                    job.note_death(attempt.chunk, attempt.lo, entry.info.name, entry.reason, show=False)
        for job in self._jobs.values():
            if job.spec.each:
                job.lost_workers[entry.id] = entry.info.name, entry.reason
            if event.charged and (count := held.get(job.id)):
                text = f"{counted(count, 'chunk')} that it held {'is' if count == 1 else 'are'} run again"
                text = f"{entry.reason}; {text}" if entry.reason else text
                job.report_incident(Incident("lost", None, entry.info.name, 0, text))
        self.check_unserved()
        self.on_change()

    def renew(self) -> None:
        """Packages were installed: replace all task processes, each once it has answered for what it has."""
        for entry in self:
            for slot in range(entry.info.slots):
                entry.engine.renew(entry.id, slot)

    def clear(self) -> None:
        """The pool ends: what engines still report comes too late."""
        self._entries.clear()

    def drop_blob(self, digest: bytes) -> None:
        """Let all workers forget a blob."""
        for entry in self:
            if digest in entry.blobs:
                entry.blobs.discard(digest)
                entry.engine.drop(entry.id, digest)

    # --- output -----------------------------------------------------------------------------------------------------

    def watch_dropped(self, job: JobEntry, router: OutputRouter) -> None:
        """Report dropped lines after a while, even if nothing more is printed."""
        if router.has_unreported and job.dropped_timer is None:
            job.dropped_timer = self.loop.call_later(REPORT_DROPPED_AFTER, self._report_dropped, job, router)

    def _report_dropped(self, job: JobEntry, router: OutputRouter) -> None:
        job.dropped_timer = None
        if job.id in self._jobs and router.report_dropped():
            job.sink(Printed())

    # --- jobs without a worker --------------------------------------------------------------------------------------

    def check_unserved(self, only: JobEntry | None = None) -> None:
        """Start the timer of each job that no worker can take, and stop that of each job that one can.

        Args:
            only: look at this job alone.
        """
        for job in self._jobs.values() if only is None else (only,):
            if job.spec.each:
                continue  # a set-up waits for workers, not for work
            tags, served = job.spec.tags, False
            for entry in self._entries.values():
                if not entry.failed_setups and tags <= entry.info.tags and not job.refused_by(entry.id):
                    served = True
                    break
            if not served and job.no_worker_timer is None:
                # A connection that broke gets the time that it may take to come back, however its worker was given up.
                hoped = self._hoped_until - self.loop.time()
                timeout = 0.0 if self._none_can_come(job.spec.tags) else max(self._timeout, hoped)
                job.no_worker_timer = self.loop.call_later(timeout, self._fail_unserved, job)
            elif served and job.no_worker_timer is not None:
                job.no_worker_timer.cancel()
                job.no_worker_timer = None

    def reconsider(self) -> None:
        """No worker can come any more, or one may again."""
        for job in self._jobs.values():
            if job.no_worker_timer is not None:
                job.no_worker_timer.cancel()
                job.no_worker_timer = None
        self.check_unserved()

    def _fail_unserved(self, job: JobEntry) -> None:
        job.no_worker_timer = None
        if self.coming():
            self.check_unserved()
        elif job.id in self._jobs:
            self._fail(job, self._unserved_error(job))

    def _unserved_error(self, job: JobEntry) -> BaseException:
        return unserved(
            self._no_workers(),
            job,
            there=[entry.info for entry in self],
            failed=[f"{name} on {entry.info.name}" for entry in self for name in entry.failed_setups.values()],
            timeout=self._timeout,
            last_lost=self._last_lost,
            none_can_come=self._none_can_come(job.spec.tags),
        )


def _known(share: float) -> float | None:
    return share if 0 <= share <= 1 else None
