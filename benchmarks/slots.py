"""Many slots: sleeping items on 16, 64 and 200 local slots, and on 20 workers of two slots over TLS.

The items use no processor, so that a machine with few cores shows what a pool of many costs. All of its processes
share the cores here: on machines of their own, only the client's share remains.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from common import LIMIT, OURS, Report, interleave, options, ratio, timed
from machine import Costs
from peers import loopback_workers, standard_pools
from work import nap

import distmap

TLS_WORKERS, TLS_SLOTS = 20, 2
#: Slots, items, seconds of each, limit of distmap / mp.Pool.
LOCAL = ((16, 2_000, 0.01, 1.1), (64, 5_000, 0.01, 1.1), (200, 40_000, 0.005, 1.5))
QUICK = ((16, 320, 0.01, 1.1), (64, 640, 0.01, 1.1))


def case(report: Report, name: str, key: str, calls: dict[str, Callable], items: list[float], slots: int, rounds: int):
    """Measure one; returns the medians with the ideal, and what was used of the processors."""
    costs = Costs()
    contenders = {who: costs.of(who, timed(call, items.__eq__)) for who, call in calls.items()}
    got = interleave(contenders, rounds, limits={"mp.Pool, chunksize 1": 1, "ProcessPoolExecutor": 1})
    got[LIMIT + "sum of the items / slots"] = [sum(items) / slots]
    medians = report.case(name, got, key=key)
    client = {who: [seconds / len(items) * 1e6 for seconds in costs.client[who]] for who in calls}
    report.case(f"{name}: processor time of the client for each item", client, unit="us", key=f"{key} client")
    tree = {who: [seconds / len(items) * 1e6 for seconds in costs.tree[who]] for who in calls}
    report.case(f"{name}: processor time of all processes for each item", tree, unit="us", key=f"{key} tree")
    return medians, costs


def local(report: Report, slots: int, count: int, seconds: float, limit: float, rounds: int) -> None:
    items = [seconds] * count
    began = time.perf_counter()
    with distmap.Pool(slots) as ours:
        ours.wait_for_workers(1, 60)
        ours.map(nap, [0.001] * slots, chunksize=1)
        report.note(f"{slots} slots: distmap started and used all of them within {time.perf_counter() - began:.2f} s")
        with standard_pools(slots) as (pool, executor):
            pool.map(nap, [0.001] * slots, 1)
            list(executor.map(nap, [0.001] * 4 * slots if slots == 64 else []))
            calls = {
                OURS: lambda: ours.map(nap, items),
                "mp.Pool": lambda: pool.map(nap, items),
            }
            if slots == 64:
                calls["mp.Pool, chunksize 1"] = lambda: pool.map(nap, items, 1)
                calls["ProcessPoolExecutor"] = lambda: list(executor.map(nap, items))
            name = f"{slots} slots, {count:,} items of {seconds * 1e3:g} ms"
            medians, costs = case(report, name, str(slots), calls, items, slots, rounds)
    report.target(f"{slots} slots: / mp.Pool", ratio(medians, "mp.Pool"), limit)
    if slots == 200:
        client, _ = costs.medians(OURS)
        report.target("200 slots: microseconds of the client's processor for each item", client / count * 1e6, 30)


def remote(report: Report, count: int, rounds: int) -> None:
    items = [0.01] * count
    slots = TLS_WORKERS * TLS_SLOTS
    with loopback_workers(TLS_WORKERS, slots=TLS_SLOTS) as urls:
        began = time.perf_counter()
        with distmap.Pool(urls) as pool:
            pool.wait_for_workers(TLS_WORKERS, 60)
            report.note(f"{TLS_WORKERS} running workers: all registered in {time.perf_counter() - began:.2f} s")
            pool.map(nap, [0.001] * slots * 2, chunksize=1)
            name = f"{TLS_WORKERS} workers x {TLS_SLOTS} slots over TLS, {count:,} items of 10 ms"
            medians, costs = case(report, name, "tls", {OURS: lambda: pool.map(nap, items)}, items, slots, rounds)
    seconds, (client, tree) = medians[OURS], costs.medians(OURS)
    report.note(f"{tree / seconds:.2f} cores were busy, {client / tree:.0%} of that in the client")
    full = tree / seconds >= 0.95 * (os.cpu_count() or 1) and client / tree < 1 / 3
    report.target(
        "20 workers over TLS: / sum of the items / slots, or all cores busy and the client has less than a third",
        seconds / (sum(items) / slots), 1.3, otherwise=full,
    )  # fmt: skip


def main() -> None:
    args = options(__doc__ or "", rounds=3, quick_rounds=1)
    report = Report("slots", args)
    for slots, count, seconds, limit in QUICK if args.quick else LOCAL:
        local(report, slots, count, seconds, limit, args.rounds)
    remote(report, 400 if args.quick else 5_000, args.rounds)
    report.finish()


if __name__ == "__main__":
    main()
