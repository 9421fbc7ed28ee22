"""What a real map said over its connection, said again over one that breaks at every byte.

A frame travels as one message of TLS and WebSocket: it arrives whole, or not at all. So a break at any byte of a frame
is one case: that frame is lost, and with it everything that was under way behind it. The cases are the frames; the
bytes that each stands for are counted. What cuts do to a real connection is in `tests/chaos/cuts.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import pytest

from distmap import Pool
from distmap.core.limits import LIMITS
from distmap.testing.workers import WorkerProcess
from distmap.wire.messages import Bye, Message
from distmap.wire.session import Session

#: Small frames: more places at which a message is cut in two.
SMALL = LIMITS._replace(frame_bytes=2048, ack_bytes=4096, ack_frames=4)
#: Messages that a side may be ahead of what the recording had heard then: so frames are under way in both directions.
AHEAD = 8

TO_WORKER, TO_POOL = 0, 1


class Said(NamedTuple):
    """One message of the recording: who said it (0: the pool, 1: the worker), and what."""

    side: int
    message: Message
    parts: list[bytes]


@pytest.fixture(scope="module")
def recording() -> list[Said]:
    """All messages of a map over items and results of 2 kB, in the order in which the pool saw them."""
    said: list[Said] = []
    send, incoming = Session.send, Session.incoming

    def record_send(self: Session, message: Message, parts: Any = ()) -> None:
        said.append(Said(0, message, [bytes(part) for part in parts]))
        send(self, message, parts)

    def record_incoming(self: Session, *args: Any) -> Any:
        given = incoming(self, *args)
        said.extend(Said(1, message, [bytes(part) for part in parts]) for message, parts in given)
        return given

    with WorkerProcess("--port", "0", "--slots", "2") as worker, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "send", record_send)
        patch.setattr(Session, "incoming", record_incoming)
        with Pool(worker.url) as pool:
            items = [bytes([at]) * 2000 for at in range(64)]
            assert pool.map(lambda item: item[::-1], items, chunksize=4) == items
    return said


class Replay:
    """The recording, said again by two sessions; what they write is carried frame by frame, and may be lost."""

    def __init__(self, recording: list[Said]) -> None:
        self.recording = recording
        self.ends = [Session(0.0, limits=SMALL) for _ in range(2)]
        self.under_way: list[deque[bytes]] = [deque(), deque()]
        #: By receiver: what it was given.
        self.heard: list[list[Said]] = [[], []]
        #: By sender: the index in the recording of what it says next.
        self._next = [0, 0]
        #: By sender: how many messages of each side come before each place of the recording.
        self._before = [list(accumulate((one.side == side for one in recording), initial=0)) for side in range(2)]
        self.frames: list[list[int]] = [[], []]

    def say(self) -> None:
        """Each side says what it may: it has heard nearly all that the recording had heard by then."""
        for side, session in enumerate(self.ends):
            while (at := self._next[side]) < len(self.recording):
                one = self.recording[at]
                if one.side == side:
                    # Who says goodbye takes nothing any more.
                    ahead = 0 if isinstance(one.message, Bye) else AHEAD
                    if len(self.heard[side]) < self._before[1 - side][at] - ahead:
                        break
                    session.send(one.message, one.parts)
                self._next[side] += 1
            while (frame := session.outgoing()) is not None:
                self.under_way[side].append(b"".join(frame))

    def carry(self, side: int) -> None:
        """The next frame of this side arrives."""
        frame = self.under_way[side].popleft()
        self.frames[side].append(len(frame))
        given = self.ends[1 - side].incoming(frame, 0.0)
        self.heard[1 - side] += [Said(side, message, [bytes(part) for part in parts]) for message, parts in given]

    def lose(self) -> None:
        """The connection breaks: what is under way is gone, and both sides notice."""
        for session, frames in zip(self.ends, self.under_way, strict=True):
            session.detached()
            frames.clear()

    def resume(self) -> None:
        """Both sides prove themselves over a new connection, and tell what they have."""
        received = [session.received for session in self.ends]
        for side, session in enumerate(self.ends):
            session.resume(received[1 - side], 0.0)

    def run(self, breaks: Callable[[int, int], bool] = lambda side, number: False) -> Replay:
        """Carry frames, of both sides in turn, until all is said; `breaks` is asked before each frame that arrives."""
        quiet = 0
        while quiet < 2:
            self.say()
            quiet += 1
            for side in range(2):
                if self.under_way[side]:
                    quiet = 0
                    if breaks(side, len(self.frames[side])):
                        self.lose()
                        self.resume()
                        break
                    self.carry(side)
            if quiet:  # the timer of a conversation
                for session in self.ends:
                    session.acknowledge()
        return self

    def check(self) -> None:
        """Everything has arrived once, and nothing is kept any more. (Some kinds of messages may overtake others.)"""
        for side, heard in enumerate(self.heard):
            said = [one for one in self.recording if one.side != side]
            assert sorted(heard, key=by_message) == sorted(said, key=by_message)
            assert self.ends[side].settled


def by_message(said: Said) -> str:
    return repr(said.message)


@pytest.fixture(scope="module")
def whole(recording: list[Said]) -> Replay:
    """The recording over a connection that does not break."""
    replay = Replay(recording).run()
    replay.check()
    return replay


def test_the_recording_is_large_enough(whole: Replay) -> None:
    """It has at least 200 kB, in both directions, and many frames of which none is large."""
    for sizes in whole.frames:
        assert sum(sizes) > 100_000
        assert len(sizes) > 60
        assert max(sizes) <= SMALL.frame_bytes


@pytest.mark.parametrize("side", [TO_WORKER, TO_POOL])
def test_a_cut_at_any_byte_loses_and_doubles_nothing(side: int, recording: list[Said], whole: Replay) -> None:
    """Whatever frame of a direction a cut falls into, each message arrives once, after a new connection."""
    covered = 0
    for at, size in enumerate(whole.frames[side]):
        done: list[int] = []

        def breaks(of: int, number: int, at: int = at, done: list[int] = done) -> bool:
            return of == side and number == at and not done and not done.append(at)  # type: ignore[func-returns-value]

        replay = Replay(recording).run(breaks)
        replay.check()
        assert [end.resumes for end in replay.ends] == [1, 1]
        covered += size
    assert covered == sum(whole.frames[side]) > 100_000


@pytest.mark.parametrize("side", [TO_WORKER, TO_POOL])
def test_a_stall_at_any_byte_loses_and_doubles_nothing(side: int, recording: list[Said], whole: Replay) -> None:
    """One direction alone is dead from a byte on, until both give the connection up; what passed meanwhile counts."""
    for at in range(len(whole.frames[side])):
        replay, stalled = Replay(recording), False
        while replay.under_way[0] or replay.under_way[1] or not stalled:
            replay.say()
            stalled = stalled or len(replay.frames[side]) == at
            if not stalled and replay.under_way[side]:
                replay.carry(side)
            if replay.under_way[1 - side]:
                replay.carry(1 - side)
            elif stalled:
                break
        replay.lose()
        replay.resume()
        replay.run().check()


def test_a_connection_that_breaks_again_while_it_repeats(recording: list[Said], whole: Replay) -> None:
    """A connection that lets only a few frames pass each time gets everything through, once."""
    for pace in (1, 2, 3, 7):
        passed = [0]

        def breaks(side: int, number: int, pace: int = pace, passed: list[int] = passed) -> bool:
            passed[0] = (passed[0] + 1) % (pace + 1)
            return not passed[0]

        replay = Replay(recording).run(breaks)
        replay.check()
        assert replay.ends[0].resumes > 10
        assert sum(end.replayed for end in replay.ends) > 10
