"""A worker on another machine, over a link that loses, delays and drops packets: real TCP, in network namespaces.

    slow    latency 1 s each way, jitter, 5 % loss, 100 kbit/s: the map completes, nobody is taken for dead
    blip    all packets are dropped for a while: nothing runs twice, nothing is sent again
    long    the same for longer than the grace: the worker is lost, its late results are refused, it joins anew
    vanish  all packets are dropped for ever: the worker is lost after the grace, and its work is done elsewhere

From the folder `tests/`:  python -m chaos.lossy slow blip long vanish
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from chaos.packets import FarWorker, in_namespace
from chaos.shortened import shorten

SCENES = ("slow", "blip", "long", "vanish")


def slow(scene: Scene) -> None:
    """A map over a bad link."""
    given, link = scene.given, scene.worker.link
    link.latency, link.jitter, link.loss, link.rate = given.latency, given.latency / 4, 0.05, given.rate
    scene.play([scene.worker.url], lost=0)


def blip(scene: Scene) -> None:
    """The link is down for a third of the grace in the middle of a map."""
    scene.play([scene.worker.url], lost=0, down=scene.given.grace / 3)


def long(scene: Scene) -> None:
    """The link is down for longer than the grace in the middle of a map that a slot of this machine can end."""
    scene.play([scene.worker.url, 1], lost=1, down=scene.given.grace * 1.5, again=True)


def vanish(scene: Scene) -> None:
    """The link is down for ever in the middle of a map that a slot of this machine can end."""
    scene.play([scene.worker.url, 1], lost=1, down=float("inf"))


class Scene:
    """A worker behind a link, and what went wrong with it."""

    def __init__(self, given: argparse.Namespace, worker: FarWorker, path: str) -> None:
        self.given = given
        self.worker = worker
        self.problems: list[str] = []
        self._path = path

    def play(self, where: list[str | int], *, lost: int, down: float = 0, again: bool = False) -> None:
        """A map while the link is down for so long; so many workers are lost in it, and come `again`."""
        from chaos.common import Sent, ran, runs

        from distmap import Pool

        path, count = self._path, self.given.items

        def work(item: int) -> int:
            ran(path, item)
            time.sleep(0.05)
            return item * item

        with Sent() as sent, Pool(where, progress=False, connect_timeout=120) as pool:
            began = time.monotonic()
            pool.wait_for_workers(len(where), 120)
            joined = time.monotonic()
            job = pool.map_async(work, range(count), chunksize=2)
            if down:
                self._break(path, down, job.done)
            found = job.result(200)
            link, losses = self.worker.link, job.stats["losses"]
            twice = sum(runs(path).values()) - count
            print(
                f"joined after {joined - began:.1f} s, map {time.monotonic() - joined:.1f} s; "
                f"{link.carried} packets, {link.dropped} dropped; {twice} items ran twice, {losses} workers lost"
            )
            link.down = False  # or the goodbye takes long
            if again:
                pool.wait_for_workers(len(where), 60)
                if pool.map(abs, range(-100, 0), chunksize=1) != list(range(100, 0, -1)):
                    self.problems.append("wrong results afterwards")
        if found != [item * item for item in range(count)]:
            self.problems.append("wrong results")
        if losses != lost:
            self.problems.append(f"{losses} workers were lost, {lost} expected")
        if not lost:
            self.problems += sent.problems(1) + [f"{twice} items ran twice"] * bool(twice)

    def _break(self, path: str, seconds: float, over: Callable[[], bool]) -> None:
        from chaos.common import runs

        while sum(runs(path).values()) < self.given.items // 4:
            time.sleep(0.01)
        end = time.monotonic() + seconds
        self.worker.link.down = True
        while time.monotonic() < end and not (over() and seconds > 10 * self.given.grace):
            time.sleep(0.05)
        self.worker.link.down = seconds > 10 * self.given.grace


def run(scene: str, given: argparse.Namespace) -> list[str]:
    from chaos.common import Place, watchdog

    watchdog(300)
    with Place() as place:
        with FarWorker("--slots", "2", seed=given.seed) as worker:
            playing = Scene(given, worker, str(place.folder / "ran"))
            globals()[scene](playing)
        return [*playing.problems, *(f"left behind: {left}" for left in place.left())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", choices=SCENES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--latency", type=float, default=1.0, help="of slow, seconds each way")
    parser.add_argument("--rate", type=float, default=12_500, help="of slow, bytes per second")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds until a silent worker is lost")
    given = parser.parse_args()
    in_namespace("chaos.lossy", sys.argv[1:])
    share = given.grace / 30
    shorten(reconnect_grace=given.grace, suspect_after=10 * share, beat_every=5 * share)
    wrong = 0
    for scene in given.scenes:
        problems = run(scene, given)
        print(f"{scene}: {'; '.join(problems) or 'ok'}", flush=True)
        wrong += bool(problems)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
