"""What holds for every message, every header and every way to cut a conversation into frames."""

from __future__ import annotations

import struct
from collections import deque
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distmap.core.limits import LIMITS
from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer
from distmap.wire import messages as msg
from distmap.wire.codec import decode, encode
from distmap.wire.session import Session

Sent = tuple[msg.Message, list[bytes]]

u8, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 32, 64))
i64 = st.integers(-(2**63), 2**63 - 1)
seconds = st.floats(allow_nan=False)
digests = st.binary(min_size=16, max_size=16)
texts = st.text(max_size=100)
kinds = st.sampled_from(["code", "value", "modules", "extras", "surroundings", "secret", "descriptor"])
reasons = st.sampled_from(["died", "timeout", "killed", "idle"])

MESSAGES: dict[type, st.SearchStrategy[msg.Message]] = {
    msg.Put: st.builds(msg.Put, digests, kinds, st.text(max_size=msg.MAX_NAME)),
    msg.Drop: st.builds(msg.Drop, digests),
    msg.Task: st.builds(
        msg.Task,
        u32,
        u64,
        digests,
        st.lists(digests, max_size=4).map(tuple),
        u32,
        u32,
        u64,
        seconds,
        st.booleans(),
        st.booleans(),
    ),
    msg.Report: st.builds(msg.Report, u32, u64, u32, u32, seconds, st.booleans(), st.lists(u32, max_size=8).map(tuple)),
    msg.Renew: st.builds(msg.Renew, u32),
    msg.Refused: st.builds(msg.Refused, u32, u64, st.booleans()),
    msg.Output: st.builds(msg.Output, u32, u64, u64, st.lists(st.tuples(i64, u8, u32), max_size=5).map(tuple)),
    msg.Revoke: st.builds(msg.Revoke, u32, u64, u32),
    msg.Interrupt: st.builds(msg.Interrupt, u32, u64),
    msg.Kill: st.builds(msg.Kill, u32),
    msg.Died: st.builds(msg.Died, u32, i64, i64, reasons, texts),
    msg.Ready: st.builds(msg.Ready, u32),
    msg.Segment: st.builds(msg.Segment, u64, u64),
    msg.Free: st.builds(msg.Free, u64),
    msg.Beat: st.builds(
        msg.Beat,
        seconds,
        seconds,
        st.lists(st.tuples(i64, i64, seconds), min_size=3, max_size=4).map(tuple),
        st.text(" DTRS", max_size=3),
        st.lists(st.tuples(seconds, seconds), max_size=3).map(tuple),
    ),
    msg.Draining: st.just(msg.Draining()),
    msg.Bye: st.builds(msg.Bye, texts),
}
messages = st.one_of(list(MESSAGES.values()))
headers = messages.map(encode)

# Of these a byte other than 0 is true: the last fixed bytes of a Task, the one before the count of a Report, and the
# last one of a Refused.
_TASK = struct.calcsize("<BIQIIQd16sH")
BOOLEANS = {3: (_TASK, _TASK + 1), 4: (struct.calcsize("<BIQIId"),), 5: (struct.calcsize("<BIQ"),)}


# --- the codec -------------------------------------------------------------------------------------------------------


def test_every_message_is_drawn() -> None:
    """No message can be added without its strategy here."""
    assert set(MESSAGES) == set(get_args(msg.Message))


@given(messages)
def test_every_message_comes_back(message: msg.Message) -> None:
    """What is encoded decodes to an equal message of the same type."""
    back = decode(encode(message))
    assert back == message
    assert type(back) is type(message)


@given(
    st.one_of(
        st.binary(max_size=120), st.builds(lambda tag, rest: bytes((tag,)) + rest, st.integers(0, 17), st.binary())
    )
)
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    """Only ProtocolError comes out of bytes that are no message; what is one has these very bytes as its header."""
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert encode(message) == with_plain_booleans(data)


@given(headers)
def test_no_prefix_of_a_header_is_a_message(header: bytes) -> None:
    """A header that is cut at any byte is refused, never taken for a shorter message."""
    for end in range(len(header)):
        with pytest.raises(ProtocolError):
            decode(header[:end])


@given(headers, st.data())
def test_a_flipped_byte_is_refused_or_shows(header: bytes, data: st.DataObject) -> None:
    """A damaged header is refused, or is the header of another message: it is never taken for the one that was sent."""
    at = data.draw(st.integers(0, len(header) - 1))
    damaged = bytearray(header)
    damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        message = decode(damaged)
    except ProtocolError:
        return
    assert encode(message) == with_plain_booleans(damaged)


def with_plain_booleans(header: bytes | bytearray) -> bytes:
    plain = bytearray(header)
    for at in BOOLEANS.get(header[0], ()):
        plain[at] = plain[at] != 0
    return bytes(plain)


# --- sessions --------------------------------------------------------------------------------------------------------

HEAD = struct.Struct("<B3xIQQ")
OPEN, MORE = 1, 2
TINY = LIMITS._replace(frame_bytes=64, credit_bytes=150, ack_bytes=100, ack_frames=3)

parts_of = st.lists(st.binary(max_size=150), max_size=3)


def frame_of(message: msg.Message, parts: list[bytes]) -> bytes:
    """The one frame in which a small message travels."""
    sender = Session(0)
    sender.send(message, parts)
    frame = sender.outgoing()
    assert frame is not None
    assert sender.outgoing() is None
    return b"".join(frame)


@given(messages, parts_of)
def test_a_message_may_be_cut_at_every_byte(message: msg.Message, parts: list[bytes]) -> None:
    """Wherever its bytes are cut into two frames, nothing comes out of the first and the message out of the second."""
    frame = frame_of(message, parts)
    for end in range(HEAD.size + 4, len(frame)):
        receiver = Session(0)
        assert receiver.incoming(frame[:end], 0) == []
        given_out = receiver.incoming(HEAD.pack(MORE, 1, 2, 0) + frame[end:], 0)
        assert given_out == [(message, parts)]


@given(messages, parts_of)
def test_a_frame_that_is_cut_short_gives_nothing(message: msg.Message, parts: list[bytes]) -> None:
    """It is refused, or its message stays incomplete; no other message comes out of it."""
    frame = frame_of(message, parts)
    for end in range(len(frame)):
        assert taken(Session(0), frame[:end]) == []


@given(messages, parts_of, st.data())
def test_a_flipped_byte_of_a_frame_does_no_harm(message: msg.Message, parts: list[bytes], data: st.DataObject) -> None:
    """It is refused, ignored, or gives at most one message, with parts no larger than what came in.

    Bytes inside parts are not checked by the format: TLS sees to them.
    """
    frame = bytearray(frame_of(message, parts))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    given_out = taken(Session(0), frame)
    assert len(given_out) <= 1
    for other, received in given_out:
        assert decode(encode(other)) is not None
        assert sum(map(len, received)) <= len(frame)


@given(st.lists(st.tuples(messages, parts_of), min_size=2, max_size=5), st.data())
def test_a_frame_that_is_missing_is_noticed(content: list[Sent], data: st.DataObject) -> None:
    """Whatever was sent, the frame after the missing one is refused."""
    sender = Session(0)
    for message, parts in content:
        sender.send(message, parts)
    frames = []
    while (frame := sender.outgoing()) is not None:
        frames.append(b"".join(frame))
    if len(frames) > 1:
        missing = data.draw(st.integers(0, len(frames) - 2))
        receiver = Session(0)
        for early in frames[:missing]:
            receiver.incoming(early, 0)
        assert taken(receiver, frames[missing + 1]) == []
        assert receiver.state == "failed"


@given(st.binary(max_size=100))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    """Only ProtocolError comes out of bytes that are no frame."""
    taken(Session(0), data)


@given(st.integers(0, 6), st.lists(st.binary(max_size=60), min_size=1, max_size=8))
def test_after_an_error_everything_is_refused(kind: int, bodies: list[bytes]) -> None:
    """Once a session failed it takes no frame any more, and gives none out."""
    receiver = Session(0)
    receiver.ping(0)
    for seq, body in enumerate(bodies, 1):
        failed = receiver.state == "failed"
        given_out = taken(receiver, HEAD.pack(kind, 1, seq, 0) + body)
        if failed:
            assert given_out == []
            assert receiver.state == "failed"
            assert receiver.outgoing() is None


def taken(receiver: Session, frame: bytes | bytearray) -> list[tuple[msg.Message, list[Buffer]]]:
    """What the receiver gives out; nothing if it refuses, which it does by ProtocolError and for good."""
    try:
        return receiver.incoming(frame, 0)
    except ProtocolError:
        assert receiver.state == "failed"
        return []


@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.binary(max_size=200), max_size=3)), max_size=12),
    st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=30),
    st.booleans(),
)
def test_two_sessions_deliver_everything_in_order(
    content: list[tuple[bool, list[bytes]]], schedule: list[tuple[bool, int]], leaves: bool
) -> None:
    """However frames are small, late or held up by credits: what one side sends about a slot arrives once, in order."""
    sides = Session(0, limits=TINY), Session(0, limits=TINY)
    sent: list[list[Sent]] = [[], []]
    came: list[list[tuple[msg.Message, list[Buffer]]]] = [[], []]

    def carry(source: bool, limit: int) -> None:
        while limit and (frame := sides[source].outgoing()) is not None:
            came[source] += sides[not source].incoming(b"".join(frame), 0)
            limit -= 1

    for turn, (side, parts) in enumerate(content):
        message = msg.Report(0, turn, 0, 1, 0.0, True, ())
        sides[side].send(message, parts)
        sent[side].append((message, parts))
        for source, limit in schedule[turn::12]:
            carry(source, limit)
    if leaves:
        sides[0].send(msg.Bye("done"))
        sent[0].append((msg.Bye("done"), []))
        sent[1].clear()
    while any(side.wants_to_write or side.acknowledge() for side in sides if side.state != "closed"):
        carry(False, 1000)
        carry(True, 1000)
    assert came[0] == sent[0]
    if leaves:
        assert (sides[0].state, sides[1].state) == ("closed", "left")
    else:
        assert came[1] == sent[1]
        assert sides[0].settled
        assert sides[1].settled


class Net:
    """Two sessions and what is on its way between them, which a cut loses."""

    def __init__(self) -> None:
        limits = TINY._replace(log_bytes=400)
        self.sides = Session(0, limits=limits), Session(0, limits=limits)
        self.under_way: list[deque[bytes]] = [deque(), deque()]
        self.came: list[list[tuple[msg.Message, list[Buffer]]]] = [[], []]

    def write(self, source: int, count: int) -> None:
        """Put frames of a side on their way."""
        while count and (frame := self.sides[source].outgoing()) is not None:
            self.under_way[source].append(b"".join(frame))
            count -= 1
            # Data stops at the credit, everything at the bound of the log: at most one frame is above it.
            assert self.sides[source].log.nbytes < 400 + TINY.frame_bytes

    def arrive(self, source: int, count: int) -> None:
        """Frames of a side arrive at the other."""
        for _ in range(min(count, len(self.under_way[source]))):
            self.came[source] += self.sides[not source].incoming(self.under_way[source].popleft(), 0)

    def lose(self, source: int) -> None:
        """A side notices that the channel has gone; the other may still write to it, in vain."""
        self.sides[source].detached()

    def connect(self, dials: int) -> None:
        """A new channel: what was under way is lost, and each side hears what the other has taken."""
        self.under_way = [deque(), deque()]
        first, second = self.sides[dials], self.sides[not dials]
        first.detached()
        second.detached()
        second.resume(first.received, 0)
        first.resume(second.received, 0)

    def settle(self) -> None:
        while any(side.wants_to_write or side.acknowledge() for side in self.sides) or any(self.under_way):
            for source in (0, 1):
                self.write(source, 1000)
                self.arrive(source, 1000)


tasks = st.builds(
    lambda slot, attempt, code: msg.Task(slot, attempt, bytes((code,)) * 16, (), 0, 1, 0, 0.0),
    *(st.integers(0, 1), st.integers(0, 3), st.integers(0, 1)),
)
said = st.one_of(
    tasks,
    st.builds(
        lambda slot, attempt: msg.Report(slot, attempt, 0, 1, 0.0, True, ()), st.integers(0, 1), st.integers(0, 3)
    ),
    st.builds(lambda code: msg.Put(bytes((code,)) * 16, "value"), st.integers(0, 1)),
    st.builds(lambda code: msg.Drop(bytes((code,)) * 16), st.integers(0, 1)),
    st.builds(lambda attempt: msg.Revoke(0, attempt, 0), st.integers(0, 3)),
    st.just(msg.Draining()),
)
steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1), said, parts_of),
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(1, 6)),
    st.tuples(st.just("arrive"), st.integers(0, 1), st.integers(1, 6)),
    st.tuples(st.just("lose"), st.integers(0, 1)),
    st.tuples(st.just("connect"), st.integers(0, 1)),
    st.tuples(st.just("acknowledge"), st.integers(0, 1)),
)


def must_keep(earlier: msg.Message, later: msg.Message) -> bool:
    """Whether one means the other, so that they may not overtake each other."""
    ordered = (msg.Task, msg.Report)
    if isinstance(earlier, ordered) and isinstance(later, ordered):
        return earlier.slot == later.slot
    if isinstance(earlier, msg.Put | msg.Drop) and isinstance(later, msg.Put | msg.Drop):
        return earlier.digest == later.digest
    for one, other in ((earlier, later), (later, earlier)):
        if isinstance(one, msg.Task) and isinstance(other, msg.Put | msg.Drop) and one.code == other.digest:
            return True
        if isinstance(one, msg.Task) and isinstance(other, msg.Revoke) and one.attempt == other.attempt:
            return True
    return False


def assert_allowed(sent: list[Sent], came: list[tuple[msg.Message, list[Buffer]]]) -> None:
    """Of each two messages that mean each other, the first came first. Equal ones cannot be told apart."""
    places: dict[str, list[int]] = {}
    for place, (message, parts) in enumerate(came):
        places.setdefault(repr((message, list(map(bytes, parts)))), []).append(place)
    placed = [(message, places[repr((message, parts))].pop(0)) for message, parts in sent]
    for at, (later, second) in enumerate(placed):
        for earlier, first in placed[:at]:
            assert first < second or not must_keep(earlier, later), (earlier, later)


@given(st.lists(steps, max_size=40), st.booleans())
def test_cuts_lose_and_double_nothing(play: list[Any], leaves: bool) -> None:
    """Wherever channels are cut, in both directions, every message comes once, in an order that is allowed."""
    net = Net()
    sent: list[list[Sent]] = [[], []]
    for step in play:
        match step:
            case ("send", side, message, parts):
                net.sides[side].send(message, parts)
                sent[side].append((message, parts))
            case ("write", side, count):
                net.write(side, count)
            case ("arrive", side, count):
                net.arrive(side, count)
            case ("lose", side):
                net.lose(side)
            case ("connect", side):
                net.connect(side)
            case ("acknowledge", side):
                net.sides[side].acknowledge()
    net.connect(0)
    net.settle()
    for source in (0, 1):
        assert net.sides[source].settled
        assert net.sides[source].log.nbytes == net.sides[source].queued_bytes == 0
        assert net.sides[source].repeated == 0
        assert len(net.came[source]) == len(sent[source])
        assert_allowed(sent[source], net.came[source])
    if leaves:
        net.sides[0].send(msg.Bye("done"))
        for count in range(3):
            net.write(0, count)
            net.arrive(0, count % 2)
            if net.sides[0].state != "closed":
                net.connect(1)
        net.settle()
        assert (net.sides[0].state, net.sides[1].state) == ("closed", "left")
