"""The task process: what user code does to it, and what it does about that."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from distmap.payload import load_results
from distmap.wire.messages import Report

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


def test_only_what_was_asked_for_is_run(bench: Bench) -> None:
    """Items before `lo` are not run again, and the report says so."""

    async def main() -> None:
        async with bench(1) as b:
            b.send(square, range(10), lo=7)
            report, parts = await b.hear(Report)
            assert (report.lo, report.hi, report.ended, report.failed) == (7, 10, True, ())
            assert load_results(parts, 7, 10, ()) == [49, 64, 81]

    run(main())


def test_what_is_finished_is_reported_while_the_rest_runs(bench: Bench) -> None:
    """A long chunk reports as it goes."""

    async def main() -> None:
        async with bench(1) as b:
            b.send(nap, [0.01] * 30 + [20.0])
            report, _ = await b.hear(Report)
            assert report.lo == 0
            assert 0 < report.hi < 31
            assert not report.ended

    run(main())


def test_what_tasks_print_comes_before_their_report(bench: Bench) -> None:
    """Text is told of by attempt, item and stream, and nothing of an attempt comes after its end."""

    def talk(x: int) -> int:
        print("out", x)
        print("err", x, file=sys.stderr)
        return x

    async def main() -> None:
        async with bench(1) as b:
            attempt = b.send(talk, [5, 6])
            assert await b.said(attempt) == [(0, 0, "out 5\n"), (0, 1, "err 5\n"), (1, 0, "out 6\n"), (1, 1, "err 6\n")]
            assert b.heard.empty()

    run(main())

    run(main())


def test_a_task_that_takes_the_signal_handler_gives_it_back(bench: Bench) -> None:
    """After a task that ignores SIGINT, the next one can be interrupted."""

    def ignore(_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> None:
        async with bench(1) as b:
            await b.values(b.send(ignore, [0]))
            attempt = b.send(nap, [30.0])
            await b.started(attempt)
            b.slots.interrupt(0, attempt)
            assert await b.values(attempt) == []

    run(main())


def test_stray_interrupts_do_nothing(bench: Bench) -> None:
    """SIGINT that nobody asked for neither ends the process nor the item."""

    async def main() -> None:
        async with bench(1) as b:
            (process,) = await b.values(b.send(pid, [0]))
            os.kill(process, signal.SIGINT)
            attempt = b.send(nap, [0.2])
            await b.started(attempt)
            os.kill(process, signal.SIGINT)
            assert await b.values(attempt) == [0.2]
            assert await b.values(b.send(pid, [0])) == [process]

    run(main())


def test_a_forked_process_that_comes_back_says_nothing(bench: Bench) -> None:
    """A fork that falls out of the task ends itself: each item is reported once."""

    def fork(x: int) -> int:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return x

    async def main() -> None:
        async with bench(1) as b:
            assert await b.values(b.send(fork, [1, 2, 3])) == [1, 2, 3]
            assert await b.values(b.send(square, [3])) == [9]
            assert b.heard.empty()

    run(main())


def test_closed_standard_streams_are_survived(bench: Bench) -> None:
    """A task that closes descriptors 0 to 2, or 3 to 300, keeps its results and its process."""

    def close(x: int) -> int:
        for fd in (0, 1, 2):
            os.close(fd)
        os.closerange(3, 300)
        return x

    async def main() -> None:
        async with bench(1) as b:
            (before,) = await b.values(b.send(pid, [0]))
            assert await b.values(b.send(close, [1])) == [1]
            assert await b.values(b.send(print, ["to nowhere"])) == [None]
            assert await b.values(b.send(pid, [0])) == [before]

    run(main())
