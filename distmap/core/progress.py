"""The progress of a job: immutable snapshots for views.

Owns the Snapshot and the arithmetic of rate and time left. Knows no view; time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from distmap.tasks._records import Record, field
from distmap.tasks._typing import NamedTuple

#: "interrupted" is set by the calling thread only: the job was cancelled because the user pressed Interrupt.
JobState = Literal["running", "paused", "done", "failed", "cancelled", "interrupted"]
WorkerState = Literal["idle", "busy", "resting", "suspect", "reconnecting", "draining", "lost"]
#: What a slot did in a period: its items are done; run now (in a job that is over: were interrupted); some raised and
#: are run again; some failed; or all were lost with their process or worker.
BlockKind = Literal["done", "running", "retried", "failed", "lost"]


#: Rows of a worker's timeline; slots beyond that share them.
ROWS = 4


class Block(NamedTuple):
    """A period in which a worker ran items of a job; times are seconds since the job began."""

    #: Each slot has a row of its own, up to `Lane.rows`; further slots share these rows.
    row: int
    begin: float
    end: float
    kind: BlockKind


class Device(NamedTuple):
    """The GPU of a slot at one moment."""

    #: Its number on the host, or the beginning of its UUID.
    id: str
    name: str
    #: How busy it is, and its memory in use, 0 to 1; by whatever process. None: not known.
    load: float | None = None
    memory: float | None = None


class Lane(NamedTuple):
    """One worker as a job sees it."""

    name: str
    slots: int
    state: WorkerState
    #: Items of this job that it finished, and chunks.
    items: int
    chunks: int
    #: Items of this job assigned to it now.
    in_flight: int
    #: Share of its slots' time, since the job began, that it spent on this job's items; 0 to 1.
    busy: float
    #: Rows of its timeline, and the timeline: a bounded number of blocks, those of one row and kind in order.
    rows: int = 1
    blocks: tuple[Block, ...] = ()
    #: Its id: unique in a pool, as names are not.
    worker: int = 0
    #: Seconds since it was last heard, while it is reconnecting.
    silent: float = 0.0
    #: The GPU of each slot; empty if slots have none of their own.
    devices: tuple[Device, ...] = ()


class LongItem(NamedTuple):
    """An item that has been running for long."""

    item: int
    worker: str
    slot: int
    seconds: float
    #: The system's letter for the state of its process: "R" and "S" are usual, "D" is a wait that none can interrupt,
    #: "T" and "t" are stopped; empty: not known.
    state: str


class Snapshot(NamedTuple):
    """One job at one moment, for views. `total` is None while the number of items is unknown."""

    name: str
    state: JobState
    total: int | None
    #: Items finished, failed ones included; those inside chunks that still run are counted.
    done: int
    failed: int
    in_flight: int
    #: Items run again because they raised (`retries=`); items run again because a slot or worker was lost.
    retried: int
    requeued: int
    #: Results refused because another attempt had been accepted, or the worker was lost already.
    duplicates: int
    #: Task processes that died, and workers that were lost, while the job ran.
    deaths: int
    losses: int
    #: Seconds since the job began; items per second recently; seconds left (None while unknown).
    elapsed: float
    rate: float
    eta: float | None
    lanes: tuple[Lane, ...]
    #: Connections to workers that broke and were resumed while the job ran; nothing was run again because of them.
    resumes: int = 0
    #: Items of `done` whose results were in the checkpoint, and the name of its file; empty: there is none.
    known: int = 0
    checkpoint: str = ""
    #: Items that have been running for some seconds.
    long_items: tuple[LongItem, ...] = ()
    #: What was started for the pool and has not come yet, in words: "Slurm: 3 running, 17 queued (Priority)".
    awaited: str = ""


#: What `progress=` takes: whether to show progress, or a function that is called with snapshots; None: the default.
ProgressOption = bool | Callable[[Snapshot], object] | None

#: Seconds over which the rate is measured, and seconds between two samples.
RATE_WINDOW = 10.0
SAMPLE_EVERY = 0.25


class Meter(Record):
    """Measures items per second over the last RATE_WINDOW, from few samples however many reports come."""

    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, now: float, count: int) -> None:
        """`count` items are done at `now`."""
        if self.samples and now - self.samples[-1][0] < SAMPLE_EVERY:
            return
        self.samples.append((now, count))
        while now - self.samples[0][0] > RATE_WINDOW and len(self.samples) > 2:
            self.samples.popleft()

    def rate(self, now: float, count: int) -> float:
        """Items per second since the oldest sample of the window; 0 before anything is known."""
        if not self.samples or now <= self.samples[0][0]:
            return 0.0
        since, before = self.samples[0]
        return max(0.0, (count - before) / (now - since))


def time_left(total: int | None, done: int, rate: float) -> float | None:
    """Seconds until `total`, at this rate; None while unknown."""
    if total is None:
        return None
    if done >= total:
        return 0.0
    return (total - done) / rate if rate > 0 else None
