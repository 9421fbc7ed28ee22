"""Code of jobs that are over is kept for a moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from distmap.core.limits import LIMITS
from distmap.driver import recent
from distmap.driver.blobs import Blobs, Holder
from distmap.driver.recent import RecentCodes
from distmap.tasks.code import Code
from distmap.tasks.payload import Blob, Payload

DEADLINE = 10


def code(name: str) -> Code:
    return Code(name.encode(), Payload(b"1"), (Blob(b"module of " + name.encode(), "modules", Payload(b"2")),))


@contextlib.contextmanager
def kept_by(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[RecentCodes, Any, Blobs, list[bytes]]]:
    """It, a function that ends a job of a code, what holds its blobs, and what was dropped."""
    dropped: list[bytes] = []
    blobs = Blobs(dropped.append, lambda holder, nbytes: None)
    codes = RecentCodes(loop, blobs)

    def end(job: int, name: str) -> None:
        one = code(name)
        blobs.keep(Holder(job), (*one.blobs, Blob(one.digest, "code", one.payload)))
        codes.keep(one)
        blobs.end(job)

    try:
        yield codes, end, blobs, dropped
    finally:
        codes.stop()


def test_the_code_of_a_job_is_kept_until_nobody_calls_it_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its modules; each end of a job of it counts anew."""
    monkeypatch.setattr(recent, "LIMITS", LIMITS._replace(recent_seconds=0.02))

    async def play() -> None:
        with kept_by(asyncio.get_running_loop()) as (_, end, blobs, dropped):
            end(1, "a")
            end(2, "b")
            end(3, "a")
            assert (len(blobs), dropped) == (4, [])
            async with asyncio.timeout(DEADLINE):
                while len(blobs):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)  # the timer runs on this loop; nothing tells of its end
            assert set(dropped[:2]) == {b"b", b"module of b"}
            assert set(dropped[2:]) == {b"a", b"module of a"}

    asyncio.run(play())


def test_few_codes_are_kept() -> None:
    """The one whose last job ended first goes first."""

    async def play() -> None:
        with kept_by(asyncio.get_running_loop()) as (_, end, blobs, dropped):
            for at in range(LIMITS.recent_codes):
                end(at + 1, str(at))
            end(98, "0")
            end(99, "new")
            assert set(dropped) == {b"1", b"module of 1"}
            assert len(blobs) == 2 * LIMITS.recent_codes

    asyncio.run(play())


def test_all_of_it_may_be_let_go_of_at_once() -> None:
    """What comes later is kept as before."""

    async def play() -> None:
        with kept_by(asyncio.get_running_loop()) as (codes, end, blobs, dropped):
            end(1, "a")
            end(2, "b")
            codes.clear()
            assert (len(blobs), len(dropped)) == (0, 4)
            end(3, "a")
            assert len(blobs) == 2

    asyncio.run(play())
