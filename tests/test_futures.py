"""Submitted items are futures, travel together while they wait, and resolve off the loop."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time

import pytest

from distmap import JobCancelled, Pool, PoolClosed


@pytest.fixture(scope="module")
def pool():
    """Two slots."""
    with Pool(2) as pool:
        # The thread that runs callbacks stays as long as the pool.
        pool.apply_async(abs, (1,), callback=lambda value: None).get(10)
        yield pool


def test_many_submits_become_few_chunks(pool):
    """Items that wait for the same function are sent together."""
    futures = [pool.submit(pow, n, 2) for n in range(5000)]
    assert [future.result(30) for future in futures] == [n * n for n in range(5000)]


def test_arguments_are_as_they_were_at_submit(pool):
    """A later change of an argument does not matter."""
    data = [1, 2]
    gate = [pool.submit(time.sleep, 0.05) for _ in range(8)]
    future = pool.submit(sum, data)
    data.append(1000)
    assert future.result(10) == 3
    for one in gate:
        one.result(10)


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


def test_callbacks_do_not_run_on_the_loop(pool):
    """A callback may take its time, or use the pool itself."""
    where, over = [], threading.Event()

    def callback(future):
        where.append((threading.current_thread().name, pool.map(abs, [-future.result()])))
        over.set()

    pool.submit(pow, 2, 2).add_done_callback(callback)
    assert over.wait(10)
    assert where == [("distmap-callbacks", [4])]


def test_a_change_of_a_global_is_seen_by_the_next_submit(pool):
    """The function is looked at again at each submit."""
    scope = {"scale": 2}
    exec("def times(x):\n    return scale * x", scope)
    assert pool.submit(scope["times"], 5).result(10) == 10
    scope["scale"] = 3
    assert pool.submit(scope["times"], 5).result(10) == 15


def test_close_lets_submitted_items_finish():
    """close takes no more; join waits for what was submitted."""
    with Pool(1) as pool:
        futures = [pool.submit(pow, n, 2) for n in range(20)]
        pool.close()
        with pytest.raises(PoolClosed, match="not running"):
            pool.submit(pow, 1, 1)
        pool.join()
        assert [future.result(0) for future in futures] == [n * n for n in range(20)]


def test_terminate_resolves_what_is_left():
    """Nobody waits for ever for a pool that is gone."""
    with Pool(1) as pool:
        future = pool.submit(time.sleep, 60)
        waiting = [pool.submit(time.sleep, 60) for _ in range(5)]
    for one in [future, *waiting]:
        assert isinstance(one.exception(10), JobCancelled)


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


def test_lines_that_an_item_dropped_are_told_of(capsys):
    """The count comes with the end of the job, though nobody asks for it."""

    def flood(x):
        for number in range(100_000):
            print("line", number)

    with Pool(1) as pool:
        pool.submit(flood, 1).result(10)
        pool.close()
        pool.join()
    assert "lines of output dropped" in capsys.readouterr().err
