"""A task process: runs tasks that come over its socket, one after the other, in its main thread.

Owns the process: its signals, its memory cells, its end. What a task *is* belongs to `distmap.tasks.runner`. Started by
`process.py`; leaves when its socket ends. Imports as little as it can: what stands between the start of the process and
its first task is paid by every first result.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it is not in typeshed
import _socket
import faulthandler
import gc
import itertools
import os
import sys
from _thread import get_ident
from _weakref import ref
from errno import EBADF, ENOTSOCK
from time import monotonic
from types import FrameType

from distmap.slots.control import (
    BLOCKS,
    CELL_CLOSED,
    CELL_KEPT,
    HELD,
    LOADING,
    NOBODY,
    PROCESS,
    STACK_SIGNAL,
    blocks,
    finished_marker,
    seek_log,
)
from distmap.slots.frames import Inbox, Outbox, SegmentRef, pack_frame
from distmap.tasks._typing import Buffer
from distmap.tasks.broadcast import copy_with
from distmap.tasks.capture import OutputCapture
from distmap.tasks.cells import CELL_AT, CELL_ATTEMPT, CELL_INTERRUPT, CELL_STOP, CELL_STOP_ATTEMPT
from distmap.tasks.hygiene import Hygiene
from distmap.tasks.leaving import flush, leave
from distmap.tasks.leftovers import held
from distmap.tasks.nesting import FOLDER
from distmap.tasks.payload import Payload
from distmap.tasks.pickling import warm_up
from distmap.tasks.run import interruptible
from distmap.tasks.runner import Runner
from distmap.tasks.streams import install
from distmap.transport.segments import LARGE, SUPPORTED, Arena, SegmentMapping, Spare, private
from distmap.wire.codec import decode, encode
from distmap.wire.messages import REMARK, Drop, Free, Message, Output, Put, Refused, Report, Segment, Task

#: Descriptors move up here, out of the way of code that closes "all" of them from 3 up.
_HIGH = (900, 200)
#: New segments in one report at most: the kernel bounds the descriptors that are in flight.
_NEW_SEGMENTS = 64
_PDEATHSIG = 1
#: Seconds between two counts of what this process holds.
_COUNT_EVERY = 1.0
#: Seconds without a message after which free segments are given up, but for those that are kept at rest.
_REST_AFTER = 5.0


def main(argv: list[str]) -> None:
    """`argv`: the socket, the cells (both descriptors), process id of the parent, bytes of spare segments at rest and
    at work, and the seconds in which to leave.
    """
    parent, spare = int(argv[2]), Spare(int(argv[3]), int(argv[4]))
    die_with(parent)
    # Kept to the end: what tasks left in it is still there for their exit functions.
    child = _child(argv, spare)
    child.serve()
    leave(parent, float(argv[5]))


def _child(argv: list[str], spare: Spare) -> Child:
    if sys.platform == "win32":
        # See spawn.py: nothing can be passed but by way of standard input and a name.
        import socket

        return Child(socket.fromshare(sys.stdin.buffer.read()), blocks(argv[1]), spare, [])
    sock = _socket.socket(fileno=_out_of_the_way(int(argv[0])))
    log = _out_of_the_way(int(argv[1]))
    seek_log(log)
    faulthandler.enable(log, all_threads=False)
    faulthandler.register(STACK_SIGNAL, log, all_threads=True)
    return Child(sock, blocks(log), spare, [_copy(fd) for fd in (0, 1, 2)])


def die_with(parent: int) -> None:
    """Ask the kernel (Linux) for SIGKILL when the parent's thread that started this process ends."""
    if sys.platform == "linux":
        try:
            # `ctypes` itself would cost 6 ms here.
            import _ctypes

            _ctypes.call_cdeclfunction(
                _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl"),  # type: ignore[arg-type]
                (_PDEATHSIG, _signal.SIGKILL),
            )
        except (ImportError, AttributeError, OSError):
            pass  # the end of the socket remains
    if os.name == "posix" and os.getppid() != parent:
        os._exit(0)  # it ended before the kernel was asked


def _copy(fd: int) -> int:
    """A copy of a descriptor where code that closes "all" of them hardly looks; -1 if there is none to be had."""
    if os.name == "posix":
        import fcntl

        for least in _HIGH:
            try:
                return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
            except OSError:
                continue  # beyond the limit of descriptors, or closed
    return -1


def _out_of_the_way(fd: int) -> int:
    moved = _copy(fd)
    if moved < 0:
        return fd
    os.close(fd)
    return moved


class Child:
    """The loop of a task process."""

    def __init__(self, sock: _socket.socket, cells: list[memoryview], spare: Spare, streams: list[int]) -> None:
        self._inbox = Inbox(sock)
        self._outbox = Outbox(sock)
        self._blocks = cells
        self._tasks = 0
        #: When what it holds is to be counted again.
        self._count_at = 0.0
        self._pid = os.getpid()
        # Not for pools that a task makes: their slots are on this machine.
        folder = os.environ.pop(FOLDER, None)
        self._arena = Arena(spare, itertools.count(1))
        #: Segments of the parent: descriptor and size until first used, then their mapping.
        self._unmapped: dict[int, tuple[int, int]] = {}
        self._mapped: dict[int, SegmentMapping] = {}
        #: Segments of the parent that nothing refers to any more; filled by whoever drops the last view.
        self._returned: list[int] = []
        #: Those that tasks have not returned.
        self._lent = 0
        # of the attempt that runs
        self._cells: memoryview | None = None
        self._sending = False
        self._interrupted = False
        self._reported = 0
        self._ended = False
        self._running: Task | None = None
        self._main = get_ident()
        copy_with(private)
        self._on_interrupt = self._interrupt
        _signal.signal(_signal.SIGINT, self._on_interrupt)
        self._capture = OutputCapture(self._print)
        install(self._capture.current)
        self._hygiene = Hygiene(streams)
        self._runner = Runner(folder=folder, hygiene=self._hygiene)
        if os.name == "posix":
            os.register_at_fork(after_in_child=self._capture.forked)

    def serve(self) -> None:
        """Until the other end of the socket is gone."""
        # While the parent still imports what it needs itself: most functions of notebooks will need this.
        warm_up(self._inbox.waiting)
        while True:
            try:
                while (frame := self._inbox.pop()) is not None:
                    self._handle(decode(frame[0]), frame[1])
                    # Not kept until the next one comes: its memory may be shared.
                    frame = None
                    self._give_back()
                if self._arena.restless and not self._inbox.waiting(_REST_AFTER):
                    for number in self._arena.rest():
                        self._send(Segment(number, 0))
                if not self._inbox.fill():
                    break
            except OSError as error:
                # The parent is gone, or a task closed our socket.
                self._blocks[PROCESS][CELL_CLOSED] = error.errno in (EBADF, ENOTSOCK)
                break
            except KeyboardInterrupt:
                pass  # came between the end of an attempt and our noticing it

    def _handle(self, message: Message, parts: list[bytearray | SegmentRef]) -> None:
        match message:
            case Task():
                self._task(message, parts)
            case Put(digest, "descriptor"):
                assert isinstance(parts[0], SegmentRef)
                fd, _ = self._unmapped.pop(parts[0].segment)
                self._runner.put(digest, "descriptor", Payload(b"%d" % fd))
            case Put():
                head, *buffers = [self._resolve(part, writable=False) for part in parts]
                self._runner.put(message.digest, message.kind, Payload(head, tuple(buffers)))
            case Drop():
                self._runner.drop(message.digest)
            case Segment(number, size):
                if size:
                    self._unmapped[number] = self._inbox.take_fd(), size
                else:
                    self._forget(number)
            case Free(number):
                for given_up in self._arena.free(number):
                    self._send(Segment(given_up, 0))

    # --- tasks ---------------------------------------------------------------------------------------------------

    def _task(self, task: Task, parts: list[bytearray | SegmentRef]) -> None:
        cells = self._blocks[self._tasks % BLOCKS]
        self._tasks += 1
        # Claim first, look second: see control.py.
        cells[CELL_AT] = LOADING
        cells[CELL_ATTEMPT] = task.attempt
        self._reported, self._ended, self._interrupted = task.lo, False, False
        if cells[CELL_STOP_ATTEMPT] != task.attempt or cells[CELL_STOP] > task.lo:
            self._run(task, parts, cells)
        else:
            for part in parts:
                if isinstance(part, SegmentRef):
                    self._lent += 1
                    self._returned.append(part.segment)
        self._cells = None
        if os.getpid() != self._pid:
            os._exit(0)  # a process that the task forked came back out of it
        if not self._ended:
            with self._capture.lock:
                self._capture.end()
                self._send(Report(task.slot, task.attempt, self._reported, self._reported, 0.0, True, ()))
        cells[CELL_ATTEMPT] = finished_marker(task.attempt)
        self._tidy()

    def _run(self, task: Task, parts: list[bytearray | SegmentRef], cells: memoryview) -> None:
        head, *buffers = [self._resolve(part, writable=True) for part in parts]
        self._capture.begin(task, cells)
        self._running = task
        self._cells = cells
        try:
            self._runner.run(task, Payload(head, tuple(buffers)), cells, self._emit)
        except KeyboardInterrupt:
            pass  # it hit our own code between two items; what was not reported goes back

    def _emit(self, message: Report | Refused | Output, payload: Payload) -> None:
        if os.getpid() != self._pid:
            os._exit(0)
        # An interrupt must not tear a frame; the stop cell, set with it, is seen at the next item.
        self._sending = True
        try:
            with self._capture.lock:
                ended = isinstance(message, Refused) or (isinstance(message, Report) and message.ended)
                if ended:
                    self._tell_of_values()
                    self._tell_of_strays()
                    self._capture.end()
                else:
                    self._capture.flush()
                self._send(message, [payload.head, *payload.buffers])
            self._ended = ended
            if isinstance(message, Report):
                self._reported = message.hi
        finally:
            self._sending = False

    def _tell_of_values(self) -> None:
        """Tell the parent how much was asked to be kept: it takes that for no leak."""
        cells, per_process = self._blocks[PROCESS], sys.modules.get("distmap.tasks.per_process")
        if per_process is not None and cells[CELL_KEPT] != per_process.values.computed:
            cells[CELL_KEPT] = per_process.values.computed
            # The last count was before them.
            self._count_at = 0.0
            for cell in HELD:
                cells[cell] = NOBODY

    def _tell_of_strays(self) -> None:
        """Tell the caller of processes that items left behind, once for a call."""
        task = self._running
        if task is None or not (count := self._hygiene.left_behind()):
            return
        first, last = task.start + task.lo, task.start + task.hi - 1
        who = f"item {first}" if first == last else f"one of the items {first} to {last}"
        what = "a process" if count == 1 else f"{count} processes"
        text = f"{who} left {what} behind: what is left at the end of a call is ended".encode()
        self._send(Output(task.slot, task.attempt, 0, ((-1, REMARK, len(text)),)), [text])

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        cells = self._cells
        if cells is None or self._sending or self._interrupted or os.getpid() != self._pid:
            return
        if cells[CELL_INTERRUPT] == cells[CELL_ATTEMPT]:
            if interruptible(frame):
                self._interrupted = True
                raise KeyboardInterrupt
            # It may be in the middle of a print, as a task that prints much nearly always is.
            self._capture.after_write = self._interrupt_again

    def _interrupt_again(self, frame: FrameType) -> None:
        if get_ident() == self._main:
            self._capture.after_write = None
            self._interrupt(_signal.SIGINT, frame)

    def _print(self, output: Output, text: bytes, wait: bool) -> bool:
        frame = pack_frame(encode(output), [text] if text else [])
        return self._outbox.send(frame) if wait else self._outbox.send_at_once(frame)

    def _tidy(self) -> None:
        if _signal.getsignal(_signal.SIGINT) is not self._on_interrupt:
            _signal.signal(_signal.SIGINT, self._on_interrupt)  # a set-up took it
        flush()
        if (now := monotonic()) >= self._count_at:
            self._count_at = now + _COUNT_EVERY
            cells = self._blocks[PROCESS]
            for cell, number in zip(HELD, held(), strict=True):
                cells[cell] = number

    # --- memory --------------------------------------------------------------------------------------------------

    def _resolve(self, part: bytearray | SegmentRef, *, writable: bool) -> Buffer:
        if not isinstance(part, SegmentRef):
            return part
        number = part.segment
        mapping = self._mapped.get(number)
        if mapping is None:
            fd, size = self._unmapped.pop(number)
            try:
                mapping = self._mapped[number] = SegmentMapping(fd, size, writable=writable)
            finally:
                os.close(fd)
        if not writable:  # code and values stay until they are dropped
            return mapping.lend(part.length)
        self._lent += 1
        returned = self._returned
        return mapping.lend(part.length, lambda: returned.append(number))

    def _forget(self, number: int) -> None:
        mapping = self._mapped.pop(number, None)
        if mapping is not None:
            gone = ref(mapping)
            del mapping
            if gone() is not None:
                # Functions of a notebook that refer to each other by their globals are a circle that holds its arrays.
                gc.collect()
        if number in self._unmapped:
            os.close(self._unmapped.pop(number)[0])

    def _give_back(self) -> None:
        if self._lent > len(self._returned):
            # Something still refers to a task's input: most often a cycle that has just become garbage, such as an
            # exception with its traceback. Only what is young is looked at.
            gc.collect(1)
        while self._returned:
            number = self._returned.pop()
            self._lent -= 1
            self._send(Free(number))

    def _send(self, message: Message, parts: list[Buffer] | tuple[()] = ()) -> None:
        sent: list[Buffer | SegmentRef] = []
        new = 0
        for part in parts:
            length = memoryview(part).nbytes
            if length < LARGE or not SUPPORTED or new >= _NEW_SEGMENTS:
                sent.append(part)
                continue
            try:
                segment, fd = self._arena.fill(part)
            except (OSError, MemoryError):
                sent.append(part)  # no memory or no descriptor to be had: the socket takes everything
                continue
            if fd >= 0:
                new += 1
                self._write(pack_frame(encode(Segment(segment.number, segment.size))), fd)
            sent.append(SegmentRef(segment.number, length))
        self._write(pack_frame(encode(message), sent))

    def _write(self, frame: list[Buffer], fd: int = -1) -> None:
        # A thread that prints may be writing just now.
        with self._capture.lock:
            self._outbox.send(frame, fd)
