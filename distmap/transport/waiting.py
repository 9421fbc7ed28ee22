"""Connections without traffic, over which a pool calls its workers back.

Owns both ends of them. A heartbeat through a hub's proxy counts as the user's activity, so a worker that is idle leaves
its pool, and waits at the other end of a connection over which nothing is sent until there is work. It must not know
what a pool or a worker does then. All of it runs on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from distmap.transport.channel import Channel, ChannelClosed, Connection

#: In the INFO of a worker that dials in order to wait.
WAITS = "waits"

#: The one frame that is ever sent, from pool to worker. Inside TLS of the two ends, so that no hop can make it.
_COME = b"come"


def waits(info: Mapping[str, object]) -> bool:
    """Whether a worker with this INFO wants to wait, and not to work."""
    return info.get(WAITS) is True


class Waiting:
    """The workers that wait for a pool."""

    def __init__(self) -> None:
        self._channels: set[Channel] = set()
        self._calls: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._channels)

    async def hold(self, connection: Connection, *, called: bool) -> None:
        """Keep the connection until it is over. `called`: have the worker come at once."""
        channel = connection.channel
        self._channels.add(channel)
        if called:
            self.call()
        try:
            # Nothing comes; what does come ends it.
            with suppress(ChannelClosed):
                await channel.recv()
                await channel.close()
        finally:
            self._channels.discard(channel)

    def call(self) -> None:
        """Have all of them come."""
        for channel in self._channels:
            task = asyncio.get_running_loop().create_task(self._say(channel))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        self._channels = set()

    async def _say(self, channel: Channel) -> None:
        with suppress(ChannelClosed):
            await channel.send([_COME])

    async def close(self) -> None:
        """Let all of them go."""
        channels, self._channels = self._channels, set()
        await asyncio.gather(*self._calls, *[channel.close() for channel in channels])


async def called(connection: Connection, seconds: float) -> bool:
    """The worker's end: wait until the pool calls; False if the connection ended, or `seconds` are over."""
    channel = connection.channel
    try:
        async with asyncio.timeout(seconds):
            return bytes(await channel.recv()) == _COME
    except (ChannelClosed, TimeoutError):
        return False
    finally:
        await channel.close()
