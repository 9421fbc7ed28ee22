"""A program for `mpiexec -n 3 python -m mpi4py.futures`: what a pool on its executor does, told as one line of JSON."""

from __future__ import annotations

import json
import operator
import os
from typing import Any

from mpi4py.futures import MPIPoolExecutor

import distmap


def square(x: int) -> int:
    return x * x


def die(x: int) -> int:
    if x == 5:
        os._exit(3)
    return x * x


def divide(x: int) -> float:
    return 1 / (x - 3)


def world(_: int) -> tuple[int, int]:
    from mpi4py import MPI

    return MPI.COMM_WORLD.size, os.getpid()


def main() -> dict[str, Any]:
    table = list(range(50_000))  # over 64 KB, so that it travels only when it is missed
    told: dict[str, Any] = {}
    with MPIPoolExecutor() as executor, distmap.Pool(executor, progress=False) as pool:
        told["slots"] = [worker.slots for worker in pool.workers]
        told["squares"] = pool.map(square, range(1000))
        told["looked up"] = pool.map(lambda x: table[-x], range(1, 100))
        told["reduced"] = pool.map_reduce(square, range(100), operator.add)
        told["streamed"] = [value for _, value in zip(range(50), pool.imap(square, iter(int, 1)), strict=False)]
        try:
            pool.map(divide, range(6))
        except ZeroDivisionError as error:
            told["notes"] = error.__notes__
        got = pool.map(die, range(12), chunksize=6, on_error="return")
        told["survivors"] = [value for value in got if isinstance(value, int)]
        told["poison"] = [str(value) for value in got if isinstance(value, distmap.PoisonItemError)]
        told["worlds"] = sorted({size for size, _ in pool.map(world, range(4), chunksize=1)})
    return told


if __name__ == "__main__":
    print(json.dumps(main()))
