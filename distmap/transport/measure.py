"""Round trip and bandwidth between two sides that have proved the token: the end of a check.

Owns what a check sends after INFO, for both sides, and its bounds. It must not know how the connection was made, or
what the figures are for. The side that checks asks, the other one answers, one request after the other:

    kind, size      kind "=": the same message comes back
                    kind ">": so many bytes follow, and then the same message comes back
                    kind "<": so many bytes come back

Nothing of it is kept, and nothing of a session exists on such a connection.
"""

from __future__ import annotations

import asyncio
import os
import struct

from distmap.core.limits import LIMITS
from distmap.errors import ProtocolError
from distmap.transport.channel import Channel, ChannelClosed

_REQUEST = struct.Struct(">cI")
_ECHO, _TO, _BACK = b"=", b">", b"<"
#: Bytes of a frame, as those of a session. They are random, so that nothing on the way compresses them.
_FRAME = LIMITS.websocket_bytes // 4
#: Bytes of the first transfer, which takes a second at 130 kbit/s; each further one has four times as many.
_FIRST, _GROWTH = 16 << 10, 4


async def measure_round_trip(channel: Channel) -> float:
    """Seconds of the shortest of a few round trips, from the side that checks.

    Raises:
        ChannelClosed: The connection ended meanwhile.
        ProtocolError: What came back is not what was asked for.
        TimeoutError: It took longer than LIMITS.check_seconds.
    """
    async with asyncio.timeout(LIMITS.check_seconds):
        return min([await _transfer(channel, _ECHO, 0, memoryview(b"")) for _ in range(LIMITS.check_round_trips)])


async def measure_rates(channel: Channel, round_trip: float) -> tuple[float, float]:
    """Bytes per second from the side that checks to the other one, and back. Raises as `measure_round_trip` does."""
    noise = memoryview(os.urandom(_FRAME))
    async with asyncio.timeout(LIMITS.check_seconds):
        to = await _rate(channel, _TO, noise, round_trip)
        return to, await _rate(channel, _BACK, noise, round_trip)


async def answer(channel: Channel) -> None:
    """Answer the requests of the side that checks, until it leaves or has had what it may have.

    Raises:
        ProtocolError: It asks for more, or sends something else.
    """
    noise = memoryview(os.urandom(_FRAME))
    left = LIMITS.check_bytes
    try:
        # It may measure several ways, one after the other.
        async with asyncio.timeout(LIMITS.checks_at_once * LIMITS.check_seconds):
            while True:
                request = bytes(await channel.recv())
                if len(request) != _REQUEST.size or request[:1] not in (_ECHO, _TO, _BACK):
                    raise ProtocolError("it sent something in a check that is not of a check")
                kind, size = _REQUEST.unpack(request)
                left -= size
                if left < 0:
                    raise ProtocolError(f"its check wants to move more than {LIMITS.check_bytes} bytes")
                if kind == _TO:
                    await _receive(channel, size)
                if kind == _BACK:
                    await _send(channel, size, noise)
                else:
                    await channel.send([request])
    except (ChannelClosed, TimeoutError):
        return  # it has measured what it wanted, or is gone


async def _rate(channel: Channel, kind: bytes, noise: memoryview, round_trip: float) -> float:
    """Bytes per second, by transfers that grow until one takes long enough to tell."""
    size = _FIRST
    while True:
        seconds = await _transfer(channel, kind, size, noise) - round_trip
        # All transfers of one direction together: at most a half of what the other side allows.
        if seconds >= LIMITS.check_transfer or 4 * _GROWTH * size > LIMITS.check_bytes:
            return size / max(seconds, 1e-6)
        size *= _GROWTH


async def _transfer(channel: Channel, kind: bytes, size: int, noise: memoryview) -> float:
    """Seconds of one request, from its first byte to the last one of its answer."""
    clock = asyncio.get_running_loop().time
    request, began = _REQUEST.pack(kind, size), clock()
    await channel.send([request])
    if kind == _TO:
        await _send(channel, size, noise)
    if kind == _BACK:
        await _receive(channel, size)
    elif bytes(await channel.recv()) != request:
        raise ProtocolError("the other side did not give back what it was sent")
    return clock() - began


async def _send(channel: Channel, size: int, noise: memoryview) -> None:
    while size:
        part = noise[: min(size, _FRAME)]
        await channel.send([part])
        size -= len(part)


async def _receive(channel: Channel, size: int) -> None:
    while size > 0:
        size -= max(1, len(await channel.recv()))
    if size:
        raise ProtocolError("a transfer of a check had more bytes than it announced")
