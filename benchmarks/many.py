"""Many futures: 100,000 tiny `submit`s, then all results, and the memory they take; 10,000 of 2 ms, `as_completed`.

The function is of a module, as most are. Memory is the client's at its most, in a process of its own for each peer.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from common import LIMIT, OURS, WORKERS, Report, interleave, options, ratio, timed
from machine import Costs, PeakMemory
from peers import dask_or_none, standard_pools
from work import nap, square

import distmap

MEMORY = (OURS, "mp.Pool")


def futures(submit: Callable[..., Any], n: int) -> int:
    return sum(future.result() for future in [submit(square, x) for x in range(n)])


def asyncs(apply_async: Callable[..., Any], n: int) -> int:
    return sum(result.get() for result in [apply_async(square, (x,)) for x in range(n)])


def peak(who: str, n: int) -> float:
    """Megabytes by which the client's memory grows."""
    return float(subprocess.check_output([sys.executable, __file__, "--memory", who, str(n)], text=True))


def measure_memory(who: str, n: int) -> None:
    """What the process of its own does."""
    if who == OURS:
        with distmap.Pool(WORKERS) as ours:
            futures(ours.submit, 100)
            with PeakMemory() as memory:
                futures(ours.submit, n)
    else:
        with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
            asyncs(pool.apply_async, 100)
            with PeakMemory() as memory:
                asyncs(pool.apply_async, n)
    print(memory.growth / 1e6)


def as_done(submit: Callable[..., Any], completed: Callable[[Any], Iterable[Any]], count: int) -> int:
    return sum(1 for future in completed([submit(nap, 0.002) for _ in range(count)]) if future.result() == 0.002)


def main() -> None:
    args = options(__doc__ or "", rounds=5, quick_rounds=1)
    report = Report("many", args)
    n, count = (2_000, 100) if args.quick else (100_000, 10_000)
    total = sum(x * x for x in range(n))
    completed = concurrent.futures.as_completed
    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, executor):
        calls = {
            OURS: lambda: futures(ours.submit, n),
            "distmap, executor().submit": lambda: futures(ours.executor().submit, n),
            "mp.Pool": lambda: asyncs(pool.apply_async, n),
        }
        contenders = {who: timed(call, total.__eq__) for who, call in calls.items()}
        futures(executor.submit, 100)  # its processes are up
        run, tenth = timed(lambda: futures(executor.submit, n // 10)), "ProcessPoolExecutor, a tenth of it x 10"
        contenders[tenth] = lambda: run() * 10
        limits = {tenth: 1, "distmap, executor().submit": 1, OURS: 2, "mp.Pool": 2}
        got = interleave(contenders, args.rounds, limits=limits)
        medians = report.case(f"{n:,} submits, then all results", got, key="tiny")
        report.target(f"{n:,} submits: / mp.Pool", ratio(medians, "mp.Pool"), 0.6)

        calls = {
            OURS: lambda: as_done(ours.submit, completed, count),
            "ProcessPoolExecutor": lambda: as_done(executor.submit, completed, count),
            "mp.Pool": lambda: sum(
                1 for result in [pool.apply_async(nap, (0.002,)) for _ in range(count)] if result.get() == 0.002
            ),
        }
        costs = Costs()
        contenders = {who: costs.of(who, timed(call, count.__eq__)) for who, call in calls.items()}
        got = interleave(contenders, 1, warm=0)
    with contextlib.nullcontext() if args.quick else dask_or_none() as dask:
        if dask is not None:
            import distributed

            def a_tenth() -> int:
                return as_done(
                    lambda fn, x: dask.client.submit(fn, x, pure=False), distributed.as_completed, count // 10
                )

            got["Dask, a tenth of it x 10"] = [timed(a_tenth, (count // 10).__eq__)() * 10]
    got[LIMIT + "sum of the items / slots"] = [count * 0.002 / WORKERS]
    medians = report.case(f"{count:,} submits of 2 ms, as_completed", got, key="completed")
    tree = {who: [seconds / count * 1e6 for seconds in costs.tree[who]] for who in calls}
    report.case("... processor time of all processes for each", tree, unit="us")
    report.target(f"{count:,} submits of 2 ms: / mp.Pool", ratio(medians, "mp.Pool"), 1.0)

    contenders = {who: (lambda who=who: peak(who, n)) for who in MEMORY}
    medians = report.case(
        f"{n:,} submits: growth of the client", interleave(contenders, 1, warm=0), unit="MB", key="memory"
    )
    report.target(f"{n:,} submits: megabytes", medians[OURS], 120)
    report.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2], int(sys.argv[3]))
    else:
        main()
