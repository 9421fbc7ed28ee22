"""Remote workers as an engine: the hub of all connections of a pool.

Owns the dialling of listening workers, the listener for workers that dial in, and the translation between messages
and the Sink. Both topologies end in the same conversation. It decides nothing about work, and never looks into parts.
Each connection is one incarnation of a worker: when it is over, nothing of it is heard any more, and the same worker
comes back under a new id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distmap.core.events import (
    AttemptProgressed,
    SlotReady,
    WorkerDraining,
    WorkerMeasured,
    WorkerSuspected,
    WorkerTrusted,
)
from distmap.core.limits import LIMITS, Limits
from distmap.engine.base import Buffer, Parts, Place, Sink, WorkerInfo
from distmap.errors import AuthenticationError, DistmapError, ProtocolError, TokenError, VersionMismatch
from distmap.transport.channel import Connection
from distmap.transport.conversation import Conversation
from distmap.transport.dial import dial
from distmap.transport.identity import pool_info, read_worker
from distmap.transport.listen import Server, listen
from distmap.transport.redial import delays
from distmap.transport.security import Secret, WorkerURL
from distmap.wire.messages import (
    Beat,
    BlobKind,
    Bye,
    Died,
    Draining,
    Drop,
    Interrupt,
    Kill,
    Message,
    Output,
    Put,
    Ready,
    Refused,
    Report,
    Revoke,
    Task,
)

log = logging.getLogger("distmap.hub")

#: Seconds until a worker that can hardly become right by itself (wrong token, wrong Python) is dialled again: a person
#: has to mend it first.
FATAL_PAUSE = 30.0
#: Seconds that saying goodbye to all workers may take.
CLOSE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Member:
    """One incarnation of a worker."""

    info: WorkerInfo
    conversation: Conversation
    worker: int = -1
    over: asyncio.Event = field(default_factory=asyncio.Event)
    #: Per slot, the attempts given to it and not ended.
    given: list[set[int]] = field(default_factory=list)
    #: Load at the last heartbeat, and the round trip that the sink knows.
    cpu: float = 0.0
    memory: float = 0.0
    rtt: float = 0.0


class HubEngine:
    """An `Engine` of workers that are reached over WebSocket.

    Args:
        urls: workers that listen; each is dialled, and dialled again whenever it is not there.
        listen: where to wait for workers that dial in; None: nowhere.
        token: what both sides must hold.
        connect_timeout: seconds for one try to connect.
    """

    place: Place = "there"

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
        #: Why a URL is not connected now: URL -> one sentence. Also why dial-in workers were turned away, under `url`.
        self.errors: dict[str, str] = {}
        self._causes: dict[str, Exception] = {}
        #: What workers dial: `wss://host:port`; None without `listen`, or before `start`.
        self.url: str | None = None
        self._urls = list(urls)
        self._listen = listen
        self._token = token
        self._timeout = connect_timeout
        self._tls = (tls_cert, tls_key)
        self._limits = limits
        self._sink: Sink | None = None
        self._server: Server | None = None
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._tried: dict[str, asyncio.Event] = {}
        self._fatal: set[str] = set()
        self._members: dict[int, _Member] = {}
        self._joining: _Member | None = None
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
                on_connection=self._receive,
                on_refused=self._turned_away,
                tls_cert=cert,
                tls_key=key,
            )
            self.url = self._server.url
        for url in self._urls:
            self.add(url)

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts, name: str = "") -> None:
        """See Engine."""
        self._say(worker, Put(digest, kind, name), parts)

    def drop(self, worker: int, digest: bytes) -> None:
        """See Engine."""
        self._say(worker, Drop(digest))

    def assign(self, worker: int, task: Task, parts: Parts) -> None:
        """See Engine."""
        member = self._member(worker)
        if member is not None:
            member.given[task.slot].add(task.attempt)
            member.conversation.send(task, parts)

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        """See Engine."""
        self._say(worker, Revoke(slot, attempt, stop))

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        """See Engine."""
        self._say(worker, Interrupt(slot, attempt))

    def kill(self, worker: int, slot: int) -> None:
        """See Engine."""
        self._say(worker, Kill(slot))

    async def close(self, *, now: bool) -> None:
        """Say goodbye to every worker (it then ends what it runs), stop listening and dialling. `now`: wait less."""
        self._closing = True
        for task in self._dialling.values():
            task.cancel()
        members, self._members = list(self._members.values()), {}
        goodbyes = [asyncio.ensure_future(member.conversation.close("the pool is closed")) for member in members]
        if goodbyes:
            await asyncio.wait(goodbyes, timeout=CLOSE_SECONDS / 5 if now else CLOSE_SECONDS)
        for member in members:
            member.conversation.abort()
            member.over.set()
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
            self._dialling[key] = asyncio.get_running_loop().create_task(self._keep(url), name=f"dial {key}")

    async def dialled(self) -> None:
        """Wait until each URL has been tried once; then it is connected, or `errors` says why not."""
        for tried in list(self._tried.values()):
            await tried.wait()

    @property
    def fatal(self) -> str | None:
        """Why no worker can come unless a person mends something (wrong token, wrong Python); None while one may."""
        if self._members or self._server is not None or not self._fatal or self._fatal != set(self._dialling):
            return None
        # Calling threads ask; the loop changes both meanwhile.
        return " ".join(said for key in list(self._dialling) if (said := self.errors.get(key)) is not None)

    @property
    def cause(self) -> Exception | None:
        """What kept the dialled workers away, if it is of one kind for all of them."""
        causes = [self._causes.get(key) for key in list(self._dialling)]
        one_kind = len(set(map(type, causes))) == 1 and not self._members and self._server is None
        return causes[0] if one_kind else None

    async def _keep(self, url: WorkerURL) -> None:
        """Keep one URL connected."""
        key, pauses = str(url), delays()
        while True:
            pause = next(pauses)
            try:
                connection = await dial(url, token=self._token, role="pool", info=pool_info(), timeout=self._timeout)
                member = self._join(connection, key)
            except (AuthenticationError, TokenError, VersionMismatch) as error:
                self._failed(key, error)
                self._fatal.add(key)
                pause = FATAL_PAUSE
            except (DistmapError, OSError) as error:
                self._failed(key, error)
            except Exception as error:  # a bug; without this the URL would never be dialled again, unseen
                log.exception("! dialling %s failed", key)
                self._failed(key, error)
            else:
                self.errors.pop(key, None)
                self._causes.pop(key, None)
                self._fatal.discard(key)
                self._tried[key].set()
                await member.over.wait()
                pauses = delays()
                pause = next(pauses)
            self._tried[key].set()
            await asyncio.sleep(pause)

    def _failed(self, key: str, error: Exception) -> None:
        sentence = str(error)
        if self.errors.get(key) != sentence:  # once, not at each try
            log.info("x %s", sentence)
        self.errors[key] = sentence
        self._causes[key] = error

    def _turned_away(self, sentence: str) -> None:
        log.warning("x a worker was turned away: %s", sentence)
        if self.url is not None:
            self.errors[self.url] = sentence

    async def _receive(self, connection: Connection) -> None:
        """A worker has dialled in and proved the token."""
        if self._closing:
            connection.channel.abort()
            return
        try:
            self._join(connection, connection.channel.peer)
        except ProtocolError as error:
            self._turned_away(str(error))
        else:
            if self.url is not None:
                self.errors.pop(self.url, None)

    def _join(self, connection: Connection, address: str) -> _Member:
        """The worker is one of us from now on. Raises ProtocolError if it makes no sense."""
        sink = self._sink
        assert sink is not None, "connected before start"
        try:
            peer = read_worker(connection.peer_info, address)
        except ProtocolError:
            connection.channel.abort()
            raise
        info = WorkerInfo(peer.name, peer.host, peer.slots, peer.python, peer.tags, address, connection.rtt)
        member = _Member(
            info,
            Conversation(
                connection,
                on_message=lambda message, parts: self._hear(member, message, parts),
                on_state=lambda state: self._judge(member, state),
                on_closed=lambda reason: self._lose(member, reason, charged=True),
                beat=lambda: None,
                limits=self._limits,
            ),
            given=[set() for _ in range(peer.slots)],
            rtt=info.rtt,
        )
        # The sink may hand out work before it returns the id, hence `_joining`; it waits until the start below.
        self._joining = member
        try:
            member.worker = sink.joined(self, info)
        except BaseException:
            connection.channel.abort()
            raise
        finally:
            self._joining = None
        self._members[member.worker] = member
        member.conversation.start()
        log.info("= worker %s joined (%s, %d slots, Python %s)", info.name, address, info.slots, info.python)
        return member

    # --- what workers say --------------------------------------------------------------------------------------------

    def _hear(self, member: _Member, message: Message, parts: list[Buffer]) -> None:
        sink, worker = self._sink, member.worker
        if sink is None or member.over.is_set() or self._closing:
            return  # fenced: this incarnation has been given up
        match message:
            case Report():
                if message.ended:
                    self._at(member, message.slot).discard(message.attempt)
                self._measure(sink, member)
                sink.reported(worker, message, parts)
            case Output():
                if len(parts) > 1 or not message.spells(sum(map(len, parts))):
                    self._lose(member, "it sent output that is not what it announced", charged=True)
                    member.conversation.abort()
                    return
                sink.printed(worker, message, parts)
            case Beat(cpu, memory, slots):
                member.cpu, member.memory, member.rtt = cpu, memory, member.conversation.rtt
                sink.post(WorkerMeasured(worker, member.rtt, cpu, memory))
                for given, (attempt, at, _elapsed) in zip(member.given, slots, strict=False):
                    if attempt in given:
                        sink.post(AttemptProgressed(attempt, at))
            case Refused(slot, attempt):
                self._at(member, slot).discard(attempt)
                sink.refused(worker, attempt, parts)
            case Died():
                self._died(sink, member, message)
            case Ready(slot):
                sink.post(SlotReady(worker, slot))
            case Draining():
                log.info("= worker %s wants to leave", member.info.name)
                sink.post(WorkerDraining(worker))
            case Bye(reason):
                self._lose(member, reason or "it left", charged=False)
            case _:
                self._lose(member, f"it sent {type(message).__name__}, which no worker sends", charged=True)
                member.conversation.abort()

    def _measure(self, sink: Sink, member: _Member) -> None:
        """Tell the round trip if it is another than the sink knows: that of the handshake is a first guess only, and
        the size of chunks hangs on it."""
        rtt = member.conversation.rtt
        if not rtt / 2 <= member.rtt <= rtt * 2:
            member.rtt = rtt
            sink.post(WorkerMeasured(member.worker, rtt, member.cpu, member.memory))

    def _died(self, sink: Sink, member: _Member, died: Died) -> None:
        given = self._at(member, died.slot)
        given.discard(died.attempt)
        # All that was given to the slot is void from now on. What was on its way when the process died would reach the
        # fresh one: it is not to run there.
        for attempt in given:
            member.conversation.send(Revoke(died.slot, attempt, 0))
        given.clear()
        running = died.attempt >= 0
        sink.died(
            member.worker,
            died.slot,
            died.attempt if running else None,
            died.at if running and died.at >= 0 else None,
            died.reason,
            died.text,
        )

    def _at(self, member: _Member, slot: int) -> set[int]:
        return member.given[slot] if 0 <= slot < len(member.given) else set()

    def _judge(self, member: _Member, state: Literal["fine", "suspect", "lost"]) -> None:
        if self._sink is None or member.over.is_set() or self._closing:
            return
        if state == "suspect":
            self._sink.post(WorkerSuspected(member.worker))
        elif state == "fine":
            self._sink.post(WorkerTrusted(member.worker))
        else:
            self._lose(member, f"silent for {self._limits.lost_after:.0f} s", charged=True)

    def _lose(self, member: _Member, reason: str, *, charged: bool) -> None:
        if member.over.is_set():
            return
        member.over.set()
        if self._members.pop(member.worker, None) is None or self._sink is None or self._closing:
            return
        log.log(logging.WARNING if charged else logging.INFO, "x worker %s gone: %s", member.info.name, reason)
        self._sink.lost(member.worker, charged, reason)

    # --- what workers are told ---------------------------------------------------------------------------------------

    def _member(self, worker: int) -> _Member | None:
        """The worker's connection; None when it is gone, as the scheduler is about to hear or has just heard."""
        member = self._members.get(worker)
        return member if member is not None else self._joining

    def _say(self, worker: int, message: Message, parts: Parts = ()) -> None:
        member = self._member(worker)
        if member is not None:
            member.conversation.send(message, parts)
