"""The world with a network: what its faults do, and whether sessions or ends that misbehave are seen."""

from __future__ import annotations

from typing import Any

import pytest
from simulation.ledger import Broken
from simulation.net_world import NET_FAULTS, NetWorld
from simulation.sim_network import POOL, WORKER, Link
from simulation.sim_world import SimJob

from distmap.core import events as ev
from distmap.errors import InvalidTransition, ProtocolError
from distmap.wire import messages as msg
from distmap.wire.frame_log import FrameLog
from distmap.wire.liveness import PeerClock
from distmap.wire.session import Session


def test_a_seed_replays_byte_for_byte() -> None:
    """The same seed gives the same log, so that a failure can be looked at."""
    for seed in range(5):
        texts = []
        for _ in range(2):
            world = NetWorld(seed, keep=True)
            world.play()
            texts.append(world.log.text)
        assert texts[0] == texts[1]
        assert " takes " in texts[0]


def test_every_fault_happens() -> None:
    """In a few seeds, with all that sessions do about them."""
    counts, mended = set[str](), set[str]()
    for seed in range(40):
        world = NetWorld(seed)
        world.play()
        counts.update(+world.log.counts)
        mended.update(+world.log.mended)
    assert len(NET_FAULTS) == 9
    assert {
        *("a connection was reset", "a connection was half open", "a partition", "a one-sided partition"),
        *("a worker was stopped", "the pool was stopped", "a clock jumped", "a frame came twice", "a worker crashed"),
        *("a request was lost on its way", "a reply was lost on its way", "a connection was lost while an item ran"),
    } <= counts
    assert {
        *("a session was resumed at one end", "a frame was sent again", "a frame that came twice was dropped"),
        *("a frame of an old channel was dropped", "a worker was fenced"),
    } <= mended


# --- the network -----------------------------------------------------------------------------------------------------


def quiet() -> tuple[NetWorld, Link]:
    """A world of one worker and a job that never comes, in which nothing happens by itself."""
    world = NetWorld(0)
    world.faults = frozenset()
    world.jobs[1] = SimJob(1, ev.JobSpec(), 0, 0.0, {}, left=0)
    return world, world.links[world.join().id]


def advance(world: NetWorld, seconds: float) -> None:
    end = world.now + seconds
    while world.heap and world.heap[0][0] <= end:
        world.step()
    world.now = end


def test_a_short_outage_costs_nothing() -> None:
    """What was sent into it arrives after it, once, and the worker is the same."""
    world, link = quiet()
    for how in ((True, True), (True, False), (False, True), (False, False)):
        link.ends[POOL].send(msg.Put(bytes(16), "code"), 1000)
        link.cut(notices=how)
        link.ends[WORKER].send(msg.Draining())
        advance(world, 0.7)
        for _ in range(14):
            advance(world, 0.0 if link.settled() else 0.05)
        assert link.settled()
        assert not +link.ends[POOL].under_way
        assert not +link.ends[WORKER].under_way
    assert not world.workers[link.worker].lost


def test_a_long_outage_fences_the_worker() -> None:
    """It is lost for the pool, ends its session when they meet again, and comes back under a new number."""
    world, link = quiet()
    for side in (POOL, WORKER):
        link.block(side, 2.5)
    advance(world, 2.0)
    assert world.workers[1].lost
    assert len(world.workers) == 1
    advance(world, 2.0)
    assert link.closed
    assert world.workers[1].cut_off
    assert not world.workers[2].lost


def test_a_blocked_direction_keeps_the_order() -> None:
    """Buffers give out what they hold as it went in."""
    world, link = quiet()
    came: list[msg.Message] = []
    world.on_message = lambda _link, side, message: came.append(message) if side == WORKER else None  # type: ignore[method-assign]
    link.block(POOL, 0.2)
    sent = [msg.Kill(slot) for slot in range(20)]
    for message in sent:
        link.ends[POOL].send(message)
    advance(world, 0.1)
    assert came == []
    advance(world, 0.3)
    assert came == sent


# --- what is seen ----------------------------------------------------------------------------------------------------


def forgets_to_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrameLog, "again", lambda self: self.behind.clear())


def loses_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = FrameLog.rewind

    def rewind(self: Any, received: int) -> None:
        honest(self, received)
        self.acknowledge(self.sent)

    monkeypatch.setattr(FrameLog, "rewind", rewind)


def takes_old_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Session.detached

    def detached(self: Any) -> None:
        honest(self)
        self.received = max(0, self.received - 1)

    monkeypatch.setattr(Session, "detached", detached)


def never_acknowledges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_ack_due", lambda self: False)


def is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PeerClock.liveness

    def liveness(self: Any, now: float) -> Any:
        return "lost" if honest(self, now) == "suspect" else honest(self, now)

    monkeypatch.setattr(PeerClock, "liveness", liveness)


def judges_after_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def liveness(self: Any, now: float) -> Any:
        silence = now - self._heard
        return "lost" if silence >= 1.5 else "suspect" if silence >= 0.5 else "fine"

    monkeypatch.setattr(PeerClock, "liveness", liveness)


BREACHES = (
    forgets_to_replay,
    loses_the_log,
    takes_old_channels,
    never_acknowledges,
    is_impatient,
    judges_after_a_gap,
)


@pytest.mark.parametrize("breach", BREACHES)
def test_the_world_sees(breach: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that breaks a promise is caught within a few seeds."""
    breach(monkeypatch)
    monkeypatch.setattr(NetWorld, "longest", 30.0)
    with pytest.raises((Broken, InvalidTransition, ProtocolError)):
        play(60)


def play(seeds: int) -> None:
    for seed in range(seeds):
        NetWorld(seed).play()
