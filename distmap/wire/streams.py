"""One message as a stream of bytes: cut into frames on its way out, put together on its way in.

Owns the layout of a stream: its meta block (number of parts, their sizes, header), then its parts. It must not know
sequence numbers, credits or the order of messages: that is the business of `session.py`, its only reader.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence

from distmap.core.limits import Limits
from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer
from distmap.wire.codec import decode
from distmap.wire.messages import Message

#: Size of the meta block, which begins a stream, and in the meta block the number of parts.
COUNT = struct.Struct("<I")


class Outgoing:
    """A message on its way out. It holds references to the parts, never copies.

    Args:
        stream: The number of its stream.
        header: The message, encoded.
        parts: What travels with it.
        room: Bytes of it that one frame takes.
    """

    __slots__ = ("_at", "_pieces", "_room", "control", "left", "opening", "printed", "stream")

    def __init__(self, stream: int, header: bytes, parts: Sequence[Buffer], room: int) -> None:
        views = [_flat(part) for part in parts]
        meta = struct.pack(f"<I{len(views)}Q", len(views), *map(len, views)) + header
        self.stream = stream
        #: What the first frame begins with, the size of the meta block; empty once that frame has been cut.
        self.opening = COUNT.pack(len(meta))
        #: Bytes that no frame has been cut of.
        self.left = len(meta) + sum(map(len, views))
        #: Whether it goes before all data and needs no credit.
        self.control = not views and len(meta) <= room
        #: Bytes that tasks printed: all of an Output, nothing of another message.
        self.printed = 0
        self._room = room
        self._pieces: deque[Buffer] = deque((meta, *views))
        self._at = 0

    def cut(self) -> list[Buffer]:
        """The bytes of the next frame, as views of the parts."""
        if self.left <= self._room and not self._at:
            self.left = 0
            taken = list(self._pieces)
            # Whoever still refers to this message must not keep its parts alive.
            self._pieces.clear()
            return taken
        room, taken = self._room, []
        while room and self._pieces:
            piece = self._pieces[0]
            size = min(room, len(piece) - self._at)
            taken.append(memoryview(piece)[self._at : self._at + size])
            room -= size
            self._at += size
            if self._at == len(piece):
                self._pieces.popleft()
                self._at = 0
        self.left -= self._room - room
        return taken


class Incoming:
    """A message on its way in: memory for all of it, filled in order.

    The bytes of a frame are copied, once. Views of the frames will not do: a part may come in many frames, its receiver
    may write to it while a frame is read-only, and a small part would keep the whole frame alive.
    """

    __slots__ = ("_allocate", "_at", "_limits", "_target", "_targets", "message", "meta", "parts")

    def __init__(self, meta: int, limits: Limits, allocate: Callable[[int], Buffer]) -> None:
        if not COUNT.size <= meta <= limits.meta_bytes:
            raise ProtocolError(f"a message announces a meta block of {meta} bytes; {limits.meta_bytes} are allowed")
        self.meta = bytearray(meta)
        self.message: Message | None = None
        self.parts: list[Buffer] = []
        # Memory to fill: meta block, then parts. `_target` counts those that are full, `_at` bytes in the next one.
        self._targets = [memoryview(self.meta)]
        self._target = self._at = 0
        self._limits = limits
        self._allocate = allocate

    def feed(self, data: memoryview) -> bool:
        """Take the next bytes; True when the message is complete."""
        while self._target < len(self._targets):
            target = self._targets[self._target]
            size = min(len(data), len(target) - self._at)
            target[self._at : self._at + size] = data[:size]
            data = data[size:]
            self._at += size
            if self._at < len(target):
                return False
            self._target += 1
            self._at = 0
            if self.message is None:
                self._make_room()
        if data:
            raise ProtocolError(f"a message has {len(data)} bytes more than it announced")
        return True

    def _make_room(self) -> None:
        """The meta block is complete: check the sizes that it announces, then take the memory."""
        (count,) = COUNT.unpack_from(self.meta)
        sized = COUNT.size + 8 * count
        if sized > len(self.meta):
            raise ProtocolError(f"a message announces {count} parts in a meta block of {len(self.meta)} bytes")
        sizes = struct.unpack_from(f"<{count}Q", self.meta, COUNT.size)
        if sum(sizes) > self._limits.message_bytes:
            raise ProtocolError(f"a message announces {sum(sizes)} bytes; {self._limits.message_bytes} are allowed")
        self.message = decode(memoryview(self.meta)[sized:])
        self.parts = [self._allocate(size) for size in sizes]
        self._targets.extend(map(memoryview, self.parts))


def _flat(part: Buffer) -> Buffer:
    """The part as one dimension of bytes, so that len() counts bytes."""
    if isinstance(part, memoryview) and (part.ndim != 1 or part.itemsize != 1):
        # cast() refuses views with a zero in their shape.
        return part.cast("B") if part.nbytes else b""
    return part
