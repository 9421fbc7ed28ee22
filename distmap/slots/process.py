"""One task process as its parent sees it: started, fed, read, ended.

Owns the process, its socket, its cells and the memory shared with it. Knows nothing of what is to be done when it
dies: `processes.py` does. Everything here happens on the loop's thread (starting it too: on Linux the process dies with
the thread that started it).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from distmap.slots.control import BLOCKS, STACK_SIGNAL, crash_log, log_size
from distmap.slots.frames import Inbox, Outbox, SegmentRef, pack_frame
from distmap.slots.memory import Usage
from distmap.slots.spawn import start
from distmap.slots.stacks import STATES, stack_of, state_of
from distmap.tasks._typing import Buffer, NamedTuple
from distmap.transport.segments import LARGE, SUPPORTED, Arena, Segment, SegmentMapping, Spare
from distmap.wire import messages as msg
from distmap.wire.codec import decode, encode
from distmap.wire.messages import Message

if TYPE_CHECKING:
    import asyncio

#: Seconds that a message may wait which is not urgent: in a loop of short calls the next one takes it along.
_LATER = 0.005


class FreedSegments:
    """Which segments of results nothing refers to any more: told by any thread, at any moment.

    Results live as long as their user likes. What they keep alive is this, not the slots nor who listens to them.
    """

    def __init__(self, free: Callable[[int, int], None]) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._free = weakref.WeakMethod(free)
        self._box: deque[tuple[int, int]] = deque()
        self._armed = False

    def add(self, serial: int, number: int) -> None:
        """Tell of a segment of the process with that serial number."""
        self._box.append((serial, number))
        if not self._armed and self.loop is not None:
            self._armed = True
            try:
                self.loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop is closed, and the processes with it
                self._box.clear()

    def _drain(self) -> None:
        self._armed = False  # clear first, then empty: nothing is lost
        while self._box:
            serial, number = self._box.popleft()
            if (free := self._free()) is not None:
                free(serial, number)


class Process:
    """A running task process and this side of everything that connects us to it."""

    def __init__(self, env: Mapping[str, str], path: Sequence[str], spare: Spare, numbers: Iterator[int]) -> None:
        self.popen, self.sock, self.blocks, self._cells, self.pidfd = start(env, path, spare)
        self.pid = self.popen.pid
        self.inbox = Inbox(self.sock)
        self.outbox = Outbox(self.sock)
        #: Never used again, as a process id may be.
        self.serial = next(numbers)
        #: Tasks sent and not answered, and tasks sent since the start: together they say which block is next.
        self.unanswered = 0
        self.sent = 0
        #: What it keeps: digests of blobs, numbers of their segments.
        self.known: set[bytes] = set()
        #: What it held after its first task (`control.HELD`); None until that is known.
        self.held: list[int] | None = None
        #: How many values of `distmap.per_process` it had computed then; None likewise.
        self.kept: int | None = None
        #: What is known of its memory.
        self.usage = Usage()
        #: Set once somebody listens; what does not go at once is written when the socket takes it.
        self.loop: asyncio.AbstractEventLoop | None = None
        #: What is sent waits for `flush`: each write wakes the process, and several frames can go in one.
        self.corked = False
        #: The socket takes no more now; the loop tells when it does.
        self._full = False
        self._hung_up = False
        self._arena = Arena(Spare(spare.at_rest, spare.at_rest), numbers)
        self._mapped: dict[int, SegmentMapping] = {}

    # --- out -----------------------------------------------------------------------------------------------------

    def next_block(self) -> memoryview:
        """The cells of the task that is sent next."""
        block = self.blocks[self.sent % BLOCKS]
        self.sent += 1
        self.unanswered += 1
        return block

    def send(self, message: Message, parts: Sequence[Buffer | SegmentRef] = ()) -> None:
        """Send a message, large parts by shared memory. Does nothing if the process is gone: its end is announced."""
        sent: list[Buffer | SegmentRef] = []
        for part in parts:
            if isinstance(part, SegmentRef) or not SUPPORTED or (length := memoryview(part).nbytes) < LARGE:
                sent.append(part)
                continue
            try:
                segment, fd = self._arena.fill(part)
            except OSError:
                sent.append(part)  # no memory or no descriptor to be had: the socket takes everything
                continue
            if fd >= 0:
                self._write(pack_frame(encode(msg.Segment(segment.number, segment.size))), fd)
            sent.append(SegmentRef(segment.number, length))
        self._write(pack_frame(encode(message), sent))

    def share(self, number: int, size: int, fd: int) -> None:
        """Pass on a copy of a segment's descriptor; before the frame that refers to the segment."""
        try:
            copy = os.dup(fd)
        except OSError:
            self._give_up()
        else:
            self._write(pack_frame(encode(msg.Segment(number, size))), copy)

    def _write(self, frame: Sequence[Buffer], fd: int = -1) -> None:
        """Write, or keep for the next write. `fd` is closed once it was passed on."""
        if self._hung_up:  # it retires and needs nothing
            if fd >= 0:
                os.close(fd)
            return
        self.outbox.hold(frame, fd)
        if not self.corked and not self._full:
            self.flush()

    def flush(self) -> None:
        """Write what was sent as far as it goes now, the rest when the socket takes it."""
        self.corked = False
        if self._hung_up:
            self.outbox.close()  # it retires and needs nothing
        try:
            full = not self.outbox.flush()
        except OSError:
            self._give_up()
            full = False
        if full != self._full and self.loop is not None:
            self._full = full
            if full:
                self.loop.add_writer(self.sock, self.flush)
            else:
                self.loop.remove_writer(self.sock)

    def send_later(self, message: Message) -> None:
        """Send a message with whatever is sent next, at the latest a moment later: it changes nothing for tasks."""
        corked, self.corked = self.corked, True
        self.send(message)
        self.corked = corked
        if self.loop is not None:
            self.loop.call_later(_LATER, self.flush)
        elif not corked:
            self.flush()

    def _give_up(self) -> None:
        """It is gone, or there is no descriptor for it: what follows a death follows."""
        self.outbox.close()
        self.kill()

    # --- in ------------------------------------------------------------------------------------------------------

    def receive(self, freed: FreedSegments) -> list[tuple[Message, list[Buffer]]] | None:
        """Receive once: the messages that became complete; None at the end. Raises BlockingIOError if nothing is here.

        `freed` is told when nothing refers to a result's segment any more.
        """
        try:
            if self.inbox.fill() == 0:
                return None
        except ConnectionError:
            return None
        messages: list[tuple[Message, list[Buffer]]] = []
        while (frame := self.inbox.pop()) is not None:
            message = decode(frame[0])
            if isinstance(message, msg.Segment):
                self._segment(message)
            elif isinstance(message, msg.Free):
                for number in self._arena.free(message.segment):
                    self.send(msg.Segment(number, 0))
            else:
                messages.append((message, [self._resolve(part, freed) for part in frame[1]]))
        return messages

    def _segment(self, message: msg.Segment) -> None:
        if not message.size:
            self._mapped.pop(message.segment, None)
            return
        fd = self.inbox.take_fd()
        try:
            self._mapped[message.segment] = SegmentMapping(fd, message.size, writable=True)
        finally:
            os.close(fd)

    def _resolve(self, part: bytearray | SegmentRef, freed: FreedSegments) -> Buffer:
        if not isinstance(part, SegmentRef):
            return part
        # Not `self`: a result may be kept for ever, and would keep everything that this object knows.
        serial, number = self.serial, part.segment
        return self._mapped[number].lend(part.length, lambda: freed.add(serial, number))

    # --- the end -------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """SIGINT; the process itself knows whether it is meant."""
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGINT)

    def ask_for_stack(self) -> None:
        """Have it write where it stands, which it does even while it holds the GIL; `stack` gives that once it has."""
        self._signal(STACK_SIGNAL)

    def continue_it(self) -> None:
        """Let it go on, if it was stopped."""
        if os.name == "posix":
            self._signal(signal.SIGCONT)

    def pause(self) -> None:
        """Stop it where it stands, until `continue_it`; not on Windows."""
        if os.name == "posix":
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        if os.name == "posix" and self.popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    @property
    def written(self) -> int:
        """Bytes that it wrote of where it stands."""
        return log_size(self._cells)

    def stack(self) -> str:
        """Where it stood when it was asked; empty if it has not said."""
        return stack_of(crash_log(self._cells, whole=True))

    def state(self) -> str:
        """See `stacks.state_of`."""
        return state_of(self.pid)

    def terminate(self) -> None:
        """Ask it, and what it started, to end: SIGTERM, for which a program may have a handler."""
        if os.name == "posix" and self.popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it now, and what it started."""
        if os.name != "posix":
            self.popen.kill()
            return
        if self.popen.returncode is None:  # else the number may be somebody else's by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        """Whether it has ended; collects it, and what it left in its group."""
        if self.popen.returncode is not None:
            return True
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):  # somebody else collected it
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    return False
                # A zombie: its number is still its own, so its group can be ended safely.
                self.kill()
        return self.popen.poll() is not None

    def exit_reason(self) -> str:
        """How it ended, for people."""
        code = self.popen.returncode
        if code is None:
            meaning = STATES.get(self.state())
            text = "does not end, though it was killed" + (f": it is {meaning}" if meaning else "")
        elif code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            text = f"was ended by {name}"
            if name == "SIGKILL":
                text += " (out of memory, or somebody's kill -9)"
        else:
            text = f"exited with code {code}"
        log = crash_log(self._cells)
        return f"{text}\n{log}" if log else text

    def hang_up(self) -> None:
        """End the socket in both directions: the process leaves as soon as it waits for its next task."""
        self._hung_up = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of socket, descriptors and memory. What was lent from its results stays as long as it is used."""
        self.outbox.close()
        self._full = False
        self.inbox.close()
        self.sock.close()
        for fd in (self._cells, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self._cells = self.pidfd = -1
        self.blocks.clear()
        self._arena.close()
        self._mapped.clear()


class BlobPart:
    """A large buffer of a blob: one segment, mapped read-only by every task process that needs it."""

    def __init__(self, data: Buffer, numbers: Iterator[int]) -> None:
        self.length = memoryview(data).nbytes
        segment = Segment(next(numbers), self.length)
        segment.write(data)
        self._segment: Segment | _Lent = segment

    @property
    def ref(self) -> SegmentRef:
        return SegmentRef(self._segment.number, self.length)

    def share(self, process: Process) -> None:
        """Let the process have it; before the frame that refers to it."""
        process.share(self._segment.number, self.length, self._segment.fd)

    def withdraw(self, process: Process) -> None:
        """Let the process forget it."""
        process.send(msg.Segment(self._segment.number, 0))

    def close(self) -> None:
        self._segment.close()


class DescriptorPart(BlobPart):
    """A descriptor in the place of a segment, its owner's to close: every task process that needs it gets a copy."""

    def __init__(self, fd: int, numbers: Iterator[int]) -> None:
        self.length = 1
        self._segment = _Lent(next(numbers), fd)


class _Lent(NamedTuple):
    number: int
    fd: int

    def close(self) -> None:
        """Whoever made the blob keeps it open as long as the blob lives."""
