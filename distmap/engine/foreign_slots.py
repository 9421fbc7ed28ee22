"""The slots of ours in a worker of somebody else's engine, for calls of any of its threads.

Owns these slots, the thread with the loop that drives them, and the way of a chunk through them. Knows no engine and no
pool: several of both may call at once. The slots do not see their numbers, attempts are counted anew here.

Where there is a side channel, what a chunk says that runs for long is sent before its end too, at the pace of a tick,
and what the pool wishes of one is done.

Threads: a call is made by any thread, which then waits for it; all else runs on the loop's thread.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from distmap.core.limits import LIMITS
from distmap.driver.portal import Portal
from distmap.engine.attempt import BlobParts, Emit, Messages, PayloadStore
from distmap.engine.base import Parts
from distmap.engine.side_channel import Origin, pack, progress, unpack
from distmap.errors import ProtocolError
from distmap.slots.slots import Slots
from distmap.tasks._typing import Buffer
from distmap.wire.messages import (
    Died,
    Interrupt,
    Kill,
    Message,
    Output,
    Ready,
    Refused,
    Report,
    Revoke,
    Task,
)

log = logging.getLogger("distmap")

if TYPE_CHECKING:
    import asyncio

#: Seconds until a process starts without a task: it starts with its first one.
_WITH_THE_FIRST_TASK = 1e8
#: Seconds between two looks at what runs, if there is a side channel. Of a chunk that ends sooner its answer tells.
TELL_EVERY = 0.1
#: Wishes that are kept for calls that have not come.
WISHES = 256


class HostedCall:
    """A chunk, and what is said of it. Its thread reads this once it is `done`."""

    def __init__(self, origin: Origin, task: Task, blobs: Sequence[BlobParts], parts: Parts, emit: Emit | None) -> None:
        self.origin = origin
        self.emit = emit
        #: How many messages were sent over the side channel.
        self.told = 0
        self.task = task
        self.blobs = blobs
        self.parts = parts
        self.needed = (*task.needs, task.code)
        self.messages: Messages = []
        self.missing: tuple[bytes, ...] = ()
        self.begun = self.ended = 0.0
        #: Its slot had no process before.
        self.first = False
        #: Why it cannot be run here; then nothing was.
        self.unable: str | None = None
        #: A bug showed.
        self.error: BaseException | None = None
        self.done = threading.Event()


class ForeignSlots:
    """The slots of this process (SlotListener), for calls of any thread.

    Args:
        slots: how many calls run here at once.
        may_end: asked after a time without work, on the loop's thread.
    """

    def __init__(self, slots: int, may_end: Callable[[ForeignSlots], bool]) -> None:
        self._may_end = may_end
        #: Threads that call just now.
        self.callers = 0
        #: Why no task process can be started here.
        self.unable: str | None = None
        self.portal = Portal(name="distmap-host", crashed=self._crashed)
        # Changed on the loop's thread only, from here on.
        self._slots = self._made(slots)
        self._store = PayloadStore(lambda blob: self._slots.put(*blob), lambda digest: self._slots.drop(digest))
        self._attempts = itertools.count(1)
        self._calls: dict[int, HostedCall] = {}
        #: By slot, what it runs; and those that have no process just now.
        self._running: dict[int, int] = {}
        self._dead: set[int] = set()
        self._used: set[int] = set()
        #: A task process has said something: they can be started here.
        self._proved = False
        self._timer: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None
        #: What was wished of calls that have not come, the last ones.
        self._wishes: dict[Origin, Message] = {}

    def _made(self, count: int) -> Slots:
        slots = Slots(count, self, name="a foreign worker")
        self.portal.ask(lambda: slots.attach(self.portal.loop, later=_WITH_THE_FIRST_TASK))
        return slots

    # --- calls -------------------------------------------------------------------------------------------------------

    def begin(self, call: HostedCall) -> None:
        """Run it, each in a slot of its own: so many threads call as the engine has."""
        try:
            self._begin(call)
        except BaseException as error:  # `_crashed` may not know it yet, and its thread waits
            call.error = error
            call.done.set()
            raise

    def _begin(self, call: HostedCall) -> None:
        if self.unable is not None:
            call.unable = self.unable
            return call.done.set()
        call.missing = self._store.take(call.needed, call.blobs)
        call.blobs = ()
        if call.missing:
            return call.done.set()
        task = call.task
        if (wish := self._wishes.pop(call.origin, None)) is not None:
            stop = wish.stop if isinstance(wish, Revoke) else task.lo
            call.task = task = task._replace(hi=max(task.lo, min(stop, task.hi)))
        if task.lo == task.hi:
            self._store.give_back(call.needed)
            call.messages.append((Report(task.slot, task.attempt, task.lo, task.lo, 0.0, True, ()), []))
            return call.done.set()
        self._assign(call)

    def abandon(self, call: HostedCall) -> None:
        """Its thread waits no more."""
        self._fulfil(call, Kill(0))

    def wish(self, data: bytes) -> None:
        """The pool wants a call to stop, or its item to be interrupted, or its process to be ended."""
        try:
            origin, _, message, _ = unpack(data)
        except ProtocolError as error:
            log.info("x a wish is no wish: %s", error)
            return
        for call in self._calls.values():
            if call.origin == origin:
                return self._fulfil(call, message)
        # It may have been quicker than its call.
        self._wishes[origin] = message
        if len(self._wishes) > WISHES:
            del self._wishes[next(iter(self._wishes))]

    def _fulfil(self, call: HostedCall, wish: Message) -> None:
        for slot, attempt in self._running.items():
            if self._calls[attempt] is call:
                match wish:
                    case Revoke():
                        self._slots.revoke(slot, attempt, wish.stop)
                    case Interrupt():
                        self._slots.interrupt(slot, attempt)
                    case Kill():
                        self._slots.kill(slot)
                return

    # --- the side channel --------------------------------------------------------------------------------------------

    def _ticks(self) -> None:
        """Tell of all that has been running for a while."""
        self._tick, now = None, perf_counter()
        for attempt, at, seconds in self._slots.progress():
            call = self._calls.get(attempt)
            if call is not None and call.emit is not None and now - call.begun >= TELL_EVERY:
                self._tell(call, at, seconds)
        self._tell_later()

    def _tell_later(self) -> None:
        if self._tick is None and any(call.emit is not None for call in self._calls.values()):
            self._tick = self.portal.loop.call_later(TELL_EVERY, self._ticks)

    def _tell(self, call: HostedCall, at: int, seconds: float) -> None:
        emit, task = call.emit, call.task
        assert emit is not None
        try:
            while 0 <= call.told < len(call.messages):
                copy = pack(call.origin, call.told, *call.messages[call.told])
                # What follows a message that is too large comes with the answer, as it does.
                call.told = call.told + 1 if copy else -1
                if copy:
                    emit(copy)
            if at >= 0:
                emit(progress(call.origin, task.attempt, at, seconds))
        except Exception as error:  # of somebody else's channel: the answer comes all the same
            log.info("x a side channel raised %r", error)
            call.emit = None

    def _assign(self, call: HostedCall) -> None:
        # The lowest: where fewer calls come at once than may, fewer processes are started.
        free = [slot for slot in range(len(self._slots)) if slot not in self._running]
        slot = next((slot for slot in free if slot not in self._dead), None)
        if slot is None:
            slot = self._slots.add()
        call.begun, call.first = perf_counter(), slot not in self._used
        self._used.add(slot)
        attempt = self._running[slot] = next(self._attempts)
        self._calls[attempt] = call
        self._slots.assign(call.task._replace(slot=slot, attempt=attempt), call.parts)
        call.parts = ()
        self._tell_later()

    def _end(self, slot: int) -> None:
        """What the slot ran has ended."""
        call = self._calls.pop(self._running.pop(slot))
        self._store.give_back(call.needed)
        call.ended = perf_counter()
        call.done.set()

    # --- what the slots say (SlotListener) ---------------------------------------------------------------------------

    def reported(self, report: Report, parts: list[Buffer]) -> None:
        """Some items are finished."""
        self._take(report, parts)
        if report.ended:
            self._end(report.slot)

    def printed(self, output: Output, parts: list[Buffer]) -> None:
        """Items printed something."""
        self._take(output, parts)

    def refused(self, refused: Refused, parts: list[Buffer]) -> None:
        """It could not be run at all."""
        self._take(refused, parts)
        self._end(refused.slot)

    def died(self, died: Died) -> None:
        """The process of a slot ended."""
        self._dead.add(died.slot)
        self._used.discard(died.slot)
        if died.slot not in self._running:
            return
        if died.attempt >= 0:
            self._proved = True
        elif not self._proved and died.reason != "killed":  # which may have been before its first word
            return self._refuse(died.text)
        self._take(died._replace(attempt=self._running[died.slot]), [])
        self._end(died.slot)

    def ready(self, ready: Ready) -> None:
        """It has a new one."""
        self._dead.discard(ready.slot)

    def _take(self, message: Report | Output | Refused | Died, parts: list[Buffer]) -> None:
        self._proved |= not isinstance(message, Died)
        if (call := self._calls.get(message.attempt)) is not None:
            message = message._replace(slot=call.task.slot, attempt=call.task.attempt)
            call.messages.append((message, parts))

    def _refuse(self, why: str) -> None:
        """No task process can be started here: all that came, and comes, runs in the calls themselves."""
        self.unable = why
        calls = list(self._calls.values())
        self._calls.clear()
        self._running.clear()
        for call in calls:
            call.unable = why
            call.done.set()
        self.portal.loop.create_task(self._slots.close(now=True))

    def _crashed(self, error: BaseException) -> None:
        for call in self._calls.values():
            call.error = error
            call.done.set()

    # --- the end -----------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """It may be without work from now on: then it ends, after a time."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.portal.loop.call_later(LIMITS.engine_idle, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._may_end(self):
            task = self.portal.loop.create_task(self.close())
            task.add_done_callback(lambda _: self.portal.stop())

    async def close(self) -> None:
        """Let the task processes leave."""
        await self._slots.close(now=False)
