"""A pool whose workers are jobs of a real Slurm: started, kept in number, and ended with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.slurm import Slurm, slurm

import distmap

URL = "slurm://?workers={}&cpus=1&time=5"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm of one node with two cores."""
    with slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def environment(cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of Slurm find that one, and logs go where nobody else's are."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.folder / "slurm.conf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def jobs(cluster: Slurm) -> list[str]:
    """The jobs that there are, those of an array one by one."""
    return cluster.ask("squeue", "--noheader", "--array", "--format=%i").split()


def held(x: int) -> int:
    """An item that takes a while."""
    threading.Event().wait(0.5)
    return x


@pytest.mark.timeout(120)
def test_workers_are_jobs_that_are_kept_in_number(cluster: Slurm, tmp_path: Path, until: Callable[..., Any]) -> None:
    """Jobs that wait are shown; one that ends is replaced, one too many leaves unharmed, all end with the pool."""
    with distmap.Pool(URL.format(3)) as pool:
        pool.wait_for_workers(2, timeout=40)
        until(lambda: "2 running, 1 queued (Resources)" in repr(pool), 20)
        assert pool.map(lambda x: (os.environ["SLURM_JOB_ID"] != "", x * x), range(9)) == [
            (True, x * x) for x in range(9)
        ]
        pool.scale(2)
        until(lambda: len(jobs(cluster)) == 2, 20)
        assert len(pool.workers) == 2  # the one that waited has gone
        before = {worker.name for worker in pool.workers}
        job = pool.map_async(held, range(4), chunksize=1)
        until(lambda: job.progress is not None and job.progress.in_flight >= 2)
        cluster.ask("scancel", "--batch", "--signal=TERM", min(jobs(cluster)))  # so Slurm says that its time is up
        assert sorted(job.get(40)) == [*range(4)]
        assert job.progress is not None
        assert (job.progress.deaths, job.progress.requeued) == (0, 0)
        until(lambda: len({worker.name for worker in pool.workers} - before) == 1, 40)
        pool.scale(1)
        until(lambda: len(jobs(cluster)) == len(pool.workers) == 1, 30)
        assert pool.map(abs, [-1]) == [1]
        assert list(tmp_path.glob("distmap/*/*.log"))
    until(lambda: not jobs(cluster), 20)
    assert not list(tmp_path.glob("distmap/*"))


@pytest.mark.timeout(60)
def test_what_slurm_refuses_is_an_error_with_its_words(cluster: Slurm, until: Callable[..., Any]) -> None:
    """A partition that is not there fails at once; a job without a worker, with the end of its log; nothing is left."""
    with pytest.raises(distmap.LaunchError, match=r"sbatch refused: .*invalid partition"):
        distmap.Pool(URL.format(1) + "&partition=none")
    with distmap.Pool(URL.format(1) + "&python=/no/python") as pool:
        with pytest.raises(distmap.NoWorkers, match=r"ended before its worker came.*/no/python") as info:
            pool.map(abs, [1])
        assert isinstance(info.value.__cause__, distmap.LaunchError)
        assert "/no/python" in repr(pool)
    until(lambda: not jobs(cluster), 20)


@pytest.mark.timeout(60)
def test_jobs_know_their_pool_is_gone(cluster: Slurm, until: Callable[..., Any], token_file: Path) -> None:
    """A kernel that is killed leaves jobs that end by themselves: no pool, no worker."""
    code = (
        "import distmap, time\n"
        f"pool = distmap.Pool({URL.format(1)!r} + '&setup=export DISTMAP_TEST=1')\n"
        "pool.wait_for_workers(1, timeout=40)\nprint('there', flush=True)\ntime.sleep(60)"
    )
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == "there\n"
    finally:
        kernel.send_signal(signal.SIGKILL)
        kernel.communicate()
    (job,) = jobs(cluster)
    script = cluster.ask("scontrol", "write", "batch_script", job, "-")
    assert "--exit-if-orphaned 300" in script
    assert token_file.read_text().strip() not in script
    cluster.ask("scancel", job)
    until(lambda: not jobs(cluster), 20)
