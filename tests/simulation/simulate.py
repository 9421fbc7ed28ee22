"""Plays seeded worlds of the scheduler, its workers and the network between them, on a virtual clock.

`run(seed)` plays one world to its end, and raises Broken if a promise is broken (`oracle.py`). Each seed has a random
part of the faults (swarm testing). After a while no new faults happen, and then every job must end. The same seed gives
the same log, byte for byte. One seed in four has a network (`net_world.py`); the others have workers whose messages
always arrive, which is quicker.

From the folder `tests/`, `python -m simulation.simulate --seeds 20000 --jobs 2` plays many worlds, and prints figures.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from simulation.net_world import NetWorld
from simulation.sim_jobs import World
from simulation.sim_world import Log

__all__ = ["World", "main", "run", "world_of"]

#: Worlds that a process plays before it says how far it is.
BATCH = 250


def has_network(seed: int) -> bool:
    """Whether the world of this seed has a network."""
    return seed % 4 == 3


def world_of(seed: int, *, keep: bool = False) -> World:
    """The world of this seed, before it is played."""
    return NetWorld(seed, keep=keep) if has_network(seed) else World(seed, keep=keep)


def run(seed: int, *, keep: bool = False) -> Log:
    """Play the world of this seed; raises Broken, with the seed in its text, if a promise was broken.

    Args:
        seed: The world depends on nothing else.
        keep: Keep the lines of the log (slower).
    """
    world = world_of(seed, keep=keep)
    try:
        return world.play()
    except Exception as error:
        error.add_note(f"seed {seed}, at {world.now:.6f}, faults: {', '.join(world.log.faults)}")
        raise


@dataclass
class Figures:
    """What many worlds were like."""

    seeds: int = 0
    networks: int = 0
    events: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    #: Seeds that broke a promise, each with what was broken.
    broken: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Add those of other worlds."""
        self.seeds += other.seeds
        self.networks += other.networks
        self.events += other.events
        self.seconds += other.seconds
        self.counts.update(other.counts)
        self.mended.update(other.mended)
        self.broken += other.broken

    def __str__(self) -> str:
        lines = [
            f"{self.seeds} seeds ({self.networks} with a network), {self.events} events of the scheduler, "
            f"{self.seconds / 3600:.1f} simulated hours, {self.counts.total()} faults, {len(self.broken)} violations"
        ]
        for title, counted in (("faults", self.counts), ("what was done about them", self.mended)):
            lines += [f"{title}:", *(f"{count:>12} {name}" for name, count in sorted(counted.items()))]
        return "\n".join(lines)


def play(seeds: range) -> Figures:
    """Play these worlds."""
    figures = Figures()
    for seed in seeds:
        figures.seeds += 1
        figures.networks += has_network(seed)
        try:
            log = run(seed)
        except Exception as error:
            notes = "\n  ".join(getattr(error, "__notes__", ()))
            figures.broken.append(f"seed {seed} failed: {type(error).__name__}: {error}\n  {notes}")
        else:
            figures.events += log.events
            figures.seconds += log.ended
            figures.counts.update(log.counts)
            figures.mended.update(log.mended)
    return figures


def batches(seeds: range, jobs: int) -> Iterator[Figures]:
    """Play the worlds in parallel processes; figures of a batch each, in order."""
    parts = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
    if jobs == 1:
        yield from map(play, parts)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(play, parts)


def main(argv: list[str] | None = None) -> int:
    """Play many seeds, and print what was broken, and figures."""
    parser = argparse.ArgumentParser(prog="python -m simulation.simulate", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that play them (default 1)")
    parser.add_argument("--show", action="store_true", help="print the log of the first seed and play no other")
    args = parser.parse_args(argv)
    if args.show:
        world = world_of(args.first, keep=True)
        try:
            world.play()
        finally:
            print(world.log.text)
        return 0
    begun = time.monotonic()
    figures = Figures()
    for some in batches(range(args.first, args.first + args.seeds), args.jobs):
        for text in some.broken:
            print(
                text,
                f"see it: python -m simulation.simulate --first {text.split()[1]} --show",
                sep="\n",
                file=sys.stderr,
            )
        figures.add(some)
        if figures.seeds % (100 * BATCH) == 0:
            print(f"{figures.seeds} seeds, {len(figures.broken)} violations", file=sys.stderr)
    seconds = time.monotonic() - begun
    print(figures)
    print(f"{seconds:.1f} s, {1000 * seconds / args.seeds:.1f} ms per seed")
    return 1 if figures.broken else 0


if __name__ == "__main__":
    sys.exit(main())
