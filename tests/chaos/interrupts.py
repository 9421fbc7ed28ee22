"""SIGINT at random instants of calls: as a pool dials, as a call sends, waits, reads, folds, or hands over results.

Each time the prompt must be back within 6 s, the pool must work at once, and 10 s later nothing of the call may run
any more, on this machine or on the worker. At the end nothing may be left behind.

    cd tests && python -m chaos.interrupts --instants 300 --seed 1
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chaos.common import Place, arguments, verdict, watchdog

from distmap import Pool
from distmap.testing.workers import WorkerProcess

#: Seconds until the prompt is back, until nothing of the call runs, and in which a short call must succeed.
PROMPT, QUIET, USABLE = 6.0, 10.0, 20.0


def note(path: str, line: str) -> None:
    """Write a line, whatever interrupts that."""
    while True:
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(file, f"{line}\n".encode())
            os.close(file)
            return
        except KeyboardInterrupt:
            continue


def work(path: str, run: int, seconds: float, item: Any) -> Any:
    """An item that tells when it begins and when it is over."""
    me = f"{run} {os.getpid()} {time.monotonic_ns()}"
    note(path, f"began {me}")
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.005)
        return item
    finally:
        note(path, f"over {me}")


def running(path: str) -> set[str]:
    """Items that began, are not over, and whose process lives."""
    seen = Counter[str]()
    with contextlib.suppress(FileNotFoundError):
        for line in Path(path).read_text().splitlines():
            word, _, me = line.partition(" ")
            seen[me] += 1 if word == "began" else -1
    return {me for me, count in seen.items() if count > 0 and Path(f"/proc/{me.split()[1]}").exists()}


class Calls:
    """Calls of all kinds, each of them too long to end by itself before it is interrupted."""

    def __init__(self, pool: Pool, url: str, path: str, rng: random.Random) -> None:
        self._pool, self._url, self._path, self._random = pool, url, path, rng
        self._run = itertools.count()

    def all(self) -> dict[str, Callable[[], object]]:
        return {
            "dial": self._dial,
            "map": self._map,
            "tiny items": self._tiny,
            "large items": self._large,
            "large results": self._results,
            "imap": self._imap,
            "slow input": self._input,
            "fold": self._fold,
            "submit": self._submit,
            "batches": self._batches,
        }

    def _fn(self, seconds: float) -> Callable[[Any], Any]:
        path, run = self._path, next(self._run)
        return lambda item: work(path, run, seconds, item)

    def _dial(self) -> object:
        with Pool([1, self._url], progress=False) as pool:
            return pool.map(self._fn(0.05), range(400), chunksize=1)

    def _map(self) -> object:
        return self._pool.map(self._fn(self._random.choice((0.02, 0.3, 60.0))), range(2000))

    def _tiny(self) -> object:
        return [self._pool.map(lambda item: item, range(300_000)) for _ in range(50)]

    def _large(self) -> object:
        return self._pool.map(self._fn(0.05), [bytes(1_000_000) for _ in range(300)])

    def _results(self) -> object:
        return self._pool.map(lambda item: bytes(2_000_000), range(5_000))

    def _imap(self) -> object:
        return [time.sleep(0.01) for _ in self._pool.imap(self._fn(0.02), itertools.count())]

    def _input(self) -> object:
        def items() -> Iterator[int]:
            for item in itertools.count():
                time.sleep(0.02)
                yield item

        return self._pool.map(self._fn(0.01), items())

    def _fold(self) -> object:
        def slowly(a: int, b: int) -> int:
            time.sleep(0.01)
            return a + b

        return self._pool.map_reduce(self._fn(0.001), range(5_000), slowly, initial=0)

    def _submit(self) -> object:
        return [future.result() for future in [self._pool.submit(self._fn(0.05), item) for item in range(800)]]

    def _batches(self) -> object:
        return self._pool.map_batches(self._fn(0.1), list(range(4_000)), 5)


#: Set when Python swallowed an interrupt, as it does in finalizers and callbacks of weak references.
swallowed = threading.Event()


def watch_swallowed(how: Any) -> None:
    """The hook for exceptions that nobody can catch."""
    if how.exc_type is KeyboardInterrupt:
        swallowed.set()
    else:
        sys.__unraisablehook__(how)


def interrupted(call: Callable[[], object], delay: float) -> float:
    """Run a call, interrupt it after `delay` seconds; seconds until the prompt was back.

    Where Python swallows the interrupt it is sent again, as a person would press Ctrl-C again.
    """
    sent: list[float] = []
    back = threading.Event()

    def send() -> None:
        time.sleep(delay)
        while not back.is_set():
            swallowed.clear()
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
            while not back.wait(0.05) and not swallowed.is_set():
                pass

    sender = threading.Thread(target=send, name="sender", daemon=True)
    try:
        sender.start()
        call()
        while True:  # it was over before
            time.sleep(0.01)
    except KeyboardInterrupt:
        back.set()
        return time.monotonic() - sent[-1]


def chaos(
    instants: int, seconds: float, seed: int, only: list[str] | None = None
) -> tuple[dict[str, object], list[str]]:
    """So many interrupts, or as many as there is time for: the figures, and what went wrong."""
    rng = random.Random(seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = watch_swallowed
    problems: list[str] = []
    counts: Counter[str] = Counter()
    longest, slowest, quietest = 0.0, 0.0, 0.0
    began = time.monotonic()
    with Place() as place:
        path = str(place.folder / "ran")
        with (
            WorkerProcess("--port", "0", "--slots", "2", "--name", "one") as one,
            WorkerProcess("--port", "0", "--slots", "1", "--name", "two") as two,
            Pool([2, one.url], progress=False) as pool,
        ):
            pool.wait_for_workers(2, 30)
            kinds = Calls(pool, two.url, path, rng).all()
            names = [name for name in only or kinds for _ in range(3 if name == "dial" else 1)]
            while sum(counts.values()) < instants and time.monotonic() - began < seconds and not problems:
                watchdog(120)
                kind = rng.choice(names)
                delay = rng.choice((0.0, rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.5), rng.uniform(0.0, 1.5)))
                counts[kind] += 1
                took = interrupted(kinds[kind], delay)
                longest = max(longest, took)
                if took > PROMPT:
                    problems.append(f"{kind}, interrupted after {delay:.4f} s: the prompt was back after {took:.1f} s")
                begun = time.monotonic()
                try:
                    found = pool.map_async(abs, range(-20, 0)).result(USABLE)
                    if found != list(range(20, 0, -1)):
                        problems.append(f"{kind}, interrupted after {delay:.4f} s: then a map gave {found}")
                except Exception as error:
                    problems.append(f"{kind}, interrupted after {delay:.4f} s: then a map raised {error!r}")
                slowest = max(slowest, time.monotonic() - begun)
                while (still := running(path)) and time.monotonic() - begun < QUIET:
                    time.sleep(0.02)
                quietest = max(quietest, time.monotonic() - begun)
                if still:
                    problems.append(f"{kind}, interrupted after {delay:.4f} s: still runs {QUIET:g} s later: {still}")
                else:
                    Path(path).unlink(missing_ok=True)
            watchdog(60)
        if left := place.left():
            problems.append(f"left behind: {sorted(left)}")
    figures: dict[str, object] = {
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "interrupts": f"{sum(counts.values())} {dict(counts.most_common())}",
        "prompt back after at most": f"{longest:.2f} s",
        "next call took at most": f"{slowest:.2f} s",
        "quiet after at most": f"{quietest:.2f} s",
        "left behind": len(left),
    }
    return figures, problems


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--instants", type=int, default=300, help="how many interrupts, if there is time (%(default)s)")
    parser.add_argument("--only", action="append", metavar="KIND", help="only calls of this kind; may be repeated")
    given = parser.parse_args()
    sys.exit(verdict(*chaos(given.instants, given.minutes * 60, given.seed, given.only)))
