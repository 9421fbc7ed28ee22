"""A pool on a real Dask cluster: two workers, each a process with one thread."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

import distmap
from distmap.engine.attempt import run_there
from distmap.errors import ItemTimeout, JobCancelled, NoWorkers, PoisonItemError
from distmap.wire.messages import Task

#: Dask's processes, sockets and threads come and go by themselves.
pytestmark = pytest.mark.own_leaks("processes", "threads", "descriptors")

OPTIONS: dict[str, Any] = {"dashboard_address": ":0", "worker_dashboard_address": ":0", "silence_logs": 60}


@pytest.fixture(scope="module")
def cluster(needs: Callable[[bool, str], None]) -> Iterator[Any]:
    try:
        import distributed
    except ImportError:
        needs(False, "distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, resources={"GPU": 1}, **OPTIONS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Any) -> Iterator[Any]:
    import distributed

    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def pool(client: Any) -> Iterator[distmap.Pool]:
    with distmap.Pool(client) as pool:
        yield pool


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Tasks wait for this file, see `wait`."""
    return tmp_path / "open"


def wait(path: str) -> None:
    """In a task: leave a note, then wait for the gate."""
    import os
    import time

    with open(f"{path}-{time.monotonic_ns()}", "w"):
        pass
    end = time.monotonic() + 20
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.01)  # the gate is a file: the task is in another process


def waiting(gate: Path | str) -> int:
    return len(list(Path(gate).parent.glob(f"{Path(gate).name}-*")))


def square(x: int) -> int:
    return x * x


def pids(client: Any) -> set[int]:
    return set(client.run(os.getpid).values())


def test_whatever_leads_to_the_cluster_is_taken(client: Any, cluster: Any) -> None:
    """A cluster, its address or an executor: a worker for each of Dask's, with its threads and resources."""
    for given in (cluster, cluster.scheduler_address.replace("tcp://", "dask://"), client.get_executor()):
        with distmap.Pool(given) as pool:
            assert {(worker.name, worker.slots) for worker in pool.workers} == {("dask-0", 1), ("dask-1", 1)}
            assert {worker.tags for worker in pool.workers} == {frozenset({"GPU"})}
            assert pool.map(square, range(300), progress=False) == [x * x for x in range(300)]
            pool.map(print, ["something"], progress=False)
    kept = [events for topic, events in client.get_events().items() if topic.startswith("distmap-")]
    assert kept
    assert sum(len(message) for events in kept for _, message in events) == 0, "messages of pools that are closed"
    with distmap.Pool([client, 1]) as pool:
        assert {worker.name for worker in pool.workers} == {"dask-0", "dask-1", "local"}
        assert pool.map(square, range(300), progress=False) == [x * x for x in range(300)]


def test_calls_give_what_they_give_elsewhere(pool: distmap.Pool) -> None:
    """Order, lazy and folded results, seeds, tags; an exception as it was raised, which names item and worker."""
    assert list(pool.imap(square, range(100))) == [x * x for x in range(100)]
    assert pool.map_reduce(square, range(100), int.__add__, initial=0, progress=False) == 328350
    assert pool.map(square, range(9), tags=["GPU"], progress=False) == [x * x for x in range(9)]

    def draw(_: int) -> float:
        return float(distmap.rng().random())

    drawn = pool.map(draw, range(20), seed=7, progress=False)
    assert drawn == pool.map(draw, range(20), seed=7, chunksize=1, progress=False)
    assert len(set(drawn)) == 20
    with pytest.raises(ZeroDivisionError) as raised:
        pool.map(lambda x: 1 // (x - 7), range(20), progress=False)
    assert raised.value.__notes__[0].startswith("item 7 (7) on worker dask-")
    got = pool.map(lambda x: 1 // (x - 7), range(9), progress=False, on_error="return", retries=1)
    assert isinstance(got[7], ZeroDivisionError)


def test_what_is_large_is_no_part_of_a_task(pool: distmap.Pool, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured values, arguments and results of megabytes bypass the scheduler's graph; a value is handed over once."""
    submit, scatter = client.submit, client.scatter
    tasks, handed = [], []

    def note_submit(*args: Any, **options: Any) -> Any:
        tasks.append(sum(len(one) for one in args if isinstance(one, bytes)))
        return submit(*args, **options)

    def note_scatter(value: Any, **options: Any) -> Any:
        handed.append(options["broadcast"])
        return scatter(value, **options)

    monkeypatch.setattr(client, "submit", note_submit)
    monkeypatch.setattr(client, "scatter", note_scatter)
    table = bytes(3 << 20)
    assert pool.map(lambda x: len(table) + x, range(50), progress=False) == [(3 << 20) + x for x in range(50)]
    assert handed == [True]
    data = [bytearray([x]) * (1 << 20) for x in range(6)]
    assert pool.map(lambda b: b + b, data, chunksize=1, progress=False) == [b + b for b in data]
    assert handed[0]
    assert not any(handed[1:])
    assert len(handed) >= 7  # a chunk that an idle worker took over travels again
    assert max(tasks) < 100_000
    until(lambda: not client.futures, 20, "what calls had is let go of")


def test_a_poison_item_ends_no_worker_of_dask(pool: distmap.Pool, client: Any) -> None:
    """It is named, all others complete, and Dask's workers are the same as before; so with an item over its time."""

    def step(x: int) -> int:
        if x == 3:
            os._exit(3)
        if x == 4:
            os.kill(os.getpid(), signal.SIGSEGV)
        if x == 5:
            threading.Event().wait(60)
        return x * x

    before = pids(client)
    got = pool.map(step, range(12), timeout=1, progress=False, on_error="return")
    assert [type(got[x]) for x in (3, 4, 5)] == [PoisonItemError, PoisonItemError, ItemTimeout]
    assert "item 3 (3) ended 3 task processes" in str(got[3])
    assert got[:3] + got[6:] == [x * x for x in range(12) if x not in (3, 4, 5)]
    assert pids(client) == before


def test_news_of_a_chunk_come_before_its_end(pool: distmap.Pool, gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an item prints is shown, and what is finished is counted, while another item of its chunk runs."""
    key, seen = str(gate), []

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            seen.append(text)
            return super().write(text)

    def step(x: int) -> int:
        print(f"item {x} speaks")
        if x == 3:
            wait(key)
        return x

    def show(snapshot: Any) -> None:
        if snapshot.done >= 3 and any("item 3 speaks" in text for text in seen):
            gate.touch()

    monkeypatch.setattr(sys, "stdout", Screen())
    assert pool.map(step, range(4), chunksize=4, progress=show) == [0, 1, 2, 3]
    assert gate.exists()


def test_an_interrupt_ends_what_runs(pool: distmap.Pool, gate: Path) -> None:
    """Items that run are ended, finished ones are kept, and the pool goes on."""
    key = str(gate)

    def step(x: int) -> int:
        if x >= 2:
            wait(key)
        return x

    job = pool.map_async(step, range(8), chunksize=1, progress=False)
    until(lambda: waiting(gate) == 2, 20)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(20)
    assert [(0, 0), (1, 1)] == job.partial
    assert pool.map(square, range(4), progress=False) == [0, 1, 4, 9]
    assert not gate.exists()


def test_a_worker_of_dask_may_die(pool: distmap.Pool, client: Any, gate: Path) -> None:
    """What it ran is done by another one, and one that comes in its place takes part."""
    key, before = str(gate), {worker.name for worker in pool.workers}

    def step(x: int) -> int:
        wait(key)
        return x * x

    job = pool.map_async(step, range(6), chunksize=1, progress=False)
    until(lambda: waiting(gate) >= 2, 20)
    killed = min(pids(client))
    os.kill(killed, signal.SIGKILL)
    until(lambda: dict(job.stats)["losses"] == 1, 20)  # another one may have come by then, with its name
    gate.touch()
    assert job.result(30) == [x * x for x in range(6)]
    until(lambda: {worker.name for worker in pool.workers} == before, 30)
    assert killed not in pids(client)


def test_a_worker_that_is_added_takes_part(pool: distmap.Pool, cluster: Any, gate: Path) -> None:
    """In a map that runs."""
    key = str(gate)

    def step(x: int) -> int:
        wait(key)
        return x

    job = pool.map_async(step, range(6), chunksize=1, progress=False)
    until(lambda: waiting(gate) == 2, 20)
    cluster.scale(3)
    until(lambda: waiting(gate) == 3, 20)
    gate.touch()
    assert job.result(20) == list(range(6))
    cluster.scale(2)
    until(lambda: len(pool.workers) == 2, 20)


@pytest.fixture
def small(client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster in this process, with one worker, that may be ended."""
    import distributed

    from distmap.ext import dask_workers

    monkeypatch.setattr(dask_workers, "GONE_AFTER", 0.1)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **OPTIONS) as cluster:
        yield cluster


def test_the_end_of_the_engine_is_the_cause(small: Any, gate: Path) -> None:
    """The scheduler ends, or the client is closed: a map that runs fails with the reason, and so do those to come."""
    import distributed

    keys = [f"{gate}-first", f"{gate}-second"]
    with distributed.Client(small, set_as_default=False) as client:
        with distmap.Pool(client) as pool:
            job = pool.map_async(lambda x: wait(keys[0]), range(4), chunksize=1, progress=False)
            until(lambda: waiting(keys[0]), 20)
            client.close()
            with pytest.raises(NoWorkers, match="its client was closed"):
                job.result(20)
            Path(keys[0]).touch()
    with distmap.Pool(small) as pool:
        assert pool.map(square, range(4), progress=False) == [0, 1, 4, 9]
        job = pool.map_async(lambda x: wait(keys[1]), range(4), chunksize=1, progress=False)
        until(lambda: waiting(keys[1]), 20)
        Path(keys[1]).touch()
        small.close()
        with contextlib.suppress(NoWorkers):  # unless the items were faster
            job.result(20)
        until(lambda: not pool.workers, 20)
        with pytest.raises(NoWorkers, match="its scheduler has been out of reach"):
            pool.map(square, range(4), progress=False)


def test_a_call_is_taken_back_only_before_dask_has_it(client: Any, gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its data is under way, it never begins; later nothing is known, as a task may wait or run."""
    from distmap.ext.dask import DaskAdapter

    class Deaf:
        def members(self, members: object) -> None: ...
        def received(self, data: bytes) -> None: ...
        def ended(self, why: str) -> None: ...

    scatter, submit, submitted, go = client.scatter, client.submit, [], threading.Event()

    async def slow(*args: Any, **options: Any) -> Any:
        until(go.is_set)
        return await scatter(*args, **options)

    monkeypatch.setattr(client, "scatter", slow)
    monkeypatch.setattr(client, "submit", lambda *args, **options: submitted.append(1) or submit(*args, **options))
    adapter = DaskAdapter(client)
    try:
        members = adapter.open(Deaf())
        task = Task(0, 1, b"", (), 0, 1, 0, 0.0)

        def call(size: int) -> Any:
            return adapter.submit(members[0].key, run_there, task, [], [], [bytes(size)])

        taken = call(1 << 20)
        assert adapter.cancel(taken)
        go.set()
        last = call(1)
        assert last.result(20).missing == (task.code,)
        assert not adapter.cancel(last)
        assert submitted == [1]
        assert taken.cancelled()
        until(lambda: not client.futures, 20, "what calls had is let go of")
    finally:
        adapter.close()
