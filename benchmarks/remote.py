"""Two loopback workers over TLS: 64 x 16 MB in and out, a function that captures 100 MB; and raw TLS sockets."""

from __future__ import annotations

import numpy as np
from common import LIMIT, OURS, WORKERS, Report, interleave, options, ratio, timed
from limits import tls_streams
from peers import dask_or_none, loopback_workers
from work import make, probe

import distmap

LOCAL = "distmap, 2 local slots"
RAW = LIMIT + "2 raw TLS sockets"
DASK = "Dask, TLS"


def main() -> None:
    args = options(__doc__ or "", rounds=4, quick_rounds=2)
    report = Report("remote", args)
    count, size = (8, 1 << 16) if args.quick else (64, 1 << 21)
    arrays = [np.full(size, float(index)) for index in range(count)]
    tasks = [[index, size] for index in range(count)]
    sums = [index * (size // 512) for index in range(count)]

    def filled(got: list) -> bool:
        return len(got) == count and all(a[0] == a[-1] == i for i, a in enumerate(got))

    with (
        loopback_workers(WORKERS) as urls,
        distmap.Pool(urls) as ours,
        distmap.Pool(WORKERS) as local,
        tls_streams() as raw,
    ):
        ours.wait_for_workers(WORKERS, 30)
        inward = {
            OURS: timed(lambda: ours.map(probe, arrays), sums.__eq__),
            LOCAL: timed(lambda: local.map(probe, arrays), sums.__eq__),
            RAW: timed(lambda: raw.send(arrays)),
        }
        outward = {
            OURS: timed(lambda: ours.map(make, tasks), filled),
            LOCAL: timed(lambda: local.map(make, tasks), filled),
            RAW: timed(lambda: raw.receive(count, size * 8), lambda got: len(got) == count),
        }
        got_in, got_out = interleave(inward, args.rounds), interleave(outward, args.rounds)
        captured = captures(ours, local, 20_000 if args.quick else 12_500_000)
        got_closure = interleave(captured, args.rounds)
    if not args.quick:  # after the others: it uses processor time when idle too
        with dask_or_none(tls=True) as dask:
            if dask is not None:
                got_in |= interleave({DASK: timed(lambda: dask.map(probe, arrays), sums.__eq__)}, 2)
                got_out |= interleave({DASK: timed(lambda: dask.map(make, tasks), filled)}, 2)
    for way, got in (("in", got_in), ("out", got_out)):
        medians = report.case(f"{count} x {size * 8 / 1e6:.0f} MB {way}, 2 workers over TLS", got, key=way)
        report.note(f"{way}: {count * size * 8 / 1e9 / medians[OURS]:.2f} GB/s")
        report.target(f"{way}: / 2 raw TLS sockets", ratio(medians, RAW), 1.4)
    medians = report.case("40 items over a captured array of 100 MB, 2 workers over TLS", got_closure, key="closure")
    report.target("captured array of 100 MB: seconds", medians[OURS], 0.2)
    report.finish()


def captures(ours: distmap.Pool, local: distmap.Pool, size: int) -> dict:
    """Rounds over an array that nobody has seen yet, made outside the clock."""
    generator = np.random.default_rng(0)

    def over(pool: distmap.Pool):
        def run() -> float:
            data = generator.random(size)
            return timed(lambda: pool.map(lambda index: float(data[index]), range(40)), data[:40].tolist().__eq__)()

        return run

    return {OURS: over(ours), LOCAL: over(local)}


if __name__ == "__main__":
    main()
