"""Frames that came in over a channel: for who waits for the next one, and then for who is called with each.

Owns them until somebody takes them. It must not know where they come from: a channel puts them in, and says how it
ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from distmap.tasks._typing import Buffer
from distmap.transport.channel import ChannelClosed, Receiver


class FrameQueue:
    """One direction of a channel.

    Args:
        pause: Called when more than `most` frames wait: nothing should come in until `resume` is called.
        resume: Called when they have been taken.
        most: How many may wait.
    """

    def __init__(self, pause: Callable[[], object], resume: Callable[[], object], most: int) -> None:
        self._pause, self._resume, self._most = pause, resume, most
        self._frames: deque[Buffer | str] = deque()
        self._paused = False
        self._closed: ChannelClosed | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: Who is called with each frame; None: they wait here.
        self.receiver: Receiver | None = None

    def put(self, frame: Buffer | str) -> None:
        """A frame has come; a receiver uses its memory only until it returns, everybody else keeps it."""
        if self.receiver is not None:
            self.receiver.take(frame.encode() if isinstance(frame, str) else frame)
            return
        self._frames.append(frame if isinstance(frame, str) else bytes(frame))
        self._wake()
        if len(self._frames) > self._most and not self._paused:
            self._paused = True
            self._pause()

    def flush(self) -> None:
        """All of what came together has been put in."""
        if self.receiver is not None:
            self.receiver.pump()

    def end(self, closed: ChannelClosed) -> None:
        """Nothing comes any more."""
        self._closed = closed
        self._wake()
        if self.receiver is not None:
            self.receiver.end(closed)

    async def get(self) -> Buffer | str:
        """The next frame; raises ChannelClosed after the last one. Safe to cancel."""
        while not self._frames:
            if self._closed is not None:
                raise self._closed
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        frame = self._frames.popleft()
        self._go_on()
        return frame

    def hand_to(self, receiver: Receiver) -> None:
        """Call the receiver with what waits here, and from now on with each frame as it comes."""
        self.receiver = receiver
        while self._frames:
            self.put(self._frames.popleft())
        self._go_on()
        if self._closed is not None:
            receiver.end(self._closed)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _go_on(self) -> None:
        if self._paused and not self._frames:
            self._paused = False
            self._resume()
