"""Maps on slots of this machine and on two workers, while their processes are killed and stopped at random.

SIGKILL and SIGSTOP, later SIGCONT, hit task processes and supervisors; a supervisor that was killed is started again on
its port. Every result is checked: right, in its place, once. An item whose process was killed three times by this
script fails, and must say so; nothing else may fail. At the end nothing may be left behind.

    cd tests && python -m chaos.kills --minutes 20 --seed 1

Linux only: it finds the processes as Linux shows them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from chaos.common import Place, arguments, processes, verdict, watchdog

from distmap import PoisonItemError, Pool
from distmap.testing.workers import WorkerProcess

#: Seconds in which a call must end, whatever happens.
DEADLINE = 180.0
#: Seconds between two faults of each kind, on average. A slot rests after five deaths in 30 s.
EVERY = {"kill": 0.6, "stop": 0.8, "kill supervisor": 12.0, "stop supervisor": 8.0}
SLOTS = 3


# --- what runs --------------------------------------------------------------------------------------------------------


def quick(item: int) -> int:
    return item * item


def slow(item: int) -> int:
    time.sleep(0.01 * (1 + item % 7))
    return item * item


def busy(item: int) -> int:
    end = time.perf_counter() + 0.01
    while time.perf_counter() < end:
        pass
    return item * item


def large(item: int) -> bytes:
    return bytes([item % 251]) * (10_000 + 60_000 * (item % 11))


def printing(item: int) -> int:
    print("item", item)
    time.sleep(0.005)
    return item * item


class Heavy:
    """Takes a while to be pickled, and to be unpickled: a process may be killed in the middle of both."""

    def __init__(self, item: int) -> None:
        self.item = item

    def __reduce__(self) -> Any:
        time.sleep(0.004)
        return unpacked, (self.item,)


def unpacked(item: int) -> Heavy:
    time.sleep(0.004)
    return Heavy(item)


def pickled(heavy: Heavy) -> Heavy:
    return Heavy(heavy.item * heavy.item)


# --- the faults -------------------------------------------------------------------------------------------------------


class Nemesis(threading.Thread):
    """Kills and stops until it is told to end; then it lets everything go on."""

    def __init__(self, place: Place, workers: list[Restarted], seed: int, seconds: float) -> None:
        super().__init__(name="nemesis", daemon=True)
        self._mark = place.mark
        self._workers = workers
        self._random = random.Random(seed)
        self._end = threading.Event()
        #: Stops of half a minute are for runs that have the time.
        self._long = seconds > 300
        self._stopped: dict[int, float] = {}
        self.counts: Counter[str] = Counter()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            due = {kind: self._random.expovariate(1 / every) for kind, every in EVERY.items()}
            began = time.monotonic()
            while not self._end.wait(0.02):
                now = time.monotonic() - began
                self._continue(now)
                for kind, when in due.items():
                    if when <= now:
                        due[kind] = now + self._random.expovariate(1 / EVERY[kind])
                        self._strike(kind, now)
        except Exception as error:
            self.error = error
        finally:
            self._continue(float("inf"))

    def stop(self) -> None:
        self._end.set()
        self.join(60)

    def _strike(self, kind: str, now: float) -> None:
        if kind == "kill supervisor":
            # A process that is stopped before it has begun to watch its parent cannot see that its parent has gone.
            self._continue(float("inf"))
            self._random.choice(self._workers).kill()
            self.counts[kind] += 1
            return
        if kind == "stop supervisor":
            pids = [worker.pid for worker in self._workers]
        else:
            pids = [pid for pid, words in processes(self._mark).items() if "distmap.slots.child" in words]
        pids = [pid for pid in pids if pid not in self._stopped]
        if not pids:
            return
        pid = self._random.choice(pids)
        if self._send(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP):
            self.counts[kind] += 1
            if kind != "kill":
                seconds = self._random.choice((0.05, 0.3, 1.0, 3.0))
                if self._long and self._random.random() < 0.02:
                    seconds = 33.0
                self._stopped[pid] = now + seconds

    def _continue(self, now: float) -> None:
        for pid in [pid for pid, until in self._stopped.items() if until <= now]:
            del self._stopped[pid]
            self._send(pid, signal.SIGCONT)

    def _send(self, pid: int, number: int) -> bool:
        if pid not in processes(self._mark):
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True


class Restarted:
    """A `distmap-worker` that listens, and is started again on the same port when it was killed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process = self._start("0")
        self.url = self._process.url
        self._port = self.url.rpartition(":")[2].strip("/")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and a new one."""
        self._process.process.kill()
        self.stop()
        self._process = self._start(self._port)

    def stop(self) -> None:
        """End it for good."""
        self._process.stop()

    def _start(self, port: str) -> WorkerProcess:
        return WorkerProcess("--port", port, "--slots", str(SLOTS), "--name", self._name)


# --- the calls --------------------------------------------------------------------------------------------------------


class Calls:
    """Calls of all kinds, each checked."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self._pool = pool
        self._random = random.Random(seed)
        self.problems: list[str] = []
        self.calls = self.items = self.poisoned = self.lost = self.doubled = self.wrong = 0
        self.longest = 0.0
        self.counts: Counter[str] = Counter()

    def one(self) -> None:
        """Run a call of a random kind."""
        kinds: list[Callable[[], None]] = [
            *(lambda fn=fn, most=most: self._map(fn, range(self._random.randint(most // 4, most)))
              for fn, most in ((quick, 6_000), (slow, 150), (busy, 300), (large, 120), (printing, 200))),
            lambda: self._map(pickled, [Heavy(item) for item in range(self._random.randint(10, 60))]),
            self._unordered,
            self._fold,
            self._submits,
        ]  # fmt: skip
        began = time.monotonic()
        try:
            self._random.choice(kinds)()
        except Exception as error:
            self.problems.append(f"call {self.calls} failed: {type(error).__name__}: {error}")
        self.calls += 1
        self.longest = max(self.longest, time.monotonic() - began)
        if self._pool.last is not None:
            self.counts.update({name: n for name, n in self._pool.last.stats.items() if isinstance(n, int)})

    def _map(self, fn: Callable[[Any], Any], items: Any) -> None:
        chunksize = self._random.choice((None, None, 1, 7))
        found = self._pool.map_async(fn, items, on_error="return", chunksize=chunksize).result(DEADLINE)
        self._check(fn, list(range(len(items))), list(found), len(items))

    def _unordered(self) -> None:
        items = range(self._random.randint(20, 200))
        found = list(self._pool.imap_unordered(twice, items, on_error="return"))
        values = Counter(one[0] for one in found if not isinstance(one, BaseException))
        self._check(None, [], [one for one in found if isinstance(one, BaseException)], 0)
        failed = len(found) - values.total()
        self.items += len(items)
        self.doubled += sum(n - 1 for n in values.values())
        self.lost += len(items) - len(values) - failed
        self.wrong += sum(one[1] != one[0] ** 2 for one in found if not isinstance(one, BaseException))

    def _fold(self) -> None:
        items = range(self._random.randint(100, 3000))
        self.items += len(items)
        try:
            found = self._pool.map_reduce(pair, items, add, initial=(0, 0))
        except PoisonItemError as error:
            self._check(None, [], [error], 0)
            return
        self.lost += max(0, len(items) - found[0])
        self.doubled += max(0, found[0] - len(items))
        self.wrong += found[1] != sum(x * x for x in items)

    def _submits(self) -> None:
        futures = [self._pool.submit(slow, item) for item in range(self._random.randint(10, 60))]
        found: list[Any] = []
        for future in futures:
            error = future.exception(DEADLINE)
            found.append(future.result() if error is None else error)
        self._check(slow, list(range(len(futures))), found, len(futures))

    def _check(self, fn: Callable[[Any], Any] | None, items: list[int], found: list[Any], count: int) -> None:
        self.items += count
        self.lost += max(0, len(items) - len(found)) if fn is not None else 0
        self.doubled += max(0, len(found) - len(items)) if fn is not None else 0
        for at, value in enumerate(found):
            if isinstance(value, PoisonItemError) and str(value).count("SIGKILL") and "ended 3 task" in str(value):
                self.poisoned += 1  # this script hit it three times
            elif isinstance(value, BaseException):
                self.problems.append(f"an item failed: {type(value).__name__}: {value}")
            elif fn is large:
                self.wrong += value != large(at)
            elif fn is not None:
                self.wrong += (value.item if fn is pickled else value) != at * at


def twice(item: int) -> tuple[int, int]:
    time.sleep(0.005)
    return item, item * item


def pair(item: int) -> tuple[int, int]:
    return 1, item * item


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


# --- the script -------------------------------------------------------------------------------------------------------


def chaos(seconds: float, seed: int) -> tuple[dict[str, object], list[str]]:
    """Calls under faults for so long: the figures, and what went wrong."""
    seeds = random.Random(seed)
    began = time.monotonic()
    # What items print goes through all of distmap, and nobody reads it.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), Place() as place:
        workers = [Restarted("one"), Restarted("two")]
        try:
            with Pool([SLOTS, *(worker.url for worker in workers)], progress=False) as pool:
                pool.wait_for_workers(3, 30)
                calls = [Calls(pool, seeds.randrange(2**32)) for _ in range(2)]
                nemesis = Nemesis(place, workers, seeds.randrange(2**32), seconds)
                nemesis.start()
                beside = threading.Thread(target=play, args=(calls[1], began + seconds), name="beside", daemon=True)
                beside.start()
                try:
                    play(calls[0], began + seconds)
                    beside.join(2 * DEADLINE)
                finally:
                    nemesis.stop()
        finally:
            watchdog(60)
            for worker in workers:
                worker.stop()
        problems = list(itertools.chain.from_iterable(one.problems for one in calls))
        if nemesis.error is not None:
            problems.append(f"the script failed: {nemesis.error!r}")
        if beside.is_alive():
            problems.append("a call hung")
        left = place.left()
    figures: dict[str, object] = {
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        **{f"{kind}s": nemesis.counts[kind] for kind in EVERY},
        "calls": sum(one.calls for one in calls),
        "items": sum(one.items for one in calls),
        "longest call": f"{max(one.longest for one in calls):.1f} s",
        "items hit three times": sum(one.poisoned for one in calls),
        "counts of the jobs": dict(sum((one.counts for one in calls), Counter[str]())),
    }
    for name in ("lost", "doubled", "wrong"):
        figures[name] = count = sum(getattr(one, name) for one in calls)
        if count:
            problems.append(f"{count} results {name}")
    figures["hung"] = int(beside.is_alive())
    figures["left behind"] = len(left)
    if left:
        problems.append(f"left behind: {sorted(left)}")
    return figures, problems


def play(calls: Calls, end: float) -> None:
    """Call after call until the time is up or something went wrong."""
    while time.monotonic() < end and not calls.problems:
        watchdog(2 * DEADLINE)
        calls.one()


if __name__ == "__main__":
    given = arguments(__doc__).parse_args()
    sys.exit(verdict(*chaos(given.minutes * 60, given.seed)))
