"""Frames on the socket pair between a slot and its task process.

Owns the byte layout and the two ends of the stream: what waits to be written, what has been read. Knows no message:
a frame is a header (bytes) and parts. Imported by task processes, so it needs no more than `_socket` and `struct`.

    u32 header length | u32 number of parts | per part: u64 length, u64 segment (0: inline) | header | inline parts

A descriptor travels with the first byte of its frame and is taken, in order, by whoever handles the frame.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
from collections import deque
from collections.abc import Sequence

from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer, NamedTuple

_PREFIX = struct.Struct("<II")
_PART = struct.Struct("<QQ")
_FD = struct.Struct("i")

#: What one receive takes at most; small frames come many at once.
_RECEIVE = 64 << 10
#: A frame up to this size is small.
_AT_ONCE = 16 << 10
#: The kernel takes at most 1024 buffers in one call (IOV_MAX).
_GATHER = 512
#: User code can write to any descriptor it finds: announced sizes beyond these are noise, not frames.
_MAX_HEADER = 64 << 20
_MAX_PARTS = 1 << 20
_MAX_PART = 1 << 40

_HAS_MESSAGES = hasattr(_socket.socket, "sendmsg")  # not on Windows
_ANCILLARY = _socket.CMSG_SPACE(16 * _FD.size) if _HAS_MESSAGES else 0
_CLOEXEC = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)


class SegmentRef(NamedTuple):
    """A part that lies in a shared segment."""

    segment: int
    length: int


def pack_frame(header: bytes, parts: Sequence[Buffer | SegmentRef] = ()) -> list[Buffer]:
    """The buffers of one frame, to be written one after the other. Parts are not copied."""
    head = [_PREFIX.pack(len(header), len(parts))]
    inline: list[Buffer] = []
    for part in parts:
        if isinstance(part, SegmentRef):
            head.append(_PART.pack(part.length, part.segment))
            continue
        length = part.nbytes if isinstance(part, memoryview) else len(part)
        head.append(_PART.pack(length, 0))
        if length:
            inline.append(part)
    head.append(header)
    return [b"".join(head), *inline]


class Outbox:
    """What waits to be written. On a blocking socket nothing ever waits."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._waiting: deque[tuple[deque[Buffer], int]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, buffers: Sequence[Buffer], fd: int = -1) -> bool:
        """Write a frame as far as it goes now; True if nothing is left. `fd` is closed once it was passed on."""
        self._waiting.append((deque(buffers), fd))
        return len(self._waiting) == 1 and self.flush()

    def hold(self, buffers: Sequence[Buffer], fd: int = -1) -> None:
        """Keep a frame for the next `flush`, with what comes meanwhile."""
        self._waiting.append((deque(buffers), fd))

    def send_at_once(self, buffers: Sequence[Buffer]) -> bool:
        """Write a small frame with one system call if that takes no waiting, else nothing; True if it was written.

        On a blocking socket. An exception out of a signal handler cannot tear such a frame.
        """
        frame = b"".join(buffers)
        if len(frame) > _AT_ONCE or self._waiting:
            return False
        try:
            # A socket is writable only while most of its buffer is free: all of it fits.
            if not select.select([], [self._sock], [], 0)[1]:
                return False
            self._sock.sendall(frame)
        except (OSError, ValueError) as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # by a signal handler of the task's, such as TimeoutError
            return False  # it is gone, or was closed: whoever waits will see
        return True

    def flush(self) -> bool:
        """Write what waits as far as it goes; True if nothing is left. Raises OSError if the other end is gone."""
        while self._waiting:
            buffers, fd = self._waiting[0]
            if fd < 0:
                # Frames without a descriptor go together: each write wakes the other end.
                while len(self._waiting) > 1 and self._waiting[1][1] < 0 and len(buffers) < _GATHER:
                    self._waiting.popleft()
                    buffers.extend(self._waiting[0][0])
                    self._waiting[0] = (buffers, -1)
            while buffers:
                try:
                    sent = self._write(buffers, fd)
                except BlockingIOError:
                    return False
                if fd >= 0:
                    os.close(fd)
                    fd = -1
                    self._waiting[0] = (buffers, fd)
                first = buffers[0]
                if len(buffers) == 1 and type(first) is bytes and sent == len(first):
                    break  # most often
                _advance(buffers, sent)
            self._waiting.popleft()
        return True

    def _write(self, buffers: deque[Buffer], fd: int) -> int:
        if not _HAS_MESSAGES:
            return self._sock.send(buffers[0])
        some = buffers if len(buffers) <= _GATHER else [buffers[i] for i in range(_GATHER)]
        if fd < 0:
            return self._sock.sendmsg(some)
        return self._sock.sendmsg(some, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FD.pack(fd))])

    def close(self) -> None:
        """Forget what waits, and close descriptors that were not passed on."""
        for _, fd in self._waiting:
            if fd >= 0:
                os.close(fd)
        self._waiting.clear()


def _advance(buffers: deque[Buffer], sent: int) -> None:
    while buffers:
        first = memoryview(buffers[0])
        if sent < first.nbytes:
            if sent:
                buffers[0] = first.cast("B")[sent:]
            return
        sent -= first.nbytes
        buffers.popleft()


class Inbox:
    """What has been read. Large parts are received straight into the memory that their user will own."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(_RECEIVE)
        self._view = memoryview(self._buffer)
        self._lo = self._hi = 0
        self._fds: deque[int] = deque()
        self._header: bytes | None = None
        self._sizes: deque[tuple[int, int]] = deque()
        self._parts: list[bytearray | SegmentRef] = []
        #: What is still missing of the last part.
        self._target: memoryview | None = None

    def waiting(self, timeout: float = 0.0) -> bool:
        """Whether something can be received at once, or within `timeout` seconds."""
        return bool(select.select([self._sock], [], [], timeout)[0])

    def fill(self) -> int:
        """Receive once; gives the number of bytes, 0 at the end of the stream. Raises BlockingIOError, OSError."""
        if self._target is not None:
            # Exactly this part, so that no descriptor of a later frame can be in it.
            count = self._sock.recv_into(self._target)
            self._target = self._target[count:] if count < len(self._target) else None
            return count
        if self._lo == self._hi:
            self._lo = self._hi = 0
        elif self._hi == len(self._buffer):
            self._view[: self._hi - self._lo] = bytes(self._view[self._lo : self._hi])
            self._lo, self._hi = 0, self._hi - self._lo
        if not _HAS_MESSAGES:
            count = self._sock.recv_into(self._view[self._hi :])
        else:
            count, ancillary, _, _ = self._sock.recvmsg_into([self._view[self._hi :]], _ANCILLARY, _CLOEXEC)
            for level, kind, data in ancillary:
                if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                    whole = len(data) - len(data) % _FD.size
                    self._fds.extend(fd for (fd,) in _FD.iter_unpack(data[:whole]))
        self._hi += count
        return count

    def pop(self) -> tuple[bytes, list[bytearray | SegmentRef]] | None:
        """The next complete frame, or None: then `fill` again. Raises ProtocolError if these are no frames."""
        if self._target is not None or (self._header is None and not self._begin()):
            return None
        while self._sizes:
            length, segment = self._sizes.popleft()
            if segment:
                self._parts.append(SegmentRef(segment, length))
                continue
            part = bytearray(length)
            self._parts.append(part)
            here = min(length, self._hi - self._lo)
            memoryview(part)[:here] = self._view[self._lo : self._lo + here]
            self._lo += here
            if here < length:
                self._target = memoryview(part)[here:]
                return None
        assert self._header is not None
        frame = self._header, self._parts
        self._header, self._parts = None, []
        return frame

    def _begin(self) -> bool:
        """Read the head of a frame, if all of it is here."""
        have = self._hi - self._lo
        if have < _PREFIX.size:
            return False
        size, count = _PREFIX.unpack_from(self._buffer, self._lo)
        if size > _MAX_HEADER or count > _MAX_PARTS:
            raise ProtocolError(f"a frame announces a header of {size} bytes and {count} parts: that is noise")
        whole = _PREFIX.size + count * _PART.size + size
        if have < whole:
            if whole > len(self._buffer):
                grown = bytearray(whole + _RECEIVE)
                grown[:have] = self._view[self._lo : self._hi]
                self._buffer, self._view = grown, memoryview(grown)
                self._lo, self._hi = 0, have
            return False
        at = self._lo + _PREFIX.size
        for _ in range(count):
            length, segment = _PART.unpack_from(self._buffer, at)
            if length > _MAX_PART:
                raise ProtocolError(f"a frame announces a part of {length} bytes: that is noise")
            self._sizes.append((length, segment))
            at += _PART.size
        self._header = bytes(self._view[at : at + size])
        self._lo = at + size
        return True

    def take_fd(self) -> int:
        """The descriptor that came with a frame. Raises ProtocolError if none did."""
        if not self._fds:
            raise ProtocolError("a frame announces a descriptor, but none came with it")
        return self._fds.popleft()

    def close(self) -> None:
        """Close descriptors that nobody took."""
        while self._fds:
            os.close(self._fds.popleft())
