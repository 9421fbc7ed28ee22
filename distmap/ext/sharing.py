"""What the tasks of one call have in common: each such value is sent once to each worker.

Owns which arguments are worth it, and what stands for them on the way. Must not know whose tasks they are.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from distmap.pool import Pool
from distmap.tasks.broadcast import Broadcast


class Shared:
    """The arguments that tasks of one call have in common, by identity: each is sent once to each worker.

    A value is sent with the first task that has it, as most values are used once, and becomes a broadcast with the
    second one.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._seen: dict[int, weakref.ref[Any]] = {}
        #: With the values, whose ids must not be given to others meanwhile.
        self._lifted: dict[int, tuple[Any, Lifted]] = {}

    def lift(self, value: Any, depth: int = 3) -> Any:
        """The value, or what stands for it on the way. Looks into lists, tuples and dictionaries of arguments."""
        kind = type(value)
        if kind in _SMALL:
            return value
        if depth and kind in (tuple, list, dict) and 0 < len(value) <= _MANY:
            found = [self.lift(one, depth - 1) for one in _members(value)]
            if all(new is old for new, old in zip(found, _members(value), strict=True)):
                return value
            return dict(zip(value, found, strict=True)) if kind is dict else kind(found)
        if not is_worth_lifting(value):
            return value
        with self._lock:
            known = self._lifted.get(id(value))
            if known is None:
                seen = self._seen.get(id(value))
                if seen is None or seen() is not value:
                    self._note(value)
                    return value
                known = self._lifted[id(value)] = (value, Lifted(self._pool.broadcast(value)))
        return known[1]

    def _note(self, value: Any) -> None:
        try:
            self._seen[id(value)] = weakref.ref(value)
        except TypeError:  # it must be sent each time, as it may be another one with this id
            return
        if len(self._seen) > _NOTED:
            self._seen = {key: ref for key, ref in self._seen.items() if ref() is not None}

    def clear(self) -> None:
        """Forget them: the call is over."""
        with self._lock:
            self._seen, self._lifted = {}, {}


class Lifted:
    """Stands for a value on its way to a task, which gets the value itself."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Broadcast) -> None:
        self._handle = handle

    def __reduce__(self) -> tuple[Callable[[Broadcast], Any], tuple[Broadcast]]:
        return _value_of, (self._handle,)


def _value_of(handle: Broadcast) -> Any:
    return handle.value


#: Types that are never worth it; members of a list that are looked at; values that are remembered before dead ones go.
_SMALL = frozenset({int, float, bool, str, bytes, complex, type(None)})
_MANY = 32
#: Bytes from which on a value that several tasks have is sent once; as joblib's own `max_nbytes`.
_LARGE = 1 << 20
_NOTED = 1000
#: Packages whose objects tell their size.
_SIZED = frozenset({"numpy", "pandas", "scipy", "polars", "xarray", "pyarrow"})


def _members(value: Any) -> Iterator[Any]:
    return iter(value.values() if type(value) is dict else value)


def is_worth_lifting(value: Any) -> bool:
    """Whether it costs more to send than to send a reference: large arrays and frames, functions that travel whole."""
    if isinstance(value, FunctionType):
        return value.__module__ == "__main__" or "<locals>" in value.__qualname__
    return type(value).__module__.partition(".")[0] in _SIZED and size_of(value) >= _LARGE


def size_of(value: Any) -> int:
    """Bytes of an array, frame or sparse matrix; 0 of anything else."""
    ways: tuple[Callable[[], Any], ...] = (
        lambda: value.nbytes,  # NumPy, xarray, pyarrow
        lambda: sum(value.memory_usage(deep=False)),  # pandas.DataFrame
        lambda: value.memory_usage(),  # pandas.Series
        lambda: value.estimated_size(),  # polars
        lambda: value.data.nbytes + value.indices.nbytes,  # scipy.sparse
    )
    for way in ways:
        try:
            return int(way())
        except (AttributeError, TypeError):
            continue
    return 0
