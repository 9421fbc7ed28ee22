"""Many small submits at once: 100,000 `submit`s, then all results; beside `apply_async` and `executor.submit`."""

from __future__ import annotations

from common import OURS, WORKERS, Report, interleave, options, ratio, standard_pools, timed

import distmap


def square(x: int) -> int:
    return x * x


def main() -> None:
    args = options(__doc__ or "", rounds=5, quick_rounds=2)
    report = Report("many", args)
    n = 5_000 if args.quick else 100_000
    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, executor):

        def futures(submit) -> None:
            total = sum(future.result() for future in [submit(square, x) for x in range(n)])
            if total != sum(x * x for x in range(n)):
                raise RuntimeError("wrong results")

        def asyncs(apply_async) -> None:
            total = sum(result.get() for result in [apply_async(square, (x,)) for x in range(n)])
            if total != sum(x * x for x in range(n)):
                raise RuntimeError("wrong results")

        contenders = {
            OURS: timed(lambda: futures(ours.submit)),
            "distmap, executor().submit": timed(lambda: futures(ours.executor().submit)),
            "distmap, apply_async": timed(lambda: asyncs(ours.apply_async)),
            "mp.Pool.apply_async": timed(lambda: asyncs(pool.apply_async)),
            "ProcessPoolExecutor.submit": timed(lambda: futures(executor.submit)),
        }
        limits = {"ProcessPoolExecutor.submit": 2, "distmap, apply_async": 2}
        medians = report.case(f"{n:,} submits, then all results", interleave(contenders, args.rounds, limits=limits))
    report.target("submit / mp.Pool.apply_async", ratio(medians, "mp.Pool.apply_async"), 1.0)
    report.finish()


if __name__ == "__main__":
    main()
