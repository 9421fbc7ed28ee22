"""Runs attempts in this process, one after the other, in the loop's own thread: for debugging and doctests.

Owns one worker with one slot. While an item runs the loop stands still, so nothing can be interrupted or timed out;
between two chunks everything works as elsewhere.
"""

from __future__ import annotations

import socket
import sys
from collections import deque

from distmap.engine.base import Location, Parts, Sink, WorkerInfo, WorkerListener
from distmap.tasks.payload import Payload
from distmap.tasks.runner import Runner
from distmap.wire.messages import BlobKind, Died, Output, Ready, Refused, Report, Task

NAME = "inline"


class InlineEngine:
    """Runs chunks in this process."""

    place: Location = "foreign"

    def __init__(self) -> None:
        self._runner = Runner()
        self._waiting: deque[tuple[Task, Parts]] = deque()
        #: None before `start` and after `close`.
        self._listener: WorkerListener | None = None

    async def start(self, sink: Sink) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        python = ".".join(map(str, sys.version_info[:3]))
        self._listener = sink.joined(self, WorkerInfo(NAME, socket.gethostname(), 1, python, address=NAME))

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts, name: str = "") -> None:
        self._runner.put(digest, kind, Payload(parts[0], tuple(parts[1:])))

    def drop(self, worker: int, digest: bytes) -> None:
        self._runner.drop(digest)

    def assign(self, worker: int, task: Task, parts: Parts) -> None:
        self._waiting.append((task, parts))
        self._loop.call_soon(self._run)

    def _run(self) -> None:
        if not self._waiting or self._listener is None:
            return  # taken back
        task, parts = self._waiting.popleft()
        self._runner.run(task, Payload(parts[0], tuple(parts[1:])), [-1] * 8, self._emit)

    def _emit(self, message: Report | Refused | Output, payload: Payload) -> None:
        if self._listener is None:
            return
        match message:
            case Report():
                self._listener.reported(message, payload.parts)
            case Refused():
                self._listener.refused(message, payload.parts)
            case Output():
                pass  # a notice on versions of packages: this process has no others than its own

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        """Take back an attempt that waits. One that runs has ended before anybody can say this."""
        for waiting in self._waiting:
            task = waiting[0]
            if task.attempt == attempt and stop <= task.lo:
                self._waiting.remove(waiting)
                self._loop.call_soon(self._give_back, task)
                return

    def _give_back(self, task: Task) -> None:
        self._emit(Report(task.slot, task.attempt, task.lo, task.lo, 0.0, True, ()), Payload(b""))

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        self.revoke(worker, slot, attempt, 0)

    def renew(self, worker: int, slot: int) -> None:
        """It has no process of ours."""

    def kill(self, worker: int, slot: int) -> None:
        """There is no process to end: what waits is void, and the slot is ready at once."""
        self._waiting.clear()
        self._loop.call_soon(self._killed, slot)

    def _killed(self, slot: int) -> None:
        if self._listener is not None:
            self._listener.died(Died(slot, -1, -1, "killed", "what waited was given up"))
            self._listener.ready(Ready(slot))

    async def close(self, *, now: bool) -> None:
        self._waiting.clear()
        self._listener = None
