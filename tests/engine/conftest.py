"""A sink that writes down, shared by the tests of the engines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from support.notes import Notes

from distmap.engine.base import Engine, WorkerInfo
from distmap.tasks.code import Code, dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.wire.messages import Task

DEADLINE = 15.0


class Ear:
    """A Sink, and what a driver does to an engine of one worker."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.info: WorkerInfo | None = None
        self._attempts = itertools.count(1)

    def joined(self, engine: Engine, info: WorkerInfo) -> Notes:
        self.engine = engine
        self.info = info
        return Notes(7, lambda kind, message: self.heard.put_nowait((kind, message)))

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
