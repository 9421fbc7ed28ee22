"""Streaming: `imap` over 1,000,000 items with a consumer that is slow for a while.

How far the input is pulled ahead, what memory does, and how soon a warm pool gives its first result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from common import OURS, WORKERS, PeakMemory, Report, interleave, options, ratio, standard_pools

import distmap


def square(x: int) -> int:
    return x * x


class Source:
    """Counts how many of its items were pulled."""

    def __init__(self, count: int) -> None:
        self.count, self.pulled = count, 0

    def __iter__(self) -> Iterator[int]:
        for x in range(self.count):
            self.pulled = x + 1
            yield x


def consume(results: Iterator[int], expected: int) -> float:
    """Seconds to take all of them."""
    began = time.perf_counter()
    total = sum(results)
    elapsed = time.perf_counter() - began
    if total != expected:
        raise RuntimeError("wrong results")
    return elapsed


def first(results: Iterator[int]) -> float:
    """Seconds to the first result of an iterator that is then left alone."""
    began = time.perf_counter()
    next(results)
    elapsed = time.perf_counter() - began
    if hasattr(results, "close"):
        results.close()
    return elapsed


def main() -> None:
    args = options(__doc__ or "", rounds=5, quick_rounds=2)
    report = Report("stream", args)
    n = 50_000 if args.quick else 1_000_000
    expected = sum(x * x for x in range(n))
    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, executor):
        contenders = {
            OURS: lambda: consume(ours.imap(square, iter(range(n))), expected),
            "distmap, unordered": lambda: consume(ours.imap_unordered(square, iter(range(n))), expected),
            "mp.Pool.imap, chunksize 1000": lambda: consume(pool.imap(square, iter(range(n)), 1000), expected),
            "ProcessPoolExecutor.map, chunksize 1000": lambda: consume(
                executor.map(square, iter(range(n)), chunksize=1000), expected
            ),
        }
        report.case(f"imap over {n:,} items, a fast consumer", interleave(contenders, args.rounds))

        small = {
            OURS: lambda: first(ours.imap(square, iter(range(n)))),
            "mp.Pool.imap": lambda: first(pool.imap(square, iter(range(100)))),
        }
        medians = report.case("first result of a warm pool", interleave(small, 2 * args.rounds + 1))
        report.target("milliseconds to the first result", medians[OURS] * 1e3, 5.0)
        report.note(f"/ mp.Pool.imap: {ratio(medians, 'mp.Pool.imap') or 0:.2f}")

        slow_consumer(report, ours, n)
    report.finish()


def slow_consumer(report: Report, ours: distmap.Pool, n: int) -> None:
    """Take results fast, then slowly, then fast: what was pulled from the input but not consumed, and memory."""
    source = Source(n)
    results = ours.imap(square, source)
    ahead_slow = 0
    slow_from, slow_until = n // 4, n // 4 + 200
    with PeakMemory() as memory:
        for index, _ in enumerate(results):
            if slow_from <= index < slow_until:
                time.sleep(0.005)
                ahead_slow = max(ahead_slow, source.pulled - index - 1)
    job = ours.last
    chunks = dict(job.stats).get("chunks") if job is not None else None
    report.note(f"pulled ahead of a slow consumer: at most {ahead_slow:,} of {n:,} items; chunks in all: {chunks}")
    if chunks:
        # Two chunks a slot that wait or run, plus the one that the consumer is in: of chunks of average size.
        report.note(f"that is {ahead_slow / (n / chunks):.1f} chunks of average size ({2 * WORKERS} = two a slot)")
    report.target("pulled ahead / all items", ahead_slow / n, 0.5)
    report.note(f"client's memory grew by {memory.growth / 1e6:.1f} MB at most")
    report.target("client's memory growth in MB", memory.growth / 1e6, 64)


if __name__ == "__main__":
    main()
