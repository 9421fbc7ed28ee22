"""One pool's stay at a worker: its conversation, and the slots that work for it alone.

Owns the slots, the record of what they have been given, and the log of the jobs. Passes parts through untouched: it
never unpickles anything and never runs a function of a user. When the pool has gone the whole stay is thrown away with
its task processes, so that nothing of one pool (modules, values, globals) reaches the next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distmap.core.limits import LIMITS, Limits
from distmap.errors import PayloadError, ProtocolError
from distmap.slots.slots import Slots
from distmap.tasks.nesting import FOLDER
from distmap.transport.channel import Connection
from distmap.transport.conversation import Conversation
from distmap.wire.messages import (
    Beat,
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
from distmap.worker.load import Load

Buffer = bytes | bytearray | memoryview

log = logging.getLogger("distmap.worker")


#: What tasks printed is dropped while so many bytes of it wait for the connection: results must not wait behind it.
_PRINTED = 256 << 10


@dataclass(slots=True)
class _Tally:
    """What was done for one job (one code digest), for the log."""

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


class Stay:
    """Made before the pool comes, so that its slots are warm; `begin` when it is there; `leave` or `over` ends it."""

    def __init__(self, count: int, load: Load, *, name: str, limits: Limits = LIMITS) -> None:
        #: A pool has come; who it is, for people.
        self.taken = False
        self.pool = ""
        #: Set when the pool has gone (`reason` says how), or when this side has left.
        self.over = asyncio.Event()
        self.reason = ""
        #: Set while no task is here.
        self.quiet = asyncio.Event()
        self.quiet.set()
        self._left = False
        self._load = load
        self._limits = limits
        self._conversation: Conversation | None = None
        # Per slot, the attempts given to it and not ended, each with its code's digest.
        self._given: list[dict[int, bytes]] = [{} for _ in range(count)]
        # Slots without a process, as the pool has been or will be told.
        self._dead: dict[int, Died] = {}
        self._jobs: dict[bytes, _Tally] = {}
        #: Functions by digest, for the log.
        self._names: dict[bytes, str] = {}
        self._total = _Tally()
        # Made by the first task process that needs it.
        self._folder = os.path.join(tempfile.gettempdir(), f"distmap-{secrets.token_hex(16)}")
        self._slots = Slots(count, self, name=name, env={**os.environ, FOLDER: self._folder})
        self._slots.attach(asyncio.get_running_loop())

    # --- the pool ----------------------------------------------------------------------------------------------------

    def begin(self, connection: Connection, pool: str) -> None:
        """The pool is there and may send tasks from now on."""
        self.taken, self.pool = True, pool
        self._conversation = Conversation(
            connection,
            on_message=self._hear,
            on_state=self._judge,
            on_closed=lambda reason: self._end(f"connection lost ({reason})"),
            beat=self._beat,
            limits=self._limits,
        )
        self._conversation.start()
        for died in self._dead.values():  # it takes every slot for a living one
            self._send(died)

    def drain(self) -> None:
        """Tell the pool that this worker wants to leave; it takes back what has not begun."""
        self._send(Draining())

    async def flushed(self) -> None:
        """Until the pool has everything that was said so far, or is gone."""
        if self._conversation is not None:
            await self._conversation.flushed()

    async def leave(self, reason: str) -> None:
        """Say goodbye if the pool is still there, and end every task process. Leaving twice is fine."""
        if self._left:
            return
        self._left = True
        conversation, self._conversation = self._conversation, None
        how = f"pool {self.pool} gone: {self.reason}" if self.over.is_set() else f"left pool {self.pool}: {reason}"
        self._end(reason)
        if conversation is not None:
            await conversation.close(reason)
        if self.taken:
            log.info("%s; %s", how, self._total)
        await self._slots.close(now=True)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _hear(self, message: Message, parts: list[Buffer]) -> None:
        if self.over.is_set():
            return
        match message:
            case Task():
                self._take(message, parts)
            case Put(digest, kind, name):
                if kind == "code":
                    self._names[digest] = f"{digest.hex()[:8]} {_printable(name)}".rstrip()
                    log.info("job %s: function received (%s)", self._names[digest], _size(parts))
                self._slots.put(digest, kind, parts)
            case Drop(digest):
                tally = self._jobs.pop(digest, None)
                name = self._names.pop(digest, digest.hex()[:8])
                if tally is not None:
                    log.info("job %s over: %s", name, tally)
                self._slots.drop(digest)
            case Revoke(slot, attempt, stop):
                # Of an attempt that has ended meanwhile there is nothing to take back.
                if attempt in self._at(slot):
                    self._slots.revoke(slot, attempt, stop)
            case Interrupt(slot, attempt):
                if attempt in self._at(slot):
                    self._slots.interrupt(slot, attempt)
            case Kill(slot):
                self._at(slot)
                self._slots.kill(slot)
            case Bye(reason):
                self._end(f"it said goodbye ({reason})" if reason else "it said goodbye")
            case Beat():
                pass
            case _:
                raise ProtocolError(f"a pool does not send {type(message).__name__} to a worker")

    def _take(self, task: Task, parts: Sequence[Buffer]) -> None:
        given = self._at(task.slot)
        if task.slot in self._dead:
            return  # sent before the pool heard of the death, which made it void
        given[task.attempt] = task.code
        self._jobs.setdefault(task.code, _Tally())
        self.quiet.clear()
        self._slots.assign(task, parts)

    def _at(self, slot: int) -> dict[int, bytes]:
        if not 0 <= slot < len(self._given):
            raise ProtocolError(f"slot {slot} was named, there are {len(self._given)}")
        return self._given[slot]

    def _judge(self, state: Literal["fine", "suspect", "lost"]) -> None:
        if state == "suspect":
            log.warning("pool %s has been silent for %.0f s", self.pool, self._limits.suspect_after)

    def _beat(self) -> Beat:
        cpu, memory = self._load.read()
        return Beat(cpu, memory, tuple(self._slots.progress()))

    def _send(self, message: Message, parts: Sequence[Buffer] = ()) -> None:
        if self._conversation is not None and not self.over.is_set():
            self._conversation.send(message, parts)

    def _end(self, reason: str) -> None:
        if not self.over.is_set():
            self.reason = reason
            self.over.set()

    # --- the slots (their Listener) ----------------------------------------------------------------------------------

    def reported(self, report: Report, parts: list[Buffer]) -> None:
        """A slot finished some items."""
        done = _Tally(int(report.ended), report.hi - report.lo, len(report.failed), 0, report.seconds)
        self._count(report.slot, report.attempt, done)
        try:
            self._send(report, parts)
        except PayloadError as exc:
            self._send(*_too_large(report, exc))
        if report.ended:
            self._forget(report.slot, report.attempt)

    def printed(self, output: Output, parts: list[Buffer]) -> None:
        """Items of a slot printed something."""
        if parts and self._conversation is not None and self._conversation.printed > _PRINTED:
            text = bytes(parts[0])
            lines = text.count(b"\n") + (not text.endswith(b"\n"))
            output, parts = output._replace(dropped=output.dropped + lines, pieces=()), []
        self._send(output, parts)

    def refused(self, refused: Refused, parts: list[Buffer]) -> None:
        """A slot could not run an attempt at all."""
        log.warning("slot %d could not run a task: its function or its input did not load", refused.slot)
        self._send(refused, parts)
        self._forget(refused.slot, refused.attempt)

    def died(self, died: Died) -> None:
        """A task process ended; every attempt at it is void."""
        if not self.over.is_set():
            doing = "idle" if died.attempt < 0 else f"at item {died.at} of its task"
            log.warning("slot %d: task process %s (%s): %s", died.slot, died.reason, doing, died.text)
        self._dead[died.slot] = died if died.attempt < 0 else died._replace(attempt=-1, at=-1, reason="idle")
        self._count(died.slot, died.attempt, _Tally(deaths=1))
        self._send(died)
        self._given[died.slot].clear()
        self._settle()

    def ready(self, ready: Ready) -> None:
        """A dead slot has a fresh process. The first one of each slot is no news to the pool."""
        if self._dead.pop(ready.slot, None) is not None:
            self._send(ready)

    def _count(self, slot: int, attempt: int, done: _Tally) -> None:
        self._total.add(done)
        tally = self._jobs.get(self._given[slot].get(attempt, b""))
        if tally is not None:
            tally.add(done)

    def _forget(self, slot: int, attempt: int) -> None:
        self._given[slot].pop(attempt, None)
        self._settle()

    def _settle(self) -> None:
        if not any(self._given):
            self.quiet.set()


def _too_large(report: Report, exc: PayloadError) -> tuple[Report, list[Buffer]]:
    """In place of results that no message holds: the error of their items."""
    from distmap.tasks.failures import describe
    from distmap.tasks.payload import encode
    from distmap.tasks.pickling import Needs, dump_small

    items = range(report.lo, report.hi)
    failure = describe(exc, "its result, or those that were to be sent with it", dump_small)
    return report._replace(failed=tuple(items)), encode([failure] * len(items), Needs(), what="")[0].parts


def _printable(name: str) -> str:
    """Nothing that steers whoever reads the log in a terminal."""
    return "".join(char if char.isprintable() else "?" for char in name)


def _size(parts: Sequence[Buffer]) -> str:
    nbytes = float(sum(memoryview(part).nbytes for part in parts))
    for unit in ("B", "KB", "MB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} GB"
