"""One slot: what it holds is run in order, taken back at once, stopped and interrupted."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.waiting import eventually

from distmap.slots.control import BLOCKS
from distmap.slots.frames import Outbox
from distmap.tasks.code import dump_code
from distmap.wire.messages import Refused, Report, Task

Bench = Callable[..., Any]

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def square(x: int) -> int:
    return x * x


def pid(_: object) -> int:
    return os.getpid()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_code_that_was_never_put_is_refused(bench: Bench) -> None:
    """A task whose code is unknown is answered with a refusal, and the slot goes on."""

    async def main() -> None:
        async with bench(1) as b:
            b.slots.assign(Task(0, 999, b"?" * 16, (), 0, 1, 0, 0.0), [b""])
            refused, parts = await b.hear(Refused)
            assert refused.attempt == 999
            assert parts
            assert await b.values(b.send(square, [3])) == [9]

    run(main())


def test_dropped_code_is_forgotten(bench: Bench) -> None:
    """After a drop the process no longer has the code."""

    async def main() -> None:
        async with bench(1) as b:
            attempt = b.send(square, [3])
            assert await b.values(attempt) == [9]
            from distmap.tasks.code import dump_code

            digest = dump_code(square).digest
            b.slots.drop(digest)
            b.slots.drop(digest)
            b.slots.assign(Task(0, 999, digest, (), 0, 1, 0, 0.0), [b""])
            assert (await b.hear(Refused))[0].attempt == 999

    run(main())


def test_a_call_wakes_the_process_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task and its code go in one write, and so does what is dropped before; alone that goes a moment later."""
    writes: list[int] = []
    write = Outbox._write

    def counted(self: Outbox, buffers: Any, fd: int) -> int:
        writes.append(len(buffers))
        return write(self, buffers, fd)

    monkeypatch.setattr(Outbox, "_write", counted)

    async def main() -> None:
        async with bench(1) as b:
            assert await b.values(b.send(square, [3])) == [9]
            assert len(writes) == 1
            b.slots.drop(dump_code(square).digest)
            assert len(writes) == 1
            assert await b.values(b.send(abs, [-3])) == [3]
            assert len(writes) == 2
            b.slots.drop(dump_code(abs).digest)
            await eventually(lambda: len(writes) == 3)

    run(main())


def test_a_task_that_waits_is_taken_back_at_once(bench: Bench) -> None:
    """However long the slot is busy with another attempt, one that has not begun is answered for, and never runs."""

    async def main() -> None:
        async with bench(1) as b:
            running = b.send(nap, [30.0])
            await b.started(running)
            for _ in range(3 * BLOCKS):
                waiting = b.send(nap, [30.0])
                b.slots.revoke(0, waiting, 0)
                report, parts = await b.hear(Report)
                assert report == Report(0, waiting, 0, 0, 0.0, True, ())
                assert parts == []
            b.slots.interrupt(0, running)
            assert (await b.hear(Report))[0].attempt == running
            assert await b.values(b.send(square, [5])) == [25]
            assert b.heard.empty()

    run(main())


def test_an_attempt_stops_at_the_revoked_item(bench: Bench) -> None:
    """Items at and beyond the stop are not run; what was finished is reported."""

    async def main() -> None:
        async with bench(1) as b:
            attempt = b.send(nap, [0.02] * 1000)
            await b.started(attempt, at=2)
            stop = b.slots.progress()[0][1] + 3
            b.slots.revoke(0, attempt, stop)
            done = await b.values(attempt)
            assert stop <= len(done) < 500  # more than `stop` where the revocation itself was late

    run(main())


def test_a_waiting_attempt_can_be_cut_short(bench: Bench) -> None:
    """A stop within an attempt that waits is obeyed when its turn comes."""

    async def main() -> None:
        async with bench(1) as b:
            running = b.send(nap, [60.0])
            await b.started(running)
            attempt = b.send(nap, [0.01] * 10)
            b.slots.revoke(0, attempt, 4)
            b.slots.interrupt(0, running)
            assert await b.values(attempt) == [0.01] * 4
            b.slots.revoke(0, attempt, 0)
            b.slots.interrupt(0, attempt)
            assert await b.values(b.send(square, [2])) == [4]

    run(main())


def test_interrupt_ends_the_attempt_and_spares_the_process(bench: Bench) -> None:
    """The running item gets KeyboardInterrupt, what was finished is reported, the process goes on."""

    async def main() -> None:
        async with bench(1) as b:
            (before,) = await b.values(b.send(pid, [0]))
            attempt = b.send(nap, [0.01, 0.01, 30.0])
            await b.started(attempt, at=2)
            after = b.send(pid, [0])
            b.slots.interrupt(0, attempt)
            assert await b.values(attempt) == [0.01, 0.01]
            assert await b.values(after) == [before]

    run(main())


def test_an_interrupt_while_an_item_is_opened_is_not_lost(bench: Bench, tmp_path: Path) -> None:
    """It cannot be raised there, so it is raised in the item, however long that one would run."""
    mark = tmp_path / "opening"

    async def main() -> None:
        async with bench(1) as b:
            attempt = b.send(time.sleep, [Slow(str(mark))])
            async with asyncio.timeout(10):
                while True:
                    if mark.exists():
                        break
                    await asyncio.sleep(0.002)
            b.slots.interrupt(0, attempt)
            assert await b.values(attempt) == []
            assert await b.values(b.send(abs, [-1])) == [1]

    run(main())


class Slow:
    """Takes its time to unpickle, and is then the number 30."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return slowly, (self.mark,)


def slowly(mark: str) -> int:
    Path(mark).touch()
    time.sleep(0.05)
    return 30


def test_interrupting_a_waiting_attempt_leaves_the_running_one_alone(bench: Bench) -> None:
    """Only the attempt that is named is stopped."""

    async def main() -> None:
        async with bench(1) as b:
            running = b.send(nap, [0.3])
            await b.started(running)
            waiting = b.send(nap, [30.0])
            b.slots.interrupt(0, waiting)
            report, _ = await b.hear(Report)
            assert (report.attempt, report.hi) == (waiting, 0)
            assert await b.values(running) == [0.3]

    run(main())


def test_more_tasks_than_lanes_wait_here(bench: Bench) -> None:
    """A process is never sent more than it has blocks for; what waits can be taken back or cut short all the same."""

    async def main() -> None:
        async with bench(1) as b:
            running = b.send(nap, [0.3])
            await b.started(running)
            waiting = [b.send(nap, [0.005] * 3) for _ in range(BLOCKS + 3)]
            b.slots.revoke(0, waiting[-1], 0)
            report, _ = await b.hear(Report)
            assert (report.attempt, report.hi, report.ended) == (waiting[-1], 0, True)
            b.slots.revoke(0, waiting[-2], 1)
            b.slots.interrupt(0, waiting[-3])
            report, _ = await b.hear(Report)
            assert (report.attempt, report.hi, report.ended) == (waiting[-3], 0, True)
            for attempt in (running, *waiting[:-3]):
                assert len(await b.values(attempt)) == (1 if attempt == running else 3)
            assert len(await b.values(waiting[-2])) == 1

    run(main())


def test_what_has_ended_is_not_taken_back_again(bench: Bench) -> None:
    """A revocation that crosses the last report on its way changes nothing: there is one end to an attempt."""

    async def main() -> None:
        async with bench(1) as b:
            for _ in range(30):
                attempt = b.send(square, [1, 2, 3])
                time.sleep(0.004)  # the loop stands still, and the report waits in the socket
                b.slots.revoke(0, attempt, 0)
                report, _ = await b.hear(Report)
                if report.hi:
                    assert (report.lo, report.hi, report.ended) == (0, 3, True)
            assert await b.values(b.send(square, [9])) == [81]
            assert b.heard.empty()

    run(main())


def test_what_the_socket_does_not_take_follows(bench: Bench) -> None:
    """Many parts below the size of a segment, more than a socket buffer holds, arrive whole in both directions."""

    async def main() -> None:
        async with bench(1) as b:
            blocks = [os.urandom(500_000) for _ in range(20)]
            attempt = b.send(bytes.upper, [bytes(block) for block in blocks])
            assert await b.values(attempt) == [block.upper() for block in blocks]

    run(main())
