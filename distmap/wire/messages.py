"""Messages between the driver's side and a slot: plain values, never bytes of a user.

Owns the message types. A message travels with zero or more *parts* (opaque buffers: pickles and raw data) that are
never looked into here. `codec.py` turns messages into header bytes and back, without pickle. Imported by task
processes, so it stays light.

`attempt`, `lo`, `hi`, `at`, `slot` mean what they mean in `core/events.py`. A digest is 16 bytes.
"""

from __future__ import annotations

from distmap.tasks._typing import Literal, NamedTuple

#: Most bytes of text in one Output, and most pieces. Part of the format: a receiver refuses more.
OUTPUT_BYTES = 1 << 20
OUTPUT_PIECES = 4096

BlobKind = Literal["code", "value", "modules", "extras", "surroundings", "secret", "descriptor"]
DeathReason = Literal["died", "timeout", "killed", "idle", "memory", "limit"]


class Put(NamedTuple):
    """Keep the parts (one payload: head, then buffers) under this digest."""

    digest: bytes
    kind: BlobKind
    #: Name of the function, for the log of the worker. Any characters; a long one is cut.
    name: str = ""


#: Most characters of a name. Part of the format: a receiver refuses more.
MAX_NAME = 80


class Drop(NamedTuple):
    """Forget what is kept under this digest."""

    digest: bytes


class Task(NamedTuple):
    """Run items [lo, hi) of a chunk; the parts are the chunk's items as one payload (head, then buffers)."""

    slot: int
    attempt: int
    #: Digest of the code to run (put before).
    code: bytes
    #: Digests of the module bundles and broadcast values that the items need (put before).
    needs: tuple[bytes, ...]
    lo: int
    hi: int
    #: Index in the job of the chunk's item 0.
    start: int
    #: Seconds an item may run; 0: no limit.
    timeout: float
    #: Whether what the items print is sent as Output; otherwise it is dropped.
    output: bool = True
    #: Whether the slot refuses the task if it has other packages than the code was made with.
    strict: bool = False


class Report(NamedTuple):
    """Items [lo, hi) are finished; the parts are their results as one payload. See core AttemptReported."""

    slot: int
    attempt: int
    lo: int
    hi: int
    seconds: float
    ended: bool
    #: Offsets of the items that raised.
    failed: tuple[int, ...]


class Refused(NamedTuple):
    """The attempt could not be run at all; the part is a pickled Failure with the reason, and what is missing there."""

    slot: int
    attempt: int
    #: It could be, but for other packages than the code was made with: see `Task.strict`.
    unfit: bool = False


#: Stream number of a line that no item printed: a notice to the caller, such as another version of a package.
NOTICE = 2
#: Stream number of a sentence to the caller about how the items were run.
REMARK = 3


class Output(NamedTuple):
    """What items of an attempt printed. The part is the text of all pieces in UTF-8; without pieces there is no part.

    A process that forwards it may drop the text and count its lines in `dropped`, but must keep its order among the
    reports.
    """

    slot: int
    attempt: int
    #: Lines printed since the last Output that are not in the text.
    dropped: int
    #: Offset of the item (-1: none ran), 0 for standard output, 1 for standard error, NOTICE or REMARK, bytes of text.
    pieces: tuple[tuple[int, int, int], ...]

    def spells(self, nbytes: int) -> bool:
        """Whether the pieces make up a text of exactly `nbytes`, within the bounds."""
        return (
            nbytes <= OUTPUT_BYTES
            and len(self.pieces) <= OUTPUT_PIECES
            and nbytes == sum(size for _, _, size in self.pieces)
        )


class Revoke(NamedTuple):
    """Run no item of the attempt at or beyond `stop`."""

    slot: int
    attempt: int
    stop: int


class Interrupt(NamedTuple):
    """Raise KeyboardInterrupt in the item that the attempt runs, and end the attempt."""

    slot: int
    attempt: int


class Kill(NamedTuple):
    """End the slot's process and start a fresh one."""

    slot: int


class Renew(NamedTuple):
    """Replace the slot's process once it has answered for the tasks that it has: packages were installed."""

    slot: int


class Died(NamedTuple):
    """The slot's process ended; `text` says how, for people. Attempt and item are -1 if it was idle."""

    slot: int
    attempt: int
    at: int
    reason: DeathReason
    text: str


class Ready(NamedTuple):
    """The slot has a fresh process."""

    slot: int


class Segment(NamedTuple):
    """A shared memory segment whose descriptor comes with this message (same host only)."""

    segment: int
    size: int


class Free(NamedTuple):
    """Nothing on this side refers to the segment's memory any more; the process that made it may use it again."""

    segment: int


class Beat(NamedTuple):
    """Heartbeat of a worker. Load of the host (0 to 1), and per slot: (attempt or -1, offset, seconds in that item)."""

    cpu: float
    memory: float
    slots: tuple[tuple[int, int, float], ...]
    #: For the first slots, the state of a process whose item runs for long, as the letter of the system (D, T ...); a
    #: space: not known.
    states: str = ""
    #: Of slots with a GPU each: load and memory in use of it, 0 to 1; negative: not known.
    devices: tuple[tuple[float, float], ...] = ()


class Draining(NamedTuple):
    """The worker wants to leave: it takes no new work, finishes what runs, then sends Bye. A pool bids it do so."""


class Bye(NamedTuple):
    """The sender leaves for good; no message of it follows."""

    reason: str


Message = (
    Put
    | Drop
    | Task
    | Report
    | Output
    | Refused
    | Revoke
    | Interrupt
    | Kill
    | Renew
    | Died
    | Ready
    | Segment
    | Free
    | Beat
    | Draining
    | Bye
)
