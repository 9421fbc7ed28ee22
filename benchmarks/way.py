"""The way of one warm call: how many calls of functions, in how many files, over how many changes of thread.

How it counts. `Pool(1)` with one slot of this machine; each call runs WARM times unseen, then ROUNDS times with a
profile function (`sys.setprofile`) in every Python thread of this process and in the task process. Counted are the
Python functions whose code lies in the folder of distmap, from the start of the call until 50 ms after its end, so that
the tail on the loop's thread belongs to it. "Changes": the calls of both processes are put in order of time (one
monotonic clock), and each call in another thread or process than the call before it is a change. Threads run side by
side, so rounds differ: the round with the fewest changes is shown. "map" sends two chunks, as the first item is timed
alone; "chunk" sends all items together. Times mean nothing under a profiler; none is shown.

    python benchmarks/way.py [--list map]      # --list: each function once, with its thread, in order of its first call
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import distmap

WARM, ROUNDS = 30, 30
#: Seconds after the end of a call that still belong to it.
TAIL = 0.05


class Event(NamedTuple):
    """One call of a function of distmap."""

    at: int
    thread: str
    place: str


def record(label: str | None, folder: str) -> None:
    """Note every call in this thread and in threads that start later, in this process."""
    import sys
    import threading
    import time

    sys.way = events = []  # type: ignore[attr-defined]
    clock, named = time.perf_counter_ns, threading.current_thread

    def profile(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(folder):
            code = frame.f_code
            events.append((clock(), label or named().name, f"{code.co_filename}:{code.co_qualname}"))

    threading.setprofile(profile)
    sys.setprofile(profile)


def take() -> list[tuple[int, str, str]]:
    """What was noted in this process; it is forgotten."""
    import sys

    events, sys.way[:] = list(sys.way), []  # type: ignore[attr-defined]
    return events


def best_of(call: Callable[[], object], pool: distmap.Pool) -> list[Event]:
    """The events of the round with the fewest changes of thread."""
    for _ in range(WARM):
        call()
    found = []
    for _ in range(ROUNDS):
        time.sleep(TAIL)
        pool.apply(take)
        time.sleep(TAIL)
        take()
        begin = time.perf_counter_ns()
        call()
        time.sleep(TAIL)
        here, end = take(), time.perf_counter_ns()
        there = [event for event in pool.apply(take) if begin <= event[0] <= end]
        found.append(sorted(Event(*event) for event in [*here, *there] if "setprofile" not in event[2]))
    return min(found, key=lambda events: (changes(events), len(events)))


def changes(events: list[Event]) -> int:
    """How often the thread changes."""
    return sum(a.thread != b.thread for a, b in itertools.pairwise(events))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--list", metavar="CALL", choices=("map", "chunk", "submit"), help="show its functions, in order"
    )
    args = parser.parse_args()
    folder = str(Path(distmap.__file__).parent) + os.sep
    record(None, folder)
    with distmap.Pool(1) as pool:
        pool.run(lambda: record("slot", folder), output=False)
        calls: dict[str, Callable[[], object]] = {
            "map": lambda: pool.map(abs, [10, 20, 30]),
            "chunk": lambda: pool.map(abs, [10, 20, 30], chunksize=3),
            "submit": lambda: pool.submit(abs, 10).result(),
        }
        print(f"{'call':8}{'calls':>8}{'functions':>11}{'files':>7}{'threads':>9}{'changes':>9}")
        for name, call in calls.items():
            events = best_of(call, pool)
            places = list(dict.fromkeys(event.place for event in events))
            files = {place.split(":")[0] for place in places}
            threads = {event.thread for event in events}
            print(f"{name:8}{len(events):8}{len(places):11}{len(files):7}{len(threads):9}{changes(events):9}")
            if args.list == name:
                before = ""
                for event in events:
                    if event.thread != before:
                        print(f"== {event.thread}")
                        before = event.thread
                    print("  ", event.place.removeprefix(folder))
    sys.setprofile(None)
    threading.setprofile(None)


if __name__ == "__main__":
    main()
