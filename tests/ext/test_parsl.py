"""A pool on Parsl. Parsl is no part of the extra `test`; to run these: `pip install -e ".[test,parsl]"`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("parsl")

from parsl.concurrent import ParslPoolExecutor
from parsl.config import Config
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor

import distmap
from distmap.errors import JobCancelled, NoWorkers
from distmap.ext.parsl import ParslAdapter

#: Parsl has processes and threads of its own, and keeps some.
pytestmark = [pytest.mark.own_leaks, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ParslPoolExecutor]:
    """Two labels: two processes on this machine, and three threads."""
    local = {"address": "127.0.0.1", "loopback_address": "127.0.0.1", "encrypted": False}
    config = Config(
        executors=[
            HighThroughputExecutor(label="cpu", max_workers_per_node=2, **local),
            ThreadPoolExecutor(label="near", max_threads=3),
        ],
        run_dir=str(tmp_path_factory.mktemp("parsl")),
        strategy="none",
        initialize_logging=False,
    )
    with pytest.MonkeyPatch.context() as patch:  # it starts its scripts by name
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        with ParslPoolExecutor(config=config) as made:
            yield made


@pytest.fixture(scope="module")
def pool(executor: ParslPoolExecutor) -> Iterator[distmap.Pool]:
    with distmap.Pool(executor, progress=False) as made:
        yield made


def test_each_label_is_a_worker(pool: distmap.Pool) -> None:
    """With its label as tag, and as many slots as its configuration allows."""
    found = {worker.name: (worker.slots, worker.tags) for worker in pool.workers}
    assert found == {"Parsl cpu": (2, {"cpu"}), "Parsl near": (3, {"near"})}


def test_it_gives_what_plain_python_gives(pool: distmap.Pool) -> None:
    """Items, closures, and large captured values."""
    table = list(range(50_000))  # over 64 KB, so that it travels only when it is missed
    for _ in range(2):
        assert pool.map(lambda x: table[x], range(300)) == table[:300]


def test_tags_lead_to_a_label(pool: distmap.Pool) -> None:
    """What is for the processes does not run in this one."""
    pids = set(pool.map(lambda x: os.getpid(), range(20), chunksize=1, tags=["cpu"]))
    assert os.getpid() not in pids


def test_a_cancel_is_not_asked_for(pool: distmap.Pool) -> None:
    """Parsl's raises. The job ends, and the pool goes on."""
    job = pool.map_async(abs, range(200), chunksize=1)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(10)
    assert pool.map(abs, [-1, 2]) == [1, 2]


def test_slots_may_be_said(executor: ParslPoolExecutor) -> None:
    """For all labels together."""
    adapter = ParslAdapter(executor, slots=8)
    try:
        assert [member.slots for member in adapter.open(None)] == [4, 4]  # type: ignore[arg-type]
    finally:
        adapter.close()


def test_the_end_of_parsl_is_told(executor: ParslPoolExecutor, pool: distmap.Pool) -> None:
    """The last test of the file: `NoWorkers` says that Parsl was shut down, and no pool is made on it any more."""
    executor.shutdown()
    with pytest.raises(NoWorkers, match=r"Parsl was shut down|has been cleaned up"):
        pool.map(abs, range(10))
    with pytest.raises(ValueError, match="was shut down: make a new one"):
        distmap.Pool(executor)
