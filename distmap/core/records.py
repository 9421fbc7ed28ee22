"""The scheduler's records: one for each worker, slot, job, chunk and attempt.

Owns their fields, and what can be computed from one record alone. Decides nothing: `state.py`, `chunk_queue.py` and
`worker_index.py` change the records.
"""

from __future__ import annotations

import math
from collections import deque

from distmap.core.chunks import ItemTime
from distmap.core.events import JobSpec, Outcome
from distmap.core.gather import InOrder, Unordered
from distmap.core.known_pace import KnownPace
from distmap.core.limits import Limits
from distmap.core.pace import ConsumerPace
from distmap.core.progress import Meter
from distmap.tasks._records import Record, field

#: The job with the smallest key gets the next place: (-priority, no place is owed to it, served time, id).
SchedulingKey = tuple[int, bool, float, int]
#: Items of a chunk that wait to be run: (item index, lo, hi, host losses so far, chunk). In a heap the earliest item
#: comes first. No two queued spans have the same index, so the fields behind it are never compared.
Span = tuple[int, int, int, int, "ChunkRecord"]
#: A slot in a heap: (rank, slot index, worker id, stamp, slot).
SlotEntry = tuple[int, int, int, int, "SlotRecord"]


class ChunkRecord(Record):
    """Items that were read together. `open_items` counts those that still need the chunk's input."""

    id: int
    start: int
    count: int
    nbytes: int
    open_items: int
    #: The slot in which it has to run (a call of a set-up); None: any slot.
    only_slot: SlotRecord | None = None
    #: The worker for which it was read, until it is assigned: there it has the right size.
    sized_for: WorkerRecord | None = None
    #: Offset -> times the item was run again because it raised; offset -> task processes that it ended.
    tries: dict[int, int] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    #: Offsets of items that have to run alone -> the worker where they ran last. Mostly absent.
    alone: dict[int, int] | None = None


class WorkerRecord(Record):
    """A worker that has not been lost."""

    id: int
    name: str
    tags: frozenset[str]
    rtt: float
    joined: float
    state: str = "trusted"
    memory: float = 0.0
    #: Seconds of work that each slot should hold beyond what runs.
    ahead: float = 0.0
    #: Its time per item relative to the average of all workers, learnt from every job.
    slowness: float = 1.0
    slots: list[SlotRecord] = field(default_factory=list)
    #: Set-ups that must succeed before it runs anything else: job -> calls that have not succeeded yet.
    unready: dict[int, int] = field(default_factory=dict)
    #: The tag groups to which it belongs.
    groups: list[TagGroup] = field(default_factory=list)
    #: It runs nothing else until this item has run.
    quiet_for: LoneItem | None = None

    def __str__(self) -> str:
        return f"worker {self.id}"


class SlotRecord(Record):
    """A slot: one task process of a worker. `queue[0]` runs, the rest waits."""

    worker: WorkerRecord
    index: int
    state: str = "ready"
    queue: list[Attempt] = field(default_factory=list)
    #: Calls of set-ups that wait for it, and go before anything else.
    setup_calls: list[tuple[JobRecord, Span]] = field(default_factory=list)
    #: The heap that it is in (-1: none); entries with another stamp are old.
    level: int = -1
    free_places: int = 0
    stamp: int = 0
    deaths: deque[float] = field(default_factory=deque)
    rest_until: float = 0.0
    #: What `waiting_seconds` gave when `can_hold_more` was asked last.
    waits: float = 0.0

    def __str__(self) -> str:
        return f"slot {self.index} of worker {self.worker.id}"

    def waiting_seconds(self) -> float:
        """Seconds of work that wait here behind what runs; endless if the time of an item is not known."""
        seconds, job, item_time = 0.0, None, 0.0
        for attempt in self.queue[1:]:
            if attempt.job is not job:  # many of one job wait here, and this is asked for each of them
                job = attempt.job
                known = job.item_time_on(self.worker)
                item_time = math.inf if known is None else known
            seconds += (attempt.hi - attempt.lo) * item_time
        return seconds

    def can_hold_more(self, limits: Limits) -> bool:
        """Whether more may be sent than what waits here anyway: its worker may be out of reach for a while."""
        self.waits = self.waiting_seconds()
        return (
            len(self.queue) <= limits.ahead_chunks
            and self.waits < self.worker.ahead
            and sum([attempt.chunk.nbytes for attempt in self.queue[1:]]) < limits.ahead_bytes
        )


class LoneItem(Record):
    """An item that has to run alone (see `alone.py`): it waits, or `attempt` runs it."""

    job: JobRecord
    span: Span
    #: The worker where it ran last: another one is preferred.
    last: int
    #: The worker that is kept quiet for it.
    worker: WorkerRecord | None = None
    attempt: int | None = None


class TagGroup(Record):
    """The slots whose workers have all tags of one set, and the jobs that ask for exactly that set.

    Of the workers some may be left out: then it is the group of the jobs whose code exactly these cannot run.

    Heaps with lazy deletion, so that a choice costs log n in slots and jobs.
    """

    tags: frozenset[str]
    #: One heap for each level of load, the emptiest first.
    slot_heaps: list[list[SlotEntry]]
    #: Jobs that want a slot: (scheduling key, stamp, job).
    job_heap: list[tuple[SchedulingKey, int, JobRecord]] = field(default_factory=list)
    #: Attempts from which an idle slot may take items: (-expected end, attempt id, attempt).
    victims: list[tuple[float, int, Attempt]] = field(default_factory=list)
    #: Slots of trusted workers; those of them that are ready and have nothing to do.
    capacity: int = 0
    idle: int = 0
    #: Chunks that its slots could take now.
    free_places: int = 0
    #: Slots that have all that slots usually have and may be sent more, as the heaps above; slots of trusted workers to
    #: which more is sent ahead, and the most seconds of it.
    ahead_heap: list[SlotEntry] = field(default_factory=list)
    ahead_slots: int = 0
    ahead: float = 0.0
    #: Jobs that read a chunk for one of these places -> (time until which the place is kept, priority).
    reservations: dict[int, tuple[float, int]] = field(default_factory=dict)
    #: Workers that are left out.
    without: frozenset[int] = frozenset()
    #: Jobs that are not over.
    jobs: int = 0
    #: Unanswered Revokes on behalf of idle slots.
    stealing: int = 0

    def takes(self, worker: WorkerRecord) -> bool:
        """Whether the worker may run its jobs."""
        return self.tags <= worker.tags and worker.id not in self.without


class Attempt(Record):
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
    #: Last known offset; when it came to the head of its slot, or was last heard of.
    at: int
    heard_at: float
    #: Expected end, as last entered in the heap of victims.
    end: float
    #: Slot-seconds charged to the job in advance; those really spent.
    charge: float
    spent: float = 0.0
    #: When it came to the head of its slot, or reported last: no report covers the time since then.
    unaccounted_since: float = 0.0
    #: A Revoke is unanswered on behalf of an idle slot; the job on whose behalf a Revoke is unanswered.
    stolen: bool = False
    claimant: JobRecord | None = None

    def __str__(self) -> str:
        return f"attempt {self.id} (job {self.job.id}, chunk {self.chunk.id}, items {self.lo}:{self.hi})"


class WorkerStats(Record):
    """Figures of what one worker did for one job."""

    name: str
    slots: int
    since: float
    items: int = 0
    chunks: int = 0
    seconds: float = 0.0
    #: Items of the largest chunk that it finished.
    largest: int = 0
    item_time: ItemTime = field(default_factory=ItemTime)


class JobRecord(Record):
    """One map call. Counters of items: read >= settled >= delivered >= consumed."""

    id: int
    spec: JobSpec
    group: TagGroup
    began: float
    gather: Unordered | InOrder
    #: Totals of the scheduler when it began: task processes that died, workers lost.
    deaths_before: int
    losses_before: int
    #: Slot-seconds served, on one scale for all jobs (start-time fair queueing).
    served: float
    #: What an earlier job of the same function learnt.
    known: KnownPace | None = None
    state: str = "running"
    outcome: Outcome = "done"
    crashed: bool = False
    refused: bool = False
    #: Workers that cannot run its code; those that have other packages, and run it only if no other worker can.
    unable: set[int] = field(default_factory=set)
    unfit: set[int] = field(default_factory=set)

    input: str = "open"
    requested: int = 0
    requested_chunk: int = -1
    #: The worker for which it has its size.
    requested_for: WorkerRecord | None = None
    #: Of pushed jobs: items that wait to be taken, and their bytes.
    available: int = 0
    available_bytes: int = 0

    chunks: dict[int, ChunkRecord] = field(default_factory=dict)
    queue: list[Span] = field(default_factory=list)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    #: Attempts that were given up with their slot or worker; their reports are duplicates.
    stale: list[int] = field(default_factory=list)
    #: Entries of the job heap with another stamp are old.
    stamp: int = 0
    #: Its attempts that wait on a slot and can be taken back: (expected start, attempt id, attempt); their number.
    waiting_heap: list[tuple[float, int, Attempt]] = field(default_factory=list)
    waiting: int = 0
    #: Unanswered Revokes by which it gets a place; places that came of them and that it has not used yet.
    claims: int = 0
    owed_places: int = 0

    read: int = 0
    #: Items that were read when the job was ending already, and are not run.
    unrun_items: int = 0
    queued: int = 0
    settled: int = 0
    delivered: int = 0
    consumed: int = 0
    #: Of streaming jobs: items not consumed, for each chunk in the order of reading.
    unconsumed: deque[int] = field(default_factory=deque)
    pace: ConsumerPace = field(default_factory=ConsumerPace)
    input_bytes: int = 0
    result_bytes: int = 0
    item_bytes: float = 0.0
    #: Of streaming jobs: bytes of the result of an item, measured as `item_bytes` of its input is.
    result_item_bytes: float = 0.0

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
        """A consumer pulls the results, and a window bounds what waits for it."""
        return self.spec.gather != "list"

    @property
    def is_reading(self) -> bool:
        """A Read is not answered yet."""
        return self.input == "reading"

    def scheduling_key(self) -> SchedulingKey:
        """Its place in the order of the jobs that want a slot."""
        return -self.spec.priority, not self.owed_places, self.served, self.id

    def item_time_on(self, worker: WorkerRecord) -> float | None:
        """Seconds per item on the worker; if none was measured there, on all workers, or else in an earlier job."""
        stats = self.worker_stats.get(worker.id)
        if stats is not None and stats.item_time.seconds is not None:
            return stats.item_time.seconds
        if self.item_time.seconds is None and self.known is not None:
            return self.known.seconds
        return self.item_time.seconds

    def fair_seconds(self, worker: WorkerRecord) -> float:
        """Seconds of work that each slot would have if all that is not done were dealt out; endless if nobody knows.

        The time is that of the worker; 0 if the time of an item is not known.
        """
        item_time, unread = self.item_time_on(worker), self.unread()
        if item_time is None:
            return 0.0
        left = math.inf if unread is None else unread + self.read - self.settled
        return left * item_time / max(1, self.group.capacity)

    def unread(self) -> int | None:
        """Items that were not read yet, according to the announced size; None: unknown."""
        if self.input in ("ended", "failed"):
            return 0
        if self.spec.pushed:
            return self.available
        if self.spec.size is None or self.read >= self.spec.size:
            return None  # Only its reader knows whether more items come.
        return self.spec.size - self.read

    def room(self, limits: Limits) -> int:
        """The number of items that the window has room for.

        Without unfinished items no bytes are held, so one item has room even if it is larger than the limit. Items are
        read in input order, so the earliest missing item is always inside the window: no window stops a job for ever.
        """
        # Results that are to come count too, but for one item for each slot: else large ones would run one by one.
        coming = self.result_item_bytes * max(0, self.read - self.settled - self.group.capacity)
        left = limits.job_bytes - self.input_bytes - self.result_bytes - coming
        if left <= 0:
            return 0
        each = self.item_bytes + self.result_item_bytes
        by_bytes = max(1, int(left / each)) if each > 0 else limits.chunk_items
        if self.spec.gather == "list":
            return by_bytes
        if self.spec.buffer is not None:
            return min(by_bytes, self.spec.buffer - (self.read - self.consumed))
        ahead = limits.ahead_chunks * self.group.ahead_slots
        if len(self.unconsumed) >= self._window_chunks(limits) + ahead:
            return 0
        return max(0, min(by_bytes, self._window_items(limits) - (self.read - self.consumed)))

    def _window_chunks(self, limits: Limits) -> int:
        return limits.window(self.spec.gather) * max(1, self.group.capacity)

    def _window_items(self, limits: Limits) -> int:
        """Items that a stream may have read and not consumed: what its consumer takes in `stream_seconds`.

        And what it takes while a worker is out of reach. At least one for each chunk, so that a slow consumer of slow
        items does not keep slots idle.
        """
        least = self._window_chunks(limits) * (self.spec.chunksize or 1)
        items = self.pace.items_in(limits.stream_seconds + self.group.ahead)
        return limits.growth * least if items is None else int(min(max(least, items), 1 << 62))

    def consumer_chunk(self, limits: Limits) -> int:
        """The largest chunk for its consumer: a share of the window, so that all slots work for it.

        But a chunk that keeps the consumer busy for as long as it may keep a slot is never too large.
        """
        if not self.streaming or self.spec.buffer is not None:
            return limits.chunk_items
        share = self._window_items(limits) // self._window_chunks(limits)
        items = self.pace.items_in(limits.chunk_seconds) or 0.0
        return int(min(max(1, share, items), limits.chunk_items))

    def wants_slot(self, limits: Limits) -> bool:
        """Whether something of it waits to be run, or may be read."""
        if self.state != "running":
            return False
        if self.queue:
            return True
        if self.input == "reading" or self.unread() == 0:
            return False
        if self.spec.gather == "list":  # quicker than `room`, which says the same
            return self.input_bytes + self.result_bytes < limits.job_bytes
        return self.room(limits) > 0
