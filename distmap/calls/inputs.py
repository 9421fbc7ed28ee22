"""How the items of a job are taken from what the user passed, a few at a time.

Slices an input if its slices give the same items as iteration; otherwise takes items from its iterator. `len()` is only
a hint: iteration decides which items there are. Must not know the scheduler; of pickling it knows only when it is due.
NumPy is not imported: arrays are recognised by their type.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from distmap.core.limits import LIMITS
from distmap.driver.jobs import ReadItems
from distmap.tasks.items import dump_items
from distmap.tasks.payload import Payload
from distmap.tasks.plain import NUMBERS, SCALARS, dump_numbers, fixed_size

if TYPE_CHECKING:
    from distmap.calls.batches import Rows

#: Pickles the items of a read. What an iterator gives may be changed by it when the next one is asked for, so such
#: items are handed over one by one, by an iterator that asks for the next when this one was pickled.
Take = Callable[[Any], Any]


class Input(Protocol):
    """Items in order. `size`: how many there should be, a hint; None: nobody knows. Only 0 is sure."""

    size: int | None
    #: True: a read runs no iterator of the user's, so it neither waits nor has effects that others see.
    prompt: bool

    def read(self, count: int, take: Take = list) -> tuple[Any, int, bool]:
        """What `take` makes of the next items, at most `count`; how many they are; whether the input is exhausted."""

    def behind(self, index: int, count: int) -> Any:
        """At most `count` items behind this index, read or not; None if looking at them would use them up."""


class Sliced:
    """A list, tuple or range, or a NumPy array by its first axis (views, no copy): slices give what iteration gives."""

    prompt = True

    def __init__(self, data: Any) -> None:
        self._data = data
        self._at = 0
        self.size: int | None = len(data)
        #: Whether `read_plain` may find anything.
        self.plain = type(data) is range or (type(data) in (list, tuple) and is_quick(data[:1]))

    def read_plain(self, count: int) -> ReadItems | None:
        """As `read`, if the items are plain values, few of them and small; else None, and they are still to be read.

        On the loop, while nobody reads: it takes a fraction of a millisecond, and runs no code of the user's.
        """
        if not self.plain or (count > LIMITS.loop_read_items and type(self._data) is not range):
            return None
        items = self._data[self._at : self._at + count]
        numbers = None if type(items) is range else dump_numbers(items)
        if numbers is not None:
            payload = Payload(numbers)
        elif type(items) is range or is_quick(items):
            payload, _ = dump_items(items)
        else:
            self.plain = False  # the next ones will not be, either
            return None
        self._at += len(items)
        return ReadItems(payload, (), len(items), self._at >= len(self._data))

    def read(self, count: int, take: Take = list) -> tuple[Any, int, bool]:
        items = self._data[self._at : self._at + count]
        self._at += len(items)
        # Of a list that changes meanwhile this gives what its iterator would.
        return take(items), len(items), self._at >= len(self._data)

    def behind(self, index: int, count: int) -> Any:
        return self._data[index + 1 : index + 1 + count]


class Pulled:
    """An iterator that is read only as far as needed. It may be infinite."""

    prompt = False

    def __init__(self, items: Iterable[Any], size: int | None = None) -> None:
        self._items: Iterator[Any] = iter(items)
        self.size = size or None
        #: Of the read that is under way.
        self._given = 0
        self._ended = False

    def read(self, count: int, take: Take = list) -> tuple[Any, int, bool]:
        deadline = time.monotonic() + LIMITS.read_seconds
        items: list[Any] = []
        nbytes, most = 0, LIMITS.chunk_bytes
        # In growing blocks, so that a slow source gives what it has after a moment and a quick one costs no clock.
        while True:
            wanted, fixed = min(2 * len(items) or 1, count), True
            try:
                for item in itertools.islice(self._items, wanted - len(items)):
                    if type(item) in NUMBERS:
                        items.append(item)
                        continue
                    size = fixed_size(item)
                    if size is None:
                        fixed = False
                        break
                    items.append(item)
                    nbytes += size
                    if nbytes >= most:  # what was read before says nothing of the size of these
                        return take(items), len(items), False
            except Exception as error:  # the iterator's
                if not items:
                    raise
                self._items = failing(error)
                return take(items), len(items), False
            if not fixed:
                self._given = len(items) + 1
                taken = take(itertools.chain(items, self._one_by_one(item, count, deadline)))
                return taken, self._given, self._ended
            self._ended = len(items) < wanted
            if self._ended or wanted == count or time.monotonic() >= deadline:
                return take(items), len(items), self._ended

    def behind(self, index: int, count: int) -> Any:
        return None

    def _one_by_one(self, item: Any, count: int, deadline: float) -> Iterator[Any]:
        """This item and those behind it: the next one is asked for when whoever takes them has pickled the last."""
        yield item
        clock, given = time.monotonic, self._given
        try:
            for item in itertools.islice(self._items, count - given):
                given += 1
                yield item
                if clock() >= deadline:
                    break
            else:
                self._ended = given < count
        except Exception as error:
            self._items = failing(error)
        self._given = given


class AsyncPulled(Pulled):
    """An async iterable that is read only as far as needed. It may be infinite."""

    def __init__(self, items: AsyncIterable[Any]) -> None:
        from distmap.calls.async_inputs import Bridge

        bridge = Bridge(items)
        super().__init__(bridge)
        self.check_wait, self.close = bridge.check_wait, bridge.close


def is_quick(items: Sequence[Any]) -> bool:
    """Whether these are numbers, short text, and tuples of such: pickling them takes little time and no user's code."""
    kinds = set(map(type, items))
    if tuple in kinds:
        items = list(itertools.chain.from_iterable([item if type(item) is tuple else (item,) for item in items]))
        kinds = set(map(type, items))
    if not kinds <= SCALARS or len(items) > 4 * LIMITS.loop_read_items:
        return False
    if kinds <= NUMBERS:
        return True
    return sum([len(item) for item in items if type(item) not in NUMBERS]) <= LIMITS.loop_read_bytes


def failing(error: BaseException) -> Iterator[Any]:
    """What an iterator becomes that raised after it had given items: these count, the next read raises."""
    raise error
    yield


class Batches:
    """Row slices of what has rows; each slice is one item."""

    prompt = True

    def __init__(self, rows: Rows, batch_size: int) -> None:
        self._rows = rows
        self._batch = batch_size
        self._at = 0
        self.size: int | None = -(-rows.length // batch_size)

    def read(self, count: int, take: Take = list) -> tuple[Any, int, bool]:
        lo, length = self._at, self._rows.length
        self._at = hi = min(lo + count * self._batch, length)
        batches = self._cut(lo, hi)
        return take(batches), len(batches), hi == length

    def behind(self, index: int, count: int) -> Any:
        lo = (index + 1) * self._batch
        return self._cut(lo, min(lo + count * self._batch, self._rows.length))

    def _cut(self, lo: int, hi: int) -> list[Any]:
        return [self._rows.cut(at, min(at + self._batch, hi)) for at in range(lo, hi, self._batch)]


def check_wait(source: Input | None, call: str) -> None:
    """Raise RuntimeError if this thread must not wait for the call: its input runs on the event loop of this thread."""
    if isinstance(source, AsyncPulled):
        source.check_wait(f"{call}()")


def length_of(data: Any) -> int | None:
    """What `len` says; None if it says nothing or raises, as that of a sparse matrix does."""
    try:
        return len(data)
    except Exception:  # of the user's class: any
        return None


def _is_array(data: Any) -> bool:
    """A NumPy array with at least one axis, and no subclass, which may iterate otherwise."""
    kind = type(data)
    return kind.__module__ == "numpy" and kind.__name__ == "ndarray" and data.ndim > 0


def _is_async(data: Any) -> bool:
    """It can be iterated over by `async for` only."""
    return hasattr(type(data), "__aiter__") and not hasattr(data, "__iter__")


def from_iterables(iterables: Sequence[Any], *, snapshot: bool = False) -> Input:
    """The input of `map(fn, *iterables)`: items of the one iterable, or tuples of several, as the built-in `map`.

    Args:
        snapshot: copy a list first, because the caller goes on and may change it.

    Raises:
        TypeError: one of them is not iterable; says which.
    """
    for number, iterable in enumerate(iterables, 1):
        if _is_async(iterable):
            if len(iterables) == 1:
                return AsyncPulled(iterable)
            raise TypeError(
                f"argument {number} after the function is {type(iterable).__name__}, an async iterable, which is taken "
                "alone only; let one async generator give tuples and use starmap_async"
            )
        if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__getitem__"):
            raise TypeError(
                f"argument {number} after the function is {type(iterable).__name__}, which is not iterable; "
                "pass the data as a list, array, range, generator or any other iterable"
            )
    if len(iterables) > 1:
        sizes = [length_of(one) for one in iterables]
        known = [size for size in sizes if size is not None]
        return Pulled(zip(*iterables, strict=False), min(known) if len(known) == len(sizes) else None)
    (data,) = iterables
    if type(data) is list:
        return Sliced(data[:] if snapshot else data)
    if type(data) in (tuple, range) or _is_array(data):
        return Sliced(data)
    return Pulled(data, length_of(data))


def from_batches(data: Any, batch_size: int | None, slots: int) -> tuple[Input, int]:
    """The input of `map_batches`: slices of `batch_size` rows; by default four for each slot. Also that size.

    What has no rows is iterated over, and its batches are lists of items; 1024 of them where their number is not known.

    Raises:
        TypeError: it can neither be cut nor iterated over.
    """
    from distmap.calls.batches import WHAT_HAS_ROWS, rows_of

    rows = rows_of(data)
    count = length_of(data) if rows is None else rows.length
    size = batch_size or (1024 if count is None else max(1, -(-count // (4 * max(1, slots)))))
    if rows is not None:
        return Batches(rows, size), size
    try:
        items = iter(data)
    except TypeError:
        raise TypeError(
            f"map_batches cannot cut a {type(data).__name__}, nor iterate over it. It cuts {WHAT_HAS_ROWS}; "
            "of any other iterable it makes lists"
        ) from None
    return Pulled(_batched(items, size), None if count is None else -(-count // size)), size


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
