"""One session over one proved connection after the other: heartbeats, liveness, and what a lost connection means.

Owns the clock that a session is given, and the change from one channel to the next. It must not know which side it is
(pool and worker use it alike) nor what the messages mean, except Bye. A channel that breaks is no end: what is sent
meanwhile is kept by the session, and the next connection goes to `attach`: from `reconnect.py` on the side that
dials, from the port on the other one. How frames move over a channel is in `carrier.py`.

All of it runs on one event loop: the portal's thread in a kernel, the main thread in a worker. So no lock is needed.
The ticker is a task that looks at the clock, with a channel and without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from distmap.core.limits import LIMITS, Limits
from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer
from distmap.tasks.modules import loaded
from distmap.transport.carrier import Carrier, Complete, spawn
from distmap.transport.channel import CLOSE_NORMAL, CLOSE_PROTOCOL, ChannelClosed, Connection
from distmap.transport.doubts import Doubts
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
            "fine" when something comes in again, "lost" after `reconnect_grace`, which ends the conversation, whether
            there is a channel or not.
        on_closed: Called once, with one sentence, when the conversation ends in any other way than by our own `close`
            or `abort`.
        on_channel: Called with a sentence when the channel has gone, and with None when another one has taken its
            place. Without it the conversation ends with its first channel.
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
        on_channel: Callable[[str | None], None] | None = None,
        beat: Callable[[], Beat | None],
        limits: Limits = LIMITS,
    ) -> None:
        self.connection = connection
        #: Names the session, over all its connections.
        self.id = connection.session
        self._on_message = on_message
        self._on_liveness = on_liveness
        self._on_closed = on_closed
        self._on_channel = on_channel
        self._beat = beat
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        #: Its state is that of the conversation: once it is `over`, nothing is reported any more.
        self._session = Session(self._loop.time(), limits=limits, allocate=_allocate)
        #: What is measured of the other side.
        self.peer = self._session.peer
        self._liveness: Liveness = "fine"
        #: Set while a new connection is wanted: there is none, or reason to doubt it; and at the end.
        self.troubled = asyncio.Event()
        self._doubts = Doubts(self._loop.time(), limits)
        # What `flushed` waits for; clear only while it does.
        self._settled = asyncio.Event()
        self._settled.set()
        self._carrier_on = partial(
            Carrier, session=self._session, on_frame=self._take, on_end=self._on_end, limits=limits
        )
        self._carrier = self._carrier_on(connection.channel)
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
    def waiting_bytes(self) -> int:
        """Bytes of messages that wait to be written, or for the other side to acknowledge them."""
        return self._session.queued_bytes + self._session.log.nbytes

    @property
    def over(self) -> bool:
        """Whether the conversation has ended."""
        return self._session.over

    @property
    def attached(self) -> bool:
        """Whether there is a channel; it may have broken without a sign."""
        return self._session.attached

    @property
    def received(self) -> int:
        """What the other side must know to go on over a new channel. Call `detach` before."""
        return self._session.received

    def can_attach(self, received: object) -> bool:
        """Whether a new connection can take the place of the present one, by what its other end says it has received.

        Not if that is out of date: that end has given up this dial, and has gone on over a later one.
        """
        return isinstance(received, int) and self._session.can_resume(received)

    def start(self) -> None:
        """Begin to read and write. Messages that were sent before are written now."""
        now = self._loop.time()
        self._session.peer.heard(now)
        self._session.ping(now)
        self._carrier.start()
        self._ticker = spawn(self._guarded_tick(), f"distmap tick {self.connection.channel.peer}")

    def send(self, message: Message, parts: Sequence[Buffer] = ()) -> None:
        """Queue a message; never blocks. The parts are kept by reference until the other side acknowledged them.

        After the end it does nothing: `on_closed` has reported the loss.
        """
        if not self.over:
            self._session.send(message, parts)
            self._carrier.pump()

    async def flushed(self) -> None:
        """Return when all that was sent has been acknowledged by the other side, or the conversation ended."""
        if not self.over and not self._session.settled:
            self._settled.clear()
            await self._settled.wait()

    async def close(self, reason: str = "") -> None:
        """Send what is queued, then Bye, and end; takes a few seconds at most. Closing twice is fine.

        Without a channel nobody is told: what cannot be sent is not waited for.
        """
        if not self.over:
            self._session.send(Bye(reason))
            self._release()
            self._carrier.pump()
            if self._ticker is not None and self.attached:
                waiting = asyncio.ensure_future(self._carrier.gone.wait())
                await asyncio.wait([waiting], timeout=self._limits.close_grace)
                waiting.cancel()
        await self._carrier.close(CLOSE_NORMAL, reason)
        if self._ticker is not None and self._ticker is not asyncio.current_task():
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)

    def give_up(self, sentence: str) -> None:
        """End at once, and report it with this sentence: the other side does not hold this session any more."""
        self._end(sentence)
        self._carrier.channel.abort()

    def abort(self) -> None:
        """End at once: no Bye is sent, and `on_closed` is not called."""
        self._session.end()
        self._release()
        self._carrier.hush()
        self._carrier.channel.abort()
        self._stop_ticker()

    # --- channels ----------------------------------------------------------------------------------------------------

    def detach(self, sentence: str) -> None:
        """Take and write nothing on the present channel any more, and wait for another one."""
        if self.over or not self.attached:
            return
        self._session.detached()
        self._carrier.stop()
        self.troubled.set()
        if self._on_channel is not None:
            self._on_channel(sentence)

    def attach(self, connection: Connection, received: object) -> None:
        """Go on over a new connection. Whatever is wrong with it ends the conversation, and is reported.

        After the end the connection is broken: it was dialled before, and nobody would close it.

        Args:
            connection: A proved one, whose other end said that it holds this session.
            received: What that end says it has received.
        """
        if self.over:
            connection.channel.abort()
            return
        self.detach("another connection takes its place")
        try:
            if not isinstance(received, int):
                raise ProtocolError("it does not say how much it has received")
            self._session.resume(received, self._loop.time())
        except ProtocolError as error:
            connection.channel.abort()
            self.give_up(f"{connection.channel.peer} cannot go on with the session: {error}")
            return
        self.connection, self._carrier = connection, self._carrier_on(connection.channel)
        self._doubts.fresh(self._loop.time())
        self.troubled.clear()
        self._liveness = "fine"
        self._session.ping(self._loop.time())
        if self._session.settled:
            self._settled.set()
        if self._on_channel is not None:
            self._on_channel(None)
        self._carrier.start()

    def _take(self, complete: Sequence[Complete]) -> None:
        if self.troubled.is_set() and not self.over and not self._doubts.stuck:
            self._doubts.heard(self._loop.time())
            self.troubled.clear()
        for message, parts in complete:
            self._on_message(message, parts)
        if not self._settled.is_set() and self._session.settled:
            self._settled.set()

    def _on_end(self, error: Exception) -> None:
        """The channel has ended by itself. Wait for another one, unless there is nothing to go on with."""
        peer = self._carrier.channel.peer
        if isinstance(error, ProtocolError):
            self._report_end(f"{peer} broke the protocol: {error}")
        elif not isinstance(error, ChannelClosed):
            self._end(f"the conversation with {peer} failed on this side: {error!r}")
        elif self._session.state == "left":
            self._end(f"{peer} left" + (f": {self._session.farewell}" if self._session.farewell else ""))
        elif self._on_channel is None or error.code == CLOSE_PROTOCOL:
            self._end(f"{peer}: {error}")
        else:
            self.detach(f"{peer}: {error}")

    # --- the clock ---------------------------------------------------------------------------------------------------

    async def _guarded_tick(self) -> None:
        try:
            await self._tick()
        except Exception as error:
            logger.exception("the conversation with %s failed", self.connection.channel.peer)
            self._on_end(error)
            self._carrier.channel.abort()

    async def _tick(self) -> None:
        session, limits, clock = self._session, self._limits, self._loop.time
        pause = min(1.0, limits.beat_every / 4)
        while True:
            await asyncio.sleep(pause)
            now = clock()
            if self.attached:
                session.peer.heard(self._carrier.channel.last_heard)
                self._doubts.heard(self._carrier.channel.last_heard)
            if self._doubts.look(now, session.log.oldest if self.attached else None):
                self.troubled.set()
            liveness = session.peer.liveness(now)
            if liveness != self._liveness:
                self._liveness = liveness
                self._on_liveness(liveness)
            if liveness == "lost":
                self._end(f"{self._carrier.channel.peer} was silent for {limits.reconnect_grace:g} s")
                self._carrier.channel.abort()
                return
            if session.peer.beat_due(now) and self.attached:
                beat = self._beat()
                if beat is not None:
                    session.send(beat)
                session.ping(now)
                self._carrier.pump()

    # --- the end -----------------------------------------------------------------------------------------------------

    def _end(self, sentence: str) -> None:
        """End the session and report it, unless it is over already."""
        if not self.over:
            self._session.end()
            self._report_end(sentence)

    def _report_end(self, sentence: str) -> None:
        self._release()
        self._carrier.hush()
        self._stop_ticker()
        self._on_closed(sentence)

    def _release(self) -> None:
        self._settled.set()
        self.troubled.set()

    def _stop_ticker(self) -> None:
        # A task does not cancel itself: it returns after this.
        if self._ticker is not None and self._ticker is not asyncio.current_task():
            self._ticker.cancel()


def _allocate(size: int) -> Buffer:
    """Memory for a part: from NumPy if the process uses it anyway, which does not write zeros first."""
    numpy = loaded("numpy")
    if numpy is not None and size >= 64 << 10:
        return memoryview(numpy.empty(size, "u1"))
    return bytearray(size)
