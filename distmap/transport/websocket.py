"""A channel over one WebSocket, and what both of its ends agree on.

Owns the settings of the `websockets` package, which `dial.py` and `listen.py` make connections with, and the way of the
messages between its connection and a channel. It must not know what the frames mean: that is a session's business. All
of it runs on one event loop.

The library opens and closes the connection, and answers pings. Whole binary messages, which are all that a session
sends, do not go through it: its queue, tasks and copies would take longer than everything else on the way. They are cut
out of the memory that TLS has decrypted them into, and written straight to the transport. Whatever else comes (control
frames, fragments, what breaks the protocol) is given to the library, frame by frame.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from websockets import frames as library
from websockets.asyncio.connection import Connection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, Side, State
from websockets.typing import Subprotocol

from distmap.core.limits import LIMITS
from distmap.tasks._typing import Buffer
from distmap.transport.channel import CLOSE_BROKEN, ChannelClosed, Receiver
from distmap.transport.frame_queue import FrameQueue

#: Path and subprotocol of the HTTP upgrade. They name the framing; the handshake negotiates versions.
PATH = "/distmap/1"
SUBPROTOCOL = Subprotocol("distmap.1")

# The library's own logger would format every frame at DEBUG; ours stays above that whatever level the root has.
_logger = logging.getLogger("distmap.websockets")
_logger.setLevel(logging.WARNING)

#: Options of the library for both ends.
OPTIONS: Final[dict[str, Any]] = {
    "subprotocols": [SUBPROTOCOL],
    # Measured: deflate costs 5 CPU s/GB even on zeros; it also has a history of passing size limits.
    "compression": None,
    # The library's keepalive kills healthy links during transfers and stalls; the session keeps its own.
    "ping_interval": None,
    "close_timeout": LIMITS.close_timeout,
    "max_size": LIMITS.websocket_bytes,
    "logger": _logger,
}


#: First byte of a whole binary message; bit of the second one that says that it is masked; what stands in place of the
#: size where two or eight bytes of it follow (RFC 6455, 5.2). Bytes of a mask.
_WHOLE_BINARY, _MASKED, _SIZE_2, _SIZE_8, _MASK = 0x82, 0x80, 126, 127, 4
_HEAD_2, _HEAD_8 = struct.Struct(">BBH"), struct.Struct(">BBQ")
#: Bytes of a connection's first memory for what comes in. It grows to that of a few frames where larger ones come.
_MEMORY, _FRAMES = 64 << 10, 4
#: Bytes of a read that is no part of a large transfer: the memory for one is let go then.
_FEW = 1 << 10
#: What is smaller is joined: it then leaves in one record of TLS (16 KB), and each write makes a record of its own.
_JOINED = 16 << 10
#: Larger pieces are masked in parts of so many bytes: they stay in the cache, and the allocator gives no fresh pages.
_MASKED_AT_ONCE = 64 << 10
#: Messages that may wait for `recv`.
_QUEUED = 16
#: That of the library: in C, where it has been built.
_apply_mask: Callable[[Buffer, bytes | bytearray], bytes] = library.apply_mask  # type: ignore[attr-defined]
_END_OF_HTTP = b"\r\n\r\n"


class Link(Connection, asyncio.BufferedProtocol):
    """A connection of the library that moves messages by itself. Base of the links of both ends."""

    heard = -math.inf
    _tcp: asyncio.BaseTransport | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._masks = self.protocol.side is Side.CLIENT
        # What has come in of a frame that is not complete, and where it begins and ends in there.
        self._memory = memoryview(bytearray(_MEMORY))
        self._start = self._end = 0
        # The last bytes of the HTTP request or answer; None after its end. What follows may have come with it.
        self._http: bytes | None = b""
        # Bytes that are still to come of a frame that the library is given.
        self._librarys = 0
        # A message in fragments.
        self._fragments: bytearray | None = None
        self._is_text = False
        self.queue = FrameQueue(self._pause, self._resume, _QUEUED)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        _tune(transport)
        # TLS of asyncio does not pass on that the transport below it closes. Where it has no such attribute, frames
        # are dropped with the warning.
        self._tcp = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.queue.end(self.ended(exc))

    def ended(self, error: BaseException | None = None) -> ChannelClosed:
        """How the connection has ended, as far as that is known now."""
        # The close frame of the side that ended it, else our own, else the network's complaint.
        protocol = self.protocol
        received, sent = protocol.close_rcvd, protocol.close_sent
        close = received if protocol.close_rcvd_then_sent is not False and received else sent or received
        if close is not None:
            return ChannelClosed(close.code, close.reason)
        cause = error or protocol.parser_exc
        return ChannelClosed(
            CLOSE_BROKEN, f"the connection broke: {cause}" if cause and str(cause) else "the connection broke"
        )

    # --- in ----------------------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by asyncio: where to put what comes in."""
        return self._memory[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Called by asyncio: so many bytes have come in."""
        self.heard = self.loop.time()
        end = self._end + nbytes
        at, needed = self._deal_out(self._memory[self._start : end])
        self._start, self._end = self._start + at, end
        if self._start == end:
            self._start = self._end = 0
            if nbytes <= _FEW and len(self._memory) > _MEMORY:
                self._memory = memoryview(bytearray(_MEMORY))  # a heartbeat, say: what was large is over
        elif len(self._memory) - end < _MEMORY:
            # What has come of the next frame is moved, rarely: a read must not be short for want of room.
            left = end - self._start
            memory = self._memory if _FRAMES * needed <= len(self._memory) else memoryview(bytearray(_FRAMES * needed))
            memory[:left] = self._memory[self._start : end]
            self._memory, self._start, self._end = memory, 0, left
        self.queue.flush()

    def data_received(self, data: bytes) -> None:
        """What goes through the library: all of it, where the loop (uvloop) does not ask for a buffer."""
        self.heard = self.loop.time()
        super().data_received(data)
        self.queue.flush()
        # The library answers pings at once, whether the answers are taken or not; it needs no proof to send them.
        if self.paused and self.transport.get_write_buffer_size() > LIMITS.untaken_bytes:
            self.transport.abort()

    def _deal_out(self, data: memoryview) -> tuple[int, int]:
        """Give each frame to who takes it. Returns how much was taken, and how much memory the next frame needs."""
        at, end = 0, len(data)
        while at < end:
            if self._http is not None or self._librarys or self.protocol.state is not State.OPEN:
                at += self._give_to_library(data[at:])
                continue
            head = _head_of(data[at + 1]) if end - at > 1 else 2
            if end - at < head:
                break
            size = data[at + 1] & ~_MASKED
            if size == _SIZE_2:
                size = int.from_bytes(data[at + 2 : at + 4])
            elif size == _SIZE_8:
                size = int.from_bytes(data[at + 2 : at + 10])
            whole = data[at] == _WHOLE_BINARY and (data[at + 1] >= _MASKED) is not self._masks
            if not whole or size > LIMITS.websocket_bytes or self._fragments is not None:
                self._librarys = head + size
                continue
            if end - at < head + size:
                return at, head + size
            body = data[at + head : at + head + size]
            at += head + size
            self.queue.put(body if self._masks else _apply_mask(body, bytes(data[at - size - _MASK : at - size])))
        return at, 0

    def _give_to_library(self, data: memoryview) -> int:
        """Give it what it takes of this; returns how much that was."""
        if self._http is not None:
            text = self._http + bytes(data)
            end = text.find(_END_OF_HTTP)
            taken = len(data) if end < 0 else end + len(_END_OF_HTTP) - len(self._http)
            self._http = text[1 - len(_END_OF_HTTP) :] if end < 0 else None
        elif self._librarys and self.protocol.state is State.OPEN:
            taken = min(len(data), self._librarys)
            self._librarys -= taken
        else:
            taken = len(data)
        self.data_received(bytes(data[:taken]))
        return taken

    def process_event(self, event: Event) -> None:
        """Called by the library: it has read the request or the answer, or a frame that it was given."""
        if not isinstance(event, Frame) or event.opcode not in (Opcode.CONT, Opcode.TEXT, Opcode.BINARY):
            super().process_event(event)
            return
        if self._fragments is None:
            self._fragments, self._is_text = bytearray(), event.opcode is Opcode.TEXT
        self._fragments += event.data
        if event.fin:
            message, self._fragments = self._fragments, None
            self.queue.put(message.decode(errors="replace") if self._is_text else message)

    async def recv(self, decode: bool | None = None) -> Any:
        """The next message: a str if it is text. Raises ConnectionClosed as that of the library does."""
        try:
            return await self.queue.get()
        except ChannelClosed:
            await self.wait_closed()
            raise self.protocol.close_exc from None

    def _pause(self) -> None:
        self.transport.pause_reading()

    def _resume(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # --- out ---------------------------------------------------------------------------------------------------------

    def write(self, messages: Sequence[Sequence[Buffer]]) -> None:
        """Write messages at once. Raises ChannelClosed."""
        if self.protocol.state is not State.OPEN:
            raise self.ended()
        if self.transport.is_closing() or (self._tcp is not None and self._tcp.is_closing()):
            # The library hears of it in the next pass of the loop; asyncio would drop this frame with a warning.
            raise ChannelClosed(CLOSE_BROKEN, "the connection broke")
        # What is small is joined; larger pieces go as they are.
        pieces: list[Buffer] = []
        joined: list[Buffer] = []
        room = _JOINED
        for message in messages:
            for piece in self._frame(message):
                if len(piece) > room and joined:
                    pieces.append(b"".join(joined))
                    joined, room = [], _JOINED
                if len(piece) > _JOINED:
                    pieces.append(piece)
                else:
                    joined.append(piece)
                    room -= len(piece)
        if joined:
            pieces.append(b"".join(joined))
        if self._tcp is not None and len(pieces) > 1:
            self.transport.writelines(pieces)  # TLS: one pass for all
            return
        # Without TLS `writelines` of Python 3.12.0 to 3.13.1 never says that its buffer is full (CVE-2024-12254).
        for one in pieces:
            self.transport.write(one)

    def _frame(self, message: Sequence[Buffer]) -> list[Buffer]:
        """The frame of a message, in pieces; of a client it is masked."""
        size, bit = sum(map(len, message)), _MASKED if self._masks else 0
        if size < _SIZE_2:
            head = bytes((_WHOLE_BINARY, bit | size))
        elif size < 1 << 16:
            head = _HEAD_2.pack(_WHOLE_BINARY, bit | _SIZE_2, size)
        else:
            head = _HEAD_8.pack(_WHOLE_BINARY, bit | _SIZE_8, size)
        if not self._masks:
            return [head, *message]
        mask, turn = secrets.token_bytes(_MASK), 0
        if size <= _JOINED:
            return [head, mask, _apply_mask(b"".join(message), mask)]
        pieces: list[Buffer] = [head, mask]
        for part in message:
            view = memoryview(part)
            turned = mask[turn:] + mask[:turn]
            pieces += [
                _apply_mask(view[at : at + _MASKED_AT_ONCE], turned) for at in range(0, len(view), _MASKED_AT_ONCE)
            ]
            turn = (turn + len(view)) % _MASK
        return pieces

    def resume_writing(self) -> None:
        """Called by asyncio: what was written has left, or most of it."""
        super().resume_writing()
        self.queue.flush()


class WebSocketChannel:
    """A `Channel` over one WebSocket."""

    def __init__(self, link: Link, peer: str) -> None:
        self._link = link
        self.peer = peer

    @property
    def last_heard(self) -> float:
        """See `Channel`."""
        return self._link.heard

    async def send(self, frame: Sequence[Buffer]) -> None:
        """See `Channel`."""
        self._link.write([frame])
        try:
            await self._link.drain()
        except OSError as error:
            raise self._link.ended(error) from None
        if self._link.protocol.state is State.CLOSED:
            raise self._link.ended()

    async def recv(self) -> Buffer:
        """See `Channel`."""
        frame = await self._link.queue.get()
        return frame.encode() if isinstance(frame, str) else frame

    def start(self, receiver: Receiver) -> None:
        """See `Channel`."""
        self._link.queue.hand_to(receiver)

    @property
    def room(self) -> bool:
        """See `Channel`."""
        return not self._link.paused

    def write(self, frames: Sequence[Sequence[Buffer]]) -> None:
        """See `Channel`."""
        self._link.write(frames)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """See `Channel`."""
        try:
            # The library bounds the closing handshake, but not the wait for room in the write buffer before it.
            async with asyncio.timeout(LIMITS.close_timeout + 0.5):
                # 123 bytes are what a close frame takes; "ignore" drops a character that the cut went through.
                await self._link.close(code, reason.encode()[:123].decode(errors="ignore"))
        except TimeoutError:
            self.abort()
        await self._link.wait_closed()

    def abort(self) -> None:
        """See `Channel`."""
        self._link.transport.abort()


def _head_of(second: int) -> int:
    """Bytes before the body of a frame, by its second byte."""
    size = second & ~_MASKED
    more = 2 if size == _SIZE_2 else 8 if size == _SIZE_8 else 0
    return 2 + more + (_MASK if second & _MASKED else 0)


def _tune(transport: asyncio.BaseTransport) -> None:
    # asyncio sets TCP_NODELAY itself.
    sock = transport.get_extra_info("socket")
    options = (("TCP_NOTSENT_LOWAT", LIMITS.unsent_bytes), ("TCP_USER_TIMEOUT", round(1000 * LIMITS.reconnect_grace)))
    for name, value in options:
        option = getattr(socket, name, None)
        if option is not None and sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
