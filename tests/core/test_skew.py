"""Items of very different length, on a virtual clock: who gets what when, without the speed of a machine."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.scheduler import Scheduler

#: Seconds that an event or a command is under way.
WAY = 0.0002


class Play:
    """One job of items of these lengths, on the slots of one worker, which report every 50 ms and after each chunk."""

    def __init__(self, lengths: list[float], slots: int) -> None:
        self.lengths, self.scheduler = lengths, Scheduler()
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.now, self.read, self.serial, self.over = 0.0, 0, 0, False
        self.starts: dict[int, int] = {}
        #: For each slot: [assignment, next offset, end, offset and time of the last report], the first of which runs;
        #: whether an item runs.
        self.queues: list[list[list[Any]]] = [[] for _ in range(slots)]
        self.busy = [False] * slots

    def seconds(self) -> float:
        """How long the job takes."""
        self.tell(ev.WorkerJoined(1, len(self.queues)))
        self.tell(ev.JobSubmitted(1, ev.JobSpec(size=len(self.lengths))))
        while not self.over:
            self.now, _, action = heapq.heappop(self.due)
            action()
        return self.now

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.serial += 1
        heapq.heappush(self.due, (self.now + delay, self.serial, action))

    def tell(self, event: ev.Event) -> None:
        for command in self.scheduler.handle(event, self.now):
            match command:
                case ev.Read(job, chunk, count):
                    count = min(count, len(self.lengths) - self.read)
                    self.starts[chunk], self.read = self.read, self.read + count
                    answer = ev.ChunkRead(job, chunk, count, count, self.read == len(self.lengths))
                    self.after(WAY, lambda answer=answer: self.tell(answer))  # type: ignore[misc]
                case ev.Assign() | ev.Revoke():
                    self.after(WAY, lambda command=command: self.arrive(command))  # type: ignore[misc]
                case ev.Finish():
                    self.over = True
        if (deadline := self.scheduler.deadline()) is not None:
            self.after(max(0.0, deadline - self.now), lambda: self.over or self.tell(ev.Ticked()))  # type: ignore[func-returns-value]

    def arrive(self, command: ev.Assign | ev.Revoke) -> None:
        queue = self.queues[command.slot]
        if isinstance(command, ev.Assign):
            queue.append([command, command.lo, command.hi, command.lo, None])
        for task in queue:
            if isinstance(command, ev.Revoke) and task[0].attempt == command.attempt:
                task[2] = min(task[2], command.stop)
        self.go_on(command.slot)

    def go_on(self, slot: int) -> None:
        """Begin the next item of a slot that runs none, and report the chunks that have ended."""
        queue = self.queues[slot]
        while queue and not self.busy[slot]:
            task = queue[0]
            command, at, end, _, since = task
            task[4] = self.now if since is None else since
            if at >= end:
                queue.pop(0)
                self.report(task, ended=True)
            else:
                self.busy[slot] = True
                self.after(self.lengths[self.starts[command.chunk] + at], lambda: self.item_done(slot))

    def report(self, task: list[Any], *, ended: bool) -> None:
        command, at, _, lo, since = task
        report = ev.AttemptReported(command.attempt, lo, at, (), self.now - since, 8, ended)
        task[3:] = at, self.now
        self.after(WAY, lambda: self.tell(report))

    def item_done(self, slot: int) -> None:
        self.busy[slot] = False
        task = self.queues[slot][0]
        task[1] += 1
        if task[1] < task[2] and self.now - task[4] >= 0.05:
            self.report(task, ended=False)
        self.go_on(slot)


def one_by_one(lengths: list[float], slots: int) -> float:
    """Seconds if each slot that is idle took the next item at once, with no chunks and no messages."""
    ends = [0.0] * slots
    for seconds in lengths:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def skewed(order: str, slots: int) -> list[float]:
    """Log-normal lengths, 10 ms on average, 200 for each slot."""
    rng = random.Random(15)
    drawn = sorted(rng.lognormvariate(0.0, 1.5) for _ in range(200 * slots))
    drawn = [seconds * 2.0 * slots / sum(drawn) for seconds in drawn]
    half = len(drawn) // 2
    pairs = zip(drawn[:half], reversed(drawn[half:]), strict=True)
    return {
        "ascending": drawn,
        "long ones in front": drawn[::-1],
        "alternating": [seconds for pair in pairs for seconds in pair],
    }[order]


@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("order", ["ascending", "long ones in front", "alternating"])
def test_chunks_cost_no_balance(order: str, slots: int) -> None:
    """Items of very different length end nearly as early as if they were handed out one by one at no cost."""
    lengths = skewed(order, slots)
    assert Play(lengths, slots).seconds() < 1.02 * one_by_one(lengths, slots)
