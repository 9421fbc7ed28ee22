"""The slots of one host: what whoever runs them calls, and the composition of the parts behind it.

Owns the slots, the blobs kept for their processes, and the order of starting and closing. What the processes do, and
what follows their ends, is in `processes.py`; how long items run and what they use, in `watching.py`. Decides nothing
about what runs where. Must not know sockets (`process.py`), pickles, or who listens. Used by the local engine and by a
worker's `PoolSession`.

Threads: all of it runs on the loop's thread, so there is no lock. `spawn` runs there too, before the loop does: on
Linux a task process ends with the thread that started it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distmap.core.limits import LIMITS
from distmap.slots.listener import SlotListener
from distmap.slots.memory import MemoryWatch
from distmap.slots.process import Process
from distmap.slots.processes import Processes
from distmap.slots.slot import SharedBlob, Slot
from distmap.slots.watching import ItemWatch
from distmap.tasks._typing import Buffer
from distmap.wire.messages import BlobKind, Report, Task

if TYPE_CHECKING:
    import asyncio

#: Seconds between two interrupts of an attempt that does not end.
_INTERRUPT_AGAIN = 0.1
#: Seconds that `close` lets items go on.
_CLOSING = 1.0
#: Why a process is retired once packages were installed: what it has imported stays what it was.
OUTDATED = "had been started before packages were installed"


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
        each: for each slot, variables of its own, such as the one that names its GPU; nobody changes them there.
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
        each: Sequence[Mapping[str, str]] = (),
    ) -> None:
        if count < 1:
            raise ValueError(f"a worker has at least one slot, not {count}")
        self._numbers = itertools.count(1)
        self._blobs: dict[bytes, SharedBlob] = {}
        self._memory = memory = MemoryWatch(memory_limit)
        self._tasks = tasks
        self._slots = [Slot(index, self._blobs, memory, tasks) for index in range(count)]
        self._processes = Processes(self._slots, name, self._numbers, env=env, sys_path=sys_path, each=each)
        self._watch = ItemWatch(self._slots, self._processes, memory)
        if listener is not None:
            self.listener = listener

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def listener(self) -> SlotListener:
        """Who takes the reports."""
        return self._processes.listener

    @listener.setter
    def listener(self, listener: SlotListener) -> None:
        self._processes.listener = listener

    @property
    def busy(self) -> bool:
        """Whether any slot holds an attempt."""
        return any(slot.attempts for slot in self._slots)

    @property
    def retired(self) -> int:
        """Number of processes that were replaced because they held too much (`retire`)."""
        return self._processes.retired

    @property
    def given_up(self) -> Sequence[Process]:
        """Processes that were killed and live on: they wait in the system for something that does not come."""
        return self._processes.given_up

    # --- starting ------------------------------------------------------------------------------------------------

    def spawn(self, most: int | None = None) -> None:
        """Start the processes, without waiting for them. In the thread that will run the loop; needs no loop yet.

        Args:
            most: start no more than so many of them now; `attach` sees to the rest.

        Raises:
            OSError: a process could not be started; none is left behind.
        """
        try:
            self._processes.start(most)
        except OSError:
            self.stop()
            raise

    def attach(self, loop: asyncio.AbstractEventLoop, *, later: float = 0.0) -> None:
        """Listen to the processes from now on, and start those that are missing. In the loop's thread.

        Args:
            loop: it.
            later: those that are missing start so many seconds later, or with the first task of their slot. They are
                not missed: one that cannot be started then is tried again. 0: they start now.

        Raises:
            OSError: a process could not be started; none is left behind.
        """
        if not later:
            self.spawn()
        self._processes.attach(loop, later)

    def add(self) -> int:
        """One more slot, after `attach`; gives its number. Its process starts with its first task."""
        slot = Slot(len(self._slots), self._blobs, self._memory, self._tasks)
        self._slots.append(slot)
        return slot.index

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
        self._processes.begin(self._slots[task.slot])
        self._watch.ensure_timer(task.timeout)

    # --- steering ------------------------------------------------------------------------------------------------

    def revoke(self, slot: int, attempt: int, stop: int) -> None:
        """Run no item of the attempt at or beyond `stop`. One that has not begun is answered for at once."""
        self._report_soon(self._slots[slot].revoke(attempt, stop))

    def interrupt(self, slot: int, attempt: int) -> None:
        """Raise KeyboardInterrupt in the item that the attempt runs, and end the attempt."""
        self._report_soon(self._slots[slot].interrupt(attempt))
        if attempt in self._slots[slot].attempts and not self._processes.closing:
            # It is not raised while an item is opened or results are written, and the item behind that may be long.
            self._processes.loop.call_later(_INTERRUPT_AGAIN, self.interrupt, slot, attempt)

    def _report_soon(self, report: Report | None) -> None:
        if report is not None:
            # Soon, not now: the caller is in the middle of its own commands.
            self._processes.loop.call_soon(self.listener.reported, report, [])

    def kill(self, slot: int) -> None:
        """End the slot's process now; Died and Ready follow."""
        self._processes.end(self._slots[slot], "killed")

    def retire(self, slot: int, why: str) -> None:
        """Replace the slot's process once it has answered for the tasks that it has. Nothing is charged or lost.

        It is counted and logged, and the call that runs there is told, once.

        Args:
            slot: which one.
            why: what the process did, in words that follow "it", in the past tense; the same words for the same cause.
        """
        self._processes.retire(self._slots[slot], why)
        self._slots[slot].retire()  # now, if nothing runs

    def remark(self, slot: int, attempt: int, sentence: str) -> None:
        """Tell the caller of the attempt, which must not be over, something about its call."""
        self._processes.remark(slot, attempt, sentence)

    def hold(self, held: bool) -> None:
        """Stop the processes where they stand while held: there is no room for what they would report.

        Not reading would not do: large results pass by shared memory, which has no end. No item's time runs meanwhile.
        """
        self._processes.hold(held)
        self._watch.restart_times()

    def progress(self) -> list[tuple[int, int, float]]:
        """Per slot: the attempt that runs or -1, its offset, seconds in that item (since it was first seen)."""
        return self._watch.progress()

    def states(self) -> str:
        """Per slot, the system's letter for the state of a process whose item runs for long; a space for others.

        Empty if no item runs for long.
        """
        return self._watch.states()

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
        while self._processes.any_left() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        self.stop()

    def stop(self) -> None:
        """End everything now, without a loop's help. Takes as long as the kernel needs to end the processes."""
        self._shut()
        self._processes.stop()

    def _shut(self) -> None:
        if self._processes.closing:
            return
        self._watch.stop()
        for blob in self._blobs.values():
            blob.close()
        self._blobs.clear()
        self._processes.shut()
