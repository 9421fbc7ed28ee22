"""The port between the driver and whatever runs chunks.

Owns the two protocols. An Engine is told what to do by the driver and answers through the Sink it was started with;
all calls in both directions happen on the portal's loop thread and never block. Parts are opaque here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from distmap.core.events import Event
from distmap.tasks._typing import Buffer
from distmap.wire.messages import BlobKind, Output, Report, Task

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


class Sink(Protocol):
    """The driver's ear."""

    def joined(self, engine: Engine, info: WorkerInfo) -> int:
        """A worker can take work from now on; returns the id to use for it (unique for each incarnation)."""

    def post(self, event: Event) -> None:
        """Anything that carries no bytes: WorkerMeasured, SlotReady, AttemptProgressed, ..."""

    def reported(self, worker: int, report: Report, parts: Parts) -> None:
        """A slot reported; the driver owns the parts from now on."""

    def printed(self, worker: int, output: Output, parts: Parts) -> None:
        """Items of an attempt printed something; before the report of the last of them."""

    def refused(self, worker: int, attempt: int, parts: Parts) -> None:
        """An attempt could not be run at all; the part says why."""

    def broke(self, worker: int, attempt: int, at: int | None, text: str) -> None:
        """What ran an attempt ended, and nothing else on its slot, as AttemptLost. `at`: its item if there is one."""

    def lost(self, worker: int, charged: bool, reason: str) -> None:
        """A worker is gone, as WorkerLost; `reason` is for people."""

    def died(self, worker: int, slot: int, attempt: int | None, at: int | None, reason: str, text: str) -> None:
        """A slot's process ended; `text` is for people."""


#: Where an engine's task processes are: "here", started by this process; "there", a worker's; "foreign": somebody
#: else's, who did not ask for our arguments, filters and variables.
Place = Literal["here", "there", "foreign"]


class Engine(Protocol):
    """Runs chunks. `start` is called once, on the loop; workers announce themselves by `sink.joined`."""

    place: Place

    async def start(self, sink: Sink) -> None: ...

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts, name: str = "") -> None:
        """Keep a payload on the worker; once per worker, before any task that names the digest."""

    def drop(self, worker: int, digest: bytes) -> None: ...

    def assign(self, worker: int, task: Task, parts: Parts) -> None: ...

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None: ...

    def interrupt(self, worker: int, slot: int, attempt: int) -> None: ...

    def kill(self, worker: int, slot: int) -> None: ...

    async def close(self, *, now: bool) -> None:
        """Let go of every worker and leave no process, thread, socket or file. `now`: do not let items finish."""
