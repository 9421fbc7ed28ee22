"""Tiny items: `map` of `x * x` over lists of 100,000 and 1,000,000 integers, warm pools of two; local and over TLS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import LIMIT, OURS, WORKERS, Report, best_chunksize, interleave, options, ratio, timed
from limits import halves
from peers import joblib_or_none, loopback_workers, mpire_or_none, standard_pools
from work import square

import distmap

TLS = "distmap, 2 workers over TLS"
ALONE = LIMIT + "two raw processes, one pickle each"


def main() -> None:
    args = options(__doc__ or "", rounds=9, quick_rounds=2)
    report = Report("tiny", args)
    joblib = joblib_or_none()
    with (
        loopback_workers(WORKERS) as urls,
        distmap.Pool(urls) as remote,
        distmap.Pool(WORKERS) as ours,
        standard_pools() as (pool, executor),
        mpire_or_none() as mpire,
        halves() as alone,
    ):
        remote.wait_for_workers(WORKERS, 30)

        def calls(items: list[int]) -> dict[str, Callable[[], list[Any]]]:
            """Everybody's call over the items."""
            n = len(items)
            best = best_chunksize(lambda size: pool.map(square, items, size), [n // 4, n // 32, n // 256])
            large = max(1, n // 32)
            found = {
                OURS: lambda: ours.map(square, items),
                TLS: lambda: remote.map(square, items),
                "mp.Pool": lambda: pool.map(square, items),
                f"mp.Pool, best chunksize {best}": lambda: pool.map(square, items, best),
                f"ProcessPoolExecutor, chunksize {large}": lambda: list(executor.map(square, items, chunksize=large)),
                ALONE: lambda: alone.map(square, items),
            }
            if joblib is not None:
                found["joblib"] = lambda: joblib.map(square, items)
            if mpire is not None and n <= 100_000:
                found[f"mpire, chunk_size {large}"] = lambda: mpire.map(square, items, chunk_size=large)
            return found

        for key, n in zip(("small", "large"), (5_000, 50_000) if args.quick else (100_000, 1_000_000), strict=True):
            expected = [x * x for x in range(n)]
            contenders = {who: timed(call, expected.__eq__) for who, call in calls(list(range(n))).items()}
            limits = {"joblib": 1 if key == "large" else 3} | {who: 2 for who in contenders if who.startswith("mpire")}
            medians = report.case(f"{n:,} items of x * x", interleave(contenders, args.rounds, limits=limits), key=key)
            report.note(f"distmap: {medians[OURS] / n * 1e6:.3f} us an item")
            report.target(f"{n:,} items: / mp.Pool", ratio(medians, "mp.Pool"), 0.9 if key == "large" else 1.0)
            report.target(f"{n:,} items: over TLS / local", ratio(medians, OURS, TLS), 1.2)
    report.finish()


if __name__ == "__main__":
    main()
