"""Pool: what can be given to it, what it says about itself, and how it ends."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import pytest

import distmap
from distmap.core.limits import LIMITS


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_a_pool_of_this_machine_has_a_slot_for_each_core():
    """`Pool()` needs nothing and has one slot for each core."""
    with distmap.Pool() as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        (worker,) = pool.workers
        assert worker.slots == cores()
        assert worker.name == "local"
        assert worker.state == "ready"


def test_a_pool_of_so_many_slots():
    """`Pool(3)`, `Pool(processes=3)` and `Pool([1, 2])` have three slots; they are three processes."""
    for make in (lambda: distmap.Pool(3), lambda: distmap.Pool(processes=3), lambda: distmap.Pool([1, 2])):
        with make() as pool:
            assert sum(worker.slots for worker in pool.workers) == 3
            meeting = pool.map(lambda _: (__import__("time").sleep(0.1), __import__("os").getpid())[1], range(9), 1)
            assert len(set(meeting)) == 3
            assert os.getpid() not in meeting


@pytest.mark.parametrize("workers", [0, -1, True, 2.5, b"wss://host", [1, None], {"a": 1}])
def test_what_is_no_pool_is_refused(workers):
    """Anything but a positive number, a URL, an executor or a list of these raises, and says what is taken."""
    with pytest.raises((TypeError, ValueError), match=r"(?i)slot|pool"):
        distmap.Pool(workers)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host:1",
        "//host:1",
        "host:8786",
        "wss://",
        "wss://host:port",
        "wss://h:99999",
        "wss://a b",
        "wss://a..b",
    ],
)
def test_a_url_that_is_none_is_named(url):
    """A worker address that is no wss:// URL raises one sentence that names it."""
    with pytest.raises(distmap.DistmapError) as caught:
        distmap.Pool(url)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value).strip()


def test_a_port_where_nothing_listens():
    """A call to a worker that is not there ends within the timeout, names the URL and says what to try."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        pytest.raises(distmap.DistmapError) as caught,
        distmap.Pool(f"wss://127.0.0.1:{port}", connect_timeout=2) as pool,
    ):
        pool.map(abs, [1])
    assert str(port) in str(caught.value)


def test_a_port_where_something_else_listens():
    """A port that answers with something else than a worker gives one error that names it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        over = threading.Event()

        def answer():
            while True:
                connection, _ = server.accept()
                with connection:
                    if over.is_set():
                        return
                    connection.recv(1)
                    connection.sendall(b"SSH-2.0-other\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            with pytest.raises(distmap.DistmapError) as caught:
                with distmap.Pool(f"wss://127.0.0.1:{port}", connect_timeout=2) as pool:
                    pool.map(abs, [1])
        finally:
            over.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join(5)
    assert str(port) in str(caught.value)


def test_the_one_reason_why_nobody_came_is_the_cause():
    """Whoever catches NoWorkers finds the error of the dialled workers as its cause."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with distmap.Pool(f"wss://127.0.0.1:{port}", connect_timeout=0.5) as pool:
        for call in (lambda: pool.map(abs, [1]), lambda: pool.submit(abs, 1).result(10), pool.wait_for_workers):
            with pytest.raises(distmap.NoWorkers) as caught:
                call()
            assert type(caught.value.__cause__) is distmap.ConnectError


def test_a_host_that_does_not_resolve():
    """A host name that is unknown is named."""
    with pytest.raises(distmap.DistmapError) as caught:
        with distmap.Pool("wss://no-such-host.invalid:8786", connect_timeout=3) as pool:
            pool.map(abs, [1])
    assert "no-such-host.invalid" in str(caught.value)


def test_no_worker_within_the_timeout():
    """A listening pool to which nobody comes says so, with the line to run on the worker."""
    with distmap.Pool(listen="wss://127.0.0.1:0", connect_timeout=0.3) as pool:
        assert pool.url.startswith("wss://127.0.0.1:")
        assert not pool.url.endswith(":0")
        with pytest.raises(distmap.NoWorkers, match="distmap-worker"):
            pool.wait_for_workers(1, 0.2)
        with pytest.raises(distmap.NoWorkers) as caught:
            pool.map(abs, [1])
        assert pool.url in str(caught.value)
        assert pool.workers == []


def test_wait_for_workers_of_this_machine():
    """`wait_for_workers` gives the workers there are, and raises NoWorkers for more than come."""
    import multiprocessing

    with distmap.Pool(1) as pool:
        assert [worker.name for worker in pool.wait_for_workers(1, 5)] == ["local"]
        with pytest.raises(multiprocessing.TimeoutError, match="1 of 2"):
            pool.wait_for_workers(2, 0.1)


def test_a_pool_does_not_pickle():
    """Pickling a pool raises TypeError that says why."""
    with distmap.Pool(1) as pool:
        for dumps in (pickle.dumps, cloudpickle.dumps):
            with pytest.raises(TypeError, match="Pool"):
                dumps(pool)


def test_after_the_end_every_call_says_so():
    """After `with`, every call raises PoolClosed, which is a ValueError; ending again is harmless."""
    with distmap.Pool(1) as pool:
        results = pool.imap(abs, range(3))
        assert list(results) == [0, 1, 2]
    for call in (
        lambda: pool.map(abs, [1]),
        lambda: pool.imap(abs, [1]),
        lambda: pool.map_reduce(abs, [1], max),
        lambda: pool.map_batches(list, [1]),
        lambda: pool.submit(abs, 1),
        lambda: pool.executor(),
        lambda: pool.broadcast(1),
        lambda: pool.run(os.getpid),
        lambda: pool.add(1),
    ):
        with pytest.raises(distmap.PoolClosed):
            call()
    with pytest.raises(ValueError, match=r"(?i)pool"):
        pool.map(abs, [1])
    pool.close()
    pool.terminate()
    pool.join()
    assert pool.workers == []
    assert pool.jobs == []


def test_close_and_join_finish_what_was_given():
    """`close` then `join` waits for everything that was submitted."""
    pool = distmap.Pool(2)
    futures = [pool.submit(abs, -x) for x in range(100)]
    job = pool.map_async(abs, range(100))
    pool.close()
    pool.join()
    assert [future.result(0) for future in futures] == list(range(100))
    assert job.result(0) == list(range(100))


def test_a_pool_that_is_never_used_ends():
    """A pool that did nothing ends as any other."""
    pool = distmap.Pool(1)
    pool.terminate()
    pool.join()


def test_a_pool_that_is_dropped_ends():
    """A pool that nobody holds any more lets its processes go."""
    import gc

    import psutil

    pool = distmap.Pool(1)
    (pid,) = pool.map(lambda _: __import__("os").getpid(), [1])
    child = psutil.Process(pid)
    pool.last = None
    del pool
    gc.collect()
    child.wait(5)


def test_a_pool_that_is_collected_on_its_own_loop_ends():
    """The garbage collector runs in any thread, the pool's own among them; the loop does not wait for itself there."""
    import gc

    import psutil

    pool = distmap.Pool(1)
    (pid,) = pool.map(lambda _: __import__("os").getpid(), [1])
    # A callback thread is there too.
    assert pool.apply_async(abs, (-1,), callback=abs).get(10) == 1
    child, portal, thread = psutil.Process(pid), pool._portal, pool._portal._thread
    pool.last = None
    gc.collect()
    gc.disable()
    try:
        circle = [pool]
        circle.append(circle)
        del pool, circle
        portal.call(gc.collect)
        thread.join(5)
    finally:
        gc.enable()
    assert not thread.is_alive()
    child.wait(5)


def test_every_engine_is_closed_though_one_fails():
    """What an engine raises at its end is raised when the others have ended too."""

    class Broken:
        async def close(self, *, now):
            raise OSError("stuck")

    pool = distmap.Pool(1)
    (pid,) = pool.map(lambda _: __import__("os").getpid(), [1])
    pool._engines.insert(0, Broken())
    with pytest.raises(OSError, match="stuck"):
        pool.terminate()
    import psutil

    assert not psutil.pid_exists(pid)
    pool.terminate()


class Gate:
    """A function for a pool that runs inline, which is given this very object."""

    only = None

    def __init__(self):
        self.there, self.go = threading.Event(), threading.Event()

    def __reduce__(self):
        return getattr, (Gate, "only")

    def __call__(self, x):
        self.there.set()
        assert self.go.wait(10)
        return x


@pytest.fixture
def inline_gate(monkeypatch):
    """Holds an item that runs inline until `go` is set; `there` says that it has begun."""
    monkeypatch.setattr(Gate, "only", Gate())
    return Gate.only


def test_join_waits_for_an_item_that_runs_inline(inline_gate):
    """An inline item holds up the loop; `join` waits however long that takes."""
    pool = distmap.Pool("inline")
    try:
        job = pool.map_async(inline_gate, [1])
        assert inline_gate.there.wait(10)
        with pytest.raises(TimeoutError, match="runs inline"):
            pool._portal.ask(lambda: None, timeout=0.05)
        pool.close()
        joining = threading.Thread(target=pool.join)
        joining.start()
        joining.join(0.5)
        assert joining.is_alive()
        inline_gate.go.set()
        joining.join(10)
        assert not joining.is_alive()
        assert job.result(0) == [1]
    finally:
        inline_gate.go.set()
        pool.terminate()


def test_terminate_does_not_wait_for_ever_for_an_item_that_runs_inline(monkeypatch, inline_gate):
    """Nothing can stop it: the loop ends behind it."""
    monkeypatch.setattr("distmap.calls.ending.LIMITS", LIMITS._replace(end_wait=0.05))
    pool = distmap.Pool("inline")
    try:
        job = pool.map_async(inline_gate, [1])
        assert inline_gate.there.wait(10)
        pool.terminate()
        assert pool._portal._thread.is_alive()
        inline_gate.go.set()
        assert job.wait(10)
        pool._portal._thread.join(10)
        assert not pool._portal._thread.is_alive()
    finally:
        inline_gate.go.set()


def test_the_last_job_is_none_before_the_first():
    """`last` is None and `jobs` is empty before anything ran."""
    with distmap.Pool(1) as pool:
        assert pool.last is None
        assert pool.jobs == []


def test_slots_can_be_added():
    """`add(n)` brings more local slots into a running pool."""
    with distmap.Pool(1) as pool:
        pool.add(1)
        pool.wait_for_workers(2, 10)
        assert sum(worker.slots for worker in pool.workers) == 2
        pids = pool.map(lambda _: (__import__("time").sleep(0.1), __import__("os").getpid())[1], range(4), chunksize=1)
        assert len(set(pids)) == 2


def test_pools_in_threads():
    """Pools may be made, used and ended in threads."""

    def once(k):
        with distmap.Pool(1) as pool:
            return pool.map(lambda x: x + k, range(3))

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(once, range(3))) == [[k, k + 1, k + 2] for k in range(3)]
