"""Memory is bounded: what is read ahead, what waits for a consumer, and what is kept, in items and in bytes."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from distmap import Pool
from distmap.core.limits import LIMITS

DEADLINE = 20
MB = 1 << 20


@pytest.fixture(scope="module")
def pool():
    """Two slots; both their processes are there before the first test."""
    with Pool(2) as pool:
        pool.run(os.getpid)
        yield pool


class Announced:
    """A million items of 1 MB, made when they are read."""

    def __init__(self, count=1_000_000):
        self.count, self.read = count, 0

    def __len__(self):
        return self.count

    def __iter__(self):
        for number in range(self.count):
            self.read += 1
            yield number.to_bytes(4, "big") * (MB // 4)


def until(condition):
    """Wait until it is true."""
    end, pause = time.monotonic() + DEADLINE, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        pause.wait(0.01)


def rss():
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


#: Items of 1 MB that a job may have read and not finished: the bytes of a job, and one chunk more.
HELD = (LIMITS.job_bytes + LIMITS.chunk_bytes) // MB


def test_announced_items_are_read_as_they_are_run(pool):
    """Of 10**6 items of 1 MB only a window is read, whatever `len` says."""
    source = Announced()
    job = pool.map_async(len, source)
    ahead = []
    until(lambda: ahead.append(source.read - len(job.partial)) or len(job.partial) >= 200)
    job.cancel()
    assert max(ahead) <= HELD
    assert job.wait(DEADLINE)


def test_items_that_nobody_takes_stop_the_reading(pool):
    """A stream whose consumer takes nothing reads two chunks a slot, and then no more."""
    source = Announced()
    results = pool.imap(len, source)
    assert next(results) == MB
    until(lambda: results.progress.in_flight == 0 and results.progress.done > 1)
    assert source.read <= 1 + HELD
    results.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process from /proc")
def test_large_results_that_nobody_takes_are_bounded_in_bytes(pool):
    """Results of 4 MB of tiny items: so many wait as fit into the bytes of a job, and the slots stop."""
    before = rss()
    results = pool.imap(lambda number: bytes([number % 256]) * (4 * MB), itertools.count(), buffer=10_000)
    next(results)
    done = 0

    def is_quiet():
        nonlocal done
        before, done = done, results.progress.done
        return results.progress.in_flight == 0 and done == before and done > 8

    until(is_quiet)
    chunk = LIMITS.chunk_bytes
    assert results.progress.done * 4 * MB <= LIMITS.job_bytes + 4 * chunk
    assert rss() - before <= LIMITS.job_bytes + 8 * chunk
    results.close()


def test_unread_results_go_with_their_iterator(pool):
    """A stream that is over and that nobody takes anything from keeps its results only as long as it is kept."""
    results = pool.imap(lambda number: bytes(MB), range(4))
    until(results.ready)
    serving = weakref.ref(results._stream)
    del results

    def is_gone():
        gc.collect()
        return serving() is None

    until(is_gone)


def test_results_are_held_once(pool):
    """A job gives the values that it holds, not copies, and lets go of what they were sent as."""
    job = pool.map_async(lambda number: bytes(MB), range(4))
    first, again = job.result(DEADLINE), job.result(DEADLINE)
    assert all(one is other for one, other in zip(first, again, strict=True))
    kept = [run for _, (_, run) in sorted(job._results._runs.items())]
    assert all(one is other for one, other in zip(first, itertools.chain(*kept), strict=True))


def test_an_endless_input_that_breaks_in_the_middle(pool):
    """All items before it are delivered, then its error, and then the iteration is over."""

    def broken():
        for number in itertools.count():
            if number == 20_000:
                raise OSError("the disk is gone")
            yield number

    taken = []

    def take(results):
        for value in results:
            taken.append(value)  # noqa: PERF402  (what `extend` has when it raises is lost)

    results = pool.imap(abs, broken())
    with pytest.raises(OSError, match="the disk is gone"):
        take(results)
    assert taken == list(range(20_000))
    with pytest.raises(StopIteration):
        next(results)
    results._stream.thread.join(DEADLINE)
    assert not results._stream.thread.is_alive()
