"""Which message waits for which."""

from __future__ import annotations

import random

import pytest

from distmap.wire.messages import (
    Beat,
    Bye,
    Died,
    Draining,
    Drop,
    Interrupt,
    Kill,
    Message,
    Output,
    Put,
    Ready,
    Refused,
    Renew,
    Report,
    Revoke,
    Task,
)
from distmap.wire.order import Order

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def task(slot: int, attempt: int, code: bytes = A, *needs: bytes) -> Task:
    return Task(slot, attempt, code, needs, 0, 1, 0, 0.0)


class Desk:
    """An Order whose entries are numbered messages, and which notes who became ready."""

    def __init__(self, *messages: Message) -> None:
        self.ready: list[int] = []
        self.order: Order[int] = Order(self.ready.append)
        self.count = 0
        self.finished: set[int] = set()
        for message in messages:
            self.add(message)

    def add(self, message: Message) -> None:
        if isinstance(message, Bye):
            self.order.add_last(self.count)
        else:
            self.order.add(self.count, message)
        self.count += 1

    def done(self, *entries: int) -> list[int]:
        """Finish entries; gives who became ready by it."""
        before = len(self.ready)
        for entry in entries:
            self.order.done(entry)
            self.finished.add(entry)
        return self.ready[before:]


REPORT = Report(0, 1, 0, 1, 0.0, True, ())
OUTPUT = Output(0, 1, 0, ((0, 0, 5),))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Put(A, "code"), task(0, 1, A)),
        (Put(B, "value"), task(0, 1, A, B)),
        (Put(A, "code"), Drop(A)),
        (Drop(A), Put(A, "code")),
        (Drop(A), task(0, 1, A)),
        (task(0, 1, A), Drop(A)),
        (task(0, 1, A, B), Drop(B)),
        (task(0, 1), task(0, 2)),
        (task(0, 1), Revoke(0, 1, 0)),
        (task(0, 1), Interrupt(0, 1)),
        (task(0, 1), Kill(0)),
        (Renew(0), task(0, 1)),
        (Revoke(0, 1, 3), Interrupt(0, 1)),
        (REPORT, REPORT),
        (OUTPUT, REPORT),
        (REPORT, OUTPUT),
        (OUTPUT, OUTPUT),
        (OUTPUT, Died(0, 1, 0, "died", "")),
        (REPORT, Died(0, 1, 0, "died", "")),
        (Died(0, 1, 0, "died", ""), Ready(0)),
        (Refused(0, 1), Ready(0)),
        (Put(A, "code"), Bye("")),
        (REPORT, Bye("")),
    ],
    ids=lambda message: type(message).__name__,
)
def test_follows(first: Message, second: Message) -> None:
    """What means the first message does not begin before it is done."""
    desk = Desk(first, second)
    assert desk.ready == [0]
    assert desk.order.unfinished == 2
    assert desk.done(0) == [1]
    assert desk.done(1) == []
    assert desk.order.unfinished == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Put(A, "code"), task(0, 1, B)),
        (Put(A, "code"), Put(B, "code")),
        (task(0, 1, A), task(1, 2, A)),
        (task(0, 1), Revoke(0, 2, 0)),
        (task(0, 1), Interrupt(0, 2)),
        (task(0, 1), Kill(1)),
        (REPORT, Report(1, 1, 0, 1, 0.0, True, ())),
        (REPORT, Beat(0.0, 0.0, ())),
        (OUTPUT, Output(1, 2, 0, ())),
        (Put(A, "code"), Draining()),
        (task(0, 1, A), Drop(B)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_overtakes(first: Message, second: Message) -> None:
    """What does not mean the first message is ready at once."""
    assert Desk(first, second).ready == [0, 1]


def test_tasks_share_what_they_read() -> None:
    """Tasks of one function do not wait for each other; its Drop waits for all of them."""
    desk = Desk(Put(A, "code"), task(0, 1, A), task(1, 2, A, A), Drop(A), Put(A, "code"))
    assert desk.done(0) == [1, 2]
    assert desk.done(2) == []
    assert desk.done(1) == [3]
    assert desk.done(3) == [4]


def test_a_task_waits_for_everything_it_names() -> None:
    """Code, two values and the slot's earlier task: ready only after the last of them."""
    desk = Desk(Put(A, "code"), Put(B, "value"), Put(C, "modules"), task(0, 1, B), task(0, 2, A, B, C))
    assert desk.ready == [0, 1, 2]
    assert desk.done(2, 0) == []
    assert desk.done(1) == [3]
    assert desk.done(3) == [4]


def test_bye_waits_for_all() -> None:
    """Bye comes after everything, and at once when there is nothing."""
    assert Desk(Bye("")).ready == [0]
    desk = Desk(Put(A, "code"), task(0, 1, A), Beat(0.0, 0.0, ()), Bye(""))
    assert desk.done(2, 0) == [1]
    assert desk.done(1) == [3]


def test_nothing_is_kept_of_what_is_done() -> None:
    """Random traffic: everything becomes ready exactly once, and the same keys can be used again afterwards."""
    chance = random.Random(2)
    desk = Desk()
    digests = [A, B, C]
    for _ in range(2000):
        kind = chance.randrange(6)
        slot, attempt, digest = chance.randrange(3), chance.randrange(5), chance.choice(digests)
        desk.add(
            [
                Put(digest, "code"),
                Drop(digest),
                task(slot, attempt, digest, chance.choice(digests)),
                Interrupt(slot, attempt),
                Kill(slot),
                Beat(0.0, 0.0, ()),
            ][kind]
        )
        if chance.random() < 0.9:
            desk.done(chance.choice([entry for entry in desk.ready if entry not in desk.finished]))
    while desk.order.unfinished:
        desk.done(next(entry for entry in desk.ready if entry not in desk.finished))
    assert sorted(desk.ready) == list(range(desk.count))
    desk.add(Drop(A))
    desk.add(Kill(0))
    assert desk.ready[-2:] == [desk.count - 2, desk.count - 1]
