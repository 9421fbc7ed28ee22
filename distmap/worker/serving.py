"""One pool at a worker: its conversation, and the slots that work for it alone.

Owns the slots, the record of the attempts given to them, and the log of the jobs. It must not look into parts: it
never unpickles anything and never runs a function of a user. A pool that is out of reach is waited for: its tasks go
on, and what they report is kept for it. When it has gone the session is thrown away with its task processes, so that
nothing of one pool (modules, values, globals) reaches the next. All of it runs on the supervisor's event loop, in the
main thread of the worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from distmap.core.limits import LIMITS, Limits
from distmap.errors import PayloadError, ProtocolError
from distmap.slots.slots import OUTDATED, Slots
from distmap.tasks._typing import Buffer
from distmap.tasks.nesting import FOLDER
from distmap.transport.channel import Connection
from distmap.transport.conversation import Conversation
from distmap.wire import messages as msg
from distmap.wire.liveness import Liveness
from distmap.worker.load import Load
from distmap.worker.spool import Backlog

log = logging.getLogger("distmap.worker")


@dataclass(slots=True)
class _Tally:
    """Work done for one job (one code digest), for the log."""

    chunks: int = 0
    items: int = 0
    failed: int = 0
    deaths: int = 0
    seconds: float = 0.0

    def add(self, other: _Tally) -> None:
        self.chunks += other.chunks
        self.items += other.items
        self.failed += other.failed
        self.deaths += other.deaths
        self.seconds += other.seconds

    def __str__(self) -> str:
        done = f"{_many(self.items, 'item')} in {_many(self.chunks, 'task')}, {self.failed} failed"
        return f"{done}, {_many(self.deaths, 'task process death')}, {self.seconds:.1f} s of work"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


class PoolSession:
    """One pool's time at this worker: made before the pool comes, so that its slots are warm; `begin`, then `leave`."""

    def __init__(
        self,
        count: int,
        load: Load,
        *,
        name: str,
        memory_limit: int | None = None,
        env: Mapping[str, str] | None = None,
        each: Sequence[Mapping[str, str]] = (),
        dismissed: Callable[[str], object] = lambda reason: None,
        limits: Limits = LIMITS,
    ) -> None:
        #: Called when the pool wants this worker to leave.
        self._dismissed = dismissed
        #: Whether a pool has come, and its name, for people.
        self.taken = False
        self.pool = ""
        #: Whether the pool has said goodbye.
        self.closed = False
        #: Set when the pool has gone, with the reason, or when this side has left.
        self.over = asyncio.Event()
        self.reason = ""
        #: Set while no slot has an attempt.
        self.idle = asyncio.Event()
        self.idle.set()
        #: Loop time since when that is so.
        self.idle_since = asyncio.get_running_loop().time()
        #: Whether it ends because there was no work for long; then the worker waits to be called.
        self.rests = False
        self._left = False
        self._load = load
        self._limits = limits
        self._conversation: Conversation | None = None
        #: Results since the pool is out of reach, and since when (loop time); ends the session after `orphan_after`.
        self.kept = 0
        self._broke_at = 0.0
        self._orphan_timer: asyncio.TimerHandle | None = None
        # Per slot, the attempts given to it and not ended, each with its code's digest.
        self._attempts: list[dict[int, bytes]] = [{} for _ in range(count)]
        # Slots without a process, with what the pool has received or will receive about them.
        self._dead: dict[int, msg.Died] = {}
        self._jobs: dict[bytes, _Tally] = {}
        # Names of functions by digest, for the log.
        self._names: dict[bytes, str] = {}
        self._total = _Tally()
        # Made by the first task process that needs it; removed by `leave`.
        self._folder = os.path.join(tempfile.gettempdir(), f"distmap-{secrets.token_hex(16)}")
        env = {**os.environ, **(env or {}), FOLDER: self._folder}
        self._slots = Slots(count, self, name=name, env=env, memory_limit=memory_limit, each=each)
        self._slots.attach(asyncio.get_running_loop())
        self._backlog = Backlog(
            self._folder,
            waiting=lambda: 0 if self._conversation is None else self._conversation.waiting_bytes,
            hold=self._slots.hold,
            limits=limits,
        )

    # --- the pool ----------------------------------------------------------------------------------------------------

    def begin(self, connection: Connection, pool: str) -> None:
        """The pool has connected and may send tasks from now on."""
        self.taken, self.pool = True, pool
        self.idle_since = asyncio.get_running_loop().time()
        self._conversation = Conversation(
            connection,
            on_message=self._on_message,
            on_liveness=self._on_liveness,
            on_closed=lambda reason: self.end(f"connection lost ({reason})"),
            on_channel=self._on_channel,
            beat=self._beat,
            # A pool that is connected and silent holds the GIL, perhaps. Its tasks wait for it.
            limits=self._limits._replace(reconnect_grace=self._limits.pool_silence),
        )
        self._conversation.start()
        for died in self._dead.values():  # the pool assumes that every slot has a process
            self._send(died)

    @property
    def conversation(self) -> Conversation:
        """That with the pool. Only after `begin`."""
        assert self._conversation is not None, "no pool has come"
        return self._conversation

    @property
    def connected(self) -> bool:
        """Whether a pool is here that is not out of reach."""
        return self._conversation is not None and self._conversation.attached and not self.over.is_set()

    def is_of(self, theirs: Mapping[str, object], key: str = "resume") -> bool:
        """Whether the INFO of a pool names this session, as one to resume or (key "fenced") as one that it gave up."""
        return self._conversation is not None and not self.over.is_set() and theirs.get(key) == self._conversation.id

    def offer(self) -> dict[str, object]:
        """What our INFO says to a pool that goes on with this session. Gives up the present connection."""
        conversation = self.conversation
        conversation.detach("the pool dialled again")
        return {"resume": conversation.id, "received": conversation.received, "kept": self.kept}

    def _on_channel(self, broken: str | None) -> None:
        if self.over.is_set():
            return
        loop = asyncio.get_running_loop()
        if self._orphan_timer is not None:
            self._orphan_timer.cancel()
        if broken is None:
            seconds = loop.time() - self._broke_at
            log.info("pool %s is back after %.1f s; %s sent", self.pool, seconds, _many(self.kept, "kept result"))
            self.kept = 0
            return
        self._broke_at, self.kept = loop.time(), 0
        seconds = _patience(self._broke_at - self.conversation.connection.channel.last_heard, self._limits)
        self._orphan_timer = loop.call_later(seconds, self.end, f"out of reach for {seconds:.3g} s")
        log.warning(
            "pool %s is out of reach (%s); its tasks go on, and results are kept for it for %.3g s",
            self.pool, broken, seconds,
        )  # fmt: skip

    def drain(self) -> None:
        """Announce to the pool that this worker wants to leave; it takes back the attempts that have not begun."""
        if self.connected or any(self._attempts):  # else it has nothing here, and `flushed` would wait for its answer
            self._send(msg.Draining())

    async def flushed(self) -> None:
        """Wait until the pool has acknowledged everything sent so far, or is gone."""
        if self._conversation is not None:
            await self._conversation.flushed()

    async def leave(self, reason: str) -> None:
        """Send Bye if the pool is still there, and end every task process. Leaving twice is fine."""
        if self._left:
            return
        self._left = True
        conversation, self._conversation = self._conversation, None
        how = f"pool {self.pool} gone: {self.reason}" if self.over.is_set() else f"left pool {self.pool}: {reason}"
        self.end(reason)
        if conversation is not None:
            await conversation.close(reason)
        if self.taken:
            log.info("%s; %s", how, self._total)
        self._backlog.close()
        await self._slots.close(now=True)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _on_message(self, message: msg.Message, parts: list[Buffer]) -> None:
        if self.over.is_set():
            return
        match message:
            case msg.Task():
                self._assign(message, parts)
            case msg.Put(digest, kind, name):
                if kind == "code":
                    self._names[digest] = f"{digest.hex()[:8]} {_printable(name)}".rstrip()
                    log.info("job %s: function received (%s)", self._names[digest], _size(parts))
                self._slots.put(digest, kind, parts)
            case msg.Drop(digest):
                tally = self._jobs.pop(digest, None)
                name = self._names.pop(digest, digest.hex()[:8])
                if tally is not None:
                    log.info("job %s over: %s", name, tally)
                self._slots.drop(digest)
            case msg.Revoke(slot, attempt, stop):
                # An attempt that has ended meanwhile has nothing left to take back.
                if attempt in self._attempts_of(slot):
                    self._slots.revoke(slot, attempt, stop)
            case msg.Interrupt(slot, attempt):
                if attempt in self._attempts_of(slot):
                    self._slots.interrupt(slot, attempt)
            case msg.Kill(slot):
                self._attempts_of(slot)
                self._slots.kill(slot)
            case msg.Renew(slot):
                self._attempts_of(slot)
                self._slots.retire(slot, OUTDATED)
            case msg.Draining():
                self._dismissed("its pool has enough workers")
            case msg.Bye(reason):
                self.closed = True
                self.end(f"it said goodbye ({reason})" if reason else "it said goodbye")
            case msg.Beat():
                pass
            case _:
                raise ProtocolError(f"a pool does not send {type(message).__name__} to a worker")

    def _assign(self, task: msg.Task, parts: Sequence[Buffer]) -> None:
        attempts = self._attempts_of(task.slot)
        if task.slot in self._dead:
            return  # sent before the pool learned of the death, which made the attempt void
        attempts[task.attempt] = task.code
        self._jobs.setdefault(task.code, _Tally())
        self.idle.clear()
        self._slots.assign(task, parts)

    def _attempts_of(self, slot: int) -> dict[int, bytes]:
        if not 0 <= slot < len(self._attempts):
            raise ProtocolError(f"a message names slot {slot} of a worker with {len(self._attempts)} slots")
        return self._attempts[slot]

    def _on_liveness(self, state: Liveness) -> None:
        if state == "suspect":
            log.warning("pool %s has been silent for %.0f s", self.pool, self._limits.suspect_after)

    def _beat(self) -> msg.Beat:
        cpu, memory = self._load.read()
        return msg.Beat(cpu, memory, tuple(self._slots.progress()), self._slots.states(), self._load.devices)

    def _send(self, message: msg.Message, parts: Sequence[Buffer] = ()) -> None:
        if self._conversation is not None and not self.over.is_set():
            self._conversation.send(message, parts)

    def end(self, reason: str) -> None:
        """The pool has gone, or is given up. Ending twice is fine; `leave` follows."""
        if not self.over.is_set():
            self.reason = reason
            self.over.set()
            if self._orphan_timer is not None:
                self._orphan_timer.cancel()

    # --- the slots (their Listener) ----------------------------------------------------------------------------------

    def reported(self, report: msg.Report, parts: list[Buffer]) -> None:
        """A slot finished some items."""
        done = _Tally(int(report.ended), report.hi - report.lo, len(report.failed), 0, report.seconds)
        self._count(report.slot, report.attempt, done)
        self.kept += 0 if self.connected else done.items
        try:
            self._send(report, self._backlog.stow(parts))
        except PayloadError as exc:
            from distmap.tasks.oversize import as_failed

            self._send(*as_failed(report, exc, "its result, or those that were to be sent with it"))
        if report.ended:
            self._end_attempt(report.slot, report.attempt)

    def printed(self, output: msg.Output, parts: list[Buffer]) -> None:
        """Items of a slot printed something."""
        # A bound of its own: the task process bounds each slot by time and the kernel what it shows, but only this side
        # sees that the connection is slower than all slots together. Results must not wait behind prints.
        if parts and self._conversation is not None and self._conversation.printed > self._limits.unsent_output_bytes:
            text = bytes(parts[0])
            lines = text.count(b"\n") + (not text.endswith(b"\n"))
            output, parts = output._replace(dropped=output.dropped + lines, pieces=()), []
        self._send(output, parts)

    def refused(self, refused: msg.Refused, parts: list[Buffer]) -> None:
        """A slot could not run an attempt at all."""
        log.warning("slot %d could not run a task: its function or its input did not load", refused.slot)
        self._send(refused, parts)
        self._end_attempt(refused.slot, refused.attempt)

    def died(self, died: msg.Died) -> None:
        """A task process ended; every attempt at it is void."""
        if not self.over.is_set():
            doing = "idle" if died.attempt < 0 else f"at item {died.at} of its task"
            log.warning("slot %d: task process %s (%s): %s", died.slot, died.reason, doing, died.text)
        self._dead[died.slot] = died if died.attempt < 0 else died._replace(attempt=-1, at=-1, reason="idle")
        self._count(died.slot, died.attempt, _Tally(deaths=1))
        self._send(died)
        self._attempts[died.slot].clear()
        self._update_idle()

    def ready(self, ready: msg.Ready) -> None:
        """A dead slot has a fresh process. The first process of a slot is not reported: the pool assumes it."""
        if self._dead.pop(ready.slot, None) is not None:
            self._send(ready)

    def _count(self, slot: int, attempt: int, done: _Tally) -> None:
        self._total.add(done)
        tally = self._jobs.get(self._attempts[slot].get(attempt, b""))
        if tally is not None:
            tally.add(done)

    def _end_attempt(self, slot: int, attempt: int) -> None:
        self._attempts[slot].pop(attempt, None)
        self._update_idle()

    def _update_idle(self) -> None:
        if not any(self._attempts):
            self.idle_since = asyncio.get_running_loop().time()
            self.idle.set()


def _printable(name: str) -> str:
    """The name with "?" for control characters, which a terminal that shows the log would obey."""
    return "".join(char if char.isprintable() else "?" for char in name)


def _size(parts: Sequence[Buffer]) -> str:
    nbytes = float(sum(memoryview(part).nbytes for part in parts))
    for unit in ("B", "KB", "MB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} GB"


def _patience(silent: float, limits: Limits) -> float:
    """Seconds for which a pool may stay away that was silent for so long before its connection broke."""
    # A host that has vanished is silent first. A kernel that was busy for minutes is not gone, and may come back.
    return max(limits.orphan_after - silent, min(limits.reconnect_grace, limits.orphan_after))
