"""The attempts that one member of a foreign engine has."""

from __future__ import annotations

from typing import Any

from distmap.engine.foreign_queue import ForeignAttempt, ForeignQueue, RoundTrips
from distmap.wire.messages import Task


def entry(attempt: int, code: bytes = b"f", start: int = 0) -> ForeignAttempt:
    return ForeignAttempt(Task(0, attempt, code, (), 0, 1, start, 0.0), [])


def take(queue: ForeignQueue, *held_up: int) -> Any:
    taken = queue.take(lambda entry: entry.task.attempt in held_up)
    if taken is None:
        return None
    taken.call = object()  # type: ignore[assignment]
    return taken.task.attempt


def test_what_is_held_up_holds_up_nobody() -> None:
    """The order is kept otherwise, and who was put back comes first."""
    queue = ForeignQueue()
    entries = [entry(number) for number in range(4)]
    for one in entries:
        queue.add(one)
    assert [take(queue, 0), take(queue, 0), take(queue), take(queue), take(queue)] == [1, 2, 0, 3, None]
    queue.put_back(entries[1:3])
    assert [one.task.attempt for one in queue.out()] == [0, 3]
    assert [take(queue), take(queue)] == [1, 2]
    assert queue.forget(entries[0])
    assert not queue.forget(entries[0])
    assert queue.get(0) is None
    assert len(queue) == 3


def test_suspects_go_out_in_halves_and_the_deadly_alone() -> None:
    """Until they have ended; then all may be out again."""
    queue = ForeignQueue()
    entries = [entry(number, start=number) for number in range(4)]
    for one in entries:
        queue.add(one)
        take(queue)
    queue.put_back(entries)
    queue.suspect(entries)
    assert [take(queue), take(queue), take(queue)] == [0, 1, None]
    for one in entries:
        queue.forget(one)
    queue.blame(entries[2].task, 0)
    again, other = entry(5, start=2), entry(6, start=3)
    queue.add(other)
    queue.add(again)
    assert [take(queue), take(queue)] == [5, None]
    queue.forget(again)
    assert take(queue) == 6
    queue.drop(b"f")
    queue.add(entry(7, start=2))
    assert take(queue) == 7
    assert len(queue.clear()) == 2


def test_round_trips_are_told_when_they_change() -> None:
    """The shortest of the last ones counts, and one that may have waited for others counts nothing."""
    trips = RoundTrips()
    assert trips.measured(0.1, 0.0) == 0.1
    assert trips.measured(0.11, 0.0) is None
    assert trips.measured(0.5, 0.3) is None
    assert trips.measured(0.02, 0.0) == 0.02
    for _ in range(7):
        assert trips.measured(0.3, 0.0) is None
    assert trips.measured(0.3, 0.0) == 0.3
