"""One running map, and a connection that fails at byte n, for every n: cut, stalled, reset, or with one bit changed.

For each n the connection of a worker is reset while a short map runs, and the next one fails after n bytes of one
direction: in TLS, in the proof of the token, in what resumes the session, or in the map. Every result must be right,
and every item must have run once. From the folder `tests/`:

    python -m chaos.cuts --minutes 20 --seed 1      # at random n
    python -m chaos.cuts --all                      # at every n, for hours
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator

from chaos.common import Place, Sent, arguments, ran, runs, verdict, watchdog

from distmap import Pool
from distmap.testing.links import DIRECTIONS, Direction
from distmap.testing.relay import Relay
from distmap.testing.workers import WorkerProcess

KINDS = ("cut", "stall, then reset", "stall, then go on", "flip")
#: Seconds that a call may take.
DEADLINE = 60.0
ITEMS = 20


class Cuts:
    """A pool with one worker behind a relay, and maps over it whose connection fails."""

    def __init__(self, pool: Pool, relay: Relay, path: str) -> None:
        self._pool = pool
        self._relay = relay
        self._path = path
        self._run = itertools.count()
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.longest = 0.0

    def size(self) -> dict[Direction, int]:
        """Bytes of both directions that a new connection and a map take."""
        before = self._relay.bytes_passed
        self._map("", 0, DIRECTIONS[0])
        after = self._relay.bytes_passed
        return {direction: after[direction] - before[direction] for direction in DIRECTIONS}

    def one(self, kind: str, at: int, direction: Direction) -> None:
        """A map whose next connection fails at this byte."""
        began = time.monotonic()
        self._map(kind, at, direction)
        self.longest = max(self.longest, time.monotonic() - began)

    def _map(self, kind: str, at: int, direction: Direction) -> None:
        run, path, relay = next(self._run), self._path, self._relay

        def work(item: int) -> bytes:
            ran(path, f"{run}:{item}")
            return bytes([item]) * 100

        job = self._pool.map_async(work, range(ITEMS), chunksize=2)
        # The reset comes first: what the old connection carries does not count.
        relay.reset()
        if kind == "flip":
            happened = relay.flip(direction, at)
        elif kind == "cut":
            happened = relay.cut_after(at, direction)
        elif kind:
            happened = relay.stall_after(at, direction)
        if kind.startswith("stall") and happened.wait(0.5):
            if kind.endswith("reset"):
                relay.reset()
            relay.speak()
        try:
            found = job.result(DEADLINE)
        except Exception as error:
            self.problems.append(f"{kind} at {at} {direction}: {type(error).__name__}: {error}")
            return
        if found != [bytes([item]) * 100 for item in range(ITEMS)]:
            self.problems.append(f"{kind} at {at} {direction}: wrong results")
        if kind:
            reached = happened.wait(0)
            self.counts[kind if reached else f"{kind} (not reached)"] += 1
            if not reached:  # it must not lie in wait for the next one
                relay.forget()

    def doubled(self) -> None:
        """Compare what ran with what was asked for."""
        seen = runs(self._path)
        expected = {f"{run}:{item}" for run in range(next(self._run)) for item in range(ITEMS)}
        if wrong := [item for item in expected | set(seen) if seen[item] != (item in expected)]:
            self.problems.append(f"{len(wrong)} items did not run once: {sorted(wrong)[:5]}")


def places(size: dict[Direction, int], every: bool, rng: random.Random) -> Iterator[tuple[str, int, Direction]]:
    """Which fault comes at which byte: all of them, or some at random for ever."""
    if every:
        for direction in DIRECTIONS:
            for at, kind in itertools.product(range(size[direction]), KINDS):
                yield kind, at, direction
    while not every:
        direction = rng.choice(DIRECTIONS)
        yield rng.choice(KINDS), rng.randrange(size[direction]), direction


def chaos(seconds: float, seed: int, every: bool = False) -> tuple[dict[str, object], list[str]]:
    """Maps whose connection fails, for so long or at all bytes: the figures, and what went wrong."""
    with Place() as place, Sent() as sent:
        with (
            WorkerProcess("--port", "0", "--slots", "2") as worker,
            Relay.before(worker.url, seed=seed) as relay,
            Pool(relay.url, progress=False) as pool,
        ):
            watchdog(2 * DEADLINE)
            pool.wait_for_workers(1, 60)
            began = time.monotonic()
            cuts = Cuts(pool, relay, str(place.folder / "ran"))
            size = cuts.size()
            for kind, at, direction in places(size, every, random.Random(seed)):
                enough = not every and sum(cuts.counts.values()) >= 10 and time.monotonic() - began > seconds
                if cuts.problems or enough:
                    break
                watchdog(2 * DEADLINE)
                cuts.one(kind, at, direction)
            cuts.doubled()
            problems = cuts.problems
            figures: dict[str, object] = {
                "seed": seed,
                "seconds": round(time.monotonic() - began),
                "bytes of a connection and a map": size,
                "faults": f"{sum(cuts.counts.values())} {dict(cuts.counts.most_common())}",
                "longest call": f"{cuts.longest:.2f} s",
                "connections": relay.accepted,
            }
            if problems:
                figures["log of the worker"] = "\n" + "\n".join(worker.stderr[-40:])
        problems += sent.problems(1)
        if left := place.left():
            problems.append(f"left behind: {sorted(left)}")
    return figures, problems


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--all", action="store_true", help="at every byte, in order, however long it takes")
    given = parser.parse_args()
    sys.exit(verdict(*chaos(given.minutes * 60, given.seed, given.all)))
