"""imap reads its input only as far as it is consumed, and its iterator behaves."""

from __future__ import annotations

import asyncio
import gc
import itertools
import multiprocessing
import queue
import threading
import time
import weakref

import pytest

from distmap import JobCancelled, Pool


@pytest.fixture(scope="module")
def pool():
    """Two slots."""
    with Pool(2) as pool:
        yield pool


def test_results_in_order_and_unordered(pool):
    """imap gives input order, imap_unordered every result once."""
    assert list(pool.imap(abs, range(-500, 0))) == list(range(500, 0, -1))
    assert sorted(pool.imap_unordered(abs, range(-500, 0))) == list(range(1, 501))


def test_an_infinite_input_is_pulled_only_so_far(pool):
    """At most two chunks a slot are read ahead of the consumer."""
    pulled = []

    def endless():
        for number in itertools.count():
            pulled.append(number)
            yield number

    results = pool.imap(abs, endless(), chunksize=1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(pulled) <= 3 + 2 * 2 + 1
    results.cancel()


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_a_slow_consumer_of_tiny_items_is_two_seconds_ahead_at_most(pool, name):
    """The generator is not asked for more than its consumer, which needs 5 ms an item, takes in two seconds."""
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield read

    results = getattr(pool, name)(abs, endless())
    work, ahead = threading.Event(), []
    for taken in range(1, 200):
        next(results)
        work.wait(0.005)
        ahead.append(read - taken)
    results.close()
    assert max(ahead) <= 2.0 / 0.005
    assert max(ahead[100:]) > 20  # and yet enough is there


def test_buffer_bounds_items(pool):
    """buffer= is counted in items."""
    pulled = []

    def items():
        for number in range(100):
            pulled.append(number)
            yield number

    results = pool.imap(abs, items(), buffer=2)
    assert next(results) == 0
    assert len(pulled) <= 4
    assert list(results) == list(range(1, 100))
    with pytest.raises(ValueError, match="buffer must be a whole number of at least 1, or None; got 0"):
        pool.imap(abs, [1], buffer=0)


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_an_input_that_waits_for_results(pool, name):
    """With chunksize=1 a generator may make each item of the result before it."""
    found = queue.SimpleQueue()

    def feedback():
        item = 1
        while item < 1000:
            yield item
            item = found.get(timeout=10)

    seen = []
    for result in getattr(pool, name)(lambda x: 2 * x, feedback(), chunksize=1):
        seen.append(result)
        found.put(result)
    assert seen == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]


def test_an_error_is_raised_at_its_place_and_the_rest_follows(pool):
    """As multiprocessing: next raises for the item that failed, and goes on behind it."""
    results = pool.imap(lambda x: 1 // x, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(results) == 1
    with pytest.raises(StopIteration):
        next(results)
    assert [index for index, _ in results.failures] == [1]


def test_skip_and_return(pool):
    """on_error leaves failed items out, or gives their errors."""
    assert list(pool.imap(lambda x: 1 // x, [1, 0, 1], on_error="skip")) == [1, 1]
    one, error, _ = pool.imap(lambda x: 1 // x, [1, 0, 1], on_error="return")
    assert one == 1
    assert isinstance(error, ZeroDivisionError)


def test_next_with_a_timeout(pool):
    """No result in time raises, and the result can be had later."""
    results = pool.imap(time.sleep, [0.3])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.01)
    assert results.next(timeout=10) is None


def test_an_input_that_raises(pool):
    """What was read comes first, then the input's own error."""

    def items():
        yield 1
        raise OSError("disk gone")

    results = pool.imap(abs, items())
    assert next(results) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(results)


def test_async_for(pool):
    """In a cell: async for x in pool.imap(...)."""

    async def cell():
        return [value async for value in pool.imap(abs, range(-5, 0))]

    assert asyncio.run(cell()) == [5, 4, 3, 2, 1]


def test_a_cancelled_stream_says_so(pool):
    """After cancel the iteration ends with JobCancelled."""
    results = pool.imap(time.sleep, itertools.repeat(0.01))
    next(results)
    results.cancel()
    with pytest.raises(JobCancelled):
        list(results)


def test_an_abandoned_iterator_ends_its_job(pool):
    """Leaving the loop and dropping the iterator stops the work and its thread."""
    before = threading.active_count()
    results = pool.imap(abs, itertools.count())
    next(results)
    gone = weakref.ref(results)
    pool.last = None
    del results
    gc.collect()
    assert gone() is None
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert threading.active_count() <= before


def test_dropping_a_stream_that_has_ended_calls_nothing(pool):
    """An interrupt that comes then would be lost: Python ignores what is raised while something is dropped."""
    running, over, interrupted = (pool.imap(abs, itertools.count()), pool.imap(abs, [-1]), pool.imap(abs, [-1]))
    assert list(over) == [1]
    interrupted._interrupt()
    assert [stream._when_dropped.alive for stream in (running, over, interrupted)] == [True, False, False]


def test_close_and_join_finish_a_stream_with_an_end():
    """As in multiprocessing: the results are still there after join."""
    with Pool(2) as pool:
        results = pool.imap(abs, range(-500, 0))
        assert next(results) == 500
        pool.close()
        pool.join()
        assert list(results) == list(range(499, 0, -1))


def test_close_and_join_end_an_endless_stream():
    """What has no end is cancelled, so that join returns."""
    with Pool(2) as pool:
        results = pool.imap(abs, itertools.count())
        next(results)
        pool.close()
        pool.join()
        with pytest.raises(JobCancelled):
            list(results)


def test_a_slow_source_gives_what_it_has(pool):
    """A chunk is sent after a moment, also if it is not full."""
    gate = threading.Event()

    def items():
        yield from range(300)
        gate.wait(0.1)
        yield 300
        gate.wait(0.1)
        yield 301

    assert list(pool.imap(abs, items())) == list(range(302))


def test_a_source_that_exits_does_not_hang_the_iteration(pool):
    """SystemExit in the input is raised where the results are taken."""

    def items():
        yield 1
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(pool.imap(abs, items()))


def test_a_stream_is_iterated_not_awaited(pool):
    """The error says how."""
    results = pool.imap(abs, [1])
    with pytest.raises(TypeError, match="iterating"):
        results.result()
    assert list(results) == [1]
    assert results.wait(10)
    assert results.state == "done"


def test_what_items_print_comes_before_their_results(pool, capsys):
    """Also where the reader thread waits for an input that takes its time."""
    go_on = threading.Event()

    def items():
        yield 1
        go_on.wait(10)

    def talk(x):
        print("item", x)
        return x

    results = pool.imap(talk, items(), chunksize=1)
    assert next(results) == 1
    assert capsys.readouterr().out == "[local] item 1\n"
    go_on.set()
    assert list(results) == []
