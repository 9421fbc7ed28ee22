"""The portal runs calls on its loop, in order, and tells of failures."""

from __future__ import annotations

import asyncio
import threading

import pytest

from distmap.driver.portal import Portal
from distmap.errors import PoolClosed


@pytest.fixture
def portal():
    """A portal, closed afterwards."""
    portal = Portal()
    yield portal
    portal.close()


def test_calls_run_in_order_on_one_other_thread(portal):
    """Posted calls run in the order of posting, in the portal's thread."""
    seen = []
    for number in range(100):
        portal.call(lambda number=number: seen.append((number, threading.current_thread())))
    portal.ask(lambda: None)
    assert [number for number, _ in seen] == list(range(100))
    assert {thread for _, thread in seen} != {threading.current_thread()}
    assert len({thread for _, thread in seen}) == 1


def test_ask_returns_and_raises(portal):
    """ask gives back what the function returns or raises."""
    assert portal.ask(pow, 2, 5) == 32
    with pytest.raises(ZeroDivisionError):
        portal.ask(lambda: 1 // 0)


def test_run_starts_a_coroutine(portal):
    """run gives a future of the coroutine."""

    async def work():
        await asyncio.sleep(0)
        return "done"

    assert portal.run(work()).result(5) == "done"


def test_a_failing_call_is_told():
    """An exception in a posted call reaches the crash handler, and later calls still run."""
    told = []
    portal = Portal(crashed=told.append)
    try:
        portal.call(lambda: 1 // 0)
        assert portal.ask(lambda: "alive") == "alive"
        assert isinstance(told[0], ZeroDivisionError)
    finally:
        portal.close()


def test_first_runs_in_the_thread_before_the_loop():
    """What must start first runs in the portal's own thread."""
    where = []
    portal = Portal(first=lambda: where.append(threading.current_thread()))
    try:
        assert portal.ask(threading.current_thread) is where[0]
    finally:
        portal.close()


def test_a_failing_start_is_raised_to_the_caller():
    """If the first step fails, whoever needs the loop, or calls, is given that error; the call does not run."""
    ran = []

    def fail():
        raise OSError("no more processes")

    portal = Portal(first=fail)
    with pytest.raises(OSError, match="no more processes"):
        portal.loop  # noqa: B018
    with pytest.raises(OSError, match="no more processes"):
        portal.call(ran.append, 1)
    assert not ran
    portal.close()


def test_close_cancels_what_runs_and_later_calls_run_here():
    """Closing cancels running coroutines; no call afterwards is dropped: it runs in the calling thread."""
    portal = Portal()
    ended = []

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    portal.run(forever())
    portal.ask(lambda: None)
    portal.close()
    assert ended == [True]
    portal.call(lambda: ended.append(threading.current_thread()))
    assert ended[1:] == [threading.current_thread()]
    assert portal.ask(pow, 2, 5) == 32
    coroutine = forever()
    with pytest.raises(PoolClosed, match="closed"):
        portal.run(coroutine).result(5)
    assert coroutine.cr_frame is None


def test_a_coroutine_that_comes_as_the_loop_ends_ends_too():
    """Whoever waits for it hears that the pool is closed, however late it was begun."""
    portal, late = Portal(), []

    async def forever():
        await asyncio.Event().wait()

    async def last():
        try:
            await asyncio.Event().wait()
        finally:
            late.append(portal.run(forever()))

    first = portal.run(last())
    portal.ask(lambda: None)
    portal.close()
    for answer in (first, *late):
        with pytest.raises(PoolClosed, match="closed"):
            answer.result(5)


@pytest.mark.parametrize("turns", range(8))
def test_a_coroutine_that_is_done_as_the_loop_ends_gives_its_answer(turns):
    """Whichever turn of the ending loop is its last, whoever waits for it gets an answer."""
    portal, late = Portal(), []

    async def short():
        for _ in range(turns):
            await asyncio.sleep(0)
        return "done"

    async def holding():
        try:
            yield 1
        finally:
            late.append(portal.run(short()))

    async def begin():
        generator = holding()
        await anext(generator)
        portal.loop.generator = generator  # kept, so that the loop itself closes it

    portal.run(begin()).result(5)
    portal.close()
    error = late[0].exception(5)
    if error is None:
        assert late[0].result() == "done"
    else:
        assert isinstance(error, PoolClosed)
        assert "closed meanwhile" in str(error)


def test_what_was_posted_as_the_loop_stopped_runs_too():
    """Calls that the loop had not begun when it stopped run in its thread after it."""
    portal = Portal()
    where = []

    def stop_and_post():
        portal.loop.stop()
        portal.loop.call_soon(portal.call, lambda: where.append(threading.current_thread().name))

    portal.call(stop_and_post)
    assert portal.join(10)
    assert where == ["distmap"]


def test_calls_beside_the_end_are_never_lost():
    """Of eight threads that call while the loop ends, every call runs once."""
    for _ in range(20):
        portal = Portal()
        portal.ask(int)
        counted, ready = [], threading.Barrier(9)

        def post(portal=portal, counted=counted, ready=ready):
            ready.wait(10)
            for number in range(50):
                portal.call(counted.append, number)

        threads = [threading.Thread(target=post) for _ in range(8)]
        for thread in threads:
            thread.start()
        ready.wait(10)
        portal.close()
        for thread in threads:
            thread.join(10)
        assert sorted(counted) == sorted(list(range(50)) * 8)
