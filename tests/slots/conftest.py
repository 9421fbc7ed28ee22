"""A listener that writes down, and slots that are surely closed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from distmap.slots.slots import Slots
from distmap.tasks.code import Code, dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.wire.messages import REMARK, Died, Output, Ready, Refused, Report, Task

DEADLINE = 15.0


class Bench:
    """Slots with everything around them that a driver would have."""

    def __init__(self, count: int = 1, **options: Any) -> None:
        self.slots = Slots(count, self, **options)
        self.heard: asyncio.Queue[tuple[Report | Output | Refused | Died | Ready, list[Any]]] = asyncio.Queue()
        self._attempts = itertools.count(1)
        #: Lines that the attempt of the last `said` dropped.
        self.dropped = 0
        #: What was remarked to the callers; deaths and fresh processes that were told of.
        self.remarks: list[str] = []
        self.died_or_ready = 0

    # the listener
    def reported(self, report: Report, parts: list[Any]) -> None:
        self.heard.put_nowait((report, parts))

    def printed(self, output: Output, parts: list[Any]) -> None:
        if [stream for _, stream, _ in output.pieces] == [REMARK]:
            self.remarks.append(bytes(parts[0]).decode())
            return
        self.heard.put_nowait((output, parts))

    def refused(self, refused: Refused, parts: list[Any]) -> None:
        self.heard.put_nowait((refused, parts))

    def died(self, died: Died) -> None:
        self.died_or_ready += 1
        self.heard.put_nowait((died, []))

    def ready(self, ready: Ready) -> None:
        self.died_or_ready += 1
        self.heard.put_nowait((ready, []))

    def send(
        self,
        fn: Callable[..., Any] | Code,
        items: Iterable[Any],
        *,
        slot: int = 0,
        lo: int = 0,
        timeout: float = 0.0,
        output: bool = True,
    ) -> int:
        """Put the code, assign the items; gives the attempt."""
        code = fn if isinstance(fn, Code) else dump_code(fn)
        payload, blobs = dump_items(items)
        blobs = (*code.blobs, *blobs)
        for blob in blobs:
            self.slots.put(blob.digest, blob.kind, blob.payload.parts)
        self.slots.put(code.digest, "code", code.payload.parts)
        attempt = next(self._attempts)
        size = len(items)  # type: ignore[arg-type]
        needs = tuple(blob.digest for blob in blobs)
        self.slots.assign(Task(slot, attempt, code.digest, needs, lo, size, 0, timeout, output), payload.parts)
        return attempt

    async def hear(self, kind: type) -> Any:
        """The next message of this kind; those of other kinds are passed over."""
        async with asyncio.timeout(DEADLINE):
            while True:
                message, parts = await self.heard.get()
                if isinstance(message, kind):
                    return message if kind in (Died, Ready) else (message, parts)

    async def values(self, attempt: int) -> list[Any]:
        """What an attempt reports, until it ends."""
        found: list[Any] = []
        while True:
            report, parts = await self.hear(Report)
            if report.attempt == attempt:
                if report.hi > report.lo:
                    found += load_results(parts, report.lo, report.hi, report.failed)
                if report.ended:
                    return found

    async def said(self, attempt: int) -> list[tuple[int, int, str]]:
        """What an attempt prints until it ends: item, stream, text; neighbours of one item and stream are joined."""
        found: list[tuple[int, int, str]] = []
        self.dropped = 0
        async with asyncio.timeout(DEADLINE):
            while True:
                message, parts = await self.heard.get()
                if isinstance(message, Output) and message.attempt == attempt:
                    self.dropped += message.dropped
                    lo, data = 0, b"".join(parts)
                    assert message.spells(len(data))
                    for at, stream, size in message.pieces:
                        text, lo = data[lo : lo + size].decode(), lo + size
                        if found and found[-1][:2] == (at, stream):
                            text = found.pop()[2] + text
                        found.append((at, stream, text))
                elif isinstance(message, Report | Refused) and message.attempt == attempt:
                    if isinstance(message, Refused) or message.ended:
                        return found

    async def all_values(self, attempts: list[int]) -> list[list[Any]]:
        """What several attempts report, in whatever order they end. No process may die meanwhile."""
        found: dict[int, list[Any]] = {attempt: [] for attempt in attempts}
        left = set(attempts)
        async with asyncio.timeout(DEADLINE):
            while left:
                message, parts = await self.heard.get()
                assert isinstance(message, Report), message
                if message.hi > message.lo:
                    found[message.attempt] += load_results(parts, message.lo, message.hi, message.failed)
                if message.ended:
                    left.discard(message.attempt)
        return list(found.values())

    async def started(self, attempt: int, at: int = 0, slot: int = 0) -> None:
        """Until the attempt runs the item."""
        async with asyncio.timeout(DEADLINE):
            while True:
                running, offset, _ = self.slots.progress()[slot]
                if running == attempt and offset >= at:
                    return
                await asyncio.sleep(0.002)


@asynccontextmanager
async def _bench(count: int = 1, *, later: float = 0.0, **options: Any) -> AsyncIterator[Bench]:
    bench = Bench(count, **options)
    bench.slots.spawn(1 if later else None)
    bench.slots.attach(asyncio.get_running_loop(), later=later)
    try:
        yield bench
    finally:
        await bench.slots.close(now=True)


@pytest.fixture
def bench() -> Callable[..., Any]:
    """`async with bench(2) as b:` gives two slots, closed in the end."""
    return _bench
