"""Pools on the engines of an IPython cluster. Runs where ipyparallel is installed:

    pip install ipyparallel && pytest tests/ext/test_ipyparallel.py

What every engine must do is in the conformance suite: `python -m distmap.testing.engines ipyparallel`.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.waiting import until

from distmap import NoWorkers, Pool

ipyparallel = pytest.importorskip("ipyparallel")

pytestmark = [
    pytest.mark.own_leaks,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = str(tmp_path_factory.mktemp("ipython"))
    cluster = ipyparallel.Cluster(n=2, profile_dir=folder, log_level=logging.CRITICAL)
    cluster.start_cluster_sync()
    yield cluster
    cluster.stop_cluster_sync()


@pytest.fixture(scope="module")
def client(cluster: Any) -> Iterator[Any]:
    with cluster.connect_client_sync() as client:
        client.wait_for_engines(2, timeout=60, interactive=False)
        yield client


def names(pool: Pool) -> list[str]:
    return sorted(worker.name for worker in pool.workers)


def where(x: int) -> int:
    return os.getppid()


def test_each_engine_is_a_worker_of_one_slot(client: Any) -> None:
    """It tells its host and its version of Python."""
    with Pool(client, progress=False) as pool:
        until(lambda: names(pool) == ["engine-0", "engine-1"], 60)
        assert all(worker.slots == 1 and worker.host and worker.python for worker in pool.workers)
        assert pool.map(abs, range(-100, 0)) == list(range(100, 0, -1))


@pytest.mark.parametrize("kind", ["DirectView", "LoadBalancedView", "ViewExecutor"])
def test_a_view_names_the_engines(client: Any, kind: str) -> None:
    """A view, or the executor of one, gives the engines that it is for."""
    views = {
        "DirectView": lambda: client[1],
        "LoadBalancedView": lambda: client.load_balanced_view([1]),
        "ViewExecutor": lambda: client.executor([1]),
    }
    with Pool(views[kind](), progress=False) as pool:
        assert names(pool) == ["engine-1"]
        assert pool.map(abs, [-1]) == [1]


def test_the_client_keeps_nothing_of_a_map(client: Any) -> None:
    """Neither results nor the names of requests stay in it."""
    client.history.append("of its owner")
    with Pool(client, progress=False) as pool:
        pool.map(abs, range(1000), chunksize=10)
        until(lambda: not client.outstanding and not client.results, what="the end of the last request")
        assert client.history == ["of its owner"]
    client.history.clear()


def test_a_large_value_goes_to_each_engine_once(client: Any) -> None:
    """Calls name it; engines forget it with the pool."""
    view = client[:]

    def kept() -> list[int]:
        return view.apply_sync(eval, "len(__import__('sys').modules['distmap.ext.ipyparallel_far']._kept)")

    with Pool(client, progress=False) as pool:
        until(lambda: len(pool.workers) == 2, 60)
        large = pool.broadcast(np.ones(1 << 19))
        assert pool.map(lambda x: large.value[x] + x, range(20), chunksize=1) == [x + 1.0 for x in range(20)]
        assert set(kept()) == {1}
    until(lambda: set(kept()) == {0}, what="the engines have forgotten it")


def test_an_engine_that_dies_costs_no_item(cluster: Any, client: Any) -> None:
    """What it ran runs again on another one; one that comes is used."""
    with Pool(client, progress=False) as pool:
        until(lambda: len(pool.workers) == 2, 60)
        job = pool.map_async(nap, range(100))
        until(lambda: (shown := job.progress) and shown.done > 2)
        os.kill(client[client.ids[0]].apply_sync(os.getpid), signal.SIGKILL)
        assert job.result() == list(range(100))
        assert len(pool.workers) == 1
        cluster.start_engines_sync(n=1)
        until(lambda: len(pool.workers) == 2, 60)


def nap(x: int) -> int:
    import time

    time.sleep(0.02)  # the length of an item
    return x


def test_a_client_that_is_closed_ends_the_workers(cluster: Any) -> None:
    """The call says so."""
    other = cluster.connect_client_sync()
    other.wait_for_engines(1, timeout=60, interactive=False)
    with Pool(other, progress=False) as pool:
        assert pool.map(abs, [-1]) == [1]
        other.close()
        with pytest.raises(NoWorkers, match="closed"):
            pool.map(nap, range(1000))


def test_a_controller_that_is_gone_ends_the_workers(tmp_path: Any) -> None:
    """The call says so, some seconds later."""
    cluster = ipyparallel.Cluster(n=1, profile_dir=str(tmp_path), log_level=logging.CRITICAL)
    with cluster as client, Pool(client, progress=False) as pool:
        job = pool.map_async(nap, range(10_000))
        until(lambda: (shown := job.progress) and shown.done > 2, 60)
        os.kill(cluster.controller.pid, signal.SIGKILL)
        with pytest.raises(NoWorkers, match="controller"):
            job.result(60)
