"""One session over one proved connection: reading, writing, heartbeats, liveness.

Owns the tasks that move frames between a channel and a session, and the clock that the session is given. It must not
know which side it is (pool and worker use it alike) nor what the messages mean, except Bye.

All of it runs on one event loop: the portal's thread in a kernel, the main thread in a worker. So no lock is needed.
Three tasks: the reader, which also starts the writer; at most one writer, which ends when there is nothing to write;
the ticker, which looks at the clock.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence

from distmap.core.limits import LIMITS, Limits
from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer
from distmap.tasks.modules import loaded
from distmap.transport.channel import CLOSE_NORMAL, CLOSE_PROTOCOL, ChannelClosed, Connection
from distmap.wire.liveness import Liveness
from distmap.wire.messages import Beat, Bye, Message
from distmap.wire.session import Session

logger = logging.getLogger(__name__)


class Conversation:
    """A live conversation.

    Args:
        connection: A proved connection of `dial` or `listen`.
        on_message: Called with each complete message and its parts, which it may keep and write to. Must not block.
        on_liveness: Called when the liveness of the other side changes: "suspect" after `suspect_after` of silence,
            "fine" when something comes in again, "lost" after `reconnect_grace`, which ends the conversation.
        on_closed: Called once, with one sentence, when the conversation ends in any other way than by our own `close`
            or `abort`.
        beat: Called every `beat_every`; returns a heartbeat, or None to send only a ping.
        limits: Those of the wire and of liveness count.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        on_message: Callable[[Message, list[Buffer]], None],
        on_liveness: Callable[[Liveness], None],
        on_closed: Callable[[str], None],
        beat: Callable[[], Beat | None],
        limits: Limits = LIMITS,
    ) -> None:
        self.connection = connection
        self._channel = connection.channel
        self._on_message = on_message
        self._on_liveness = on_liveness
        self._on_closed = on_closed
        self._beat = beat
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        #: Its state is that of the conversation: once it is `over`, nothing is reported any more.
        self._session = Session(self._loop.time(), limits=limits, allocate=_allocate)
        self._liveness: Liveness = "fine"
        self._ack_timer: asyncio.TimerHandle | None = None
        # What `flushed` waits for.
        self._settled: list[asyncio.Future[None]] = []
        #: Done when Bye has been written, or never will be.
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    @property
    def rtt(self) -> float:
        """Round trip to the other side in seconds."""
        measured = self._session.peer.rtt
        return self.connection.rtt if measured is None else measured

    @property
    def printed(self) -> int:
        """Bytes of what tasks printed that wait to be written."""
        return self._session.printed

    @property
    def over(self) -> bool:
        """Whether the conversation has ended."""
        return self._session.over

    def start(self) -> None:
        """Begin to read and write. Messages that were sent before are written now."""
        self._session.peer.heard(self._loop.time())
        self._session.ping(self._loop.time())
        self._reader = self._spawn(self._read, "read")
        self._ticker = self._spawn(self._tick, "tick")
        self._pump()

    def _spawn(self, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        name = f"distmap {name} {self._channel.peer}"
        if sys.version_info >= (3, 12):
            # Begins at once: what can be written without waiting is written before this returns.
            return asyncio.Task(self._guarded(work), loop=self._loop, name=name, eager_start=True)
        return self._loop.create_task(self._guarded(work), name=name)

    def send(self, message: Message, parts: Sequence[Buffer] = ()) -> None:
        """Queue a message; never blocks. The parts are kept by reference until the other side acknowledged them.

        After the end it does nothing: `on_closed` has reported the loss.
        """
        if not self.over:
            self._session.send(message, parts)
            self._pump()

    async def flushed(self) -> None:
        """Return when all that was sent has been acknowledged by the other side, or the conversation ended."""
        if not self.over and not self._session.settled:
            waiter = self._loop.create_future()
            self._settled.append(waiter)
            await waiter

    async def close(self, reason: str = "") -> None:
        """Send what is queued, then Bye, and end; takes a few seconds at most. Closing twice is fine."""
        if not self.over:
            self._session.send(Bye(reason))
            self._finish()
            self._pump()
            if self._reader is not None:
                await asyncio.wait([self._gone], timeout=self._limits.close_grace)
        await self._channel.close(CLOSE_NORMAL, reason)
        await self._reap()

    def abort(self) -> None:
        """End at once: no Bye is sent, and `on_closed` is not called."""
        self._session.end()
        self._finish()
        self._channel.abort()
        for task in (self._writer, self._ticker):
            if task is not None:
                task.cancel()

    # --- the three tasks ---------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        # Always drains the socket: a reader that stops would stop the peer's signs of life too.
        session, channel, time = self._session, self._channel, self._loop.time
        while True:
            try:
                frame = await channel.recv()
            except ChannelClosed as closed:
                self._ended(self._farewell(closed))
                self._resolve(self._gone)
                return
            # After our own `close` nothing is reported, not even what breaks the protocol.
            over = session.over
            try:
                complete = session.incoming(frame, time())
            except ProtocolError as error:
                if not over:
                    self._report_end(f"{channel.peer} broke the protocol: {error}")
                self._resolve(self._gone)
                await channel.close(CLOSE_PROTOCOL, "protocol error")
                return
            # Otherwise its memory would be held until the next one comes.
            del frame
            for message, parts in complete:
                self._on_message(message, parts)
            complete.clear()
            if session.wants_to_write:
                self._pump()
            elif session.owes and self._ack_timer is None and not session.over:
                self._ack_timer = self._loop.call_later(self._limits.ack_delay, self._acknowledge)
            if self._settled and session.settled:
                self._release()

    def _pump(self) -> None:
        """Start the writer unless one is running."""
        if self._reader is not None and (self._writer is None or self._writer.done()):
            self._writer = self._spawn(self._write, "write")

    async def _write(self) -> None:
        session, channel = self._session, self._channel
        try:
            while (frame := session.outgoing()) is not None:
                await channel.send(frame)
        except ChannelClosed:
            # The reader gets the same, after the frames that still came.
            return
        if session.said_bye:
            self._resolve(self._gone)

    async def _tick(self) -> None:
        session, limits, time = self._session, self._limits, self._loop.time
        pause = min(1.0, limits.beat_every / 4)
        while True:
            await asyncio.sleep(pause)
            session.peer.heard(self._channel.last_heard)
            now = time()
            liveness = session.peer.liveness(now)
            if liveness != self._liveness:
                self._liveness = liveness
                self._on_liveness(liveness)
            if liveness == "lost":
                self._ended(f"{self._channel.peer} was silent for {limits.reconnect_grace:g} s")
                self._channel.abort()
                return
            if session.peer.beat_due(now):
                beat = self._beat()
                if beat is not None:
                    session.send(beat)
                session.ping(now)
                self._pump()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run one of the tasks. A bug in a callback (or here) must end the conversation, not half of it."""
        try:
            await work()
        except Exception as error:
            logger.exception("the conversation with %s failed", self._channel.peer)
            self._ended(f"the conversation with {self._channel.peer} failed on this side: {error!r}")
            self._channel.abort()

    def _acknowledge(self) -> None:
        self._ack_timer = None
        if self._session.acknowledge():
            self._pump()

    # --- the end -----------------------------------------------------------------------------------------------------

    def _farewell(self, closed: ChannelClosed) -> str:
        if self._session.state == "left":
            return f"{self._channel.peer} left" + (f": {self._session.farewell}" if self._session.farewell else "")
        return f"{self._channel.peer}: {closed}"

    def _ended(self, sentence: str) -> None:
        """End the session and report it, unless it is over already. Called by any of the three tasks."""
        if not self.over:
            self._session.end()
            self._report_end(sentence)

    def _report_end(self, sentence: str) -> None:
        self._finish()
        # The reader goes on until the channel ends: it must drain the socket, or `close` would wait for nothing. A task
        # does not cancel itself: it returns after this.
        current = asyncio.current_task()
        for task in (self._writer, self._ticker):
            if task is not None and task is not current:
                task.cancel()
        self._on_closed(sentence)

    def _finish(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        self._release()

    def _release(self) -> None:
        for waiter in self._settled:
            self._resolve(waiter)
        self._settled.clear()

    @staticmethod
    def _resolve(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    async def _reap(self) -> None:
        """Wait for the tasks, except the one that calls this."""
        tasks = [task for task in (self._reader, self._writer, self._ticker) if task is not None]
        tasks = [task for task in tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _allocate(size: int) -> Buffer:
    """Memory for a part: from NumPy if the process uses it anyway, which does not write zeros first."""
    numpy = loaded("numpy")
    if numpy is not None and size >= 64 << 10:
        return memoryview(numpy.empty(size, "u1"))
    return bytearray(size)
