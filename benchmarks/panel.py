"""The panel alone: what does it cost the kernel to look at 64 workers, after 10,000 chunks and after 100,000?

A job in the virtual world of `scheduler.py` is stopped in the middle. Then a snapshot is made and drawn again and
again, as a running panel does: ten times a second snapshot, head and bar, four times a second the lanes. What
ipywidgets adds to send a changed part (0.1 to 0.15 ms each) is not in the figures.
"""

from __future__ import annotations

import gc
import heapq
import time

from common import Report, interleave, options
from scheduler import World

from distmap.core import events as ev
from distmap.core.progress import Snapshot
from distmap.views import cards

WORKERS = 64
BARS, LANES = 10, 4


class Half(World):
    """A world that is stopped when so many chunks were run."""

    def play_until(self, chunks: int) -> float:
        """Play on; returns the time at which it was stopped."""
        spec = ev.JobSpec(size=self.items, gather="list", chunksize=1)  # type: ignore[arg-type]
        self.tell(ev.JobSubmitted(0, spec), 0.0)
        now = 0.0
        while self.chunks < chunks:
            now, _, event = heapq.heappop(self.coming)
            self.tell(event, now)
        return now


def each(call: object, times: int) -> float:
    """Seconds of processor time for one of so many calls."""
    assert callable(call)
    gc.collect()
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times


def main() -> None:
    args = options(__doc__ or "", rounds=7, quick_rounds=3)
    report = Report("panel", args)
    times = 20 if args.quick else 100
    for chunks in (10_000,) if args.quick else (10_000, 100_000):
        world = Half(WORKERS, 2 * chunks, "list")
        now = world.play_until(chunks)
        snapshot: Snapshot = world.scheduler.snapshot(0, now)
        parts = {
            "snapshot": lambda world=world, now=now: world.scheduler.snapshot(0, now),
            "head and bar": lambda s=snapshot: (cards.head_html("score", s.state), cards.bar_html(s)),
            "lanes": lambda s=snapshot: cards.lanes_html(s),
            "whole card": lambda s=snapshot: cards.card_html("score", s),
        }
        rounds = {name: (lambda call=call: each(call, times)) for name, call in parts.items()}
        name = f"{WORKERS} workers, {chunks:,} chunks"
        medians = report.case(f"{name}: seconds for one", interleave(rounds, args.rounds))
        blocks = sum(len(lane.blocks) for lane in snapshot.lanes)
        lanes, card = len(cards.lanes_html(snapshot).encode()), len(cards.card_html("score", snapshot).encode())
        report.note(f"{blocks:,} blocks kept; lanes {lanes:,} bytes, whole card {card:,} bytes")
        report.target(f"{name}: a snapshot in ms", 1000 * medians["snapshot"], 1.0)
        share = BARS * (medians["snapshot"] + medians["head and bar"]) + LANES * medians["lanes"]
        report.target(f"{name}: % of a core, {BARS} bars and {LANES} lanes a second", 100 * share, 2.0)
        report.target(f"{name}: kB of lanes", lanes / 1000, 8.0)
    report.finish()


if __name__ == "__main__":
    main()
