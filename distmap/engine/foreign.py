"""Any `concurrent.futures.Executor` as one worker: what runs there is the same Runner on the same bytes.

Owns the calls from the driver to an executor, and its answers back. What an attempt prints in another process comes
with its answer; threads of this process print directly. The executor belongs to the user: it is not shut down. An
executor cannot stop or kill what runs, limit its time or look into it, so a Kill only stops waiting for the answer.

Everything that is called here is foreign code, which may raise, give wrong answers or never answer: `traits.py` has
what is known of which executor. An attempt is taken back only if it has certainly not begun. If an executor goes on
without the process that ran an attempt, the attempt is lost and the scheduler runs its items apart. If one death breaks
the whole executor (loky), every attempt that it had may have caused it: they run again on a fresh executor, half of
them at a time, until one that is there alone breaks it. So no item is charged for another one.

Threads: an executor calls back in any thread; `_call_on_loop` moves that to the loop's thread, where all else runs.

Longer than 400 lines because every answer of an executor (done, lost, broken, silent) changes the same few records.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any

from distmap.core.limits import LIMITS, Limits
from distmap.engine.attempt import Answer, BlobParts, portable, run_attempt
from distmap.engine.base import Location, Parts, Sink, WorkerInfo, WorkerListener
from distmap.engine.traits import (
    call_or_default,
    has_reliable_cancel,
    is_broken,
    is_death,
    is_deserted,
    replacement_of,
    shares_memory,
    slots_of,
    unknown_slots,
)
from distmap.tasks._typing import Buffer
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.cells import CELL_INTERRUPT, CELL_STOP, CELL_STOP_ATTEMPT
from distmap.tasks.failures import describe
from distmap.tasks.items import encode
from distmap.tasks.payload import size
from distmap.tasks.pickling import dump_small
from distmap.wire.messages import BlobKind, Died, Output, Ready, Refused, Report, Task

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("distmap")

#: Code and values up to this many bytes travel with every attempt; larger ones only when a worker says it lacks them.
INLINE_BYTES = 64 << 10
#: The executor is given up after more calls in a row that came to nothing: cancelled by somebody else, or given to an
#: executor that broke before it had anything to run.
FAILURES_IN_A_ROW = 50
#: Number of last round trips that are kept. The shortest counts: others may have waited for other calls there.
ROUND_TRIPS = 8


class ForeignAttempt:
    """An attempt that was given to this engine and has not ended."""

    def __init__(self, task: Task, parts: Parts) -> None:
        self.task = task
        self.parts = parts
        self.cells = [-1] * 8
        #: None while the executor does not have it.
        self.future: Future[Answer] | None = None
        self.executor: Executor | None = None
        #: When the executor got it, and seconds of work that had been answered by then.
        self.since = self.work_seconds = 0.0


class ExecutorEngine:
    """Runs chunks on an executor that already runs.

    Args:
        executor: stays yours; closing the pool does not shut it down.
        slots: how many attempts it runs at once; by default what it says itself.
        name: of the worker; by default the executor's type.

    Raises:
        ValueError: it does not say how many calls it runs at once, and `slots` does not either.
    """

    place: Location = "foreign"

    def __init__(
        self, executor: Executor, *, slots: int | None = None, name: str | None = None, limits: Limits = LIMITS
    ) -> None:
        found = slots_of(executor) if slots is None else slots
        if found is None:
            raise ValueError(unknown_slots(executor))
        self._executor = executor
        self._slots = found
        self._name = name or type(executor).__name__
        self._limits = limits
        self._threads = shares_memory(executor)
        self._reliable_cancel = has_reliable_cancel(executor)
        self._replace = replacement_of(executor)
        #: The executor is one that `_replace` made, so that it is ours to shut down.
        self._replaced = False
        #: Why it takes nothing any more, in one sentence; None while it does.
        self.broken: str | None = None
        self._blobs: dict[bytes, BlobParts] = {}
        self._attempts: dict[int, ForeignAttempt] = {}
        #: Of these, those that wait here; `_most_in_flight`: how many may be in the executor, None: all.
        self._waiting: deque[ForeignAttempt] = deque()
        self._most_in_flight: int | None = None
        self._suspects: set[int] = set()
        #: Items whose process ended when no other item was in their attempt, by code: they run alone from now on.
        self._deadly_items: dict[bytes, set[int]] = {}
        #: Something that nobody listens to any more may run there.
        self._abandoned = False
        self._failures = 0
        #: None before `start`, after `close`, and once the executor is given up.
        self._listener: WorkerListener | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_answer = 0.0
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._rtt = 0.0
        #: Seconds of work of all answers so far.
        self._work_seconds = 0.0

    async def start(self, sink: Sink) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        info = WorkerInfo(self._name, socket.gethostname(), self._slots, python, address="executor")
        self._listener = sink.joined(self, info)

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts, name: str = "") -> None:
        self._blobs[digest] = BlobParts(digest, kind, tuple(parts if self._threads else portable(parts)))

    def drop(self, worker: int, digest: bytes) -> None:
        self._blobs.pop(digest, None)
        self._deadly_items.pop(digest, None)

    # --- to the executor ---------------------------------------------------------------------------------------------

    def assign(self, worker: int, task: Task, parts: Parts) -> None:
        entry = self._attempts[task.attempt] = ForeignAttempt(task, parts if self._threads else portable(parts))
        if task.start + task.lo in self._deadly_items.get(task.code, ()):
            self._suspects.add(task.attempt)
            self._most_in_flight = 1
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)
        self._submit_waiting()

    def _submit_waiting(self) -> None:
        """Give the executor what waits here, as far as it may have it."""
        while self._waiting and self._listener is not None:
            if self._most_in_flight is not None and len(self._attempts) - len(self._waiting) >= self._most_in_flight:
                return
            entry = self._waiting.popleft()
            task = entry.task
            needed = [self._blobs[digest] for digest in (*task.needs, task.code) if digest in self._blobs]
            if not self._submit(entry, [blob for blob in needed if sum(map(size, blob.parts)) <= INLINE_BYTES]):
                return

    def _submit(self, entry: ForeignAttempt, blobs: list[BlobParts]) -> bool:
        """False: the executor takes nothing now, or any more."""
        loop, cells = self._loop, entry.cells if self._threads else None
        entry.since, entry.work_seconds = loop.time(), self._work_seconds
        if self._timer is None:
            self._last_answer = entry.since
            self._timer = loop.call_later(self._limits.suspect_after, self._check_silence)
        try:
            entry.executor = self._executor
            entry.future = self._executor.submit(run_attempt, entry.task, blobs, entry.parts, cells)
            entry.future.add_done_callback(
                lambda done: _call_on_loop(loop, partial(self._done, entry, done, loop.time()))
            )
        except RuntimeError as error:  # shut down, or broken
            entry.future = None
            self._waiting.appendleft(entry)
            # Soon, not now: the caller is in the middle of its own commands.
            loop.call_soon(self._break, self._executor, error)
            return False
        except Exception as error:
            entry.future = None
            loop.call_soon(self._refuse, entry, error)
        return True

    # --- from the executor -------------------------------------------------------------------------------------------

    def _done(self, entry: ForeignAttempt, future: Future[Answer], when: float) -> None:
        task = entry.task
        if self._attempts.get(task.attempt) is not entry or entry.future is not future or self._listener is None:
            return  # taken back, killed, run elsewhere, told before; or the pool is closed
        self._last_answer = when
        try:
            answer = future.result()
        except CancelledError as error:  # by somebody else
            if self._count_failure(error):
                self._end(entry)
            return
        except BaseException as error:
            if is_broken(error) and entry.executor is self._executor:
                self._break(self._executor, error)
            elif is_broken(error):  # one that was shut down, and replaced, before
                self._end(entry)
            elif is_death(error):
                self._lose(entry, error)
            else:
                self._refuse(entry, error)
            return
        if not isinstance(answer, Answer):
            what = f"{self._name} answered with {type(answer).__name__}, no result of the call"
            self._refuse(entry, TypeError(what))
            return
        self._failures = 0
        if answer.missing and all(digest in self._blobs for digest in answer.missing):
            if not self._submit(entry, [self._blobs[d] for d in (*task.needs, task.code) if d in self._blobs]):
                return
        elif answer.missing:  # dropped meanwhile: nobody waits for it any more
            self._end(entry)
        else:
            others, self._work_seconds = self._work_seconds - entry.work_seconds, self._work_seconds + answer.seconds
            if not answer.first:
                self._measure(when - entry.since - answer.seconds, others)
            self._forget(entry)
            for message, parts in answer.messages:
                self._report(message, parts)
        self._submit_waiting()

    def _measure(self, rtt: float, others: float) -> None:
        """Tell the round trip if it is another than the sink knows: the size of chunks hangs on it.

        Args:
            rtt: seconds there and back, and of waiting there.
            others: seconds of work that was answered meanwhile. If it may have waited for that, nothing is known:
                chunks would grow by what they themselves make others wait.
        """
        if self._listener is None or rtt < 2 * others:
            return
        self._round_trips.append(rtt)
        rtt = min(self._round_trips)
        if not rtt / 2 <= self._rtt <= rtt * 2:
            self._rtt = rtt
            self._listener.measured(rtt, 0.0, 0.0)

    def _report(self, message: Report | Output | Refused, parts: list[Buffer]) -> None:
        if self._listener is None:
            return
        match message:
            case Report():
                self._listener.reported(message, parts)
            case Output():
                self._listener.printed(message, parts)
            case Refused():
                self._listener.refused(message, parts)

    def _forget(self, entry: ForeignAttempt) -> bool:
        """The attempt has ended here; False: it had already."""
        if self._attempts.get(entry.task.attempt) is not entry:
            return False
        del self._attempts[entry.task.attempt]
        entry.future = None  # whose callback holds this: a cluster would keep the result until a garbage collection
        if entry in self._waiting:
            self._waiting.remove(entry)
        self._suspects.discard(entry.task.attempt)
        if not self._suspects:
            self._most_in_flight = None
        return True

    def _end(self, entry: ForeignAttempt) -> None:
        """Nothing of it was run; it goes back."""
        if self._forget(entry):
            self._hand_back(entry.task)

    def _hand_back(self, task: Task) -> None:
        self._report(Report(task.slot, task.attempt, task.lo, task.lo, 0.0, True, ()), [])
        self._submit_waiting()

    def _refuse(self, entry: ForeignAttempt, error: BaseException) -> None:
        """It cannot be run at all; the error says why."""
        if self._forget(entry) and self._listener is not None:
            failure = describe(error, "", dump_small, sent=False)
            refused = Refused(entry.task.slot, entry.task.attempt)
            self._listener.refused(refused, encode([failure], Dependencies(), what="")[0].parts)
            self._submit_waiting()

    def _lose(self, entry: ForeignAttempt, error: BaseException) -> None:
        """What ran it has ended, and nothing else with it."""
        if self._forget(entry) and self._listener is not None:
            task = entry.task
            at = task.lo if task.hi - task.lo == 1 else None
            if at is not None:
                # Others may have been in the same process: the next time nothing runs beside it, so that it shows.
                self._deadly_items.setdefault(task.code, set()).add(task.start + at)
            self._listener.broke(task.attempt, at, _exit_text(error))
            self._submit_waiting()

    # --- executors that end ------------------------------------------------------------------------------------------

    def _count_failure(self, error: BaseException) -> bool:
        """Again nothing came of it; False: too often, the executor is given up."""
        self._failures += 1
        if self._failures > FAILURES_IN_A_ROW:
            self._give_up(f"nothing came of {self._failures} calls in a row ({_exit_text(error)})")
            return False
        return True

    def _break(self, executor: Executor, error: BaseException) -> None:
        """It takes nothing any more: go on with a fresh one if there can be one.

        What it had is lost, unless it was only shut down.
        """
        if self._listener is None or executor is not self._executor:
            return  # that one was replaced already
        in_flight = [entry for entry in self._attempts.values() if entry.future is not None]
        charged = is_broken(error)
        if self._replace is None:
            return self._give_up(_ended_because(self._name, error), charged=charged)
        if not in_flight and not self._count_failure(error):
            return
        try:
            self._executor = self._replace()
        except Exception as problem:
            return self._give_up(f"{_ended_because(self._name, error)} ({problem!r})", charged=charged)
        self._replaced = True
        if not charged:
            return self._submit_waiting()
        alone = len(in_flight) == 1 and not self._abandoned
        self._abandoned = False
        if alone:
            self._suspects.clear()
            return self._lose(in_flight[0], error)
        for entry in reversed(in_flight):
            entry.future = None
            self._waiting.appendleft(entry)
        if in_flight:
            self._suspects.update(entry.task.attempt for entry in in_flight)
            self._most_in_flight = max(1, len(in_flight) // 2)
        self._submit_waiting()

    def _give_up(self, why: str, *, charged: bool = False) -> None:
        """For the driver, the worker is gone."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            self.broken = why
            self._clear()
            listener.lost(charged, why)

    def _clear(self) -> list[ForeignAttempt]:
        entries = list(self._attempts.values())
        self._attempts.clear()
        self._waiting.clear()
        self._suspects.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return entries

    def _check_silence(self) -> None:
        """Silent for long: an item may take its time, but an executor that takes nothing new answers nothing either."""
        self._timer = None
        if not self._attempts or self._listener is None:
            return
        silent = self._loop.time() - self._last_answer
        runs = self._reliable_cancel and any(
            call_or_default(entry.future.running, False)
            for entry in self._attempts.values()
            if entry.future is not None
        )
        if silent >= self._limits.suspect_after and not runs:
            why = self._probe()
            if why is not None and silent >= self._limits.reconnect_grace:
                return self._give_up(f"{why}, and it has answered nothing for {silent:.0f} s")
        self._timer = self._loop.call_later(self._limits.suspect_after / 2, self._check_silence)

    def _probe(self) -> str | None:
        """Why nothing is run there any more; None if it takes new calls, which one of no consequence finds out."""
        if is_deserted(self._executor):
            return f"{self._name} has no worker left"
        try:
            self._executor.submit(int)
        except Exception as error:
            return _ended_because(self._name, error)
        return None

    # --- steering ----------------------------------------------------------------------------------------------------

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        entry = self._attempts.get(attempt)
        if entry is None:
            return
        # Threads see these; other workers cannot, and finish what they run.
        entry.cells[CELL_STOP] = max(0, stop)
        entry.cells[CELL_STOP_ATTEMPT] = attempt
        if stop <= entry.task.lo and (
            entry.future is None or (self._reliable_cancel and call_or_default(entry.future.cancel, False))
        ):
            self._forget(entry)  # first: the executor reports the cancelled future too
            self._loop.call_soon(self._hand_back, entry.task)

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        if (entry := self._attempts.get(attempt)) is not None:
            entry.cells[CELL_INTERRUPT] = attempt
        self.revoke(worker, slot, attempt, 0)

    def renew(self, worker: int, slot: int) -> None:
        """It has no process of ours."""

    def kill(self, worker: int, slot: int) -> None:
        """Give up what the slot has. It runs on in the executor, and its answer will not be heard."""
        for entry in [entry for entry in self._attempts.values() if entry.task.slot == slot]:
            future = entry.future
            self._forget(entry)
            if future is not None:
                self._abandoned = True
                call_or_default(future.cancel, False)
        self._loop.call_soon(self._killed, slot)

    def _killed(self, slot: int) -> None:
        if self._listener is not None:
            self._listener.died(Died(slot, -1, -1, "killed", "the executor was left to finish it unheard"))
            self._listener.ready(Ready(slot))
            self._submit_waiting()

    async def close(self, *, now: bool) -> None:
        self._listener = None
        for entry in self._clear():
            entry.cells[CELL_STOP] = 0
            entry.cells[CELL_STOP_ATTEMPT] = entry.task.attempt
            if entry.future is not None:
                call_or_default(entry.future.cancel, False)
        self._blobs.clear()
        if self._replaced:
            shut: Callable[[], Any] = partial(self._executor.shutdown, wait=True, kill_workers=True)  # type: ignore[call-arg]
            await self._loop.run_in_executor(None, call_or_default, shut, None)


def _exit_text(error: BaseException) -> str:
    """How a process ended, in a line: that of the exit codes if there is one."""
    lines = str(error).splitlines()
    line = next((line for line in lines if "exit code" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {line[:200]}".strip(": ")


def _ended_because(name: str, error: BaseException) -> str:
    """In one sentence: it is no more, and what to do."""
    if is_broken(error):
        return (
            f"{name} is broken: one of its processes ended ({_exit_text(error)}). "
            "It cannot be mended: make a new one, and a new Pool with it"
        )
    return f"{name} takes nothing any more ({_exit_text(error)})"


def _call_on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """From whatever thread the executor calls back in."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        pass  # the loop is closed: nobody waits for it any more
