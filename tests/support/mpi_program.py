"""A program for `mpiexec -n 3 python -m mpi4py.futures`: what a pool on its executor does, told as one line of JSON."""

from __future__ import annotations

import json
from typing import Any

from mpi4py.futures import MPIPoolExecutor

import distmap


def square(x: int) -> int:
    return x * x


def world(_: int) -> int:
    from mpi4py import MPI

    return MPI.COMM_WORLD.size


def main() -> dict[str, Any]:
    table = list(range(50_000))  # over 64 KB, so that it travels only when it is missed
    with MPIPoolExecutor() as executor, distmap.Pool(executor, progress=False) as pool:
        return {
            "slots": [worker.slots for worker in pool.workers],
            "squares": pool.map(square, range(1000)),
            "looked up": pool.map(lambda x: table[-x], range(1, 100)),
            "worlds": pool.map(world, range(4), chunksize=1),
        }


if __name__ == "__main__":
    print(json.dumps(main()))
