"""Tests of distmap/transport/redial.py."""

from __future__ import annotations

import asyncio
import time
from itertools import islice

import pytest

from distmap.core.limits import LIMITS
from distmap.transport.redial import Route, delays, pause


def test_delays_grow_to_the_last_and_stay_there() -> None:
    """The pauses follow the table, with a bounded jitter, and the last one repeats."""
    pauses = list(islice(delays(), len(LIMITS.redial) + 3))
    for seconds, base in zip(pauses, (*LIMITS.redial, *[LIMITS.redial[-1]] * 3), strict=True):
        assert base <= seconds <= base * (1 + LIMITS.redial_jitter)


def test_two_dialers_do_not_keep_step() -> None:
    """Two that begin at the same moment soon knock at different moments."""
    assert list(islice(delays(), 6)) != list(islice(delays(), 6))


def test_pauses_of_a_session_stay_short() -> None:
    """The first ones are those of the table."""
    pauses = list(islice(delays(LIMITS.redial_session), 10))
    assert pauses[0] < 0.2
    assert max(pauses) <= LIMITS.redial_session * (1 + LIMITS.redial_jitter)


@pytest.mark.parametrize("remote", [("127.0.0.1", 9), ("::1", 9, 0, 0), ("nowhere.invalid", 9), None])
def test_a_way_that_stays_is_not_new(remote: tuple[object, ...] | None) -> None:
    """Nor is one that does not exist, or that nobody knows."""
    assert not Route(remote).is_new()


def test_a_network_that_comes_back_ends_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes away does not, and another one does, too."""
    route = Route(("127.0.0.1", 9))
    seen: list[str | None] = ["10.0.0.1", None, None, "10.0.0.1"]
    monkeypatch.setattr(route, "_look", lambda: seen.pop(0))
    assert [route.is_new() for _ in range(3)] == [True, False, False]
    began = time.monotonic()
    asyncio.run(pause(60.0, route))
    assert time.monotonic() - began < 30
    assert seen == []
    seen += ["10.0.0.1"] * 5
    asyncio.run(pause(0.01, route))
