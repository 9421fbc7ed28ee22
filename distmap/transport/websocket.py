"""A channel over one WebSocket, and what both of its ends agree on.

Owns the settings of the `websockets` package, which `dial.py` and `listen.py` make connections with. It must not know
what the frames mean: that is a session's business. All of it runs on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.typing import Subprotocol

from distmap.core.limits import LIMITS
from distmap.tasks._typing import Buffer
from distmap.transport.channel import ChannelClosed

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


class Link(Connection):
    """A connection of the library that notes when its last byte came in. Base of the links of both ends."""

    heard = -math.inf
    _tcp: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        _tune(transport)
        # TLS of asyncio does not pass on that the transport below it closes. Where it has no such attribute, frames
        # are dropped with the warning.
        self._tcp = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)

    @property
    def broken(self) -> bool:
        """Whether a write has found the connection broken."""
        return self._tcp is not None and self._tcp.is_closing()

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)
        # The library answers pings at once, whether the answers are taken or not; it needs no proof to send them.
        if self.paused and self.transport.get_write_buffer_size() > LIMITS.untaken_bytes:
            self.transport.abort()


class WebSocketChannel:
    """A `Channel` over one WebSocket."""

    def __init__(self, link: Link, peer: str) -> None:
        self._link = link
        self.peer = peer

    @property
    def last_heard(self) -> float:
        return self._link.heard

    async def send(self, frame: Sequence[Buffer]) -> None:
        # Joined: the library takes a message as one buffer, or as several that each become a frame of their own and
        # are joined by the receiver. It copies either once more behind its header, and TLS does so again.
        if self._link.state is State.OPEN and self._link.broken:
            # The library hears of it in the next pass of the loop; asyncio would drop this frame with a warning.
            raise ChannelClosed(1006, "the connection broke")
        try:
            await self._link.send(frame[0] if len(frame) == 1 else b"".join(frame))
        except ConnectionClosed as error:
            raise _channel_closed(error) from None

    async def recv(self) -> Buffer:
        try:
            return await self._link.recv(decode=False)
        except ConnectionClosed as error:
            raise _channel_closed(error) from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        try:
            # The library bounds the closing handshake, but not the wait for room in the write buffer before it.
            async with asyncio.timeout(LIMITS.close_timeout + 0.5):
                # 123 bytes are what a close frame takes; "ignore" drops a character that the cut went through.
                await self._link.close(code, reason.encode()[:123].decode(errors="ignore"))
        except TimeoutError:
            self.abort()
        await self._link.wait_closed()

    def abort(self) -> None:
        self._link.transport.abort()


def _channel_closed(error: ConnectionClosed) -> ChannelClosed:
    # The close frame of the side that ended it, else our own, else the network's complaint.
    close = error.rcvd if error.rcvd_then_sent is not False and error.rcvd else error.sent or error.rcvd
    if close is None:
        cause = error.__cause__
        return ChannelClosed(1006, f"the connection broke: {cause}" if cause and str(cause) else "the connection broke")
    return ChannelClosed(close.code, close.reason)


def _tune(transport: asyncio.BaseTransport) -> None:
    # asyncio sets TCP_NODELAY itself.
    sock = transport.get_extra_info("socket")
    options = (("TCP_NOTSENT_LOWAT", LIMITS.unsent_bytes), ("TCP_USER_TIMEOUT", round(1000 * LIMITS.reconnect_grace)))
    for name, value in options:
        option = getattr(socket, name, None)
        if option is not None and sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
