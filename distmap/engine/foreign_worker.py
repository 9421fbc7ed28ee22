"""One member of a foreign engine as a worker: what it has, what was lost, and what is tried again.

Owns the attempts that one member has, from the driver's command to the answer. What an attempt prints in another
process comes with its answer; threads of this process print directly. An engine cannot stop or kill a call that runs;
our own far end can, where a side channel reaches it.

Everything that is called behind the adapter is foreign code, which may raise, give wrong answers or never answer. An
attempt is taken back only if it has certainly not begun. If an engine goes on without the process that ran an attempt,
the attempt is lost and the scheduler runs its items apart. If one death breaks the whole engine (loky), every attempt
that it had may have caused it: they run again on a fresh one, half of them at a time, until one that is there alone
breaks it. So no item is charged for another one.

Threads: an engine calls back in any thread; `call_on_loop` moves that to the loop's thread, where all else runs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING

from distmap.core.limits import Limits
from distmap.engine.adapter import Adapter, Call, Member
from distmap.engine.attempt import Answer
from distmap.engine.base import Parts, WorkerListener
from distmap.engine.foreign_calls import ForeignCalls, ended_because, exit_text
from distmap.engine.foreign_payloads import ForeignPayloads, call_on_loop
from distmap.engine.foreign_queue import ForeignAttempt, ForeignQueue, RoundTrips
from distmap.engine.side_channel import Copy
from distmap.tasks._typing import Buffer
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.cells import CELL_INTERRUPT, CELL_STOP, CELL_STOP_ATTEMPT
from distmap.tasks.failures import describe
from distmap.tasks.items import encode
from distmap.tasks.pickling import dump_small
from distmap.wire.messages import (
    Beat,
    Died,
    Interrupt,
    Kill,
    Output,
    Ready,
    Refused,
    Report,
    Revoke,
    Task,
)

if TYPE_CHECKING:
    import asyncio

#: A member is given up after more calls in a row that came to nothing: cancelled by somebody else, or given to an
#: engine that broke before it had anything to run.
FAILURES_IN_A_ROW = 50


class ForeignWorker:
    """Runs chunks on one member.

    Args:
        ended: called, once, when it takes nothing any more though it is a member still; with the reason, and whether
            what it had may be the cause.
    """

    def __init__(
        self,
        member: Member,
        adapter: Adapter,
        payloads: ForeignPayloads,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        ended: Callable[[ForeignWorker, str, bool], None],
    ) -> None:
        self.member = member
        self._adapter = adapter
        self._payloads = payloads
        self._loop = loop
        self._limits = limits
        self._ended = ended
        self.queue = ForeignQueue()
        self._calls = ForeignCalls(adapter, member.key, member.slots, payloads)
        #: Names its calls where they run.
        self.id = self._calls.id
        #: Something that nobody listens to any more may run there.
        self._abandoned = False
        self._failures = self._generation = 0
        #: None until the driver knows the worker, and once it is lost or the pool is closed.
        self.listener: WorkerListener | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_answer = 0.0
        self._round_trips = RoundTrips()
        #: Answers in a row that were the first ones of what ran them.
        self._firsts = 0
        #: Seconds of work of all answers so far.
        self._work_seconds = 0.0

    def begin(self, listener: WorkerListener) -> None:
        """The driver knows the worker; it may have given it work already."""
        self.listener = listener
        self.submit_waiting()

    # --- to the engine -----------------------------------------------------------------------------------------------

    def assign(self, task: Task, parts: Parts) -> None:
        """Run it there, now or soon."""
        self.queue.add(ForeignAttempt(task, parts))
        if self._timer is None:
            self._last_answer = self._loop.time()
            self._timer = self._loop.call_later(self._limits.suspect_after, self._check_silence)
        self.submit_waiting()

    def submit_waiting(self) -> None:
        """Give the engine what waits here, as far as it may have it."""
        while self.listener is not None:
            entry = self.queue.take(lambda entry: self._payloads.pending(entry.needed))
            if entry is None or not self._submit(entry, everything=False):
                return

    def _submit(self, entry: ForeignAttempt, *, everything: bool) -> bool:
        """False: the engine takes nothing now, or any more."""
        loop = self._loop
        entry.since, entry.work_seconds = loop.time(), self._work_seconds
        entry.generation = self._generation
        try:
            call = self._calls.submit(entry, everything=everything)
            call.add_done_callback(lambda done: call_on_loop(loop, partial(self._done, entry, done, loop.time())))
        except Exception as error:
            entry.call = None
            # Soon, not now: the caller is in the middle of its own commands.
            match self._calls.fate(error):
                case "broken" | "shut":
                    self.queue.put_back([entry])
                    loop.call_soon(self._break, self._generation, error)
                    return False
                case "died":
                    loop.call_soon(self._not_begun, entry, error)
                case "failed":
                    loop.call_soon(self._refuse, entry, error)
        return True

    # --- from the engine ---------------------------------------------------------------------------------------------

    def _done(self, entry: ForeignAttempt, call: Call, when: float) -> None:
        if not self.queue.has(entry) or entry.call is not call or self.listener is None:
            return  # taken back, killed, run elsewhere, told before; or the pool is closed
        self._last_answer = when
        try:
            answer = call.result()
        except CancelledError as error:  # by somebody else
            self._not_begun(entry, error)
            return
        except BaseException as error:
            self._failed(entry, error)
            return
        if not isinstance(answer, Answer):
            what = f"{self.member.name} answered with {type(answer).__name__}, no result of the call"
            self._refuse(entry, TypeError(what))
            return
        self._failures = 0
        if answer.missing and all(digest in self._payloads for digest in answer.missing):
            if not self._submit(entry, everything=True):
                return
        elif answer.missing:  # dropped meanwhile: nobody waits for it any more
            self._end(entry)
        else:
            others, self._work_seconds = self._work_seconds - entry.work_seconds, self._work_seconds + answer.seconds
            # Where every call has a process of its own, its start belongs to the way.
            self._firsts = self._firsts + 1 if answer.first else 0
            if not answer.first or self._firsts > 2 * self.member.slots:
                rtt = self._round_trips.measured(when - entry.since - answer.seconds, others)
                if rtt is not None:
                    self.listener.measured(rtt, 0.0, 0.0)
            self.queue.forget(entry)
            for message, parts in answer.messages[entry.heard :]:
                self._report(message, parts)
        self.submit_waiting()

    def heard(self, copy: Copy) -> None:
        """Something came over the side channel. The answer has it too, so what is not plain is left to that."""
        message, now = copy.message, self._loop.time()
        if not isinstance(message, Beat | Report | Output):
            return
        entry = self.queue.get(message.slots[0][0] if isinstance(message, Beat) else message.attempt)
        if self.listener is None or entry is None or entry.call is None or entry.number != copy.origin.call:
            return
        self._last_answer = now
        if isinstance(message, Beat):
            attempt, at, seconds = message.slots[0]
            entry.item = at, seconds
            self.listener.progressed(attempt, at)
            if seconds >= self._limits.state_after:
                self.listener.watched(self.queue.items(self.member.slots), "")
        elif copy.number == entry.heard and not (isinstance(message, Report) and message.ended):
            entry.heard += 1
            if isinstance(message, Report):
                entry.reported = message.hi
            self._report(message, copy.parts)

    def _failed(self, entry: ForeignAttempt, error: BaseException) -> None:
        """The call was answered with an error of the engine's."""
        match self._calls.fate(error):
            case "broken" | "shut" if entry.generation == self._generation:
                self._break(self._generation, error)
            case "broken" | "shut":  # one that was shut down, and replaced, before
                self._end(entry)
            case "died":
                self._lose(entry, error)
            case "failed":
                self._refuse(entry, error)

    def _report(self, message: Report | Output | Refused | Died, parts: list[Buffer]) -> None:
        if self.listener is None:
            return
        match message:
            case Report():
                self.listener.reported(message, parts)
            case Output():
                self.listener.printed(message, parts)
            case Refused():
                self.listener.refused(message, parts)
            case Died():
                self.listener.broke(
                    message.attempt, message.at if message.at >= 0 else None, message.text, message.reason
                )

    def _not_begun(self, entry: ForeignAttempt, error: BaseException) -> None:
        """It came to nothing, for a reason that is not its own: it goes back, unless that happens too often."""
        if self._count_failure(error):
            self._end(entry)

    def _end(self, entry: ForeignAttempt) -> None:
        """Nothing of it was run; it goes back."""
        if self.queue.forget(entry):
            self._hand_back(entry)

    def _hand_back(self, entry: ForeignAttempt) -> None:
        task, at = entry.task, entry.reported
        self._report(Report(task.slot, task.attempt, at, at, 0.0, True, ()), [])
        self.submit_waiting()

    def _refuse(self, entry: ForeignAttempt, error: BaseException) -> None:
        """It cannot be run at all; the error says why."""
        if self.queue.forget(entry) and self.listener is not None:
            failure = describe(error, "", dump_small, sent=False)
            refused = Refused(entry.task.slot, entry.task.attempt)
            self.listener.refused(refused, encode([failure], Dependencies(), what="")[0].parts)
            self.submit_waiting()

    def _lose(self, entry: ForeignAttempt, error: BaseException) -> None:
        """What ran it has ended, and nothing else with it."""
        if self.queue.forget(entry) and self.listener is not None:
            task = entry.task
            at = entry.reported if task.hi - entry.reported == 1 else None
            if at is not None:
                self.queue.blame(task, at)
            self.listener.broke(task.attempt, at, exit_text(error))
            self.submit_waiting()

    # --- engines that end --------------------------------------------------------------------------------------------

    def _count_failure(self, error: BaseException) -> bool:
        """Again nothing came of it; False: too often, the member is given up."""
        self._failures += 1
        if self._failures > FAILURES_IN_A_ROW:
            self._ended(self, f"nothing came of {self._failures} calls in a row ({exit_text(error)})", False)
            return False
        return True

    def _break(self, generation: int, error: BaseException) -> None:
        """The engine takes nothing any more: go on with a fresh one if there can be one.

        What it had is lost, unless it was only shut down.
        """
        if self.listener is None or generation != self._generation:
            return  # that one was replaced already
        in_flight = self.queue.out()
        charged = self._calls.fate(error) == "broken"
        why = ended_because(self.member.name, error, broken=charged)
        if not in_flight and not self._count_failure(error):
            return
        try:
            if not self._adapter.renew():
                return self._ended(self, why, charged)
        except Exception as problem:
            return self._ended(self, f"{why} ({problem!r})", charged)
        self._generation += 1
        if not charged:
            return self.submit_waiting()
        alone = len(in_flight) == 1 and not self._abandoned
        self._abandoned = False
        if alone:
            self.queue.acquit()
            return self._lose(in_flight[0], error)
        self.queue.put_back(in_flight)
        self.queue.suspect(in_flight)
        self.submit_waiting()

    def lose(self, why: str, *, charged: bool) -> None:
        """It is gone, with all that it has."""
        if self.listener is not None:
            listener, self.listener = self.listener, None
            self._clear()
            listener.lost(charged, why)

    def _clear(self) -> None:
        """Nothing that it has is heard any more: what runs is told to stop, and forgotten."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for entry in self.queue.clear():
            entry.cells[CELL_STOP] = 0
            entry.cells[CELL_STOP_ATTEMPT] = entry.task.attempt
            if (call := entry.call) is not None:
                self._calls.wish(entry, Kill(0))
                self._calls.forget(call)

    def _check_silence(self) -> None:
        """Silent for long: an item may take its time, but an engine that takes nothing new answers nothing either."""
        self._timer = None
        if not self.queue or self.listener is None:
            return
        silent = self._loop.time() - self._last_answer
        if silent >= self._limits.suspect_after:
            why = self._calls.unanswering()
            if why is not None and silent >= self._limits.reconnect_grace:
                return self._ended(self, f"{why}, and it has answered nothing for {silent:.0f} s", False)
        self._timer = self._loop.call_later(self._limits.suspect_after / 2, self._check_silence)

    # --- steering ----------------------------------------------------------------------------------------------------

    def revoke(self, attempt: int, stop: int) -> None:
        """Run no item of it at or beyond `stop`."""
        entry = self.queue.get(attempt)
        if entry is None:
            return
        # Threads see these.
        entry.cells[CELL_STOP] = max(0, stop)
        entry.cells[CELL_STOP_ATTEMPT] = attempt
        if not self._taken_back(entry, stop):
            self._calls.wish(entry, Revoke(0, attempt, max(0, stop)))

    def interrupt(self, attempt: int) -> None:
        """Raise KeyboardInterrupt in it, where it can be told, and end it."""
        entry = self.queue.get(attempt)
        if entry is None:
            return
        entry.cells[CELL_INTERRUPT] = entry.cells[CELL_STOP_ATTEMPT] = attempt
        entry.cells[CELL_STOP] = 0
        if not self._taken_back(entry, 0):
            self._calls.wish(entry, Interrupt(0, attempt))

    def _taken_back(self, entry: ForeignAttempt, stop: int) -> bool:
        """Whether it had certainly not begun, and is to run nothing: then it has ended."""
        call = entry.call
        if stop > entry.task.lo or not (call is None or self._calls.cancel(call)):
            return False
        self.queue.forget(entry)  # first: the engine reports the cancelled call too
        self._loop.call_soon(self._hand_back, entry)
        return True

    def kill(self, slot: int) -> None:
        """Give up what the slot has. Its answer will not be heard, should it run on in the engine."""
        for entry in [entry for entry in self.queue if entry.task.slot == slot]:
            call = entry.call
            self._calls.wish(entry, Kill(0))
            self.queue.forget(entry)
            if call is not None:
                self._abandoned = True
                self._calls.forget(call)
        self._loop.call_soon(self._killed, slot)

    def _killed(self, slot: int) -> None:
        if self.listener is not None:
            self.listener.died(Died(slot, -1, -1, "killed", "the executor was left to finish it unheard"))
            self.listener.ready(Ready(slot))
            self.submit_waiting()

    def close(self) -> None:
        """The pool ends: nothing is told any more."""
        self.listener = None
        self._clear()
