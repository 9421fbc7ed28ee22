"""Tiny items: `map` of `x * x` over 100,000 and 1,000,000 integers, warm pools of two."""

from __future__ import annotations

from common import (
    OURS,
    WORKERS,
    Report,
    best_chunksize,
    interleave,
    joblib_or_none,
    options,
    ratio,
    standard_pools,
    timed,
)

import distmap


def square(x: int) -> int:
    return x * x


def contenders(n, ours, pool, executor, parallel, joblib, quick):
    """Everybody's call over n items, and how many rounds the slow ones get."""
    sizes = [max(1, n // share) for share in (2, 8, 32, 128, 512)]
    pool_best = best_chunksize(lambda size: pool.map(square, range(n), size), sizes)
    executor_best = best_chunksize(lambda size: list(executor.map(square, range(n), chunksize=size)), sizes)
    tenth = n // 10
    calls = {
        OURS: timed(lambda: ours.map(square, range(n))),
        "mp.Pool": timed(lambda: pool.map(square, range(n))),
        f"mp.Pool, best chunksize {pool_best}": timed(lambda: pool.map(square, range(n), pool_best)),
        f"ProcessPoolExecutor, chunksize {executor_best}": timed(
            lambda: list(executor.map(square, range(n), chunksize=executor_best))
        ),
    }
    limits = {}
    if joblib is not None:
        calls["joblib"] = timed(lambda: parallel(joblib.delayed(square)(x) for x in range(n)))
        limits["joblib"] = 1 if n > 200_000 else 3
    if n <= 100_000:
        # Its default sends every item alone; a tenth of the items is measured and multiplied.
        run = timed(lambda: list(executor.map(square, range(tenth))))
        calls["ProcessPoolExecutor, default (x10)"] = lambda: run() * 10
        limits["ProcessPoolExecutor, default (x10)"] = 1
    return calls, limits


def main() -> None:
    args = options(__doc__ or "", rounds=7, quick_rounds=2)
    report = Report("tiny", args)
    joblib = joblib_or_none()
    parallel = joblib.Parallel(n_jobs=WORKERS) if joblib else None
    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, executor):
        expected = [x * x for x in range(1000)]
        if ours.map(square, range(1000)) != expected:
            raise SystemExit("distmap's map gave a wrong result")
        for n in (20_000, 200_000) if args.quick else (100_000, 1_000_000):
            calls, limits = contenders(n, ours, pool, executor, parallel, joblib, args.quick)
            medians = report.case(f"{n:,} items", interleave(calls, args.rounds, limits=limits))
            report.note(f"distmap: {medians[OURS] / n * 1e6:.3f} us an item")
            report.target(f"{n:,} items: / mp.Pool.map", ratio(medians, "mp.Pool"), 1.3)
    report.finish()


if __name__ == "__main__":
    main()
