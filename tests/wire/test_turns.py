"""Whose turn it is to have a frame cut."""

from __future__ import annotations

from distmap.wire.streams import Outgoing
from distmap.wire.turns import Turns


def entry(stream: int, size: int) -> Outgoing:
    return Outgoing(stream, b"header", [bytes(size)] if size else [], 100)


def order(turns: Turns) -> list[int]:
    streams = []
    while (one := turns.next(data=True)) is not None:
        streams.append(one.stream)
        one.cut()
        if one.left:
            turns.put_back(one)
    return streams


def test_control_goes_first_and_data_waits_for_credit() -> None:
    """Without credit only messages without parts have a turn."""
    turns = Turns()
    turns.add(entry(1, 50))
    turns.add(entry(2, 0))
    assert turns.waiting(data=False)
    control = turns.next(data=False)
    assert control is not None
    assert control.stream == 2
    assert not turns.waiting(data=False)
    assert turns.next(data=False) is None
    assert turns.waiting(data=True)
    assert order(turns) == [1]


def test_the_oldest_and_the_smallest_take_turns() -> None:
    """A small one does not wait for a large one, which is not starved either."""
    turns = Turns()
    turns.add(entry(1, 400))
    for stream in (2, 3, 4):
        turns.add(entry(stream, 50))
    assert order(turns) == [1, 2, 1, 3, 1, 4, 1, 1]


def test_of_equal_ones_the_first_ends_first() -> None:
    """Equal ones follow each other."""
    turns = Turns()
    for stream in (1, 2, 3):
        turns.add(entry(stream, 250))
    streams = order(turns)
    assert [streams.index(stream) for stream in (1, 2, 3)] == sorted(streams.index(stream) for stream in (1, 2, 3))
    ends = [len(streams) - 1 - streams[::-1].index(stream) for stream in (1, 2, 3)]
    assert ends == sorted(ends)
