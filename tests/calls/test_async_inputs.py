"""Async iterables as input: read lazily on the right loop, ended when the job is, and never waited for in vain."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import threading
import warnings
from collections.abc import AsyncIterator

import pytest

from distmap import Pool
from distmap.calls.async_inputs import Bridge
from distmap.calls.inputs import AsyncPulled


@pytest.fixture(scope="module")
def pool():
    """Two slots."""
    with Pool(2) as pool:
        yield pool


class Source:
    """An async generator that says what becomes of it."""

    def __init__(self, count=None, *, fail_at=None, wait_at=None):
        self.count, self.fail_at, self.wait_at = count, fail_at, wait_at
        self.read = 0
        self.closed = threading.Event()
        self.waits = threading.Event()
        self.loop = None

    async def __aiter__(self):
        self.loop = asyncio.get_running_loop()
        try:
            for number in itertools.count() if self.count is None else range(self.count):
                if number == self.fail_at:
                    raise OSError("the connection broke")
                if number == self.wait_at:
                    self.waits.set()
                    await asyncio.Event().wait()
                self.read = number + 1
                yield number
        finally:
            await asyncio.sleep(0)  # it may still await while it is closed
            self.closed.set()


def threads_of_inputs():
    return [thread for thread in threading.enumerate() if thread.name == "distmap-input"]


def no_thread_is_left():
    for thread in threads_of_inputs():
        thread.join(10)
    return not threads_of_inputs()


def test_a_script_without_a_loop(pool):
    """map, imap, imap_unordered and map_async run it on a loop of its own, which ends with it."""
    assert pool.map(abs, Source(50)) == list(range(50))
    assert list(pool.imap(abs, Source(50))) == list(range(50))
    assert sorted(pool.imap_unordered(abs, Source(50))) == list(range(50))
    assert pool.map_async(abs, Source(50)).result(20) == list(range(50))
    assert pool.map(abs, Source(0)) == []
    assert no_thread_is_left()


def test_in_a_coroutine_it_runs_on_that_loop(pool):
    """It may use what belongs to the loop and the context of the caller, and is read while that loop goes on."""
    word = contextvars.ContextVar("word", default="?")

    async def words():
        for _ in range(5):
            await asyncio.sleep(0)
            yield word.get() + str(asyncio.get_running_loop() is here)

    async def main():
        nonlocal here
        here = asyncio.get_running_loop()
        word.set("mine ")
        assert await pool.map_async(str, words()) == ["mine True"] * 5
        assert [result async for result in pool.imap(str, words())] == ["mine True"] * 5

    here = None
    asyncio.run(main())
    assert not threads_of_inputs()


def test_it_is_read_as_far_as_the_window_goes(pool):
    """An endless one is read ahead by no more than a sync one, and is closed with the iterator."""
    source = Source()

    async def main():
        results = pool.imap(abs, source, buffer=4)
        async for result in results:
            assert source.read <= result + 1 + 4
            if result == 40:
                break
        results.close()
        assert await asyncio.to_thread(source.closed.wait, 10)

    asyncio.run(main())


def test_items_that_change_are_pickled_first(pool):
    """The generator may use one list again for each item."""

    async def reused():
        row = [0]
        for number in range(20):
            row[0] = number
            yield row

    assert pool.map(sum, reused()) == list(range(20))


@pytest.mark.parametrize("fail_at", [0, 7])
def test_what_it_raises_comes_behind_its_items(pool, fail_at):
    """As with a sync input: the items before it are delivered, then its own exception."""
    results = pool.imap(abs, Source(fail_at=fail_at))
    assert [next(results) for _ in range(fail_at)] == list(range(fail_at))
    with pytest.raises(OSError, match="the connection broke"):
        next(results)
    with pytest.raises(OSError, match="the connection broke"):
        pool.map(abs, Source(fail_at=fail_at))
    assert no_thread_is_left()


def test_a_timeout_of_its_own_is_its_error(pool):
    """TimeoutError of the input is not taken for our own waiting."""

    async def slow():
        yield 1
        raise TimeoutError("the server is slow")

    with pytest.raises(TimeoutError, match="the server is slow"):
        pool.map(abs, slow())


def test_cancelling_ends_one_that_waits(pool):
    """The job is over at once, its clean-up runs, and no thread waits for the next item."""
    source = Source(wait_at=3)
    job = pool.map_async(abs, source)
    assert source.waits.wait(10)
    job.cancel()
    assert source.closed.wait(10)
    assert job.wait(10)
    assert no_thread_is_left()


def test_a_loop_that_ends_ends_the_input(pool):
    """asyncio.run is over before the input: an error says so, nothing hangs."""
    source = Source(wait_at=3)

    async def main():
        job = pool.map_async(abs, source)
        assert await asyncio.to_thread(source.waits.wait, 10)
        return job

    job = asyncio.run(main())
    with pytest.raises(RuntimeError, match="the event loop on which the input runs has ended before the input"):
        job.result(20)


def test_whoever_waits_on_its_loop_is_told(pool):
    """It would wait for ever: the sentence names what to use."""
    told = []

    async def main():
        job = pool.map_async(abs, Source(wait_at=0))
        stream = pool.imap(abs, Source(wait_at=0))
        calls = {
            "map": lambda: pool.map(abs, Source(3)),
            "result": job.result,
            "wait": job.wait,
            "iter": lambda: list(job),
            "next": lambda: next(stream),
        }
        for name, call in calls.items():
            with pytest.raises(RuntimeError, match=r"would wait for ever: its input \(Source\).*await pool.map_async"):
                call()
            told.append(name)
        assert not job.wait(0.01)  # it may look
        job.cancel()
        stream.close()
        with pytest.raises(BaseException, match="cancelled"):
            await job

    asyncio.run(main())
    assert len(told) == 5


def test_it_is_taken_alone(pool):
    """Two inputs side by side cannot be async: the error says what to do."""
    with pytest.raises(
        TypeError, match="argument 2 after the function is Source, an async iterable, which is taken alone"
    ):
        pool.map(pow, [1], Source(1))


def test_one_that_was_never_read_is_closed_without_a_loop():
    """Nothing was begun, so nothing is to be ended."""
    source = AsyncPulled(Source(3))
    source.close()
    source.close()
    assert source.read(5) == ([], 0, True)
    assert not threads_of_inputs()


def test_an_end_that_the_loop_does_not_come_to_leaves_nothing() -> None:
    """A loop that is closed right after the input was let go of has no coroutine of ours that nobody awaits."""

    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def begin() -> tuple[Bridge, int]:
        bridge = Bridge(items())
        return bridge, await asyncio.to_thread(next, bridge)

    loop = asyncio.new_event_loop()
    bridge, first = loop.run_until_complete(begin())
    loop.run_until_complete(loop.shutdown_default_executor())
    bridge.close()
    loop.close()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del loop, bridge
        gc.collect()
    assert (first, [str(one.message) for one in said]) == (1, [])
