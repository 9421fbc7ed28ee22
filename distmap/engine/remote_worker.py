"""One incarnation of a remote worker: from its INFO to the end of its session, over all its connections.

Owns the translation between messages and the `WorkerListener`, and the attempts that the worker was given. It must not
look into parts, decide about work, or know who dialled whom. When the session has ended, late messages of it are
ignored, and the same worker comes back under a new id. On the portal's loop thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from distmap.core.limits import Limits
from distmap.engine.base import Parts, WorkerInfo, WorkerListener
from distmap.tasks._typing import Buffer
from distmap.transport.channel import Connection
from distmap.transport.conversation import Conversation
from distmap.transport.identity import read_worker
from distmap.wire import messages as msg
from distmap.wire.liveness import Liveness
from distmap.wire.outages import Outage, send_ahead

log = logging.getLogger("distmap.hub")

#: Outages that are remembered: the longest of the last minutes counts.
OUTAGES = 32


class RemoteWorker:
    """A worker of the pool.

    Args:
        connection: Its first one, just proved.
        address: How it is reached, for people.
        on_gone: Called once when it is lost or has left, before its listener hears of it. False: tell nobody.
        limits: Those of the wire and of liveness.

    Raises:
        ProtocolError: Its INFO makes no sense.
    """

    def __init__(
        self, connection: Connection, address: str, *, on_gone: Callable[[RemoteWorker], bool], limits: Limits
    ) -> None:
        peer = read_worker(connection.peer_info, address)
        self.info = WorkerInfo(
            peer.name, peer.host, peer.slots, peer.python, peer.tags, address, connection.rtt, connection.through_hop,
            peer.devices, limits.ahead_least, peer.launch,
        )  # fmt: skip
        #: What it reports goes there; None until the sink has returned it.
        self.listener: WorkerListener | None = None
        #: Set when the worker is lost, has left, or the pool is closed.
        self.gone = asyncio.Event()
        self._on_gone = on_gone
        self._limits = limits
        #: Per slot, the attempts given to it and not ended.
        self._attempts: list[set[int]] = [set() for _ in range(peer.slots)]
        #: Load at the last heartbeat, and the round trip that was last reported to the listener.
        self._cpu = self._memory = 0.0
        self._rtt = connection.rtt
        #: Loop time at which its connection broke last.
        self._broke_at = 0.0
        #: Its last outages: they say how much work is sent ahead.
        self._outages: deque[Outage] = deque(maxlen=OUTAGES)
        self.conversation = Conversation(
            connection,
            on_message=self._on_message,
            on_liveness=self._on_liveness,
            on_closed=lambda reason: self.lost(reason, charged=True),
            on_channel=self._on_channel,
            beat=lambda: None,
            limits=limits,
        )

    def assign(self, task: msg.Task, parts: Parts) -> None:
        """Send a task, and remember its attempt; PayloadError if it is too large to be sent."""
        self.conversation.send(task, parts)
        self._attempts[task.slot].add(task.attempt)

    def lost(self, reason: str, *, charged: bool) -> None:
        """It is gone. Losing it twice is fine."""
        if self.gone.is_set():
            return
        self.gone.set()
        if self._on_gone(self) and self.listener is not None:
            log.log(logging.WARNING if charged else logging.INFO, "x worker %s gone: %s", self.info.name, reason)
            self.listener.lost(charged, reason)

    # --- its connection -----------------------------------------------------------------------------------------------

    def _on_liveness(self, state: Liveness) -> None:
        if self.listener is None or self.gone.is_set():
            return
        if state == "suspect":
            self.listener.suspected()
        elif state == "fine":
            self.listener.trusted()
        else:
            how = "silent" if self.conversation.attached else "out of reach"
            self.lost(f"{how} for {self._limits.reconnect_grace:.0f} s", charged=True)

    def _on_channel(self, broken: str | None) -> None:
        if self.listener is None or self.gone.is_set():
            return
        now = asyncio.get_running_loop().time()
        if broken is not None:
            self._broke_at = now
            self.listener.disconnected(broken)
            self.listener.suspected()
        else:
            kept = self.conversation.connection.peer_info.get("kept")
            self.listener.resumed(now - self._broke_at, kept if isinstance(kept, int) and kept > 0 else 0)
            self._outages.append(Outage(now, now - self._broke_at))
            self._measured(self.listener)  # first: what is sent now is sent ahead
            self.listener.trusted()

    # --- its messages -------------------------------------------------------------------------------------------------

    def _on_message(self, message: msg.Message, parts: list[Buffer]) -> None:
        listener = self.listener
        if listener is None or self.gone.is_set():
            return  # a late message of an incarnation that was given up
        match message:
            case msg.Report():
                if message.ended:
                    self._attempts_of(message.slot).discard(message.attempt)
                self._report_round_trip(listener)
                listener.reported(message, parts)
            case msg.Output():
                if len(parts) > 1 or not message.spells(sum(map(len, parts))):
                    self._refuse("it sent output that is not what it announced")
                    return
                listener.printed(message, parts)
            case msg.Beat(cpu, memory, slots, states, devices):
                self._cpu, self._memory, self._rtt = cpu, memory, self.conversation.rtt
                self._measured(listener)
                if devices:
                    listener.devices_used(devices)
                for attempts, (attempt, at, _elapsed) in zip(self._attempts, slots, strict=False):
                    if attempt in attempts:
                        listener.progressed(attempt, at)
                listener.watched(slots, states)
            case msg.Refused(slot, attempt):
                self._attempts_of(slot).discard(attempt)
                listener.refused(message, parts)
            case msg.Died():
                self._died(listener, message)
            case msg.Ready():
                listener.ready(message)
            case msg.Draining():
                log.info("= worker %s wants to leave", self.info.name)
                listener.draining()
            case msg.Bye(reason):
                self.lost(reason or "it left", charged=False)
            case _:
                self._refuse(f"it sent {type(message).__name__}, which no worker sends")

    def _refuse(self, reason: str) -> None:
        """It does not keep to the protocol: end the session."""
        self.lost(reason, charged=True)
        self.conversation.abort()

    def _attempts_of(self, slot: int) -> set[int]:
        """The attempts at the slot; none for a number that the worker does not have."""
        return self._attempts[slot] if 0 <= slot < len(self._attempts) else set()

    def _report_round_trip(self, listener: WorkerListener) -> None:
        """Report the round trip if it differs much from the last one: chunk sizes depend on it.

        That of the handshake is a first guess only.
        """
        rtt = self.conversation.rtt
        if not rtt / 2 <= self._rtt <= rtt * 2:
            self._rtt = rtt
            self._measured(listener)

    def _measured(self, listener: WorkerListener) -> None:
        """Report the figures of its last heartbeat, and how much work to send ahead."""
        now = asyncio.get_running_loop().time()
        ahead = send_ahead(self.conversation.peer.round_trips, self._outages, now, self._limits)
        listener.measured(self._rtt, self._cpu, self._memory, max(ahead, self._limits.ahead_least))

    def _died(self, listener: WorkerListener, died: msg.Died) -> None:
        attempts = self._attempts_of(died.slot)
        attempts.discard(died.attempt)
        # All attempts given to the slot are void from now on. Those that were on their way when the process died would
        # reach the fresh one, and must not run there.
        for attempt in attempts:
            self.conversation.send(msg.Revoke(died.slot, attempt, 0))
        attempts.clear()
        listener.died(died)
