"""Large arrays: 64 x 16 MB into the workers, 64 x 16 MB out of them, and what the client holds meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from common import OURS, WORKERS, PeakMemory, Report, interleave, joblib_or_none, options, ratio, standard_pools, timed

import distmap


def probe(array: np.ndarray) -> float:
    """Look at every page of the array."""
    return float(array[::512].sum())


def make(task: tuple[int, int]) -> np.ndarray:
    """A fresh array of `task[1]` doubles that all say `task[0]`."""
    return np.full(task[1], float(task[0]))


def checked(call: Callable[[], list], verify: Callable[[list], bool]) -> Callable[[], float]:
    """A round whose result is verified and freed outside the clock."""

    def run() -> float:
        began = time.perf_counter()
        got = call()
        elapsed = time.perf_counter() - began
        if not verify(got):
            raise RuntimeError("wrong results")
        return elapsed

    return run


def main() -> None:
    args = options(__doc__ or "", rounds=5, quick_rounds=2)
    report = Report("arrays", args)
    joblib = joblib_or_none()
    count, size = (16, 1 << 18) if args.quick else (64, 1 << 21)
    megabytes = size * 8 / 1e6
    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, executor):
        parallel = joblib.Parallel(n_jobs=WORKERS) if joblib else None
        arrays = [np.full(size, float(index)) for index in range(count)]
        sums = [index * (size // 512) for index in range(count)]

        def summed(got: list) -> bool:
            return bool(got == sums)

        inward = {
            OURS: checked(lambda: ours.map(probe, arrays), summed),
            "mp.Pool": checked(lambda: pool.map(probe, arrays), summed),
            "mp.Pool, chunksize 1": checked(lambda: pool.map(probe, arrays, 1), summed),
            "ProcessPoolExecutor": checked(lambda: list(executor.map(probe, arrays)), summed),
        }
        if parallel is not None:
            # A copy each round: joblib keeps the memory map of an array it has seen, a user's next data is new.
            inward["joblib"] = checked(lambda: parallel(joblib.delayed(probe)(array) for array in arrays), summed)

            def renewed(run=inward["joblib"]) -> float:
                arrays[:] = [array.copy() for array in arrays]
                return run()

            inward["joblib"] = renewed
        medians = report.case(f"in: {count} x {megabytes:.0f} MB", interleave(inward, args.rounds))
        report.note(f"distmap: {count * megabytes / 1e3 / medians[OURS]:.2f} GB/s in")
        report.target("in: / joblib", ratio(medians, "joblib"), 0.5)
        arrays.clear()

        tasks = [(index, size) for index in range(count)]

        def filled(got: list) -> bool:
            return len(got) == count and all(a[0] == a[-1] == i for i, a in enumerate(got))

        outward = {
            OURS: checked(lambda: ours.map(make, tasks), filled),
            "mp.Pool": checked(lambda: pool.map(make, tasks), filled),
            "mp.Pool, chunksize 1": checked(lambda: pool.map(make, tasks, 1), filled),
            "ProcessPoolExecutor": checked(lambda: list(executor.map(make, tasks)), filled),
        }
        if parallel is not None:
            outward["joblib"] = checked(lambda: parallel(joblib.delayed(make)(task) for task in tasks), filled)
        medians = report.case(f"out: {count} x {megabytes:.0f} MB", interleave(outward, args.rounds))
        report.note(f"distmap: {count * megabytes / 1e3 / medians[OURS]:.2f} GB/s out")
        for peer in medians:
            if peer != OURS:
                report.target(f"out: / {peer}", ratio(medians, peer), 1.0)

        streams(report, ours, count, size)
    report.finish()


def streams(report: Report, ours: distmap.Pool, count: int, size: int) -> None:
    """What the client holds while results stream past a consumer that keeps none of them."""
    twice = [(index, size) for index in range(2 * count)]
    round_trip = timed(lambda: sum(array[0] for array in ours.imap(make, twice)))
    with PeakMemory() as memory:
        seconds = round_trip()
    total = len(twice) * size * 8
    report.note(f"imap over {total / 1e6:.0f} MB, nothing kept: {seconds:.2f} s, peak {memory.growth / 1e6:.0f} MB")
    report.target("imap: client's peak growth / all results", memory.growth / total, 0.25)


if __name__ == "__main__":
    main()
