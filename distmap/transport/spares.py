"""A pool's connections that wait at a relay for its workers.

Owns how many there are, and when they are dialled. Each is given to the acceptor when a worker has come, as if the
worker had dialled a port of the pool. It must not know what a worker is. All of it runs on one event loop.

`RelayLimits.spares` of them wait, so that a worker is let in at once. Where the relay says that more workers wait, as
many more are dialled, each for one worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace

from distmap.core.relay_limits import RELAY
from distmap.errors import DistmapError
from distmap.transport.dial import open_link
from distmap.transport.first_hop import FirstHop
from distmap.transport.listen import Acceptor
from distmap.transport.redial import Route, delays, pause
from distmap.transport.room import FOR_EVER, Room, shown
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL

log = logging.getLogger("distmap.hub")


class Spares:
    """The connections of one pool that wait at its relay.

    Args:
        url: The address of the relay.
        hop: What it needs to be reached.
        acceptor: Takes each connection that leads to a worker.
        token: Of the pool.
        errors: Gets under our `url` why the relay cannot be reached or refuses this pool, for as long as that is so.
        timeout: Seconds for one dial.
    """

    def __init__(
        self,
        url: WorkerURL,
        hop: FirstHop,
        acceptor: Acceptor,
        *,
        token: Secret,
        errors: dict[str, str],
        timeout: float = 10.0,
    ) -> None:
        self.url = shown(url)
        #: Set when the first dial has succeeded or failed.
        self.tried = asyncio.Event()
        self._relay = url
        self._room = Room(token, url, "pool", on_waiting=self._waits)
        self._hop = replace(hop, room=self._room)
        self._acceptor = acceptor
        self._errors = errors
        self._trouble = ""
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()
        # Those of the tasks that no worker has come to.
        self._free = 0

    def start(self) -> None:
        """Begin to dial."""
        for _ in range(RELAY.spares):
            self._spawn(self._keep(), "keep a spare connection")

    async def close(self) -> None:
        """Give up those that wait. Connections that lead to a worker belong to who has accepted them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _waits(self, again: bool = False) -> None:
        self.tried.set()
        # What stands there may also say why a worker was refused.
        if self._trouble and self._errors.get(self.url) == self._trouble:
            del self._errors[self.url]
        self._trouble = ""

    def _failed(self, sentence: str) -> None:
        self.tried.set()
        if sentence != self._trouble:
            log.info("x %s", sentence)
        self._errors[self.url] = self._trouble = sentence

    async def _keep(self) -> None:
        """Keep one connection waiting."""
        pauses, route = delays(RELAY.redial), Route(None)
        while True:
            try:
                remote = await self._serve_one(FOR_EVER)
                route = Route(remote if isinstance(remote, tuple) else None)
            except (DistmapError, OSError) as error:
                self._failed(str(error))
                await pause(next(pauses), route)
            except Exception:
                # A bug. Without this the task would end unseen, and workers would wait in vain.
                log.exception("! a connection at %s failed", self.url)
                await pause(next(pauses), route)
            else:
                pauses = delays(RELAY.redial)

    async def _once(self) -> None:
        """One more connection, for a worker that waits already; if another one was quicker, it is not needed."""
        try:
            await self._serve_one(0.0)
        except (DistmapError, OSError) as error:
            log.debug("x %s", error)  # those that are kept say the same, and go on
        except Exception:
            log.exception("! a connection at %s failed", self.url)

    async def _serve_one(self, patience: float) -> object:
        """Wait for one worker and let it prove itself; returns the relay's address."""
        self._free += 1
        try:
            link = await open_link(self._relay, self._timeout, self._hop, True)
            notice = await self._room.enter(link, patience)
        finally:
            self._free -= 1
        self._room.arrived(link)
        self._waits()
        remote = link.transport.get_extra_info("peername")
        for _ in range(min(notice.workers, RELAY.spares_most - len(self._tasks)) - self._free):
            self._spawn(self._once(), "a further connection")
        try:
            await self._acceptor.admit(link, self.url)
        except BaseException:
            link.transport.abort()
            raise
        return remote
