"""The input of a call with a checkpoint: known items are left out, and their results are delivered at once.

Owns what was read from the input and not handed on yet, and how far known items may run ahead of their consumer. Must
not know the scheduler. In the thread that reads the input; `consumed` and `open_wide` in any thread.

A chunk holds neighbours only, so a known item ends it. To compare many items at once they are read ahead of what is
asked for. That may not be done with what an iterator gives, which it may change for the next one: such items are
pickled one by one as they come, and kept as pickles.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from distmap.calls.inputs import Input
from distmap.calls.results import Recalled
from distmap.checkpoint.keys import Keyer
from distmap.checkpoint.known import Dumped, Known, Run
from distmap.checkpoint.reader import ReportReader
from distmap.core.limits import LIMITS
from distmap.tasks._typing import NamedTuple
from distmap.tasks.items import dump_alone, dump_items, join_items
from distmap.tasks.payload import Blob, Payload


class Unknown(NamedTuple):
    """The next chunk: unknown neighbours. `count` is 0 only where the input ends."""

    payload: Payload
    blobs: tuple[Blob, ...]
    count: int  # type: ignore[assignment]
    last: bool
    #: Index of the first of them.
    start: int
    keys: bytes


class Piece(NamedTuple):
    """A run with its items, if these are unknown."""

    run: Run
    items: Any = ()
    keys: tuple[bytes | None, ...] = ()


class Bounds(NamedTuple):
    """How many items may be under way; None: no such bound.

    Attributes:
        look: items of an iterator that may be read ahead of what is asked for.
        room: items that may be read and not consumed, known ones included.
        ahead: known items that may be delivered and not consumed.
    """

    look: int | None = None
    room: int | None = None
    ahead: int | None = None


#: Nothing to hand on yet: ask again at once, after other messages; or when the consumer has taken something.
AGAIN, LATER = "again", "later"


class Recall:
    """Reads the unknown items of an input.

    Args:
        deliver: takes the results of known items.
        count: is told how many items are known.
    """

    def __init__(
        self,
        source: Input,
        known: Known,
        keyer: Keyer,
        reader: ReportReader,
        deliver: Callable[[Recalled], object],
        count: Callable[[int], object],
        bounds: Bounds,
    ) -> None:
        self._source, self._known, self._keyer, self._reader = source, known, keyer, reader
        self._deliver, self._count = deliver, count
        self._look, self._room, self._ahead = bounds
        #: Index of the next item of the input.
        self._at = 0
        self._pieces: deque[Piece] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._lock = threading.Lock()
        #: Items that were handed on and not consumed: all, and the known ones among them.
        self._open = self._open_known = 0
        self._waiting: Callable[[], object] | None = None

    def read(self, most: int) -> Unknown | str:
        """The next unknown items, at most `most`; AGAIN or LATER if there are none yet.

        Raises:
            CheckpointChanged: an item changed.
            Exception: what the input raised.
        """
        deadline = time.monotonic() + LIMITS.read_seconds
        while True:
            while self._pieces:
                piece = self._pieces[0]
                room = self._has_room(known=piece.run.report != 0)
                if room <= 0:
                    return LATER
                if not piece.run.report:
                    return self._hand_on(min(most, room))
                self._hand_over(room)
                if time.monotonic() >= deadline:
                    return AGAIN
            if self._ended:
                return Unknown(Payload(b""), (), 0, True, self._at, b"")
            if self._error is not None:
                raise self._error
            self._read_on(most)

    # --- handing on ---------------------------------------------------------------------------------------------------

    def _hand_on(self, most: int) -> Unknown:
        """Unknown items become a chunk."""
        piece = self._pieces.popleft()
        run, items, keys = piece
        if run.count > most:
            rest = run._replace(first=run.first + most, count=run.count - most)
            self._pieces.appendleft(Piece(rest, items[most:], keys[most:]))
            run, items, keys = run._replace(count=most), items[:most], keys[:most]
        if _is_dumped(items):
            payload, blobs = join_items([item.dumped for item in items])
            joined = b"".join([item.key for item in items])
        else:
            payload, blobs = dump_items(items)
            joined = self._keys(items, keys)
        with self._lock:
            self._open += run.count
        return Unknown(payload, blobs, run.count, self._ended and not self._pieces, run.first, joined)

    def _keys(self, items: Any, keys: tuple[bytes | None, ...]) -> bytes:
        if (block := self._keyer.block(items)) is not None:
            return block
        item = self._keyer.item
        if not any(keys):
            return b"".join([item(value) for value in items])
        return b"".join([key or item(value) for key, value in zip(keys, items, strict=True)])

    def _hand_over(self, most: int) -> None:
        """Known items are delivered, at most so many."""
        run = self._pieces.popleft().run
        if run.count > most:
            self._pieces.appendleft(
                Piece(run._replace(first=run.first + most, count=run.count - most, at=run.at + most))
            )
            run = run._replace(count=most)
        with self._lock:
            self._open += run.count
            self._open_known += run.count
        self._count(run.count)
        self._deliver(Recalled(run.first, run.count, run.report, run.at, self._reader))

    # --- how far it goes ahead ----------------------------------------------------------------------------------------

    def _has_room(self, *, known: bool) -> int:
        """How many items may be handed on now."""
        with self._lock:
            room = LIMITS.chunk_items if self._room is None else self._room - self._open
            if known and self._ahead is not None:
                room = min(room, self._ahead - self._open_known)
            return room

    def wait(self, wake: Callable[[], object]) -> None:
        """Call `wake()` when something was consumed; at once if something was meanwhile."""
        with self._lock:
            full = self._room is not None and self._open >= self._room
            full = full or (self._ahead is not None and self._open_known >= self._ahead)
            if full:
                self._waiting = wake
                return
        wake()

    def consumed(self, count: int, *, known: bool) -> None:
        """Items were taken by the consumer."""
        with self._lock:
            self._open -= count
            self._open_known -= count if known else 0
            wake, self._waiting = self._waiting, None
        if wake is not None:
            wake()

    def open_wide(self) -> None:
        """There is no consumer any more: nothing is waited for."""
        with self._lock:
            self._room = self._ahead = None
        self.consumed(0, known=True)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read_on(self, most: int) -> None:
        """Read items and compare them with the file.

        Of an iterator, which may wait for results, no more than the user lets a chunk have; a block, which was read in
        one go before, is waited for a moment.
        """
        wanted, is_block = self._known.stretch(self._at, most)
        if not (is_block or self._source.prompt or self._look is None):
            wanted = min(wanted, max(most, self._look))
        deadline = time.monotonic() + LIMITS.checkpoint_block_seconds
        held: Any = None
        while (have := 0 if held is None else len(held)) < wanted and not self._ended:
            try:
                items, _, self._ended = self._source.read(wanted - have, self._take)
            except Exception as error:  # of the input: what came before it counts
                if held is None:
                    raise
                self._error = error
                break
            dumped = _is_dumped(items)
            if held is None or dumped or type(held) is not list or type(items) is not list:
                self._compare(held)
                held = items
            else:
                held += items
            if dumped or type(held) is not list or not is_block or time.monotonic() >= deadline:
                break
        self._compare(held)

    def _take(self, items: Any) -> Any:
        if not hasattr(items, "__next__"):
            return items
        item = self._keyer.item
        return [Dumped(item(value), dump_alone(value), f"<{type(value).__qualname__}>") for value in items]

    def _compare(self, items: Any) -> None:
        if items is None or not len(items):
            return
        first, count = self._at, len(items)
        self._at += count
        keys: list[bytes | None] = [item.key for item in items] if _is_dumped(items) else [None] * count
        for run in self._known.runs(first, items, keys):
            lo, hi = run.first - first, run.first - first + run.count
            piece = Piece(run) if run.report else Piece(run, items[lo:hi], tuple(keys[lo:hi]))
            self._pieces.append(piece)


def _is_dumped(items: Any) -> bool:
    return type(items) is list and len(items) > 0 and type(items[0]) is Dumped
