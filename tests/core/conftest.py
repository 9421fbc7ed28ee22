"""A harness that sends events to a scheduler by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from distmap.core import events as ev
from distmap.core.limits import LIMITS, Limits
from distmap.core.scheduler import Scheduler
from distmap.core.state import SchedulerState

C = TypeVar("C")


class Harness:
    """Sends events to a scheduler, and keeps the commands and the items that the inputs still have."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.scheduler = Scheduler(limits)
        self.now = 0.0
        self.commands: list[ev.Command] = []
        #: Items that the input of a job still holds; not of one without a size, which goes on and on.
        self.left: dict[int, int] = {}

    @property
    def state(self) -> SchedulerState:
        """What the scheduler remembers, for what no command and no snapshot shows."""
        return self.scheduler._state

    def send(self, *events: ev.Event, after: float = 0.0) -> list[Any]:
        """Send events; return all commands that follow."""
        self.now += after
        out: list[ev.Command] = []
        for event in events:
            out += self.scheduler.handle(event, self.now)
        self.commands += out
        return out

    def job(self, job: int = 1, feed: bool = True, **spec: Any) -> list[ev.Assign]:
        """Submit a job and answer its Reads; return the assignments."""
        if spec.get("size") is not None:
            self.left[job] = spec["size"]
        out = self.send(ev.JobSubmitted(job, ev.JobSpec(**spec)))
        return self.feed(out) if feed else pick(out, ev.Assign)

    def feed(self, commands: list[Any], nbytes: int = 8) -> list[ev.Assign]:
        """Answer every Read with just what it asks for, as long as there is so much; return the assignments."""
        assigns = []
        todo = list(commands)
        while todo:
            command = todo.pop(0)
            if isinstance(command, ev.Read):
                left = self.left.get(command.job)
                count = command.count if left is None else min(command.count, left)
                if left is not None:
                    self.left[command.job] = left - count
                todo += self.send(ev.ChunkRead(command.job, command.chunk, count, nbytes * count, count == left))
            elif isinstance(command, ev.Assign):
                assigns.append(command)
        return assigns

    def report(
        self,
        assign: ev.Assign,
        lo: int | None = None,
        hi: int | None = None,
        failed: tuple[int, ...] = (),
        seconds: float = 0.01,
        nbytes: int = 8,
        ended: bool = True,
    ) -> list[Any]:
        """Report an assignment, the whole of it by default."""
        lo = assign.lo if lo is None else lo
        hi = assign.hi if hi is None else hi
        return self.send(ev.AttemptReported(assign.attempt, lo, hi, failed, seconds, nbytes, ended))

    def finish(self, assigns: list[ev.Assign], job: int | None = None) -> None:
        """Report everything that is assigned and feed everything that is read, to the end."""
        todo = list(assigns)
        while todo:
            assign = todo.pop(0)
            if job is None or assign.job == job:
                todo += self.feed(self.report(assign))

    def snapshot(self, job: int = 1) -> Any:
        return self.scheduler.snapshot(job, self.now)


def pick(commands: list[Any], kind: type[C]) -> list[C]:
    return [command for command in commands if isinstance(command, kind)]


@pytest.fixture
def harness() -> Harness:
    """A scheduler with the usual limits, no worker and no job."""
    return Harness()


@pytest.fixture
def make_harness() -> type[Harness]:
    """For other limits."""
    return Harness


@pytest.fixture(name="pick")
def pick_fixture() -> Callable[[list[Any], type[C]], list[C]]:
    """Pick the commands of one kind."""
    return pick
