"""Remote workers as an engine: the hub of all connections of a pool.

Owns the dialling of listening workers, the port for workers that dial in, and which session a connection belongs to.
Both topologies end in the same conversation. What a worker says is translated in `remote_worker.py`, how a dialled one
gets a new connection is in `transport/reconnect.py`. It decides nothing about work, and must not look into parts.

All of it runs on the portal's loop thread, except `fatal` and `cause`, which calling threads read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distmap.core.limits import LIMITS, Limits
from distmap.engine.base import Location, Parts, Sink
from distmap.engine.remote_worker import RemoteWorker
from distmap.errors import AuthenticationError, DistmapError, LaunchError, ProtocolError, TokenError, VersionMismatch
from distmap.transport.channel import Connection
from distmap.transport.dial import check_fit, dial, prove
from distmap.transport.first_hop import FirstHop
from distmap.transport.identity import OUTDATED, pool_info
from distmap.transport.listen import Acceptor, Server, listen
from distmap.transport.reconnect import keep
from distmap.transport.redial import Route, delays, pause
from distmap.transport.spares import Spares
from distmap.transport.tls import server_context
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.transport.waiting import Waiting, waits
from distmap.wire import messages as msg

if TYPE_CHECKING:
    from distmap.transport.ssh_meeting import PoolAtLogin

log = logging.getLogger("distmap.hub")


class HubEngine:
    """An `Engine` of workers that are reached over WebSocket.

    Args:
        urls: Workers that listen; each is dialled, and dialled again whenever it is not connected.
        listen: Where to wait for workers that dial in; None: nowhere.
        token: What both sides must hold.
        connect_timeout: Seconds for one try to connect.
        tls_cert: See `transport.listen.listen`.
        tls_key: See `transport.listen.listen`.
        hop: What a proxy in front of a worker needs.
        limits: Times of liveness, dialling and closing.
    """

    place: Location = "there"

    def __init__(
        self,
        urls: Sequence[WorkerURL] = (),
        *,
        listen: WorkerURL | None = None,
        token: Secret,
        connect_timeout: float = 10.0,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        hop: FirstHop = FirstHop(),  # noqa: B008 - frozen
        limits: Limits = LIMITS,
    ) -> None:
        #: URL -> why it is not connected now, in one sentence; under our own `url`, why a dial-in worker was refused.
        self.errors: dict[str, str] = {}
        self._causes: dict[str, Exception] = {}
        #: The address for workers that dial in, `wss://host:port`, or that of the relay; None without `listen` and
        #: `relay`, or before `start`.
        self.url: str | None = None
        # What to dial from the start on, and by which hop; None: the pool's.
        self._urls: list[tuple[WorkerURL, FirstHop | None]] = [(url, None) for url in urls]
        self._listen = listen
        self._token = token
        # What each dial is given, besides where.
        self._dial: dict[str, Any] = {"token": token, "role": "pool", "timeout": connect_timeout}
        self._tls = (tls_cert, tls_key)
        #: The relay to wait at for workers, set before `start`.
        self.relay: WorkerURL | None = None
        self._spares: Spares | None = None
        #: The login node where workers come to the port, set before `start`.
        self.meeting: PoolAtLogin | None = None
        #: Whether nobody listens for others than those that the pool has started, set before `start`.
        self.only_launched = False
        self._hop = hop
        #: URL of a worker that is dialled -> what a proxy on the way to it needs.
        self.hops: dict[str, FirstHop] = {}
        self._limits = limits
        self._sink: Sink | None = None
        self._server: Server | None = None
        # By URL: the task that keeps it connected, and whether it has been tried once.
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._tried: dict[str, asyncio.Event] = {}
        # URLs whose last error a person has to correct.
        self._fatal: set[str] = set()
        self._workers: dict[int, RemoteWorker] = {}
        #: Those that dial in and were idle for long; other threads count them.
        self.waiting = Waiting()
        # The worker that `sink.joined` is being called for; it has no id yet.
        self._joining: RemoteWorker | None = None
        self._closing = False

    # --- Engine ------------------------------------------------------------------------------------------------------

    async def start(self, sink: Sink) -> None:
        """Listen if asked to, and begin to dial. Does not wait for workers; `dialled` does."""
        self._sink = sink
        if self._listen is not None:
            cert, key = self._tls
            self._server = await listen(
                self._listen,
                token=self._token,
                role="pool",
                info=self._answer,
                on_connection=self._on_connection,
                on_refused=self._on_refused,
                tls_cert=cert,
                tls_key=key,
            )
            self.url = self._server.url
            if self.meeting is not None:
                await self.meeting.open(self._server.port, self.errors)
                self.url = self.meeting.url
        if self.relay is not None:
            # A worker that is met there has dialled in.
            tls = server_context(*self._tls)
            taking = Acceptor(
                self._token, "pool", tls, True, self._answer, self._on_connection, self._on_refused
            )  # fmt: skip
            seconds = self._dial["timeout"]
            self._spares = Spares(self.relay, self._hop, taking, token=self._token, errors=self.errors, timeout=seconds)
            self.url = self.url or self._spares.url
            self._spares.start()
        for url, hop in self._urls:
            self.add(url, hop)

    def put(self, worker: int, digest: bytes, kind: msg.BlobKind, parts: Parts, name: str = "") -> None:
        """See Engine."""
        self._send(worker, msg.Put(digest, kind, name), parts)

    def drop(self, worker: int, digest: bytes) -> None:
        """See Engine."""
        self._send(worker, msg.Drop(digest))

    def assign(self, worker: int, task: msg.Task, parts: Parts) -> None:
        """See Engine."""
        connection = self._connection_of(worker)
        if connection is not None:
            connection.assign(task, parts)

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        """See Engine."""
        self._send(worker, msg.Revoke(slot, attempt, stop))

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        """See Engine."""
        self._send(worker, msg.Interrupt(slot, attempt))

    def renew(self, worker: int, slot: int) -> None:
        """See Engine."""
        self._send(worker, msg.Renew(slot))

    def kill(self, worker: int, slot: int) -> None:
        """See Engine."""
        self._send(worker, msg.Kill(slot))

    def dismiss(self, worker: int) -> None:
        """Have the worker leave: it finishes what it runs."""
        self._send(worker, msg.Draining())

    def give_up(self, worker: int, sentence: str) -> None:
        """The worker will not come back, whatever its connection does."""
        if (connection := self._workers.get(worker)) is not None:
            connection.conversation.give_up(sentence)

    async def close(self, *, now: bool) -> None:
        """Send Bye to every worker (it then ends what it runs), stop listening and dialling. `now`: wait less."""
        self._closing = True
        for task in self._dialling.values():
            task.cancel()
        workers, self._workers = list(self._workers.values()), {}
        goodbyes = [asyncio.ensure_future(worker.conversation.close("the pool is closed")) for worker in workers]
        goodbyes.append(asyncio.ensure_future(self.waiting.close()))
        seconds = self._limits.hub_close
        await asyncio.wait(goodbyes, timeout=seconds / 5 if now else seconds)
        for worker in workers:
            worker.conversation.abort()
            worker.gone.set()
        if self.meeting is not None:
            await self.meeting.close()
        if self._server is not None:
            await self._server.close()
        if self._spares is not None:
            await self._spares.close()
        await asyncio.gather(*goodbyes, *self._dialling.values(), return_exceptions=True)
        self._dialling.clear()
        await asyncio.gather(*(hop.closed() for hop in self.hops.values() if hop.closed is not None))

    # --- dialling and listening --------------------------------------------------------------------------------------

    def add(self, url: WorkerURL, hop: FirstHop | None = None) -> None:
        """Dial one more worker; a URL that is dialled already is left alone. `hop`: instead of the pool's."""
        if self._sink is None:
            self._urls.append((url, hop))  # `start` dials
            return
        key = str(url)
        if key not in self._dialling and not self._closing:
            self.hops[key] = self._hop if hop is None else hop
            self._tried[key] = asyncio.Event()
            self._dialling[key] = asyncio.get_running_loop().create_task(self._keep_connected(url), name=f"dial {key}")

    async def dialled(self) -> None:
        """Wait until each URL has been tried once; then it is connected, or `errors` says why not."""
        for tried in list(self._tried.values()):
            await tried.wait()
        if self._spares is not None:
            await self._spares.tried.wait()

    @property
    def broken(self) -> str | None:
        """None: a worker may come by itself. Empty: only such as were started for the pool."""
        return "" if self.only_launched and not self._urls and not self._dialling else None

    @property
    def fatal(self) -> str | None:
        """Why no worker can come until a person corrects something (wrong token or Python); None while one may."""
        if self._workers or self.url is not None or not self._fatal or self._fatal != set(self._dialling):
            return None
        # A calling thread reads; the loop changes both meanwhile.
        return " ".join(text for key in list(self._dialling) if (text := self.errors.get(key)) is not None)

    @property
    def cause(self) -> Exception | None:
        """The error that keeps the dialled workers away, if it is of one type for all of them."""
        causes = [self._causes.get(key) for key in list(self._dialling)]
        one_kind = len(set(map(type, causes))) == 1 and not self._workers and self.url is None
        return causes[0] if one_kind else None

    async def _keep_connected(self, url: WorkerURL) -> None:
        """Keep one URL connected: dial, resume the session as long as there is one, dial again."""
        key, pauses, route = str(url), delays(), Route(None)
        fresh: Connection | None = None
        fenced = ""
        while True:
            wait = next(pauses)
            try:
                connection, fresh = await self._connect(url, fresh, fenced), None
                worker = self._join(connection, key)
            except (AuthenticationError, TokenError, VersionMismatch, LaunchError) as error:
                self._dial_failed(key, error)
                self._fatal.add(key)
                wait = self._limits.redial_fatal
            except (DistmapError, OSError) as error:
                self._dial_failed(key, error)
            except Exception as error:
                # A bug. Without this the task would end unseen, and the URL would never be dialled again.
                log.exception("! dialling %s failed", key)
                self._dial_failed(key, error)
            else:
                self.errors.pop(key, None)
                self._causes.pop(key, None)
                self._fatal.discard(key)
                self._tried[key].set()
                fresh = await self._keep(worker, url)
                fenced, route, pauses = worker.conversation.id, Route(worker.conversation.connection.remote), delays()
                if fresh is not None:
                    continue
                wait = next(pauses)
            fresh = None
            self._tried[key].set()
            await pause(wait, route)

    async def _keep(self, worker: RemoteWorker, url: WorkerURL) -> Connection | None:
        """Keep the worker's session over one connection after the other until it is over; see `keep`."""
        try:
            return await keep(
                worker.conversation,
                lambda info: prove(url, info=info, hop=self.hops[str(url)], **self._dial),
                pool_info,
                limits=self._limits,
            )
        except Exception as error:
            # A bug. Without this the worker would stay out of reach for ever, and the URL would never be dialled again.
            log.exception("! the session with %s failed", url)
            worker.conversation.give_up(f"distmap failed on this side: {error!r}")
            return None

    async def _connect(self, url: WorkerURL, fresh: Connection | None, fenced: str) -> Connection:
        """A connection to a worker that takes us: `fresh`, if it is one, or else a new one.

        Args:
            url: Where to dial.
            fresh: A proved connection to a worker that has begun anew.
            fenced: The last session there, which this pool has given up: whoever holds it is free for us.
        """
        if fresh is not None:
            await check_fit(fresh, pool_info(), str(url))
            return fresh
        info = {**pool_info(), "fenced": fenced} if fenced else pool_info()
        return await dial(url, info=info, hop=self.hops[str(url)], **self._dial)

    def _dial_failed(self, key: str, error: Exception) -> None:
        sentence = str(error)
        if self.errors.get(key) != sentence:  # once, not at each try
            log.info("x %s", sentence)
        self.errors[key] = sentence
        self._causes[key] = error

    def _on_refused(self, sentence: str) -> None:
        log.warning("x a worker was refused: %s", sentence)
        if self.url is not None:
            self.errors[self.url] = sentence

    def _answer(self, theirs: Mapping[str, object]) -> Mapping[str, object]:
        """Our INFO for a worker that has dialled in, with what we have received of the session that it goes on with."""
        worker = self._worker_of(theirs)
        if worker is None:
            return pool_info()
        conversation = worker.conversation
        if not conversation.can_attach(theirs.get("received")):
            return {**pool_info(), "refused": OUTDATED}
        conversation.detach("it has dialled again")
        return {**pool_info(), "resume": conversation.id, "received": conversation.received}

    def _worker_of(self, theirs: Mapping[str, object]) -> RemoteWorker | None:
        """The worker whose session the INFO names."""
        session = theirs.get("resume")
        found = (worker for worker in self._workers.values() if worker.conversation.id == session)
        return next((worker for worker in found if not worker.conversation.over), None)

    async def _on_connection(self, connection: Connection) -> None:
        """Called for each worker that has dialled in and proved the token."""
        if self._closing:
            connection.channel.abort()
            return
        worker = self._worker_of(connection.peer_info)
        if worker is not None:
            worker.conversation.attach(connection, connection.peer_info.get("received"))
            return
        if waits(connection.peer_info):
            # Work may have come while it went to wait.
            await self.waiting.hold(connection, called=self._sink is not None and self._sink.busy)
            return
        try:
            self._join(connection, connection.channel.peer)
        except ProtocolError as error:
            self._on_refused(str(error))
        else:
            if self.url is not None:
                self.errors.pop(self.url, None)

    def _join(self, connection: Connection, address: str) -> RemoteWorker:
        """Make the worker one of the pool's. Raises ProtocolError if its INFO makes no sense."""
        sink = self._sink
        assert sink is not None, "connected before start"
        try:
            worker = RemoteWorker(connection, address, on_gone=self._on_gone, limits=self._limits)
        except ProtocolError:
            connection.channel.abort()
            raise
        # The sink may assign work before it returns, hence `_joining`; that work waits for the start below.
        self._joining = worker
        try:
            worker.listener = sink.joined(self, worker.info)
        except BaseException:
            connection.channel.abort()
            raise
        finally:
            self._joining = None
        self._workers[worker.listener.id] = worker
        worker.conversation.start()
        info = worker.info
        through = ", end to end through a proxy" if info.through_hop else ""
        log.info(
            "= worker %s joined (%s%s, %d slots, Python %s)", info.name, address, through, info.slots, info.python
        )  # fmt: skip
        return worker

    def _on_gone(self, worker: RemoteWorker) -> bool:
        """A worker is lost or has left; whether the driver has to know."""
        known = worker.listener is not None and self._workers.pop(worker.listener.id, None) is not None
        return known and not self._closing

    # --- messages to workers ------------------------------------------------------------------------------------------

    def _connection_of(self, worker: int) -> RemoteWorker | None:
        """The worker's connection; None when it is gone: the scheduler has not handled its loss yet, or just has."""
        connection = self._workers.get(worker)
        return connection if connection is not None else self._joining

    def _send(self, worker: int, message: msg.Message, parts: Parts = ()) -> None:
        connection = self._connection_of(worker)
        if connection is not None:
            connection.conversation.send(message, parts)
