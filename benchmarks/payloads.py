"""Data as it comes: 2,000 dicts of 1 KB in and 10 KB out, 200,000 short strings, a frame of 1,000,000 rows.

Strings and frame are too little work for two processes: the serial call stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import LIMIT, OURS, WORKERS, Report, interleave, options, ratio, timed
from limits import halves
from peers import joblib_or_none, module, standard_pools
from work import grouped, lines, record, records, scaled, table, tokens

import distmap

SERIAL = "serial, one process"


def maps(report: Report, ours: distmap.Pool, pool: Any, executor: Any, alone: Any, joblib: Any) -> None:
    """Dicts and strings."""
    args = report.args
    work = {
        "dicts of 1 KB in and 10 KB out, 1 ms each": (record, records(60 if args.quick else 2_000), 50),
        "short strings, split into words": (tokens, lines(3_000 if args.quick else 200_000), 1000),
    }
    for name, (fn, items, chunk) in work.items():
        expected = list(map(fn, items))
        calls: dict[str, Callable[[], list[Any]]] = {
            OURS: lambda fn=fn, items=items: ours.map(fn, items),
            "mp.Pool": lambda fn=fn, items=items: pool.map(fn, items),
            f"ProcessPoolExecutor, chunksize {chunk}": lambda fn=fn, items=items, chunk=chunk: list(
                executor.map(fn, items, chunksize=chunk)
            ),
            SERIAL: lambda fn=fn, items=items: list(map(fn, items)),
            LIMIT + "two raw processes, one pickle each": lambda fn=fn, items=items: alone.map(fn, items),
        }
        if joblib is not None:
            calls["joblib"] = lambda fn=fn, items=items: joblib.map(fn, items)
        contenders = {who: timed(call, expected.__eq__) for who, call in calls.items()}
        limits = {SERIAL: 1, "joblib": 2}
        got = interleave(contenders, args.rounds, limits=limits)
        medians = report.case(f"{len(items):,} {name}", got, key=fn.__name__)
        report.target(f"{name}: / mp.Pool", ratio(medians, "mp.Pool"), 1.1)


def frames(report: Report, ours: distmap.Pool, pool: Any, joblib: Any) -> None:
    """A frame in batches: few rows back, and as many rows back."""
    pd = module("pandas")
    if pd is None:
        return
    rows = 10_000 if report.args.quick else 1_000_000
    batch = rows // 16
    frame = table(rows)

    def batches() -> list[Any]:
        return [frame.iloc[start : start + batch] for start in range(0, rows, batch)]

    for name, fn in (("means of groups", grouped), ("a new column, all rows back", scaled)):
        expected = pd.concat(list(map(fn, batches())), ignore_index=True)

        def same(got: Any, expected: Any = expected) -> bool:
            return bool((got.to_numpy() == expected.to_numpy()).all())

        calls: dict[str, Callable[[], Any]] = {
            OURS: lambda fn=fn: ours.map_batches(fn, frame, batch),
            "mp.Pool": lambda fn=fn: pd.concat(pool.map(fn, batches())),
            SERIAL: lambda fn=fn: pd.concat(list(map(fn, batches()))),
        }
        if joblib is not None:
            calls["joblib"] = lambda fn=fn: pd.concat(joblib.map(fn, batches()))
        contenders = {who: timed(call, same) for who, call in calls.items()}
        got = interleave(contenders, 2 * report.args.rounds)
        medians = report.case(f"a frame of {rows:,} rows in 16 batches: {name}", got, key=fn.__name__)
        report.target(f"frame, {name}: / mp.Pool", ratio(medians, "mp.Pool"), 1.1)


def main() -> None:
    args = options(__doc__ or "", rounds=3, quick_rounds=1)
    report = Report("payloads", args)
    joblib = joblib_or_none()
    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, executor), halves() as alone:
        maps(report, ours, pool, executor, alone, joblib)
        frames(report, ours, pool, joblib)
    report.finish()


if __name__ == "__main__":
    main()
