"""Doubts: which connections are tried again although they look alive."""

from __future__ import annotations

import pytest

from distmap.core.limits import LIMITS
from distmap.transport import doubts as module
from distmap.transport.doubts import Doubts, slept


def looks(doubts: Doubts, begin: float, end: float) -> bool:
    """Look once a second, as a ticker does; the last answer."""
    answer = False
    for now in range(round(begin), round(end) + 1):
        answer = doubts.look(float(now))
    return answer


def test_a_silence_longer_than_heartbeats_is_doubtful() -> None:
    """One that heartbeats leave is not."""
    doubts = Doubts(0.0, LIMITS)
    assert not looks(doubts, 1, LIMITS.beat_every + 1)
    assert looks(doubts, LIMITS.beat_every + 2, 8)
    doubts.heard(8.0)
    assert not looks(doubts, 9, 10)


def test_a_side_that_was_starved_doubts_nobody() -> None:
    """What came meanwhile still waits in the socket."""
    doubts = Doubts(0.0, LIMITS)
    assert not doubts.look(60.0)
    assert looks(doubts, 61, 67)


def test_a_machine_that_was_suspended_doubts_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, however the loop's clock stood still."""
    away = 100.0
    monkeypatch.setattr(module, "slept", lambda: away)
    doubts = Doubts(0.0, LIMITS)
    assert not doubts.look(1.0)
    away += 3600.0
    assert doubts.look(2.0)
    assert not doubts.look(3.0)


def test_the_system_says_how_long_it_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time does not grow while the machine is awake; a system that does not say it is never suspected."""
    before = slept()
    assert slept() == pytest.approx(before, abs=0.5)
    monkeypatch.setattr(module.sys, "platform", "win32")
    assert slept() == 0.0
