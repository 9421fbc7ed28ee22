"""Input and output of the scheduler: events (what happened, past tense) and commands (what to do, imperative).

Owns these two vocabularies only: ids and numbers, never bytes, futures or sockets. The driver translates between them
and the engines. Import as `from distmap.core import events as ev`: messages of the wire have names like Revoke too.

Ids are ints that are unique for the life of a scheduler. An attempt is one assignment of items of a chunk to a slot;
reports of an attempt that is no longer on record are dropped. Offsets (`lo`, `hi`, `at`) count items inside a chunk,
from 0: the index of an item is the start of its chunk plus its offset. Times are seconds of a monotonic clock.

Longer than 400 lines because events and commands are one vocabulary, to be read side by side.
"""

from __future__ import annotations

from typing import Literal

from distmap.tasks._typing import NamedTuple

OnError = Literal["raise", "return", "skip"]
#: How results go to the consumer. list: at once, and all are kept. ordered, unordered: a consumer pulls, and a window
#: bounds what waits for it. fold: as ordered, but a reduction consumes the results.
Gather = Literal["list", "ordered", "unordered", "fold"]
Outcome = Literal["done", "failed", "cancelled"]
#: Why a task process ended: see `SlotDied`.
DeathReason = Literal["died", "timeout", "memory", "limit", "killed", "idle"]


class JobSpec(NamedTuple):
    """What the scheduler must know of a job."""

    #: Expected number of items, a hint for chunk sizes and the bar; None: unknown. The answers to Read decide, except
    #: for 0, which is certain.
    size: int | None = None
    gather: Gather = "list"
    #: Fixed items per chunk; None lets chunks size themselves.
    chunksize: int | None = None
    #: How many times an item that raised is run again.
    retries: int = 0
    #: Jobs with a larger number go first; equal priorities share the slots fairly.
    priority: int = 0
    #: True: the first final failure of an item ends the job. False: failures are delivered in the item's place.
    stop_on_failure: bool = True
    #: Largest number of items that are read and not consumed (`buffer=` of imap); None: two chunks for each slot.
    buffer: int | None = None
    #: True: items are pushed (`submit`) and announced by ItemsAdded; False: they are pulled from an iterable.
    pushed: bool = False
    #: A panel shows it though its items are pushed: it has a timeline.
    shown: bool = False
    #: Only workers that carry all of these may run it.
    tags: frozenset[str] = frozenset()
    #: Label of the job in snapshots.
    name: str = ""
    #: The same for jobs that call the same function: what one learnt of its pace, the next begins with. "": nothing.
    function: str = ""
    #: Not "": the job is a set-up. It has no items, but one call in each slot or on each worker, also on workers that
    #: join before it ends. Those run nothing else until their calls succeeded. Such a job counts as pushed.
    each: Literal["", "slot", "worker"] = ""


# --- events: workers -------------------------------------------------------------------------------------------------


class WorkerJoined(NamedTuple):
    """A new worker, all of whose slots are ready. A worker that was lost and comes back gets a new id."""

    worker: int
    slots: int
    name: str = ""
    tags: frozenset[str] = frozenset()
    #: Round trip to it in seconds; 0 for this machine.
    rtt: float = 0.0
    #: As in WorkerMeasured.
    ahead: float = 0.0


class WorkerLost(NamedTuple):
    """The worker is gone: it was disconnected, silent for too long, or left. Late reports of it are refused."""

    worker: int
    #: False if it announced that it leaves (drain): then no item is charged.
    charged: bool = True


class WorkerSuspected(NamedTuple):
    """The worker is silent: it gets no new work until it is heard again."""

    worker: int


class WorkerTrusted(NamedTuple):
    """The worker is heard again."""

    worker: int


class WorkerDraining(NamedTuple):
    """The worker wants to leave: it gets no new work, what waits there is taken back, what runs may finish."""

    worker: int


class WorkerMeasured(NamedTuple):
    """Figures of a heartbeat: the round trip in seconds; cpu and memory in use as fractions of the host, 0 to 1."""

    worker: int
    rtt: float
    cpu: float
    memory: float
    #: Seconds of work that each of its slots should hold beyond what runs: what its connection may be out of reach for.
    ahead: float = 0.0


class SlotDied(NamedTuple):
    """A task process ended. If it ran an item, `attempt` and `at` (offset in the chunk) name the item.

    reason: "died" (the item is charged), "timeout" (the item took too long and fails), "memory" (the process was ended
    for want of memory, which others may have used: the item runs again alone, and fails if that happens then), "limit"
    (the item passed the memory limit of its slot and fails), "killed" (by the command Kill: no item is charged), "idle"
    (it ran no item).
    """

    worker: int
    slot: int
    attempt: int | None
    at: int | None
    reason: DeathReason


class SlotReady(NamedTuple):
    """The slot has a new process."""

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
    """`count` more items of a pushed job, of `nbytes` in all, wait to be taken."""

    job: int
    count: int  # type: ignore[assignment]
    nbytes: int = 0


class InputClosed(NamedTuple):
    """No more items will be added to the pushed job."""

    job: int


class ChunkRead(NamedTuple):
    """The answer to Read: the chunk holds `count` items, at most as many as requested. `last`: the input has no more.

    Not for pushed jobs: Take needs no answer.
    """

    job: int
    chunk: int
    count: int  # type: ignore[assignment]
    nbytes: int
    last: bool


class InputFailed(NamedTuple):
    """The answer to Read if the input raised. The items that were read before are completed, then the job fails."""

    job: int
    chunk: int


class InputGrew(NamedTuple):
    """The driver holds `nbytes` more for the chunk: a broadcast value that only this chunk still needs."""

    job: int
    chunk: int
    nbytes: int


class AttemptProgressed(NamedTuple):
    """A hint: the attempt has come to offset `at` of its chunk. Nothing is accepted by it."""

    attempt: int
    at: int


class AttemptReported(NamedTuple):
    """Items [lo, hi) of the attempt's chunk are finished; `failed` are the offsets of those that raised.

    The reports of an attempt leave no gaps. `seconds` is the time spent on [lo, hi). `ended`: the slot has finished the
    attempt. Items from hi on were then not run; they are queued again, and nothing is charged.
    """

    attempt: int
    lo: int
    hi: int
    failed: tuple[int, ...]
    seconds: float
    nbytes: int
    ended: bool


class AttemptLost(NamedTuple):
    """The process that ran the attempt ended, and no other attempt ended with it: an engine of somebody else's says so.

    at: offset of the item that it ran, as far as it is known; else any of those that were not reported may be the
    cause. reason: as of SlotDied.
    """

    attempt: int
    at: int | None = None
    reason: DeathReason = "died"


class AttemptRefused(NamedTuple):
    """The engine could not run the attempt at all: its code did not load, or its input did not unpickle.

    The worker is left out of the job. If no other one can take the job, it fails with the errors that the driver holds.
    Of a set-up, only this call fails.
    """

    attempt: int
    #: The worker has other packages than the job was made with, and would run it if no other worker can.
    unfit: bool = False


class Consumed(NamedTuple):
    """The consumer took `count` of the delivered items, with `nbytes` of results: more may be read.

    Not for jobs that gather a list or are pushed: they have no window.
    """

    job: int
    count: int  # type: ignore[assignment]
    nbytes: int


class CancelRequested(NamedTuple):
    """The job has to end: what runs is interrupted."""

    job: int


class PauseRequested(NamedTuple):
    """The job has to pause: what runs goes on, what waits on slots is taken back, nothing new is assigned."""

    job: int


class ResumeRequested(NamedTuple):
    """The job may go on."""

    job: int


class DispatchMeasured(NamedTuple):
    """What a chunk costs the loop, on average of the last ones: seconds of its processor time, reports included."""

    seconds: float


class Ticked(NamedTuple):
    """Time has passed. Sent at or after `Scheduler.deadline()`."""


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
    | DispatchMeasured
    | Ticked
)


# --- commands --------------------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """Read at most `count` items of the job's input into the new chunk `chunk`. Answered by ChunkRead or InputFailed.

    A job has at most one unanswered Read. Not for pushed jobs.
    """

    job: int
    chunk: int
    count: int  # type: ignore[assignment]


class Take(NamedTuple):
    """The next `count` items that were pushed, or came with JobSubmitted, are the new chunk `chunk`. Has no answer."""

    job: int
    chunk: int
    count: int  # type: ignore[assignment]


class SetUp(NamedTuple):
    """The new chunk is the call of the set-up in this slot. Has no answer: nothing is to be read."""

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
    """Run no item of the attempt from offset `stop` on. Answered by a report with `ended`."""

    worker: int
    slot: int
    attempt: int
    stop: int


class Interrupt(NamedTuple):
    """Raise KeyboardInterrupt in the item that the attempt runs, and run none after it."""

    worker: int
    slot: int
    attempt: int


class Kill(NamedTuple):
    """End the slot's process. Answered by SlotDied(reason="killed") and SlotReady."""

    worker: int
    slot: int


class Deliver(NamedTuple):
    """Results [lo, hi) of the attempt are accepted: pass them to the consumer, in the order of these commands."""

    job: int
    chunk: int
    lo: int
    hi: int
    attempt: int


class DeliverLoss(NamedTuple):
    """An item failed and has no result: pass the consumer an error in its place.

    cause: "poison" (it ended too many task processes), "hosts" (too many workers were lost while they ran it),
    "timeout", "memory" (it needs more memory than there is), "limit" (more than its slot may use); of a set-up also
    "gone" (its worker has left) and "refused" (it did not load there).
    """

    job: int
    chunk: int
    at: int
    cause: Literal["poison", "hosts", "timeout", "memory", "limit", "gone", "refused"]


class Discard(NamedTuple):
    """Drop results [lo, hi) of the attempt: it is stale, a duplicate or cancelled, or its item is run again."""

    attempt: int
    lo: int
    hi: int


class Release(NamedTuple):
    """Free the input of the chunk: no item needs it any more."""

    job: int
    chunk: int


class Finish(NamedTuple):
    """The job is over: nothing of it runs, waits or will be delivered.

    crashed: it was stopped because task processes died again and again. refused: because no worker could run its code.
    """

    job: int
    outcome: Outcome
    crashed: bool = False
    refused: bool = False


Command = Read | Take | SetUp | Assign | Revoke | Interrupt | Kill | Deliver | DeliverLoss | Discard | Release | Finish
