"""Sizes of chunks."""

from __future__ import annotations

from functools import partial

import pytest

from distmap.core.chunks import ItemTime, chunk_size, cut, seconds_of_work, unmeasured_size
from distmap.core.limits import LIMITS

USUAL = {"item_time": 0.001, "largest": 1000, "left": None, "item_bytes": 0.0}


def want(rtt: float = 0.0, ahead: float = 0.0, dispatch: float = 0.0, slots: int = 2, **changes: object) -> int:
    aim, floor = seconds_of_work(LIMITS, rtt, ahead, dispatch, slots)
    return chunk_size(LIMITS, **{**USUAL, "aim": aim, "floor": floor, "slots": slots, **changes})  # type: ignore[arg-type]


def test_the_first_chunk_is_one_item() -> None:
    """Before anything was measured, one item finds out."""
    assert want(item_time=None) == 1


def test_aims_at_twenty_milliseconds() -> None:
    """Items of 1 ms go in twenties."""
    assert want() == 20


def test_a_far_worker_gets_ten_round_trips() -> None:
    """With 50 ms of round trip, half a second of work."""
    assert want(rtt=0.05) == 500


def test_many_slots_get_larger_chunks() -> None:
    """Two turns of work where one turn, a chunk for each slot, takes 40 ms; and not less than a turn for balance."""
    assert want(dispatch=0.0002, slots=200) == 80
    assert want(dispatch=0.0002, slots=200, left=8000) == 40
    assert want(dispatch=0.0002, slots=20) == 20


def test_a_costly_chunk_gets_more_work() -> None:
    """What it costs the loop to hand a chunk out is near 1 % of its work."""
    assert want(dispatch=0.0004) == 40


def test_a_long_item_goes_alone() -> None:
    """Never less than one item."""
    assert want(item_time=3.0) == 1


def test_growth_is_bounded() -> None:
    """No chunk is a larger step than is allowed, nor more than the limit of items."""
    assert want(item_time=1e-8, largest=128) == 128
    assert want(item_time=1e-9, largest=0) == 64
    assert want(item_time=1e-9, largest=10**9) == LIMITS.chunk_items


def test_what_waits_before_anything_is_measured_is_bounded() -> None:
    """By a quarter of the slot's share, by items and by bytes; never less than one item."""
    few = partial(unmeasured_size, LIMITS, slots=2)
    assert few(total=80, item_bytes=0.0) == 10
    assert few(total=10**9, item_bytes=0.0) == LIMITS.unmeasured_items
    assert few(total=80, item_bytes=LIMITS.unmeasured_bytes / 3) == 3
    assert few(total=80, item_bytes=LIMITS.unmeasured_bytes * 3) == few(total=0, item_bytes=0.0) == 1


def test_the_tail_is_shared() -> None:
    """At most a quarter of a slot's share of what is left."""
    assert want(left=80) == 10
    assert want(left=1) == 1
    assert want(left=8, slots=0) == 2


def test_the_tail_is_not_ground_to_dust() -> None:
    """Below a millisecond of work, or a round trip, a chunk is not made smaller for balance."""
    assert want(item_time=1e-6, left=80) == 1000
    assert want(left=80, rtt=0.03) == 30


def test_bytes_bound_a_chunk() -> None:
    """Heavy items go in few."""
    assert want(item_bytes=LIMITS.chunk_bytes / 3) == 3
    assert want(item_bytes=LIMITS.chunk_bytes * 3) == 1


@pytest.mark.parametrize(
    ("length", "wanted", "nbytes", "slots", "piece"),
    [(5, 3, 0, 2, 5), (6, 3, 0, 2, 3), (100, 3, 2 << 20, 4, 25), (100, 40, 2 << 20, 4, 40), (9, 1, 2 << 20, 0, 9)],
)
def test_cut(length: int, wanted: int, nbytes: int, slots: int, piece: int) -> None:
    """A little too long stays whole; heavy input is cut into no more pieces than slots."""
    assert cut(length, wanted, nbytes, slots) == piece


def test_a_slow_start_is_soon_forgotten() -> None:
    """One first item that loads a library for 100 ms does not make microsecond items look slow for long."""
    item_time = ItemTime()
    item_time.add(1, 0.1)
    for _ in range(6):
        item_time.add(1, 1e-6)
    assert item_time.seconds is not None
    assert item_time.seconds < 1e-5


def test_no_time_at_all_is_no_division_by_zero() -> None:
    """A clock that saw nothing pass gives a tiny item_time, not zero."""
    assert ItemTime().add(10, 0.0) > 0


def test_what_is_sent_ahead_goes_in_few_chunks() -> None:
    """Half of the chunks that may wait hold all of it, so that messages do not become many."""
    assert want(ahead=6.0, largest=10_000) == 750
    assert want(ahead=0.1) == 20
