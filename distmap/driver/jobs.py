"""What the driver holds of each job: its code, its chunks, and where its messages go.

Owns these records. Knows no scheduler and no engine. On the loop's thread; the thread that makes the call fills in
the fields of a `JobEntry` before it passes it to `Driver.open`, and not afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from distmap.core.events import JobSpec, Outcome
from distmap.core.progress import Snapshot
from distmap.driver.messages import Finished, Incident, Input, JobMessage, Lost, Refusal, Room
from distmap.tasks._records import Record, field
from distmap.tasks._typing import NamedTuple
from distmap.tasks.code import Code
from distmap.tasks.payload import Blob, Payload

if TYPE_CHECKING:
    from distmap.driver.output import OutputRouter

#: Incidents that are sent to a job; further ones are only counted.
MAX_INCIDENTS = 100


class ChunkEntry(Record):
    """What the driver holds of a chunk that is not delivered yet."""

    #: Index of its first item.
    start: int
    #: Items not delivered yet; a chunk is forgotten with its last one.
    left: int
    #: None once no attempt can need it any more.
    payload: Payload | None
    #: Digests of the blobs that its items refer to.
    needs: tuple[bytes, ...]
    #: By offset: how often an item raised; the workers where it ended its process, and how. Mostly absent.
    tries: dict[int, int] = field(default_factory=dict)
    deaths: dict[int, list[tuple[str, str]]] = field(default_factory=dict)

    def tried(self, failed: Sequence[int]) -> dict[int, int]:
        """These items raised: how often by now, by offset."""
        for at in failed:
            self.tries[at] = self.tries.get(at, 0) + 1
        return {at: self.tries[at] for at in failed}


class ReadItems(NamedTuple):
    """Items of a job that were read and pickled together."""

    payload: Payload
    blobs: tuple[Blob, ...]
    count: int  # type: ignore[assignment]
    #: The input has no more items.
    last: bool


def ignore(message: JobMessage) -> None:
    """The sink before a reader has set its own, and of a job that is over."""


#: In the place of the code of a job that is over.
_NO_CODE = Code(b"", Payload(b""), ())


class JobEntry(Record):
    """What the driver holds of a job.

    Args:
        sink: takes the messages of the job, on the loop's thread; it must not block.
        timeout: seconds for each item; 0: no limit.
        total: number of items if the user knows it and the input does not.
        router: takes what tasks print; None: task processes drop it.
        watched: somebody looks at `latest`.
    """

    spec: JobSpec
    code: Code
    sink: Callable[[JobMessage], None] = ignore
    timeout: float = 0.0
    total: int | None = None
    router: OutputRouter | None = None
    watched: bool = False
    latest: Snapshot | None = None
    id: int = 0
    #: The first items, which come with the job, until the scheduler takes them.
    first: ReadItems | None = None
    #: Reads so many items if that takes no time and runs no code of the user's; None, and reads nothing, if not. On the
    #: loop's thread.
    read_plain: Callable[[int], ReadItems | None] | None = None
    #: What the job ends with if the driver or its user ended it.
    error: BaseException | None = None
    #: Workers that did not run the code, and why; the last of them.
    refusals: dict[int, Refusal] = field(default_factory=dict)
    refusal: Refusal | None = None
    #: Runs while no worker can take the job, and while dropped lines of output are not reported.
    no_worker_timer: asyncio.TimerHandle | None = None
    dropped_timer: asyncio.TimerHandle | None = None
    next_start: int = 0
    #: Name of the checkpoint; items whose results were there, which the scheduler never hears of; whether all are read.
    checkpoint: str = ""
    known: int = 0
    read_all: bool = False
    chunks: dict[int, ChunkEntry] = field(default_factory=dict)
    incidents: int = 0
    #: How often workers had come back after a broken connection before the job began.
    resumes_before: int = 0
    #: Indices of the items that a worker held when it was lost for good; one of them may have ended it.
    suspects: list[range] = field(default_factory=list)
    #: Worker -> digests that every chunk needs there.
    needs: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    #: Of a set-up: the worker that each item is for; name and reason of those that were lost.
    places: list[int] = field(default_factory=list)
    lost_workers: dict[int, tuple[str, str]] = field(default_factory=dict)
    room: Room = field(default_factory=Room)
    #: Lines for whoever made the call (NOTICE or REMARK, and the line), each with the workers that sent it.
    notices: dict[tuple[int, str], list[str]] = field(default_factory=dict)

    def add_chunk(
        self, chunk: int, payload: Payload, needs: tuple[bytes, ...], count: int, start: int | None = None
    ) -> None:
        """Items were read: they follow those of the chunk before, or begin at index `start`."""
        start = self.next_start if start is None else start
        self.chunks[chunk] = ChunkEntry(start, count, payload, needs)
        self.next_start = start + count

    def fail(self, error: BaseException | None) -> None:
        """End with this error, unless there is one already. (An exception may be false, so compare with None.)"""
        if self.error is None:
            self.error = error

    def settle(self, chunk: int, count: int) -> None:
        """So many items of the chunk were delivered; the chunk is forgotten with the last one."""
        entry = self.chunks[chunk]
        entry.left -= count
        if not entry.left:
            del self.chunks[chunk]

    def lose(self, chunk: int, at: int, cause: str) -> int:
        """An item failed without a report: send what is known of it; returns its index."""
        entry = self.chunks[chunk]
        deaths = tuple(entry.deaths.get(at, ()))
        if cause == "gone":
            deaths = (self.lost_workers[self.places[entry.start + at]],)
        refusal, self.refusal = self.refusal, None
        place = (self.id, chunk, entry.start + at, at)
        self.sink(Lost(*place, cause, deaths, entry.payload, self.timeout, refusal, self.input_of(entry)))
        self.settle(chunk, 1)
        return entry.start + at

    def input_of(self, chunk: ChunkEntry) -> Input | None:
        """What the chunk is run with; None once its input was released."""
        return None if chunk.payload is None else Input(self.code, chunk.payload, self.room)

    def note_death(self, chunk: int, at: int, worker: str, text: str, *, show: bool) -> None:
        """An item ended its process: its error names all such processes, if it comes to that."""
        entry = self.chunks.get(chunk)
        if entry is None:
            return
        deaths = entry.deaths.setdefault(at, [])
        deaths.append((worker, text))
        if show:
            tries = len(deaths) + entry.tries.get(at, 0)
            self.report_incident(Incident("died", entry.start + at, worker, tries, text))

    def report_incident(self, incident: Incident) -> None:
        """Send an incident; after MAX_INCIDENTS they are only counted."""
        self.incidents += 1
        if self.incidents <= MAX_INCIDENTS:
            self.sink(incident)

    def notice(self, kind: int, line: str, worker: str) -> None:
        """Keep a line; at most MAX_INCIDENTS, as a worker may send any number."""
        key = (kind, line)
        if worker not in self.notices.get(key, ()) and len(self.notices) < MAX_INCIDENTS:
            self.notices.setdefault(key, []).append(worker)

    def refuse(self, worker: int, refusal: Refusal) -> None:
        """A worker cannot run the code."""
        self.refusal = refusal
        known = self.refusals.get(worker)
        # Slots of a worker that was let in may still refuse what was sent before: that says less than what is known.
        if self.spec.each or (known is not None and known.unfit <= refusal.unfit):
            return
        self.refusals[worker] = refusal
        self.report_incident(Incident("left out", None, refusal.worker, 0, refusal=refusal))

    def refused_by(self, worker: int) -> bool:
        """Whether the worker cannot run the code, whoever else is there."""
        return (known := self.refusals.get(worker)) is not None and not known.unfit

    def let_in(self, worker: int) -> None:
        """A worker that refused the code gets more of the job: nobody else can take it."""
        self.refusals[worker] = self.refusals[worker]._replace(let_in=True)

    def finish(
        self,
        outcome: Outcome,
        snapshot: Snapshot,
        error: BaseException | None = None,
        *,
        crashed: bool = False,
        refused: bool = False,
    ) -> None:
        """Send the last message. Whoever keeps the job keeps results and figures, not what its function captured."""
        self.code, self.first, self.read_plain = _NO_CODE, None, None
        self.chunks.clear()
        self.needs.clear()
        if self.no_worker_timer is not None:
            self.no_worker_timer.cancel()
        error = self.error if error is None else error
        refusals, self.refusals = tuple(self.refusals.values()), {}
        self.sink(Finished(outcome, crashed, error, refused, refusals, snapshot))
