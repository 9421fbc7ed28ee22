"""The engine without processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from distmap.core.events import SlotReady
from distmap.engine.inline import InlineEngine

Ears = Callable[[], Any]


def square(x: int) -> int:
    return x * x


def test_attempts_run_in_this_process(ear: Ears) -> None:
    """One worker with one slot; the function sees this very process."""

    async def main() -> None:
        engine, listener = InlineEngine(), ear()
        await engine.start(listener)
        assert (listener.info.name, listener.info.slots) == ("inline", 1)
        assert await listener.values(listener.send(square, range(4))) == [0, 1, 4, 9]
        assert await listener.values(listener.send(lambda _: os.getpid(), [0])) == [os.getpid()]
        await engine.close(now=True)

    asyncio.run(main())


def test_nothing_runs_before_the_caller_is_through(ear: Ears) -> None:
    """An attempt runs on a later turn of the loop, so until then it can be taken back."""

    async def main() -> None:
        engine, listener = InlineEngine(), ear()
        await engine.start(listener)
        first, second, third = (listener.send(square, [n]) for n in (1, 2, 3))
        assert listener.heard.empty()
        engine.revoke(7, 0, second, 0)
        engine.revoke(7, 0, third, 1)  # beyond its items: nothing to take back
        engine.interrupt(7, 0, 999)
        found = {}
        for _ in range(3):
            report, _ = await listener.hear("report")
            found[report.attempt] = (report.lo, report.hi, report.ended)
        assert found == {first: (0, 1, True), second: (0, 0, True), third: (0, 1, True)}
        await engine.close(now=True)

    asyncio.run(main())


def test_kill_gives_up_what_waits(ear: Ears) -> None:
    """Kill is answered like anywhere else, though there is nothing to kill."""

    async def main() -> None:
        engine, listener = InlineEngine(), ear()
        await engine.start(listener)
        listener.send(square, [1])
        engine.kill(7, 0)
        assert (await listener.hear("died"))[:4] == (0, -1, -1, "killed")
        assert await listener.hear("event") == SlotReady(7, 0)
        assert await listener.values(listener.send(square, [2])) == [4]
        await engine.close(now=True)
        engine.kill(7, 0)
        listener.send(square, [3])
        await asyncio.sleep(0)
        assert listener.heard.empty()

    asyncio.run(main())


def test_unknown_code_is_refused(ear: Ears) -> None:
    """A dropped function cannot be run."""

    async def main() -> None:
        from distmap.tasks.code import dump_code
        from distmap.tasks.items import dump_items
        from distmap.wire.messages import Task

        engine, listener = InlineEngine(), ear()
        await engine.start(listener)
        code = dump_code(square)
        engine.drop(7, code.digest)
        engine.assign(7, Task(0, 9, code.digest, (), 0, 1, 0, 0.0), dump_items([1])[0].parts)
        assert (await listener.hear("refused"))[0] == 9
        await engine.close(now=True)

    asyncio.run(main())
