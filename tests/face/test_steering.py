"""Several jobs at once, priority, broadcast, run, nested pools: what steers a pool beyond one map."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

import distmap

#: The shared pool lives longer than a test; its fixture checks what it leaves.
pytestmark = pytest.mark.own_leaks


def test_two_jobs_at_once(pool2, gate, until):
    """A second job gets its share while the first still runs."""
    first = pool2.map_async(lambda x, wait=gate.wait: wait(x) if x == 0 else x, range(30), chunksize=1)
    until(gate.waiting)
    assert pool2.map(abs, range(50), chunksize=1) == list(range(50))
    assert not first.ready()
    gate.open()
    assert first.result(10) == list(range(30))


def test_calls_from_many_threads(pool2):
    """Threads may call one pool at the same time; each gets its own results."""

    def call(k):
        return pool2.map(lambda x: x * k, range(200), chunksize=20)

    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(call, range(8)))
    assert got == [[x * k for x in range(200)] for k in range(8)]


def test_a_submit_during_a_batch_starts_soon(pool2):
    """An interactive submit does not wait for a long batch to end."""

    def nap(x):
        import time

        time.sleep(0.02)
        return x

    batch = pool2.map_async(nap, range(2000))
    next(iter(batch))
    assert pool2.submit(abs, -1).result(15) == 1
    assert batch.progress.done < 1000  # half of it takes ten seconds
    batch.cancel()


def test_a_higher_priority_goes_first(gate, until, tmp_path):
    """A job of higher priority overtakes what an earlier one has waiting."""
    log = str(tmp_path / "log")

    def nap(x):
        # On a busy machine it takes a while until the thread of the other job has read its first item, and the next.
        time.sleep(0.4 if x < 3 else 0.0)

    def write(x):
        with open(log, "a") as file:
            file.write(f"{x} ")

    with distmap.Pool(1) as pool:
        wait = gate.wait
        low = pool.map_async(lambda x: (wait(x) if x == 0 else None, nap(x), write(f"low{x}")), range(8), chunksize=1)
        until(gate.waiting)
        high = pool.map_async(lambda x: write(f"high{x}"), range(2), chunksize=1, priority=5)
        gate.open()
        low.result(10)
        high.result(10)
    order = (tmp_path / "log").read_text().split()
    # What ran, and at most one chunk that waited on the slot, may still come before.
    assert order.index("high1") <= 3


def test_broadcast(pool2):
    """A broadcast handle has its value here, and the same value inside fn."""
    handle = pool2.broadcast({"table": list(range(1000))})
    assert handle.value["table"][7] == 7
    assert pool2.map(lambda i: handle.value["table"][i], range(20)) == list(range(20))
    assert pool2.submit(lambda h, i: h.value["table"][i], handle, 3).result(10) == 3
    assert pool2.map(lambda pair: pair[0].value["table"][pair[1]], [(handle, 5), (handle, 6)]) == [5, 6]


def test_broadcast_is_loaded_once_in_a_slot(pool2):
    """Two jobs that use one broadcast find the same object in a slot."""
    handle = pool2.broadcast({"k": 1})

    def look(_):
        import os

        return os.getpid(), id(handle.value)

    seen = pool2.map(look, range(20), chunksize=1) + pool2.map(look, range(20), chunksize=1)
    assert len({pid for pid, _ in seen}) == len(set(seen))


def test_broadcast_of_a_large_array_is_shared(pool2):
    """A large broadcast array is mapped read-only into the slots."""
    np = pytest.importorskip("numpy")
    handle = pool2.broadcast(np.arange(1_000_000))
    got = pool2.map(lambda i: (int(handle.value[i]), bool(handle.value.flags.writeable)), range(10), chunksize=1)
    assert got == [(i, False) for i in range(10)]
    assert handle.value[3] == 3


def test_a_released_broadcast_is_freed_at_once(until):
    """`release` frees the value here and in the slots; a function that still uses the handle fails and says why."""
    np = pytest.importorskip("numpy")
    value = np.arange(1_000_000)
    gone = weakref.ref(value)

    def look(i):
        return int(handle.value[i])

    def mapped(_):
        with open("/proc/self/maps") as maps:
            ranges = [line.split()[0].split("-") for line in maps if "distmap" in line]
        return sum(int(end, 16) - int(start, 16) >= 8_000_000 for start, end in ranges)

    with distmap.Pool(1) as pool:
        handle = pool.broadcast(value)
        del value
        assert pool.map(look, range(6), chunksize=1) == list(range(6))
        assert pool.submit(look, 3).result(10) == 3
        if sys.platform == "linux":
            assert pool.map(mapped, [0]) == [1]
        handle.release()
        # The job of submits ends when nobody has submitted for a while, and then nothing uses the value any more.
        until(lambda: gone() is None)
        if sys.platform == "linux":
            assert pool.map(mapped, [0]) == [0]
        for call in (lambda: pool.map(look, [1]), lambda: pool.submit(look, 1).result(10), lambda: handle.value):
            with pytest.raises(distmap.PayloadError, match="released"):
                call()
        handle.release()


def test_run_reaches_every_worker(pool2):
    """`run(fn)` runs in every slot of every worker and gives results by worker name."""
    got = pool2.run(os.getpid)
    assert list(got) == [worker.name for worker in pool2.workers]
    assert [len(set(pids)) for pids in got.values()] == [worker.slots for worker in pool2.workers]
    assert all(os.getpid() not in pids for pids in got.values())


def test_run_raises_what_fn_raises(pool2):
    """An error in `run` is raised with its own type."""
    with pytest.raises(ZeroDivisionError):
        pool2.run(lambda: 1 // 0)


def test_a_pool_inside_a_task(pool2):
    """A task may open a pool of its own; if that is refused, then by a clear error, and never by a hang."""

    def nested(x):
        import distmap

        with distmap.Pool(1) as pool:
            return pool.map(abs, [-x])

    got = pool2.map_async(nested, [1, 2], on_error="return").get(15)
    for x, one in zip([1, 2], got, strict=True):
        assert one == [x] or (isinstance(one, Exception) and "pool" in str(one).lower())


def test_a_function_that_captures_the_pool(pool2):
    """A pool does not travel: the error says so instead of a deadlock."""
    with pytest.raises((TypeError, distmap.DistmapError), match="Pool"):
        pool2.map(lambda x: pool2.map(abs, [x]), [1])
    assert pool2.map(abs, [-1]) == [1]


def test_threads_of_libraries_are_capped(pool2):
    """OMP_NUM_THREADS and its kin are cores / slots in every slot, unless the user set them."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    got = pool2.map(lambda name: __import__("os").environ.get(name), names)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for name, value in zip(names, got, strict=True):
        if name not in os.environ:
            assert value is not None
            assert 1 <= int(value) <= max(1, cores // 2)


def test_jobs_and_last(pool2, gate, until):
    """`pool.jobs` lists what runs, `pool.last` is the latest job."""
    job = pool2.map_async(gate.wait, [1], desc="looked for")
    until(gate.waiting)
    assert job in list(pool2.jobs)
    assert pool2.last is job
    gate.open()
    job.result(10)
    until(lambda: job not in list(pool2.jobs))


def test_jobs_of_two_pools_do_not_mix(pool2):
    """Two pools in one process work side by side."""
    with distmap.Pool(1) as other:
        slow = other.map_async(lambda x: -x, range(100))
        assert pool2.map(lambda x: x, range(100)) == list(range(100))
        assert slow.result(10) == [-x for x in range(100)]


def test_a_call_inside_a_callback_does_not_deadlock(pool2):
    """A callback may call the pool."""
    got, done = [], threading.Event()

    def chain(value):
        got.append(pool2.submit(abs, -value).result(10))
        done.set()

    pool2.apply_async(abs, (-4,), callback=chain)
    assert done.wait(10)
    assert got == [4]
