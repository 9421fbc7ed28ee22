"""The pace of a consumer, by a clock that the test sets."""

from __future__ import annotations

import pytest

from distmap.core.pace import ConsumerPace


def test_nothing_is_known_before_it_took_something() -> None:
    """Time alone says nothing."""
    pace = ConsumerPace()
    assert pace.items_in(2.0) is None
    pace.waits(5.0)
    assert pace.items_in(2.0) is None


def test_waiting_for_results_does_not_count() -> None:
    """Only the time in which there were results tells how fast it is."""
    pace = ConsumerPace()
    pace.waits(10.0)
    pace.took(10, 10.05, 0.5)
    pace.waits(99.0)
    pace.took(10, 99.05, 0.5)
    assert pace.items_in(2.0) == pytest.approx(400)


def test_the_last_seconds_count() -> None:
    """A consumer that turned slow, or fast, is soon known as such."""
    pace = ConsumerPace()
    now = 0.0
    for block, seconds in ((1000, 0.0001), (5, 0.01), (100, 0.001)):
        for _ in range(round(4 / (block * seconds))):
            now += block * seconds
            pace.took(block, now, 0.5)
        assert pace.items_in(1.0) == pytest.approx(1 / seconds, rel=0.2)
    pace.took(1, now + 60, 0.5)
    assert (pace.items_in(2.0) or 0) < 80


def test_a_consumer_that_takes_no_time_has_no_pace_that_bounds() -> None:
    """`join()` counts results as consumed when they come."""
    pace = ConsumerPace()
    pace.took(7, 0.0, 0.5)
    assert pace.items_in(2.0) == float("inf")
