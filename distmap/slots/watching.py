"""What runs in the slots of one host, and for how long: time limits, limits of memory, the stack of a late item.

Owns the one timer, which looks at what runs while something does, and what is done with an item that runs too long or
uses too much. Must not know what follows the end of a process (`processes.py`), how memory is measured (`memory.py`) or
a stack is written (`stacks.py`), or who listens. On the loop's thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distmap.core.limits import LIMITS
from distmap.slots.control import STACK_SIGNAL
from distmap.slots.memory import Excess, MemoryWatch
from distmap.slots.process import Process
from distmap.slots.processes import Processes
from distmap.slots.slot import Slot
from distmap.slots.stacks import STATES

if TYPE_CHECKING:
    import asyncio

#: Seconds between two looks at what runs, so that `progress` can say how long an item has been running.
TICK = 0.5
#: Seconds between two looks if items have a time limit: a quarter of it, within these bounds.
_SHORTEST_TICK, _LONGEST_TICK = 0.010, 0.5
#: Seconds between two looks for the stack of an item whose time is up.
_STACK_AGAIN = 0.01


class ItemWatch:
    """Looks at the items that run, and has the process ended of one that runs too long or uses too much."""

    def __init__(self, slots: Sequence[Slot], processes: Processes, memory: MemoryWatch) -> None:
        self._slots = slots
        self._processes = processes
        self._memory = memory
        self._timer: asyncio.TimerHandle | None = None

    def ensure_timer(self, timeout: float = 0.0) -> None:
        """Look again in time for items with this time limit in seconds; 0: they have none."""
        if self._processes.closing:
            return
        tick = TICK if timeout <= 0 else max(_SHORTEST_TICK, min(timeout / 4, _LONGEST_TICK))
        tick = min(tick, self._memory.pause)
        if self._timer is not None:
            if self._timer.when() <= self._processes.loop.time() + tick:
                return
            self._timer.cancel()
        self._timer = self._processes.loop.call_later(tick, self._check_running)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def restart_times(self) -> None:
        """Count the time of running items from now: the processes were held, or go on again. (See `Slots.hold`.)"""
        for slot in self._slots:
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

    def _check_running(self) -> None:
        """See what runs, and end what runs longer than it may. Only while something does."""
        self._timer = None
        now = time.monotonic()
        limits = []
        look = self._memory.begin(now)
        for slot in self._slots:
            process = slot.process
            if process is not None and process.pidfd < 0 and process.ended():
                self._processes.on_exit(slot, process)
            if not slot.attempts or slot.ending is not None or self._processes.held:
                continue
            limits.append(slot.check_timeout(now))
            if slot.overdue:
                self._time_out(slot)
            elif look and process is not None and (running := slot.running())[0] >= 0:
                excess = self._memory.look(process.pid, process.usage, running)
                if excess is not None:
                    self._end_too_large(slot, process, running, excess)
        if any(slot.attempts for slot in self._slots):
            self.ensure_timer(min((limit for limit in limits if limit > 0), default=0.0))

    def _end_too_large(self, slot: Slot, process: Process, running: tuple[int, int], excess: Excess) -> None:
        """End a process that uses more memory than it may, unless its item has finished meanwhile."""
        self._processes.drain(slot, process)
        if slot.process is not process or slot.ending is not None or slot.running() != running:
            return
        slot.excess, slot.at_end = excess.text, running
        self._processes.loop.remove_reader(process.sock)  # what it says from here on does not count
        # If others left most of it, the item may be innocent: it runs again, in a fresh process.
        self._processes.end(slot, "limit" if excess.alone else "memory")

    # --- an item whose time is up --------------------------------------------------------------------------------

    def _time_out(self, slot: Slot) -> None:
        """End the process of an item whose time is up: it says where it stands, is asked to end, is killed."""
        process = slot.process
        if process is None or not STACK_SIGNAL:
            return self._processes.end(slot, "timeout")
        self._processes.drain(slot, process)
        if not slot.still_overdue():
            return
        # Nothing counts that it says from here on: the signals may cut short what the item waits for.
        slot.ending, slot.at_end = "timeout", slot.running()
        self._processes.loop.remove_reader(process.sock)  # what it says from here on does not count
        state = process.state()
        process.ask_for_stack()
        self._processes.loop.call_later(_STACK_AGAIN, self._take_stack, slot, process, state, 0, _STACK_AGAIN)

    def _take_stack(self, slot: Slot, process: Process, state: str, written: int, waited: float) -> None:
        """Wait until it has written where it stands, as far as it can; then have it end."""
        if slot.process is not process or self._processes.closing:
            return
        before, written = written, process.written
        if waited < LIMITS.stack_seconds and (not written or written != before):
            if state == "T" and not written:
                process.continue_it()  # it writes before it does anything else
            waited += _STACK_AGAIN
            self._processes.loop.call_later(_STACK_AGAIN, self._take_stack, slot, process, state, written, waited)
            return
        slot.explain(process.stack(), state)
        if state in STATES:
            return self._processes.kill(slot, process)
        process.terminate()
        self._processes.loop.call_later(LIMITS.terminate_seconds, self._processes.kill, slot, process)
        if process.pidfd < 0:
            self._processes.on_exit(slot, process)
