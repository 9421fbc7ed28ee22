"""The supervisor of a worker: how it is reached, whom it serves, how it leaves.

Owns the two topologies (listening for a pool, dialling a pool), the rule of one pool at a time, and the drain. What
happens while a pool is there is in `serving.py`. It holds the sockets and therefore never runs or unpickles user code:
a task that keeps the GIL, crashes or floods cannot silence its heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distmap.core.limits import LIMITS, Limits
from distmap.errors import AuthenticationError, DistmapError, TokenError, VersionMismatch
from distmap.transport.channel import Connection
from distmap.transport.dial import dial
from distmap.transport.identity import pool_name, worker_info
from distmap.transport.listen import listen
from distmap.transport.redial import delays
from distmap.transport.security import Secret, WorkerURL
from distmap.worker.load import Load
from distmap.worker.serving import Stay

log = logging.getLogger("distmap.worker")

#: Exit codes. FATAL: dialling again cannot help (wrong token, wrong Python).
OK, CUT_SHORT, FATAL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line decides."""

    name: str
    slots: int
    token: Secret
    tags: frozenset[str] = frozenset()
    #: Seconds that running items may take after SIGTERM.
    drain: float = 25.0
    #: Leave after so many seconds without a pool; None: stay for ever.
    orphan_exit: float | None = None


class Supervisor:
    """One worker. Call `listen` or `dial` once, in the main thread; `terminate` from a signal handler of the loop."""

    def __init__(self, settings: Settings, *, announce: Callable[[str], None], limits: Limits = LIMITS) -> None:
        self._settings = settings
        self._announce = announce
        self._limits = limits
        self._load = Load()
        self._leaving = asyncio.Event()
        self._why = ""
        self._hurry = asyncio.Event()
        self._stay: Stay | None = None
        self._clearing: set[asyncio.Task[None]] = set()
        self._orphaned: asyncio.TimerHandle | None = None
        self._registered = False

    # --- how it is reached -------------------------------------------------------------------------------------------

    async def listen(self, address: WorkerURL, *, tls_cert: Path | None = None, tls_key: Path | None = None) -> int:
        """Serve one pool after the other until told to leave; returns the exit code."""
        self._prepare()
        try:
            server = await listen(
                address,
                token=self._settings.token,
                role="worker",
                info=self._offer,
                on_connection=self._serve,
                on_refused=lambda sentence: log.warning("refused: %s", sentence),
                tls_cert=tls_cert,
                tls_key=tls_key,
            )
        except BaseException:
            await self._clear()
            raise
        try:
            self._announce(f"listening on {server.url}")
            await self._leaving.wait()
            return await self._depart()
        finally:
            await self._clear()
            await server.close()

    async def dial(self, url: WorkerURL) -> int:
        """Register with the pool at `url`, again and again, until told to leave; returns the exit code."""
        self._prepare()
        try:
            return await self._unless_leaving(self._dial_on(url))
        finally:
            await self._clear()

    async def _dial_on(self, url: WorkerURL) -> int:
        pauses, said = delays(), ""
        while True:
            try:
                connection = await dial(url, token=self._settings.token, role="worker", info=self._offer())
                self._greet(url)
                await self._serve(connection)
            except (AuthenticationError, TokenError, VersionMismatch) as error:
                log.error("%s", error)
                return FATAL
            except (DistmapError, OSError) as error:
                if str(error) != said:  # once, not at each try
                    said = str(error)
                    log.warning("%s; trying again", said)
            else:
                pauses, said = delays(), ""
            await asyncio.sleep(next(pauses))

    def _greet(self, url: WorkerURL) -> None:
        if self._registered:
            log.info("registered again with %s", url)
        else:
            self._registered = True
            self._announce(f"registered with {url}")

    def _offer(self) -> Mapping[str, object]:
        """The INFO of this worker at this moment."""
        settings = self._settings
        info = worker_info(name=settings.name, slots=settings.slots, tags=settings.tags)
        if self._leaving.is_set():
            return {**info, "refused": "leaving"}
        if self._stay is None:
            return {**info, "refused": "it cannot start its task processes now"}
        if self._stay.taken:
            return {**info, "refused": "busy", "by": self._stay.pool}
        return info

    # --- whom it serves ----------------------------------------------------------------------------------------------

    async def _serve(self, connection: Connection) -> None:
        # No await before `begin`: between `_offer` and here nobody else may be taken.
        stay, pool = self._stay, pool_name(connection.peer_info)
        assert stay is not None, "a pool was taken before the slots were made"
        if self._orphaned is not None:
            self._orphaned.cancel()
        log.info("pool %s joined (%s)", pool, connection.channel.peer)
        stay.begin(connection, pool)
        await stay.over.wait()
        if self._leaving.is_set():
            return
        # However the pool went, its tasks end now and are of no use to anybody: no session is resumed. Fresh slots for
        # the next pool are made at once, and the old ones end beside them.
        self._stay = None
        task = asyncio.get_running_loop().create_task(stay.leave(stay.reason))
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
        await self._prepare_again()

    async def _prepare_again(self) -> None:
        """Until it succeeds: processes, memory or descriptors may be short for a while, and no pool is taken then."""
        for pause in delays():
            try:
                return self._prepare()
            except OSError as error:
                log.error("task processes cannot be started (%s); trying again in %.1f s", error, pause)
            await _first(asyncio.sleep(pause), self._leaving.wait(), deadline=math.inf)
            if self._leaving.is_set():
                return

    def _prepare(self) -> None:
        self._stay = Stay(self._settings.slots, self._load, name=self._settings.name, limits=self._limits)
        if self._settings.orphan_exit is not None:
            loop = asyncio.get_running_loop()
            self._orphaned = loop.call_later(
                self._settings.orphan_exit, self._leave, f"no pool for {self._settings.orphan_exit:g} s"
            )

    # --- how it leaves -----------------------------------------------------------------------------------------------

    def terminate(self, why: str) -> None:
        """The first call drains, the second leaves at once."""
        if self._leaving.is_set():
            log.info("%s again: leaving at once", why)
            self._hurry.set()
        else:
            self._leave(why)

    def _leave(self, why: str) -> None:
        if not self._leaving.is_set():
            self._why = why
            self._leaving.set()

    async def _depart(self) -> int:
        """Let running items finish, say goodbye, end the slots."""
        stay, code = self._stay, OK
        if stay is None:
            log.info("left (%s)", self._why)
            return code
        if stay.taken and not stay.over.is_set():
            log.info("leaving (%s): running items have %g s to finish", self._why, self._settings.drain)
            deadline = asyncio.get_running_loop().time() + self._settings.drain
            stay.drain()
            await _first(stay.quiet.wait(), stay.over.wait(), self._hurry.wait(), deadline=deadline)
            # The last results may be large, and the goodbye itself waits for two seconds only.
            await _first(stay.flushed(), self._hurry.wait(), deadline=deadline)
            if not stay.quiet.is_set():
                code = CUT_SHORT if self._hurry.is_set() else OK
                log.warning("not everything finished; the pool gives it to other workers")
        else:
            log.info("leaving (%s)", self._why)
        await stay.leave("the worker left")
        log.info("left")
        return code

    async def _clear(self) -> None:
        """Nothing outlives this: no process, no task."""
        if self._orphaned is not None:
            self._orphaned.cancel()
        if self._stay is not None:
            await self._stay.leave("the worker left")
        while self._clearing:
            await asyncio.wait(self._clearing)

    async def _unless_leaving(self, work: Coroutine[None, None, int]) -> int:
        loop = asyncio.get_running_loop()
        working, leaving = loop.create_task(work), loop.create_task(self._leaving.wait())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            working.cancel()  # no more dialling; a stay that it waits for goes on
            return await self._depart()
        finally:
            leaving.cancel()
            working.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)


async def _first(*waits: Coroutine[Any, Any, object], deadline: float) -> None:
    """Wait until one of them is over, at most until `deadline` (loop time)."""
    loop = asyncio.get_running_loop()
    tasks = {loop.create_task(wait) for wait in waits}
    try:
        timeout = None if deadline == math.inf else max(0.0, deadline - loop.time())
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
