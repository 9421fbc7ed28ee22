"""Values that Python's own C code pickles, without asking anybody how: numbers, text, tuples and flat records of them.

Owns which values these are, and how a whole chunk of them becomes one pickle. Nothing of theirs can fail to pickle or
unpickle, and nothing of the user's runs. Must not know the layout of chunks. Imported by task processes.

The one pickle has one memo: what two items have in common is one object again on the other side. Of what cannot be
changed nobody sees that; records, which can, are therefore pickled together only if no two items share one.
"""

from __future__ import annotations

import _pickle
import io
import sys
from collections.abc import Iterable, Sequence
from itertools import chain

from distmap.tasks._typing import Any
from distmap.tasks.payload import size

NUMBERS = frozenset({int, float, complex, bool, type(None)})
SCALARS = NUMBERS | {str, bytes}
#: NumPy's numbers that an array of their own type keeps as they are. A time has its unit, a subclass its type beside.
NUMPY_NUMBERS = frozenset(
    "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split()
)


def are_plain(values: Sequence[object]) -> bool:
    """Whether all values are scalars, or tuples of them."""
    kinds = set(map(type, values))
    if tuple in kinds:
        kinds.discard(tuple)
        nested: Iterable[Any] = [value for value in values if type(value) is tuple] if kinds else values
        kinds.update(map(type, chain.from_iterable(nested)))
    return kinds <= SCALARS


def fixed_size(value: Any) -> int | None:
    """The length of the text and bytes in what nothing can change any more; None if something can.

    That is: a plain value, a tuple of them, or a number of NumPy's.
    """
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind is tuple:
        size = 0
        for part in value:  # `all` would cost twice as much
            if type(part) in NUMBERS:
                continue
            if type(part) is not str and type(part) is not bytes:
                return None
            size += len(part)
        return size
    return 0 if kind in NUMBERS or (kind.__module__ == "numpy" and kind.__name__ in NUMPY_NUMBERS) else None


class _Asked(Exception):
    """The C pickler does not know by itself how to pickle something."""


class _Pickler(_pickle.Pickler):
    """Pickles exact builtin types, and nothing else."""

    def reducer_override(self, obj: object) -> Any:
        raise _Asked


class _Short(io.BytesIO):
    """Takes no more than numbers need: what else is among them, and large, is not pickled in vain."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._most = 16 * count + (64 << 10)

    def write(self, data: Any) -> int:
        if self.tell() + size(data) > self._most:
            raise _Asked
        return super().write(data)


def _size_of_few() -> int:
    pickler = _Pickler(io.BytesIO(), 5)
    pickler.dump([0])
    return sys.getsizeof(pickler)


#: A pickler that has noted few objects is as large as this.
_SMALL = _size_of_few()


#: So few values are looked at sooner than a pickler is made that does it.
_FEW = 8


def dump_plain(values: list[Any] | tuple[Any, ...]) -> bytes | None:
    """One pickle of all values if they are plain, or records that may be pickled together; else None."""
    if len(values) <= _FEW and are_plain(values):
        return _pickle.dumps(values, 5)
    pickled, numbers = _dump_as_numbers(values)
    if numbers:
        return pickled
    kind = type(values[0])
    if kind is dict or kind is list:
        return _dump_records(values, kind)
    if not (are_plain(values[:1]) and are_plain(values)):
        return None
    return _pickle.dumps(values, 5) if pickled is None else pickled


def dump_numbers(values: list[Any] | tuple[Any, ...]) -> bytes | None:
    """One pickle of all values if they are numbers, None or (), but not complex; else None."""
    pickled, numbers = _dump_as_numbers(values)
    return pickled if numbers else None


def _dump_as_numbers(values: list[Any] | tuple[Any, ...]) -> tuple[bytes | None, bool]:
    """One pickle of all values, if they begin with a number, and whether these are all numbers, None or ().

    To look at each type would take longer than the pickle, which shows by itself what it holds: the pickler notes
    every object but these. If it has noted the list and nothing else, these are all.
    """
    if values and type(values[0]) not in NUMBERS:
        return None, False
    file = _Short(len(values))
    pickler = _Pickler(file, 5)
    try:
        pickler.dump(values)
    except _Asked:
        return None, False
    # What it has noted is a copy: not of many objects, if there are others.
    few = sys.getsizeof(pickler) == _SMALL and len(pickler.memo.copy()) <= 1
    return file.getvalue(), few


def _dump_records(values: list[Any] | tuple[Any, ...], kind: type) -> bytes | None:
    """Dicts, or lists, of scalars. A key is something that does not change, or it is refused."""
    if set(map(type, values)) != {kind}:
        return None
    for some in values[:1], values:  # the first one tells most often
        parts = chain.from_iterable(map(dict.values, some) if kind is dict else some)
        if not set(map(type, parts)) <= SCALARS:
            return None
    if len(set(map(id, values))) < len(values):
        return None
    file = io.BytesIO()
    try:
        _Pickler(file, 5).dump(values)
    except _Asked:
        return None
    return file.getvalue()
