"""MPI: a pool on `mpi4py.futures` in a program of mpiexec, workers that mpiexec starts, and what is refused.

The conformance suite has the rest: `python -m distmap.testing.engines mpi`, which tests/testing/test_engines.py runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.optional import optional

import distmap

MPIEXEC = Path(sys.executable).parent / "mpiexec"
PROGRAM = Path(__file__).parents[1] / "support" / "mpi_program.py"


def environment() -> dict[str, str]:
    """Root may run it, and more processes than there are cores: containers of CI are so."""
    may = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **may, "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}


@pytest.fixture(scope="module")
def told(needs: Callable[[bool, str], None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a program of three ranks says that a pool on its executor did."""
    needs(MPIEXEC.exists(), "mpiexec of the package openmpi")
    ran = subprocess.run(
        [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py.futures", PROGRAM],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        cwd=tmp_path_factory.mktemp("mpi"),
    )
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return said


def test_a_program_under_mpiexec_maps_over_its_ranks(told: dict[str, Any]) -> None:
    """Its own functions, closures and large captured values; as many slots as there are ranks beside the first."""
    assert told["slots"] == [2]
    assert told["squares"] == [x * x for x in range(1000)]
    assert told["looked up"] == list(range(49_999, 49_900, -1))


def test_a_task_that_imports_mpi_takes_no_ranks_place(told: dict[str, Any]) -> None:
    """It is a world of its own, and does not wait for ever."""
    assert told["worlds"] == [1] * 4


def test_no_process_of_mpi_is_spawned(needs: Callable[[bool, str], None]) -> None:
    """Outside of mpiexec the pool refuses the executor with a sentence, before it has asked it anything."""
    optional("mpi4py", needs)
    program = """
from mpi4py.futures import MPIPoolExecutor
import distmap
for options in {}, {"processes": 2}:
    executor = MPIPoolExecutor(2)
    try:
        distmap.Pool(executor, **options)
    except ValueError as error:
        assert executor._pool is None
        print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment(), check=True
    )
    first, second = ran.stdout.splitlines()
    assert first == second
    assert "MPIPoolExecutor would start MPI processes by itself" in first
    assert "mpiexec -n 5 python -m mpi4py.futures script.py" in first


def test_each_rank_of_mpiexec_is_a_worker(needs: Callable[[bool, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """`Pool(launch="mpiexec ...")`: two workers of two names, without MPI in what runs; both end with the pool."""
    needs(MPIEXEC.exists(), "mpiexec of the package openmpi")
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    command = f"{MPIEXEC} -n 2 {sys.executable} -m distmap.worker.cli {{url}} --slots 1"
    with distmap.Pool(launch=command, listen="wss://127.0.0.1:0", progress=False) as pool:
        workers = pool.wait_for_workers(2, timeout=30)
        assert len({worker.name for worker in workers}) == 2
        found = pool.map(lambda x: (x, [name for name in os.environ if name.startswith("PMI")]), range(40))
        assert found == [(x, []) for x in range(40)]
