"""Remote workers as an engine: the hub of all connections of a pool.

Owns the dialling of listening workers, the port for workers that dial in, and the translation between messages and
the Sink. Both topologies end in the same conversation. It decides nothing about work, and must not look into parts.
Each connection is one incarnation of a worker: when it has ended, its late messages are ignored, and the same worker
comes back under a new id.

All of it runs on the portal's loop thread, except `fatal` and `cause`, which calling threads read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distmap.core.limits import LIMITS, Limits
from distmap.engine.base import Location, Parts, Sink, WorkerInfo, WorkerListener
from distmap.errors import AuthenticationError, DistmapError, ProtocolError, TokenError, VersionMismatch
from distmap.tasks._typing import Buffer
from distmap.transport.channel import Connection
from distmap.transport.conversation import Conversation
from distmap.transport.dial import dial
from distmap.transport.identity import pool_info, read_worker
from distmap.transport.listen import Server, listen
from distmap.transport.redial import delays
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.wire import messages as msg
from distmap.wire.liveness import Liveness

log = logging.getLogger("distmap.hub")


@dataclass(slots=True, eq=False)
class WorkerConnection:
    """One incarnation of a worker: from its INFO to the end of its conversation."""

    info: WorkerInfo
    conversation: Conversation
    #: Per slot, the attempts given to it and not ended.
    attempts: list[set[int]]
    #: What it reports goes there; None until the sink has returned it.
    listener: WorkerListener | None = None
    #: Set when the worker is lost, has left, or the pool is closed.
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    #: Load at the last heartbeat, and the round trip that was last reported to the listener.
    cpu: float = 0.0
    memory: float = 0.0
    rtt: float = 0.0

    def attempts_of(self, slot: int) -> set[int]:
        """The attempts at the slot; none for a number that the worker does not have."""
        return self.attempts[slot] if 0 <= slot < len(self.attempts) else set()


class HubEngine:
    """An `Engine` of workers that are reached over WebSocket.

    Args:
        urls: Workers that listen; each is dialled, and dialled again whenever it is not connected.
        listen: Where to wait for workers that dial in; None: nowhere.
        token: What both sides must hold.
        connect_timeout: Seconds for one try to connect.
        tls_cert: See `transport.listen.listen`.
        tls_key: See `transport.listen.listen`.
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
        limits: Limits = LIMITS,
    ) -> None:
        #: URL -> why it is not connected now, in one sentence; under our own `url`, why a dial-in worker was refused.
        self.errors: dict[str, str] = {}
        self._causes: dict[str, Exception] = {}
        #: The address for workers that dial in, `wss://host:port`; None without `listen`, or before `start`.
        self.url: str | None = None
        self._urls = list(urls)
        self._listen = listen
        self._token = token
        self._timeout = connect_timeout
        self._tls = (tls_cert, tls_key)
        self._limits = limits
        self._sink: Sink | None = None
        self._server: Server | None = None
        # By URL: the task that keeps it connected, and whether it has been tried once.
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._tried: dict[str, asyncio.Event] = {}
        # URLs whose last error a person has to correct.
        self._fatal: set[str] = set()
        self._workers: dict[int, WorkerConnection] = {}
        # The worker that `sink.joined` is being called for; it has no id yet.
        self._joining: WorkerConnection | None = None
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
                info=pool_info,
                on_connection=self._on_connection,
                on_refused=self._on_refused,
                tls_cert=cert,
                tls_key=key,
            )
            self.url = self._server.url
        for url in self._urls:
            self.add(url)

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
            connection.attempts[task.slot].add(task.attempt)
            connection.conversation.send(task, parts)

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        """See Engine."""
        self._send(worker, msg.Revoke(slot, attempt, stop))

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        """See Engine."""
        self._send(worker, msg.Interrupt(slot, attempt))

    def kill(self, worker: int, slot: int) -> None:
        """See Engine."""
        self._send(worker, msg.Kill(slot))

    async def close(self, *, now: bool) -> None:
        """Send Bye to every worker (it then ends what it runs), stop listening and dialling. `now`: wait less."""
        self._closing = True
        for task in self._dialling.values():
            task.cancel()
        workers, self._workers = list(self._workers.values()), {}
        goodbyes = [asyncio.ensure_future(worker.conversation.close("the pool is closed")) for worker in workers]
        if goodbyes:
            seconds = self._limits.hub_close
            await asyncio.wait(goodbyes, timeout=seconds / 5 if now else seconds)
        for worker in workers:
            worker.conversation.abort()
            worker.gone.set()
        if self._server is not None:
            await self._server.close()
        await asyncio.gather(*goodbyes, *self._dialling.values(), return_exceptions=True)
        self._dialling.clear()

    # --- dialling and listening --------------------------------------------------------------------------------------

    def add(self, url: WorkerURL) -> None:
        """Dial one more worker; a URL that is dialled already is left alone."""
        key = str(url)
        if key not in self._dialling and not self._closing:
            self._tried[key] = asyncio.Event()
            self._dialling[key] = asyncio.get_running_loop().create_task(self._keep_connected(url), name=f"dial {key}")

    async def dialled(self) -> None:
        """Wait until each URL has been tried once; then it is connected, or `errors` says why not."""
        for tried in list(self._tried.values()):
            await tried.wait()

    @property
    def fatal(self) -> str | None:
        """Why no worker can come until a person corrects something (wrong token or Python); None while one may."""
        if self._workers or self._server is not None or not self._fatal or self._fatal != set(self._dialling):
            return None
        # A calling thread reads; the loop changes both meanwhile.
        return " ".join(text for key in list(self._dialling) if (text := self.errors.get(key)) is not None)

    @property
    def cause(self) -> Exception | None:
        """The error that keeps the dialled workers away, if it is of one type for all of them."""
        causes = [self._causes.get(key) for key in list(self._dialling)]
        one_kind = len(set(map(type, causes))) == 1 and not self._workers and self._server is None
        return causes[0] if one_kind else None

    async def _keep_connected(self, url: WorkerURL) -> None:
        """Keep one URL connected: dial, wait until the worker is gone, dial again."""
        key, pauses = str(url), delays()
        while True:
            pause = next(pauses)
            try:
                connection = await dial(url, token=self._token, role="pool", info=pool_info(), timeout=self._timeout)
                worker = self._join(connection, key)
            except (AuthenticationError, TokenError, VersionMismatch) as error:
                self._dial_failed(key, error)
                self._fatal.add(key)
                pause = self._limits.redial_fatal
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
                await worker.gone.wait()
                pauses = delays()
                pause = next(pauses)
            self._tried[key].set()
            await asyncio.sleep(pause)

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

    async def _on_connection(self, connection: Connection) -> None:
        """Called for each worker that has dialled in and proved the token."""
        if self._closing:
            connection.channel.abort()
            return
        try:
            self._join(connection, connection.channel.peer)
        except ProtocolError as error:
            self._on_refused(str(error))
        else:
            if self.url is not None:
                self.errors.pop(self.url, None)

    def _join(self, connection: Connection, address: str) -> WorkerConnection:
        """Make the worker one of the pool's. Raises ProtocolError if its INFO makes no sense."""
        sink = self._sink
        assert sink is not None, "connected before start"
        try:
            peer = read_worker(connection.peer_info, address)
        except ProtocolError:
            connection.channel.abort()
            raise
        info = WorkerInfo(peer.name, peer.host, peer.slots, peer.python, peer.tags, address, connection.rtt)
        worker = WorkerConnection(
            info,
            Conversation(
                connection,
                on_message=lambda message, parts: self._on_message(worker, message, parts),
                on_liveness=lambda state: self._on_liveness(worker, state),
                on_closed=lambda reason: self._on_lost(worker, reason, charged=True),
                beat=lambda: None,
                limits=self._limits,
            ),
            attempts=[set() for _ in range(peer.slots)],
            rtt=info.rtt,
        )
        # The sink may assign work before it returns, hence `_joining`; that work waits for the start below.
        self._joining = worker
        try:
            worker.listener = sink.joined(self, info)
        except BaseException:
            connection.channel.abort()
            raise
        finally:
            self._joining = None
        self._workers[worker.listener.id] = worker
        worker.conversation.start()
        log.info("= worker %s joined (%s, %d slots, Python %s)", info.name, address, info.slots, info.python)
        return worker

    # --- messages from workers ----------------------------------------------------------------------------------------

    def _on_message(self, worker: WorkerConnection, message: msg.Message, parts: list[Buffer]) -> None:
        listener = worker.listener
        if listener is None or worker.gone.is_set() or self._closing:
            return  # a late message of an incarnation that was given up
        match message:
            case msg.Report():
                if message.ended:
                    worker.attempts_of(message.slot).discard(message.attempt)
                self._report_round_trip(listener, worker)
                listener.reported(message, parts)
            case msg.Output():
                if len(parts) > 1 or not message.spells(sum(map(len, parts))):
                    self._on_lost(worker, "it sent output that is not what it announced", charged=True)
                    worker.conversation.abort()
                    return
                listener.printed(message, parts)
            case msg.Beat(cpu, memory, slots):
                worker.cpu, worker.memory, worker.rtt = cpu, memory, worker.conversation.rtt
                listener.measured(worker.rtt, cpu, memory)
                for attempts, (attempt, at, _elapsed) in zip(worker.attempts, slots, strict=False):
                    if attempt in attempts:
                        listener.progressed(attempt, at)
            case msg.Refused(slot, attempt):
                worker.attempts_of(slot).discard(attempt)
                listener.refused(message, parts)
            case msg.Died():
                self._died(listener, worker, message)
            case msg.Ready():
                listener.ready(message)
            case msg.Draining():
                log.info("= worker %s wants to leave", worker.info.name)
                listener.draining()
            case msg.Bye(reason):
                self._on_lost(worker, reason or "it left", charged=False)
            case _:
                self._on_lost(worker, f"it sent {type(message).__name__}, which no worker sends", charged=True)
                worker.conversation.abort()

    def _report_round_trip(self, listener: WorkerListener, worker: WorkerConnection) -> None:
        """Report the round trip if it differs much from the last one: chunk sizes depend on it.

        That of the handshake is a first guess only.
        """
        rtt = worker.conversation.rtt
        if not rtt / 2 <= worker.rtt <= rtt * 2:
            worker.rtt = rtt
            listener.measured(rtt, worker.cpu, worker.memory)

    def _died(self, listener: WorkerListener, worker: WorkerConnection, died: msg.Died) -> None:
        attempts = worker.attempts_of(died.slot)
        attempts.discard(died.attempt)
        # All attempts given to the slot are void from now on. Those that were on their way when the process died would
        # reach the fresh one, and must not run there.
        for attempt in attempts:
            worker.conversation.send(msg.Revoke(died.slot, attempt, 0))
        attempts.clear()
        listener.died(died)

    def _on_liveness(self, worker: WorkerConnection, state: Liveness) -> None:
        if worker.listener is None or worker.gone.is_set() or self._closing:
            return
        if state == "suspect":
            worker.listener.suspected()
        elif state == "fine":
            worker.listener.trusted()
        else:
            self._on_lost(worker, f"silent for {self._limits.reconnect_grace:.0f} s", charged=True)

    def _on_lost(self, worker: WorkerConnection, reason: str, *, charged: bool) -> None:
        if worker.gone.is_set():
            return
        worker.gone.set()
        if worker.listener is None or self._workers.pop(worker.listener.id, None) is None or self._closing:
            return
        log.log(logging.WARNING if charged else logging.INFO, "x worker %s gone: %s", worker.info.name, reason)
        worker.listener.lost(charged, reason)

    # --- messages to workers ------------------------------------------------------------------------------------------

    def _connection_of(self, worker: int) -> WorkerConnection | None:
        """The worker's connection; None when it is gone: the scheduler has not handled its loss yet, or just has."""
        connection = self._workers.get(worker)
        return connection if connection is not None else self._joining

    def _send(self, worker: int, message: msg.Message, parts: Parts = ()) -> None:
        connection = self._connection_of(worker)
        if connection is not None:
            connection.conversation.send(message, parts)
