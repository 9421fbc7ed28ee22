"""One slot: the attempts that it holds, what of them its process has been sent, and how its process ended.

Owns the records of a slot and everything that concerns one slot alone. Knows no timer (`watching.py`), no listener
(`processes.py`), no byte of a frame (`process.py`). On the loop's thread.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Sequence

from distmap.core.limits import LIMITS
from distmap.slots.control import BLOCKS, CELL_CLOSED, CELL_KEPT, HELD, NOBODY, PROCESS, finished_marker
from distmap.slots.frames import SegmentRef
from distmap.slots.memory import MemoryWatch
from distmap.slots.process import BlobPart, DescriptorPart, Process
from distmap.slots.stacks import STATES
from distmap.tasks._typing import Buffer
from distmap.tasks.cells import CELL_AT, CELL_ATTEMPT, CELL_INTERRUPT, CELL_STOP, CELL_STOP_ATTEMPT
from distmap.transport.segments import LARGE, SUPPORTED
from distmap.wire.messages import BlobKind, DeathReason, Died, Drop, Put, Refused, Report, Task

#: The cells HELD in words.
_WHATS = "threads", "open files", "processes"


class SharedBlob:
    """A payload kept for the task processes: large buffers once in shared memory, the rest as it came."""

    def __init__(self, kind: BlobKind, parts: Sequence[Buffer], numbers: itertools.count[int]) -> None:
        self.kind: BlobKind = kind
        self.parts: list[Buffer | BlobPart] = []
        if kind == "descriptor":
            self.parts.append(DescriptorPart(int(bytes(parts[0])), numbers))
            return
        for part in parts:
            if SUPPORTED and memoryview(part).nbytes >= LARGE:
                try:
                    self.parts.append(BlobPart(part, numbers))
                    continue
                except OSError:
                    pass  # no memory or no descriptor to be had: the socket takes everything
            self.parts.append(part)

    def send(self, process: Process, digest: bytes) -> None:
        """Let the process have it."""
        refs: list[Buffer | SegmentRef] = []
        for part in self.parts:
            if isinstance(part, BlobPart):
                part.share(process)
                refs.append(part.ref)
            else:
                refs.append(part)
        process.send(Put(digest, self.kind), refs)

    def withdraw(self, process: Process, digest: bytes) -> None:
        """Let the process forget it."""
        process.send_later(Drop(digest))
        for part in self.parts:
            if isinstance(part, BlobPart):
                part.withdraw(process)

    def close(self) -> None:
        for part in self.parts:
            if isinstance(part, BlobPart):
                part.close()


class SlotAttempt:
    """An attempt that a slot has and has not ended."""

    __slots__ = ("cells", "parts", "reported", "stop", "task")

    def __init__(self, task: Task, parts: Sequence[Buffer]) -> None:
        self.task = task
        #: Kept until it is sent.
        self.parts: Sequence[Buffer] = parts
        #: Its block, once it is sent.
        self.cells: memoryview | None = None
        self.stop: int | None = None
        self.reported = task.lo

    def write_stop(self, stop: int) -> None:
        assert self.cells is not None
        # In this order: the offset counts only for the attempt that is named.
        self.cells[CELL_STOP] = max(0, stop)
        self.cells[CELL_STOP_ATTEMPT] = self.task.attempt


class Slot:
    """One slot, its process if it has one now, and what it holds."""

    def __init__(
        self, index: int, blobs: dict[bytes, SharedBlob], memory: MemoryWatch, tasks: int | None = None
    ) -> None:
        self.index = index
        #: A process is given so many tasks at most.
        self._most = sys.maxsize if tasks is None else tasks
        #: Its process was told to leave because it has had them, or is to be replaced.
        self.retiring = False
        #: Its process is to be replaced once it has answered for its tasks.
        self.outworn = False
        self.process: Process | None = None
        #: By attempt, in the order given.
        self.attempts: dict[int, SlotAttempt] = {}
        #: Deaths in a row without a report between them.
        self.deaths_in_a_row = 0
        #: Why its process was ended by us.
        self.ending: DeathReason | None = None
        #: What ran when its socket ended.
        self.at_end: tuple[int, int] | None = None
        #: Where the item stood whose time was up, in words.
        self.stack = ""
        #: It closed its socket and lived on.
        self.socket_closed = False
        #: Why its process was ended for its memory.
        self.excess = ""
        self._blobs = blobs
        self._memory = memory
        # Not sent yet: the process has a full set of tasks, or is being replaced.
        self._backlog: deque[SlotAttempt] = deque()
        # The item that ran at the last look, and when it was first seen; the one whose time was up.
        self._seen = (-1, -1)
        self._since = 0.0
        self._overdue: tuple[int, int] | None = None

    # --- feeding -------------------------------------------------------------------------------------------------

    def assign(self, task: Task, parts: Sequence[Buffer]) -> None:
        entry = self.attempts[task.attempt] = SlotAttempt(task, parts)
        self._backlog.append(entry)
        self.feed()

    def feed(self) -> None:
        """Send what waits, as far as the process may have it."""
        process = self.process
        if not self._backlog or process is None or self.ending is not None:
            return
        if process.corked:
            return self._feed(process)
        process.corked = True  # what a task needs goes with it, in one write
        try:
            self._feed(process)
        finally:
            process.flush()

    def _feed(self, process: Process) -> None:
        # One block stays free: the block of a task is in use until after its answer was sent.
        while self._backlog and process.unanswered < BLOCKS - 1:
            if self.outworn or process.sent >= self._most:  # it had its last
                return
            entry = self._backlog.popleft()
            for digest in (*entry.task.needs, entry.task.code):
                # One that was never put: the process refuses the task with a text that names it.
                if digest not in process.known and (blob := self._blobs.get(digest)) is not None:
                    process.known.add(digest)
                    blob.send(process, digest)
            entry.cells = process.next_block()
            if entry.stop is not None:
                entry.write_stop(entry.stop)
            parts, entry.parts = entry.parts, ()
            process.send(entry.task, parts)

    def drop(self, digest: bytes, blob: SharedBlob) -> None:
        """Let the process forget a blob, if it has it."""
        process = self.process
        if process is not None and digest in process.known:
            process.known.discard(digest)
            blob.withdraw(process, digest)

    def _had_its_last(self, process: Process) -> bool:
        return self.outworn or process.sent >= self._most

    def wear_out(self) -> bool:
        """Let the process have no further task, so that it retires; False if it is on its way out already."""
        if self.process is None or self.ending is not None or self.outworn:
            return False
        self.outworn = True
        return True

    def growth(self) -> str | None:
        """What the process holds more of than it may, in words; None: nothing. Cheap: it reads cells."""
        process = self.process
        if process is None:
            return None
        now = [process.blocks[PROCESS][cell] for cell in HELD]
        if process.kept != (kept := process.blocks[PROCESS][CELL_KEPT]):
            # What it was asked to keep, such as a model, is no growth either.
            process.kept, process.held, process.usage.first = kept, None, -1
        if process.held is None:
            # What the first task of a process needs (a pool of threads, say) is no growth.
            process.held = None if now[0] == NOBODY else now
            return self._memory.growth(process.pid, process.usage)
        most = LIMITS.growth_threads, LIMITS.growth_files, LIMITS.growth_processes
        for what, first, count, limit in zip(_WHATS, process.held, now, most, strict=True):
            if count - first > limit:
                return f"held over {limit} {what} more than after its first task"
        return self._memory.growth(process.pid, process.usage)

    def retire(self) -> bool:
        """If the process has had its last task and has answered for all of them, let it leave; True if so."""
        process = self.process
        if process is None or self.ending is not None or not self._had_its_last(process) or process.unanswered:
            return False
        self.ending, self.retiring = "idle", True
        process.hang_up()
        return True

    def recycle(self) -> None:
        """The process that retired has left. What waits here was never given to it."""
        assert self.process is not None
        self.process.close()
        self.process = self.ending = self.at_end = None
        self.retiring = self.outworn = False

    def receive(self, message: Report | Refused) -> bool:
        """The process said something about an attempt. False: nobody waits for it, it was answered for already."""
        assert self.process is not None
        self.deaths_in_a_row = 0
        ended = isinstance(message, Refused) or message.ended
        if ended:
            self.process.unanswered -= 1
        entry = self.attempts.get(message.attempt)
        if entry is not None:
            if isinstance(message, Report):
                entry.reported = message.hi
            if ended:
                del self.attempts[message.attempt]
        if self._backlog:
            self.feed()
        return entry is not None

    # --- steering ------------------------------------------------------------------------------------------------

    def revoke(self, attempt: int, stop: int) -> Report | None:
        """Run no item of the attempt at or beyond `stop`. Gives the report of one that had not begun."""
        entry = self.attempts.get(attempt)
        if entry is None:
            return None  # it has ended; its report is on the way or was taken
        entry.stop = stop if entry.stop is None else min(stop, entry.stop)
        begun = False
        if entry.cells is not None:
            entry.write_stop(entry.stop)
            # Not claimed yet: it sees the stop when it claims (control.py). The process may be busy for long.
            begun = entry.cells[CELL_ATTEMPT] in (attempt, finished_marker(attempt))
        task = entry.task
        if begun or entry.stop > task.lo:
            return None
        del self.attempts[attempt]
        if entry.cells is None:
            self._backlog.remove(entry)
        return Report(task.slot, attempt, task.lo, task.lo, 0.0, True, ())

    def interrupt(self, attempt: int) -> Report | None:
        """KeyboardInterrupt in the item that the attempt runs. Gives the report of one that had not begun."""
        entry = self.attempts.get(attempt)
        if entry is not None and entry.cells is not None:
            entry.cells[CELL_INTERRUPT] = attempt
        report = self.revoke(attempt, 0)
        if attempt in self.attempts and self.process is not None:
            self.process.interrupt()
        return report

    # --- watching ------------------------------------------------------------------------------------------------

    def running(self) -> tuple[int, int]:
        """Attempt and offset of the item that runs; (-1, -1) if none does."""
        for attempt, entry in self.attempts.items():
            if entry.cells is not None and entry.cells[CELL_ATTEMPT] == attempt:
                return attempt, entry.cells[CELL_AT]
        return -1, -1

    def item_time(self, now: float) -> tuple[int, int, float]:
        """What runs, and for how long it has been seen running."""
        running = self.running()
        if running != self._seen:
            self._seen, self._since = running, now
        return (*running, now - self._since if running[0] >= 0 else 0.0)

    def check_timeout(self, now: float) -> float:
        """Gives the time limit of the running attempt's items, 0 if there is none; `overdue` says if one is up."""
        attempt, at, seconds = self.item_time(now)
        entry = self.attempts.get(attempt)
        if entry is None:
            return 0.0
        limit = entry.task.timeout
        # First seen later than it began, so it never has less time than it was given. Loading is no item.
        if 0 < limit < seconds and at >= 0:
            self._overdue = attempt, at
        return limit

    def forget_time(self) -> None:
        """Count the time of the running item from its beginning: its process was stopped by us, or goes on again."""
        self._seen = (-1, -1)

    @property
    def overdue(self) -> bool:
        """An item's time is up."""
        return self._overdue is not None

    def still_overdue(self) -> bool:
        """Whether that item runs on; if not, it has ended in time to count."""
        if self._overdue != self.running():
            self._overdue = None
        return self.overdue

    def explain(self, stack: str, state: str) -> None:
        """Keep where the item stands whose time is up, and the state of its process if that is why it does not end."""
        held = f"Its process was {STATES[state]}." if state in STATES else ""
        self.stack = "\n".join(filter(None, (stack, held)))

    # --- the end of its process ----------------------------------------------------------------------------------

    def reap(self) -> Died:
        """Its process has ended: let go of it and of all that it held. Gives how it ended."""
        process = self.process
        assert process is not None
        attempt, at = running = self.at_end or self.running()
        reason, text = self._verdict(process, running)
        entry = self.attempts.get(attempt)
        if entry is not None:
            # Between two items, or while the code loads: the first item that was not reported is charged.
            at = min(max(at, entry.reported), entry.task.hi - 1)
        else:
            attempt = at = -1
        process.close()
        self.process = None
        self.forget()
        self.ending = self._overdue = self.at_end = None
        self.socket_closed = self.retiring = self.outworn = False
        self.stack = self.excess = ""
        self.deaths_in_a_row += 1
        return Died(self.index, attempt, at, reason, text)

    def forget(self) -> None:
        """All that it entry is void."""
        self.attempts.clear()
        self._backlog.clear()
        self._seen = (-1, -1)

    def _verdict(self, process: Process, running: tuple[int, int]) -> tuple[DeathReason, str]:
        reason, text = self._reason(process, running)
        if process.popen.returncode is None and not process.ended():  # it was given up
            words, *rest = text.split("\n")
            text = "\n".join((f"{words}; its process {process.pid} {process.exit_reason()}", *rest))
        return reason, text

    def _reason(self, process: Process, running: tuple[int, int]) -> tuple[DeathReason, str]:
        if self.ending == "timeout":
            if self._overdue == running:
                said = "ran longer than its time limit and was ended"
                return "timeout", f"{said}\n{self.stack}" if self.stack else said
            return "killed", "was ended for an item that finished just then"  # so nobody is charged
        if self.ending is not None:
            return self.ending, self.excess or "was ended by distmap"
        if self.socket_closed or process.blocks[PROCESS][CELL_CLOSED]:
            return "died", "closed the descriptors of its process, distmap's connection among them"
        if process.popen.returncode == -9 and (why := self._memory.killed(process.usage)) is not None:
            return ("idle" if running[0] < 0 else "memory"), why
        return ("idle" if running[0] < 0 else "died"), process.exit_reason()
