"""Streaming: `imap` over 1,000,000 items, its first result, and a consumer that is slow.

How far the input is pulled ahead of the consumer, and what memory does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
from common import LEFT_OUT, OURS, WORKERS, Report, interleave, options, ratio
from machine import PeakMemory
from peers import module, mpire_or_none, standard_pools
from work import square

import distmap

#: Seconds that the slow consumer takes for each result.
PAUSE = 0.005


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
        report.case(f"imap over {n:,} items, a fast consumer", interleave(contenders, args.rounds), key="fast")

        small = {
            OURS: lambda: first(ours.imap(square, iter(range(n)))),
            "mp.Pool.imap": lambda: first(pool.imap(square, iter(range(100)))),
        }
        medians = report.case("first result of a warm pool", interleave(small, 2 * args.rounds + 1), key="first")
        report.target("milliseconds to the first result", medians[OURS] * 1e3, 5.0)
        report.note(f"/ mp.Pool.imap: {ratio(medians, 'mp.Pool.imap') or 0:.2f}")

    slow_consumer(report, 1.0 if args.quick else 4.0)
    report.finish()


def results_of(who: str, source: Source, stack: contextlib.ExitStack) -> Iterator[int] | None:
    """The stream of one contender over the source; None where it is not installed."""
    if who == OURS:
        return stack.enter_context(distmap.Pool(WORKERS)).imap(square, source)
    if who == "mp.Pool":
        return stack.enter_context(multiprocessing.get_context("spawn").Pool(WORKERS)).imap(square, iter(source))
    if who == "mpire":
        mpire = stack.enter_context(mpire_or_none())
        return mpire and mpire.imap(square, iter(source))
    joblib = module("joblib")
    parallel = joblib and joblib.Parallel(n_jobs=WORKERS, return_as="generator")
    return parallel and parallel(joblib.delayed(square)(x) for x in source)


def slowly(who: str, seconds: float) -> None:
    """Take a result every 5 ms; print what was taken, pulled and held."""
    source = Source(1_000_000)
    with contextlib.ExitStack() as stack:
        results = results_of(who, source, stack)
        if results is None:
            return
        next(results)
        with PeakMemory() as memory:
            taken, ahead, until = 1, 0, time.perf_counter() + seconds
            while time.perf_counter() < until:
                time.sleep(PAUSE)
                next(results)
                taken += 1
                ahead = max(ahead, source.pulled - taken)
        print(taken, ahead, memory.growth / 1e6, flush=True)
        # What the others have read ahead is not waited for.
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(0)


def slow_consumer(report: Report, seconds: float) -> None:
    """What each reads ahead of a consumer that takes a result every 5 ms: in a process of its own."""
    ahead: dict[str, list[float]] = {}
    held: dict[str, list[float]] = {}
    for who in (OURS, "mp.Pool", "mpire", "joblib"):
        if who in LEFT_OUT:
            continue
        command = [sys.executable, __file__, "--slow", who, str(seconds)]
        said = subprocess.check_output(command, text=True, timeout=60).split()
        if said:
            _, items, megabytes = map(float, said)
            ahead[who], held[who] = [items], [megabytes]
    name = f"a consumer of {PAUSE * 1e3:g} ms for each result, {seconds:g} s"
    medians = report.case(f"{name}: most items read ahead", ahead, unit="items", key="ahead")
    report.case(f"{name}: growth of the client", held, unit="MB", key="held")
    report.target("seconds of consumption that are read ahead", medians[OURS] * PAUSE, 2.0)
    report.target("megabytes by which the client grows", held[OURS][0], 16)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--slow"]:
        slowly(sys.argv[2], float(sys.argv[3]))
    else:
        main()
