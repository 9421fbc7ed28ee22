"""The ports between the driver and whatever runs chunks.

Owns the protocols. The driver calls an `Engine`; the engine announces each worker to the `Sink` that it was started
with, and reports to the `WorkerListener` that it is given for it. All calls in both directions happen on the portal's
loop thread and never block. Parts are opaque here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from distmap.slots.listener import SlotListener
from distmap.tasks._typing import Buffer, NamedTuple
from distmap.wire.messages import BlobKind, DeathReason, Task

Parts = Sequence[Buffer]


class WorkerInfo(NamedTuple):
    """Who a worker is; shown by `pool.workers`."""

    name: str
    host: str
    slots: int
    python: str
    tags: frozenset[str] = frozenset()
    #: How it is reached: "local", or its URL or address.
    address: str = "local"
    rtt: float = 0.0
    #: Whether TLS of its connection ends on the way, at a proxy, and the two ends speak TLS inside that.
    through_hop: bool = False
    #: Id and name of each slot's GPU; empty if slots have none of their own.
    devices: tuple[tuple[str, str], ...] = ()
    #: Seconds of work that each slot should hold beyond what runs.
    ahead: float = 0.0
    #: What a launcher calls its start; empty: none has started it.
    launch: str = ""


class WorkerListener(SlotListener, Protocol):
    """Takes what an engine reports of one worker: the driver's `WorkerEntry`.

    To the reports of its slots come those of the worker itself.
    """

    #: Names the worker in the calls of `Engine`; every incarnation has its own.
    id: int

    def progressed(self, attempt: int, at: int) -> None:
        """The attempt runs the item at this offset."""

    def watched(self, slots: Sequence[tuple[int, int, float]], states: str) -> None:
        """Per slot: the attempt that runs or -1, its offset, seconds in that item; and the states as in a Beat."""

    def broke(self, attempt: int, at: int | None, text: str, reason: DeathReason = "died") -> None:
        """What ran an attempt ended, and nothing else on its slot. `at`: the item that did it, if it is known."""

    def measured(self, rtt: float, cpu: float, memory: float, ahead: float = 0.0) -> None:
        """Seconds of a round trip; load of the processor and memory in use, 0 to 1.

        ahead: seconds of work that each slot should hold beyond what runs (`wire.outages.send_ahead`).
        """

    def devices_used(self, use: Sequence[tuple[float, float]]) -> None:
        """Of each slot's GPU: load and memory in use, 0 to 1; negative: not known."""

    def suspected(self) -> None:
        """The worker has been silent for a while."""

    def trusted(self) -> None:
        """A suspected worker was heard again."""

    def disconnected(self, sentence: str) -> None:
        """The worker has been out of reach since now; it goes on with what it holds. `sentence` says what broke."""

    def resumed(self, seconds: float, results: int) -> None:
        """The worker is back after so many seconds, with all that it held; it has kept so many results meanwhile."""

    def draining(self) -> None:
        """The worker wants to leave: it gets nothing new."""

    def lost(self, charged: bool, reason: str) -> None:
        """The worker is gone. `charged`: what it ran may have ended it; `reason` is for people."""


class Sink(Protocol):
    """Takes new workers: the driver."""

    @property
    def busy(self) -> bool:
        """Whether there is a job that workers work for; a set-up that waits for new workers is none."""

    def joined(self, engine: Engine, info: WorkerInfo) -> WorkerListener:
        """A worker can take work from now on, even before this returns. The engine reports to what is returned."""

    def reconsider(self) -> None:
        """From now on no worker of an engine can come any more: who waits for one may wait in vain."""


#: Where an engine's task processes are: "here", started by this process; "there", a worker's; "foreign": somebody
#: else's, who did not ask for our arguments, filters and variables.
Location = Literal["here", "there", "foreign"]


class Part(Protocol):
    """What begins and ends with a pool. `start` is called once, on the loop."""

    async def start(self, sink: Sink) -> None: ...

    async def close(self, *, now: bool) -> None:
        """Let go of every worker and leave no process, thread, socket or file. `now`: do not let items finish."""


class Engine(Part, Protocol):
    """Runs chunks; workers are announced by `sink.joined`."""

    place: Location

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts, name: str = "") -> None:
        """Keep a payload on the worker; once per worker, before any task that names the digest."""

    def drop(self, worker: int, digest: bytes) -> None: ...

    def assign(self, worker: int, task: Task, parts: Parts) -> None: ...

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None: ...

    def interrupt(self, worker: int, slot: int, attempt: int) -> None: ...

    def kill(self, worker: int, slot: int) -> None: ...

    def renew(self, worker: int, slot: int) -> None:
        """Replace the slot's process once it has answered for what it has; nothing is reported. It may have none."""
