"""What takes a minute to load is loaded once in each process of a worker elsewhere."""

from __future__ import annotations

from collections import Counter

import distmap
from distmap.testing.workers import WorkerProcess


def test_a_worker_loads_once_in_each_process() -> None:
    """`initializer=` runs before the first item of each process, and `per_process` gives each one value."""

    def prepare(weight: int) -> None:
        import sys

        sys.weight = getattr(sys, "weight", 0) + weight  # type: ignore[attr-defined]

    @distmap.per_process
    def model(name: str) -> list[object]:
        import sys

        sys.loads = getattr(sys, "loads", 0) + 1  # type: ignore[attr-defined]
        return [name, sys.loads]  # type: ignore[attr-defined]

    def score(x: int) -> tuple[int, int, object, int]:
        import os
        import sys

        return os.getpid(), sys.weight, tuple(model("tiny")), id(model("tiny"))  # type: ignore[attr-defined]

    with (
        WorkerProcess("--port", "0", "--slots", "2") as worker,
        distmap.Pool(worker.url, initializer=prepare, initargs=(5,)) as pool,
    ):
        found = [*pool.map(score, range(40), chunksize=1), *pool.map(score, range(40), chunksize=1)]
    processes = Counter(pid for pid, *_ in found)
    assert len(processes) == len({(pid, kept) for pid, *_, kept in found}) <= 2
    assert {(weight, value) for _, weight, value, _ in found} == {(5, ("tiny", 1))}
