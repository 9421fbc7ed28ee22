"""The ledger of the oracle: what a scheduler was given, recorded independently of it.

Owns the state that follows from events alone: which workers and slots are there, what runs where, and what was read,
reported and charged. `oracle.py` adds the commands, and judges them. Must not read the scheduler's state.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from distmap.core import events as ev
from distmap.core.limits import Limits


class Broken(AssertionError):
    """The scheduler broke a promise."""


@dataclass
class AttemptAccount:
    job: int
    chunk: int
    lo: int
    hi: int
    slot: tuple[int, int]
    next: int
    #: Its reports may still be accepted.
    live: bool = True
    revoked: bool = False
    interrupted: float | None = None
    #: Offset of a result not yet delivered or discarded -> whether the attempt was live then, and bytes of the result.
    #: A report that came twice is here twice; results of an attempt that was not live have to be discarded.
    pending: dict[int, list[tuple[bool, int]]] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)


@dataclass
class SlotAccount:
    state: str = "ready"
    held: list[int] = field(default_factory=list)
    #: Seconds of work that are sent ahead to it.
    ahead: float = 0.0
    deaths: list[float] = field(default_factory=list)
    rest_until: float = 0.0
    #: The rest may end early: during it, a job or a call of a set-up had no other slot.
    wakes_early: bool = False


@dataclass
class WorkerAccount:
    slots: list[SlotAccount]
    tags: frozenset[str]
    state: str = "trusted"
    #: Set-up that was submitted before the worker joined -> slots in which it has to succeed before anything else runs.
    required: dict[int, set[int]] = field(default_factory=dict)


@dataclass
class JobAccount:
    spec: ev.JobSpec
    #: chunk -> (start, count, nbytes)
    chunks: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    reading: tuple[int, int] | None = None
    #: Items that came with JobSubmitted, and their bytes; (0, 0) after Take.
    first: tuple[int, int] = (0, 0)
    read: int = 0
    ended: bool = False
    added: int = 0
    added_bytes: int = 0
    closed: bool = False
    #: item index -> "running" (attempt on record) or "done"
    items: dict[int, str] = field(default_factory=dict)
    consumed: int = 0
    delivered: int = 0
    next: int = 0
    bytes: int = 0
    open_chunks: list[list[int]] = field(default_factory=list)
    #: Since when results wait for the consumer, or when it took some last; (seconds, items) of each time it took some.
    waits_since: float = 0.0
    taken: list[tuple[float, int]] = field(default_factory=list)
    raised: Counter[int] = field(default_factory=Counter)
    deaths: Counter[int] = field(default_factory=Counter)
    hosts: Counter[int] = field(default_factory=Counter)
    timeouts: set[int] = field(default_factory=set)
    dry: int = 0
    paused: bool = False
    cancelled: bool = False
    #: Workers that refused it for good, those that have other packages, and those of them that may run it all the same.
    unable: set[int] = field(default_factory=set)
    unfit: set[int] = field(default_factory=set)
    let_in: set[int] = field(default_factory=set)
    refused: bool = False
    #: It was stopped after too many deaths in a row; what is still reported then comes too late.
    crashed: bool = False
    input_failed: bool = False
    final_failure: bool = False
    #: Of a set-up: worker that joined before its end -> slots that got a call; workers that joined when too many deaths
    #: may have ended the job; item -> (worker, slot) of the call; calls that were refused.
    owed: dict[int, list[int]] = field(default_factory=dict)
    doubtful: set[int] = field(default_factory=set)
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    turned_down: set[int] = field(default_factory=set)
    finish: ev.Finish | None = None


class Ledger:
    """Records every event that the scheduler is given."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.now = 0.0
        self.workers: dict[int, WorkerAccount] = {}
        self.attempts: dict[int, AttemptAccount] = {}
        self.jobs: dict[int, JobAccount] = {}
        self.last_attempt = -1
        self.last_chunk = -1

    def require(self, true: Any, text: str) -> None:
        """Raise Broken unless `true`."""
        if not true:
            raise Broken(text)

    # --- events -------------------------------------------------------------------------------------------------------

    def take_event(self, event: ev.Event, now: float) -> None:
        """Record an event that the scheduler is about to get."""
        self.now = now
        handler = getattr(self, f"_on_{type(event).__name__}", None)
        if handler is not None:
            handler(event)
        self._wake_early()

    def slots_for(self, job: JobAccount) -> list[SlotAccount]:
        """Slots of trusted workers with the job's tags."""
        return [
            slot
            for worker in self.workers.values()
            if worker.state == "trusted" and self.may_use(job, worker)
            for slot in worker.slots
        ]

    def may_use(self, job: JobAccount, worker: WorkerAccount) -> bool:
        """Whether the job may run on the worker: one that refused it is left out, perhaps until no other is there."""
        out = job.unable | (job.unfit - job.let_in)
        return job.spec.tags <= worker.tags and not any(self.workers[number] is worker for number in out)

    def _find_workers(self) -> None:
        """A worker was left out of a job, or is gone: jobs that have none now get those that are unfit."""
        for job in self.jobs.values():
            if self.goes_on(job) and job.unfit and not self._there(job):
                job.let_in = job.let_in | job.unfit

    def _there(self, job: JobAccount) -> bool:
        return any(one.state in ("trusted", "suspect") and self.may_use(job, one) for one in self.workers.values())

    def _wake_early(self) -> None:
        early = self.now - self.limits.slot_rest_alone + self.limits.slot_rest
        tired = [slot for worker in self.workers.values() for slot in worker.slots if slot.rest_until > self.now]
        if not any(slot.rest_until <= early for slot in tired):
            return
        for job in self.jobs.values():
            if self.goes_on(job):
                for item, (worker, index) in job.places.items():
                    slot = self.workers[worker].slots[index]
                    # A call of a set-up that is for this slot has no other.
                    slot.wakes_early = slot.wakes_early or (item not in job.items and slot.rest_until <= early)
            slots = self.slots_for(job)
            if job.finish is None and all(slot.state in ("resting", "dead") and slot in tired for slot in slots):
                for slot in slots:
                    slot.wakes_early = slot.wakes_early or slot.rest_until <= early

    def _on_WorkerJoined(self, event: ev.WorkerJoined) -> None:
        worker = WorkerAccount([SlotAccount(ahead=event.ahead) for _ in range(event.slots)], event.tags)
        self.workers[event.worker] = worker
        for number, job in self.jobs.items():
            if job.spec.each and self.goes_on(job) and job.spec.tags <= worker.tags:
                job.owed[event.worker] = []
                if job.dry >= self.limits.crash_loop_deaths:
                    job.doubtful.add(event.worker)
                worker.required[number] = set()

    def _on_WorkerLost(self, event: ev.WorkerLost) -> None:
        worker = self.workers[event.worker]
        if worker.state == "lost":
            return
        worker.state = "lost"
        for slot in worker.slots:
            for place, number in enumerate(slot.held):
                attempt = self.attempts[number]
                if attempt.live and event.charged and place == 0:
                    start = self.jobs[attempt.job].chunks[attempt.chunk][0]
                    self.jobs[attempt.job].hosts.update(range(start + attempt.next, start + attempt.hi))
                self._void(attempt)
            slot.held.clear()
        self._find_workers()

    def _on_WorkerSuspected(self, event: ev.WorkerSuspected) -> None:
        self._turn(event.worker, "suspect", ("trusted",))

    def _on_WorkerTrusted(self, event: ev.WorkerTrusted) -> None:
        self._turn(event.worker, "trusted", ("suspect",))

    def _on_WorkerMeasured(self, event: ev.WorkerMeasured) -> None:
        for slot in self.workers[event.worker].slots:
            slot.ahead = event.ahead

    def _on_WorkerDraining(self, event: ev.WorkerDraining) -> None:
        self._turn(event.worker, "draining", ("trusted", "suspect"))
        self._find_workers()

    def _turn(self, worker: int, state: str, only_from: tuple[str, ...]) -> None:
        account = self.workers[worker]
        if account.state in only_from:
            account.state = state

    def _on_SlotDied(self, event: ev.SlotDied) -> None:
        worker = self.workers[event.worker]
        if worker.state == "lost":
            return
        slot = worker.slots[event.slot]
        slot.state = "dead"
        head = self.attempts[slot.held[0]] if slot.held else None
        if event.reason in ("died", "idle"):
            slot.deaths = [time for time in slot.deaths if self.now - time <= self.limits.slot_deaths_window]
            slot.deaths.append(self.now)
            if len(slot.deaths) >= self.limits.slot_deaths:
                slot.deaths, slot.rest_until, slot.wakes_early = [], self.now + self.limits.slot_rest, False
            if head is not None and head.live:
                self.jobs[head.job].dry += 1
        if event.attempt in slot.held and event.at is not None:
            attempt = self.attempts[event.attempt]
            if attempt.live and attempt.next <= event.at < attempt.hi:
                job = self.jobs[attempt.job]
                item = job.chunks[attempt.chunk][0] + event.at
                if event.reason == "died":
                    job.deaths[item] += 1
                elif event.reason == "timeout":
                    job.timeouts.add(item)
        for number in slot.held:
            self._void(self.attempts[number])
        slot.held.clear()

    def _on_SlotReady(self, event: ev.SlotReady) -> None:
        worker = self.workers[event.worker]
        if worker.state != "lost":
            slot = worker.slots[event.slot]
            slot.state = "resting" if slot.rest_until > self.now and not slot.wakes_early else "ready"

    def _on_JobSubmitted(self, event: ev.JobSubmitted) -> None:
        job = self.jobs[event.job] = JobAccount(event.spec, ended=event.spec.size == 0 or event.last)
        job.first = (event.count, event.nbytes)
        if event.spec.each:
            there = {
                number: account for number, account in self.workers.items() if account.state in ("trusted", "suspect")
            }
            job.owed = {number: [] for number, account in there.items() if event.spec.tags <= account.tags}

    def goes_on(self, job: JobAccount) -> bool:
        """Whether nothing recorded has ended the job; too many deaths may have."""
        return job.finish is None and not (job.cancelled or job.final_failure or job.refused)

    def _on_ItemsAdded(self, event: ev.ItemsAdded) -> None:
        job = self.jobs[event.job]
        job.added += event.count
        job.added_bytes += event.nbytes

    def _on_InputClosed(self, event: ev.InputClosed) -> None:
        self.jobs[event.job].closed = True

    def _on_ChunkRead(self, event: ev.ChunkRead) -> None:
        job = self.jobs[event.job]
        if job.finish is not None:
            return
        job.reading = None
        self.enter(job, event.chunk, event.count, event.nbytes)
        job.ended = event.last

    def enter(self, job: JobAccount, chunk: int, count: int, nbytes: int) -> None:
        """Record a new chunk."""
        job.chunks[chunk] = (job.read, count, nbytes)
        if count and not (job.cancelled or job.final_failure or job.refused):
            job.open_chunks.append([count])
        job.read += count
        job.bytes += nbytes

    def _on_InputGrew(self, event: ev.InputGrew) -> None:
        job = self.jobs[event.job]
        start, count, nbytes = job.chunks.get(event.chunk, (0, 0, -1))
        if job.finish is None and nbytes >= 0:
            job.chunks[event.chunk] = (start, count, nbytes + event.nbytes)
            job.bytes += event.nbytes

    def _on_InputFailed(self, event: ev.InputFailed) -> None:
        job = self.jobs[event.job]
        job.reading = None
        job.ended = job.input_failed = True

    def _on_Consumed(self, event: ev.Consumed) -> None:
        job = self.jobs[event.job]
        job.consumed += event.count
        job.taken.append((self.now - job.waits_since, event.count))
        job.waits_since = self.now
        job.bytes -= event.nbytes
        left = event.count
        while left and job.open_chunks:
            taken = min(left, job.open_chunks[0][0])
            job.open_chunks[0][0] -= taken
            left -= taken
            if not job.open_chunks[0][0]:
                job.open_chunks.pop(0)

    def _on_CancelRequested(self, event: ev.CancelRequested) -> None:
        self.jobs[event.job].cancelled = True

    def _on_PauseRequested(self, event: ev.PauseRequested) -> None:
        self.jobs[event.job].paused = True

    def _on_ResumeRequested(self, event: ev.ResumeRequested) -> None:
        self.jobs[event.job].paused = False

    def _on_AttemptLost(self, event: ev.AttemptLost) -> None:
        attempt = self.attempts[event.attempt]
        if attempt.live:
            job = self.jobs[attempt.job]
            job.dry += event.reason == "died"
            at = attempt.next if event.at is None and attempt.hi - attempt.next == 1 else event.at
            if at is not None and event.reason == "died":
                job.deaths[job.chunks[attempt.chunk][0] + at] += 1
            elif at is not None and event.reason == "timeout":
                job.timeouts.add(job.chunks[attempt.chunk][0] + at)
        self._void(attempt)
        self._end(event.attempt)

    def _on_AttemptRefused(self, event: ev.AttemptRefused) -> None:
        attempt = self.attempts[event.attempt]
        job = self.jobs[attempt.job]
        if attempt.live and job.spec.each:
            job.turned_down.add(job.chunks[attempt.chunk][0])
        elif attempt.live:
            start, worker = job.chunks[attempt.chunk][0], attempt.slot[0]
            for item in range(start + attempt.next, start + attempt.hi):
                job.items.pop(item, None)
            # One that is left out, or was let in all the same, changes nothing by refusing again.
            known = not self.may_use(job, self.workers[worker]) or (event.unfit and worker in job.unfit)
            if not event.unfit:
                job.unable.add(worker)
            elif not known:
                job.unfit.add(worker)
            if not known:
                self._find_workers()
                job.refused = job.refused or (self.goes_on(job) and not self._there(job))
        self._end(event.attempt)

    def _on_AttemptReported(self, event: ev.AttemptReported) -> None:
        attempt = self.attempts[event.attempt]
        job = self.jobs[attempt.job]
        each = event.nbytes // max(1, event.hi - event.lo)
        for at in range(event.lo, event.hi):
            attempt.pending.setdefault(at, []).append((attempt.live, each))
        attempt.failed.update(event.failed)
        if attempt.live:
            attempt.next = event.hi
            start = job.chunks[attempt.chunk][0]
            job.raised.update(start + at for at in event.failed)
            if any(
                at not in event.failed or job.raised[start + at] > job.spec.retries for at in range(event.lo, event.hi)
            ):
                job.dry = 0
            if job.spec.gather != "list":
                job.bytes += event.nbytes
            if job.spec.each and event.lo < event.hi and not event.failed:
                worker, slot = attempt.slot
                self.workers[worker].required.get(attempt.job, set()).discard(slot)
            if event.ended:
                for item in range(start + event.hi, start + attempt.hi):
                    job.items.pop(item, None)
        if event.ended:
            self._end(event.attempt)

    def _end(self, number: int) -> None:
        attempt = self.attempts[number]
        if attempt.live:
            attempt.live = False
        worker, index = attempt.slot
        held = self.workers[worker].slots[index].held
        if number in held:
            held.remove(number)

    def _void(self, attempt: AttemptAccount) -> None:
        """Record that the attempt is given up with its slot: what it did not report may be assigned again."""
        if attempt.live:
            attempt.live = False
            job = self.jobs[attempt.job]
            start = job.chunks[attempt.chunk][0]
            for item in range(start + attempt.next, start + attempt.hi):
                job.items.pop(item, None)
