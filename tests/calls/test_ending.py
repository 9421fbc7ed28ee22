"""The end of a pool goes on whoever waits for it, and is the same from everywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from distmap.calls.ending import Ending
from distmap.calls.reader import JobContext
from distmap.calls.submissions import Submissions
from distmap.driver.driver import Driver
from distmap.driver.portal import Portal
from distmap.errors import PoolClosed


@pytest.fixture
def parts() -> Iterator[Any]:
    """A loop with a driver, submissions and one engine that can be told to fail."""
    portal = Portal()
    driver = portal.ask(lambda: Driver(portal.loop))
    engine = SimpleNamespace(closed=0, error=None)

    async def close(*, now: bool) -> None:
        engine.closed += 1
        if engine.error is not None:
            raise engine.error

    engine.close = close
    submissions = Submissions(JobContext(portal, driver))
    yield SimpleNamespace(portal=portal, engine=engine, ending=Ending(portal, driver, [engine], submissions))
    portal.close()


def test_however_often_it_is_begun_it_ends_once(parts: Any) -> None:
    """Four threads and the loop itself end it; each finds it ended."""
    parts.portal.call(parts.ending.end, "on the loop")
    threads = [threading.Thread(target=parts.ending.end, args=("aside",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert parts.engine.closed == 1
    assert parts.ending.begun
    assert parts.portal.join(0)
    parts.ending.end("again")
    assert parts.engine.closed == 1


def test_an_engine_that_is_added_ends_with_the_others_or_never_begins(parts: Any) -> None:
    """What is added to a pool that ends just now is not started: nobody would end it."""
    started = []

    async def start(_: object) -> None:
        started.append(True)

    parts.engine.start = start
    parts.portal.run(parts.ending.add(parts.engine)).result(5)
    late = parts.ending.add(parts.engine)
    parts.portal.ask(parts.ending.begin, "closed at a place")
    with pytest.raises(PoolClosed, match="it was closed"):
        parts.portal.run(late).result(5)
    parts.ending.wait(10)
    assert (started, parts.engine.closed) == ([True], 2)


def test_it_begins_when_the_last_job_is_over(parts: Any) -> None:
    """With no job left, at once."""
    assert not parts.ending.begun
    parts.ending.when_idle()
    parts.ending.wait(10)
    assert parts.engine.closed == 1


def test_an_engine_that_fails_is_told_and_stops_nothing(parts: Any) -> None:
    """The error is raised to who waits, once; the loop has ended all the same."""
    parts.engine.error = OSError("cannot be closed")
    with pytest.raises(OSError, match="cannot be closed"):
        parts.ending.end("closed")
    assert parts.portal.join(0)
    parts.ending.end("closed")


def test_a_forked_child_ends_nothing(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool is its parent's."""
    import os

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 0)
        parts.ending.end("closed")
    assert not parts.ending.begun
    assert parts.engine.closed == 0
