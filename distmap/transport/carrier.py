"""The frames of a session on one channel: reading, writing, acknowledging, until the channel ends.

Owns the reader and the writer of one channel, and the timer of acknowledgements. It must not know what messages mean,
nor whether another channel follows: `conversation.py`, which makes a carrier for each, decides that.

All of it runs on one event loop. Two tasks: the reader, which begins with the carrier and also starts the writer; at
most one writer, which ends when there is nothing to write.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from distmap.core.limits import Limits
from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer
from distmap.transport.channel import CLOSE_PROTOCOL, Channel, ChannelClosed
from distmap.wire.messages import Message
from distmap.wire.session import Session

logger = logging.getLogger(__name__)

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
        self._stopped = False
        self._ack_timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read and write."""
        self._reader = spawn(self._guarded(self._read), f"distmap read {self.channel.peer}")
        self.pump()

    def pump(self) -> None:
        """Start the writer unless one is running. Call it when the session has something to write."""
        if self._reader is not None and not self._stopped and (self._writer is None or self._writer.done()):
            self._writer = spawn(self._guarded(self._write), f"distmap write {self.channel.peer}")

    def hush(self) -> None:
        """Write nothing more. What comes in is still read: a socket that nobody drains cannot be closed politely."""
        self._stop_acknowledging()
        _cancel(self._writer)

    def stop(self) -> None:
        """Break the channel, and take nothing from it any more."""
        self._stopped = True
        self.gone.set()
        self.hush()
        self.channel.abort()
        _cancel(self._reader)

    async def close(self, code: int, reason: str) -> None:
        """End the channel politely, within its bounds, and wait for the tasks."""
        await self.channel.close(code, reason)
        tasks = [task for task in (self._reader, self._writer) if task not in (None, asyncio.current_task())]
        for task in tasks:
            _cancel(task)
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)

    # --- the two tasks ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        # Always drains the socket: a reader that stops would stop the peer's signs of life too.
        session, channel, now = self._session, self.channel, self._loop.time
        while True:
            try:
                frame = await channel.recv()
            except ChannelClosed as closed:
                self._end(closed)
                return
            if self._stopped:
                return
            # After our own `close` nothing is reported, not even what breaks the protocol.
            over = session.over
            try:
                complete = session.incoming(frame, now())
            except ProtocolError as error:
                if not over:
                    self._end(error)
                self.gone.set()
                await channel.close(CLOSE_PROTOCOL, "protocol error")
                return
            # Otherwise its memory would be held until the next one comes.
            del frame
            self._on_frame(complete)
            complete.clear()
            if session.wants_to_write:
                self.pump()  # perhaps for nothing: `wants_to_write` is not exact
            if session.owes and self._ack_timer is None and not session.over:
                self._ack_timer = self._loop.call_later(self._limits.ack_delay, self._acknowledge)

    async def _write(self) -> None:
        session, channel = self._session, self.channel
        try:
            while not self._stopped and (frame := session.outgoing()) is not None:
                await channel.send(frame)
        except ChannelClosed:
            # The reader gets the same, after the frames that still came.
            return
        if session.said_bye:
            self.gone.set()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run one of the tasks. A bug in a callback (or here) must end the conversation, not half of it."""
        try:
            await work()
        except Exception as error:
            logger.exception("the conversation with %s failed", self.channel.peer)
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

    def _stop_acknowledging(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None


def spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that has begun already, where Python can do that: what needs no waiting is done before this returns."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, name=name, eager_start=True)
    return loop.create_task(work, name=name)


def _cancel(task: asyncio.Task[None] | None) -> None:
    """Cancel it unless it is the one that calls: that one returns by itself."""
    if task is not None and task is not asyncio.current_task():
        task.cancel()
