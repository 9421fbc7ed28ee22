"""Two sessions back to back: cutting, order, credits, acknowledgements."""

from __future__ import annotations

import hashlib
import os
import random
import struct
from collections.abc import Sequence

import pytest

from distmap.core.limits import LIMITS
from distmap.errors import PayloadError, ProtocolError
from distmap.tasks._typing import Buffer
from distmap.wire.codec import encode
from distmap.wire.messages import Beat, Bye, Draining, Drop, Interrupt, Message, Output, Put, Report, Task
from distmap.wire.session import Session

A, B = b"a" * 16, b"b" * 16
HEAD = struct.Struct("<B3xIQQ")
OPEN, MORE, ACK, PING, PONG = 1, 2, 3, 4, 5
FRAME, ACK_BYTES, ACK_FRAMES = LIMITS.frame_bytes, LIMITS.ack_bytes, LIMITS.ack_frames

Given = list[tuple[Message, list[Buffer]]]


def task(slot: int, attempt: int, code: bytes = A) -> Task:
    return Task(slot, attempt, code, (), 0, 1, 0, 0.0)


def report(slot: int) -> Report:
    return Report(slot, slot, 0, 1, 0.0, True, ())


def frames(session: Session, limit: int = 10**6) -> list[bytes]:
    """What the session wants to write now."""
    written = []
    while len(written) < limit and (frame := session.outgoing()) is not None:
        written.append(b"".join(frame))
    return written


def carry(sender: Session, receiver: Session, now: float = 0.0) -> Given:
    """Write everything from one to the other, until there is nothing or no credit."""
    return [given for frame in frames(sender) for given in receiver.incoming(frame, now)]


def settle(left: Session, right: Session, now: float = 0.0) -> tuple[Given, Given]:
    """Write to and fro until both are quiet; what arrived at the left, at the right."""
    at_left, at_right = Given(), Given()
    # `acknowledge` is what the conversation's timer does.
    while left.wants_to_write or right.wants_to_write or left.acknowledge() or right.acknowledge():
        at_right += carry(left, right, now)
        at_left += carry(right, left, now)
    return at_left, at_right


def digest(given: tuple[Message, list[Buffer]]) -> tuple[str, list[str]]:
    message, parts = given
    return repr(message), [hashlib.sha256(part).hexdigest() for part in parts]


def names(given: Given) -> list[str]:
    return [type(message).__name__ for message, _ in given]


# --- cutting and joining ---------------------------------------------------------------------------------------------


def test_a_small_message_is_one_frame() -> None:
    """A message and its parts that fit in one frame travel in one."""
    left, right = Session(0), Session(0)
    left.send(task(0, 1), [b"head", bytearray(100), memoryview(b"view")])
    [frame] = frames(left)
    assert right.incoming(frame, 0) == [(task(0, 1), [b"head", bytearray(100), b"view"])]


@pytest.mark.parametrize("size", [FRAME - 200, FRAME, 3 * FRAME, 3 * FRAME + 1])
def test_a_large_message_is_cut(size: int) -> None:
    """No frame is larger than the limit, and the parts come out as they went in."""
    left, right = Session(0), Session(0)
    parts = [b"head", os.urandom(size), b"", bytearray(os.urandom(1000))]
    left.send(Put(A, "value"), parts)
    written = frames(left)
    assert max(map(len, written)) <= FRAME
    assert len(written) <= size // FRAME + 2
    given = [given for frame in written for given in right.incoming(frame, 0)]
    assert given == [(Put(A, "value"), parts)]


def test_frames_hold_references_not_copies() -> None:
    """What is written of a large part are views of it."""
    left = Session(0)
    part = bytearray(2 * FRAME)
    left.send(Put(A, "value"), [part])
    frame = left.outgoing()
    assert frame is not None
    assert any(isinstance(piece, memoryview) and piece.obj is part for piece in frame)


def test_parts_are_owned_and_writable() -> None:
    """What arrives can be written to and does not change with the frame it came in."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [b"x" * 10, b"y" * (2 * FRAME)])
    given = Given()
    for written in frames(left):
        frame = bytearray(written)
        given += right.incoming(frame, 0)
        frame[:] = bytes(len(frame))
    [(_, parts)] = given
    assert parts == [b"x" * 10, b"y" * (2 * FRAME)]
    for part in parts:
        part[0] = 0  # type: ignore[index]


def test_memory_comes_from_the_allocator() -> None:
    """A caller that has better memory than bytearray's gives it."""
    asked: list[int] = []

    def allocate(size: int) -> Buffer:
        asked.append(size)
        return memoryview(bytearray(size))

    left, right = Session(0), Session(0, allocate=allocate)
    left.send(Put(A, "value"), [b"12", b"345"])
    carry(left, right)
    assert asked == [2, 3]


def test_a_meta_block_of_many_frames() -> None:
    """A report that names more failed items than fit in a frame arrives, with and without parts."""
    left, right = Session(0), Session(0)
    big = Report(0, 1, 0, 200_000, 0.0, True, tuple(range(200_000)))
    left.send(big)
    left.send(big, [b"x"])
    assert carry(left, right) == [(big, []), (big, [b"x"])]


@pytest.mark.parametrize("pieces", ["whole", "random"])
def test_seeded_traffic(pieces: str) -> None:
    """Random messages of random sizes in both directions all arrive, each once, each as it was sent."""
    chance = random.Random(pieces)
    left, right = (
        Session(0, limits=LIMITS._replace(credit_bytes=FRAME)),
        Session(0, limits=LIMITS._replace(credit_bytes=FRAME)),
    )
    sent: list[Given] = [[], []]
    came: list[Given] = [[], []]
    for number in range(300):
        side = chance.randrange(2)
        sizes = [chance.choice([0, 1, 100, FRAME, 2 * FRAME + 7]) for _ in range(chance.randrange(3))]
        message: Message = chance.choice([task(number, number), Drop(A), Draining(), Put(B, "value")])
        parts: list[Buffer] = [os.urandom(size) for size in sizes]
        (left, right)[side].send(message, parts)
        sent[side].append((message, parts))
        if pieces == "random" and chance.random() < 0.7:
            for source, target, given in ((left, right, came[0]), (right, left, came[1])):
                for frame in frames(source, chance.randrange(3)):
                    given += target.incoming(frame, 0)
    at_left, at_right = settle(left, right)
    came[0] += at_right
    came[1] += at_left
    for there, here in zip(sent, came, strict=True):
        assert sorted(map(digest, there)) == sorted(map(digest, here))


# --- order -----------------------------------------------------------------------------------------------------------


def test_control_goes_before_data() -> None:
    """A message without parts overtakes data that is under way."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [bytes(3 * FRAME)])
    first = left.outgoing()
    assert first is not None
    left.send(Beat(0.5, 0.5, ()))
    right.incoming(b"".join(first), 0)
    assert names(carry(left, right)) == ["Beat", "Put"]


def test_a_small_task_does_not_wait_behind_a_large_put() -> None:
    """It is interleaved if it does not need the Put, and follows it if it does."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [bytes(20 * FRAME)])
    left.send(task(0, 1, B), [b"does not need it"])
    left.send(task(1, 2, A), [b"needs it"])
    left.send(Interrupt(1, 2))
    given = carry(left, right)
    assert [message for message, _ in given] == [task(0, 1, B), Put(A, "value"), task(1, 2, A), Interrupt(1, 2)]


def test_the_large_one_is_not_starved() -> None:
    """However many small ones there are, every second frame is of the oldest."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [bytes(20 * FRAME)])
    for slot in range(100):
        left.send(report(slot), [b"x"])
    order = names(carry(left, right))
    assert 19 <= order.index("Put") <= 24


def test_equal_ones_follow_each_other() -> None:
    """Four tasks of one size arrive one after the other, not all at the end."""
    left, right = Session(0), Session(0)
    for slot in range(4):
        left.send(task(slot, slot), [bytes(5 * FRAME)])
    when = [at for at, frame in enumerate(frames(left)) if right.incoming(frame, 0)]
    assert when[0] <= 6
    assert when == sorted(when)


# --- states ----------------------------------------------------------------------------------------------------------


def test_nothing_follows_bye() -> None:
    """Bye comes last, and what is sent after it is dropped."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [bytes(2 * FRAME)])
    left.send(Bye("done"))
    left.send(Draining())
    assert left.state == "closing"
    assert not left.said_bye
    assert names(carry(left, right)) == ["Put", "Bye"]
    assert left.said_bye
    assert left.state == "parting"
    assert right.state == "left"
    assert right.farewell == "done"
    settle(left, right)
    assert left.state == "closed"
    assert left.said_bye


def test_a_message_that_acknowledges_our_bye_is_dropped() -> None:
    """It crossed the Bye on its way: nobody wants it, and nothing is wrong with it."""
    left, right = Session(0), Session(0)
    left.send(Bye(""))
    right.send(Draining())
    carry(left, right)
    assert carry(right, left) == []
    assert left.state == "closed"


def test_a_message_after_bye_is_refused() -> None:
    """A side that goes on after its goodbye breaks the protocol; its signs of life do not."""
    right = Session(0)
    right.incoming(opened(message_bytes(Bye("done"))), 0)
    right.incoming(HEAD.pack(ACK, 0, 0, 0), 0)
    assert not right.over
    with pytest.raises(ProtocolError, match="a Put came after Bye"):
        right.incoming(opened(GOOD, seq=2, stream=2), 0)


def test_who_leaves_gives_nothing_out() -> None:
    """After our Bye the other side's messages are taken and acknowledged, but given to nobody."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [bytes(2 * FRAME)])
    left.send(Bye(""))
    right.send(Draining())
    assert carry(right, left) == []
    assert left.state == "closing"
    assert names(carry(left, right)) == ["Put", "Bye"]
    assert right.settled


def test_a_session_that_was_ended_is_quiet() -> None:
    """It gives nothing out and ignores what is still under way, however malformed. Ending twice is fine."""
    left = Session(0)
    left.send(Draining())
    left.end()
    left.end()
    assert left.over
    assert left.outgoing() is None
    assert left.incoming(b"?", 0) == []
    assert left.state == "closed"


def test_a_session_shows_itself_in_one_line() -> None:
    """State, what was written and what came in: enough for a log."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [bytes(2 * FRAME)])
    frame = left.outgoing()
    assert frame is not None
    right.incoming(b"".join(frame), 0)
    assert repr(left) == (
        "<Session open: 1 frames out, 1 of them unacknowledged, 1 messages to write; 0 frames in, "
        "0 messages incomplete>"
    )
    assert "1 frames in, 1 messages incomplete" in repr(right)


# --- credits and acknowledgements ------------------------------------------------------------------------------------


def test_data_stops_at_the_window() -> None:
    """At most a window of data (and one frame) is unacknowledged; control still goes; acknowledging lets data flow."""
    left, right = Session(0, limits=LIMITS._replace(credit_bytes=4 * FRAME)), Session(0)
    left.send(Put(A, "value"), [bytes(10 * FRAME)])
    written = frames(left)
    assert 4 <= len(written) <= 5
    assert not left.wants_to_write
    left.send(Beat(0.0, 0.0, ()))
    assert left.wants_to_write
    written += frames(left)
    for frame in written:
        right.incoming(frame, 0)
    assert right.acknowledge()
    assert carry(right, left) == []
    assert left.wants_to_write
    assert len(frames(left)) >= 4


def test_what_was_printed_and_not_written_is_known() -> None:
    """Whoever prints faster than the link carries can see it, down to nothing when all was written."""
    left, right = Session(0), Session(0)
    assert left.printed == 0
    left.send(report(0), [bytes(100)])
    assert left.printed == 0
    left.send(Output(0, 0, 0, ((0, 0, 2 * FRAME),)), [bytes(2 * FRAME)])
    assert 2 * FRAME < left.printed < 2 * FRAME + 200
    written = frames(left, 3)
    assert left.printed > 2 * FRAME
    written += frames(left)
    assert left.printed == 0
    assert len([given for frame in written for given in right.incoming(frame, 0)]) == 2


def test_two_full_windows_do_not_lock_each_other() -> None:
    """Both sides send more than the window at once, and all of it arrives."""
    left, right = (
        Session(0, limits=LIMITS._replace(credit_bytes=2 * ACK_BYTES)),
        Session(0, limits=LIMITS._replace(credit_bytes=2 * ACK_BYTES)),
    )
    for side in (left, right):
        for slot in range(3):
            side.send(report(slot), [bytes(2 * ACK_BYTES)])
    at_left, at_right = settle(left, right)
    assert names(at_left) == names(at_right) == ["Report"] * 3


def test_the_oldest_frame_that_nobody_acknowledged_is_known() -> None:
    """Whoever looks twice sees whether anything that was sent arrives."""
    left, right = Session(0), Session(0)
    assert left.log.oldest is None
    left.send(report(0), [b"x"])
    left.send(report(0), [b"y"])
    assert left.log.oldest is None
    carry(left, right)
    assert left.log.oldest == 1
    right.acknowledge()
    carry(right, left)
    assert left.log.oldest is None


def test_acknowledgements_ride_on_frames() -> None:
    """What goes out anyway carries the acknowledgement; none of its own follows."""
    left, right = Session(0), Session(0)
    left.send(task(0, 1), [b"x"])
    carry(left, right)
    assert right.owes
    assert not left.settled
    right.send(report(0), [b"y"])
    carry(right, left)
    assert left.settled
    assert not right.owes
    assert not right.acknowledge()
    assert right.outgoing() is None


@pytest.mark.parametrize(("count", "size"), [(ACK_FRAMES, 1), (ACK_BYTES // FRAME + 1, FRAME - 500)])
def test_enough_frames_or_bytes_are_acknowledged_at_once(count: int, size: int) -> None:
    """The sender does not keep much for a receiver that has nothing to say."""
    left, right = Session(0), Session(0)
    for slot in range(count):
        assert not right.wants_to_write
        left.send(report(slot), [bytes(size)])
        carry(left, right)
    assert right.wants_to_write
    carry(right, left)
    assert left.settled


def test_a_late_acknowledgement_is_asked_for() -> None:
    """`acknowledge` sends what is owed, once."""
    left, right = Session(0), Session(0)
    assert not right.acknowledge()
    left.send(Draining())
    carry(left, right)
    assert right.acknowledge()
    [frame] = frames(right)
    assert HEAD.unpack(frame) == (ACK, 0, 0, 1)
    left.incoming(frame, 0)
    assert left.settled


def test_memory_is_let_go_when_acknowledged() -> None:
    """The sender keeps the parts until then, and not longer."""
    left, right = Session(0), Session(0)
    part = bytearray(2 * FRAME)
    left.send(Put(A, "value"), [memoryview(part)])
    carry(left, right)
    with pytest.raises(BufferError):
        part.append(0)
    right.acknowledge()
    carry(right, left)
    part.append(0)


def test_repeated_frames_are_dropped() -> None:
    """A frame that comes again, as after a reconnect, changes nothing; nor does an acknowledgement."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [bytes(3 * FRAME)])
    left.send(Draining())
    written = frames(left)
    given = Given()
    for frame in written:
        given += right.incoming(frame, 0)
        given += right.incoming(frame, 0)
    assert names(given) == ["Draining", "Put"]
    right.acknowledge()
    [ack] = frames(right)
    left.incoming(ack, 0)
    left.incoming(ack, 0)
    assert left.settled


# --- resuming --------------------------------------------------------------------------------------------------------


def reconnect(left: Session, right: Session, now: float = 0.0) -> None:
    """The channel goes, and a new one comes, over which each side tells the other what it has taken."""
    left.detached()
    right.detached()
    left.resume(right.received, now)
    right.resume(left.received, now)


def test_what_was_lost_on_its_way_comes_again_and_first() -> None:
    """In the old order, under the old numbers, with what has come in since acknowledged; new messages follow."""
    left, right = Session(0), Session(0)
    for slot in range(4):
        left.send(report(slot), [bytes((slot,)) * 10])
    written = frames(left)
    assert right.incoming(written[0], 0) == [(report(0), [bytes(10)])]
    right.send(Draining())
    carry(right, left)
    left.send(report(4), [b"new"])
    reconnect(left, right)
    assert left.wants_to_write
    again = frames(left)
    assert [HEAD.unpack_from(frame)[:3] for frame in again[:3]] == [
        HEAD.unpack_from(frame)[:3] for frame in written[1:]
    ]
    assert [frame[HEAD.size :] for frame in again[:3]] == [frame[HEAD.size :] for frame in written[1:]]
    assert {HEAD.unpack_from(frame)[3] for frame in again} == {1}
    given = [given for frame in again for given in right.incoming(frame, 0)]
    assert [message for message, _ in given] == [report(slot) for slot in range(1, 5)]
    assert (left.resumes, left.replayed, right.repeated) == (1, 3, 0)
    settle(left, right)
    assert left.settled
    assert left.log.nbytes == right.log.nbytes == 0


def test_a_message_may_come_over_two_channels() -> None:
    """The first frames of it over one, the rest over the next: it is given out once, whole."""
    left, right = Session(0), Session(0)
    part = os.urandom(5 * FRAME)
    left.send(Put(A, "value"), [part])
    written = frames(left)
    assert [given for frame in written[:2] for given in right.incoming(frame, 0)] == []
    reconnect(left, right)
    assert carry(left, right) == [(Put(A, "value"), [part])]


def test_frames_are_sent_again_by_reference() -> None:
    """Only the head is made anew."""
    left, right = Session(0), Session(0)
    part = bytearray(2 * FRAME)
    left.send(Put(A, "value"), [part])
    frames(left)
    reconnect(left, right)
    frame = left.outgoing()
    assert frame is not None
    assert any(isinstance(piece, memoryview) and piece.obj is part for piece in frame)


def test_without_a_channel_nothing_goes_out_or_in() -> None:
    """Messages can be sent meanwhile, and the old channel's last frames are left to the next one."""
    left, right = Session(0), Session(0)
    left.send(report(0), [b"x"])
    [late] = frames(left)
    right.ping(0)
    right.send(Draining())
    left.detached()
    right.detached()
    assert not right.attached
    assert right.outgoing() is None
    assert not right.wants_to_write
    right.send(Drop(A))
    assert right.incoming(late, 0) == []
    assert (right.received, right.owes, right.acknowledge()) == (0, False, False)
    left.resume(right.received, 0)
    right.resume(left.received, 0)
    assert [HEAD.unpack_from(frame)[0] for frame in frames(right)] == [OPEN, OPEN]  # no ping of the old channel
    assert names(carry(left, right)) == ["Report"]


def test_a_number_that_was_told_acknowledges() -> None:
    """What the other side took is let go of at once, and no acknowledgement of it follows."""
    left, right = Session(0), Session(0)
    part = bytearray(10)
    left.send(report(0), [memoryview(part)])
    carry(left, right)
    assert right.owes
    reconnect(left, right)
    assert left.settled
    part.append(0)
    assert not right.owes
    assert not right.acknowledge()
    assert right.outgoing() is None


def test_a_new_channel_may_come_before_the_old_one_is_missed() -> None:
    """The other side knows sooner that it is gone: no `detached` of our own is needed."""
    left, right = Session(0), Session(0)
    left.ping(0)
    left.send(report(0), [b"x"])
    left.outgoing()
    left.outgoing()
    left.ping(0)
    right.detached()
    left.resume(right.received, 0)
    right.resume(left.received, 0)
    assert names(carry(left, right)) == ["Report"]
    assert not right.wants_to_write  # no pong for a ping of the old channel


@pytest.mark.parametrize(("received", "text"), [(0, "has 0 frames now"), (3, "only 2 were sent")])
def test_another_session_is_refused(received: int, text: str) -> None:
    """Who claims more frames than were sent, or fewer than it acknowledged, is not the other side of this session."""
    left, right = Session(0), Session(0)
    left.send(report(0), [b"x"])
    carry(left, right)
    right.send(Draining())
    carry(right, left)
    left.send(report(1), [b"y"])
    carry(left, right)
    left.detached()
    with pytest.raises(ProtocolError, match=text):
        left.resume(received, 0)
    assert not left.attached
    assert left.resumes == 0
    left.resume(1, 0)
    assert len(frames(left)) == 1


def test_a_number_that_is_out_of_date_is_seen_before_anything_is_given_up() -> None:
    """A dial may come after a later one has gone on with the session: its number is refused, the session is kept."""
    left, right = Session(0), Session(0)
    left.send(report(0), [b"x"])
    frames(left)
    left.detached()
    late = left.received
    reconnect(left, right)
    right.send(Draining())
    settle(left, right)
    right.send(Drop(A))
    assert not right.can_resume(late)
    assert right.can_resume(left.received)
    assert not right.can_resume(left.received + 2)
    assert right.attached
    assert names(carry(right, left)) == ["Drop"]
    right.end()
    assert not right.can_resume(left.received)


def test_a_session_that_has_ended_is_not_resumed() -> None:
    """Nothing would come of it: neither after `end`, nor after an error, nor after an acknowledged Bye."""
    ended, failed, parted, other = Session(0), Session(0), Session(0), Session(0)
    ended.end()
    with pytest.raises(ProtocolError):
        failed.incoming(b"?", 0)
    parted.send(Bye(""))
    settle(parted, other)
    for session in (ended, failed, parted):
        with pytest.raises(ProtocolError, match="cannot be resumed"):
            session.resume(0, 0)


def test_a_bye_is_sent_again() -> None:
    """One that was queued goes out over the new channel, and one that was lost on its way comes again."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [bytes(2 * FRAME)])
    left.send(Bye("done"))
    left.outgoing()
    reconnect(left, right)
    frames(left)
    assert left.state == "parting"
    reconnect(left, right)
    assert left.state == "parting"
    assert names(carry(left, right)) == ["Put", "Bye"]
    assert right.farewell == "done"
    reconnect(left, right)
    assert left.state == "closed"


def test_what_was_acknowledged_meanwhile_is_not_sent_again() -> None:
    """The other side may acknowledge the first frames while the later ones still wait to be given out again."""
    left, right = Session(0), Session(0)
    for slot in range(3):
        left.send(report(slot), [b"x"])
    frames(left)
    reconnect(left, right)
    right.incoming(frames(left, 1)[0], 0)
    right.acknowledge()
    carry(right, left)
    reconnect(left, right)
    first = frames(left, 1)[0]
    assert HEAD.unpack_from(first)[2] == 2
    right.incoming(first, 0)
    for frame in frames(right):
        left.incoming(frame, 0)
    assert names(carry(left, right)) == ["Report"]


def test_a_repeated_frame_is_counted_and_acknowledged() -> None:
    """Its sender does not know that it was taken, so it is told."""
    left, right = Session(0), Session(0)
    left.send(Draining())
    [frame] = frames(left)
    right.incoming(frame, 0)
    right.acknowledge()
    frames(right)
    assert right.incoming(frame, 0) == []
    assert right.repeated == 1
    assert right.acknowledge()
    assert carry(right, left) == []
    assert left.settled


def test_a_full_log_is_back_pressure() -> None:
    """No new frame is cut, of control neither, while pings and acknowledgements still go; nothing is lost."""
    small = LIMITS._replace(log_bytes=10 * HEAD.size)
    left, right = Session(0, limits=small), Session(0)
    for _ in range(100):
        left.send(Drop(A))
    written = frames(left)
    assert left.log.nbytes == sum(map(len, written))
    assert 10 * HEAD.size <= left.log.nbytes < 14 * HEAD.size
    assert not left.wants_to_write
    left.ping(0)
    right.send(Draining())
    carry(right, left)
    left.acknowledge()
    assert [HEAD.unpack_from(frame)[0] for frame in frames(left)] == [PING]
    left.acknowledge()
    given = [given for frame in written for given in right.incoming(frame, 0)]
    given += settle(left, right)[1]
    assert names(given) == ["Drop"] * 100
    assert left.log.nbytes == 0


def test_what_no_frame_was_cut_of_is_known() -> None:
    """In bytes, down to nothing when all was cut: so results that wait for a new channel can be bounded."""
    left = Session(0)
    assert left.queued_bytes == 0
    left.detached()
    left.send(report(0), [bytes(3 * FRAME)])
    left.send(Draining())
    assert 3 * FRAME < left.queued_bytes < 3 * FRAME + 200
    left.resume(0, 0)
    frames(left, 2)
    assert 2 * FRAME < left.queued_bytes < 2 * FRAME + 200
    frames(left)
    assert left.queued_bytes == 0


def test_parts_are_let_go_of_though_larger_ones_wait() -> None:
    """The sender keeps nothing of a message that was acknowledged, whichever of its queues still names it."""
    left, right = Session(0), Session(0)
    left.send(Put(A, "value"), [bytes(3 * FRAME)])
    kept = bytearray(100)
    left.send(report(0), [memoryview(kept)])
    left.send(report(1), [bytes(2 * FRAME)])
    given = Given()
    while ("Report", [100]) not in [(type(message).__name__, list(map(len, parts))) for message, parts in given]:
        given += right.incoming(frames(left, 1)[0], 0)
    right.acknowledge()
    carry(right, left)
    assert left.queued_bytes
    kept.append(0)


# --- what is refused -------------------------------------------------------------------------------------------------


def message_bytes(message: Message, sizes: Sequence[int] = (), data: bytes = b"") -> bytes:
    meta = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes) + encode(message)
    return struct.pack("<I", len(meta)) + meta + data


def opened(body: bytes, seq: int = 1, stream: int = 1, ack: int = 0) -> bytes:
    return HEAD.pack(OPEN, stream, seq, ack) + body


GOOD = message_bytes(Put(A, "value"), [4], b"1234")


def test_the_hand_made_frame_is_good() -> None:
    """The layout that the following tests damage is the real one."""
    assert Session(0).incoming(opened(GOOD), 0) == [(Put(A, "value"), [b"1234"])]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0" * 23,
        opened(GOOD, seq=2),
        opened(GOOD, ack=1),
        opened(GOOD + b"x"),
        opened(b"\1\0"),
        opened(struct.pack("<I", 3) + b"abc"),
        opened(struct.pack("<I", LIMITS.meta_bytes + 1)),
        opened(struct.pack("<II", 4, 0)),
        opened(struct.pack("<III", 8, 2, 0)),
        opened(message_bytes(Put(A, "value"), [2**63])),
        opened(message_bytes(Put(A, "value"), [LIMITS.message_bytes // 2, LIMITS.message_bytes // 2 + 1])),
        HEAD.pack(MORE, 1, 1, 0) + b"x",
        HEAD.pack(0, 0, 0, 0),
        HEAD.pack(9, 0, 0, 0),
        HEAD.pack(ACK, 0, 0, 0) + b"x",
        HEAD.pack(PING, 0, 0, 0) + b"x",
        HEAD.pack(PONG, 0, 0, 0) + b"123456789",
    ],
    ids=lambda frame: frame[:40].hex(),
)
def test_malformed_frames_are_refused(frame: bytes) -> None:
    """Each is a ProtocolError; nothing is given out and no memory taken for what was announced."""

    def allocate(size: int) -> Buffer:
        assert size <= 4
        return bytearray(size)

    with pytest.raises(ProtocolError):
        Session(0, allocate=allocate).incoming(frame, 0)


def test_every_damaged_frame_is_refused_or_harmless() -> None:
    """Any change of one byte gives ProtocolError or a message, never another error."""
    frame = opened(GOOD)
    for at in range(len(frame)):
        for value in (0, 1, 127, 255):
            damaged = bytearray(frame)
            damaged[at] = value
            try:
                Session(0, limits=LIMITS._replace(message_bytes=100)).incoming(damaged, 0)
            except ProtocolError:
                continue


def test_a_session_that_failed_does_nothing_more() -> None:
    """Where a frame was malformed nobody knows what the next one is: none is taken, nothing is sent."""
    right = Session(0)
    right.send(Draining())
    with pytest.raises(ProtocolError, match="too short"):
        right.incoming(b"?", 0)
    with pytest.raises(ProtocolError, match="failed before"):
        right.incoming(opened(GOOD), 0)
    right.send(Draining())
    assert right.outgoing() is None
    assert right.state == "failed"
    assert right.over


def test_a_session_may_fail_after_its_goodbye() -> None:
    """What comes in after Bye was sent is still checked."""
    right = Session(0)
    right.send(Bye(""))
    assert right.state == "closing"
    with pytest.raises(ProtocolError):
        right.incoming(b"?", 0)
    assert right.state == "failed"


def test_a_stream_cannot_begin_twice() -> None:
    """An id that is under way is refused."""
    right = Session(0)
    body = message_bytes(Put(A, "value"), [4], b"12")
    assert right.incoming(opened(body), 0) == []
    with pytest.raises(ProtocolError, match="cannot begin"):
        right.incoming(opened(body, seq=2), 0)


def test_streams_under_way_are_limited() -> None:
    """A sender cannot make the receiver keep any number of incomplete messages."""
    right = Session(0)
    body = message_bytes(Put(A, "value"), [4], b"12")
    for seq in range(1, LIMITS.streams + 1):
        right.incoming(opened(body, seq=seq, stream=seq), 0)
    with pytest.raises(ProtocolError, match="cannot begin"):
        right.incoming(opened(body, seq=LIMITS.streams + 1, stream=LIMITS.streams + 1), 0)


def test_messages_arrive_byte_by_byte() -> None:
    """However small the pieces, also inside sizes and header, the message is the same."""
    right = Session(0)
    body = message_bytes(Put(A, "value"), [4, 0, 3], b"1234567")
    given = right.incoming(opened(body[:4]), 0)
    for seq, byte in enumerate(body[4:], 2):
        assert given == []
        given = right.incoming(HEAD.pack(MORE, 1, seq, 0) + bytes((byte,)), 0)
    assert given == [(Put(A, "value"), [b"1234", b"", b"567"])]


def test_a_message_too_large_is_not_sent() -> None:
    """The sender refuses it before the receiver would end the conversation."""
    left = Session(0, limits=LIMITS._replace(message_bytes=100))
    with pytest.raises(PayloadError, match="too large"):
        left.send(Put(A, "value"), [bytes(200)])
    left.send(Put(A, "value"), [bytes(10)])
    assert len(frames(left)) == 1


def test_pings_are_echoed() -> None:
    """The peer echoes our own clock, whatever its own is; the answer gives the round trip."""
    left, right = Session(100), Session(7)
    left.ping(100.0)
    carry(left, right, 7)
    carry(right, left, 100.5)
    assert left.peer.rtt == 0.5
    assert right.peer.rtt is None


def test_a_frame_is_a_sign_of_life() -> None:
    """Taking a frame ends the silence."""
    left, right = Session(0), Session(0)
    for now in range(1, 30):
        right.peer.liveness(now)
    left.ping(0)
    carry(left, right, 29)
    for now in range(30, 39):
        assert right.peer.liveness(now) == "fine"
