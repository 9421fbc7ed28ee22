"""Engines that somebody else runs: who is there."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.waiting import until

import distmap
from distmap.core.limits import LIMITS
from distmap.engine import attempt, foreign
from distmap.errors import ConnectError, NoWorkers
from distmap.testing.adapters import SmallAdapter, SmallCluster


@pytest.fixture
def cluster() -> Any:
    """Two members."""
    with SmallCluster(one=2, two=1) as cluster:
        yield cluster


def square(x: int) -> int:
    return x * x


def test_each_member_is_a_worker(cluster: SmallCluster) -> None:
    """With its name and slots; all of them work together with slots of this machine, and a large value goes once into
    the engine's store.
    """
    table = list(range(50_000))
    with distmap.Pool([SmallAdapter(cluster), 1]) as pool:
        assert sorted((worker.name, worker.slots) for worker in pool.workers) == [("local", 1), ("one", 2), ("two", 1)]
        assert pool.map(lambda x: table[x], range(300), chunksize=3, progress=False) == list(range(300))
        assert cluster.puts == 1
        assert cluster.calls


def test_members_come_and_go(cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes gets work of a map that runs, who goes has its items run by others; the last one may be replaced."""
    gate, begun = threading.Event(), threading.Event()
    monkeypatch.setattr(attempt, "gate", gate, raising=False)
    monkeypatch.setattr(attempt, "begun", begun, raising=False)

    def step(x: int) -> int:
        from distmap.engine import attempt

        if x == 0:
            attempt.begun.set()  # type: ignore[attr-defined]
            attempt.gate.wait(20)  # type: ignore[attr-defined]
        return x

    with distmap.Pool(SmallAdapter(cluster)) as pool:
        job = pool.map_async(step, range(40), chunksize=1, progress=False)
        assert begun.wait(20)
        cluster.leave("one")
        cluster.join("three", 3)
        until(lambda: {worker.name for worker in pool.workers} == {"two", "three"})
        gate.set()
        assert job.result(20) == list(range(40))
        cluster.leave("two")
        cluster.leave("three")
        until(lambda: not pool.workers)
        job = pool.map_async(square, range(9), progress=False)
        cluster.join("four", 1)
        assert job.result(20) == [x * x for x in range(9)]


def test_an_engine_that_ends_says_why(cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that run and calls that come end at once, with its last words as cause."""
    gate = threading.Event()
    monkeypatch.setattr(attempt, "gate", gate, raising=False)

    def wait(x: int) -> None:
        from distmap.engine import attempt

        attempt.gate.wait(20)  # type: ignore[attr-defined]

    with distmap.Pool(SmallAdapter(cluster)) as pool:
        job = pool.map_async(wait, range(4), chunksize=1, progress=False)
        until(lambda: cluster.calls)
        cluster.end("its scheduler was stopped")
        for call in (lambda: job.result(20), lambda: pool.map(square, range(3), progress=False)):
            with pytest.raises(NoWorkers, match="a small cluster has ended: its scheduler was stopped") as caught:
                call()
            assert isinstance(caught.value.__cause__, ConnectError)
        assert not pool.workers
        gate.set()
    with pytest.raises(ConnectError, match=r"a small cluster cannot be reached: ClusterEnded: its scheduler was"):
        distmap.Pool(SmallAdapter(cluster))


def test_an_engine_may_lose_its_members_before_it_ends(cluster: SmallCluster) -> None:
    """A job that waits for others to come ends when none can come any more."""
    with distmap.Pool(SmallAdapter(cluster)) as pool:
        cluster.leave("one")
        cluster.leave("two")
        until(lambda: not pool.workers)
        job = pool.map_async(square, range(3), progress=False)
        until(lambda: job.progress)
        cluster.end("its scheduler was stopped")
        with pytest.raises(NoWorkers, match="its scheduler was stopped"):
            job.result(10)


def test_tags_are_those_of_members() -> None:
    """A call with tags runs where they are; where none can have them, that is said at once, with the engine's name."""

    def where(x: int) -> str:
        return threading.current_thread().name

    with SmallCluster(one=1) as cluster:
        cluster.join("two", 1, "gpu")
        with distmap.Pool(SmallAdapter(cluster)) as pool:
            assert {name[:10] for name in pool.map(where, range(6), tags=["gpu"], progress=False)} == {"member-two"}
    with (
        ThreadPoolExecutor(1) as threads,
        distmap.Pool(threads) as pool,
        pytest.raises(NoWorkers, match=r"no worker has the tags \['gpu'\], and none.*ThreadPoolExecutor knows no"),
    ):
        pool.map(square, range(3), tags=["gpu"], progress=False)


@pytest.mark.parametrize("raises", [False, True], ids=["an answer", "an error"])
def test_an_engine_that_does_not_answer_is_left(
    monkeypatch: pytest.MonkeyPatch, cluster: SmallCluster, raises: bool
) -> None:
    """The pool says so, and the engine is let go of should it answer after all, whatever it answers."""
    gate, closed = threading.Event(), threading.Event()

    class Silent(SmallAdapter):
        def open(self, events: Any) -> Any:
            gate.wait(20)
            if raises:
                raise OSError("after all")
            return []

        def close(self) -> None:
            closed.set()

    monkeypatch.setattr(foreign.ForeignEngine.__init__, "__kwdefaults__", {"limits": LIMITS._replace(engine_open=0.05)})
    with pytest.raises(ConnectError, match=r"a small cluster has not answered for 0\.05 s"):
        distmap.Pool(Silent(cluster))
    gate.set()
    assert closed.wait(20)


def test_an_engine_that_cannot_be_reached_is_let_go_of(cluster: SmallCluster) -> None:
    """As far as it came, and in its own words: a time limit of its own is not that of the pool."""
    closed = threading.Event()

    class Patient(SmallAdapter):
        def open(self, events: Any) -> Any:
            raise TimeoutError("timed out trying to connect")

        def close(self) -> None:
            closed.set()

    with pytest.raises(ConnectError, match="cannot be reached: TimeoutError: timed out trying to connect"):
        distmap.Pool(Patient(cluster))
    assert closed.wait(20)


def test_an_interrupt_ends_the_wait_for_an_engine(cluster: SmallCluster) -> None:
    """At once; what it gives afterwards is let go of."""
    begun, gate, closed = threading.Event(), threading.Event(), threading.Event()

    class Slow(SmallAdapter):
        def open(self, events: Any) -> Any:
            begun.set()
            gate.wait(30)
            return []

        def close(self) -> None:
            closed.set()

    def interrupt() -> None:
        begun.wait(20)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        distmap.Pool(Slow(cluster))
    thread.join(10)
    assert not closed.is_set()
    gate.set()
    assert closed.wait(20)
