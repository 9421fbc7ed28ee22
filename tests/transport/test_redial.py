"""Tests of distmap/transport/redial.py."""

from __future__ import annotations

from itertools import islice

from distmap.core.limits import LIMITS
from distmap.transport.redial import delays


def test_delays_grow_to_the_last_and_stay_there() -> None:
    """The pauses follow the table, with a bounded jitter, and the last one repeats."""
    pauses = list(islice(delays(), len(LIMITS.redial) + 3))
    for pause, base in zip(pauses, (*LIMITS.redial, *[LIMITS.redial[-1]] * 3), strict=True):
        assert base <= pause <= base * (1 + LIMITS.redial_jitter)


def test_two_dialers_do_not_keep_step() -> None:
    """Two that begin at the same moment soon knock at different moments."""
    assert list(islice(delays(), 6)) != list(islice(delays(), 6))
