"""Chunks as bytes: the encoding of items and results, the same in both directions.

Owns the layout of a chunk. One pair, `encode` and `Items`, serves items and results alike. Must not know tasks, slots
or connections. Imported by task processes, so it stays light.

A chunk is a *whole* (one pickle of a range, an array or plain values) or *single* (a pickle per item, so that one bad
item does not lose the others). Single head: b"i", the pickles, the pickled table, 8 bytes: where it begins. A folded
result: b"f", then a head of one value, then its failures.
"""

from __future__ import annotations

import _pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain

from distmap.tasks._typing import Any, Buffer, NamedTuple
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.failures import Failure, describe, failed_to_travel, short_repr
from distmap.tasks.modules import loaded
from distmap.tasks.payload import Blob, Payload
from distmap.tasks.picklers import UNPICKLABLE, Definitions, loading
from distmap.tasks.pickling import Writer, dump_small, dump_value
from distmap.tasks.plain import NUMPY_NUMBERS, are_plain, dump_plain

#: Arrays below this size travel stacked. Each is then a view of the chunk's memory, which lives as long as one of them.
_STACKED = 4 << 10
#: The largest number of values of a chunk that are searched for the part that does not pickle.
_MOST_SEARCHED = 8
#: Kinds of dtypes that a stack keeps as they are: numbers, text, times. Structured and foreign ones go by themselves.
_STACKABLE = "?biufcSUmM"
_C_CONTIGUOUS, _WRITEABLE = 0x1, 0x400  # as in numpy's flags.num
_LAYOUT = _C_CONTIGUOUS | _WRITEABLE


_loads = _pickle.loads


class Folded(NamedTuple):
    """What `combine` made of all results of one report that did not fail."""

    value: object


def encode(
    values: Any, needs: Dependencies, *, what: str, item: Callable[[int], str] | None = None
) -> tuple[Payload, list[int]]:
    """Encode the items or results of a chunk; also gives the offsets of those that failed to pickle.

    In place of such a value travels its Failure. `item` shows the item that a result belongs to; without it the values
    are the items, and one that does not pickle fails before it is sent. Of an iterator each value is taken as it is
    before the next one is asked for.
    """
    if hasattr(values, "__next__"):
        values, rest = _copies(values)
        if rest is not None:
            seen: list[object] = []
            try:
                return _encode_singly(chain(values, rest), needs, Definitions(), what, item, seen)
            except _DefinitionsFailed:
                return _encode_singly(seen, needs, None, what, item)
    try:
        whole = _encode_whole(values, needs, what)
    except Exception:
        whole = None  # There is no memory for it, say: by itself each may fit, and what fails is that item's error.
    if whole is not None:
        return whole, []
    try:
        return _encode_singly(values, needs, Definitions(), what, item)
    except _DefinitionsFailed:
        return _encode_singly(values, needs, None, what, item)


def _encode_whole(values: Any, needs: Dependencies, what: str) -> Payload | None:
    plain = None
    if type(values) is range:
        plain = _pickle.dumps(values, 5)
    elif type(values) is list or type(values) is tuple:
        plain = dump_plain(values)
    if plain is not None:
        return Payload(plain)
    array = _as_array(values)
    return None if array is None else dump_value(array, needs, what=what)


def _copies(values: Iterator[Any]) -> tuple[list[Any], Iterator[Any] | None]:
    """Copies of the arrays at the head, which may then be stacked, and what follows them, if anything does."""
    numpy = loaded("numpy")
    copies: list[Any] = []
    for value in values:
        if numpy is None or type(value) is not numpy.ndarray or value.dtype.hasobject:
            return copies, chain((value,), values)
        copy = value.copy("K")
        if not value.flags.writeable:
            copy.flags.writeable = False
        copies.append(copy)
    return copies, None


class _DefinitionsFailed(Exception):
    """The classes of a chunk do not pickle; each item is to fail, or not, by itself."""


def _as_array(values: Any) -> Any:
    """The values as one array, if its elements are what each of them would come back as by itself; else None.

    That is: the same type, dtype (byte order and unit too), shape, order in memory, and whether it can be written to.
    """
    numpy = loaded("numpy")
    if numpy is None:
        return None
    if type(values) is numpy.ndarray:
        return _whole_array(numpy, values)
    kinds = set(map(type, values))
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if kind is numpy.ndarray:
        # One pickle for each small array would cost four times as much as stacking them.
        first = values[0]
        dtype, shape = first.dtype, first.shape
        if not shape or first.nbytes >= _STACKED or dtype.kind not in _STACKABLE or len(values) == 1:
            return None
        layout = _C_CONTIGUOUS | (first.flags.num & _WRITEABLE)
        if not all(v.dtype == dtype and v.shape == shape and v.flags.num & _LAYOUT == layout for v in values):
            return None
        # Not what numpy.stack makes by itself: that turns numbers of another byte order into native ones.
        whole = numpy.stack(values, out=numpy.empty((len(values), *shape), dtype))
        whole.flags.writeable = first.flags.writeable
        return whole
    if kind.__module__ == "numpy" and kind.__name__ in NUMPY_NUMBERS and issubclass(kind, numpy.generic):
        return numpy.array(values, kind)
    return None


def _whole_array(numpy: Any, values: Any) -> Any:
    if values.dtype.hasobject or values.ndim == 0:
        return None
    if values.flags.c_contiguous:
        return values
    if values.ndim > 1 and len(values):
        row = values[0].flags
        if row.f_contiguous and not row.c_contiguous:
            return None
    copy = numpy.ascontiguousarray(values)
    copy.flags.writeable = values.flags.writeable
    return copy


def _encode_singly(
    values: Iterable[object],
    needs: Dependencies,
    definitions: Definitions | None,
    what: str,
    item: Callable[[int], str] | None,
    seen: list[object] | None = None,
) -> tuple[Payload, list[int]]:
    """`seen`: to be filled with the values, which come from an iterator that may change each when it gives the next."""
    writer = Writer(needs, definitions, head=b"i")
    write, file, out_of_band = writer.write, writer.file, writer.out_of_band
    ends: list[int] = []
    used: dict[int, list[int]] = {}
    failed: list[int] = []
    for at, value in enumerate(values):
        if seen is not None:
            seen.append(value)
        try:
            write(value)
        except UNPICKLABLE as exc:
            said = f"{what} cannot be pickled"
            from distmap.tasks.object_paths import pickling_error

            error = (
                pickling_error(said, value, exc) if len(failed) < _MOST_SEARCHED else failed_to_travel(said, exc, value)
            )
            shown = short_repr(value) if item is None else item(at)
            write(describe(error, shown, dump_small, sent=item is not None))
            failed.append(at)
        if out_of_band.used:
            used[at] = out_of_band.used
            if seen is not None:
                writer.keep()
        ends.append(writer.end)
    count = len(ends)
    if definitions is not None and definitions.classes:
        writer.definitions = None
        try:
            writer.write(definitions.classes)
        except UNPICKLABLE as exc:
            raise _DefinitionsFailed from exc
        used[count] = writer.used
        ends.append(writer.end)
    start = writer.end
    file.write(_pickle.dumps((count, ends, used), 5))
    file.write(start.to_bytes(8, "little"))
    return Payload(file.getvalue(), tuple(writer.buffers)), failed


class Items:
    """An opened chunk: `whole` is a sequence of its items, or None, and then `load(i)` gives one of them."""

    __slots__ = ("_again", "_buffers", "_definitions", "_used", "_view", "count", "ends", "whole")

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self._view = view = memoryview(parts[0])
        self._buffers = parts[1:]
        self.whole: Any = None
        self._again: Any = None
        if view[0] != ord("i"):
            self.whole = _pickle.loads(view, buffers=self._buffers)
            self.count = len(self.whole)
            return
        start = int.from_bytes(view[-8:], "little")
        self.count, self.ends, self._used = _pickle.loads(view[start:-8])
        self._definitions: Any = None
        if len(self.ends) > self.count:
            self._definitions = _load_definitions(self)

    def load(self, at: int, unpickler: Callable[..., Any] | None = None) -> Any:
        """Item `at`; raises what its unpickling raises. `unpickler`: a class of such, in the place of Python's."""
        if self._definitions is not None:
            if isinstance(self._definitions, BaseException):
                raise self._definitions
            loading.definitions = self._definitions
        if unpickler is None and not self._used:  # most often: as quick as can be
            return _loads(self._view[self.ends[at - 1] if at else 1 : self.ends[at]])
        if unpickler is None:
            return self._load(at)
        from io import BytesIO

        return unpickler(BytesIO(self.pickled(at)), buffers=self.buffers_of(at)).load()

    def load_again(self, at: int) -> Any:
        """Item `at` as it arrived, whatever was done to it since (but to an array)."""
        if self.whole is None:
            return self.load(at)
        if self._again is None:
            self._again = _pickle.loads(self._view, buffers=self._buffers)
        return self._again[at]

    def _load(self, at: int) -> Any:
        return _pickle.loads(self.pickled(at), buffers=self.buffers_of(at))

    def buffers_of(self, at: int) -> Sequence[Buffer]:
        used = self._used.get(at)
        return [self._buffers[n] for n in used] if used else ()

    def pickled(self, at: int) -> memoryview:
        return self._view[self.ends[at - 1] if at else 1 : self.ends[at]]


#: Definitions that were loaded lately, by their bytes: chunk after chunk brings the same ones.
_recent_definitions: dict[bytes, list[type]] = {}


def _load_definitions(items: Items) -> list[type] | BaseException:
    key = bytes(items.pickled(items.count))
    known = _recent_definitions.get(key)
    if known is None:
        try:
            known = items._load(items.count)
        except UNPICKLABLE as exc:
            return exc
        if len(_recent_definitions) >= 16:
            _recent_definitions.clear()
        _recent_definitions[key] = known
    return known


class DumpedItem(NamedTuple):
    """One item, pickled before it is known which chunk it will be in."""

    pickled: bytes
    buffers: tuple[bytearray, ...] = ()
    #: Made in the thread that pushes the item: to find local modules takes too long for the loop.
    blobs: tuple[Blob, ...] = ()

    @property
    def nbytes(self) -> int:
        return len(self.pickled) + sum(len(buffer) for buffer in self.buffers)


def dump_item(item: Any) -> DumpedItem:
    """Pickle one item of a pushed job: `(args, kwargs)`. One that does not pickle becomes its own Failure.

    Large arrays are copied: who pushed it goes on, and may change them before they are sent.
    """
    args, kwargs = item
    if not kwargs and are_plain(args):
        return DumpedItem(_pickle.dumps(item, 5))
    return _dump_one(item, ("", ""), lambda: show_call(args, kwargs))


def dump_alone(item: Any) -> DumpedItem:
    """The same for one item of an input, which may be changed afterwards."""
    return _dump_one(item, (), lambda: short_repr(item))


def _dump_one(item: Any, names: tuple[str, ...], shown: Callable[[], str]) -> DumpedItem:
    needs = Dependencies()
    writer = Writer(needs)
    try:
        writer.write(item)
    except UNPICKLABLE as exc:
        from distmap.tasks.object_paths import pickling_error

        error = pickling_error("the item cannot be pickled", item, exc, *([names] if names else []))
        writer.write(describe(error, shown(), dump_small, sent=False))
    return DumpedItem(
        writer.file.getvalue(),
        tuple(bytearray(writer.buffers[at]) for at in writer.used),
        needs.blobs(),
    )


def show_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Short repr of the item of a pushed job."""
    return short_repr(args[0] if len(args) == 1 and not kwargs else (*args, kwargs) if kwargs else args)


def join_items(items: Sequence[DumpedItem]) -> tuple[Payload, tuple[Blob, ...]]:
    """A chunk of items that were pickled one by one."""
    pickles = [item.pickled for item in items]
    ends = list(accumulate(map(len, pickles), initial=1))
    buffers: list[Buffer] = []
    used: dict[int, list[int]] = {}
    blobs: dict[bytes, Blob] = {}
    for at, item in enumerate(items):
        if item.buffers:
            used[at] = list(range(len(buffers), len(buffers) + len(item.buffers)))
            buffers += item.buffers
        for blob in item.blobs:
            blobs[blob.digest] = blob
    head = b"".join([b"i", *pickles, _pickle.dumps((len(items), ends[1:], used), 5), ends[-1].to_bytes(8, "little")])
    return Payload(head, tuple(buffers)), tuple(blobs.values())


def dump_items(items: Any) -> tuple[Payload, tuple[Blob, ...]]:
    """Encode the items of a chunk: a list, tuple, range or iterator, or a NumPy array (items: along the first axis)."""
    needs = Dependencies()
    numpy = loaded("numpy")
    if numpy is not None and isinstance(items, numpy.ndarray):
        if type(items) is not numpy.ndarray or items.dtype.hasobject:
            items = list(items)
    payload, _ = encode(items, needs, what="the item")
    return payload, needs.blobs()


def fold(payload: Payload) -> Payload:
    """Mark a payload of one value as what `combine` made of a whole report."""
    return Payload(b"f" + bytes(payload.head), payload.buffers)


def is_plain(parts: Sequence[Buffer]) -> bool:
    """True if the results of a report are one pickle of plain values or an array: no Failure can be among them."""
    return memoryview(parts[0])[0] not in b"if"


def load_results(parts: Sequence[Buffer], lo: int, hi: int, failed: Sequence[int] = ()) -> list[Any]:
    """The results of a report, in order, with a Failure in the place of each that failed, also of one that does not
    unpickle here.

    Of a folded report: a `Folded` (none if every item failed), then a Failure for each of `failed`.
    """
    head = memoryview(parts[0])
    if head[0] == ord("f"):
        values = _load_all(Items([head[1:], *parts[1:]]))
        return [values[0] if isinstance(values[0], Failure) else Folded(values[0]), *values[1:]] if values else []
    return _load_all(Items(parts))


def _load_all(items: Items) -> list[Any]:
    if items.whole is not None:
        return items.whole if type(items.whole) is list else list(items.whole)
    values: list[Any] = []
    append, load = values.append, items.load
    for at in range(items.count):
        try:
            append(load(at))
        except UNPICKLABLE as exc:
            error = failed_to_travel("the result arrived but cannot be unpickled here", exc)
            values.append(describe(error, "its result did not unpickle", dump_small))
    return values
