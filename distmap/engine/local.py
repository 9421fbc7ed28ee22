"""The slots of this machine as one worker, without any socket that listens.

Owns the calls from the driver to `Slots` and the timer of progress. Reports do not pass here: the slots call the
driver's `WorkerEntry`. Decides nothing and looks into no part.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distmap.core.limits import LIMITS
from distmap.engine.base import Location, Parts, Sink, WorkerInfo
from distmap.slots.slots import OUTDATED, Slots
from distmap.wire.messages import BlobKind, Task

if TYPE_CHECKING:
    import asyncio

    from distmap.slots.devices import Devices, DeviceWatch

#: The name and the tag of the worker whose slots have GPUs.
TAG = "gpu"
#: Seconds between two reports of the items that run; views draw at most ten times a second.
PROGRESS_EVERY = 0.1
#: Seconds after which processes start that were held back while the pool began. A first call is over by then; a process
#: that starts beside it takes the core that the call or its task needs.
HELD_BACK = 0.05


def local_engines(started: Sequence[Slots], plain: int, devices: Devices | None) -> list[LocalEngine]:
    """The engines of a pool for this machine.

    Args:
        started: the slots of each, in this order.
        plain: how many slots have no GPU of their own; 0: there is no engine for such.
        devices: the GPUs of the slots that have one; None: there is no engine for such.
    """
    left = iter(started)
    engines = [LocalEngine(plain, slots=next(left))] if plain else []
    if devices is not None:
        engines.append(LocalEngine(len(devices), slots=next(left), name=TAG, devices=devices))
    return engines


class LocalEngine:
    """Runs chunks in task processes of this machine.

    Args:
        count: how many slots.
        slots: made before, and perhaps with processes (started in the thread of the loop); else made here.
        name: of the worker.
        tasks: a process is replaced after so many chunks; None: it stays.
        env: the environment of the processes; ours if not given.
        devices: a GPU for each slot, which is watched; None: slots have none of their own.
    """

    place: Location = "here"

    def __init__(
        self,
        count: int,
        *,
        slots: Slots | None = None,
        name: str = "local",
        tasks: int | None = None,
        env: Mapping[str, str] | None = None,
        devices: Devices | None = None,
    ) -> None:
        self._slots = Slots(count, name=name, tasks=tasks, env=env) if slots is None else slots
        self._later = 0.0 if slots is None else HELD_BACK
        self._devices = devices
        self._watch: DeviceWatch | None = None
        self._name = name
        self._timer: asyncio.TimerHandle | None = None
        #: The last look found an item that runs for long.
        self._watching = False

    async def start(self, sink: Sink) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._slots.attach(self._loop, later=self._later)
        python = ".".join(map(str, sys.version_info[:3]))
        # At once: what is sent to a process that still starts waits in its socket. The slots report to the driver
        # directly; nothing can come before this returns, as it is the loop that reads.
        info = WorkerInfo(self._name, socket.gethostname(), len(self._slots), python, ahead=LIMITS.ahead_least)
        if self._devices is not None:
            from distmap.slots.devices import DeviceWatch

            info = info._replace(tags=frozenset({TAG}), devices=self._devices.names)
        self._listener = sink.joined(self, info)
        self._slots.listener = self._listener
        if self._devices is not None:
            tell = self._listener.devices_used
            self._watch = DeviceWatch(self._devices, lambda use: self._loop.call_soon_threadsafe(tell, use))

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts, name: str = "") -> None:
        self._slots.put(digest, kind, parts)

    def drop(self, worker: int, digest: bytes) -> None:
        self._slots.drop(digest)

    def assign(self, worker: int, task: Task, parts: Parts) -> None:
        self._slots.assign(task, parts)
        if self._timer is None:
            self._timer = self._loop.call_later(PROGRESS_EVERY, self._progress)

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        self._slots.revoke(slot, attempt, stop)

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        self._slots.interrupt(slot, attempt)

    def renew(self, worker: int, slot: int) -> None:
        self._slots.retire(slot, OUTDATED)

    def kill(self, worker: int, slot: int) -> None:
        self._slots.kill(slot)

    async def close(self, *, now: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._slots.close(now=now)
        if self._watch is not None:
            await self._watch.close()

    def _progress(self) -> None:
        """Report which items run, as long as any does."""
        self._timer = None
        if not self._slots.busy:
            return
        slots = self._slots.progress()
        for attempt, at, _ in slots:
            if attempt >= 0 and at >= 0:
                self._listener.progressed(attempt, at)
        states = self._slots.states()
        if states or self._watching:
            self._listener.watched(slots, states)
        self._watching = states != ""
        self._timer = self._loop.call_later(PROGRESS_EVERY, self._progress)
