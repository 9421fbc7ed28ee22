"""Outages of a connection: 200 items of 50 ms on a worker of two slots, behind a relay that fails like a network."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common import OURS, Report, options

import distmap
from distmap.testing.relay import Relay
from distmap.testing.workers import WorkerProcess

SECONDS, SLOTS = 0.050, 2


def reset(relay: Relay) -> float:
    """The connection is reset three times, 1 s apart. Returns when the path was back."""
    for _ in range(3):
        time.sleep(1.0)
        relay.reset()
    return time.perf_counter()


def gone(relay: Relay) -> float:
    """The connection is reset, and nothing passes for 6 s."""
    time.sleep(1.0)
    relay.silence()
    relay.reset()
    time.sleep(6.0)
    relay.speak()
    return time.perf_counter()


def silent(relay: Relay) -> float:
    """Nothing passes for 8 s, and no side is told."""
    time.sleep(1.0)
    relay.silence()
    time.sleep(8.0)
    relay.speak()
    return time.perf_counter()


def measure(outage: Callable[[Relay], float], items: int) -> dict[str, float]:
    """One map through one outage: seconds in all, until results flow again, and what was done twice."""
    with tempfile.TemporaryDirectory() as folder:

        def work(item: int) -> int:
            with open(os.path.join(folder, str(item)), "a") as file:
                file.write("x")
            time.sleep(SECONDS)
            return item

        with (
            WorkerProcess("--port", "0", "--slots", str(SLOTS)) as worker,
            Relay.before(worker.url) as relay,
            distmap.Pool(relay.url, progress=False) as pool,
        ):
            pool.map(abs, range(10))
            back: list[float] = []
            thread = threading.Thread(target=lambda: back.append(outage(relay)))
            began = time.perf_counter()
            thread.start()
            job = pool.imap_unordered(work, range(items), buffer=items)
            came = [time.perf_counter() for _ in job]
            total = time.perf_counter() - began
            thread.join()
            functions = sum("function received" in line and " abs" not in line for line in worker.stderr)
        runs = [path.stat().st_size for path in Path(folder).iterdir()]
    flow = next((moment - back[0] for moment in came if moment > back[0]), 0.0)
    return {
        "seconds": total,
        "flow": flow,
        "twice": sum(count - 1 for count in runs),
        "functions": functions,
        "lost": job.stats["losses"],
    }


def main() -> None:
    args = options(__doc__ or "", rounds=1, quick_rounds=1)
    report = Report("outage", args)
    items = 200
    ideal = items * SECONDS / SLOTS
    for outage in (reset, gone, silent):
        found = measure(outage, items)
        name = outage.__name__
        report.case(f"connection {name}", {OURS: [found["seconds"]], "without an outage": [ideal]})
        report.target(f"{name}: seconds from the path being back until results flow", found["flow"], 1.0)
        report.target(f"{name}: items run twice", found["twice"], 0, exact=True)
        report.target(f"{name}: times that the function was sent", found["functions"], 1, exact=True)
        report.target(f"{name}: workers lost", found["lost"], 0, exact=True)
    report.finish()


if __name__ == "__main__":
    main()
