"""The supervisor of a worker: how it connects, which pool it serves, how it leaves.

Owns the two topologies (listening for a pool, dialling a pool), the rule of one pool at a time, and the drain. What
happens while a pool is there is in `serving.py`. It holds the sockets and therefore never runs or unpickles user code:
a task that keeps the GIL, crashes or floods cannot silence its heartbeats. All of it runs on one event loop, in the
main thread; the loop calls `terminate` for signals.
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
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.worker.load import Load
from distmap.worker.serving import PoolSession

log = logging.getLogger("distmap.worker")

#: Exit codes. CUT_SHORT: a second signal ended the drain. FATAL: dialling again cannot help (wrong token or Python).
OK, CUT_SHORT, FATAL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a worker, from its command line."""

    name: str
    slots: int
    token: Secret
    tags: frozenset[str] = frozenset()
    #: Seconds that running items may take after SIGTERM.
    drain: float = 25.0
    #: Seconds without a pool after which the worker leaves; None: it never does.
    orphan_exit: float | None = None


class Supervisor:
    """One worker. Call `listen` or `dial` once, in the main thread; `terminate` from a signal handler of the loop."""

    def __init__(self, settings: Settings, *, announce: Callable[[str], None], limits: Limits = LIMITS) -> None:
        self._settings = settings
        self._announce = announce
        self._limits = limits
        self._load = Load()
        self._leaving = asyncio.Event()
        self._reason = ""
        self._leave_now = asyncio.Event()
        self._session: PoolSession | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._orphan_timer: asyncio.TimerHandle | None = None
        self._registered = False

    # --- how it connects ---------------------------------------------------------------------------------------------

    async def listen(self, address: WorkerURL, *, tls_cert: Path | None = None, tls_key: Path | None = None) -> int:
        """Serve one pool after the other until `terminate`; returns the exit code."""
        self._new_session()
        try:
            server = await listen(
                address,
                token=self._settings.token,
                role="worker",
                info=self._info,
                on_connection=self._serve,
                on_refused=lambda sentence: log.warning("refused: %s", sentence),
                tls_cert=tls_cert,
                tls_key=tls_key,
            )
        except BaseException:
            await self._end_all()
            raise
        try:
            self._announce(f"listening on {server.url}")
            await self._leaving.wait()
            return await self._drain()
        finally:
            await self._end_all()
            await server.close()

    async def dial(self, url: WorkerURL) -> int:
        """Register with the pool at `url`, again and again, until `terminate`; returns the exit code."""
        self._new_session()
        try:
            return await self._unless_leaving(self._keep_dialling(url))
        finally:
            await self._end_all()

    async def _keep_dialling(self, url: WorkerURL) -> int:
        pauses, logged = delays(), ""
        while True:
            try:
                connection = await dial(url, token=self._settings.token, role="worker", info=self._info())
                self._announce_registration(url)
                await self._serve(connection)
            except (AuthenticationError, TokenError, VersionMismatch) as error:
                log.error("%s", error)
                return FATAL
            except (DistmapError, OSError) as error:
                if str(error) != logged:  # once, not at each try
                    logged = str(error)
                    log.warning("%s; trying again", logged)
            else:
                pauses, logged = delays(), ""
            await asyncio.sleep(next(pauses))

    def _announce_registration(self, url: WorkerURL) -> None:
        if self._registered:
            log.info("registered again with %s", url)
        else:
            self._registered = True
            self._announce(f"registered with {url}")

    def _info(self) -> Mapping[str, object]:
        """The INFO of this worker at this moment."""
        settings = self._settings
        info = worker_info(name=settings.name, slots=settings.slots, tags=settings.tags)
        if self._leaving.is_set():
            return {**info, "refused": "leaving"}
        if self._session is None:
            return {**info, "refused": "it cannot start its task processes now"}
        if self._session.taken:
            return {**info, "refused": "busy", "by": self._session.pool}
        return info

    # --- which pool it serves ----------------------------------------------------------------------------------------

    async def _serve(self, connection: Connection) -> None:
        # No await before `begin`: between `_info` and here no other pool may be accepted.
        session, pool = self._session, pool_name(connection.peer_info)
        assert session is not None, "a pool was taken before the slots were made"
        if self._orphan_timer is not None:
            self._orphan_timer.cancel()
        log.info("pool %s joined (%s)", pool, connection.channel.peer)
        session.begin(connection, pool)
        await session.over.wait()
        if self._leaving.is_set():
            return
        # However the pool went, its tasks end now, because no session is resumed. Fresh slots for the next pool are
        # made at once, while the old ones end.
        self._session = None
        task = asyncio.get_running_loop().create_task(session.leave(session.reason))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await self._retry_new_session()

    async def _retry_new_session(self) -> None:
        """Try until it succeeds. Processes or memory may be short for a while, in which no pool is accepted."""
        for pause in delays():
            try:
                return self._new_session()
            except OSError as error:
                log.error("task processes cannot be started (%s); trying again in %.1f s", error, pause)
            await _wait_for_first(asyncio.sleep(pause), self._leaving.wait(), deadline=math.inf)
            if self._leaving.is_set():
                return

    def _new_session(self) -> None:
        self._session = PoolSession(self._settings.slots, self._load, name=self._settings.name, limits=self._limits)
        if self._settings.orphan_exit is not None:
            loop = asyncio.get_running_loop()
            self._orphan_timer = loop.call_later(
                self._settings.orphan_exit, self._leave, f"no pool for {self._settings.orphan_exit:g} s"
            )

    # --- how it leaves -----------------------------------------------------------------------------------------------

    def terminate(self, reason: str) -> None:
        """The first call drains, the second leaves at once."""
        if self._leaving.is_set():
            log.info("%s again: leaving at once", reason)
            self._leave_now.set()
        else:
            self._leave(reason)

    def _leave(self, reason: str) -> None:
        if not self._leaving.is_set():
            self._reason = reason
            self._leaving.set()

    async def _drain(self) -> int:
        """Let running items finish, send Bye, end the slots; returns the exit code."""
        session, code = self._session, OK
        if session is None:
            log.info("left (%s)", self._reason)
            return code
        if session.taken and not session.over.is_set():
            log.info("leaving (%s): running items have %g s to finish", self._reason, self._settings.drain)
            deadline = asyncio.get_running_loop().time() + self._settings.drain
            session.drain()
            await _wait_for_first(session.idle.wait(), session.over.wait(), self._leave_now.wait(), deadline=deadline)
            # The last results may be large, and Bye itself waits for `close_grace` only.
            await _wait_for_first(session.flushed(), self._leave_now.wait(), deadline=deadline)
            if not session.idle.is_set():
                code = CUT_SHORT if self._leave_now.is_set() else OK
                log.warning("not everything finished; the pool gives it to other workers")
        else:
            log.info("leaving (%s)", self._reason)
        await session.leave("the worker left")
        log.info("left")
        return code

    async def _end_all(self) -> None:
        """End every process and every task of this worker."""
        if self._orphan_timer is not None:
            self._orphan_timer.cancel()
        if self._session is not None:
            await self._session.leave("the worker left")
        while self._ending:
            await asyncio.wait(self._ending)

    async def _unless_leaving(self, work: Coroutine[None, None, int]) -> int:
        loop = asyncio.get_running_loop()
        working, leaving = loop.create_task(work), loop.create_task(self._leaving.wait())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            working.cancel()  # ends the dialling only: a session lives on
            return await self._drain()
        finally:
            leaving.cancel()
            working.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)


async def _wait_for_first(*waits: Coroutine[Any, Any, object], deadline: float) -> None:
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
