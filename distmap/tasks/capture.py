"""Gathers what tasks print, and passes it on as Outputs.

Owns `OutputCapture`, and the bounds of prints at their source: a number of Outputs and of characters at once and per
second. (The other bound is the notebook's, in `driver/output.py`.) Knows no socket: it is given a function that passes
an Output on. `streams.py` writes to it. Imported by task processes.

The thread that printed a line passes it on before `print` returns: the line survives a crash in the next statement.
While too many lines come they are gathered, and a thread that ends with the surplus passes them on.
`OutputCapture.write` must be exception-safe at any bytecode (a signal handler of the task may raise) and re-entrant (a
finalizer may print): so it never waits, and each step that adds something is one bytecode.
"""

from __future__ import annotations

from _thread import RLock, start_new_thread
from collections import deque
from collections.abc import Callable, MutableSequence
from time import monotonic, sleep
from types import FrameType

from distmap.tasks.cells import CELL_AT
from distmap.wire.messages import OUTPUT_BYTES, OUTPUT_PIECES, Output, Task

# These bounds are here, not in core/limits.py: a task process does not import that, which would cost its start.

#: Outputs in one burst, and Outputs per second after it. An Output that goes with a report is not counted.
_OUTPUTS_BURST, _OUTPUTS_PER_SECOND = 20.0, 20.0
#: Characters in one burst (in UTF-8 a character has at most four bytes), and characters per second after it: the
#: notebook shows no more of a whole job.
_CHARACTERS_BURST, _CHARACTERS_PER_SECOND = OUTPUT_BYTES // 4, 200_000.0
#: Seconds between two partial showings of a line that is not complete: each one stays on the screen as a line.
_PARTIAL = 10.0

#: Passes an Output on with its text. The last argument: whether it may wait; False is given back if it would have to.
Emit = Callable[[Output, bytes, bool], bool]


class _Line:
    """The line of a stream that is not complete."""

    __slots__ = ("at", "bits", "overwritten", "shown", "size")

    def __init__(self) -> None:
        self.at = -1
        self.bits: list[str] = []
        self.size = 0
        #: It has a carriage return, as progress bars do: only what came last counts.
        self.overwritten = False
        self.shown = -_PARTIAL

    def add(self, text: str) -> None:
        if "\r" in text or self.overwritten:
            self.overwritten = True
            text = "".join((*self.bits, text))
            # One at its end leaves the line as it is until something is written over it.
            body = text.rstrip("\r")
            text = body.rpartition("\r")[2] + "\r" * (body != text)
            self.bits, self.size = [], 0
        self.bits.append(text)
        self.size += len(text)

    def take(self) -> str:
        """All of it, with a line end; empty if there is nothing to be seen."""
        text = _seen("".join(self.bits))
        empty = not text or (self.overwritten and text.isspace())
        self.bits, self.size, self.overwritten = [], 0, False
        return "" if empty else text + "\n"


def _seen(line: str) -> str:
    """What is left to be seen of a line that was overwritten."""
    return line.rstrip("\r").rpartition("\r")[2]


def _lines(text: str) -> int:
    return text.count("\n") + (text != "" and not text.endswith("\n"))


class OutputCapture:
    """Gathers what one process (or thread) prints, one attempt after the other.

    Args:
        emit: passes an Output on; called with the lock held.
        live: whether to pass on what is printed while items run; else only `flush` and `end` do.
    """

    def __init__(self, emit: Emit, *, live: bool = True) -> None:
        #: Held while something is passed on. Who sends reports the same way as Outputs holds it for that.
        self.lock = RLock()
        #: Called, if set, with the frame that printed, when its `write` is over.
        self.after_write: Callable[[FrameType], None] | None = None
        self._emit = emit
        self._live = live
        self._task: Task | None = None
        self._cells: MutableSequence[int] | memoryview = []
        self._used = False
        #: What was written and not looked at yet: stream, item, text (None: flush, empty: what follows is missing);
        #: about how much, and how many lines were too many.
        self._queue: deque[tuple[int, int, str | None]] = deque()
        self._queued = 0
        self._refused = 0
        self._torn = False
        # all below under the lock
        self._lines = (_Line(), _Line())
        #: Item, stream, texts.
        self._pieces: list[tuple[int, int, list[str]]] = []
        self._size = 0
        self._cut = 0
        self._told = 0
        self._outputs = _OUTPUTS_BURST
        self._room = float(_CHARACTERS_BURST)
        self._refilled = monotonic()
        #: A thread is there that passes on what is gathered.
        self._flushing = False

    def current(self) -> OutputCapture | None:
        """Itself while an attempt runs."""
        return None if self._task is None else self

    def begin(self, task: Task, cells: MutableSequence[int] | memoryview) -> None:
        """An attempt runs from now on; `cells` say at which item it is."""
        while self.lock._is_owned():  # type: ignore[attr-defined]  # an exception came in the one place where it matters
            self.lock.release()
        if self._used:
            with self.lock:
                # Printed by a finalizer or a thread while the last report was sent: it belongs to no attempt.
                self._cut += sum(text.count("\n") for _, _, text in self._queue if text is not None)
                self._queue.clear()
                self._queued, self._used = 0, False
        self.after_write = None
        self._cells, self._task = cells, task

    def flush(self) -> None:
        """Pass on all that was printed; may wait. With the lock held."""
        if self._used:
            self._used = False
            self._assemble()
            self._finish(0)
            self._finish(1)
            self._push(wait=True, forced=True)

    def end(self) -> None:
        """As `flush`; what is printed from now on is no attempt's."""
        self.flush()
        self._task = None

    def forked(self) -> None:
        """In a process that was forked: nothing of it is passed on."""
        self.lock = RLock()
        self._task = None

    # --- what is printed -----------------------------------------------------------------------------------------

    def write(self, stream: int, text: str | None) -> None:
        """Text for standard output (0) or error (1); None asks for a line that is not complete. From any thread."""
        task = self._task
        if task is None or not task.output or text == "":
            return
        self._used = True
        if self._queued > _CHARACTERS_BURST:
            if self._queue:  # the thread that passes it on is far behind
                # `print` writes a line and its end one after the other: what was taken of a line ends here.
                self._refused += 0 if text is None else text.count("\n")
                if not self._torn:
                    self._torn = True
                    self._queue.append((stream, self._cells[CELL_AT], ""))
                return
            self._queued = 0  # another thread was counting when it was reset
        self._queued += 1 if text is None else len(text)
        self._queue.append((stream, self._cells[CELL_AT], text))
        lock = self.lock
        if self._flushing or lock._is_owned():  # type: ignore[attr-defined]
            return  # it is being passed on by another thread, or by ourselves further up: it goes with what comes next
        try:
            if lock.acquire(False):
                self._assemble()
                if self._live:
                    self._push(wait=False)
        finally:
            if lock._is_owned():  # type: ignore[attr-defined]
                lock.release()
        if self._live and not self._flushing and self._waiting():
            self._start()

    def _waiting(self) -> bool:
        some = self._queue or self._pieces or self._refused + self._cut > self._told
        return self._task is not None and bool(some)

    def _start(self) -> None:
        self._flushing = True
        try:
            start_new_thread(self._keep_flushing, ())
        except RuntimeError:
            self._flushing = False  # no thread to be had: it goes with the next line or report

    def _keep_flushing(self) -> None:
        try:
            while True:
                with self.lock:
                    self._assemble()
                    pause = self._push(wait=True)
                if pause:
                    sleep(pause)
                    continue
                self._flushing = False  # clear first, then look: nothing is left lying
                if not self._waiting():
                    return
                self._flushing = True
        except OSError:
            pass  # the other end of the socket is gone

    # --- with the lock held --------------------------------------------------------------------------------------

    def _assemble(self) -> None:
        """Make pieces of whole lines from what was written."""
        self._refill()
        queue = self._queue
        while queue:
            stream, at, text = queue.popleft()
            line = self._lines[stream]
            if at != line.at:
                self._finish(stream)  # a line ends with its item
                line.at = at
            if text is None:
                if line.bits and self._refilled - line.shown >= _PARTIAL:
                    line.shown = self._refilled
                    self._finish(stream)
                continue
            if not text:
                self._torn = False
                self._finish(stream)
                continue
            whole, newline, rest = text.rpartition("\n")
            if newline:
                whole = "".join((*line.bits, whole))
                line.bits, line.size, line.overwritten = [], 0, False
                if "\r" in whole:
                    whole = "\n".join(map(_seen, whole.split("\n")))
                self._keep(stream, at, whole + "\n")
            if rest:
                line.add(rest)
                if line.size >= _CHARACTERS_BURST:
                    self._finish(stream)
        self._queued = 0

    def _finish(self, stream: int) -> None:
        line = self._lines[stream]
        if line.bits and (text := line.take()):
            self._keep(stream, line.at, text)

    def _keep(self, stream: int, at: int, text: str) -> None:
        """Have lines passed on, as far as they are not too much."""
        room = int(min(self._room, _CHARACTERS_BURST - self._size))
        if len(text) > room:
            end = text.rfind("\n", 0, room) + 1
            if not end and room > _CHARACTERS_BURST // 2:
                end = room  # one line that is larger than anything: its beginning
            self._cut += _lines(text[end:])
            text = text[:end]
        pieces = self._pieces
        if pieces and pieces[-1][0] == at and pieces[-1][1] == stream:
            pieces[-1][2].append(text)
        elif len(pieces) == OUTPUT_PIECES:
            self._cut += _lines(text)
            return
        elif text:
            pieces.append((at, stream, [text]))
        self._size += len(text)
        self._room -= len(text)

    def _refill(self) -> None:
        now = monotonic()
        passed, self._refilled = now - self._refilled, now
        self._outputs = min(_OUTPUTS_BURST, self._outputs + passed * _OUTPUTS_PER_SECOND)
        self._room = min(_CHARACTERS_BURST, self._room + passed * _CHARACTERS_PER_SECOND)

    def _push(self, *, wait: bool, forced: bool = False) -> float:
        """Pass on what is gathered, if one more may go now; gives the seconds until then."""
        task, dropped = self._task, self._refused + self._cut - self._told
        if task is None or not (self._pieces or dropped):
            return 0.0
        if self._outputs < 1.0 and not forced:
            return max(0.001, (1.0 - self._outputs) / _OUTPUTS_PER_SECOND)
        pieces, texts = [], []
        for at, stream, some in self._pieces:
            text = "".join(some).encode("utf-8", "replace")
            pieces.append((at, stream, len(text)))
            texts.append(text)
        if not self._emit(Output(task.slot, task.attempt, dropped, tuple(pieces)), b"".join(texts), wait):
            return 0.0
        # Forgotten only now: an exception in between says something twice, but swallows nothing.
        self._pieces, self._size = [], 0
        self._told += dropped
        self._outputs = max(0.0, self._outputs - 1.0)
        return 0.0
