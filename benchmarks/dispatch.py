"""Chunks a second: 5,000 items of `x * x` with `chunksize=1`, so that each is a message; local and over TLS."""

from __future__ import annotations

from common import OURS, WORKERS, Report, interleave, options, ratio, timed
from machine import Costs
from peers import loopback_workers, mpire_or_none, standard_pools
from work import square

import distmap

TLS = "distmap, 2 workers over TLS"


def main() -> None:
    args = options(__doc__ or "", rounds=5, quick_rounds=2)
    report = Report("dispatch", args)
    items = list(range(300 if args.quick else 5_000))
    expected = [x * x for x in items]
    with (
        loopback_workers(WORKERS) as urls,
        distmap.Pool(urls) as remote,
        distmap.Pool(WORKERS) as ours,
        standard_pools() as (pool, executor),
        mpire_or_none() as mpire,
    ):
        remote.wait_for_workers(WORKERS, 30)
        calls = {
            OURS: lambda: ours.map(square, items, chunksize=1),
            TLS: lambda: remote.map(square, items, chunksize=1),
            "mp.Pool": lambda: pool.map(square, items, 1),
            "ProcessPoolExecutor": lambda: list(executor.map(square, items)),
        }
        if mpire is not None:
            calls["mpire"] = lambda: mpire.map(square, items, chunk_size=1)
        costs = Costs()
        rounds = {who: costs.of(who, timed(call, expected.__eq__)) for who, call in calls.items()}
        limits = {"ProcessPoolExecutor": 2, "mpire": 2}
        medians = report.case(f"{len(items):,} chunks of one item", interleave(rounds, args.rounds, limits=limits))
        rates = {who: [len(items) / seconds] for who, seconds in medians.items()}
        report.case("chunks a second", rates, unit="/s", key="rate")
        client = {who: [seconds / len(items) * 1e6 for seconds in costs.client[who]] for who in medians}
        report.case("processor time of the client for each chunk", client, unit="us", key="client")
        report.target("chunks a second, local", rates[OURS][0], 12_000, at_least=True)
        report.target("chunks a second, over TLS", rates[TLS][0] if TLS in rates else None, 6_000, at_least=True)
        report.note(f"/ mp.Pool: {ratio(medians, 'mp.Pool') or 0:.2f}")
    report.finish()


if __name__ == "__main__":
    main()
