"""What the scheduler is told (events, past tense) and what it answers (commands, imperative).

Owns the two vocabularies and nothing else: ids and numbers, never bytes, futures or sockets. The driver translates
between these and the engine.

Ids are plain ints, unique for the life of a scheduler. `attempt` names one assignment of a span of a chunk to a slot;
reports of an attempt that is no longer on record are dropped by one rule. Offsets (`lo`, `hi`, `at`) count items
inside a chunk, from 0; item index = start of the chunk + offset. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from typing import Literal

from distmap.tasks._typing import NamedTuple

OnError = Literal["raise", "return", "skip"]
#: How results go to the consumer. list: at once, and all are kept. ordered, unordered: a consumer pulls, and a window
#: bounds what waits for it. fold: as ordered, but a reduction consumes the results.
Gather = Literal["list", "ordered", "unordered", "fold"]
Outcome = Literal["done", "failed", "cancelled"]


class JobSpec(NamedTuple):
    """What the scheduler must know of a job."""

    #: How many items there should be: a hint for chunk sizes and the bar, the answers to Read decide. Only 0 is sure.
    #: None: nobody knows.
    size: int | None = None
    gather: Gather = "list"
    #: Fixed items per chunk; None lets chunks size themselves.
    chunksize: int | None = None
    #: How often an item that raised is run again.
    retries: int = 0
    #: Larger goes first; equal priorities share the slots fairly.
    priority: int = 0
    #: True: the first item that failed for good ends the job (map, fold). False: failures are delivered in place.
    stop_on_failure: bool = True
    #: At most so many items may be read but not consumed (imap's `buffer=`); None: two chunks a slot.
    buffer: int | None = None
    #: True: items are pushed (`submit`) and announced by ItemsAdded; False: they are pulled from an iterable.
    pushed: bool = False
    #: Only workers that carry all of these may run it.
    tags: frozenset[str] = frozenset()
    #: Its label in snapshots.
    name: str = ""
    #: A set-up: it has no items, but one call in each slot, or on each worker, that is there or comes before it ends. A
    #: worker that comes takes nothing else until they succeeded there. Such a job counts as pushed.
    each: Literal["", "slot", "worker"] = ""


# --- events: workers -------------------------------------------------------------------------------------------------


class WorkerJoined(NamedTuple):
    worker: int
    slots: int
    name: str = ""
    tags: frozenset[str] = frozenset()
    #: Round trip to it in seconds; 0 for this machine.
    rtt: float = 0.0


class WorkerLost(NamedTuple):
    """It is gone (connection over, silent too long, left). Its attempts are void; late reports are refused."""

    worker: int
    #: False when it announced its leaving (drain): nobody is charged.
    charged: bool = True


class WorkerSuspected(NamedTuple):
    """Silent for a while: nothing new goes there until it is heard again."""

    worker: int


class WorkerTrusted(NamedTuple):
    worker: int


class WorkerDraining(NamedTuple):
    """It wants to leave: nothing new, what waits there is taken back, what runs may finish."""

    worker: int


class WorkerMeasured(NamedTuple):
    """A heartbeat's figures. cpu and memory are fractions of the host, 0 to 1."""

    worker: int
    rtt: float
    cpu: float
    memory: float


class SlotDied(NamedTuple):
    """A task process ended. If it was running an item, `attempt` and `at` (offset in the chunk) name it.

    reason: "died" (charged to the item), "timeout" (the item exceeded its limit: final), "killed" (by our own Kill:
    nobody is charged), "idle" (it died between chunks).
    """

    worker: int
    slot: int
    attempt: int | None
    at: int | None
    reason: Literal["died", "timeout", "killed", "idle"]


class SlotReady(NamedTuple):
    """A dead slot has a fresh process."""

    worker: int
    slot: int


# --- events: jobs ----------------------------------------------------------------------------------------------------


class JobSubmitted(NamedTuple):
    """A new job; its first items may come with it.

    With `count` > 0 these first items are the first chunk of the job. The first command is then
    `Take(job, chunk, count)`, which gives that chunk its id: no Read asks for these items, and no ChunkRead answers.
    Not for pushed jobs, which announce their items with ItemsAdded.
    """

    job: int
    spec: JobSpec
    #: Items of the first chunk, at most `spec.chunksize` and `spec.buffer`, and the bytes of their input.
    count: int = 0  # type: ignore[assignment]
    nbytes: int = 0
    #: True: the input has no more items. No Read follows.
    last: bool = False


class ItemsAdded(NamedTuple):
    """So many more items of a pushed job, `nbytes` in all, wait to be taken."""

    job: int
    count: int  # type: ignore[assignment]
    nbytes: int = 0


class InputClosed(NamedTuple):
    """No more items will be added to a pushed job."""

    job: int


class ChunkRead(NamedTuple):
    """The answer to Read: the chunk holds `count` items (0 to what was asked); `last`: the input is exhausted.

    Not for pushed jobs: what is taken of them is there.
    """

    job: int
    chunk: int
    count: int  # type: ignore[assignment]
    nbytes: int
    last: bool


class InputFailed(NamedTuple):
    """Iterating or reading the input raised. What was read completes, then the job fails."""

    job: int
    chunk: int


class InputGrew(NamedTuple):
    """So many bytes more are held for the input of the chunk: a value that it mentions is kept for it alone now."""

    job: int
    chunk: int
    nbytes: int


class AttemptProgressed(NamedTuple):
    """A hint for views only: the attempt is at offset `at` of its chunk."""

    attempt: int
    at: int


class AttemptReported(NamedTuple):
    """Items [lo, hi) of the attempt's chunk are finished; `failed` are the offsets among them that raised.

    Reports of one attempt follow each other without gaps. `ended`: the slot is through with the attempt; if hi is
    short of the attempt's end, the rest was not run and goes back free. `seconds`: time spent on [lo, hi).
    """

    attempt: int
    lo: int
    hi: int
    failed: tuple[int, ...]
    seconds: float
    nbytes: int
    ended: bool


class AttemptLost(NamedTuple):
    """What ran the attempt ended, and nothing else on its slot ended with it (an executor says so by its future).

    Which of the items that are not reported did it is unknown, unless there is but one.
    """

    attempt: int


class AttemptRefused(NamedTuple):
    """The engine could not run the attempt at all (its code did not load, its input did not unpickle).

    The job fails with the error that the driver holds; of a set-up only this call does.
    """

    attempt: int


class Consumed(NamedTuple):
    """The consumer took `count` items (`nbytes` of results) of what was delivered; frees the window.

    Not for jobs that gather a list, pushed ones among them: no window holds them up.
    """

    job: int
    count: int  # type: ignore[assignment]
    nbytes: int


class CancelRequested(NamedTuple):
    job: int


class PauseRequested(NamedTuple):
    """Nothing new of this job is assigned; what runs goes on; what waits on slots is taken back."""

    job: int


class ResumeRequested(NamedTuple):
    job: int


class Ticked(NamedTuple):
    """Time passed; sent at or after `Scheduler.deadline()`."""


Event = (
    WorkerJoined
    | WorkerLost
    | WorkerSuspected
    | WorkerTrusted
    | WorkerDraining
    | WorkerMeasured
    | SlotDied
    | SlotReady
    | JobSubmitted
    | ItemsAdded
    | InputClosed
    | ChunkRead
    | InputFailed
    | InputGrew
    | AttemptProgressed
    | AttemptReported
    | AttemptLost
    | AttemptRefused
    | Consumed
    | CancelRequested
    | PauseRequested
    | ResumeRequested
    | Ticked
)


# --- commands --------------------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """Read at most `count` items of the job's input into the new chunk `chunk`; answer with ChunkRead/InputFailed.

    At most one Read of a job is under way at a time. Not for pushed jobs.
    """

    job: int
    chunk: int
    count: int  # type: ignore[assignment]


class Take(NamedTuple):
    """The next `count` items that were pushed, or came with JobSubmitted, are the new chunk `chunk`. No answer."""

    job: int
    chunk: int
    count: int  # type: ignore[assignment]


class SetUp(NamedTuple):
    """The new chunk is the one call of a set-up that is for this slot. No answer: there is nothing to be read."""

    job: int
    chunk: int
    worker: int
    slot: int


class Assign(NamedTuple):
    """Send items [lo, hi) of the chunk to the slot."""

    worker: int
    slot: int
    attempt: int
    job: int
    chunk: int
    lo: int
    hi: int


class Revoke(NamedTuple):
    """Run no item of the attempt at or beyond offset `stop`; the slot answers with a report that has ended."""

    worker: int
    slot: int
    attempt: int
    stop: int


class Interrupt(NamedTuple):
    """Stop the item that the attempt runs (KeyboardInterrupt in it) and what follows it."""

    worker: int
    slot: int
    attempt: int


class Kill(NamedTuple):
    """End the slot's process; answered by SlotDied(reason="killed") and SlotReady."""

    worker: int
    slot: int


class Deliver(NamedTuple):
    """The results [lo, hi) of the attempt's report are accepted: hand them to the consumer, in this order."""

    job: int
    chunk: int
    lo: int
    hi: int
    attempt: int


class DeliverLoss(NamedTuple):
    """An item failed for good without a report of its own: hand the consumer an error in its place.

    cause: "poison" (killed too many task processes), "hosts" (lost with too many workers), "timeout"; of a set-up
    also "gone" (its worker has left) and "refused" (it did not load there).
    """

    job: int
    chunk: int
    at: int
    cause: Literal["poison", "hosts", "timeout", "gone", "refused"]


class Discard(NamedTuple):
    """Results [lo, hi) of the attempt are not wanted (stale, duplicate, cancelled, to be retried)."""

    attempt: int
    lo: int
    hi: int


class Release(NamedTuple):
    """The chunk's input is no longer needed: free its bytes."""

    job: int
    chunk: int


class Finish(NamedTuple):
    """The job is over: nothing of it runs, waits, or will be delivered any more.

    crashed: it was stopped by the crash-loop breaker.
    """

    job: int
    outcome: Outcome
    crashed: bool = False


Command = Read | Take | SetUp | Assign | Revoke | Interrupt | Kill | Deliver | DeliverLoss | Discard | Release | Finish
