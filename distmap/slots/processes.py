"""The task processes in the slots of one host: started, listened to, ended, let go of and replaced.

Owns which process is in which slot: how it starts, what it says, how it ends, and what follows (a fresh one, now or
later). Reports to a `SlotListener`. Must not know time limits and stacks (`watching.py`), what is put and assigned
(`slots.py`), sockets and bytes (`process.py`).

Threads: all of it runs on the loop's thread, so there is no lock. `start` runs there too, before the loop does: on
Linux a task process ends with the thread that started it. `FreedSegments` alone is called by any thread.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from distmap.core.limits import LIMITS
from distmap.errors import ProtocolError
from distmap.slots.listener import SlotListener
from distmap.slots.memory import total_memory
from distmap.slots.process import FreedSegments, Process
from distmap.slots.slot import Slot
from distmap.slots.spawn import environment
from distmap.tasks.surroundings import OWN_VARIABLES
from distmap.transport.segments import Spare
from distmap.wire.messages import REMARK, DeathReason, Died, Free, Output, Ready, Refused, Report

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("distmap.slots")

#: Seconds until a process is killed that lives on after its socket ended.
_KILL_AFTER = 0.050
#: Seconds between two looks for the end of a process that was given up.
_GIVEN_UP_AGAIN = 1.0
#: Seconds between two looks for the end of a process, at first and at most, where the system does not announce it.
_LOOK_AGAIN, _LOOK_SELDOM = 0.002, 0.1
#: Deaths in a row that are replaced at once; seconds until a later replacement, at first and at most.
_FREE_DEATHS, _FIRST_REST, _LONGEST_REST = 2, 0.1, 5.0
#: Seconds that the kernel may take to end killed processes.
_ENDING = 1.0
#: Bytes of shared memory that are kept for the next parts: of all slots, and at least for each slot and direction.
_SPARE, _LEAST_SPARE = 512 << 20, 48 << 20
#: What results may keep of it while calls follow each other: this part of the memory of the host, at most so much.
_BUSY_SHARE, _MOST_BUSY = 1 / 16, 2 << 30


class Processes:
    """One process for each slot. Before `attach` only `start`, `shut`, `any_left` and `stop` may be called.

    Args:
        slots: the slots, which hold the processes.
        name: for people.
        numbers: numbers for processes and their segments, which nothing else of the host has.
        env: the environment of the processes; ours if not given.
        sys_path: their `sys.path`; ours if not given.
        each: for each slot, variables that its process has besides, and that nobody changes there.
    """

    #: Takes the reports; to be set before the loop goes on after `attach`.
    listener: SlotListener
    #: Set by `attach`.
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        slots: Sequence[Slot],
        name: str,
        numbers: itertools.count[int],
        *,
        env: Mapping[str, str] | None,
        sys_path: Sequence[str] | None,
        each: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self.name = name
        #: Processes that were replaced because they held too much (`retire`).
        self.retired = 0
        #: Processes that were killed and live on: they wait in the system for something that does not come.
        self.given_up: list[Process] = []
        #: Nothing is reported or replaced any more.
        self.closing = False
        #: The processes are stopped where they stand.
        self.held = False
        self._slots = slots
        # What has been put on it may be anything; what is not text nobody can import from.
        path = [entry for entry in (sys.path if sys_path is None else sys_path) if isinstance(entry, str)]
        at_rest = max(_LEAST_SPARE, _SPARE // len(slots))
        spare = Spare(at_rest, max(at_rest, min(_MOST_BUSY, int(_BUSY_SHARE * total_memory())) // len(slots)))
        common = environment(len(slots), env)
        self._new = [
            partial(
                Process, {**common, **added, OWN_VARIABLES: " ".join(added)} if added else common, path, spare, numbers
            )
            for added in each or [{}] * len(slots)
        ]
        self._rests: dict[int, asyncio.TimerHandle] = {}
        #: Slots whose first process is held back.
        self._late: dict[int, asyncio.TimerHandle] = {}
        self._freed = FreedSegments(self._free)

    # --- starting ------------------------------------------------------------------------------------------------

    def start(self, most: int | None = None) -> None:
        """Start the processes that are missing in the first `most` slots, or in all. Needs no loop yet.

        Raises:
            OSError: a process could not be started; those that were are left.
        """
        for slot in self._slots[:most]:
            if slot.process is None:
                slot.process = self._new[slot.index]()

    def attach(self, loop: asyncio.AbstractEventLoop, later: float) -> None:
        """Listen to the processes from now on, and start those that are missing after so many seconds."""
        self.loop = self._freed.loop = loop
        for slot in self._slots:
            if slot.process is None:
                self._late[slot.index] = loop.call_later(later, self.begin, slot)
            else:
                self._listen(slot, slot.process)

    def begin(self, slot: Slot) -> None:
        """Start the first process of a slot now, if it is held back, or if the slot was added after `attach`."""
        if slot.index == len(self._new):
            self._new.append(self._new[0])
        elif (timer := self._late.pop(slot.index, None)) is not None:
            timer.cancel()
        else:
            return
        try:
            slot.process = self._new[slot.index]()
        except OSError:  # tried again, and told, soon: the caller is in the middle of its own commands
            self.loop.call_soon(partial(self._restart, slot, silently=True))
            return
        self._listen(slot, slot.process)
        slot.feed()

    def _listen(self, slot: Slot, process: Process) -> None:
        process.loop = self.loop
        self.loop.add_reader(process.sock, self._on_readable, slot, process)
        if self.held:
            process.pause()
        if process.pidfd >= 0:
            self.loop.add_reader(process.pidfd, self.on_exit, slot, process)

    def _unlisten(self, process: Process) -> None:
        if (loop := process.loop) is None or loop.is_closed():
            return
        loop.remove_reader(process.sock)
        loop.remove_writer(process.sock)
        if process.pidfd >= 0:
            loop.remove_reader(process.pidfd)

    # --- what they say -------------------------------------------------------------------------------------------

    def _on_readable(self, slot: Slot, process: Process) -> None:
        """Receive once: a slot that has much to say must not keep the others waiting."""
        try:
            if self._receive(slot, process) or slot.process is not process:
                return
        except BlockingIOError:
            return
        self.loop.remove_reader(process.sock)  # what it says from here on does not count
        # What runs now is what ended the socket; a process that lives on may run other items meanwhile.
        slot.at_end = slot.running()
        # One that retires has its exit functions to run.
        self.loop.call_later(LIMITS.leave_seconds if slot.retiring else _KILL_AFTER, self._kill_if_alive, slot, process)
        if process.pidfd < 0:
            self.on_exit(slot, process)

    def _receive(self, slot: Slot, process: Process) -> bool:
        """Receive once and tell; False at the end of the stream. Raises BlockingIOError if nothing is here."""
        try:
            messages = process.receive(self._freed)
        except BlockingIOError:
            raise
        except (ProtocolError, OSError, KeyError):
            # User code wrote to our socket, or we are out of memory or descriptors: start afresh.
            self.kill(slot, process)
            return False
        process.corked = True  # the tasks that follow go in one write
        try:
            for message, parts in messages or ():
                if isinstance(message, Report):
                    if slot.receive(message):
                        if message.ended and (why := slot.growth()) is not None:
                            self.retire(slot, why, message.attempt)
                        self.listener.reported(message, parts)
                elif isinstance(message, Refused):
                    if slot.receive(message):
                        self.listener.refused(message, parts)
                elif isinstance(message, Output) and message.attempt in slot.attempts:
                    self.listener.printed(message, parts)
        finally:
            process.corked = False
            if process.outbox:
                process.flush()
        return messages is not None and not slot.retire()

    def drain(self, slot: Slot, process: Process) -> None:
        """Receive all that is here: what it has finished counts."""
        with contextlib.suppress(BlockingIOError):
            while self._receive(slot, process):
                pass

    def _free(self, serial: int, number: int) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.serial == serial:
                slot.process.send(Free(number))

    def remark(self, slot: int, attempt: int, sentence: str) -> None:
        """Tell the caller of the attempt, which must not be over, something about its call."""
        text = sentence.encode()
        self.listener.printed(Output(slot, attempt, 0, ((-1, REMARK, len(text)),)), [text])

    # --- ending --------------------------------------------------------------------------------------------------

    def retire(self, slot: Slot, why: str, attempt: int = -1) -> None:
        """Let the slot's process have no further task. It is counted and logged, and one call is told.

        Args:
            slot: whose process.
            why: what the process did, in words that follow "it", in the past tense.
            attempt: the attempt whose call is told; -1: the first that the slot has.
        """
        if not slot.wear_out():
            return
        self.retired += 1
        log.warning("slot %d of %s: its task process is replaced, as it %s", slot.index, self.name, why)
        attempt = attempt if attempt >= 0 else next(iter(slot.attempts), -1)
        if attempt >= 0:
            self.remark(slot.index, attempt, f"a task process was replaced between two tasks, as it {why}")

    def end(self, slot: Slot, reason: DeathReason) -> None:
        """End the process of a slot now, if there is one; its death is told with the reason."""
        process = slot.process
        if process is None:
            return
        if slot.ending is None or slot.retiring:
            slot.ending, slot.retiring = reason, False
        self.kill(slot, process)

    def kill(self, slot: Slot, process: Process) -> None:
        """End a process, and give it up if it does not end."""
        if slot.process is not process or self.closing:
            return
        process.kill()
        self.loop.call_later(LIMITS.give_up_seconds, self._give_up, slot, process)
        if process.pidfd < 0:
            self.on_exit(slot, process)

    def _give_up(self, slot: Slot, process: Process) -> None:
        """Replace a process that was killed and lives: the system does not let it go. Its end is watched for."""
        if slot.process is not process or self.closing or process.ended():
            return
        log.error("slot %d of %s: task process %d %s", slot.index, self.name, process.pid, process.exit_reason())
        self.given_up.append(process)
        if len(self.given_up) == 1:
            self.loop.call_later(_GIVEN_UP_AGAIN, self._watch_given_up)
        self._bury(slot, process)

    def _watch_given_up(self) -> None:
        for process in [process for process in self.given_up if process.ended()]:
            self.given_up.remove(process)
            log.warning("task process %d of %s, which had been given up, has ended", process.pid, self.name)
        if self.given_up and not self.closing:
            self.loop.call_later(_GIVEN_UP_AGAIN, self._watch_given_up)

    def _kill_if_alive(self, slot: Slot, process: Process) -> None:
        if slot.process is process and not process.ended():
            slot.socket_closed = slot.ending is None
            self.kill(slot, process)

    def hold(self, held: bool) -> None:
        """Stop the processes where they stand while held, and those that come meanwhile."""
        self.held = held
        for slot in self._slots:
            if slot.process is not None and held:
                slot.process.pause()
            elif slot.process is not None:
                slot.process.continue_it()

    # --- what follows --------------------------------------------------------------------------------------------

    def on_exit(self, slot: Slot, process: Process, again: float = _LOOK_AGAIN) -> None:
        """See to what follows if the process has ended; where its end is not announced, look again until it has."""
        if slot.process is not process:
            return
        if not process.ended():
            if process.pidfd < 0:
                self.loop.call_later(again, self.on_exit, slot, process, min(2 * again, _LOOK_SELDOM))
            return
        # What it said before it died counts. A process that it forked may hold the other end, so no end may come.
        if slot.at_end is None:
            self.drain(slot, process)
        self._bury(slot, process)

    def _bury(self, slot: Slot, process: Process) -> None:
        """Let go of a process that has ended or was given up, tell of it, and replace it."""
        self._unlisten(process)
        if slot.retiring and not self.closing:
            slot.recycle()
            self._restart(slot, silently=True)
            return
        died = slot.reap()
        if self.closing:
            return
        self.listener.died(died)
        self._replace(slot)

    def _replace(self, slot: Slot) -> None:
        """A fresh process, at once unless one after the other has died without a word."""
        if slot.deaths_in_a_row <= _FREE_DEATHS:
            self._restart(slot)
            return
        rest = min(_FIRST_REST * 2 ** (slot.deaths_in_a_row - _FREE_DEATHS - 1), _LONGEST_REST)
        self._rests[slot.index] = self.loop.call_later(rest, self._restart, slot)

    def _restart(self, slot: Slot, *, silently: bool = False) -> None:
        self._rests.pop(slot.index, None)
        if self.closing:
            return
        try:
            slot.process = self._new[slot.index]()
        except OSError as error:  # no process, memory or descriptor to be had now
            # As text: a record that somebody keeps must not keep what the error refers to.
            said = str(error)
            log.error("slot %d of %s: no task process can be started (%s); trying again", slot.index, self.name, said)
            slot.deaths_in_a_row = max(slot.deaths_in_a_row, _FREE_DEATHS) + 1
            if silently:  # now it must be known
                slot.forget()
                self.listener.died(Died(slot.index, -1, -1, "idle", "no process could be started"))
            self._replace(slot)
            return
        self._listen(slot, slot.process)
        slot.feed()
        if not silently:
            self.listener.ready(Ready(slot.index))

    # --- closing -------------------------------------------------------------------------------------------------

    def shut(self) -> None:
        """Report and replace nothing any more; kill what runs something or had no task, and let the others leave."""
        self.closing = True
        for handle in (*self._rests.values(), *self._late.values()):
            handle.cancel()
        self._late.clear()
        for slot in self._slots:
            process = slot.process
            if process is not None:
                self._unlisten(process)
                # Without a task nothing of a user was loaded, so no exit function is due; it may not even have booted.
                if slot.attempts or not process.sent:
                    process.kill()
                # The end of its socket is what an idle process leaves on.
                process.hang_up()

    def any_left(self, *, anyway: bool = False) -> bool:
        """Let go of the processes that have ended; whether any is left. `anyway`: of those that have not, too."""
        for slot in self._slots:
            if slot.process is not None and (slot.process.ended() or anyway):
                slot.reap()
        return any(slot.process is not None for slot in self._slots)

    def stop(self) -> None:
        """Kill what is left, and wait as long as the kernel needs to end it. After `shut`; needs no loop."""
        for slot in self._slots:
            if slot.process is not None:
                slot.process.kill()
        deadline = time.monotonic() + _ENDING
        while self.any_left(anyway=time.monotonic() > deadline):
            time.sleep(0.001)
