"""Section 5, on a real Dask cluster. A file of its own: Dask's processes and sockets come and go by themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import distmap
from distmap.errors import PoisonItemError

pytestmark = pytest.mark.own_leaks("processes", "threads", "descriptors")


@pytest.fixture(scope="module")
def pool(needs: Callable[[bool, str], None]) -> Iterator[distmap.Pool]:
    """Two Dask workers, each a process; a task that ends its worker is not tried again by Dask."""
    try:
        import dask
        import distributed
    except ImportError:
        needs(False, "distributed")
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 60}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
        distmap.Pool(client.get_executor(pure=False)) as made,
    ):
        yield made


def test_dask_gives_what_plain_python_gives(pool: distmap.Pool) -> None:
    """Items, closures and large captured values, on as many slots as the cluster has threads; the way is measured."""
    table = list(range(50_000))  # over 64 KB, so that it travels only when it is missed
    assert pool.workers[0].slots == 2
    for _ in range(2):
        assert pool.map(lambda x: table[x], range(300), progress=False) == list(range(300))
    assert pool.workers[0].latency > 0


def test_a_poison_item_costs_no_other_on_dask(pool: distmap.Pool) -> None:
    """`KilledWorker` is no error of the call: the item is tried again, named, and all others complete."""

    def step(x: int) -> int:
        if x == 3:
            os._exit(3)
        return x * x

    got = pool.map(step, range(12), chunksize=1, progress=False, on_error="return")
    assert isinstance(got[3], PoisonItemError)
    assert "item 3 (3) ended 3 task processes: ClientExecutor: KilledWorker" in str(got[3])
    assert got[:3] + got[4:] == [x * x for x in range(12) if x != 3]
