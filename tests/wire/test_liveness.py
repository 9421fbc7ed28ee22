"""Silence, heartbeats and round trips, by a clock that the test sets."""

from __future__ import annotations

from distmap.core.limits import LIMITS
from distmap.wire.liveness import PeerClock
from distmap.wire.session import Session


def watch(clock: PeerClock, start: float, end: float) -> str:
    """Look every second, as a ticker does; the last judgement."""
    state, now = "", start
    while now <= end:
        state = clock.liveness(now)
        now += 1
    return state


def test_the_shortest_of_six_round_trips_counts() -> None:
    """The others waited behind data; old ones are forgotten."""
    clock = PeerClock(100, LIMITS)
    assert clock.rtt is None
    for sent, back in ((100.0, 100.5), (101.0, 101.25), (102.0, 103.0)):
        clock.returned(sent, back)
    assert clock.rtt == 0.25
    assert clock.round_trips == (0.5, 0.25, 1.0)
    for _ in range(6):
        clock.returned(104.0, 104.75)
    assert clock.rtt == 0.75


def test_a_ping_from_before_a_pause_does_not_count() -> None:
    """A laptop that slept for an hour is not an hour away: whether the answer or the watcher comes first."""
    for answer_first in (True, False):
        clock = PeerClock(0, LIMITS)
        clock.liveness(1)
        if not answer_first:
            clock.liveness(3601)
        clock.returned(1.0, 3601.5)
        assert clock.rtt is None
        clock.liveness(3602)
        clock.returned(3602.0, 3603.0)
        assert clock.rtt == 1.0


def test_a_ping_from_the_future_counts_as_nothing() -> None:
    """A peer that lies about the time it echoes makes the round trip zero, not negative."""
    clock = PeerClock(0, LIMITS)
    clock.returned(1e9, 0)
    assert clock.rtt == 0.0


def test_silence_is_suspect_then_lost() -> None:
    """10 seconds, 30 seconds; anything that comes in is a sign of life, and an older one changes nothing."""
    clock = PeerClock(0, LIMITS)
    assert watch(clock, 1, 9) == "fine"
    assert watch(clock, 10, 29) == "suspect"
    clock.heard(29.5)
    clock.heard(3)
    assert watch(clock, 30, 39) == "fine"
    assert watch(clock, 40, 59) == "suspect"
    assert watch(clock, 60, 60) == "lost"


def test_a_late_watcher_counts_afresh() -> None:
    """A caller that was not able to look for a while was starved itself and judges nobody."""
    clock = PeerClock(0, LIMITS)
    watch(clock, 1, 9)
    assert clock.liveness(100) == "fine"
    assert watch(clock, 101, 109) == "fine"
    assert watch(clock, 110, 129) == "suspect"
    assert watch(clock, 130, 130) == "lost"


def test_silence_counts_on_while_there_is_no_channel() -> None:
    """From the last byte that came, over the cut; a new channel ends it."""
    session = Session(0)
    session.peer.heard(4)
    assert watch(session.peer, 1, 8) == "fine"
    session.detached()
    assert watch(session.peer, 9, 13) == "fine"
    assert watch(session.peer, 14, 33) == "suspect"
    session.resume(0, 33.5)
    session.detached()
    assert watch(session.peer, 34, 43) == "fine"
    assert watch(session.peer, 44, 63) == "suspect"
    assert watch(session.peer, 64, 64) == "lost"


def test_a_late_watcher_grants_a_whole_period_to_reconnect() -> None:
    """Also when it had no channel as it was suspended: the other side may be dialling just now."""
    session = Session(0)
    session.detached()
    assert watch(session.peer, 1, 29) == "suspect"
    assert session.peer.liveness(3600) == "fine"
    assert watch(session.peer, 3601, 3629) == "suspect"
    assert watch(session.peer, 3630, 3630) == "lost"


def test_beats_are_due_on_time() -> None:
    """Once every five seconds, however often it is asked."""
    clock = PeerClock(0, LIMITS)
    due = [now for now in range(17) if clock.beat_due(now)]
    assert due == [5, 10, 15]
