"""Messages from the driver to whoever consumes a job, and what it tells of a worker.

Owns their fields. The driver passes them to `JobEntry.sink` on the loop's thread; a consumer handles most of them in
the calling thread. A job gets any number of messages and then exactly one `Finished`.
"""

from __future__ import annotations

from typing import Any, Literal

from distmap.core.events import JobSpec, Outcome
from distmap.core.limits import LIMITS
from distmap.core.progress import Device, LongItem, Snapshot
from distmap.engine.base import Location, Parts, WorkerInfo
from distmap.tasks._typing import NamedTuple
from distmap.tasks.code import Code
from distmap.tasks.payload import Payload


class Room:
    """What the errors of a job keep together: a copy of its function, and so many bytes of items at most.

    Changed in the threads that make the errors: two of them at once may pass the limit by an item.
    """

    __slots__ = ("copy", "left")

    def __init__(self) -> None:
        self.left = LIMITS.rerun_bytes
        #: Made for the first error; None if the function is too large.
        self.copy: Payload | None = None


class Input(NamedTuple):
    """What a chunk was run with: for the errors of its items, which can be run again in this process."""

    code: Code
    payload: Payload
    room: Room


class Refusal(NamedTuple):
    """Why a worker does not run the code of a job: the parts of its Refused."""

    worker: str
    parts: Parts
    #: It has other packages than the job was made with.
    unfit: bool
    #: It runs the job all the same, as no other worker can.
    let_in: bool = False


class ReadRequest(NamedTuple):
    """To whoever reads the job's input: read at most `most` items into `chunk`.

    Of a pushed job: just so many, and now; `chunk_taken` is called before the sink returns.
    """

    chunk: int
    most: int


class Landed(NamedTuple):
    """Accepted results: items [lo, hi) of the chunk whose item 0 has index `start`."""

    job: int
    chunk: int
    start: int
    lo: int
    hi: int
    report: ReportData


class Lost(NamedTuple):
    """An item that failed without a report: why, how each process died, and the chunk's input to name it by."""

    job: int
    chunk: int
    item: int
    at: int
    cause: str
    #: (worker, how), in order.
    deaths: tuple[tuple[str, str], ...]
    payload: Payload | None
    #: Seconds that it was allowed.
    timeout: float = 0.0
    #: Why the function did not load, and where.
    refusal: Refusal | None = None
    ran_with: Input | None = None


class Placed(NamedTuple):
    """Item `item` of a set-up is the call that is for this slot."""

    item: int
    worker: str
    slot: int


class Printed(NamedTuple):
    """The job's router has something to show."""


class Incident(NamedTuple):
    """Something did not go as planned, and the job goes on: to be shown, not to be handled.

    kind: "retried" (an item raised and is run again; its `report` at offset `at` says what), "died" (it ended its
    process), "lost" (a worker is gone with what it held), "left out" (its `refusal` says why a worker does not run the
    job).
    """

    kind: Literal["retried", "died", "lost", "left out"]
    #: Index of the item; None: no single one.
    item: int | None
    worker: str
    #: Which try of the item it was, from 1; 0: no single item.
    attempt: int
    text: str = ""
    report: ReportData | None = None
    at: int = 0
    refusal: Refusal | None = None


class Finished(NamedTuple):
    """The last message of a job. `error` is set when the pool itself ended it; `refusals` say who did not run its code.

    refused: that is why it ended, as nobody was left.
    """

    outcome: Outcome
    crashed: bool
    error: BaseException | None
    refused: bool
    refusals: tuple[Refusal, ...]
    snapshot: Snapshot


JobMessage = ReadRequest | Placed | Landed | Lost | Printed | Incident | Finished


class ReportData:
    """A report as it arrived. Decoded once, by the first consumer that asks, never on the loop."""

    __slots__ = (
        "attempts", "failed", "hi", "left", "lo", "nbytes", "parts", "plain", "ran_with", "start", "values", "worker",
    )  # fmt: skip

    def __init__(
        self, start: int, lo: int, hi: int, failed: tuple[int, ...], parts: Parts, worker: str, nbytes: int
    ) -> None:
        #: Index of item 0 of the chunk.
        self.start = start
        self.lo = lo
        self.hi = hi
        self.failed = failed
        self.parts = parts
        self.worker = worker
        self.nbytes = nbytes
        #: Results neither delivered nor discarded yet.
        self.left = hi - lo
        #: For each failed offset, which try of that item it was (1 = the first).
        self.attempts: dict[int, int] = {}
        #: If an item failed, until it is decoded.
        self.ran_with: Input | None = None
        self.values: Any = None
        #: Known once it is decoded: there is nothing among the values that has to be looked for.
        self.plain = False


def empty_snapshot(spec: JobSpec, done: int = 0) -> Snapshot:
    """The snapshot of a job of which nothing is known but what its consumer has."""
    return Snapshot(spec.name, "failed", spec.size, done, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, None, ())


class WorkerStatus(NamedTuple):
    """A worker at one moment, for any thread."""

    info: WorkerInfo
    place: Location
    #: For people: "ready", "unready" (a set-up has not succeeded there yet), "suspect", "reconnecting" or "draining".
    state: str
    rtt: float
    cpu: float
    memory: float
    #: Something runs or waits there.
    busy: bool
    #: Slots that rest after too many deaths, and seconds until the first of them goes on.
    resting: int
    rest: float
    #: Items that have been running there for some seconds.
    long_items: tuple[LongItem, ...] = ()
    #: The GPU of each slot; empty if slots have none of their own.
    devices: tuple[Device, ...] = ()
