"""Order of results."""

from __future__ import annotations

from itertools import permutations

import pytest

from distmap.core.gather import Accepted, InOrder, Unordered

RUNS = [(0, Accepted(0, 0, 2, 5)), (2, Accepted(0, 2, 3, 6, "poison")), (3, Accepted(1, 0, 4, 7))]


def test_as_landed_lets_everything_through() -> None:
    """Nothing waits."""
    gather = Unordered()
    assert gather.accept(9, RUNS[2][1]) == [RUNS[2][1]]
    assert gather.drain() == []


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_in_order_whatever_lands_first(order: tuple[int, ...]) -> None:
    """All goes out in input order, as soon as the gap before it is closed."""
    gather = InOrder()
    out = [accepted for place in order for accepted in gather.accept(*RUNS[place])]
    assert out == [accepted for _, accepted in RUNS]
    assert gather.next == 7
    assert not gather.held


def test_drain_gives_up_what_waits() -> None:
    """What cannot go out any more is handed back, in order."""
    gather = InOrder()
    gather.accept(*RUNS[2])
    gather.accept(*RUNS[1])
    assert gather.drain() == [RUNS[1][1], RUNS[2][1]]
    assert gather.drain() == []


def test_an_item_lands_once() -> None:
    """Landing twice is an error of the caller and is noticed, waiting or gone."""
    gather = InOrder()
    gather.accept(*RUNS[2])
    with pytest.raises(AssertionError):
        gather.accept(*RUNS[2])
    gather.accept(*RUNS[0])
    with pytest.raises(AssertionError):
        gather.accept(*RUNS[0])
