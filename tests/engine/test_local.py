"""The slots of this machine as one worker of the driver."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from distmap.core.events import AttemptProgressed, SlotReady
from distmap.engine.local import LocalEngine
from distmap.slots.slots import Slots
from distmap.wire.messages import Output

Ears = Callable[[], Any]
DEADLINE = 15.0


def square(x: int) -> int:
    return x * x


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def leave(x: int) -> None:
    os._exit(x)


def test_a_worker_of_n_slots_that_works(ear: Ears) -> None:
    """It announces itself once with its slots, and what is assigned is reported under its id."""

    async def main() -> None:
        engine, listener = LocalEngine(2), ear()
        await engine.start(listener)
        try:
            assert (listener.info.name, listener.info.slots, listener.info.address) == ("local", 2, "local")
            assert await listener.values(listener.send(square, range(5))) == [0, 1, 4, 9, 16]
            assert await listener.values(listener.send(square, range(5), slot=1)) == [0, 1, 4, 9, 16]
        finally:
            await engine.close(now=True)

    asyncio.run(main())


def test_slots_that_were_spawned_before_are_taken_over(ear: Ears) -> None:
    """Processes that started before the loop did are used, not started twice."""
    slots = Slots(1)
    slots.spawn()

    async def main() -> None:
        engine, listener = LocalEngine(1, slots=slots), ear()
        await engine.start(listener)
        try:
            assert await listener.values(listener.send(square, [3])) == [9]
        finally:
            await engine.close(now=True)

    asyncio.run(main())


async def silent(engine: LocalEngine) -> None:
    """Until the timer has stopped by itself: no hint can be posted without it."""
    async with asyncio.timeout(DEADLINE):
        while True:
            if engine._timer is None:
                return
            await asyncio.sleep(0.005)


def test_running_attempts_say_how_far_they_are(ear: Ears) -> None:
    """While something runs, hints of its progress are posted; when nothing runs, none are."""

    async def main() -> None:
        engine, listener = LocalEngine(1), ear()
        await engine.start(listener)
        try:
            attempt = listener.send(nap, [0.03] * 20)
            hint = await listener.hear("event")
            assert isinstance(hint, AttemptProgressed)
            assert hint.attempt == attempt
            assert 0 <= hint.at < 20
            await listener.values(attempt)
            await silent(engine)
            while not listener.heard.empty():
                listener.heard.get_nowait()
            again = listener.send(nap, [0.03] * 20)
            assert (await listener.hear("event")).attempt == again
        finally:
            await engine.close(now=True)

    asyncio.run(main())


def test_deaths_refusals_and_steering_reach_the_driver(ear: Ears) -> None:
    """Died, then ready; refused; revoked; interrupted; killed: each is told as the driver expects it."""

    async def main() -> None:
        engine, listener = LocalEngine(1), ear()
        await engine.start(listener)
        try:
            attempt = listener.send(leave, [5])
            assert await listener.hear("died") == (0, attempt, 0, "died", "exited with code 5")
            assert await listener.hear("event") == SlotReady(7, 0)

            code_gone = listener.send(square, [1])
            await listener.values(code_gone)

            running = listener.send(nap, [0.05] * 3 + [30.0])
            waiting = listener.send(nap, [30.0])
            engine.revoke(7, 0, waiting, 0)
            report, _ = await listener.hear("report")
            while report.attempt != waiting:
                report, _ = await listener.hear("report")
            assert (report.lo, report.hi, report.ended) == (0, 0, True)
            hint = await listener.hear("event")
            while hint.at < 3:
                hint = await listener.hear("event")
            engine.interrupt(7, 0, running)
            await listener.values(running)

            engine.kill(7, 0)
            slot, named, at, reason, _ = await listener.hear("died")
            assert (slot, named, at, reason) == (0, -1, -1, "killed")
            assert await listener.hear("event") == SlotReady(7, 0)

            engine.drop(7, b"?" * 16)
            attempt = listener.send(square, [1])
            await listener.values(attempt)
        finally:
            await engine.close(now=False)

    asyncio.run(main())


def test_code_that_does_not_load_is_refused(ear: Ears) -> None:
    """An attempt whose code is missing is refused under its id."""

    async def main() -> None:
        from distmap.tasks.code import dump_code
        from distmap.tasks.items import dump_items
        from distmap.wire.messages import Task

        engine, listener = LocalEngine(1), ear()
        await engine.start(listener)
        try:
            code = dump_code(square)
            engine.assign(7, Task(0, 9, code.digest, (), 0, 1, 0, 0.0), dump_items([1])[0].parts)
            attempt, parts = await listener.hear("refused")
            assert attempt == 9
            assert parts
        finally:
            await engine.close(now=True)

    asyncio.run(main())


def test_what_tasks_print_reaches_the_driver(ear: Ears) -> None:
    """Text comes with the worker's number, before the report of its item."""

    async def main() -> None:
        engine, listener = LocalEngine(1), ear()
        await engine.start(listener)
        attempt = listener.send(print, ["hello"])
        what, (output, parts) = await listener.heard.get()
        assert what == "printed"
        assert (output, bytes(parts[0])) == (Output(0, attempt, 0, ((0, 0, 6),)), b"hello\n")
        assert await listener.values(attempt) == [None]
        await engine.close(now=True)

    asyncio.run(main())
