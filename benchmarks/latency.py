"""One call at a time on a warm pool: `submit(f, x).result()` beside `multiprocessing.Pool.apply`.

Local slots, and one loopback worker with TLS. A round is many calls; its figure is their median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from common import OURS, WORKERS, Report, interleave, loopback_workers, options, ratio, standard_pools

import distmap

REMOTE = "distmap, loopback worker, TLS"


def square(x: int) -> int:
    return x * x


def calls(call: Callable[[int], int], count: int) -> Callable[[], float]:
    """A round: the median of so many calls."""

    def run() -> float:
        times = []
        for x in range(count):
            began = time.perf_counter()
            value = call(x)
            times.append(time.perf_counter() - began)
            if value != x * x:
                raise RuntimeError(f"wrong result {value!r} for {x}")
        return statistics.median(times)

    return run


def main() -> None:
    args = options(__doc__ or "", rounds=9, quick_rounds=3)
    report = Report("latency", args)
    count = 50 if args.quick else 300
    with (
        loopback_workers(1, slots=WORKERS) as urls,
        distmap.Pool(urls[0]) as remote,
        distmap.Pool(WORKERS) as ours,
        standard_pools() as (pool, executor),
    ):
        contenders = {
            OURS: calls(lambda x: ours.submit(square, x).result(), count),
            "distmap, apply": calls(lambda x: ours.apply(square, (x,)), count),
            REMOTE: calls(lambda x: remote.submit(square, x).result(), count),
            "mp.Pool.apply": calls(lambda x: pool.apply(square, (x,)), count),
            "ProcessPoolExecutor.submit": calls(lambda x: executor.submit(square, x).result(), count),
        }
        medians = report.case(f"one call and its result ({count} calls a round)", interleave(contenders, args.rounds))
    report.target("local: submit().result() / mp.Pool.apply", ratio(medians, "mp.Pool.apply"), 1.5)
    report.target("loopback worker with TLS / mp.Pool.apply", ratio(medians, "mp.Pool.apply", REMOTE), 4.0)
    report.finish()


if __name__ == "__main__":
    main()
