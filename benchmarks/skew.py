"""Items of very different length: 400 log-normal ones (sigma 1.5), ascending, long ones in front, alternating.

Items sleep: what is measured is who gets what when, not the speed of the cores. The best possible makespan is
max(sum / 2, longest), a lower bound that no schedule beats.
"""

from __future__ import annotations

import random

from common import LIMIT, OURS, WORKERS, Report, interleave, options, timed
from peers import joblib_or_none, standard_pools
from work import nap

import distmap


def lengths(count: int, total: float) -> dict[str, list[float]]:
    """The same items in three orders; they add up to `total` seconds."""
    rng = random.Random(15)
    drawn = sorted(rng.lognormvariate(0.0, 1.5) for _ in range(count))
    scale = total / sum(drawn)
    ascending = [value * scale for value in drawn]
    half = count // 2
    alternating = [value for pair in zip(ascending[:half], reversed(ascending[half:]), strict=True) for value in pair]
    return {"ascending": ascending, "long ones in front": ascending[::-1], "alternating": alternating}


def main() -> None:
    args = options(__doc__ or "", rounds=3, quick_rounds=1)
    report = Report("skew", args)
    joblib = joblib_or_none()
    count, total = (200, 2.0) if args.quick else (400, 4.0)
    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, executor):
        # Everybody's processes are up and know the function before the clock runs.
        quick = [0.001] * 20
        ours.map(nap, quick), pool.map(nap, quick), list(executor.map(nap, quick))
        if joblib is not None:
            joblib.map(nap, quick)
        for order, items in lengths(count, total).items():
            best = max(sum(items) / WORKERS, max(items))
            contenders = {
                OURS: timed(lambda items=items: ours.map(nap, items)),
                "mp.Pool": timed(lambda items=items: pool.map(nap, items)),
                "ProcessPoolExecutor": timed(lambda items=items: list(executor.map(nap, items))),
            }
            if joblib is not None:
                contenders["joblib"] = timed(lambda items=items: joblib.map(nap, items))
            got = interleave(
                contenders, args.rounds, warm=0, limits={"mp.Pool": 1, "ProcessPoolExecutor": 1, "joblib": 2}
            )
            got[LIMIT + "best possible makespan"] = [best]
            medians = report.case(f"{count} items of very different length, {order}", got, key=order)
            report.target(f"{order}: / best possible makespan", medians[OURS] / best, 1.04)
    report.finish()


if __name__ == "__main__":
    main()
