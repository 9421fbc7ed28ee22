"""Rate and time left."""

from __future__ import annotations

import pytest

from distmap.core.progress import RATE_WINDOW, Meter, time_left


def test_no_rate_before_anything_is_known() -> None:
    """Neither an empty meter nor a single moment gives a rate."""
    meter = Meter()
    assert meter.rate(1.0, 5) == 0.0
    meter.add(1.0, 5)
    assert meter.rate(1.0, 5) == 0.0


def test_the_rate_is_that_of_late() -> None:
    """What happened before the window does not count."""
    meter = Meter()
    for tenth in range(1000):
        now = tenth / 10
        meter.add(now, tenth if now < 50 else 500 + 10 * (tenth - 500))
    assert meter.rate(99.9, 5490) == pytest.approx(100, rel=0.05)
    assert len(meter.samples) <= RATE_WINDOW / 0.25 + 2


def test_the_rate_is_never_negative() -> None:
    """Items that have to run again do not make it so."""
    meter = Meter()
    meter.add(0.0, 10)
    assert meter.rate(1.0, 5) == 0.0


@pytest.mark.parametrize(
    ("total", "done", "rate", "left"),
    [(None, 3, 1.0, None), (10, 10, 0.0, 0.0), (10, 5, 0.0, None), (10, 5, 2.0, 2.5)],
)
def test_time_left(total: int | None, done: int, rate: float, left: float | None) -> None:
    """Unknown while the length or the rate is, zero when done."""
    assert time_left(total, done, rate) == left
