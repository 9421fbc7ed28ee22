"""TLS inside the messages of a channel: for two ends that something stands between.

Owns the encryption of frames, and their borders: a hop in between may cut, join and delay messages, and sees ciphertext
and lengths. It must not know who the other end is: the handshake binds its proof to the listener's certificate, which
`certificate` tells, just as it does over TLS of the connection itself. All of it runs on one event loop.

The plain text is a row of frames, each behind its size (four bytes, big-endian). A frame leaves as one message.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import struct
from collections.abc import Sequence
from typing import cast

from distmap.core.limits import LIMITS
from distmap.tasks._typing import Buffer
from distmap.transport.channel import CLOSE_NORMAL, CLOSE_PROTOCOL, Channel, ChannelClosed

#: The first byte of a TLS handshake record (RFC 8446, 5.1). A proof begins with its size, which is less than 0x1600.
FIRST_BYTE = 0x16

_SIZE = struct.Struct(">I")
#: Plain text of one TLS record. What fits into it is joined: each write makes a record of its own.
_RECORD = 16 << 10


class InnerTLS:
    """A `Channel` inside another one. `handshake` comes first."""

    def __init__(self, outer: Channel, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._outer = outer
        self.peer = outer.peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._clock = asyncio.get_running_loop().time
        self._heard = self._clock()
        # Records must leave in the order in which they were made.
        self._order = asyncio.Lock()
        # What is being received: the size of a frame, or a frame; how much of it is there.
        self._target = bytearray(_SIZE.size)
        self._filled = 0
        self._in_frame = False

    @property
    def last_heard(self) -> float:
        """When something came in that only the other end can have sent: a hop's own bytes are no sign of its life."""
        return self._heard

    @property
    def certificate(self) -> bytes:
        """SHA-256 of the certificate that the listener shows in here. For the side that dialled."""
        shown = self._tls.getpeercert(binary_form=True)
        assert shown is not None, "a server always shows one"
        return hashlib.sha256(shown).digest()

    async def handshake(self, first: Buffer = b"") -> None:
        """Agree on keys. `first`: a message of the other side that has been received already.

        Raises:
            ChannelClosed: The channel is over, or what came is no TLS 1.3.
        """
        self._incoming.write(first)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._outer.recv())
            except ssl.SSLError as error:
                await self._flush()  # the alert
                raise self._broken(f"no TLS inside the messages: {error.reason or error}") from error
            else:
                await self._flush()
                self._heard = self._clock()
                return

    async def send(self, frame: Sequence[Buffer]) -> None:
        """See `Channel`."""
        small = [_SIZE.pack(sum(len(part) for part in frame))]
        views: list[Buffer] = []
        room = _RECORD - _SIZE.size
        for part in frame:
            if not views and len(part) <= room:
                small.append(bytes(part))
                room -= len(part)
            else:
                views.append(part)
        async with self._order:
            self._tls.write(b"".join(small))
            for view in views:
                if len(view):
                    self._tls.write(view)
            await self._flush()

    async def recv(self) -> Buffer:
        """See `Channel`."""
        while (frame := self._take()) is None:
            self._incoming.write(await self._outer.recv())
        return frame

    async def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> None:
        """See `Channel`. A hop sees code and reason, and can forge them: no more than it can do by cutting."""
        await self._outer.close(code, reason)

    def abort(self) -> None:
        """See `Channel`."""
        self._outer.abort()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._outer.send([self._outgoing.read()])

    def _take(self) -> Buffer | None:
        """The next frame, as far as it is there."""
        while True:
            if self._filled == len(self._target):
                if self._in_frame:
                    frame, self._target = self._target, bytearray(_SIZE.size)
                    self._filled, self._in_frame = 0, False
                    return frame
                (size,) = _SIZE.unpack(self._target)
                if size > LIMITS.websocket_bytes:
                    raise self._broken(f"a frame of {size} bytes is announced; {LIMITS.websocket_bytes} are allowed")
                self._target, self._filled, self._in_frame = bytearray(size), 0, True
                continue
            try:
                view = memoryview(self._target)[self._filled :]
                read = cast(int, self._tls.read(len(view), view))  # typeshed: bytes, as without a buffer
            except ssl.SSLWantReadError:
                return None
            except ssl.SSLError as error:
                raise self._broken(f"what came was changed on the way ({error.reason or error})") from error
            self._filled += read
            self._heard = self._clock()

    def _broken(self, why: str) -> ChannelClosed:
        self._outer.abort()
        return ChannelClosed(CLOSE_PROTOCOL, why)
