"""Maps over two workers behind bad networks: nothing is lost, doubled, sent twice, hung or left behind.

One worker is dialled by the pool, one dials in, each through a relay that resets, cuts, silences, slows, slices and
damages connections at random. All outages are shorter than the grace, so that no worker may be lost. From the folder
`tests/`:

    python -m chaos.network --minutes 20 --seed 1
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from chaos.common import Place, Sent, arguments, ran, runs, verdict, watchdog

from distmap import Pool
from distmap.testing.links import DIRECTIONS
from distmap.testing.relay import Relay
from distmap.testing.workers import WorkerProcess

#: Seconds that one call may take; faults included it takes some ten.
DEADLINE = 150.0
#: Most seconds of a fault. Two that meet, and the pauses between two dials, stay well below the grace of 30 s.
LONGEST = 10.0
#: Most seconds for which connections are refused: after 3 s it is known that nobody is there.
LONGEST_REFUSAL = 2.0


# --- faults -----------------------------------------------------------------------------------------------------------


class Nemesis(threading.Thread):
    """Does one thing after the other to a relay, until it is told to stop; leaves the relay in order."""

    def __init__(self, relay: Relay, seed: int, counts: Counter[str]) -> None:
        super().__init__(name="nemesis")
        self._relay = relay
        self._random = random.Random(seed)
        self._counts = counts
        self._over = threading.Event()
        self.error: BaseException | None = None
        self._faults: dict[str, Callable[[], object]] = {
            "reset": relay.reset,
            "cut": self._cut,
            "flap": self._flap,
            "silence": self._silence,
            "one way": self._one_way,
            "cut at byte n": lambda: self._at_byte(lambda n, d: relay.cut_after(n, d)),
            "stall at byte n": lambda: self._at_byte(lambda n, d: relay.stall_after(n, d)),
            "flip": lambda: self._at_byte(lambda n, d: relay.flip(d, n)),
            "slices": lambda: self._shape(slice=self._random.choice((1, 7, 1000))),
            "latency": lambda: self._shape(
                latency=self._random.uniform(0.01, 0.5), jitter=self._random.uniform(0, 0.2)
            ),
            "slow": lambda: self._shape(bandwidth=self._random.choice((12_500, 100_000, 1_000_000))),
        }

    def stop(self) -> None:
        self._over.set()
        self.join(30)

    def run(self) -> None:
        try:
            while not self._over.wait(self._random.expovariate(1 / 0.7)):
                name = self._random.choice(list(self._faults))
                self._counts[name] += 1
                self._faults[name]()
        except BaseException as error:
            self.error = error
        finally:
            self._relay.shape()
            self._relay.speak()
            self._relay.restore()

    def _hold(self, longest: float = LONGEST) -> None:
        # Most are short, some reach the longest.
        self._over.wait(0.1 * (longest / 0.1) ** self._random.random())

    def _cut(self) -> None:
        self._relay.cut()
        self._hold(LONGEST_REFUSAL)
        self._relay.restore()

    def _flap(self) -> None:
        for _ in range(self._random.randint(2, 20)):
            self._relay.reset()
            self._over.wait(self._random.uniform(0, 0.3))

    def _silence(self) -> None:
        self._relay.silence()
        self._hold()
        self._relay.speak()

    def _one_way(self) -> None:
        self._relay.one_way(self._random.choice(DIRECTIONS))
        self._hold()
        self._relay.speak()

    def _shape(self, **how: Any) -> None:
        self._relay.shape(**how)
        self._hold()
        self._relay.shape()

    def _at_byte(self, mark: Callable[[int, Any], threading.Event]) -> None:
        # A mark that is not reached soon lies in wait for the next large message.
        mark(int(4 ** self._random.uniform(0, 9)), self._random.choice(DIRECTIONS)).wait(1.0)
        self._hold()
        self._relay.speak()


# --- calls ------------------------------------------------------------------------------------------------------------


def tiny(path: str, run: int, item: int) -> int:
    ran(path, f"{run}:{item}")
    return item * item


def slow(path: str, run: int, item: int) -> int:
    ran(path, f"{run}:{item}")
    time.sleep(0.02 * (1 + item % 5))
    return -item


def large(path: str, run: int, item: int) -> bytes:
    ran(path, f"{run}:{item}")
    return bytes([item % 251]) * (10_000 + 7919 * (item % 40))


def taking(path: str, run: int, item: bytes) -> int:
    ran(path, f"{run}:{int.from_bytes(item[:4], 'big')}")
    return sum(item)


def raising(path: str, run: int, item: int) -> int:
    ran(path, f"{run}:{item}")
    if item % 10 == 3:
        raise ValueError(item)
    return item


class Calls:
    """Calls of all kinds, each checked: its results, and that every item ran once."""

    def __init__(self, pool: Pool, path: str, rng: random.Random) -> None:
        self._pool = pool
        self._path = path
        self._random = rng
        self._run = itertools.count()
        self._expected: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.items = 0
        self.longest = 0.0
        self.stats: Counter[str] = Counter()

    def one(self) -> None:
        """Run a call of a random kind."""
        kinds = (self.map, self.imap, self.unordered, self.results, self.arguments, self.fold, self.captured,
                 self.batches, self.errors, self.submits, self.together)  # fmt: skip
        kind = self._random.choice(kinds)
        run, began = next(self._run), time.monotonic()
        self.counts[kind.__name__] += 1
        try:
            kind(run)
        except Exception as error:
            self.problems.append(f"call {run} ({kind.__name__}) failed: {type(error).__name__}: {error}")
        self.longest = max(self.longest, time.monotonic() - began)
        if self._pool.last is not None:
            self.stats.update({name: n for name, n in self._pool.last.stats.items() if isinstance(n, int)})

    def items_of(self, run: int, most: int) -> range:
        count = self._random.randint(most // 4, most)
        self._expected.update(f"{run}:{item}" for item in range(count))
        self.items += count
        return range(count)

    def check(self, run: int, found: object, right: object) -> None:
        if found != right:
            self.problems.append(f"call {run} gave wrong results: {str(found)[:200]}")

    def doubled(self) -> None:
        """Compare what ran with what was asked for."""
        seen = runs(self._path)
        if missing := [item for item in self._expected if not seen[item]]:
            self.problems.append(f"{len(missing)} items never ran: {missing[:5]}")
        if more := [item for item in seen if seen[item] > self._expected[item]]:
            self.problems.append(f"{len(more)} items ran more than once: {more[:5]}")

    def map(self, run: int) -> None:
        path, items = self._path, self.items_of(run, 4000)
        self.check(run, self._get(self._pool.map_async(lambda x: tiny(path, run, x), items)), [x * x for x in items])

    def imap(self, run: int) -> None:
        path, items = self._path, self.items_of(run, 200)
        self.check(run, list(self._pool.imap(lambda x: slow(path, run, x), items)), [-x for x in items])

    def unordered(self, run: int) -> None:
        path, items = self._path, self.items_of(run, 200)
        found = sorted(self._pool.imap_unordered(lambda x: slow(path, run, x), items), reverse=True)
        self.check(run, found, [-x for x in items])

    def results(self, run: int) -> None:
        path, items = self._path, self.items_of(run, 40)
        found = self._get(self._pool.map_async(lambda x: large(path, run, x), items))
        self.check(run, found, [bytes([x % 251]) * (10_000 + 7919 * (x % 40)) for x in items])

    def arguments(self, run: int) -> None:
        path, count = self._path, self.items_of(run, 20)
        data = [x.to_bytes(4, "big") + bytes([1]) * 100_000 for x in count]
        found = self._get(self._pool.map_async(lambda x: taking(path, run, x), data))
        self.check(run, found, [sum(x) for x in data])

    def fold(self, run: int) -> None:
        path, items = self._path, self.items_of(run, 2000)
        found = self._pool.map_reduce(lambda x: tiny(path, run, x), items, lambda a, b: a + b, initial=0)
        self.check(run, found, sum(x * x for x in items))

    def captured(self, run: int) -> None:
        path, items, array = self._path, self.items_of(run, 100), self._random.randbytes(1_500_000)
        found = self._get(self._pool.map_async(lambda x: (tiny(path, run, x), array[x])[1], items))
        self.check(run, found, [array[x] for x in items])

    def batches(self, run: int) -> None:
        path, items = self._path, self.items_of(run, 500)
        found = self._pool.map_batches(lambda xs: [tiny(path, run, x) for x in xs], list(items), 10)
        self.check(run, list(found), [x * x for x in items])

    def errors(self, run: int) -> None:
        path, items = self._path, self.items_of(run, 200)
        found = self._get(self._pool.map_async(lambda x: raising(path, run, x), items, on_error="return"))
        self.check(run, [str(x) for x in found], [str(x) for x in items])

    def submits(self, run: int) -> None:
        path, items = self._path, self.items_of(run, 50)
        futures = [self._pool.submit(slow, path, run, x) for x in items]
        self.check(run, [future.result(DEADLINE) for future in futures], [-x for x in items])

    def together(self, run: int) -> None:
        path, items = self._path, self.items_of(run, 300)
        half = len(items) // 2
        jobs = [
            self._pool.map_async(lambda x: slow(path, run, x), items[:half]),
            self._pool.map_async(lambda x: tiny(path, run, x), items[half:]),
        ]
        found = [self._get(job) for job in jobs]
        self.check(run, found, [[-x for x in items[:half]], [x * x for x in items[half:]]])

    def _get(self, job: Any) -> Any:
        return job.result(DEADLINE)


# --- the script -------------------------------------------------------------------------------------------------------


def chaos(seconds: float, seed: int) -> tuple[dict[str, object], list[str]]:
    """Calls under faults for so long: the figures, and what went wrong."""
    rng = random.Random(seed)
    faults: Counter[str] = Counter()
    with Place() as place, Sent() as sent:
        path = str(place.folder / "ran")
        with (
            WorkerProcess("--port", "0", "--slots", "2", "--name", "dialled") as worker,
            Relay.before(worker.url, seed=rng.randrange(2**32)) as first,
            Pool(first.url, listen="wss://127.0.0.1:0", progress=False) as pool,
            Relay.before(pool.url, seed=rng.randrange(2**32)) as second,
            WorkerProcess(second.url, "--slots", "2", "--name", "dialling") as other,
        ):
            pool.wait_for_workers(2, 60)
            began = time.monotonic()
            calls = Calls(pool, path, rng)
            nemeses = [Nemesis(relay, rng.randrange(2**32), faults) for relay in (first, second)]
            for nemesis in nemeses:
                nemesis.start()
            try:
                while not calls.problems and (time.monotonic() - began < seconds or sum(calls.counts.values()) < 3):
                    watchdog(2 * DEADLINE)
                    calls.one()
                    calls.problems += [f"the script failed: {n.error!r}" for n in nemeses if n.error]
            finally:
                for nemesis in nemeses:
                    nemesis.stop()
            watchdog(60)
            calls.doubled()
            problems = calls.problems
            names = Counter(one.name for one in pool.workers)
            if names != Counter(["dialled", "dialling"]):
                problems.append(f"workers were lost: {pool.workers!r}")
            figures: dict[str, object] = {
                "seed": seed,
                "seconds": round(time.monotonic() - began),
                "calls": f"{sum(calls.counts.values())} {dict(calls.counts.most_common())}",
                "items": calls.items,
                "longest call": f"{calls.longest:.1f} s",
                "faults": f"{sum(faults.values())} {dict(faults.most_common())}",
                "connections": first.accepted + second.accepted,
                "bytes passed": sum(first.bytes_passed.values()) + sum(second.bytes_passed.values()),
                "blobs": sent.blobs,
                "counts of the jobs": dict(calls.stats),
            }
            if problems:
                figures["logs"] = "\n" + "\n".join([*worker.stderr[-40:], "---", *other.stderr[-40:]])
        problems += sent.problems(2)
        if left := place.left():
            problems.append(f"left behind: {sorted(left)}")
    return figures, problems


if __name__ == "__main__":
    given = arguments(__doc__).parse_args()
    sys.exit(verdict(*chaos(given.minutes * 60, given.seed)))
