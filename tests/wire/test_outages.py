"""How many seconds of work a slot should hold, from round trips and outages."""

from __future__ import annotations

import pytest

from distmap.core.limits import LIMITS
from distmap.wire.outages import Outage, send_ahead


@pytest.mark.parametrize(
    ("round_trips", "outages", "ahead"),
    [
        ([], [], 0.0),
        ([0.0003, 0.015, 0.0004], [], 0.0),
        ([0.1, 0.9], [], 0.0),
        ([0.1, 1.5, 0.12], [], 1.5),
        ([], [Outage(990.0, 6.0)], 6.0),
        ([0.1, 0.2], [Outage(990.0, 6.0), Outage(995.0, 2.0)], 6.2),
        ([0.1, 3.0], [Outage(995.0, 0.25)], 3.25),
        ([0.1], [Outage(1000.0 - LIMITS.outage_memory - 1, 6.0)], 0.0),
        ([0.1], [Outage(999.0, 29.0)], LIMITS.ahead_seconds),
    ],
    ids=["nothing known", "small jitter", "covered by ten round trips", "jitter", "outage", "longest outage",
         "outage and jitter", "old outage", "bounded"],
)  # fmt: skip
def test_work_covers_the_longest_outage_and_the_slowest_round_trip(
    round_trips: list[float], outages: list[Outage], ahead: float
) -> None:
    """Only what the waiting chunk does not cover counts, outages are forgotten, and there is a most."""
    assert send_ahead(round_trips, outages, 1000.0) == pytest.approx(ahead)
