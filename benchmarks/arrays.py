"""Large arrays on this machine: 64 x 16 MB into the slots, 64 x 16 MB out of them; what the client holds meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from common import LIMIT, OURS, WORKERS, Report, interleave, options, ratio, timed
from limits import halves
from machine import PeakMemory
from peers import dask_or_none, joblib_or_none, ray_or_none, standard_pools
from work import make, probe

import distmap

#: The best peer, when it is installed.
RAY = "Ray"
SLOW = {"mp.Pool": 1, "ProcessPoolExecutor": 1, "joblib": 2, RAY: 3, "Dask": 2}


def main() -> None:
    args = options(__doc__ or "", rounds=5, quick_rounds=2)
    report = Report("arrays", args)
    count, size = (8, 1 << 16) if args.quick else (64, 1 << 21)
    with distmap.Pool(WORKERS) as ours:
        arrays = [np.full(size, float(index)) for index in range(count)]
        tasks = [[index, size] for index in range(count)]
        sums = [index * (size // 512) for index in range(count)]
        place = np.empty(size)

        def filled(got: list) -> bool:
            return len(got) == count and all(a[0] == a[-1] == i for i, a in enumerate(got))

        def copied() -> None:
            for array in arrays:
                np.copyto(place, array)

        def new(run: Callable[[], float]) -> Callable[[], float]:
            """A copy each round: joblib keeps the memory map of an array it has seen; a user's next data is new."""

            def renewed() -> float:
                arrays[:] = [array.copy() for array in arrays]
                return run()

            return renewed

        def calls(peers: dict) -> tuple[dict, dict]:
            inward = {who: timed(lambda peer=peer: peer(probe, arrays), sums.__eq__) for who, peer in peers.items()}
            outward = {who: timed(lambda peer=peer: peer(make, tasks), filled) for who, peer in peers.items()}
            return inward, outward

        joblib = joblib_or_none()
        with standard_pools() as (pool, executor), halves() as alone:
            peers = {
                OURS: ours.map,
                "mp.Pool": pool.map,
                "ProcessPoolExecutor": lambda fn, items: list(executor.map(fn, items)),
            }
            peers |= {"joblib": joblib.map} if joblib is not None else {}
            for peer in peers.values():  # everybody's processes are up and know the functions
                peer(probe, arrays[:2]), peer(make, tasks[:2])
            inward, outward = calls(peers)
            inward = {who: new(run) if who == "joblib" else run for who, run in inward.items()}
            inward[LIMIT + "one copy of each"] = timed(copied)
            outward[LIMIT + "made in two processes"] = timed(lambda: alone.map(make, tasks, answer=False), [].__eq__)
            got_in = interleave(inward, args.rounds, limits=SLOW)
            got_out = interleave(outward, args.rounds, limits=SLOW)
        # After the others, one at a time: they use processor time when idle too.
        for who, way in () if args.quick else (("Dask", dask_or_none), (RAY, ray_or_none)):
            with way() as peer:
                if peer is not None:
                    inward, outward = calls({who: peer.map})
                    got_in |= interleave(inward, args.rounds, limits=SLOW)
                    got_out |= interleave(outward, args.rounds, limits=SLOW)

        megabytes = size * 8 / 1e6
        medians = report.case(f"{count} x {megabytes:.0f} MB in", got_in, key="in")
        report.note(f"distmap: {count * megabytes / 1e3 / medians[OURS]:.2f} GB/s in")
        report.target("in: / joblib", ratio(medians, "joblib"), 0.5)
        medians = report.case(f"{count} x {megabytes:.0f} MB out", got_out, key="out")
        report.note(f"distmap: {count * megabytes / 1e3 / medians[OURS]:.2f} GB/s out")
        report.target("out: seconds", medians[OURS], 0.25)
        arrays.clear()
        streams(report, ours, count, size)
    report.finish()


def streams(report: Report, ours: distmap.Pool, count: int, size: int) -> None:
    """What the client holds while results stream past a consumer that keeps none of them."""
    twice = [[index, size] for index in range(2 * count)]
    round_trip = timed(lambda: sum(array[0] for array in ours.imap(make, twice)))
    with PeakMemory() as memory:
        seconds = round_trip()
    total = len(twice) * size * 8
    report.note(f"imap over {total / 1e6:.0f} MB, nothing kept: {seconds:.2f} s, peak {memory.growth / 1e6:.0f} MB")
    report.target("imap: client's peak growth / all results", memory.growth / total, 0.25)


if __name__ == "__main__":
    main()
