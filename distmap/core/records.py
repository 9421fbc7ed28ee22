"""What the scheduler remembers: one record per worker, slot, job, chunk and attempt.

Owns the shapes and the sums that follow from one record alone. Decides nothing: `state.py` changes the records,
`placing.py` and `faults.py` say when.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from distmap.core.chunks import ItemTime
from distmap.core.events import JobSpec, Outcome
from distmap.core.gather import InOrder, Unordered
from distmap.core.limits import Limits
from distmap.core.progress import Meter

#: Whose turn it is; the smallest first: (-priority, nothing owed, served time, id).
SchedulingKey = tuple[int, bool, float, int]
#: A stretch of a chunk that waits to be run: (item index, lo, hi, host losses so far, chunk). A heap of these hands
#: out the earliest item first; indices of queued spans differ, so nothing behind them is ever compared.
Span = tuple[int, int, int, int, "ChunkRecord"]


@dataclass(slots=True, eq=False)
class ChunkRecord:
    """Items that were read together. `open` counts those that still need the chunk's input."""

    id: int
    start: int
    count: int
    nbytes: int
    open_items: int
    #: The slot that it is for (a call of a set-up); None: any.
    only_slot: SlotRecord | None = None
    #: Offset -> how often it was run again because it raised; offset -> task processes it ended. Both mostly absent.
    tries: dict[int, int] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """A worker that has not been lost."""

    id: int
    name: str
    tags: frozenset[str]
    rtt: float
    joined: float
    state: str = "trusted"
    memory: float = 0.0
    #: How slow it is beside the others, learnt from every job; 1 is the average.
    slowness: float = 1.0
    slots: list[SlotRecord] = field(default_factory=list)
    #: Set-ups that must succeed there before it takes anything else: job -> calls that have not.
    unready: dict[int, int] = field(default_factory=dict)
    #: Groups of tags that it satisfies and some job asks for.
    groups: list[TagGroup] = field(default_factory=list)

    def __str__(self) -> str:
        return f"worker {self.id}"


@dataclass(slots=True, eq=False)
class SlotRecord:
    """A task process. `queue[0]` runs, the rest waits."""

    worker: WorkerRecord
    index: int
    state: str = "ready"
    queue: list[Attempt] = field(default_factory=list)
    #: Calls of set-ups that wait for it, before anything else.
    setup_calls: list[tuple[JobRecord, Span]] = field(default_factory=list)
    #: Where it stands in the heaps of places (-1: nowhere); an entry with another stamp is out of date.
    level: int = -1
    free_places: int = 0
    stamp: int = 0
    deaths: deque[float] = field(default_factory=deque)
    rest_until: float = 0.0

    def __str__(self) -> str:
        return f"slot {self.index} of worker {self.worker.id}"


@dataclass(slots=True, eq=False)
class TagGroup:
    """All slots whose workers carry one set of tags, and the jobs that ask for just that set.

    Heaps with lazy deletion, so that choosing costs log n in slots and jobs however many there are.
    """

    tags: frozenset[str]
    #: One heap per level of load, emptiest first; (rank, slot index, worker id, stamp, slot).
    slot_heaps: list[list[tuple[int, int, int, int, SlotRecord]]]
    #: Jobs that could use a place: (turn, stamp, job).
    job_heap: list[tuple[SchedulingKey, int, JobRecord]] = field(default_factory=list)
    #: Attempts that an idle slot may take from: (-expected end, attempt id, attempt).
    victims: list[tuple[float, int, Attempt]] = field(default_factory=list)
    #: Slots of trusted workers; of these, ready and with nothing to do.
    capacity: int = 0
    idle: int = 0
    #: Places: chunks that its slots could take now.
    free_places: int = 0
    #: Jobs that read a chunk for one of these places -> (until when it is kept for them, priority).
    reservations: dict[int, tuple[float, int]] = field(default_factory=dict)
    #: Jobs that are not over.
    jobs: int = 0
    #: Revokes under way on behalf of idle slots.
    stealing: int = 0


@dataclass(slots=True, eq=False)
class Attempt:
    """Items [lo, hi) of a chunk on one slot. Items below `next` are reported."""

    id: int
    job: JobRecord
    chunk: ChunkRecord
    lo: int
    hi: int
    losses: int
    slot: SlotRecord
    next: int
    state: str
    #: Latest offset it is known to be at, and since when it is at the head of its slot, or was last heard of.
    at: int
    heard_at: float
    #: When it is expected to end, as last entered in the heap of victims.
    end: float
    #: SlotRecord-seconds put on the job's account ahead, and those truly spent.
    charge: float
    spent: float = 0.0
    #: Since when it is at the head of its slot, or reported last: time that no report covers yet.
    unaccounted_since: float = 0.0
    #: A Revoke is under way on behalf of an idle slot; of this other job.
    stolen: bool = False
    claimant: JobRecord | None = None

    def __str__(self) -> str:
        return f"attempt {self.id} (job {self.job.id}, chunk {self.chunk.id}, items {self.lo}:{self.hi})"


@dataclass(slots=True, eq=False)
class WorkerStats:
    """What one worker did for one job."""

    name: str
    slots: int
    since: float
    items: int = 0
    chunks: int = 0
    seconds: float = 0.0
    #: Items of the largest chunk that it finished.
    largest: int = 0
    item_time: ItemTime = field(default_factory=ItemTime)


@dataclass(slots=True, eq=False)
class JobRecord:
    """One map call. Counters of items: read >= settled >= delivered >= consumed."""

    id: int
    spec: JobSpec
    group: TagGroup
    began: float
    gather: Unordered | InOrder
    #: Totals of the scheduler when it began: task processes that died, workers lost.
    deaths_before: int
    losses_before: int
    #: SlotRecord-seconds served, on the scale that all jobs share (start-time fair queueing).
    served: float
    state: str = "running"
    outcome: Outcome = "done"
    crashed: bool = False

    input: str = "open"
    requested: int = 0
    requested_chunk: int = -1
    #: Pushed jobs: items, and their bytes, that wait to be taken.
    available: int = 0
    available_bytes: int = 0

    chunks: dict[int, ChunkRecord] = field(default_factory=dict)
    queue: list[Span] = field(default_factory=list)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    #: Attempts given up with their slot or worker, whose reports would be duplicates.
    stale: list[int] = field(default_factory=list)
    #: Out of date when an entry of the heap of ready jobs has another stamp.
    stamp: int = 0
    #: Attempts of it that wait on a slot and can be taken back: (expected start, attempt id, attempt), and how many.
    waiting_heap: list[tuple[float, int, Attempt]] = field(default_factory=list)
    waiting: int = 0
    #: Revokes under way that it caused to get a place; places that came of them and that it did not use yet.
    claims: int = 0
    owed_places: int = 0

    read: int = 0
    #: Items of the input that came when the job was ending, and that nobody runs.
    unrun_items: int = 0
    queued: int = 0
    settled: int = 0
    delivered: int = 0
    consumed: int = 0
    #: Streaming jobs: items not consumed, per chunk in the order of reading.
    unconsumed: deque[int] = field(default_factory=deque)
    input_bytes: int = 0
    result_bytes: int = 0
    item_bytes: float = 0.0

    failed: int = 0
    retried: int = 0
    requeued: int = 0
    duplicates: int = 0
    #: Task processes that died since an item was last finished.
    deaths_in_a_row: int = 0
    peak_done: int = 0

    item_time: ItemTime = field(default_factory=ItemTime)
    worker_stats: dict[int, WorkerStats] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)

    def __str__(self) -> str:
        return f"job {self.id}"

    @property
    def streaming(self) -> bool:
        """A consumer pulls, so that a window bounds what waits."""
        return self.spec.gather != "list"

    @property
    def is_reading(self) -> bool:
        """A Read is under way."""
        return self.input == "reading"

    def scheduling_key(self) -> SchedulingKey:
        """Its standing among the jobs that could use a place."""
        return -self.spec.priority, not self.owed_places, self.served, self.id

    def unread(self) -> int | None:
        """Items that are still to come, as far as their announced number can be believed; None: nobody knows."""
        if self.input in ("ended", "failed"):
            return 0
        if self.spec.pushed:
            return self.available
        if self.spec.size is None or self.read >= self.spec.size:
            return None  # Only its reader can tell that nothing is left.
        return self.spec.size - self.read

    def room(self, limits: Limits) -> int:
        """How many items the window lets in now.

        With nothing under way no bytes are held, so one item is let in even if it is larger than the limit. Reads are
        in input order, so the earliest missing item is always inside the window. Hence no window stops a job for ever.
        """
        left = limits.job_bytes - self.input_bytes - self.result_bytes
        if left <= 0:
            return 0
        by_bytes = max(1, int(left / self.item_bytes)) if self.item_bytes > 0 else limits.chunk_items
        if not self.streaming:
            return by_bytes
        if self.spec.buffer is not None:
            return min(by_bytes, self.spec.buffer - (self.read - self.consumed))
        full = len(self.unconsumed) >= limits.window(self.spec.gather) * max(1, self.group.capacity)
        return 0 if full else by_bytes

    def wants_slot(self, limits: Limits) -> bool:
        """It could use a place: something waits to be run, or may be read."""
        if self.state != "running":
            return False
        return bool(self.queue) or (not self.is_reading and self.unread() != 0 and self.room(limits) > 0)
