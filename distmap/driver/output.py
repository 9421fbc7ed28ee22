"""What the tasks of one job print, on its way to the cell that started the job.

Owns `OutputRouter`. It tags each line with its worker, limits the total rate to what a front end can show, counts the
lines that it drops, and writes the rest to `sys.stdout` and `sys.stderr` in the context of the cell: in a notebook
that context decides in which cell the text appears. Workers send this text, so its control characters are escaped.

Threads: `put` and `report_dropped` run on the loop's thread and never wait. `show` writes; any thread may call it.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import TYPE_CHECKING

from distmap.tasks._typing import NamedTuple
from distmap.views.base import TextSink, write_text

if TYPE_CHECKING:
    from distmap.views.base import View

log = logging.getLogger("distmap")

#: Bytes of one job a second, and at once. A notebook's server drops output beyond 1 MB/s in three seconds.
RATE = 200_000
BURST = 3 * RATE
#: Most entries, and about how many characters, that one write has.
_MANY, _BATCH = 1000, 64 << 10

_STREAMS = ("stdout", "stderr")
_NO_CONTROLS = bytes(c for c in range(32) if c not in b"\t\n") + b"\x7f"
# C0 and C1 controls, what breaks lines elsewhere, and what turns the direction of text.
_WILD = (range(9), range(11, 32), range(127, 160), range(0x2028, 0x202F), range(0x2066, 0x206A))
_TAME = {c: repr(chr(c))[1:-1] for some in _WILD for c in some}


class _Entry(NamedTuple):
    context: Context | None
    stream: int
    tag: str
    data: bytes
    #: About how many bytes it has when it is written.
    cost: int


class OutputRouter:
    """The output of one job. Make it in the thread and context of the cell.

    Args:
        item: tags name the item, too.
        context: gives the context of an item by its chunk and offset, where each has its own; on the loop's thread.
    """

    def __init__(self, *, item: bool = False, context: Callable[[int, int], Context | None] | None = None) -> None:
        self._item = item
        self._home = contextvars.copy_context()
        self._context_of = context
        self._write: Callable[[str, str], None] = write_text
        self._entries: deque[_Entry] = deque()
        #: Held while entries are added (loop) or taken (any thread); never while something is written.
        self._lock = threading.Lock()
        #: Held while a thread writes. Reentrant: a stream of the user may come back here.
        self._writing = threading.RLock()
        self._held = 0
        self._credit = float(BURST)
        self._filled = 0.0
        self._dropped = 0
        self._notified = False
        self._broken = False

    def write_by(self, view: View | None) -> None:
        """From now on write by way of the view, if it draws where text is written."""
        if isinstance(view, TextSink):
            self._write = view.write

    # --- on the loop's thread ----------------------------------------------------------------------------------------

    def put(
        self,
        now: float,
        worker: str,
        chunk: int,
        start: int | None,
        dropped: int,
        pieces: Iterable[tuple[int, int, bytes]],
    ) -> bool:
        """Take what a worker sent of a chunk; True if somebody must be asked to call `show`.

        Args:
            now: seconds of a monotonic clock.
            start: index of the chunk's first item; None if it is forgotten, as all of it was delivered.
            dropped: lines that were left out already.
            pieces: offset of the item (-1: none), 0 or 1 for standard output or error, text in UTF-8.
        """
        self._credit = min(float(BURST), self._credit + max(0.0, now - self._filled) * RATE)
        self._filled = now
        new, taken = [], 0
        for at, stream, data in pieces:
            item = f" #{start + at}" if self._item and start is not None and at >= 0 else ""
            tag = f"[{worker}{item}] "
            kept, cost = self._fit(tag, data, min(self._credit, BURST - self._held - taken))
            dropped += _lines(data) - _lines(kept)
            if kept:
                context = None if self._context_of is None or at < 0 else self._context_of(chunk, at)
                new.append(_Entry(context, 1 if stream else 0, tag, kept, cost))
                self._credit -= cost
                taken += cost
        with self._lock:
            self._entries.extend(new)
            self._held += taken
            self._dropped += dropped
        return bool(new) and self._notify()

    def _fit(self, tag: str, data: bytes, room: float) -> tuple[bytes, int]:
        """The lines that have room, and what they cost. Tags count, and controls become longer."""
        controls = len(data) - len(data.translate(None, _NO_CONTROLS))
        cost = len(data) + 3 * controls + len(tag) * _lines(data)
        if cost <= room:
            return data, cost
        kept = data[: data.rfind(b"\n", 0, max(0, int(len(data) * room / cost))) + 1]
        return kept, cost * len(kept) // len(data)

    def _notify(self) -> bool:
        before, self._notified = self._notified, True
        return not before

    @property
    def has_unreported(self) -> bool:
        """Lines were dropped, and no line reports that yet."""
        return self._dropped > 0

    def report_dropped(self) -> bool:
        """Add a line with the number of dropped lines; True if somebody must be asked to call `show`."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            if not dropped:
                return False
            from distmap.views.words import counted

            text = f"{counted(dropped, 'line')} of output dropped (more than {RATE // 1000} kB/s)\n"
            self._entries.append(_Entry(None, 1, "[distmap] \N{HORIZONTAL ELLIPSIS} ", text.encode(), 0))
        return self._notify()

    # --- on any thread -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Something is there to be shown."""
        return bool(self._entries)

    def show(self, *, last: bool = False) -> None:
        """Write what is there. `last`: nothing follows. The first exception of a stream is logged."""
        if last:
            if not self._entries and not self._dropped:
                return  # an entry leaves only once it is written
            self.report_dropped()
        self._notified = False  # clear first, then empty, so that no entry is left behind
        with self._writing:
            while (count := self._batch()) is not None:
                with self._lock:
                    for _ in range(count):
                        self._held -= self._entries.popleft().cost

    def _batch(self) -> int | None:
        """Write the next entries of one stream and context; gives how many they were, None if there are none."""
        with self._lock:
            entries = list(itertools.islice(self._entries, _MANY))
        if not entries:
            return None
        first, texts, size = entries[0], list[str](), 0
        for entry in entries:
            if entry.context is not first.context or entry.stream != first.stream or size > _BATCH:
                break
            texts.append(_tagged(entry.tag, entry.data))
            size += len(texts[-1])
        # A copy, as a context cannot be entered twice: two threads may write at a time, of two jobs of one cell.
        context = (first.context or self._home).copy()
        try:
            context.run(self._write, "".join(texts), _STREAMS[first.stream])
        except Exception as error:
            if not self._broken:
                log.warning("! what tasks print cannot be written here: %s: %s", type(error).__name__, error)
            self._broken = True
        return len(texts)


def _lines(data: bytes) -> int:
    return data.count(b"\n") + (data != b"" and not data.endswith(b"\n"))


def _tagged(tag: str, data: bytes) -> str:
    text = data.decode("utf-8", "replace").removesuffix("\n").translate(_TAME)
    tag = tag.replace("\n", " ").translate(_TAME)
    return tag + text.replace("\n", "\n" + tag) + "\n"
