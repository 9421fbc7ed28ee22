"""Tests of distmap/worker/trying.py."""

from __future__ import annotations

import logging

import pytest

from distmap.core.limits import LIMITS
from distmap.errors import ConnectError
from distmap.transport.url import parse_url
from distmap.worker.trying import Trying

HUB = parse_url("wss://hub.example/user/ann/proxy/41234")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def refused(yes: bool = True) -> ConnectError:
    error = ConnectError("it is not there")
    error.refused = yes
    return error


def test_tries_become_rare_where_they_keep_a_server_alive() -> None:
    """Behind a path, each further pause is a part of the whole time without a pool; before that they are short."""
    clock = Clock()
    trying = Trying(HUB, None, LIMITS, idle=600, clock=clock)
    short = 1.25 * LIMITS.redial_refused
    assert trying.seconds(refused()) <= short
    clock.now = 599
    assert trying.seconds(refused()) <= short
    clock.now = 7200
    assert trying.seconds(refused()) == 3600
    clock.now = 1e6
    assert trying.seconds(refused()) == LIMITS.call_most


def test_tries_are_frequent_where_they_keep_nothing_alive() -> None:
    """A server that does not run is dialled once a minute, and often again when it runs; a direct address always is."""
    clock = Clock()
    trying = Trying(HUB, None, LIMITS, idle=600, clock=clock)
    direct = Trying(parse_url("wss://lab7:8786"), None, LIMITS, idle=600, clock=clock)
    trying.seconds(refused())
    clock.now = 7200
    assert trying.seconds(refused(False)) == LIMITS.redial_hub
    assert trying.seconds(refused()) <= 1.25 * LIMITS.redial_refused
    assert direct.seconds(refused()) <= 1.25 * LIMITS.redial_refused


def test_gives_up_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """The last pause ends when the tries do; then it is said why."""
    clock = Clock()
    trying = Trying(HUB, 100, LIMITS, clock=clock)
    assert not trying.in_vain(refused())
    clock.now = 99.8
    assert trying.seconds(refused()) <= 0.21
    clock.now = 100
    with caplog.at_level(logging.INFO, "distmap.worker"):
        assert trying.in_vain(refused())
    assert "giving up: it is not there" in caplog.text
