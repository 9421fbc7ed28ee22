"""A user of `concurrent.futures` gets a true Executor, and futures that work with everything made for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

import distmap

#: The shared pool lives longer than a test; its fixture checks what it leaves.
pytestmark = pytest.mark.own_leaks


def test_submit_gives_a_future(pool2):
    """`pool.submit` gives a concurrent.futures.Future."""
    future = pool2.submit(pow, 2, 10)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(10) == 1024
    assert future.done()
    assert future.exception() is None


def test_submit_passes_keywords_called_fn_and_self(pool2):
    """`fn` is positional-only, so the function may take keywords of any name."""
    both = lambda *args, **kwargs: (args, kwargs)  # noqa: E731  (travels by value)
    assert pool2.submit(both, 1, fn=2, self=3).result(10) == ((1,), {"fn": 2, "self": 3})
    assert pool2.executor().submit(both, 1, fn=2, self=3).result(10) == ((1,), {"fn": 2, "self": 3})
    with pytest.raises(TypeError):
        pool2.submit(fn=both)


def test_submit_raises_the_original_exception(pool2):
    """A future of a call that raised carries the original type."""
    future = pool2.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        future.result(10)
    assert isinstance(future.exception(), ValueError)


def test_executor_is_an_executor(pool2):
    """`pool.executor()` is an instance of concurrent.futures.Executor; map keeps order and takes a timeout."""
    executor = pool2.executor()
    assert isinstance(executor, concurrent.futures.Executor)
    assert list(executor.map(pow, [2, 3, 4], [2, 2, 2])) == [4, 9, 16]
    assert list(executor.map(abs, range(20), timeout=10, chunksize=5)) == list(range(20))


def test_wait_and_as_completed(pool2):
    """`concurrent.futures.wait` and `as_completed` take its futures."""
    executor = pool2.executor()
    futures = [executor.submit(abs, -x) for x in range(50)]
    done, pending = concurrent.futures.wait(futures, timeout=10)
    assert not pending
    assert {future.result() for future in done} == set(range(50))
    more = [executor.submit(abs, -x) for x in range(50)]
    assert {future.result() for future in concurrent.futures.as_completed(more, timeout=10)} == set(range(50))


def test_wait_for_the_first(pool2, gate):
    """`wait(FIRST_COMPLETED)` returns with the quick one while another still runs."""
    slow = pool2.submit(gate.wait, 0)
    quick = pool2.submit(abs, -1)
    done, pending = concurrent.futures.wait([slow, quick], 10, concurrent.futures.FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {slow})
    gate.open()
    assert slow.result(10) == 0


def test_futures_of_an_executor_can_be_awaited(pool2):
    """`asyncio.wrap_future` and `loop.run_in_executor` work."""

    async def main():
        executor = pool2.executor()
        wrapped = await asyncio.wait_for(asyncio.wrap_future(executor.submit(abs, -3)), 10)
        loop = asyncio.get_running_loop()
        ran = await asyncio.wait_for(loop.run_in_executor(executor, abs, -4), 10)
        many = await asyncio.gather(*(asyncio.wrap_future(pool2.submit(abs, -x)) for x in range(20)))
        return wrapped, ran, many

    assert asyncio.run(main()) == (3, 4, list(range(20)))


def test_done_callbacks_run(pool2):
    """`add_done_callback` is called with the finished future."""
    called = threading.Event()
    future = pool2.submit(abs, -3)
    future.add_done_callback(lambda done: called.set() if done is future else None)
    assert called.wait(10)


def test_a_waiting_future_can_be_cancelled(gate, until, tmp_path):
    """A future that waits behind others is cancelled and its call never runs; the others finish."""
    mark = str(tmp_path / "ran")

    def leave_a_mark():
        open(mark, "w").close()

    with distmap.Pool(1) as pool:
        executor = pool.executor()
        running = executor.submit(gate.wait, 0)
        until(gate.waiting)
        others = [executor.submit(abs, -x) for x in range(3)]
        victim = executor.submit(leave_a_mark)
        assert victim.cancel()
        assert victim.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            victim.result(1)
        gate.open()
        assert running.result(10) == 0
        assert [future.result(10) for future in others] == [0, 1, 2]
        assert pool.submit(abs, -9).result(10) == 9
    assert not (tmp_path / "ran").exists()


def test_a_finished_future_cannot_be_cancelled(pool2):
    """`cancel` of a finished future is False and changes nothing."""
    future = pool2.submit(abs, -1)
    assert future.result(10) == 1
    assert not future.cancel()
    assert future.result() == 1


def test_executor_shutdown_waits_and_leaves_the_pool(pool2):
    """`with executor` waits for its futures; then submit raises RuntimeError, and the pool goes on."""
    with pool2.executor() as executor:
        futures = [executor.submit(abs, -x) for x in range(20)]
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(abs, 1)
    assert pool2.map(abs, [-1]) == [1]


def test_executor_shutdown_can_cancel_what_waits(gate, until):
    """`shutdown(cancel_futures=True)` cancels what has not begun and waits for what has."""
    with distmap.Pool(1) as pool:
        executor = pool.executor()
        running = executor.submit(gate.wait, 0)
        until(gate.waiting)
        waiting = [executor.submit(abs, -x) for x in range(50)]
        executor.shutdown(wait=False, cancel_futures=True)
        gate.open()
        assert running.result(10) == 0
        concurrent.futures.wait(waiting, 10)
        assert sum(future.cancelled() for future in waiting) >= 48


def test_many_submits(pool2):
    """Thousands of submits at once each give their own result."""
    futures = [pool2.submit(abs, -x) for x in range(5000)]
    assert [future.result(15) for future in futures] == list(range(5000))


def test_submits_of_different_functions(pool2):
    """Functions may be mixed freely."""
    futures = [pool2.submit([abs, str, float][x % 3], x) for x in range(60)]
    assert [future.result(10) for future in futures] == [[abs, str, float][x % 3](x) for x in range(60)]
