"""Submitted items are futures, travel together while they wait, and resolve off the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import multiprocessing
import threading
import time
import weakref

import numpy as np
import pytest

from distmap import JobCancelled, Pool


@pytest.fixture(scope="module")
def pool():
    """Two slots."""
    with Pool(2) as pool:
        # The thread that runs callbacks stays as long as the pool.
        pool.apply_async(abs, (1,), callback=lambda value: None).get(10)
        yield pool


def test_arguments_are_as_they_were_at_submit(pool):
    """A later change of an argument does not matter."""
    data = [1, 2]
    gate = [pool.submit(time.sleep, 0.05) for _ in range(8)]
    future = pool.submit(sum, data)
    data.append(1000)
    assert future.result(10) == 3
    for one in gate:
        one.result(10)


def test_arrays_are_as_they_were_at_submit(pool):
    """Neither an array among the arguments nor one that the function captured follows what is done to it later."""
    given, captured = np.empty(500_000), np.empty(500_000)

    def total(*_):
        return captured[0] + captured[-1]

    for round in range(20):
        given[:] = captured[:] = round
        futures = [pool.submit(np.max, given), pool.submit(np.max, a=given), pool.submit(total, given)]
        given[:] = captured[:] = -1
        assert [future.result(10) for future in futures] == [round, round, 2 * round]


def test_a_future_keeps_its_own_result_only():
    """Who keeps one of many futures does not keep the results and errors that travelled with it."""

    class Odd(ValueError):
        """Unlike a builtin exception it can be referred to weakly."""

    def make(n):
        if n == 2:
            raise Odd
        return {n}

    with Pool(1) as pool:
        gate = pool.submit(time.sleep, 0.2)
        futures = [pool.submit(make, n) for n in range(8)]
        gate.result(10)
        results = [weakref.ref(future.exception(10) or future.result(0)) for future in futures]
        kept = futures[5]
        del futures
        gc.collect()
        assert kept.result(0) == {5}
        assert [n for n, result in enumerate(results) if result() is not None] == [5]


def test_an_error_is_the_functions_own(pool):
    """result raises it, exception gives it, both know the item."""
    future = pool.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        future.result(10)
    assert isinstance(future.exception(), ValueError)
    assert "on worker local" in future.exception().__notes__[0]
    assert not future.successful()


def test_asyncresult_methods(pool):
    """get, wait, ready and successful are those of multiprocessing."""
    future = pool.submit(time.sleep, 0.5)
    assert not future.ready()
    with pytest.raises(ValueError, match="not ready"):
        future.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        future.get(0.01)
    future.wait(10)
    assert future.ready()
    assert future.successful()


def test_a_future_can_be_awaited(pool):
    """In a cell: await pool.submit(...)."""

    async def cell():
        return await pool.submit(pow, 2, 3)

    assert asyncio.run(cell()) == 8


def test_asyncio_takes_the_value_of_one_that_is_done(pool):
    """It is unpickled for it, whichever way a version of Python looks."""
    future, failed = pool.submit(abs, -1), pool.submit(int, "x")
    concurrent.futures.wait([future, failed], 10)

    async def main():
        with pytest.raises(ValueError, match="invalid literal"):
            await asyncio.wrap_future(failed)
        return await asyncio.wrap_future(future)

    assert asyncio.run(main()) == 1
    assert future._get_snapshot() == (True, False, 1, None)
    assert failed._get_snapshot()[:3] == (True, False, None)
    assert isinstance(failed._get_snapshot()[3], ValueError)


def test_a_callback_of_a_future_that_is_done_is_called_at_once(pool):
    """As in concurrent.futures: in the thread that adds it."""
    future = pool.submit(abs, -1)
    future.result(10)
    where = []
    future.add_done_callback(lambda done: where.append(threading.current_thread()))
    assert where == [threading.current_thread()]


def test_a_future_resolved_by_its_owner_harms_nobody():
    """`set_result` and `set_exception` are for executors; who calls them all the same gets what was set."""
    with Pool(1) as pool:
        running = pool.submit(time.sleep, 0.2)
        waiting = [pool.submit(pow, n, 2) for n in range(6)]
        running.set_result("mine")
        waiting[1].set_result("mine too")
        waiting[2].set_exception(KeyError("mine"))
        assert waiting[3].cancel()
        assert running.result(10) == "mine"
        assert [waiting[n].result(10) for n in (0, 1, 4, 5)] == [0, "mine too", 16, 25]
        assert isinstance(waiting[2].exception(10), KeyError)
        assert pool.submit(abs, -1).result(10) == 1
        left = pool.submit(time.sleep, 60), pool.submit(time.sleep, 60)
        left[1].set_result("mine")
    assert isinstance(left[0].exception(10), JobCancelled)
    assert left[1].result(10) == "mine"


def test_what_an_item_prints_comes_before_its_result(pool, capsys):
    """Of a value as of an error."""

    def talk(x):
        print("item", x)
        return 1 // x

    assert pool.submit(talk, 1).result(10) == 1
    assert capsys.readouterr().out == "[local] item 1\n"
    with pytest.raises(ZeroDivisionError):
        pool.submit(talk, 0).result(10)
    assert capsys.readouterr().out == "[local] item 0\n"
