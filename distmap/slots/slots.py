"""The task processes of one host: N slots, each with a process that is fed, watched, ended and replaced.

Owns the blobs kept for them, the timer of time limits, what follows a death, and the end of all processes. Reports to a
`SlotListener`; decides nothing about what runs where. Must not know sockets (`process.py`), pickles, or who listens.
Used by the local engine and by a worker's `PoolSession`.

Longer than 400 lines because how a process starts, reports, dies and is replaced is one life, and one timer serves all.

Threads: all of it runs on the loop's thread, so there is no lock. `spawn` runs there too, before the loop does: on
Linux a task process ends with the thread that started it. `FreedSegments` alone is called by any thread.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distmap.core.limits import LIMITS
from distmap.errors import ProtocolError
from distmap.slots.control import STACK_SIGNAL
from distmap.slots.listener import SlotListener
from distmap.slots.memory import Excess, MemoryWatch
from distmap.slots.process import FreedSegments, Process
from distmap.slots.slot import SharedBlob, Slot
from distmap.slots.spawn import environment
from distmap.slots.stacks import STATES
from distmap.tasks._typing import Buffer
from distmap.wire.messages import REMARK, BlobKind, DeathReason, Died, Free, Output, Ready, Refused, Report, Task

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("distmap.slots")

#: Seconds between two looks at what runs, so that `progress` can say how long an item has been running.
TICK = 0.5
#: Seconds between two looks if items have a time limit: a quarter of it, within these bounds.
_SHORTEST_TICK, _LONGEST_TICK = 0.010, 0.5
#: Seconds until a process is killed that lives on after its socket ended.
_KILL_AFTER = 0.050
#: Seconds between two looks for the stack of an item whose time is up.
_STACK_AGAIN = 0.01
#: Seconds between two looks for the end of a process that was given up.
_GIVEN_UP_AGAIN = 1.0
#: Seconds between two looks for the end of a process, at first and at most, where the system does not announce it.
_LOOK_AGAIN, _LOOK_SELDOM = 0.002, 0.1
#: Deaths in a row that are replaced at once; seconds until a later replacement, at first and at most.
_FREE_DEATHS, _FIRST_REST, _LONGEST_REST = 2, 0.1, 5.0
#: Seconds between two interrupts of an attempt that does not end.
_INTERRUPT_AGAIN = 0.1
#: Seconds that `close` lets items go on, and that the kernel may take to end killed processes.
_CLOSING = 1.0
#: Bytes of shared memory that are kept for the next parts: of all slots, and at least for each slot and direction.
_SPARE, _LEAST_SPARE = 512 << 20, 48 << 20


class Slots:
    """N task processes, numbered from 0. Before `attach` only `spawn`, `close` and `stop` may be called.

    Args:
        count: how many.
        listener: takes the reports; may be set later, before the loop goes on after `attach`.
        env: the environment of the processes; ours if not given.
        sys_path: their `sys.path`; ours if not given.
        name: for people.
        tasks: a process is replaced after so many; None: it stays.
        memory_limit: bytes that a process may use for itself; None: as many as there are.
    """

    def __init__(
        self,
        count: int,
        listener: SlotListener | None = None,
        *,
        env: Mapping[str, str] | None = None,
        sys_path: Sequence[str] | None = None,
        name: str = "local",
        tasks: int | None = None,
        memory_limit: int | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"a worker has at least one slot, not {count}")
        if listener is not None:
            self.listener = listener
        self.name = name
        #: Processes that were replaced because they held too much (`retire`).
        self.retired = 0
        #: Processes that were killed and live on: they wait in the system for something that does not come.
        self.given_up: list[Process] = []
        self._env = environment(count, env)
        # What has been put on it may be anything; what is not text nobody can import from.
        self._path = [entry for entry in (sys.path if sys_path is None else sys_path) if isinstance(entry, str)]
        self._spare = max(_LEAST_SPARE, _SPARE // count)
        self._numbers = itertools.count(1)
        self._blobs: dict[bytes, SharedBlob] = {}
        self._memory = MemoryWatch(memory_limit)
        self._slots = [Slot(index, self._blobs, self._memory, tasks) for index in range(count)]
        self._timer: asyncio.TimerHandle | None = None
        self._rests: dict[int, asyncio.TimerHandle] = {}
        self._closing = self._held = False
        self._freed = FreedSegments(self._free)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def busy(self) -> bool:
        """Whether any slot holds an attempt."""
        return any(slot.attempts for slot in self._slots)

    # --- starting ------------------------------------------------------------------------------------------------

    def spawn(self, most: int | None = None) -> None:
        """Start the processes, without waiting for them. In the thread that will run the loop; needs no loop yet.

        Args:
            most: start no more than so many of them now; `attach` starts the rest.

        Raises:
            OSError: a process could not be started; none is left behind.
        """
        try:
            for slot in self._slots[:most]:
                if slot.process is None:
                    slot.process = self._start()
        except OSError:
            self.stop()
            raise

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen to the processes from now on, and start those that are missing. In the loop's thread.

        Raises:
            OSError: a process could not be started; none is left behind.
        """
        self.spawn()
        self._loop = self._freed.loop = loop
        for slot in self._slots:
            assert slot.process is not None
            self._watch(slot, slot.process)

    def _start(self) -> Process:
        return Process(self._env, self._path, self._spare, self._numbers)

    def _watch(self, slot: Slot, process: Process) -> None:
        process.loop = self._loop
        self._loop.add_reader(process.sock, self._on_readable, slot, process)
        if self._held:
            process.pause()
        if process.pidfd >= 0:
            self._loop.add_reader(process.pidfd, self._on_exit, slot, process)

    def _unwatch(self, process: Process) -> None:
        if (loop := process.loop) is None or loop.is_closed():
            return
        loop.remove_reader(process.sock)
        loop.remove_writer(process.sock)
        if process.pidfd >= 0:
            loop.remove_reader(process.pidfd)

    # --- feeding -------------------------------------------------------------------------------------------------

    def put(self, digest: bytes, kind: BlobKind, parts: Sequence[Buffer]) -> None:
        """Keep a payload. A process gets it when a task of its first needs it; large buffers are shared read-only."""
        if digest not in self._blobs:
            self._blobs[digest] = SharedBlob(kind, parts, self._numbers)

    def drop(self, digest: bytes) -> None:
        """Forget a payload, here and in the processes. Unknown ones are forgotten already."""
        blob = self._blobs.pop(digest, None)
        if blob is not None:
            for slot in self._slots:
                slot.drop(digest, blob)
            blob.close()

    def assign(self, task: Task, parts: Sequence[Buffer]) -> None:
        """Give the slot `task.slot` a task. It runs after what the slot already has."""
        self._slots[task.slot].assign(task, parts)
        self._ensure_timer(task.timeout)

    # --- steering ------------------------------------------------------------------------------------------------

    def revoke(self, slot: int, attempt: int, stop: int) -> None:
        """Run no item of the attempt at or beyond `stop`. One that has not begun is answered for at once."""
        self._report_soon(self._slots[slot].revoke(attempt, stop))

    def interrupt(self, slot: int, attempt: int) -> None:
        """Raise KeyboardInterrupt in the item that the attempt runs, and end the attempt."""
        self._report_soon(self._slots[slot].interrupt(attempt))
        if attempt in self._slots[slot].attempts and not self._closing:
            # It is not raised while an item is opened or results are written, and the item behind that may be long.
            self._loop.call_later(_INTERRUPT_AGAIN, self._interrupt_again, slot, attempt)

    def _interrupt_again(self, slot: int, attempt: int) -> None:
        if attempt in self._slots[slot].attempts:
            self.interrupt(slot, attempt)

    def _report_soon(self, report: Report | None) -> None:
        if report is not None:
            # Soon, not now: the caller is in the middle of its own commands.
            self._loop.call_soon(self.listener.reported, report, [])

    def kill(self, slot: int) -> None:
        """End the slot's process now; Died and Ready follow."""
        self._end(self._slots[slot], "killed")

    def retire(self, slot: int, why: str) -> None:
        """Replace the slot's process once it has answered for the tasks that it has. Nothing is charged or lost.

        It is counted and logged, and the call that runs there is told, once.

        Args:
            slot: which one.
            why: what the process did, in words that follow "it", in the past tense; the same words for the same cause.
        """
        self._retire(self._slots[slot], why)
        self._slots[slot].retire()  # now, if nothing runs

    def _retire(self, slot: Slot, why: str, attempt: int = -1) -> None:
        if not slot.wear_out():
            return
        self.retired += 1
        log.warning("slot %d of %s: its task process is replaced, as it %s", slot.index, self.name, why)
        attempt = attempt if attempt >= 0 else next(iter(slot.attempts), -1)
        if attempt >= 0:
            self.remark(slot.index, attempt, f"a task process was replaced between two tasks, as it {why}")

    def remark(self, slot: int, attempt: int, sentence: str) -> None:
        """Tell the caller of the attempt, which must not be over, something about its call."""
        text = sentence.encode()
        self.listener.printed(Output(slot, attempt, 0, ((-1, REMARK, len(text)),)), [text])

    def _end(self, slot: Slot, reason: DeathReason) -> None:
        process = slot.process
        if process is None:
            return
        if slot.ending is None or slot.retiring:
            slot.ending, slot.retiring = reason, False
        self._kill(slot, process)

    def hold(self, held: bool) -> None:
        """Stop the processes where they stand while held: there is no room for what they would report.

        Not reading would not do: large results pass by shared memory, which has no end. No item's time runs meanwhile.
        """
        self._held = held
        for slot in self._slots:
            if slot.process is not None and held:
                slot.process.pause()
            elif slot.process is not None:
                slot.process.continue_it()
            slot.forget_time()

    def progress(self) -> list[tuple[int, int, float]]:
        """Per slot: the attempt that runs or -1, its offset, seconds in that item (since it was first seen)."""
        now = time.monotonic()
        return [slot.item_time(now) for slot in self._slots]

    def states(self) -> str:
        """Per slot, the system's letter for the state of a process whose item runs for long; a space for others.

        Empty if no item runs for long.
        """
        now, found = time.monotonic(), ""
        for at, slot in enumerate(self._slots):
            if slot.process is not None and slot.item_time(now)[2] >= LIMITS.state_after:
                found = found.ljust(at) + (slot.process.state() or " ")
        return found

    # --- watching ------------------------------------------------------------------------------------------------

    def _ensure_timer(self, timeout: float = 0.0) -> None:
        if self._closing:
            return
        tick = TICK if timeout <= 0 else max(_SHORTEST_TICK, min(timeout / 4, _LONGEST_TICK))
        tick = min(tick, self._memory.pause)
        if self._timer is not None:
            if self._timer.when() <= self._loop.time() + tick:
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(tick, self._check_running)

    def _check_running(self) -> None:
        """See what runs, and end what runs longer than it may. Only while something does."""
        self._timer = None
        now = time.monotonic()
        limits = []
        look = self._memory.begin(now)
        for slot in self._slots:
            process = slot.process
            if process is not None and process.pidfd < 0 and process.ended():
                self._on_exit(slot, process)
            if not slot.attempts or slot.ending is not None or self._held:
                continue
            limits.append(slot.check_timeout(now))
            if slot.overdue:
                self._time_out(slot)
            elif look and process is not None and (running := slot.running())[0] >= 0:
                excess = self._memory.look(process.pid, process.usage, running)
                if excess is not None:
                    self._end_too_large(slot, process, running, excess)
        if self.busy:
            self._ensure_timer(min((limit for limit in limits if limit > 0), default=0.0))

    def _end_too_large(self, slot: Slot, process: Process, running: tuple[int, int], excess: Excess) -> None:
        """End a process that uses more memory than it may, unless its item has finished meanwhile."""
        with contextlib.suppress(BlockingIOError):  # what it has finished counts
            while self._receive(slot, process):
                pass
        if slot.process is not process or slot.ending is not None or slot.running() != running:
            return
        slot.excess, slot.at_end = excess.text, running
        self._loop.remove_reader(process.sock)
        # If others left most of it, the item may be innocent: it runs again, in a fresh process.
        self._end(slot, "limit" if excess.alone else "memory")

    # --- an item whose time is up -----------------------------------------------------------------------------------

    def _time_out(self, slot: Slot) -> None:
        """End the process of an item whose time is up: it says where it stands, is asked to end, is killed."""
        process = slot.process
        if process is None or not STACK_SIGNAL:
            return self._end(slot, "timeout")
        with contextlib.suppress(BlockingIOError):  # what it has finished counts
            while self._receive(slot, process):
                pass
        if not slot.still_overdue():
            return
        # Nothing counts that it says from here on: the signals may cut short what the item waits for.
        slot.ending, slot.at_end = "timeout", slot.running()
        self._loop.remove_reader(process.sock)
        state = process.state()
        process.ask_for_stack()
        self._loop.call_later(_STACK_AGAIN, self._take_stack, slot, process, state, 0, _STACK_AGAIN)

    def _take_stack(self, slot: Slot, process: Process, state: str, written: int, waited: float) -> None:
        """Wait until it has written where it stands, as far as it can; then have it end."""
        if slot.process is not process or self._closing:
            return
        before, written = written, process.written
        if waited < LIMITS.stack_seconds and (not written or written != before):
            if state == "T" and not written:
                process.continue_it()  # it writes before it does anything else
            self._loop.call_later(_STACK_AGAIN, self._take_stack, slot, process, state, written, waited + _STACK_AGAIN)
            return
        slot.explain(process.stack(), state)
        if state in STATES:
            return self._kill(slot, process)
        process.terminate()
        self._loop.call_later(LIMITS.terminate_seconds, self._kill, slot, process)
        if process.pidfd < 0:
            self._on_exit(slot, process)

    def _kill(self, slot: Slot, process: Process) -> None:
        """End a process, and give it up if it does not end."""
        if slot.process is not process or self._closing:
            return
        process.kill()
        self._loop.call_later(LIMITS.give_up_seconds, self._give_up, slot, process)
        if process.pidfd < 0:
            self._on_exit(slot, process)

    def _give_up(self, slot: Slot, process: Process) -> None:
        """Replace a process that was killed and lives: the system does not let it go. Its end is watched for."""
        if slot.process is not process or self._closing or process.ended():
            return
        log.error("slot %d of %s: task process %d %s", slot.index, self.name, process.pid, process.exit_reason())
        self.given_up.append(process)
        if len(self.given_up) == 1:
            self._loop.call_later(_GIVEN_UP_AGAIN, self._watch_given_up)
        self._bury(slot, process)

    def _watch_given_up(self) -> None:
        for process in [process for process in self.given_up if process.ended()]:
            self.given_up.remove(process)
            log.warning("task process %d of %s, which had been given up, has ended", process.pid, self.name)
        if self.given_up and not self._closing:
            self._loop.call_later(_GIVEN_UP_AGAIN, self._watch_given_up)

    def _on_readable(self, slot: Slot, process: Process) -> None:
        """Receive once: a slot that has much to say must not keep the others waiting."""
        try:
            if self._receive(slot, process) or slot.process is not process:
                return
        except BlockingIOError:
            return
        self._loop.remove_reader(process.sock)
        # What runs now is what ended the socket; a process that lives on may run other items meanwhile.
        slot.at_end = slot.running()
        # One that retires has its exit functions to run.
        self._loop.call_later(
            LIMITS.leave_seconds if slot.retiring else _KILL_AFTER, self._kill_if_alive, slot, process
        )
        if process.pidfd < 0:
            self._on_exit(slot, process)

    def _receive(self, slot: Slot, process: Process) -> bool:
        """Receive once and tell; False at the end of the stream. Raises BlockingIOError if nothing is here."""
        try:
            messages = process.receive(self._freed)
        except BlockingIOError:
            raise
        except (ProtocolError, OSError, KeyError):
            # User code wrote to our socket, or we are out of memory or descriptors: start afresh.
            self._kill(slot, process)
            return False
        for message, parts in messages or ():
            if isinstance(message, Report):
                if slot.receive(message):
                    if message.ended and (why := slot.growth()) is not None:
                        self._retire(slot, why, message.attempt)
                    self.listener.reported(message, parts)
            elif isinstance(message, Refused):
                if slot.receive(message):
                    self.listener.refused(message, parts)
            elif isinstance(message, Output) and message.attempt in slot.attempts:
                self.listener.printed(message, parts)
        return messages is not None and not slot.retire()

    def _free(self, serial: int, number: int) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.serial == serial:
                slot.process.send(Free(number))

    # --- dying ---------------------------------------------------------------------------------------------------

    def _kill_if_alive(self, slot: Slot, process: Process) -> None:
        if slot.process is process and not process.ended():
            slot.socket_closed = slot.ending is None
            self._kill(slot, process)

    def _on_exit(self, slot: Slot, process: Process, again: float = _LOOK_AGAIN) -> None:
        """See to what follows if the process has ended; where its end is not announced, look again until it has."""
        if slot.process is not process:
            return
        if not process.ended():
            if process.pidfd < 0:
                self._loop.call_later(again, self._on_exit, slot, process, min(2 * again, _LOOK_SELDOM))
            return
        # What it said before it died counts. A process that it forked may hold the other end, so no end may come.
        if slot.at_end is None:
            with contextlib.suppress(BlockingIOError):
                while self._receive(slot, process):
                    pass
        self._bury(slot, process)

    def _bury(self, slot: Slot, process: Process) -> None:
        """Let go of a process that has ended or was given up, tell of it, and replace it."""
        self._unwatch(process)
        if slot.retiring and not self._closing:
            slot.recycle()
            self._restart(slot, silently=True)
            return
        died = slot.reap()
        if self._closing:
            return
        self.listener.died(died)
        self._replace(slot)

    def _replace(self, slot: Slot) -> None:
        """A fresh process, at once unless one after the other has died without a word."""
        if slot.deaths_in_a_row <= _FREE_DEATHS:
            self._restart(slot)
            return
        rest = min(_FIRST_REST * 2 ** (slot.deaths_in_a_row - _FREE_DEATHS - 1), _LONGEST_REST)
        self._rests[slot.index] = self._loop.call_later(rest, self._restart, slot)

    def _restart(self, slot: Slot, *, silently: bool = False) -> None:
        self._rests.pop(slot.index, None)
        if self._closing:
            return
        try:
            slot.process = self._start()
        except OSError as error:  # no process, memory or descriptor to be had now
            # As text: a record that somebody keeps must not keep what the error refers to.
            said = str(error)
            log.error("slot %d of %s: no task process can be started (%s); trying again", slot.index, self.name, said)
            slot.deaths_in_a_row = max(slot.deaths_in_a_row, _FREE_DEATHS) + 1
            if silently:  # now it must be known
                slot.forget()
                self.listener.died(Died(slot.index, -1, -1, "idle", "retired, and no process could be started"))
            self._replace(slot)
            return
        self._watch(slot, slot.process)
        slot.feed()
        if not silently:
            self.listener.ready(Ready(slot.index))

    # --- closing -------------------------------------------------------------------------------------------------

    async def close(self, *, now: bool) -> None:
        """Let every process leave, and end what does not. Those that run nothing have time for their exit functions.

        Args:
            now: kill what still runs. False: what runs may go on for at most a second; reports are still told.
        """
        import asyncio

        # Looked at in turns: one wait for both, and the end of a process is not announced everywhere.
        deadline = time.monotonic() + _CLOSING
        while not now and self.busy and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        self._shut()
        deadline = time.monotonic() + LIMITS.leave_seconds
        while self._any_left() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        self.stop()

    def stop(self) -> None:
        """End everything now, without a loop's help. Takes as long as the kernel needs to end the processes."""
        self._shut()
        for slot in self._slots:
            if slot.process is not None:
                slot.process.kill()
        deadline = time.monotonic() + _CLOSING
        while self._any_left(anyway=time.monotonic() > deadline):
            time.sleep(0.001)

    def _shut(self) -> None:
        if self._closing:
            return
        self._closing = True
        for handle in (self._timer, *self._rests.values()):
            if handle is not None:
                handle.cancel()
        for blob in self._blobs.values():
            blob.close()
        self._blobs.clear()
        for slot in self._slots:
            process = slot.process
            if process is not None:
                self._unwatch(process)
                if slot.attempts:
                    process.kill()
                # The end of its socket is what an idle process leaves on.
                process.hang_up()

    def _any_left(self, *, anyway: bool = False) -> bool:
        """Let go of the processes that have ended; whether any is left. `anyway`: of those that have not, too."""
        for slot in self._slots:
            if slot.process is not None and (slot.process.ended() or anyway):
                slot.reap()
        return any(slot.process is not None for slot in self._slots)
