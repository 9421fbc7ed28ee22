"""Channels inside one process, with faults on request.

Owns a pair of channel ends and what can go wrong between them. For tests; it keeps the same contract as a WebSocket.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Mapping, Sequence

from distmap.tasks._typing import Buffer
from distmap.transport.channel import ChannelClosed, Connection, Receiver
from distmap.wire.handshake import SESSION_ID_CHARS

#: Bytes on the way to the other end above which `send` waits, as it does when the buffer of a socket is full.
CAPACITY = 1 << 20


class MemoryChannel:
    """One end of a pair."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.last_heard = -math.inf
        self._loop = asyncio.get_running_loop()
        self._other: MemoryChannel = self
        self._frames: deque[bytes] = deque()
        self._waiting = 0
        self._changed = asyncio.Event()
        self._closed: ChannelClosed | None = None
        self._stalled = False
        self._receiver: Receiver | None = None
        # Whether it will be called in the next pass of the loop; whether it has been told of the end.
        self._called = self._told = False

    async def send(self, frame: Sequence[Buffer]) -> None:
        while self._closed is None and not self.room:
            self._changed.clear()
            await self._changed.wait()
        self.write([frame])

    @property
    def room(self) -> bool:
        return self._other._waiting < CAPACITY

    def write(self, frames: Sequence[Sequence[Buffer]]) -> None:
        if self._closed is not None:
            raise self._closed
        for frame in frames:
            self._other._arrive(b"".join(frame))

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._change()

    async def recv(self) -> Buffer:
        while not self._frames or self._stalled:
            if self._closed is not None and not self._frames:
                raise self._closed
            self._changed.clear()
            await self._changed.wait()
        return self._pop()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self._end(ChannelClosed(code, reason))
        self._other._end(ChannelClosed(code, reason))

    def abort(self) -> None:
        """End it as a broken network does: what was on the way is gone."""
        for end in (self, self._other):
            if end._closed is None:
                end._frames.clear()
                end._waiting = 0
            end._end(ChannelClosed(1006, "the connection broke"))

    # --- faults ------------------------------------------------------------------------------------------------------

    def stall(self) -> None:
        """Hold back what is sent to this end, as a network that stalls does."""
        self._stalled = True

    def resume(self) -> None:
        """Let everything that was held back arrive."""
        self._stalled = False
        if self._frames:
            self.last_heard = self._loop.time()
        self._change()

    # --- called by the other end --------------------------------------------------------------------------------------

    def _arrive(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._waiting += len(frame)
        if not self._stalled:
            self.last_heard = self._loop.time()
        self._change()

    def _end(self, closed: ChannelClosed) -> None:
        if self._closed is None:
            self._closed = closed
        self._stalled = False
        self._change()

    # --- what comes in ------------------------------------------------------------------------------------------------

    def _pop(self) -> bytes:
        frame = self._frames.popleft()
        self._waiting -= len(frame)
        self._other._change()
        return frame

    def _change(self) -> None:
        """Tell who waits. A receiver is called later, as by a socket: it may be writing at this moment."""
        self._changed.set()
        if self._receiver is not None and not self._called:
            self._called = True
            self._loop.call_soon(self._call)

    def _call(self) -> None:
        self._called = False
        assert self._receiver is not None
        while self._frames and not self._stalled:
            self._receiver.take(self._pop())
        if self._closed is None:
            self._receiver.pump()
        elif not self._frames and not self._told:
            self._told = True
            self._receiver.end(self._closed)


def pair(names: tuple[str, str] = ("worker", "pool")) -> tuple[MemoryChannel, MemoryChannel]:
    """Two channels that are each other's end. `names` are the peers that they show. Needs a running loop."""
    left, right = MemoryChannel(names[0]), MemoryChannel(names[1])
    left._other, right._other = right, left
    return left, right


def connect(pool_info: Mapping[str, object], worker_info: Mapping[str, object]) -> tuple[Connection, Connection]:
    """The pool's and the worker's connection to each other, as `dial` and `listen` would have made them."""
    to_worker, to_pool = pair()
    session = secrets.token_hex(SESSION_ID_CHARS // 2)
    return (
        Connection(to_worker, dict(worker_info), session=session),
        Connection(to_pool, dict(pool_info), session=session),
    )
