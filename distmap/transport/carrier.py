"""The frames of a session on one channel: reading, writing, acknowledging, until the channel ends.

Owns the reader and the writer of one channel, and the timer of acknowledgements. It must not know what messages mean,
nor whether another channel follows: `conversation.py`, which makes a carrier for each, decides that.

All of it runs on one event loop, and none of it waits: a frame that comes is taken, and what it makes the session say
is written, in one call from the socket.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from distmap.core.limits import Limits
from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer
from distmap.transport.channel import CLOSE_PROTOCOL, Channel, ChannelClosed
from distmap.wire.messages import Message
from distmap.wire.session import Session

logger = logging.getLogger(__name__)

#: Bytes of frames after which no further one is written together with them.
_TOGETHER = 32 << 10

#: A message with its parts, as the session completes it.
Complete = tuple[Message, list[Buffer]]


class Carrier:
    """Moves the frames of a session over one channel. `start` once; then `stop` or `close`.

    Args:
        channel: A live one.
        session: Attached to this channel and to no other.
        on_frame: Called for each frame with the messages that it completed, often none.
        on_end: Called at most once, when the channel ends by itself (ChannelClosed), when the other side sends
            something malformed while the session is not over (ProtocolError), or for a bug on this side. Not called
            after `stop`.
        limits: `ack_delay` counts.
    """

    def __init__(
        self,
        channel: Channel,
        session: Session,
        *,
        on_frame: Callable[[Sequence[Complete]], None],
        on_end: Callable[[Exception], None],
        limits: Limits,
    ) -> None:
        self.channel = channel
        self._session = session
        self._on_frame = on_frame
        self._on_end = on_end
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        #: Set when our Bye has been written, or never will be.
        self.gone = asyncio.Event()
        self._started = self._stopped = self._failed = self._writing = self._taking = False
        self._ack_timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read and write."""
        self._started = True
        self.channel.start(self)
        self.pump()

    def pump(self) -> None:
        """Write what the session has, as far as there is room. Call it when the session has something to write."""
        if not self._started or self._stopped or self._taking or self._writing:
            return
        session, channel = self._session, self.channel
        self._writing = True
        try:
            while channel.room and (frames := self._next_frames()):
                channel.write(frames)
        except ChannelClosed:
            return  # `end` is called with the same, after the frames that still came
        except Exception as error:
            self._fail(error)
        finally:
            self._writing = False
        if session.said_bye:
            self.gone.set()

    def _next_frames(self) -> list[Sequence[Buffer]]:
        """The next one, and those after it, as long as they are small."""
        frames: list[Sequence[Buffer]] = []
        left = _TOGETHER
        while left > 0 and (frame := self._session.outgoing()) is not None:
            frames.append(frame)
            left -= sum(map(len, frame))
        return frames

    def hush(self) -> None:
        """Acknowledge nothing more. What comes is still read: a socket that nobody drains cannot be closed politely."""
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None

    def stop(self) -> None:
        """Break the channel, and take nothing from it any more."""
        self._stopped = True
        self.gone.set()
        self.hush()
        self.channel.abort()

    async def close(self, code: int, reason: str) -> None:
        """End the channel politely, within its bounds."""
        await self.channel.close(code, reason)
        if self._closing is not None:
            await self._closing

    # --- called by the channel ----------------------------------------------------------------------------------------

    def take(self, frame: Buffer) -> None:
        """A frame has come."""
        if self._stopped or self._failed:
            return
        session = self._session
        # After our own `close` nothing is reported, not even what breaks the protocol.
        over = session.over
        try:
            complete = session.incoming(frame, self._loop.time())
        except ProtocolError as error:
            self._failed = True
            if not over:
                self._end(error)
            self.gone.set()
            self._closing = spawn(self.channel.close(CLOSE_PROTOCOL, "protocol error"), "distmap close")
            return
        # What is said meanwhile is written by `pump`, which is called after the last frame of a read.
        self._taking = True
        try:
            self._on_frame(complete)
        except Exception as error:
            self._fail(error)
            return
        finally:
            self._taking = False
        if session.owes and self._ack_timer is None and not session.over:
            self._ack_timer = self._loop.call_later(self._limits.ack_delay, self._acknowledge)

    def end(self, closed: ChannelClosed) -> None:
        """The channel has ended."""
        self._end(closed)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        """A bug in a callback (or here) must end the conversation, not half of it."""
        logger.error("the conversation with %s failed", self.channel.peer, exc_info=error)
        self._failed = True
        self._end(error)
        self.channel.abort()

    def _end(self, error: Exception) -> None:
        if not self._stopped:
            self.gone.set()
            self._on_end(error)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        if self._session.acknowledge():
            self.pump()


def spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that has begun already, where Python can do that: what needs no waiting is done before this returns."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, name=name, eager_start=True)
    return loop.create_task(work, name=name)
