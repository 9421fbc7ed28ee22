"""Any `concurrent.futures.Executor` as one worker: what runs there is the same Runner on the same bytes.

Owns the join between an executor and the driver. What an attempt prints in another process comes with its answer;
threads of this process print where everybody does. The executor stays its owner's: it is not shut down. It has no way
to stop or kill what runs, to limit its time or to look into it, so a Kill only gives up waiting for the answer.

Whatever is called here is foreign and may raise, lie or keep silent: see `traits.py` for what is known of whom. An
attempt is taken back only where it is sure that it has not begun. Where an executor goes on without the process that
ran an attempt, the attempt is lost and the scheduler tries its items apart. Where one death breaks the whole executor
(loky), all that it had is under suspicion: it is run again on a fresh executor, half of it at a time, until one attempt
that was there alone breaks it; so nobody is charged for his neighbour.
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
    fenced,
    is_candid,
    is_death,
    is_deserted,
    is_end,
    renewal_of,
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
ALWAYS = 64 << 10
#: So many answers in a row may be worth nothing (cancelled by somebody else, an executor that breaks before it has
#: anything to run): then the executor is given up.
IN_VAIN = 50
#: Round trips that are remembered. The shortest counts: others may have waited for what else runs there.
ROUND_TRIPS = 8


class _Given:
    """An attempt that was given to this engine and has not ended."""

    def __init__(self, task: Task, parts: Parts) -> None:
        self.task = task
        self.parts = parts
        self.cells = [-1] * 8
        #: None while the executor does not have it.
        self.future: Future[Answer] | None = None
        self.executor: Executor | None = None
        #: When the executor got it, and seconds of work that had been answered by then.
        self.since = self.worked = 0.0


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
        self._candid = is_candid(executor)
        self._renew = renewal_of(executor)
        #: The executor is one that `_renew` made, so that it is ours to shut down.
        self._own = False
        #: Why it takes nothing any more, in one sentence; None while it does.
        self.broken: str | None = None
        self._blobs: dict[bytes, BlobParts] = {}
        self._given: dict[int, _Given] = {}
        #: Of these, those that wait here; `_room`: how many may be in the executor, None: all.
        self._waiting: deque[_Given] = deque()
        self._room: int | None = None
        self._suspects: set[int] = set()
        #: Items that broke an executor when they ran there alone, by code: they run alone from now on.
        self._guilty: dict[bytes, set[int]] = {}
        #: Something that nobody listens to any more may run there.
        self._strays = False
        self._in_vain = 0
        #: None before `start`, after `close`, and once the executor is given up.
        self._listener: WorkerListener | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._rtt = 0.0
        #: Seconds of work of all answers so far.
        self._worked = 0.0

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
        self._guilty.pop(digest, None)

    # --- to the executor ---------------------------------------------------------------------------------------------

    def assign(self, worker: int, task: Task, parts: Parts) -> None:
        given = self._given[task.attempt] = _Given(task, parts if self._threads else portable(parts))
        if task.start + task.lo in self._guilty.get(task.code, ()):
            self._suspects.add(task.attempt)
            self._room = 1
            self._waiting.appendleft(given)
        else:
            self._waiting.append(given)
        self._pump()

    def _pump(self) -> None:
        """Give the executor what waits here, as far as it may have it."""
        while self._waiting and self._listener is not None:
            if self._room is not None and len(self._given) - len(self._waiting) >= self._room:
                return
            given = self._waiting.popleft()
            task = given.task
            needed = [self._blobs[digest] for digest in (*task.needs, task.code) if digest in self._blobs]
            if not self._submit(given, [blob for blob in needed if sum(map(size, blob.parts)) <= ALWAYS]):
                return

    def _submit(self, given: _Given, blobs: list[BlobParts]) -> bool:
        """False: the executor takes nothing now, or any more."""
        loop, cells = self._loop, given.cells if self._threads else None
        given.since, given.worked = loop.time(), self._worked
        if self._timer is None:
            self._heard = given.since
            self._timer = loop.call_later(self._limits.suspect_after, self._look)
        try:
            given.executor = self._executor
            given.future = self._executor.submit(run_attempt, given.task, blobs, given.parts, cells)
            given.future.add_done_callback(lambda done: _tell_loop(loop, partial(self._done, given, done, loop.time())))
        except RuntimeError as error:  # shut down, or broken
            given.future = None
            self._waiting.appendleft(given)
            # Soon, not now: the caller is in the middle of its own commands.
            loop.call_soon(self._break, self._executor, error)
            return False
        except Exception as error:
            given.future = None
            loop.call_soon(self._refuse, given, error)
        return True

    # --- from the executor -------------------------------------------------------------------------------------------

    def _done(self, given: _Given, future: Future[Answer], when: float) -> None:
        task = given.task
        if self._given.get(task.attempt) is not given or given.future is not future or self._listener is None:
            return  # taken back, killed, run elsewhere, told before; or the pool is closed
        self._heard = when
        try:
            answer = future.result()
        except CancelledError as error:  # by somebody else
            if self._vainly(error):
                self._end(given)
            return
        except BaseException as error:
            if is_end(error) and given.executor is self._executor:
                self._break(self._executor, error)
            elif is_end(error):  # one that was shut down, and replaced, before
                self._end(given)
            elif is_death(error):
                self._lose(given, error)
            else:
                self._refuse(given, error)
            return
        if not isinstance(answer, Answer):
            what = f"{self._name} answered with {type(answer).__name__}, no result of the call"
            self._refuse(given, TypeError(what))
            return
        self._in_vain = 0
        if answer.missing and all(digest in self._blobs for digest in answer.missing):
            if not self._submit(given, [self._blobs[d] for d in (*task.needs, task.code) if d in self._blobs]):
                return
        elif answer.missing:  # dropped meanwhile: nobody waits for it any more
            self._end(given)
        else:
            others, self._worked = self._worked - given.worked, self._worked + answer.seconds
            if not answer.first:
                self._measure(when - given.since - answer.seconds, others)
            self._forget(given)
            for message, parts in answer.said:
                self._tell(message, parts)
        self._pump()

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

    def _tell(self, message: Report | Output | Refused, parts: list[Buffer]) -> None:
        if self._listener is None:
            return
        match message:
            case Report():
                self._listener.reported(message, parts)
            case Output():
                self._listener.printed(message, parts)
            case Refused():
                self._listener.refused(message, parts)

    def _forget(self, given: _Given) -> bool:
        """The attempt has ended here; False: it had already."""
        if self._given.get(given.task.attempt) is not given:
            return False
        del self._given[given.task.attempt]
        given.future = None  # whose callback holds this: a cluster would keep the result until a garbage collection
        if given in self._waiting:
            self._waiting.remove(given)
        self._suspects.discard(given.task.attempt)
        if not self._suspects:
            self._room = None
        return True

    def _end(self, given: _Given) -> None:
        """Nothing of it was run; it goes back."""
        if self._forget(given):
            self._hand_back(given.task)

    def _hand_back(self, task: Task) -> None:
        self._tell(Report(task.slot, task.attempt, task.lo, task.lo, 0.0, True, ()), [])
        self._pump()

    def _refuse(self, given: _Given, error: BaseException) -> None:
        """It cannot be run at all; the error says why."""
        if self._forget(given) and self._listener is not None:
            failure = describe(error, "", dump_small, sent=False)
            refused = Refused(given.task.slot, given.task.attempt)
            self._listener.refused(refused, encode([failure], Dependencies(), what="")[0].parts)
            self._pump()

    def _lose(self, given: _Given, error: BaseException) -> None:
        """What ran it has ended, and nothing else with it."""
        if self._forget(given) and self._listener is not None:
            task = given.task
            at = task.lo if task.hi - task.lo == 1 else None
            self._listener.broke(task.attempt, at, _how(error))
            self._pump()

    # --- executors that end ------------------------------------------------------------------------------------------

    def _vainly(self, error: BaseException) -> bool:
        """Again nothing came of it; False: too often, the executor is given up."""
        self._in_vain += 1
        if self._in_vain > IN_VAIN:
            self._give_up(f"nothing came of {self._in_vain} calls in a row ({_how(error)})")
            return False
        return True

    def _break(self, executor: Executor, error: BaseException) -> None:
        """It takes nothing any more: go on with a fresh one if there can be one.

        What it had is lost, unless it was only shut down.
        """
        if self._listener is None or executor is not self._executor:
            return  # that one was replaced already
        flying = [given for given in self._given.values() if given.future is not None]
        charged = is_end(error)
        if self._renew is None:
            return self._give_up(_obituary(self._name, error), charged=charged)
        if not flying and not self._vainly(error):
            return
        try:
            self._executor = self._renew()
        except Exception as problem:
            return self._give_up(f"{_obituary(self._name, error)} ({problem!r})", charged=charged)
        self._own = True
        if not charged:
            return self._pump()
        alone = len(flying) == 1 and not self._strays
        self._strays = False
        if alone:
            self._suspects.clear()
            task = flying[0].task
            if task.hi - task.lo == 1:
                self._guilty.setdefault(task.code, set()).add(task.start + task.lo)
            return self._lose(flying[0], error)
        for given in reversed(flying):
            given.future = None
            self._waiting.appendleft(given)
        if flying:
            self._suspects.update(given.task.attempt for given in flying)
            self._room = max(1, len(flying) // 2)
        self._pump()

    def _give_up(self, why: str, *, charged: bool = False) -> None:
        """For the driver, the worker is gone."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            self.broken = why
            self._clear()
            listener.lost(charged, why)

    def _clear(self) -> list[_Given]:
        given = list(self._given.values())
        self._given.clear()
        self._waiting.clear()
        self._suspects.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return given

    def _look(self) -> None:
        """Silent for long: an item may take its time, but an executor that takes nothing new answers nothing either."""
        self._timer = None
        if not self._given or self._listener is None:
            return
        silent = self._loop.time() - self._heard
        runs = self._candid and any(
            fenced(given.future.running, False) for given in self._given.values() if given.future is not None
        )
        if silent >= self._limits.suspect_after and not runs:
            why = self._knock()
            if why is not None and silent >= self._limits.lost_after:
                return self._give_up(f"{why}, and it has answered nothing for {silent:.0f} s")
        self._timer = self._loop.call_later(self._limits.suspect_after / 2, self._look)

    def _knock(self) -> str | None:
        """Why nothing is run there any more; None if it takes new calls, which one of no consequence finds out."""
        if is_deserted(self._executor):
            return f"{self._name} has no worker left"
        try:
            self._executor.submit(int)
        except Exception as error:
            return _obituary(self._name, error)
        return None

    # --- steering ----------------------------------------------------------------------------------------------------

    def revoke(self, worker: int, slot: int, attempt: int, stop: int) -> None:
        given = self._given.get(attempt)
        if given is None:
            return
        # Threads see these; other workers cannot, and finish what they run.
        given.cells[CELL_STOP] = max(0, stop)
        given.cells[CELL_STOP_ATTEMPT] = attempt
        if stop <= given.task.lo and (given.future is None or (self._candid and fenced(given.future.cancel, False))):
            self._forget(given)  # before the executor tells of its end
            self._loop.call_soon(self._hand_back, given.task)

    def interrupt(self, worker: int, slot: int, attempt: int) -> None:
        if (given := self._given.get(attempt)) is not None:
            given.cells[CELL_INTERRUPT] = attempt
        self.revoke(worker, slot, attempt, 0)

    def kill(self, worker: int, slot: int) -> None:
        """Give up what the slot has. It runs on in the executor, and its answer will not be heard."""
        for given in [given for given in self._given.values() if given.task.slot == slot]:
            future = given.future
            self._forget(given)
            if future is not None:
                self._strays = True
                fenced(future.cancel, False)
        self._loop.call_soon(self._killed, slot)

    def _killed(self, slot: int) -> None:
        if self._listener is not None:
            self._listener.died(Died(slot, -1, -1, "killed", "the executor was left to finish it unheard"))
            self._listener.ready(Ready(slot))
            self._pump()

    async def close(self, *, now: bool) -> None:
        self._listener = None
        for given in self._clear():
            given.cells[CELL_STOP] = 0
            given.cells[CELL_STOP_ATTEMPT] = given.task.attempt
            if given.future is not None:
                fenced(given.future.cancel, False)
        self._blobs.clear()
        if self._own:
            shut: Callable[[], Any] = partial(self._executor.shutdown, wait=True, kill_workers=True)  # type: ignore[call-arg]
            await self._loop.run_in_executor(None, fenced, shut, None)


def _how(error: BaseException) -> str:
    """How a process ended, in a line: that of the exit codes if there is one."""
    lines = str(error).splitlines()
    line = next((line for line in lines if "exit code" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {line[:200]}".strip(": ")


def _obituary(name: str, error: BaseException) -> str:
    """In one sentence: it is no more, and what to do."""
    if is_end(error):
        return (
            f"{name} is broken: one of its processes ended ({_how(error)}). "
            "It cannot be mended: make a new one, and a new Pool with it"
        )
    return f"{name} takes nothing any more ({_how(error)})"


def _tell_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """From whatever thread the executor calls back in."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        pass  # the loop is closed: nobody waits for it any more
