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


def test_what_nobody_acknowledges_is_doubtful_though_the_other_side_is_heard() -> None:
    """One direction may be dead alone. Each frame that is acknowledged begins the time anew, as a slow link shows."""
    doubts, stuck = Doubts(0.0, LIMITS), round(LIMITS.stuck_after)

    def hears(begin: int, end: int, oldest: int | None) -> list[bool]:
        answers = []
        for now in range(begin, end):
            doubts.heard(float(now))
            answers.append(doubts.look(float(now), oldest))
        return answers

    assert not any(hears(1, stuck, 7))
    assert not any(hears(stuck, 2 * stuck, 8))
    assert not any(hears(2 * stuck, 4 * stuck, None))
    assert hears(4 * stuck, 5 * stuck + 1, 9) == [False] * stuck + [True]
    assert doubts.stuck
    doubts.fresh(5.0 * stuck)
    assert not doubts.stuck
    assert not any(hears(5 * stuck + 1, 6 * stuck, 9))


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
