"""TLS inside the messages of a channel: for two ends that something stands between.

Owns the encryption of frames, and their borders: a hop in between may delay messages and cut the connection, and sees
ciphertext and lengths. Whatever else it does is taken for a cut. It must not know who the other end is: the handshake
binds its proof to the listener's certificate, which `certificate` tells, just as it does over TLS of the connection
itself. All of it runs on one event loop.

The plain text is a row of frames, each behind its size (four bytes, big-endian). A frame leaves as one message. The end
of the channel is said in there too, with its code and reason, in a frame that has the highest bit of its size set: what
the WebSocket says of its end may be forged by a hop, or lost at one.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from distmap.core.limits import LIMITS
from distmap.tasks._typing import Buffer
from distmap.transport.channel import CLOSE_BROKEN, CLOSE_NORMAL, CLOSE_PROTOCOL, Channel, ChannelClosed, Receiver

#: The first byte of a TLS handshake record (RFC 8446, 5.1). A proof begins with its size, which is less than 0x1600.
FIRST_BYTE = 0x16

_SIZE = struct.Struct(">I")
#: In the size of a frame that ends the channel; it holds the code, and then the reason as text.
_END = 1 << 31
_CODE = struct.Struct(">H")
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
        self._in_frame = self._at_end = False
        # How the other end ended the channel; whether this end does.
        self._ended: ChannelClosed | None = None
        self._ending = False
        self._receiver: Receiver | None = None
        # Whether it has been told of the end.
        self._told = False

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
                await self._receive()
            except ssl.SSLError as error:
                await self._flush()  # the alert
                raise self._broken(f"no TLS inside the messages: {error.reason or error}") from error
            else:
                await self._flush()
                self._heard = self._clock()
                return

    async def send(self, frame: Sequence[Buffer]) -> None:
        """See `Channel`."""
        async with self._order:
            self._encrypt(frame)
            await self._flush()

    def write(self, frames: Sequence[Sequence[Buffer]]) -> None:
        """See `Channel`."""
        messages = []
        for frame in frames:
            self._encrypt(frame)
            messages.append([self._outgoing.read()])
        try:
            self._outer.write(messages)
        except ChannelClosed as closed:
            raise self._believed(closed) from None

    @property
    def room(self) -> bool:
        """See `Channel`."""
        return self._outer.room

    def _encrypt(self, frame: Sequence[Buffer]) -> None:
        small = [_SIZE.pack(sum(len(part) for part in frame))]
        views: list[Buffer] = []
        room = _RECORD - _SIZE.size
        for part in frame:
            if not views and len(part) <= room:
                small.append(bytes(part))
                room -= len(part)
            else:
                views.append(part)
        if self._ended is not None or self._ending:
            raise self._ended or ChannelClosed(CLOSE_BROKEN, "the connection is closed")
        self._tls.write(b"".join(small))
        for view in views:
            if len(view):
                self._tls.write(view)

    async def recv(self) -> Buffer:
        """See `Channel`."""
        while (frame := self._take()) is None:
            await self._receive()
        return frame

    def start(self, receiver: Receiver) -> None:
        """See `Channel`."""
        self._receiver = receiver
        self.take(b"")
        self._outer.start(self)

    async def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> None:
        """See `Channel`."""
        if not self._ending and self._ended is None:
            self._ending = True
            last = _CODE.pack(code) + reason.encode()
            # An end that takes nothing, or with which no keys were agreed, is not told.
            with suppress(TimeoutError, ChannelClosed, ssl.SSLError):
                async with asyncio.timeout(LIMITS.close_timeout), self._order:
                    self._tls.write(_SIZE.pack(_END | len(last)) + last)
                    await self._flush()
        await self._outer.close(code, reason)

    def abort(self) -> None:
        """See `Channel`."""
        self._outer.abort()

    # --- called by the channel around it ------------------------------------------------------------------------------

    def take(self, frame: Buffer) -> None:
        """Ciphertext has come: give what is in there to the receiver."""
        assert self._receiver is not None
        if self._told:
            return
        self._incoming.write(frame)
        try:
            while (inner := self._take()) is not None:
                self._receiver.take(inner)
        except ChannelClosed as closed:
            self._tell(closed)

    def pump(self) -> None:
        """The channel around it has room again."""
        assert self._receiver is not None
        self._receiver.pump()

    def end(self, closed: ChannelClosed) -> None:
        """The channel around it is over."""
        self._tell(self._believed(closed))

    def _tell(self, closed: ChannelClosed) -> None:
        assert self._receiver is not None
        if not self._told:
            self._told = True
            self._receiver.end(closed)

    # --- pieces ------------------------------------------------------------------------------------------------------

    async def _flush(self) -> None:
        if self._outgoing.pending:
            try:
                await self._outer.send([self._outgoing.read()])
            except ChannelClosed as closed:
                raise self._believed(closed) from None

    async def _receive(self) -> None:
        try:
            self._incoming.write(await self._outer.recv())
        except ChannelClosed as closed:
            raise self._believed(closed) from None

    def _believed(self, closed: ChannelClosed) -> ChannelClosed:
        """What to make of the end of the outer channel, whose code and reason a hop may have made up."""
        if self._ended is not None:
            return self._ended
        if self._ending or closed.code == CLOSE_BROKEN:
            return closed
        return ChannelClosed(CLOSE_BROKEN, "the connection was ended on its way")

    def _take(self) -> Buffer | None:
        """The next frame, as far as it is there."""
        while True:
            if self._filled == len(self._target):
                if self._in_frame:
                    frame, self._target = self._target, bytearray(_SIZE.size)
                    self._filled, self._in_frame = 0, False
                    if not self._at_end:
                        return frame
                    self._ended = ended = _end_of(frame)
                    raise ended
                (size,) = _SIZE.unpack(self._target)
                self._at_end, size = bool(size & _END), size & ~_END
                if size > LIMITS.websocket_bytes:
                    self._outer.abort()
                    why = f"a frame of {size} bytes is announced; {LIMITS.websocket_bytes} are allowed"
                    raise ChannelClosed(CLOSE_PROTOCOL, why)
                self._target, self._filled, self._in_frame = bytearray(size), 0, True
                continue
            try:
                view = memoryview(self._target)[self._filled :]
                read = cast(int, self._tls.read(len(view), view))  # typeshed: bytes, as without a buffer
            except ssl.SSLWantReadError:
                return None
            except ssl.SSLError as error:
                raise self._broken(f"what came was changed on the way ({error.reason or error})") from error
            if not read:  # close_notify, from whoever is there; `_END` is what ends a channel in good order
                raise self._broken("TLS was ended without a word")
            self._filled += read
            self._heard = self._clock()

    def _broken(self, why: str) -> ChannelClosed:
        self._outer.abort()
        return ChannelClosed(CLOSE_BROKEN, why)


def _end_of(frame: bytearray) -> ChannelClosed:
    if len(frame) < _CODE.size:
        return ChannelClosed(CLOSE_PROTOCOL, "it ended without a code")
    (code,) = _CODE.unpack_from(frame)
    return ChannelClosed(code, bytes(frame[_CODE.size :]).decode("utf-8", "replace"))
