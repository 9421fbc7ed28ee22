"""A pool is a true concurrent.futures.Executor."""

from __future__ import annotations

import concurrent.futures
import time

import pytest

from distmap import Pool


@pytest.fixture(scope="module")
def executor():
    """An executor over two slots."""
    with Pool(2) as pool, pool.executor() as executor:
        # The thread that runs callbacks stays as long as the pool.
        pool.apply_async(abs, (1,), callback=lambda value: None).get(10)
        yield executor


def test_it_is_an_executor(executor):
    """isinstance holds, and submit gives a Future that waits as any other."""
    assert isinstance(executor, concurrent.futures.Executor)
    futures = [executor.submit(pow, 2, n) for n in range(5)]
    done, _ = concurrent.futures.wait(futures, 10)
    assert sorted(future.result() for future in done) == [1, 2, 4, 8, 16]


def test_map_is_in_order_and_takes_several_iterables(executor):
    """As Executor.map."""
    assert list(executor.map(pow, [2, 3], [3, 2])) == [8, 9]


def test_map_with_a_buffer_reads_only_so_far(executor):
    """buffersize= bounds what is pulled from the input."""
    pulled = []

    def items():
        for number in range(1000):
            pulled.append(number)
            yield number

    results = executor.map(abs, items(), buffersize=4)
    assert next(results) == 0
    assert len(pulled) <= 16
    results.close()


def test_map_raises_at_the_item(executor):
    """The items before it come first."""
    results = executor.map(lambda x: 1 // x, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_times_out(executor):
    """A result that is not there in time raises TimeoutError, and the work is cancelled."""
    with pytest.raises(TimeoutError):
        list(executor.map(time.sleep, [30], timeout=0.2))


def test_after_shutdown_nothing_is_taken():
    """submit and map raise RuntimeError; the pool itself stays open."""
    with Pool(1) as pool:
        executor = pool.executor()
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(abs, 1)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.map(abs, [1])
        assert pool.map(abs, [-1]) == [1]


def test_shutdown_can_cancel_what_waits():
    """cancel_futures cancels what has not begun."""
    with Pool(1) as pool:
        executor = pool.executor()
        running = executor.submit(time.sleep, 0.2)
        waiting = [executor.submit(time.sleep, 0.2) for _ in range(50)]
        executor.shutdown(cancel_futures=True)
        assert running.done()
        assert any(future.cancelled() for future in waiting)
