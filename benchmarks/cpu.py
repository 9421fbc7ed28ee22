"""Processor time of all processes: 10,000 items that sleep 1 ms, on two slots. What a library costs beside the work."""

from __future__ import annotations

from common import OURS, WORKERS, Report, interleave, options, timed
from machine import Costs
from peers import standard_pools
from work import nap

import distmap


def main() -> None:
    args = options(__doc__ or "", rounds=2, quick_rounds=1)
    report = Report("cpu", args)
    items = [0.001] * (300 if args.quick else 10_000)
    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, _):
        calls = {
            OURS: lambda: ours.map(nap, items),
            "mp.Pool": lambda: pool.map(nap, items),
            "mp.Pool, chunksize 20": lambda: pool.map(nap, items, 20),
        }
        # Everybody's processes are up and know the function before the clock runs.
        ours.map(nap, items[:40]), pool.map(nap, items[:40])
        costs = Costs()
        rounds = {who: costs.of(who, timed(call, items.__eq__)) for who, call in calls.items()}
        limits = {"mp.Pool, chunksize 20": 1}
        report.case(f"{len(items):,} items of 1 ms: seconds", interleave(rounds, args.rounds, warm=0, limits=limits))
        tree = report.case(f"{len(items):,} items of 1 ms: processor time of all processes", costs.tree, key="tree")
        report.target("10,000 items of 1 ms: processor time in seconds", tree[OURS] / len(items) * 10_000, 0.5)
        report.note(f"distmap: {tree[OURS] / len(items) * 1e6:.1f} us of processor time for each item")
    report.finish()


if __name__ == "__main__":
    main()
