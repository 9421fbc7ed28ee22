"""Tests of distmap/worker/idle.py: a worker and a pool in this process; behind a real hub: tests/reach/."""

from __future__ import annotations

import asyncio
import operator

import pytest
from support.waiting import eventually

from distmap import Pool
from distmap.core.limits import Limits
from distmap.testing.relay import Relay
from distmap.transport.token import load_token
from distmap.transport.url import parse_url
from distmap.worker.idle import shown
from distmap.worker.supervisor import OK, Settings, Supervisor


def test_an_idle_worker_leaves_waits_in_silence_and_comes_when_called() -> None:
    """Nothing is sent while it waits; a call for work brings it back, also after the connection was cut."""

    async def main() -> None:
        with Pool(listen="wss://127.0.0.1:0") as pool, Relay.before(str(pool.url)) as relay:
            settings = Settings(name="here", slots=1, token=load_token(), idle=0.2)
            limits = Limits(beat_every=0.05, call_redial=0.05)
            worker = Supervisor(settings, announce=lambda line: None, limits=limits)
            clock = asyncio.get_running_loop().time
            done = asyncio.create_task(worker.dial(parse_url(relay.url)))
            await eventually(lambda: "(1 more on call)" in repr(pool))
            assert pool.workers == []
            await eventually(lambda: relay.connections == 1)
            passed, began = relay.bytes_passed, clock()
            await eventually(lambda: clock() > began + 0.5)
            assert relay.bytes_passed == passed
            assert await asyncio.to_thread(pool.map, operator.neg, [1, 2], progress=False) == [-1, -2]
            await eventually(lambda: "(1 more on call)" in repr(pool))
            accepted = relay.accepted
            relay.reset()
            await eventually(lambda: relay.accepted > accepted and "(1 more on call)" in repr(pool))
            assert [one.name for one in await asyncio.to_thread(pool.wait_for_workers, 1)] == ["here"]
            worker.terminate("a test")
            assert await done == OK

    asyncio.run(main())


def test_a_worker_on_call_leaves_when_told_and_when_its_connection_is_old() -> None:
    """A signal ends the wait; a connection that is old is replaced by a fresh one."""

    async def main() -> None:
        with Pool(listen="wss://127.0.0.1:0") as pool, Relay.before(str(pool.url)) as relay:
            settings = Settings(name="here", slots=1, token=load_token(), idle=0.1)
            worker = Supervisor(settings, announce=lambda line: None, limits=Limits(call_held=0.1))
            done = asyncio.create_task(worker.dial(parse_url(relay.url)))
            await eventually(lambda: relay.accepted >= 4)
            worker.terminate("a test")
            assert await done == OK
            await eventually(lambda: "on call" not in repr(pool))

    asyncio.run(main())


def test_a_worker_with_work_stays() -> None:
    """Work that takes longer than the idle time is finished in one stay."""

    async def main() -> None:
        with Pool(listen="wss://127.0.0.1:0") as pool:
            settings = Settings(name="here", slots=1, token=load_token(), idle=0.3)
            worker = Supervisor(settings, announce=lambda line: None)
            job = pool.map_async(_long, [1.0], progress=False)
            done = asyncio.create_task(worker.dial(parse_url(str(pool.url))))
            assert await asyncio.to_thread(job.get, 20) == [1.0]
            kinds = [type(event).__name__ for _, event, _ in pool.trace()]
            assert "WorkerDraining" not in kinds[: kinds.index("AttemptReported")]
            worker.terminate("a test")
            assert await done == OK

    asyncio.run(main())


def _long(seconds: float) -> float:
    import threading

    threading.Event().wait(seconds)
    return seconds


@pytest.mark.parametrize(("seconds", "words"), [(30, "30 s"), (600, "10 min"), (7200, "2 h"), (5400, "1.5 h")])
def test_times_in_words(seconds: float, words: str) -> None:
    """A time is said in the unit that fits."""
    assert shown(seconds) == words
