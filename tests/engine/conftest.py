"""A sink that writes down, shared by the tests of the engines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from distmap.core.events import Event, WorkerLost
from distmap.engine.base import Engine, Parts, WorkerInfo
from distmap.tasks.code import Code, dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.wire.messages import Output, Report, Task

DEADLINE = 15.0


class Ear:
    """A Sink, and what a driver does to an engine of one worker."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.info: WorkerInfo | None = None
        self._attempts = itertools.count(1)

    def joined(self, engine: Engine, info: WorkerInfo) -> int:
        self.engine = engine
        self.info = info
        return 7

    def post(self, event: Event) -> None:
        self.heard.put_nowait(("event", event))

    def reported(self, worker: int, report: Report, parts: Parts) -> None:
        assert worker == 7
        self.heard.put_nowait(("report", (report, parts)))

    def printed(self, worker: int, output: Output, parts: Parts) -> None:
        assert worker == 7
        self.heard.put_nowait(("printed", (output, parts)))

    def refused(self, worker: int, attempt: int, parts: Parts) -> None:
        self.heard.put_nowait(("refused", (attempt, parts)))

    def broke(self, worker: int, attempt: int, at: int | None, text: str) -> None:
        self.heard.put_nowait(("broke", (attempt, at, text)))

    def lost(self, worker: int, charged: bool, reason: str) -> None:
        assert reason
        self.post(WorkerLost(worker, charged))

    def died(self, worker: int, slot: int, attempt: int | None, at: int | None, reason: str, text: str) -> None:
        self.heard.put_nowait(("died", (slot, attempt, at, reason, text)))

    def send(self, fn: Callable[..., Any] | Code, items: Any, *, slot: int = 0, **fields: Any) -> int:
        """Put the code, assign the items; gives the attempt."""
        code = fn if isinstance(fn, Code) else dump_code(fn)
        payload, blobs = dump_items(items)
        blobs = (*code.blobs, *blobs)
        for blob in blobs:
            self.engine.put(7, blob.digest, blob.kind, blob.payload.parts)
        self.engine.put(7, code.digest, "code", code.payload.parts)
        attempt = next(self._attempts)
        needs = tuple(blob.digest for blob in blobs)
        values = {"lo": 0, "hi": len(items), "start": 0, "timeout": 0.0, **fields}
        self.engine.assign(7, Task(slot, attempt, code.digest, needs, **values), payload.parts)
        return attempt

    async def hear(self, kind: str) -> Any:
        """The next message of this kind; others are passed over."""
        async with asyncio.timeout(DEADLINE):
            while True:
                what, message = await self.heard.get()
                if what == kind:
                    return message

    async def values(self, attempt: int) -> list[Any]:
        """What an attempt reports, until it ends."""
        found: list[Any] = []
        while True:
            report, parts = await self.hear("report")
            if report.attempt == attempt:
                if report.hi > report.lo:
                    found += load_results(parts, report.lo, report.hi, report.failed)
                if report.ended:
                    return found


@pytest.fixture
def ear() -> Callable[[], Ear]:
    """Makes a listener; inside the loop."""
    return Ear
