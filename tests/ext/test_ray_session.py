"""Ray in a process of its own: started for a pool, or reached through its client port. Runs where Ray is installed:

pip install 'ray[client]' && pytest tests/ext/test_ray_session.py
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray")

pytestmark = [pytest.mark.own_leaks, pytest.mark.timeout(180)]


def run(script: str) -> Any:
    """What it prints, line by line; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split("\n")[:-1]


def test_pools_share_the_ray_that_one_has_started() -> None:
    """It is shut down with the last of them, and no thread is left."""
    lines = run("""
        import threading

        import ray

        from distmap import Pool

        first = Pool("ray", progress=False)
        with Pool("ray", progress=False) as second:
            print(first.map(abs, [-1, -2]))
            first.close()
            first.join()
            print(second.map(abs, [-3]), ray.is_initialized())
            try:
                Pool("ray://elsewhere:10001")
            except Exception as error:
                print("another Ray already" in f"{error} {error.__cause__}")
        print(ray.is_initialized())
        print([thread.name for thread in threading.enumerate() if "distmap-ray" in thread.name])
    """)
    assert lines == ["[1, 2]", "[3] True", "True", "False", "[]"]


def test_a_head_that_is_gone_ends_the_workers_and_not_this_process() -> None:
    """The call says so, before Ray would end the process."""
    lines = run("""
        import time

        import psutil

        from distmap import NoWorkers, Pool

        with Pool("ray", progress=False) as pool:
            job = pool.map_async(lambda x: time.sleep(0.02), range(10_000))
            while job.progress is None or not job.progress.done:
                time.sleep(0.1)  # `run` has a deadline
            for child in psutil.Process().children(recursive=True):
                if child.name() == "gcs_server":
                    child.kill()
            try:
                job.result()
            except NoWorkers as error:
                print("not answered" in str(error))
        print("goes on")
    """)
    assert lines[:2] == ["True", "goes on"]


def test_a_cluster_is_reached_through_its_client_port() -> None:
    """Everything goes through that, also what is large."""
    pytest.importorskip("grpc", reason="it needs ray[client]")
    lines = run("""
        import socket

        import numpy as np
        from ray.cluster_utils import Cluster

        from distmap import Pool
        from distmap.testing.engine_starts import add_ray_node

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        cluster = Cluster()
        add_ray_node(cluster, num_cpus=2, ray_client_server_port=port)
        try:
            with Pool(f"ray://127.0.0.1:{port}", progress=False) as pool:
                large = np.ones(1 << 18)
                print(sum(pool.map(lambda x: large[x] + x, range(100))))
                print(pool.map(np.sum, [large] * 4) == [1 << 18] * 4)
        finally:
            cluster.shutdown()
    """)
    assert lines == ["5050.0", "True"]
