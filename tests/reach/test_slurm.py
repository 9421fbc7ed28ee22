"""Workers in a batch job of a real Slurm dial in to the pool that wrote the job's script."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.gpus import TWO, USE, alone, fake
from support.slurm import Slurm, slurm

import distmap


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm of one node with two cores."""
    with slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.mark.timeout(60)
def test_workers_of_a_job_dial_in_and_end_with_it(cluster: Slurm, token_file: Path, until: Callable[..., Any]) -> None:
    """The printed script runs as it is: the worker has the cores of the job, and leaves with it in good order."""
    path = f"export PATH={Path(sys.executable).parent}:$PATH"
    with distmap.Pool(listen="wss://127.0.0.1:0") as pool:
        script = pool.worker_command("slurm", cpus=2, time="5", setup=path, more=["--comment=test"])
        (cluster.folder / "job.sh").write_text(script)
        job = cluster.ask("sbatch", "--parsable", "job.sh", DISTMAP_TOKEN_FILE="/nothing/here")
        try:
            (worker,) = pool.wait_for_workers(1, timeout=30)
        except TimeoutError as error:
            raise AssertionError((cluster.folder / f"distmap-{job}.log").read_text()) from error
        assert (worker.name, worker.slots) == (f"one-{job}", 2)
        found = pool.map(lambda x: (os.environ["SLURM_JOB_ID"], x * x), range(10))
        assert found == [(job, x * x) for x in range(10)]
        held = pool.map_async(lambda x: threading.Event().wait(1.0), range(2), chunksize=1)
        until(lambda: held.progress is not None and held.progress.in_flight == 2)
        cluster.ask("scancel", "--signal=USR2", job)  # so Slurm says that its time is up
        assert held.get(20) == [False, False]
        assert held.progress is not None
        assert (held.progress.deaths, held.progress.requeued) == (0, 0)
        until(lambda: not pool.workers, 20)
        until(lambda: cluster.state(job) == "COMPLETED", 20)
    log = (cluster.folder / f"distmap-{job}.log").read_text()
    assert "leaving (SIGTERM)" in log
    assert token_file.read_text().strip() not in log + script


@pytest.mark.timeout(60)
def test_a_gpu_job_uses_the_gpus_that_slurm_gives_it(cluster: Slurm, tmp_path: Path, until: Callable[..., Any]) -> None:
    """A job that asks for one of two GPUs has one slot, which sees that GPU; the tag leads calls there."""
    variables = alone(fake(tmp_path, "nvidia-smi", {"-L": TWO, "--query": USE}).parent)
    setup = [
        f"export PATH={tmp_path}:{Path(sys.executable).parent}:$PATH",
        f"export PYTHONPATH={variables['PYTHONPATH']}",
    ]
    with distmap.Pool(listen="wss://127.0.0.1:0") as pool:
        script = pool.worker_command("slurm", cpus=1, gpus=1, time="5", setup=setup)
        (cluster.folder / "gpu.sh").write_text(script)
        job = cluster.ask("sbatch", "--parsable", "gpu.sh")
        (worker,) = pool.wait_for_workers(1, timeout=30)
        assert (worker.slots, worker.tags, worker.devices[0].id) == (1, {"gpu"}, "0")
        assert pool.map(lambda x: os.environ["CUDA_VISIBLE_DEVICES"], [1], tags=["gpu"]) == ["0"]
        cluster.ask("scancel", job)
        until(lambda: cluster.state(job) == "CANCELLED", 20)
