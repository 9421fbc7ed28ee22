"""Task processes of ours in a worker of somebody else's engine: what a call runs there if its adapter is isolated.

Owns the slots of this foreign process, the thread with the loop that drives them, and the way of a chunk through them.
A crash, `os._exit` or a time limit so ends one item, and neither the engine's worker nor the engine; and code that
holds the GIL does not keep it from its heartbeats. Where no process can be started, a chunk runs in the call itself,
and says so once. What was started leaves after a time without work, and ends with the foreign process.

Knows no engine and no pool: several of both may call at once. The slots do not see their numbers, attempts are counted
anew here.

Threads: `run` is called by any thread of the foreign process, which waits there. All else runs on the loop's thread,
but for what `_lock` guards.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from distmap.core.limits import LIMITS
from distmap.driver.portal import Portal
from distmap.engine.adapter import Run
from distmap.engine.attempt import Answer, BlobParts, Emit, Messages, PayloadStore, portable, run_there
from distmap.engine.base import Parts
from distmap.slots.slots import Slots
from distmap.tasks._typing import Buffer
from distmap.wire.messages import REMARK, Died, Output, Ready, Refused, Report, Task

if TYPE_CHECKING:
    import asyncio

#: Seconds until the first process of a slot starts without a task: it starts with its first one.
_WITH_THE_FIRST_TASK = 1e8
#: Seconds between two looks for proof that the loop lives.
_LOOK_AGAIN = 5.0


class _Call:
    """A chunk, and what is said of it. Its thread reads this once it is `done`."""

    def __init__(self, task: Task, blobs: Sequence[BlobParts], parts: Parts) -> None:
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


class ForeignHost:
    """The slots of this process (SlotListener), for calls of any thread.

    Args:
        slots: how many calls run here at once.
    """

    def __init__(self, slots: int) -> None:
        #: Threads that call just now.
        self.callers = 0
        #: Why no task process can be started here.
        self.unable: str | None = None
        self.portal = Portal(name="distmap-host", crashed=self._crashed)
        # Changed on the loop's thread only, from here on.
        self._count = slots
        self._slots = self._made()
        self._store = PayloadStore(lambda blob: self._slots.put(*blob), lambda digest: self._slots.drop(digest))
        self._attempts = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        #: By slot, what it runs; and those that have no process just now.
        self._running: dict[int, int] = {}
        self._dead: set[int] = set()
        self._used: set[int] = set()
        self._waiting: deque[_Call] = deque()
        #: A task process has said something: they can be started here.
        self._proved = False
        self._timer: asyncio.TimerHandle | None = None

    def _made(self) -> Slots:
        slots = Slots(self._count, self, name="a foreign worker")
        self.portal.ask(lambda: slots.attach(self.portal.loop, later=_WITH_THE_FIRST_TASK))
        return slots

    # --- calls -------------------------------------------------------------------------------------------------------

    def begin(self, call: _Call) -> None:
        """Run it, now or once a slot is free."""
        if self.unable is not None:
            call.unable = self.unable
            return call.done.set()
        call.missing = self._store.take(call.needed, call.blobs)
        call.blobs = ()
        if call.missing:
            return call.done.set()
        self._waiting.append(call)
        self._assign_waiting()

    def abandon(self, call: _Call) -> None:
        """Its thread waits no more."""
        if call in self._waiting:
            self._waiting.remove(call)
            self._store.give_back(call.needed)
        for slot, attempt in self._running.items():
            if self._calls.get(attempt) is call:
                self._slots.kill(slot)

    def _assign_waiting(self) -> None:
        while self._waiting:
            # The lowest: where fewer calls come at once than may, fewer processes are started.
            free = [slot for slot in range(self._count) if slot not in self._running]
            slot = next((slot for slot in free if slot not in self._dead), free[0] if free else None)
            if slot is None:
                return
            call = self._waiting.popleft()
            call.begun, call.first = perf_counter(), slot not in self._used
            self._used.add(slot)
            attempt = self._running[slot] = next(self._attempts)
            self._calls[attempt] = call
            self._slots.assign(call.task._replace(slot=slot, attempt=attempt), call.parts)
            call.parts = ()

    def _end(self, slot: int) -> None:
        """What the slot ran has ended."""
        call = self._calls.pop(self._running.pop(slot))
        self._store.give_back(call.needed)
        call.ended = perf_counter()
        call.done.set()
        self._assign_waiting()

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
        if not self._proved and died.attempt < 0:
            return self._refuse(died.text)
        self._take(died._replace(attempt=self._running[died.slot]), [])
        self._end(died.slot)

    def ready(self, ready: Ready) -> None:
        """It has a new one."""
        self._dead.discard(ready.slot)

    def _take(self, message: Report | Output | Refused | Died, parts: list[Buffer]) -> None:
        self._proved = True
        if (call := self._calls.get(message.attempt)) is not None:
            message = message._replace(slot=call.task.slot, attempt=call.task.attempt)
            call.messages.append((message, parts))

    def _refuse(self, why: str) -> None:
        """No task process can be started here: all that came, and comes, runs in the calls themselves."""
        self.unable = why
        calls = [*self._calls.values(), *self._waiting]
        for kept in (self._calls, self._running, self._waiting):
            kept.clear()
        for call in calls:
            call.unable = why
            call.done.set()
        self.portal.loop.create_task(self._slots.close(now=True))

    def _crashed(self, error: BaseException) -> None:
        for call in [*self._calls.values(), *self._waiting]:
            call.error = error
            call.done.set()

    # --- the end -----------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """It may be without work from now on: then it ends, after a time."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.portal.loop.call_later(LIMITS.engine_idle, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if _forget_if_idle(self):
            task = self.portal.loop.create_task(self.close())
            task.add_done_callback(lambda _: self.portal.stop())

    async def close(self) -> None:
        """Let the task processes leave."""
        await self._slots.close(now=False)


#: Guards `_host`, and `callers` of it.
_lock = threading.Lock()
_host: ForeignHost | None = None
#: Of this process: who runs a call knows by it whether it is at home. With the process id, as a fork copies it.
_mark = os.urandom(8)


def _forked() -> None:
    """The thread of the host, and what it had, are not here."""
    global _lock, _host
    _lock, _host = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def home() -> tuple[int, bytes]:
    """This process, for `run_elsewhere`."""
    return os.getpid(), _mark


def run_elsewhere(
    pool: tuple[int, bytes], run: Run, task: Task, blobs: Sequence[BlobParts], parts: Parts, emit: Emit | None
) -> Answer:
    """As `run`, but in the call itself if this is the pool's own process: some executors run calls in threads of it."""
    return (run_there if home() == pool else run)(task, blobs, parts, emit)


def run(slots: int, task: Task, blobs: Sequence[BlobParts], parts: Parts, emit: Emit | None) -> Answer:
    """Run one attempt in a task process of ours.

    Args:
        slots: how many calls run in this process at once, as far as the engine says.
        task, blobs, parts, emit: as of any call, see `adapter.Run`.
    """
    call = _Call(task, blobs, parts)
    host = _enter(slots)
    try:
        host.portal.call(host.begin, call)
        while not call.done.wait(_LOOK_AGAIN):
            if host.portal.join(0):
                raise RuntimeError("the thread of distmap in this worker has ended")
    except BaseException:  # an interrupt
        host.portal.call(host.abandon, call)
        raise
    finally:
        _leave(host)
    if call.error is not None:
        raise RuntimeError("a bug of distmap showed in this worker; please report its cause") from call.error
    if call.unable is not None:
        answer = run_there(task, blobs, parts, emit)
        return answer if answer.missing else answer._replace(messages=[*_remark(host, call), *answer.messages])
    messages: Messages = [(message, portable(parts)) for message, parts in call.messages]
    return Answer(messages, call.missing, call.ended - call.begun, call.first)


def _remark(host: ForeignHost, call: _Call) -> Messages:
    """What is said once of a process in which no task process can be started."""
    with _lock:
        said, host.unable = host.unable, ""
    if not said:
        return []
    text = (
        f"no task process can be started there ({said}): items run in the process of the engine's own worker, so an "
        "item that ends its process ends that, and timeout= has no effect"
    ).encode()
    return [(Output(call.task.slot, call.task.attempt, 0, ((-1, REMARK, len(text)),)), [text])]


def _enter(slots: int) -> ForeignHost:
    global _host
    with _lock:
        if _host is None:
            _host = ForeignHost(max(1, slots))
        _host.callers += 1
        return _host


def _leave(host: ForeignHost) -> None:
    with _lock:
        host.callers -= 1
        if not host.callers:
            host.portal.call(host.rest)


def _forget_if_idle(host: ForeignHost) -> bool:
    """Let a call that comes from now on start anew, if this one has none."""
    global _host
    with _lock:
        if host.callers or _host is not host:
            return False
        _host = None
        return True


def end() -> None:
    """End what was started in this process, now. A call that comes later starts anew."""
    global _host
    with _lock:
        host, _host = _host, None
    if host is not None:
        host.portal.run(host.close()).result(LIMITS.engine_close)
        host.portal.close()


atexit.register(end)
