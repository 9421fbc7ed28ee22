"""The supervisor of a worker: how it connects, which pool it serves, how it leaves.

Owns the two topologies (listening for a pool, dialling a pool), the rule of one pool at a time, and the drain. What
happens while a pool is there, or out of reach, is in `serving.py`. It holds the sockets and therefore never runs or
unpickles user code: a task that keeps the GIL, crashes or floods cannot silence its heartbeats. All of it runs on one
event loop, in the main thread; the loop calls `terminate` for signals.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from distmap.core.limits import LIMITS, Limits
from distmap.errors import AuthenticationError, DistmapError, LaunchError, TokenError, VersionMismatch
from distmap.slots.devices import Devices
from distmap.transport.channel import Connection
from distmap.transport.dial import check_fit, dial, prove
from distmap.transport.first_hop import FirstHop
from distmap.transport.identity import OUTDATED, is_check, pool_name, worker_info
from distmap.transport.listen import listen
from distmap.transport.reconnect import Dial, keep
from distmap.transport.redial import delays
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.transport.waiting import WAITS
from distmap.worker.idle import leave_when_idle, wait_for_call
from distmap.worker.load import Load
from distmap.worker.serving import PoolSession
from distmap.worker.trying import Trying

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
    #: Seconds for which a pool that is not there is dialled; None: for ever.
    retry: float | None = None
    #: Seconds without work after which a worker that dials leaves its pool until it is called; None: it stays.
    idle: float | None = None
    #: Bytes that each slot may use; None: no limit.
    memory_limit: int | None = None
    #: A GPU for each slot; None: slots have none of their own.
    devices: Devices | None = None
    #: Variables that task processes have besides those of this process.
    env: Mapping[str, str] = field(default_factory=dict)
    #: What a proxy on the way to the pool needs.
    hop: FirstHop = FirstHop()  # noqa: RUF009 - frozen
    #: Leave when the pool has gone.
    once: bool = False
    #: What a pool's launcher calls its start; empty: somebody else started it.
    launch: str = ""


class Supervisor:
    """One worker. Call `listen` or `dial` once, in the main thread; `terminate` from a signal handler of the loop."""

    def __init__(self, settings: Settings, *, announce: Callable[[str], None], limits: Limits = LIMITS) -> None:
        self._settings = settings
        self._announce = announce
        self._limits = limits
        self._load = Load(settings.devices)
        self._leaving = asyncio.Event()
        self._reason = ""
        self._leave_now = asyncio.Event()
        self._session: PoolSession | None = None
        # Sessions that are seen out, and the retry of a new one.
        self._tasks: set[asyncio.Task[None]] = set()
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
                on_connection=self._on_connection,
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
            if self._settings.hop.closed is not None:
                await self._settings.hop.closed()

    async def _keep_dialling(self, url: WorkerURL) -> int:
        begin_trying = partial(Trying, url, self._settings.retry, self._limits, idle=self._settings.idle)
        trying = begin_trying()
        fresh: Connection | None = None
        while not self._leaving.is_set():
            try:
                connection, fresh = await self._connect(url, fresh), None
                if (session := self._begin(connection)) is not None:
                    self._announce_registration(url)
                    fresh = await keep(
                        session.conversation,
                        self._dial_again(url),
                        self._resume_info,
                        room=self._settings.hop.room,
                        limits=self._limits,
                    )
                    trying = begin_trying(last=connection)
                    session.end("connection lost")
                    self._see_out(session)
                    if session.rests:
                        try:
                            await self._wait_for_call(url)
                        finally:
                            trying = begin_trying()
                    if fresh is not None or session.rests:
                        continue
                await trying.pause()
            except AuthenticationError as error:
                log.error("%s", error)
                if not self._registered:
                    return FATAL
                # It was the right token once. A hop on the way can make it look wrong; no hop may end a worker.
                fresh = None
                await asyncio.sleep(self._limits.redial_fatal)
            except (TokenError, VersionMismatch) as error:
                log.error("%s", error)
                return FATAL
            except (DistmapError, OSError) as error:
                fresh = None
                if isinstance(error, LaunchError) and not self._registered:
                    log.error("%s", error)  # a person has to correct that, and may be looking on
                    return FATAL
                if trying.in_vain(error):
                    return FATAL
                await trying.pause(error)
        return OK

    async def _connect(self, url: WorkerURL, fresh: Connection | None) -> Connection:
        """A connection to a pool that takes us: `fresh`, if it is one, or else a new one."""
        if fresh is not None:
            await check_fit(fresh, self._own_info(), str(url))
            return fresh
        return await dial(url, token=self._settings.token, role="worker", info=self._info({}), hop=self._settings.hop)

    async def _wait_for_call(self, url: WorkerURL) -> None:
        """Wait, out of the pool, until it has work. Raises what dialling it does, if it has gone."""
        log.info("waiting for pool at %s to call: no traffic until it has work", url)
        settings = self._settings
        info = {**self._own_info(), WAITS: True}
        self._count_as_orphan(False)
        try:
            await wait_for_call(
                lambda: dial(url, token=settings.token, role="worker", info=info, hop=settings.hop), self._limits
            )
        finally:
            self._count_as_orphan(True)

    def _dial_again(self, url: WorkerURL) -> Dial:
        settings = self._settings
        return lambda info: prove(url, token=settings.token, role="worker", info=info, hop=settings.hop)

    def _announce_registration(self, url: WorkerURL) -> None:
        if self._registered:
            log.info("registered again with %s", url)
        else:
            self._registered = True
            self._announce(f"registered with {url}")

    # --- what it says of itself --------------------------------------------------------------------------------------

    def _own_info(self) -> dict[str, object]:
        settings = self._settings
        devices = () if settings.devices is None else settings.devices.names
        return worker_info(
            name=settings.name, slots=settings.slots, tags=settings.tags, devices=devices, launch=settings.launch
        )

    def _resume_info(self) -> dict[str, object]:
        """The INFO for a pool that held our session before; it takes a worker that leaves, too."""
        return {**self._own_info(), "kept": 0 if self._session is None else self._session.kept}

    def _info(self, theirs: Mapping[str, object]) -> Mapping[str, object]:
        """The INFO of this worker at this moment, for a pool with that INFO."""
        info, session = self._own_info(), self._session
        if is_check(theirs):
            return {**info, **self._refusing()}
        if session is not None and session.is_of(theirs):
            if not session.conversation.can_attach(theirs.get("received")):
                return {**info, "refused": OUTDATED}
            return {**info, **session.offer()}
        if self._leaving.is_set():
            return {**info, **self._refusing()}
        if session is not None and session.taken and (not session.connected or session.is_of(theirs, "fenced")):
            fenced = session.is_of(theirs, "fenced")
            session.end("it has given up this session" if fenced else f"pool {pool_name(theirs)} came meanwhile")
            self._see_out(session)
        return {**info, **self._refusing()}

    def _refusing(self) -> dict[str, object]:
        """What our INFO says of why no new pool is taken now; empty if one is."""
        if self._leaving.is_set():
            return {"refused": "leaving"}
        if self._session is None:
            return {"refused": "it cannot start its task processes now"}
        if not self._session.taken:
            return {}
        away = "" if self._session.connected else ", which is out of reach: another pool may have it"
        return {"refused": "busy", "by": f"{self._session.pool}{away}"}

    # --- which pool it serves ----------------------------------------------------------------------------------------

    async def _on_connection(self, connection: Connection) -> None:
        """A pool has dialled, and `_info` has let it in. No await: until `begin` no other pool may be accepted."""
        session = self._session
        if session is not None and session.is_of(connection.peer_info):
            session.conversation.attach(connection, connection.peer_info.get("received"))
        else:
            self._begin(connection)

    def _begin(self, connection: Connection) -> PoolSession | None:
        """Serve the pool; None, and the connection is broken, if that is not possible any more."""
        session, pool = self._session, pool_name(connection.peer_info)
        if session is None or session.taken or self._leaving.is_set():
            connection.channel.abort()
            return None
        self._count_as_orphan(False)
        through = ", end to end through a proxy" if connection.through_hop else ""
        log.info("pool %s joined (%s%s)", pool, connection.channel.peer, through)
        session.begin(connection, pool)
        self._spawn(self._see_out_when_over(session))
        if self._settings.idle is not None:
            self._spawn(leave_when_idle(session, self._settings.idle))
        return session

    async def _see_out_when_over(self, session: PoolSession) -> None:
        await session.over.wait()
        if self._session is session and (self._settings.once or (self._settings.launch and session.closed)):
            self._leave(f"its pool has gone: {session.reason}")
        self._see_out(session)

    def _see_out(self, session: PoolSession) -> None:
        """However the pool went, its tasks end now. Fresh slots are made at once, while the old ones end."""
        if self._session is not session or self._leaving.is_set():
            return
        self._session = None
        self._spawn(session.leave(session.reason))
        try:
            self._new_session()
        except OSError as error:
            self._spawn(self._retry_new_session(error))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retry_new_session(self, error: OSError) -> None:
        """Try until it succeeds. Processes or memory may be short for a while, in which no pool is accepted."""
        for seconds in delays():
            log.error("task processes cannot be started (%s); trying again in %.1f s", error, seconds)
            await _wait_for_first(asyncio.sleep(seconds), self._leaving.wait(), deadline=math.inf)
            if self._leaving.is_set():
                return
            try:
                return self._new_session()
            except OSError as again:
                error = again

    def _new_session(self) -> None:
        settings = self._settings
        self._session = PoolSession(
            settings.slots,
            self._load,
            name=settings.name,
            memory_limit=settings.memory_limit,
            env=settings.env,
            each=() if settings.devices is None else settings.devices.variables,
            dismissed=self._leave,
            limits=self._limits,
        )
        self._count_as_orphan(True)

    def _count_as_orphan(self, orphan: bool) -> None:
        """Whether this worker is without a pool from now on; for long, and it leaves."""
        if self._orphan_timer is not None:
            self._orphan_timer.cancel()
        if orphan and (seconds := self._settings.orphan_exit) is not None:
            loop = asyncio.get_running_loop()
            self._orphan_timer = loop.call_later(seconds, self._leave, f"no pool for {seconds:g} s")

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
        self._count_as_orphan(False)
        self._leaving.set()
        if self._session is not None:
            await self._session.leave("the worker left")
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._load.close()

    async def _unless_leaving(self, work: Coroutine[None, None, int]) -> int:
        loop = asyncio.get_running_loop()
        working, leaving = loop.create_task(work), loop.create_task(self._leaving.wait())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and not self._leaving.is_set():
                return working.result()
            # The dialling goes on: a session may need a new connection to hand over what is finished.
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
