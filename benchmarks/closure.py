"""A function that captures 100 MB: 1,000 items over it, each round with an array that nobody has seen yet.

distmap lifts what a function captures into shared memory by itself; joblib writes large arguments to a memory map;
`multiprocessing.Pool` pickles the array into every chunk.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

import numpy as np
from common import OURS, WORKERS, Report, interleave, options, ratio
from machine import private_bytes
from peers import dask_or_none, joblib_or_none, ray_or_none, standard_pools
from work import window

import distmap


def touch(data: np.ndarray, index: int) -> tuple[int, int, float]:
    """Read all of the array, then say what this process holds alone: (pid, private bytes, sum)."""
    total = float(data.sum())
    return os.getpid(), private_bytes(), total


def bare(_: int) -> tuple[int, int]:
    """What a task process holds alone without the array."""
    time.sleep(0.01)
    return os.getpid(), private_bytes()


def rounds(fresh: Callable[[], np.ndarray], call: Callable[[np.ndarray, int], list[float]], items: int):
    """A round over a fresh array, made and checked outside the clock."""

    def run() -> float:
        data = fresh()
        began = time.perf_counter()
        got = call(data, items)
        elapsed = time.perf_counter() - began
        if not np.isclose(sum(got), float(data.sum()) * items / 1000):
            raise RuntimeError("wrong results")
        return elapsed

    return run


def main() -> None:
    args = options(__doc__ or "", rounds=5, quick_rounds=2)
    report = Report("closure", args)
    joblib = joblib_or_none()
    items, size = 1000, (1 << 20 if args.quick else 12_500_000) // 1000 * 1000
    generator = np.random.default_rng(0)

    def fresh() -> np.ndarray:
        return generator.random(size)

    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, _):
        contenders = {
            OURS: rounds(fresh, lambda data, n: ours.map(lambda index: window(data, index), range(n)), items),
            "mp.Pool, partial": rounds(
                fresh, lambda data, n: pool.map(functools.partial(window, data), range(n)), items
            ),
        }
        if joblib is not None:
            contenders["joblib"] = rounds(
                fresh, lambda data, n: joblib.parallel(joblib.delayed(window)(data, i) for i in range(n)), items
            )
        got = interleave(contenders, args.rounds, limits={"mp.Pool, partial": 1})
        if not args.quick:  # after the others: they use processor time when idle too
            with ray_or_none() as ray:
                if ray is not None:
                    run = rounds(fresh, lambda data, n: ray.over(window, ray.put(data), list(range(n))), items)
                    got |= interleave({"Ray, put": run}, 3)
            with dask_or_none() as dask:
                if dask is not None:
                    run = rounds(fresh, lambda data, n: dask.over(window, dask.put(data), list(range(n))), items)
                    got |= interleave({"Dask, scatter": run}, 3)
        medians = report.case(f"{items:,} items over a captured array of {size * 8 / 1e6:.0f} MB", got, key="closure")
        report.target("/ joblib with memory mapping", ratio(medians, "joblib"), 1.0)

        data = fresh()
        before = dict(ours.map(bare, range(40), chunksize=1))
        after = {pid: held for pid, held, _ in ours.map(lambda i: touch(data, i), range(8), chunksize=1)}
        grown = [after[pid] - before[pid] for pid in after if pid in before]
        share = max(grown, default=0) / data.nbytes
        report.note(f"private memory that a slot gained by the array: {max(grown, default=0) / 1e6:.1f} MB")
        report.target("private memory gained / size of the array", share, 0.2)
    report.finish()


if __name__ == "__main__":
    main()
