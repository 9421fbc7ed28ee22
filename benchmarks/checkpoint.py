"""What `checkpoint=` costs: items of 10 ms, a million tiny ones, and a second call that finds every result."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

from common import OURS, WORKERS, Report, interleave, options, ratio, timed

import distmap

WITHOUT = "distmap without checkpoint"


def square(x: int) -> int:
    return x * x


def ten_ms(x: int) -> float:
    time.sleep(0.01)
    return x / 7


def main() -> None:
    args = options(__doc__ or "", rounds=7, quick_rounds=3)
    report = Report("checkpoint", args)
    with distmap.Pool(WORKERS) as pool, tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()

        def fresh() -> str:
            return str(Path(folder, f"{next(numbers)}.sqlite"))

        n = 200 if args.quick else 1_000
        calls = {
            OURS: timed(lambda: pool.map(ten_ms, range(n), checkpoint=fresh(), progress=False)),
            WITHOUT: timed(lambda: pool.map(ten_ms, range(n), progress=False)),
        }
        medians = report.case(f"{n:,} items of 10 ms", interleave(calls, args.rounds))
        report.target("items of 10 ms: with / without", ratio(medians, WITHOUT), 1.02)

        n = 200_000 if args.quick else 1_000_000
        known = fresh()
        pool.map(square, range(n), checkpoint=known, progress=False)
        calls = {
            OURS: timed(lambda: pool.map(square, range(n), checkpoint=fresh(), progress=False)),
            WITHOUT: timed(lambda: pool.map(square, range(n), progress=False)),
            "every result is known": timed(lambda: pool.map(square, range(n), checkpoint=known, progress=False)),
        }
        medians = report.case(f"{n:,} items of x * x", interleave(calls, args.rounds))
        if args.quick:  # opening the file counts too much
            report.note(f"{n:,} tiny items: with / without: {ratio(medians, WITHOUT)}")
        else:
            report.target(f"{n:,} tiny items: with / without", ratio(medians, WITHOUT), 1.5)
        report.note(f"a tiny item takes {Path(known).stat().st_size / n:.1f} bytes of the file")
    report.finish()


if __name__ == "__main__":
    main()
