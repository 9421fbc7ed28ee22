"""The slots of this machine as one worker, without any socket that listens.

Owns the join between `Slots` and the driver: one worker, named "local". Decides nothing and looks into no part.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distmap.core.events import AttemptProgressed, SlotReady
from distmap.engine.base import Parts, Place, Sink, WorkerInfo
from distmap.slots.slots import Slots
from distmap.tasks._typing import Buffer
from distmap.wire.messages import BlobKind, Died, Output, Ready, Refused, Report, Task

if TYPE_CHECKING:
    import asyncio

#: How often views are told where running attempts are.
PROGRESS_EVERY = 0.1


class LocalEngine:
    """Runs chunks in task processes of this machine.

    Args:
        count: how many slots.
        slots: already made, and perhaps already spawned (from the thread of the loop); else made here.
        name: of the worker.
        tasks: a process is replaced after so many chunks; None: it stays.
        env: the environment of the processes; ours if not given.
    """

    place: Place = "here"

    def __init__(
        self,
        count: int,
        *,
        slots: Slots | None = None,
        name: str = "local",
        tasks: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._slots = Slots(count, name=name, tasks=tasks, env=env) if slots is None else slots
        self._name = name
        self._sink: Sink | None = None
        self._worker = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, sink: Sink) -> None:
        import asyncio

        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._slots.listener = self
        self._slots.attach(self._loop)
        python = ".".join(map(str, sys.version_info[:3]))
        # At once: what is sent to a process that still starts waits in its socket.
        self._worker = sink.joined(self, WorkerInfo(self._name, socket.gethostname(), len(self._slots), python))

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts, name: str = "") -> None:
        self._slots.put(digest, kind, parts)

    def drop(self, worker: int, digest: bytes) -> None:
        self._slots.drop(digest)

    def assign(self, worker: int, task: Task, parts: Parts) -> None:
        self._slots.assign(task, parts)
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(PROGRESS_EVERY, self._progress)

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        self._slots.revoke(slot, attempt, stop)

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        self._slots.interrupt(slot, attempt)

    def kill(self, worker: int, slot: int) -> None:
        self._slots.kill(slot)

    async def close(self, *, now: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._slots.close(now=now)

    def _progress(self) -> None:
        self._timer = None
        assert self._loop is not None
        if self._sink is None or not self._slots.busy:
            return
        for attempt, at, _ in self._slots.progress():
            if attempt >= 0 and at >= 0:
                self._sink.post(AttemptProgressed(attempt, at))
        self._timer = self._loop.call_later(PROGRESS_EVERY, self._progress)

    # --- the slots (their Listener) ------------------------------------------------------------------------------

    def reported(self, report: Report, parts: list[Buffer]) -> None:
        if self._sink is not None:
            self._sink.reported(self._worker, report, parts)

    def printed(self, output: Output, parts: list[Buffer]) -> None:
        if self._sink is not None:
            self._sink.printed(self._worker, output, parts)

    def refused(self, refused: Refused, parts: list[Buffer]) -> None:
        if self._sink is not None:
            self._sink.refused(self._worker, refused.attempt, parts)

    def died(self, died: Died) -> None:
        if self._sink is not None:
            attempt, at = (died.attempt, died.at) if died.attempt >= 0 else (None, None)
            self._sink.died(self._worker, died.slot, attempt, at, died.reason, died.text)

    def ready(self, ready: Ready) -> None:
        if self._sink is not None:
            self._sink.post(SlotReady(self._worker, ready.slot))
