"""Items that run beyond their time limit are ended and named, whatever keeps them; others are left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from distmap.core.limits import LIMITS
from distmap.slots import watching
from distmap.wire.messages import Died

Bench = Callable[..., Any]


def pid(_: object) -> int:
    return os.getpid()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def stands_in(text: str, fn: Callable[..., Any]) -> bool:
    return f'File "{__file__}", line ' in text and f", in {fn.__name__}" in text


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_an_item_beyond_its_time_is_ended_and_named(bench: Bench) -> None:
    """The time limit is an item's, not the chunk's; other attempts without a limit go on."""

    async def main() -> None:
        async with bench(2) as b:
            await b.values(b.send(nap, [0.0]))
            free = b.send(nap, [1.5], slot=1)
            attempt = b.send(nap, [0.15] * 3 + [30.0], timeout=0.5)
            died = await b.hear(Died)
            assert (died.slot, died.attempt, died.at, died.reason) == (0, attempt, 3, "timeout")
            assert died.text.startswith("ran longer than its time limit and was ended\n")
            assert stands_in(died.text, nap)
            assert await b.values(free) == [1.5]

    run(main())


def test_a_stopped_process_is_ended_by_the_time_limit(bench: Bench) -> None:
    """SIGSTOP does not save an item from its limit."""

    async def main() -> None:
        async with bench(1) as b:
            (process,) = await b.values(b.send(pid, [0]))
            attempt = b.send(nap, [0.2, 0.0], timeout=0.5)
            await b.started(attempt)
            os.kill(process, signal.SIGSTOP)
            died = await b.hear(Died)
            assert (died.attempt, died.at, died.reason) == (attempt, 0, "timeout")
            assert died.text.endswith("Its process was stopped by a signal (state T).")
            assert stands_in(died.text, nap)

    run(main())


def test_a_held_interpreter_lock_does_not_stop_the_clock(bench: Bench) -> None:
    """A task that never lets go of the interpreter is ended by its limit."""

    def hold(_: object) -> None:
        import re

        re.match(r"(a|aa)+$", "a" * 60 + "b")

    async def main() -> None:
        async with bench(1) as b:
            attempt = b.send(hold, [0], timeout=0.3)
            died = await b.hear(Died)
            assert (died.attempt, died.reason) == (attempt, "timeout")
            assert stands_in(died.text, hold)

    run(main())


def test_an_item_has_time_to_end_by_itself_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes before SIGKILL; what its handler raises in the item does not count, nor does ignoring it help."""
    monkeypatch.setattr(watching, "LIMITS", LIMITS._replace(terminate_seconds=0.2))

    def leave_by_itself(_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
        time.sleep(30)

    def ignore(_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(30)

    async def main() -> None:
        async with bench(1) as b:
            for fn in (leave_by_itself, ignore):
                attempt = b.send(fn, [0, 1], timeout=0.3)
                died = await b.hear(Died)
                assert (died.attempt, died.at, died.reason) == (attempt, 0, "timeout")
                assert stands_in(died.text, fn)

    run(main())
