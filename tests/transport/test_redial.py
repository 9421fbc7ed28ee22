"""Tests of distmap/transport/redial.py."""

from __future__ import annotations

from itertools import islice

from distmap.transport.redial import DELAYS, JITTER, delays


def test_delays_grow_to_the_last_and_stay_there() -> None:
    """The pauses follow the table, with a bounded jitter, and the last one repeats."""
    pauses = list(islice(delays(), len(DELAYS) + 3))
    for pause, base in zip(pauses, (*DELAYS, *[DELAYS[-1]] * 3), strict=True):
        assert base <= pause <= base * (1 + JITTER)


def test_two_dialers_do_not_keep_step() -> None:
    """Two that begin at the same moment soon knock at different moments."""
    assert list(islice(delays(), 6)) != list(islice(delays(), 6))
