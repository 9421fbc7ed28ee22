"""How the items of a job are taken from what the user passed, a few at a time.

Owns slicing of sequences, arrays and frames, and pulling from iterators. Knows neither pickles nor the scheduler.
NumPy and pandas are recognised by what they are, never imported.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Protocol

#: A read of an iterator ends after so many seconds, with at least one item.
PATIENCE = 0.020


class Input(Protocol):
    """Items in order. `size` is None while their number is unknown."""

    size: int | None

    def read(self, count: int) -> tuple[Sequence[Any], bool]:
        """The next items, at most `count`, and whether the input is now exhausted."""


class Sliced:
    """A sequence that is cut by slicing: a list, tuple, range, or the first axis of a NumPy array (views, no copy)."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._at = 0
        self.size: int | None = len(data)

    def read(self, count: int) -> tuple[Sequence[Any], bool]:
        assert self.size is not None
        lo = self._at
        self._at = hi = min(lo + count, self.size)
        return self._data[lo:hi], hi == self.size


class Pulled:
    """An iterator that is read only as far as needed. It may be infinite."""

    def __init__(self, items: Iterable[Any], size: int | None = None) -> None:
        self._items: Iterator[Any] = iter(items)
        self.size = size
        self._left = size

    def read(self, count: int) -> tuple[Sequence[Any], bool]:
        items: list[Any] = []
        began, ended = time.monotonic(), False
        # In growing blocks, so that a slow source gives what it has after a moment and a quick one costs no clock.
        while len(items) < count and not ended and time.monotonic() - began < PATIENCE:
            wanted = min(max(1, len(items)), count - len(items))
            block = list(itertools.islice(self._items, wanted))
            items += block
            ended = len(block) < wanted
        if self._left is not None:
            # A length that turns out wrong is believed to the end of the iterator, not beyond it.
            self._left -= len(items)
            ended = ended or self._left <= 0
        return items, ended


class Batches:
    """Row slices of a sequence, array or frame; each slice is one item."""

    def __init__(self, data: Any, batch_size: int) -> None:
        self._rows = data.iloc if hasattr(data, "iloc") else data
        self._length = len(data)
        self._batch = batch_size
        self._at = 0
        self.size: int | None = -(-self._length // batch_size)

    def read(self, count: int) -> tuple[Sequence[Any], bool]:
        lo = self._at
        self._at = hi = min(lo + count * self._batch, self._length)
        return [self._rows[at : min(at + self._batch, hi)] for at in range(lo, hi, self._batch)], hi == self._length


def is_array(value: object) -> bool:
    """A NumPy array with at least one axis (NumPy need not be installed to ask)."""
    return any(base.__module__ == "numpy" and base.__name__ == "ndarray" for base in type(value).__mro__) and bool(
        getattr(value, "ndim", 0)
    )


def from_iterables(iterables: Sequence[Any], *, snapshot: bool = False) -> Input:
    """The input of `map(fn, *iterables)`: items of the one iterable, or tuples of several, as the built-in `map`.

    Args:
        snapshot: copy a list first, because the caller goes on and may change it.
    Raises:
        TypeError: one of them is not iterable; says which.
    """
    for number, iterable in enumerate(iterables, 1):
        if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__getitem__"):
            raise TypeError(
                f"argument {number} after the function is {type(iterable).__name__}, which is not iterable; "
                "pass the data as a list, array, range, generator or any other iterable"
            )
    if len(iterables) > 1:
        sizes = [len(one) if isinstance(one, Sized) else None for one in iterables]
        known = [size for size in sizes if size is not None]
        return Pulled(zip(*iterables, strict=False), min(known) if len(known) == len(sizes) else None)
    (data,) = iterables
    if type(data) is list:
        return Sliced(data[:] if snapshot else data)
    if type(data) in (tuple, range) or is_array(data):
        return Sliced(data)
    return Pulled(data, len(data) if isinstance(data, Sized) else None)


def from_batches(data: Any, batch_size: int | None, slots: int) -> Input:
    """The input of `map_batches`: slices of `batch_size` rows; by default four for each slot."""
    if (
        hasattr(data, "__len__")
        and (hasattr(data, "iloc") or hasattr(data, "__getitem__"))
        and not isinstance(data, dict)
    ):
        size = batch_size or max(1, -(-len(data) // (4 * max(1, slots))))
        return Batches(data, size)
    return Pulled(_batched(iter(data), batch_size or 1024))


def nothing_of(data: Any) -> Any:
    """The result of `map_batches` when there is no batch: no rows of an array or frame, else an empty list.

    What `fn` would have made of it nobody knows, so types and columns are those of the data. A copy, which does not
    keep the data.
    """
    if hasattr(data, "iloc"):
        return data.iloc[:0].copy()
    return data[:0].copy() if is_array(data) else []


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
