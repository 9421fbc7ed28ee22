"""An engine that somebody else runs, as workers: what runs there is the same Runner on the same bytes.

Owns who is there: each member of the engine is one worker (`foreign_worker.py`) for as long as the engine names it. How
the engine is spoken to is its adapter's (`adapter.py`), what workers need to run chunks is in `foreign_payloads.py`.
The engine belongs to the user: it is not shut down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from distmap.core.limits import LIMITS, Limits
from distmap.engine.adapter import Adapter, Member
from distmap.engine.base import Location, Parts, Sink, WorkerInfo
from distmap.engine.foreign_payloads import ForeignPayloads, call_on_loop
from distmap.engine.foreign_worker import ForeignWorker
from distmap.engine.side_channel import unpack
from distmap.errors import ConnectError, ProtocolError
from distmap.wire.messages import BlobKind, Task

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("distmap")

T = TypeVar("T")

#: Seconds between two looks at threads of this process; views draw at most ten times a second.
LOOK_EVERY = 0.1


class TooLate(TimeoutError):
    """A call of somebody else's code took longer than it may."""


class ForeignEngine:
    """Runs chunks on an engine that already runs. It is also what its adapter tells news (`AdapterEvents`)."""

    place: Location = "foreign"

    def __init__(self, adapter: Adapter, *, limits: Limits = LIMITS) -> None:
        self._adapter = adapter
        self._limits = limits
        #: Why it takes nothing any more, in one sentence; None while it does.
        self.broken: str | None = None
        #: What the engine said last.
        self.cause: ConnectError | None = None
        #: None before `start`, after `close`, and once nobody comes any more.
        self._sink: Sink | None = None
        #: By the driver's id, and by the adapter's key.
        self._workers: dict[int, ForeignWorker] = {}
        self._members: dict[str, ForeignWorker] = {}
        #: By the name of its calls.
        self._by_id: dict[bytes, ForeignWorker] = {}
        #: One that the driver does not know by its id yet.
        self._joining: ForeignWorker | None = None
        #: Keys of members that take nothing any more, though the engine names them still.
        self._given_up: set[str] = set()
        #: Who was there when the adapter told last.
        self._last: Sequence[Member] | None = None
        self._opened = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def tagless(self) -> str | None:
        """Why no worker of this engine ever has a tag; None if some may."""
        return None if self._adapter.tagged else f"{self._adapter.name} knows no tags"

    async def start(self, sink: Sink) -> None:
        """Raises ConnectError if the engine cannot be reached."""
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._payloads = ForeignPayloads(
            self._adapter, self._loop, lambda: list(self._members), self._submit_waiting, limits=self._limits
        )
        name = self._adapter.name
        try:
            members = await in_thread(
                self._loop, partial(self._adapter.open, self), self._limits.engine_open, late=self._adapter.close
            )
        except TooLate as error:
            raise ConnectError(f"{name} has not answered for {self._limits.engine_open:g} s") from error
        except Exception as error:
            self._opened = True  # as far as it came
            raise ConnectError(f"{name} cannot be reached: {type(error).__name__}: {error}") from error
        self._opened = True
        self._sink = sink
        self._update(members if self._last is None else self._last)

    # --- what the adapter tells, from any thread ---------------------------------------------------------------------

    def members(self, members: Sequence[Member]) -> None:
        """See AdapterEvents."""
        call_on_loop(self._loop, partial(self._update, members))

    def received(self, data: bytes) -> None:
        """See AdapterEvents."""
        call_on_loop(self._loop, partial(self._heard, data))

    def _heard(self, data: bytes) -> None:
        try:
            copy = unpack(data)
        except ProtocolError as error:
            log.info("x %s said something else: %s", self._adapter.name, error)
            return
        # Several pools may share a channel.
        if (worker := self._by_id.get(copy.origin.worker)) is not None:
            worker.heard(copy)

    def ended(self, why: str) -> None:
        """See AdapterEvents."""

        def end() -> None:
            self.cause = ConnectError(why)
            self._end(f"{self._adapter.name} has ended: {why}", charged=False)

        call_on_loop(self._loop, end)

    # --- who is there ------------------------------------------------------------------------------------------------

    def _update(self, members: Sequence[Member]) -> None:
        """Let members join that are new, and lose those that are named no more."""
        self._last = members
        if self._sink is None:
            return
        named = {member.key: member for member in members}
        self._given_up &= named.keys()
        for key in [key for key in self._members if key not in named]:
            self._lose(self._members[key], f"{self._adapter.name} has it no more", charged=True)
        for member in members:
            if member.key not in self._members and member.key not in self._given_up:
                self._join(member)

    def _join(self, member: Member) -> None:
        if (sink := self._sink) is None:
            return
        worker = ForeignWorker(member, self._adapter, self._payloads, self._loop, self._limits, self._give_up)
        info = WorkerInfo(
            member.name, member.host, member.slots, member.python, member.tags, address=self._adapter.name
        )  # fmt: skip
        self._members[member.key] = self._by_id[worker.id] = worker
        # The sink may assign work before it returns, hence `_joining`; that work waits until the worker begins.
        self._joining = worker
        try:
            listener = sink.joined(self, info)
        finally:
            self._joining = None
        self._workers[listener.id] = worker
        worker.begin(listener)

    def _lose(self, worker: ForeignWorker, why: str, *, charged: bool) -> None:
        if (listener := worker.listener) is not None:
            del self._workers[listener.id], self._members[worker.member.key], self._by_id[worker.id]
            self._payloads.left(listener.id)
            worker.lose(why, charged=charged)

    def _give_up(self, worker: ForeignWorker, why: str, charged: bool) -> None:
        """A member takes nothing any more. It was the engine's last one: so does the engine."""
        self._given_up.add(worker.member.key)
        if len(self._members) > 1:
            self._lose(worker, why, charged=charged)
        else:
            self._end(why, charged=charged)

    def _end(self, why: str, *, charged: bool) -> None:
        """Nobody comes any more."""
        if (sink := self._sink) is not None:
            self._sink, self.broken = None, why
            for worker in list(self._members.values()):
                self._lose(worker, why, charged=charged)
            sink.reconsider()

    def _submit_waiting(self) -> None:
        for worker in list(self._members.values()):
            worker.submit_waiting()

    # --- from the driver ---------------------------------------------------------------------------------------------

    def _worker(self, worker: int) -> ForeignWorker | None:
        """None when it is gone: the scheduler has not handled its loss yet, or just has."""
        return self._workers.get(worker, self._joining)

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts, name: str = "") -> None:
        if self._worker(worker) is not None:
            self._payloads.put(worker, digest, kind, parts)

    def drop(self, worker: int, digest: bytes) -> None:
        self._payloads.drop(worker, digest)
        if (found := self._worker(worker)) is not None:
            found.queue.drop(digest)

    def assign(self, worker: int, task: Task, parts: Parts) -> None:
        if (found := self._worker(worker)) is not None:
            found.assign(task, parts)
            self._look_later()

    def _look_later(self) -> None:
        if self._adapter.here and self._timer is None:
            self._timer = self._loop.call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        self._timer = None
        for worker in list(self._members.values()):
            for attempt, at in worker.queue.positions():
                if worker.listener is not None:
                    worker.listener.progressed(attempt, at)
            if worker.queue:
                self._look_later()

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        if (found := self._worker(worker)) is not None:
            found.revoke(attempt, stop)

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        if (found := self._worker(worker)) is not None:
            found.interrupt(attempt)

    def renew(self, worker: int, slot: int) -> None:
        """Its processes are not ours."""

    def kill(self, worker: int, slot: int) -> None:
        if (found := self._worker(worker)) is not None:
            found.kill(slot)

    async def close(self, *, now: bool) -> None:
        self._sink = None
        if self._timer is not None:
            self._timer.cancel()
        for worker in self._members.values():
            worker.close()
        self._workers.clear()
        self._members.clear()
        self._by_id.clear()
        if self._opened:
            self._opened = False
            self._payloads.clear()
            try:
                await in_thread(self._loop, self._adapter.close, self._limits.engine_close)
            except Exception as error:
                log.warning("! %s could not be let go of: %r", self._adapter.name, error)


async def in_thread(
    loop: asyncio.AbstractEventLoop, call: Callable[[], T], seconds: float, late: Callable[[], object] | None = None
) -> T:
    """What a call of somebody else's code gives, from a thread of its own.

    Args:
        seconds: how long it may take. Then it is left alone; its thread keeps no process alive.
        late: called in a thread once the call has ended too late, however it has.

    Raises:
        TooLate: It took longer.
        Exception: What it raised.
    """
    import asyncio

    answer: asyncio.Future[T] = loop.create_future()

    def end(tell: Callable[[], object]) -> None:
        if not answer.done():
            tell()
        elif late is not None:
            threading.Thread(target=late, daemon=True).start()

    def run() -> None:
        tell: Callable[[], object]
        try:
            tell = partial(answer.set_result, call())
        except BaseException as error:
            tell = partial(answer.set_exception, error)
        if not call_on_loop(loop, partial(end, tell)) and late is not None:
            late()

    threading.Thread(target=run, name="distmap-engine", daemon=True).start()
    try:
        return await asyncio.wait_for(answer, seconds)
    except TimeoutError as error:
        if answer.cancelled():
            raise TooLate(f"not within {seconds:g} s") from error
        raise
