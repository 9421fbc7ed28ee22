"""The scheduler alone: what does a chunk cost it with 10, 100 and 1,000 workers of two slots?

No process, no socket, no clock: a virtual world answers every command at once or after the chunk's (made-up) time.
Only the time inside `Scheduler.handle` counts. Items take 1 ms each, so that chunks hold about 20.
"""

from __future__ import annotations

import gc
import heapq
import time
from random import Random

from common import Report, interleave, options

from distmap.core import events as ev
from distmap.core.scheduler import Scheduler

COUNTS = (10, 100, 1000)
SLOTS = 2
ITEM_SECONDS = 0.001


class World:
    """Slots that take as long as they say, and a reader that always has the next items."""

    def __init__(self, workers: int, items: int, gather: str) -> None:
        self.random = Random(1)
        self.scheduler = Scheduler()
        self.gather = gather
        self.items = items
        self.spent = 0.0
        self.chunks = 0
        self.finished = False
        #: (when, serial, event) to come; per slot, when it is through with what it was given.
        self.coming: list[tuple[float, int, ev.Event]] = []
        self.free: dict[tuple[int, int], float] = {}
        self.serial = 0
        self.stopped: dict[int, int] = {}
        for worker in range(workers):
            self.tell(ev.WorkerJoined(worker, SLOTS, rtt=0.0005), 0.0)

    def tell(self, event: ev.Event, now: float) -> None:
        began = time.perf_counter()
        commands = self.scheduler.handle(event, now)
        self.spent += time.perf_counter() - began
        for command in commands:
            if isinstance(command, ev.Read):
                count = min(command.count, self.items)
                self.items -= count
                self.later(now, ev.ChunkRead(command.job, command.chunk, count, count * 8, not self.items))
            elif isinstance(command, ev.Assign):
                self.chunks += 1
                self.run(command, now)
            elif isinstance(command, ev.Revoke):
                self.stopped[command.attempt] = command.stop
            elif isinstance(command, ev.Deliver) and self.gather != "list":
                self.later(now, ev.Consumed(command.job, command.hi - command.lo, 0))
            elif isinstance(command, ev.Finish):
                self.finished = True

    def later(self, when: float, event: ev.Event) -> None:
        self.serial += 1
        heapq.heappush(self.coming, (when, self.serial, event))

    def run(self, command: ev.Assign, now: float) -> None:
        """The slot runs its chunks one after the other."""
        place = (command.worker, command.slot)
        seconds = ITEM_SECONDS * (command.hi - command.lo) * self.random.uniform(0.7, 1.3)
        self.free[place] = max(now, self.free.get(place, 0.0)) + seconds
        done = ev.AttemptReported(command.attempt, command.lo, command.hi, (), seconds, 8, True)
        self.later(self.free[place], done)

    def play(self) -> float:
        """Seconds inside the scheduler per chunk."""
        self.tell(ev.JobSubmitted(0, ev.JobSpec(size=self.items, gather=self.gather)), 0.0)  # type: ignore[arg-type]
        while self.coming:
            now, _, event = heapq.heappop(self.coming)
            if isinstance(event, ev.AttemptReported):
                # Taken back before it began, or cut: give the rest back.
                stop = max(event.lo, min(event.hi, self.stopped.pop(event.attempt, event.hi)))
                event = ev.AttemptReported(event.attempt, event.lo, stop, (), event.seconds, 8, True)
            self.tell(event, now)
        assert self.finished, "the job did not finish"
        return self.spent / self.chunks


def main() -> None:
    args = options(__doc__ or "", rounds=2, quick_rounds=1)
    report = Report("scheduler", args)
    items = 50_000 if args.quick else 150_000
    for gather in ("list", "ordered"):
        chunks: dict[int, int] = {}

        def round_of(workers: int, gather: str = gather, chunks: dict[int, int] = chunks) -> float:
            gc.collect()
            world = World(workers, items, gather)
            cost = world.play()
            chunks[workers] = world.chunks
            return cost

        contenders = {f"{count} workers": (lambda count=count: round_of(count)) for count in COUNTS}
        medians = report.case(
            f"seconds per chunk, {items:,} items, gather={gather}", interleave(contenders, args.rounds, warm=0)
        )
        report.note(", ".join(f"{count} workers: {chunks[count]:,} chunks" for count in COUNTS))
        least, most = COUNTS[0], COUNTS[-1]
        growth = medians[f"{most} workers"] / medians[f"{least} workers"]
        report.target(f"{gather}: cost with {most:,} workers / cost with {least}", growth, 1.2)
        report.target(f"{gather}: microseconds a chunk with {most:,} workers", medians[f"{most} workers"] * 1e6, 20)
    report.finish()


if __name__ == "__main__":
    main()
