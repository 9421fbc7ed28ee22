"""Frames come out as they went in, however the stream is cut."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from distmap.errors import ProtocolError
from distmap.slots.frames import Inbox, Outbox, SegmentRef, pack_frame


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    a, b = socket.socketpair()
    with a, b:
        yield a, b


CASES = [
    (b"h", []),
    (b"", [b""]),
    (b"header", [b"one", bytearray(b"two"), memoryview(b"three")]),
    (b"x" * 100_000, [b"y" * 10]),
    (b"big", [os.urandom(300_000), b"", os.urandom(70_000)]),
    (b"far", [SegmentRef(7, 1 << 33), b"near", SegmentRef(8, 5)]),
]


def plain(parts: list[object]) -> list[object]:
    return [part if isinstance(part, SegmentRef) else bytes(part) for part in parts]  # type: ignore[call-overload]


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_every_cut_gives_the_same_frames(pair: tuple[socket.socket, socket.socket], piece: int) -> None:
    """Frames sent whole, in crumbs or many at once are read back as they were."""
    a, b = pair
    b.setblocking(False)
    inbox = Inbox(b)
    cases = [case for case in CASES if piece > 7 or (len(case[0]) < 1000 and case[0] != b"big")]
    stream = b"".join(bytes(buffer) for header, parts in cases for buffer in pack_frame(header, parts))
    found = []
    for at in range(0, len(stream), piece):
        rest = memoryview(stream)[at : at + piece]
        while rest:
            rest = rest[a.send(rest[:50_000]) :]
            try:
                while inbox.fill():
                    while (frame := inbox.pop()) is not None:
                        found.append((frame[0], plain(frame[1])))
            except BlockingIOError:
                pass
    assert found == [(header, plain(parts)) for header, parts in cases]


def test_frames_that_are_held_go_in_one_write() -> None:
    """Each write wakes the other end. A frame with a descriptor has a write of its own."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)  # keeps writes apart
    with a, b:
        outbox = Outbox(a)
        frames = [pack_frame(name, [name]) for name in (b"one", b"two", b"three", b"four")]
        outbox.hold(frames[0])
        outbox.hold(frames[1])
        outbox.hold(frames[2], os.dup(0))
        outbox.hold(frames[3])
        assert outbox
        assert outbox.flush()
        assert not outbox
        one, two, three, four = (b"".join(bytes(buffer) for buffer in frame) for frame in frames)
        data, descriptors, *_ = socket.recv_fds(b, 1000, 4)
        assert (data, descriptors) == (one + two, [])
        data, descriptors, *_ = socket.recv_fds(b, 1000, 4)
        assert (data, len(descriptors)) == (three, 1)
        os.close(descriptors[0])
        assert b.recv(1000) == four


def test_what_does_not_fit_waits_and_goes_later(pair: tuple[socket.socket, socket.socket]) -> None:
    """A socket that is full keeps nobody waiting; the rest follows when it drains."""
    a, b = pair
    a.setblocking(False)
    outbox, inbox = Outbox(a), Inbox(b)
    data = os.urandom(3 << 20)
    assert not outbox.send(pack_frame(b"first", [data] * 2))
    assert not outbox.send(pack_frame(b"second"))
    assert outbox
    found = []
    while len(found) < 2:
        while (frame := inbox.pop()) is not None:
            found.append(frame)
        outbox.flush()
        if len(found) < 2:
            inbox.fill()
    assert not outbox
    assert found[0] == (b"first", [bytearray(data)] * 2)
    assert found[1] == (b"second", [])


def test_more_buffers_than_one_call_takes(pair: tuple[socket.socket, socket.socket]) -> None:
    """A frame of thousands of parts is written in several gathers."""
    a, b = pair
    Outbox(a).send(pack_frame(b"many", [bytes([n % 256]) for n in range(3000)]))
    inbox = Inbox(b)
    while (frame := inbox.pop()) is None:
        inbox.fill()
    assert frame[1] == [bytearray([n % 256]) for n in range(3000)]


def test_descriptors_arrive_with_their_frames(pair: tuple[socket.socket, socket.socket]) -> None:
    """Each descriptor is taken in the order of the frames, and the sender's copy is closed."""
    a, b = pair
    outbox, inbox = Outbox(a), Inbox(b)
    sent = []
    for text in (b"one", b"two"):
        fd = os.memfd_create("distmap-test")
        os.write(fd, text)
        sent.append(fd)
        outbox.send(pack_frame(text), fd)
        outbox.send(pack_frame(b"between", [b"x" * 1000]))
    for fd in sent:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
    headers = []
    while len(headers) < 4:
        inbox.fill()
        while (frame := inbox.pop()) is not None:
            headers.append(frame[0])
            if frame[0] != b"between":
                fd = inbox.take_fd()
                assert os.pread(fd, 10, 0) == frame[0]
                os.close(fd)
    with pytest.raises(ProtocolError, match="none came"):
        inbox.take_fd()


def test_closing_closes_descriptors_on_both_sides(pair: tuple[socket.socket, socket.socket]) -> None:
    """Descriptors that were not passed on, or not taken, do not leak."""
    a, b = pair
    a.setblocking(False)
    outbox, inbox = Outbox(a), Inbox(b)
    first, second = os.memfd_create("distmap-test"), os.memfd_create("distmap-test")
    outbox.send(pack_frame(b"x"), first)
    inbox.fill()
    outbox.send(pack_frame(b"full", [bytes(4 << 20)]))
    outbox.send(pack_frame(b"never"), second)
    outbox.close()
    inbox.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(second)


@pytest.mark.parametrize(
    "noise",
    [b"\xff" * 64, b"\0\0\0\x7f" + bytes(60), b"\0\0\0\0\1\0\0\0" + b"\xff" * 16],
)
def test_noise_is_refused(pair: tuple[socket.socket, socket.socket], noise: bytes) -> None:
    """Bytes that announce impossible sizes are an error, not an allocation."""
    a, b = pair
    a.send(noise)
    inbox = Inbox(b)
    inbox.fill()
    with pytest.raises(ProtocolError, match="noise"):
        inbox.pop()


def test_a_small_frame_goes_at_once_or_not_at_all(pair: tuple[socket.socket, socket.socket]) -> None:
    """Where a frame would wait, is large or has nowhere to go nothing of it is written."""
    a, b = pair
    outbox, inbox = Outbox(a), Inbox(b)
    assert outbox.send_at_once(pack_frame(b"h", [b"text"]))
    inbox.fill()
    assert inbox.pop() == (b"h", [bytearray(b"text")])
    assert not outbox.send_at_once(pack_frame(b"h", [bytes(100_000)]))
    sent = 0
    while outbox.send_at_once(pack_frame(b"h", [bytes(10_000)])):
        sent += 1
    assert sent > 2
    b.setblocking(False)
    found = 0
    while inbox.waiting():
        inbox.fill()
        while inbox.pop() is not None:
            found += 1
    assert found == sent
    a.close()
    assert not outbox.send_at_once(pack_frame(b"h", [b"text"]))


def test_what_a_signal_handler_raises_is_not_taken_for_the_sockets(pair: tuple[socket.socket, socket.socket]) -> None:
    """TimeoutError out of a handler is an OSError too; it passes through."""
    outbox = Outbox(pair[0])

    class Socket:
        def fileno(self) -> int:
            raise TimeoutError  # as a handler would, in a frame of its own

    outbox._sock = Socket()  # type: ignore[assignment]
    with pytest.raises(TimeoutError):
        outbox.send_at_once(pack_frame(b"h"))
