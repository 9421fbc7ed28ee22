"""How the side that dialled gives its conversation a new connection.

Owns the dials of an outage: when they begin, how many there are at one time, which of them wins, and when there is
nothing to win any more. Used alike by a pool that dials workers and by a worker that dials its pool. It must not know
what is sent.

Each dial goes through a handshake of its own. When the other side has proved itself, and not before, our INFO gives up
the old connection: it names the session (`resume`) and what has been received of it (`received`), which is final from
then on. The other side, if it holds the session, gives up its old connection too and answers with the same two. From
any other answer this side learns that the session is gone there. A session's id proves nothing by itself.

    while the conversation is troubled:
        a dial fails              pause (0.1 s to `redial_session`), dial again; at once if the network has changed
        a dial takes long         another one joins it, up to `redial_dials`: the first that is proved wins
        the old one speaks again  all dials are given up
        nothing listens there     after `refused_after` the session is lost
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from distmap.core.limits import LIMITS, Limits
from distmap.errors import DistmapError
from distmap.transport.channel import Connection
from distmap.transport.conversation import Conversation
from distmap.transport.dial import GivenUp, nothing_listens
from distmap.transport.redial import Route, delays
from distmap.transport.room import Room

logger = logging.getLogger(__name__)

Info = Mapping[str, object]
#: `prove` with all but its `info`.
Dial = Callable[[Callable[[], Info]], Awaitable[Connection]]


async def keep(
    conversation: Conversation,
    dial: Dial,
    info: Callable[[], Info],
    *,
    room: Room | None = None,
    limits: Limits = LIMITS,
) -> Connection | None:
    """Give the conversation a new connection whenever it is in trouble, until it is over.

    Args:
        conversation: Begun on a connection that this side dialled.
        dial: Dials the other side again.
        info: Makes our INFO; what it says of the session is added here.
        room: Where the dials lead, if that is a relay: one that waits there is not joined by others.
        limits: Pauses and numbers.

    Returns:
        A proved connection to an other side that has begun anew, if that is how the conversation ended. Its INFO has
        not been looked at: it may refuse this side.
    """
    while True:
        await conversation.troubled.wait()
        if conversation.over:
            return None
        fresh = await _Outage(conversation, dial, info, room, limits).end()
        if fresh is not None:
            return fresh


class _Outage:
    """One time of trouble."""

    def __init__(
        self, conversation: Conversation, dial: Dial, info: Callable[[], Info], room: Room | None, limits: Limits
    ) -> None:
        self._conversation = conversation
        self._dial = dial
        self._info = info
        self._room = room
        self._limits = limits
        self._clock = asyncio.get_running_loop().time
        self._pauses = delays(limits.redial_session)
        self._began = self._next = self._clock()
        self._dials: set[asyncio.Task[Connection]] = set()
        # The one that has told the other side what we have received.
        self._chosen: asyncio.Task[Connection] | None = None
        # Since when nothing has listened there.
        self._refused_since: float | None = None
        # Why the last dial failed, which is logged when it changes.
        self._said = ""

    async def end(self) -> Connection | None:
        """Dial until the conversation has a connection that works, or is over. Returns what `keep` does."""
        conversation, limits = self._conversation, self._limits
        route = Route(conversation.connection.remote)
        try:
            while conversation.troubled.is_set() and not conversation.over:
                now = self._clock()
                if route.is_new():
                    self._next = now
                if now >= self._next and len(self._dials) < self._most_dials():
                    self._dials.add(asyncio.ensure_future(self._dial(self._offer)))
                    self._next = now + limits.redial_join
                left = max(0.001, min(limits.redial_look, self._next - now))
                if not self._dials:
                    await asyncio.sleep(left)
                    continue
                done, self._dials = await asyncio.wait(
                    self._dials, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )  # fmt: skip
                fresh = [connection for ended in done if (connection := self._outcome(ended)) is not None]
                if fresh:
                    return fresh[0]  # one at most: the others had to give up
            return None
        finally:
            await self._give_up_dials()

    def _most_dials(self) -> int:
        if not self._may_resume():
            return 1
        if self._room is None:
            return self._limits.redial_dials
        # After a restart of the relay all workers come at once: whoever is on the way there must not come twice.
        return 1 if self._room.underway else 2

    def _may_resume(self) -> bool:
        """Whether the other side may still hold the session; a worker keeps its own for longer."""
        return self._clock() - self._began < self._limits.reconnect_grace

    def _offer(self) -> Info:
        """Our INFO for a dial whose other side has proved itself; the first one wins."""
        conversation = self._conversation
        if conversation.over or self._chosen is not None or not conversation.troubled.is_set():
            raise GivenUp
        self._chosen = asyncio.current_task()
        conversation.detach("the connection was silent")
        return {**self._info(), "resume": conversation.id, "received": conversation.received}

    def _outcome(self, dial: asyncio.Task[Connection]) -> Connection | None:
        conversation = self._conversation
        if dial is self._chosen:
            self._chosen = None
        try:
            connection = dial.result()
        except GivenUp:
            return None
        except (DistmapError, OSError) as error:
            self._failed(error)
            return None
        except Exception as error:
            # A bug. Without this the conversation would wait in vain until it is lost.
            logger.exception("! dialling %s again failed", conversation.connection.channel.peer)
            self._failed(error)
            return None
        theirs = connection.peer_info
        if theirs.get("resume") == conversation.id:
            conversation.attach(connection, theirs.get("received"))
            return None
        conversation.give_up(f"{connection.channel.peer} has begun anew, or given it up")
        return connection

    def _failed(self, error: Exception) -> None:
        if str(error) != self._said:
            self._said = str(error)
            logger.info("x %s", error)
        now = self._clock()
        self._next = now + (next(self._pauses) if self._may_resume() else LIMITS.redial[-1])
        if not nothing_listens(error):
            self._refused_since = None
            return
        if self._refused_since is None:
            self._refused_since = now
        if now - self._refused_since >= self._limits.refused_after and not self._conversation.attached:
            self._conversation.give_up(f"nothing has listened there for {self._limits.refused_after:g} s")

    async def _give_up_dials(self) -> None:
        for dial in self._dials:
            dial.cancel()
        for result in await asyncio.gather(*self._dials, return_exceptions=True):
            if isinstance(result, Connection):
                result.channel.abort()
