"""Pools on a cluster of Ray's. Runs where Ray is installed:

    pip install ray && pytest tests/ext/test_ray.py

What every engine must do is in the conformance suite: `python -m distmap.testing.engines ray`.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.waiting import until

from distmap import Pool
from distmap.testing.engine_starts import add_ray_node

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [pytest.mark.own_leaks, pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, each with a CPU; this process belongs to it."""
    cluster = cluster_utils.Cluster()
    add_ray_node(cluster, node_name="head")
    add_ray_node(cluster, node_name="lab", resources={"gauge": 1})
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def pool(cluster: Any) -> Iterator[Pool]:
    with Pool("ray", progress=False) as pool:
        yield pool


def nap(x: int) -> int:
    time.sleep(0.02)  # the length of an item
    return x


def test_each_node_is_a_worker(pool: Pool) -> None:
    """Its CPUs are slots, its resources are tags; what Ray gives to all nodes is none."""
    workers = {worker.name: worker for worker in pool.workers}
    assert workers.keys() == {"head", "lab"}
    assert [worker.slots for worker in workers.values()] == [1, 1]
    assert workers["lab"].tags == frozenset({"gauge"})
    assert pool.map(abs, range(-100, 0)) == list(range(100, 0, -1))


def test_a_tag_chooses_the_nodes(pool: Pool) -> None:
    """Items with the name of a resource run where it is."""
    assert pool.map(nap, range(10), tags=["gauge"]) == list(range(10))
    lanes = pool.last.progress.lanes  # type: ignore[union-attr]
    assert [lane.name for lane in lanes if lane.items] == ["lab"]


def test_large_values_go_through_the_object_store(pool: Pool) -> None:
    """Captured ones, items and results; results may be written to."""
    large = np.ones(1 << 19)
    assert pool.map(lambda x: large[x] + x, range(20), chunksize=1) == [x + 1.0 for x in range(20)]
    doubled = pool.map(lambda array: array * 2, [large, large])
    assert [array.sum() for array in doubled] == [1 << 20, 1 << 20]
    assert all(array.flags.writeable for array in doubled)


def test_a_process_of_rays_that_is_killed_costs_no_item(pool: Pool, tmp_path: Path) -> None:
    """What it ran runs again."""

    def kill_once(x: int) -> int:
        if x == 7 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(30)  # until it is ended with its parent
        return x

    assert pool.map(kill_once, range(20)) == list(range(20))


def test_nodes_come_and_go(cluster: Any, pool: Pool) -> None:
    """What a node runs that is gone, runs again elsewhere."""
    node = add_ray_node(cluster, node_name="guest")
    until(lambda: "guest" in [worker.name for worker in pool.workers], 30)
    job = pool.map_async(nap, range(300))
    until(lambda: (shown := job.progress) and any(lane.name == "guest" and lane.items for lane in shown.lanes), 30)
    cluster.remove_node(node, allow_graceful=False)
    assert job.result(60) == list(range(300))
    until(lambda: "guest" not in [worker.name for worker in pool.workers], 30)


def test_the_ray_of_its_owner_goes_on(cluster: Any) -> None:
    """A pool that is closed shuts down nothing that it did not start; its actor has ended."""
    from ray.util import list_named_actors

    with Pool("ray", progress=False) as pool:
        assert pool.map(abs, [-1]) == [1]
        before = len(list_named_actors(all_namespaces=True))
    assert ray.is_initialized()
    until(lambda: len(list_named_actors(all_namespaces=True)) < before, 30)


def test_ray_that_is_shut_down_ends_the_workers(cluster: Any) -> None:
    """The call says so, and starts no Ray of its own. (The last test: it is not started again.)"""
    from distmap import NoWorkers

    with Pool("ray", progress=False) as pool:
        assert pool.map(abs, [-1]) == [1]
        ray.shutdown()
        with pytest.raises(NoWorkers, match="shut down"):
            pool.map(nap, range(1000))
    assert not ray.is_initialized()
