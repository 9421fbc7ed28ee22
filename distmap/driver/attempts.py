"""Attempts that run now, and their reports that are not delivered yet.

Owns one entry for each attempt that has not ended, and the reports of each attempt until the last of their results is
delivered or discarded. Must not know engines or the scheduler. On the loop's thread.
"""

from __future__ import annotations

from distmap.driver.jobs import JobEntry
from distmap.driver.messages import ReportData
from distmap.tasks._typing import NamedTuple


class AttemptEntry(NamedTuple):
    """Items [lo, hi) of a chunk are at a slot of a worker."""

    job: JobEntry
    chunk: int
    worker: int
    slot: int
    lo: int
    hi: int


class Settled(NamedTuple):
    """Results [lo, hi) of a report are delivered or discarded."""

    job: JobEntry
    lo: int
    hi: int
    report: ReportData


class Attempts:
    """All attempts of a pool by their number, and their reports."""

    def __init__(self) -> None:
        self._running: dict[int, AttemptEntry] = {}
        self._reports: dict[int, tuple[JobEntry, list[ReportData]]] = {}

    def __len__(self) -> int:
        return len(self._running) + len(self._reports)

    def add(self, attempt: int, entry: AttemptEntry) -> None:
        """It is given to its worker."""
        self._running[attempt] = entry

    def get(self, attempt: int) -> AttemptEntry | None:
        """The attempt; None if it has ended."""
        return self._running.get(attempt)

    def end(self, attempt: int) -> AttemptEntry | None:
        """It has ended; its reports stay until they are settled."""
        return self._running.pop(attempt, None)

    def end_slot(self, worker: int, slot: int) -> None:
        """What a slot held is void: its process died."""
        for attempt in [key for key, entry in self._running.items() if entry[2:4] == (worker, slot)]:
            del self._running[attempt]

    def end_worker(self, worker: int) -> list[AttemptEntry]:
        """What a worker held is void; returns it."""
        lost = [attempt for attempt, entry in self._running.items() if entry.worker == worker]
        return [self._running.pop(attempt) for attempt in lost]

    def end_job(self, job: JobEntry) -> None:
        """The job is over: nothing of it is delivered any more."""
        for attempt in [key for key, entry in self._running.items() if entry.job is job]:
            del self._running[attempt]
        for attempt in [key for key, reports in self._reports.items() if reports[0] is job]:
            del self._reports[attempt]

    def busy_workers(self) -> set[int]:
        """Workers with something that runs or waits."""
        return {entry.worker for entry in self._running.values()}

    def busy_slots(self, job: JobEntry) -> int:
        """Slots with something of a job."""
        return len({(entry.worker, entry.slot) for entry in self._running.values() if entry.job is job})

    def add_report(self, attempt: int, job: JobEntry, report: ReportData) -> None:
        """Keep a report until it is settled."""
        self._reports.setdefault(attempt, (job, []))[1].append(report)

    def settle(self, attempt: int, lo: int, hi: int) -> list[Settled]:
        """Results [lo, hi) are delivered or discarded: the reports that hold them, each forgotten with its last one."""
        held = self._reports.get(attempt)
        if held is None:
            return []
        found = []
        for report in held[1]:
            first, end = max(lo, report.lo), min(hi, report.hi)
            if first < end:
                report.left -= end - first
                found.append(Settled(held[0], first, end, report))
        held[1][:] = [report for report in held[1] if report.left > 0]
        if not held[1]:
            del self._reports[attempt]
        return found
