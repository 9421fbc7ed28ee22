"""Section 1: values are what plain Python gives, however many items went together."""

from __future__ import annotations

import array
import itertools
import struct
import sys
import warnings
from collections import ChainMap, Counter, UserDict, UserList, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.optional import optional


class Says:
    """Gives five items, whatever its length says."""

    def __init__(self, length: Any) -> None:
        self.length = length

    def __len__(self) -> int:
        if isinstance(self.length, type):
            raise self.length("no length")
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


class Getter:
    """Iterated by the old protocol, as a PyTorch data set is."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, at: int) -> int:
        if at >= 5:
            raise IndexError(at)
        return at * 10


class OwnList(list):
    """Its slices are not what iterating over it gives."""

    def __iter__(self) -> Iterator[str]:
        return (f"own {x}" for x in list.__iter__(self))


class OwnArray(np.ndarray):
    """Its slices are not what iterating over it gives."""

    def __iter__(self) -> Iterator[str]:
        return (f"own {x}" for x in np.asarray(self))


def polars(needs: Callable[[bool, str], None]) -> Any:
    """A wide polars frame."""
    return optional("polars", needs).DataFrame({"a": [1], "b": [2], "c": [3]})


#: What is iterated over. Plain Python: [fn(x) for x in data].
INPUTS: dict[str, Callable[[Any], Any]] = {
    "frame-pandas-wide": lambda needs: pd.DataFrame({name: [1, 2] for name in "abcde"}),
    "frame-pandas-long": lambda needs: pd.DataFrame({name: range(9) for name in "ab"}),
    "frame-pandas-series": lambda needs: pd.Series([1.5, 2.5], index=["x", "y"]),
    "frame-pandas-groups": lambda needs: pd.DataFrame({"a": [1, 1, 2]}).groupby("a"),
    "frame-polars-wide": polars,
    "frame-pyarrow-wide": lambda needs: optional("pyarrow", needs).table({name: [1] for name in "abc"}),
    "frame-xarray-dataset": lambda needs: optional("xarray", needs).Dataset({"a": ("x", [1]), "b": ("x", [2])}),
    "length-short": lambda needs: Says(2),
    "length-long": lambda needs: Says(9),
    "length-none": lambda needs: Says(0),
    "length-negative": lambda needs: Says(-1),
    "length-huge": lambda needs: Says(sys.maxsize),
    "length-too-huge": lambda needs: Says(10**30),
    "length-no-number": lambda needs: Says("five"),
    "length-float": lambda needs: Says(5.0),
    "length-raises-type-error": lambda needs: Says(TypeError),
    "length-raises-not-implemented": lambda needs: Says(NotImplementedError),
    "length-raises-runtime-error": lambda needs: Says(RuntimeError),
    "length-of-sparse": lambda needs: optional("scipy.sparse", needs).csr_array(np.eye(3)),
    "old-protocol": lambda needs: Getter(),
    "array-rows": lambda needs: np.arange(12).reshape(4, 3),
    "array-masked": lambda needs: np.ma.array([1, 2, 3], mask=[0, 1, 0]),
    "array-matrix": lambda needs: np.array([[1, 2], [3, 4]]).view(np.matrix),
    "array-records": lambda needs: np.rec.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "array-structured": lambda needs: np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "array-objects": lambda needs: np.array([1, None, "x"], object),
    "array-own-iteration": lambda needs: np.arange(3).view(OwnArray),
    "array-nditer": lambda needs: np.nditer(np.arange(3)),
    "array-flat": lambda needs: np.arange(6).reshape(2, 3).flat,
    "list-own-iteration": lambda needs: OwnList([1, 2, 3]),
    "list-user": lambda needs: UserList([1, 2]),
    "deque": lambda needs: deque([1, 2, 3], maxlen=3),
    "mapping-dict": lambda needs: {1: "a", 2: "b"},
    "mapping-user": lambda needs: UserDict({1: "a", 2: "b"}),
    "mapping-chain": lambda needs: ChainMap({1: 2}, {3: 4}),
    "mapping-counter": lambda needs: Counter("abca"),
    "mapping-views": lambda needs: {1: "a", 2: "b"}.items(),
    "set": lambda needs: {1},
    "text": lambda needs: "abc",
    "bytes": lambda needs: b"abc",
    "bytes-view": lambda needs: memoryview(b"abc"),
    "numbers-packed": lambda needs: array.array("d", [1, 2]),
    "generator": lambda needs: (x for x in range(3)),
    "reversed": lambda needs: reversed([1, 2, 3]),
}


def shown(x: Any) -> tuple[str, str]:
    """Type and text of an item."""
    return type(x).__name__, str(x)


@pytest.mark.filterwarnings("ignore:.*map_batches:UserWarning")
@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
def test_iteration_decides(pool, make, needs):
    """Every call gives as many results as iterating gives items, for one iterable and for several."""
    expected = [shown(x) for x in make(needs)]
    assert pool.map(shown, make(needs)) == expected
    assert list(pool.imap(shown, make(needs))) == expected
    assert pool.map_async(shown, make(needs)).get(10) == expected
    assert pool.map_reduce(lambda x: [shown(x)], make(needs), lambda a, b: a + b) == expected
    pairs = [(*shown(x), y) for x, y in zip(make(needs), range(10), strict=False)]
    assert pool.map(lambda x, y: (*shown(x), y), make(needs), range(10)) == pairs


def test_starmap_iterates_too(pool):
    """The tuples of `starmap` are those that iterating gives."""

    class Pairs(Says):
        def __iter__(self) -> Iterator[tuple[int, int]]:
            return ((x, x) for x in range(5))

    expected = [0, 2, 4, 6, 8]
    assert pool.starmap(lambda a, b: a + b, Pairs(2)) == expected
    assert pool.starmap_async(lambda a, b: a + b, Pairs(TypeError)).get(10) == expected


def test_a_frame_is_told_of_once(local_pool):
    """One warning, at the caller's line, says that a frame gives its columns and how to get rows."""
    frame = pd.DataFrame({name: [1, 2] for name in "abc"})
    calls = (
        lambda: local_pool.map(str, frame),
        lambda: list(local_pool.imap(str, frame)),
        lambda: local_pool.map_async(str, frame).get(10),
        lambda: local_pool.map(lambda a, b: a, frame, "abc"),
        lambda: local_pool.map_reduce(str, frame, max),
        lambda: local_pool.executor().map(str, frame),
    )
    for call in calls[:-1]:
        with pytest.warns(UserWarning, match=r"gives its 3 columns.*pool\.map_batches") as seen:
            call()
        assert [warning.filename for warning in seen] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        local_pool.map(str, list(frame))
        local_pool.map(str, frame["a"])
        local_pool.map_batches(lambda part: part, frame)
        list(calls[-1]())


def test_a_list_that_changes_while_it_is_mapped(local_pool):
    """What an iterable still gives while it is read is taken, as by its iterator; a list that shrinks ends there."""
    data = list(range(1000))

    def shrink(snapshot: Any) -> None:
        del data[500:]

    got = local_pool.map(abs, data, progress=shrink, chunksize=1)
    assert got == list(range(len(got)))


def reused_list() -> Iterator[Any]:
    """The same list again and again."""
    row: list[Any] = [0]
    for row[0] in range(7):
        yield row


def reused_array(size: int) -> Iterator[Any]:
    """The same memory again and again, as a reader of a file or a simulation gives it."""
    buffer = np.zeros(size)
    for at in range(7):
        buffer[:] = at
        yield buffer


def reused_views() -> Iterator[Any]:
    """Another view of the same memory each time."""
    buffer = np.zeros(3)
    for at in range(7):
        buffer[:] = at
        yield buffer[:2]


def reused_object() -> Iterator[Any]:
    """The same object of a class of this file."""
    item = Says(0)
    for at in range(7):
        item.length = at
        yield item


def reused_between() -> Iterator[Any]:
    """A dict that changes, beside numbers that do not."""
    item: dict[str, int] = {}
    for at in range(7):
        item["a"] = at
        yield at, item


def reused_after(*plain: Any) -> Iterator[Any]:
    """The same list again and again, after values that nothing can change."""
    yield from plain * 9
    yield from reused_list()


#: Iterators that change what they gave when the next one is asked for, and what is looked at.
REUSED: dict[str, tuple[Callable[[], Iterator[Any]], Callable[[Any], Any]]] = {
    "list": (reused_list, lambda row: list(row)),
    "array": (lambda: reused_array(3), lambda row: row.tolist()),
    "array-large": (lambda: reused_array(10_000), lambda row: set(row.tolist())),
    "array-views": (reused_views, lambda row: row.tolist()),
    "object": (reused_object, lambda item: item.length),
    "tuple": (reused_between, lambda pair: (pair[0], dict(pair[1]))),
    "after-numbers": (lambda: reused_after(1, None), str),
    "after-numbers-of-numpy": (lambda: reused_after(np.float64(1)), str),
    "after-tuples": (lambda: reused_after((1, "a")), str),
    "array-after-numbers": (lambda: itertools.chain(range(9), reused_array(3), range(9)), str),
    "groups": (lambda: itertools.groupby("aabbbcdde"), lambda pair: (pair[0], list(pair[1]))),
    "several": (lambda: zip(reused_list(), reused_list(), strict=True), lambda pair: [list(one) for one in pair]),
}


@pytest.mark.filterwarnings("ignore:Pickle, copy, and deepcopy support will be removed:DeprecationWarning")
@pytest.mark.parametrize(("make", "look"), REUSED.values(), ids=REUSED)
def test_items_are_taken_as_they_are_given(pool, make, look):
    """An item is what it was when the iterator gave it, however many of them go together."""
    expected = [look(item) for item in make()]
    for options in ({}, {"chunksize": 3}, {"chunksize": 100}):
        assert pool.map(look, make(), **options) == expected
    assert list(pool.imap(look, make(), chunksize=3)) == expected


def until_it_raises(make: Callable[[int], Any]) -> Iterator[Any]:
    """Five items, then an error."""
    yield from map(make, range(5))
    raise LookupError("no more")


#: Items of an iterator that raises after them.
BEFORE_AN_ERROR: dict[str, Callable[[int], Any]] = {
    "numbers": lambda at: at,
    "lists": lambda at: [at],
    "arrays": lambda at: np.full(2, at),
    "tuples": lambda at: (at, {}),
    "numbers-then-lists": lambda at: [at] if at > 2 else at,
}


@pytest.mark.parametrize("make", BEFORE_AN_ERROR.values(), ids=BEFORE_AN_ERROR)
def test_what_an_iterator_gave_before_it_raised_counts(pool, make):
    """A lazy call gives the results of these items and then raises the error; a blocking one keeps them."""
    expected = [str(make(at)) for at in range(5)]
    for chunksize in (None, 1, 3, 100):
        got: list[str] = []
        with pytest.raises(LookupError, match="no more"):
            got.extend(pool.imap(str, until_it_raises(make), chunksize=chunksize))
        assert got == expected
        with pytest.raises(LookupError, match="no more"):
            pool.map(str, until_it_raises(make), chunksize=chunksize)
        assert pool.last.partial == list(enumerate(expected))


class Celsius(np.float64):
    """A subclass of a NumPy number."""


class Span(np.timedelta64):
    """A subclass of a NumPy time."""


def _noted(value: Any) -> Any:
    value.note = "measured"
    return value


class Sub(np.ndarray):
    """A subclass of an array."""


def _nan(letter: str, bits: int) -> Any:
    return np.frombuffer(bits.to_bytes(np.dtype(letter).itemsize, "little"), letter)[0]


def _fixed(value: Any) -> Any:
    value.flags.writeable = False
    return value


PADDED = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 12], "itemsize": 20})
BIG = np.dtype([("a", ">i4"), ("b", ">f8")])

#: Values that go together. Plain Python keeps type, dtype, shape, order, bits and whether they can be written to.
VALUES: dict[str, Callable[[], list[Any]]] = {
    "number-bool": lambda: [np.True_, np.False_],
    "number-half": lambda: [np.float16(1.5), np.float16(-0.0)],
    "number-double": lambda: [np.float64(1.5), np.float64(-0.0), np.float64("inf")],
    "number-long-double": lambda: [np.longdouble(1) / 3] * 2,
    "number-complex": lambda: [np.complex64(1j), np.complex64(2)],
    "number-unsigned": lambda: [np.uint64(2**64 - 1), np.uint64(0)],
    "number-types-mixed": lambda: [np.int64(1), np.int32(1), 1, True, 1.0],
    "nan-payload": lambda: [_nan("f8", 0x7FF4000000000ABC), _nan("f8", 0xFFF8000000000001)],
    "nan-payload-single": lambda: [_nan("f4", 0x7FA00ABC)] * 2,
    "nan-payload-half": lambda: [_nan("f2", 0x7D0B)] * 2,
    "nan-payload-python": lambda: [struct.unpack("<d", bytes.fromhex("bc0a00000000f87f"))[0]] * 2,
    "time-units": lambda: [np.timedelta64(1, "s"), np.timedelta64(5, "ms")],
    "time-units-that-do-not-mix": lambda: [np.timedelta64(1, "Y"), np.timedelta64(1, "D")],
    "time-no-unit": lambda: [np.timedelta64(1), np.timedelta64(1, "D")],
    "time-dates": lambda: [np.datetime64("2026"), np.datetime64("2026-01-01"), np.datetime64("NaT", "D")],
    "time-array-units": lambda: [np.array([1], "m8[s]"), np.array([1], "m8[ms]")],
    "time-array-multiples": lambda: [np.array([1], "m8[25s]"), np.array([2], "m8[25s]")],
    "order-of-bytes": lambda: [np.array([x], ">f4") for x in range(3)],
    "order-of-bytes-mixed": lambda: [np.array([1], ">i4"), np.array([1], "<i4")],
    "struct-padded": lambda: [np.zeros(2, PADDED)] * 2,
    "struct-big-endian": lambda: [np.ones(2, BIG)] * 2,
    "struct-records": lambda: [np.ones(1, BIG)[0]] * 2,
    "struct-aligned": lambda: [np.zeros(1, np.dtype("u1,f8", align=True)), np.zeros(1, np.dtype("u1,f8"))],
    "void": lambda: [np.void(b"a\0"), np.void(b"b\0")],
    "text-array": lambda: [np.array(["a\0b", "c"]), np.array(["a\0b", "c"])],
    "bytes-array": lambda: [np.array([b"a\0"], "S4")] * 2,
    "objects": lambda: [np.array([None, {}], object)] * 2,
    "shape-none": lambda: [np.array(3.0), np.array(4.0)],
    "shape-empty": lambda: [np.zeros((0, 3)), np.zeros((0, 3))],
    "shape-unequal": lambda: [np.zeros(3), np.zeros(4), np.zeros((1, 3))],
    "memory-fortran": lambda: [np.asfortranarray(np.ones((2, 3)))] * 2,
    "memory-read-only": lambda: [_fixed(np.ones(3)), _fixed(np.zeros(3))],
    "memory-read-only-mixed": lambda: [_fixed(np.ones(3)), np.zeros(3)],
    "memory-large": lambda: [np.full(600, 1.0), np.full(600, 2.0)],
    "dtype-metadata": lambda: [np.zeros(2, np.dtype("f8", metadata={"unit": "m"}))] * 2,
    "subclass-number": lambda: [Celsius(1.5), Celsius(2.5)],
    "subclass-number-with-attributes": lambda: [_noted(Celsius(1.5))] * 2,
    "subclass-time": lambda: [Span(3, "h"), Span(3, "s")],
    "number-long-long": lambda: [np.longlong(3), np.ulonglong(4)],
    "text-ends": lambda: [np.str_("a\0"), np.bytes_(b"a\0")],
    "subclass-array": lambda: [np.arange(3).view(Sub), np.arange(3).view(Sub)],
    "subclass-masked": lambda: [np.ma.array([1, 2], mask=[0, 1], fill_value=7)] * 2,
    "subclass-matrix": lambda: [np.eye(2).view(np.matrix), np.zeros((1, 1)).view(np.matrix)],
    "python-scalars": lambda: [0, True, 1.0, 1j, "a\0", b"a\0", None, 10**5000, "\ud800"],
    "python-tuples": lambda: [(1, True), (1.0, np.float64(1))],
}


def facts(value: Any) -> tuple[Any, ...]:
    """All that a value is."""
    if isinstance(value, np.ndarray):
        flags = value.flags
        mask = np.ma.getmaskarray(value).tolist() if isinstance(value, np.ma.MaskedArray) else None
        layout = value.shape, flags.c_contiguous, flags.f_contiguous, flags.writeable
        bits = value.tolist() if value.dtype.hasobject else np.asarray(value).tobytes()
        return type(value), dtype_facts(value.dtype), layout, mask, bits
    if isinstance(value, np.longdouble):  # ten bytes of sixteen mean something
        return type(value), value
    if isinstance(value, np.generic):
        return type(value), dtype_facts(value.dtype), value.tobytes(), getattr(value, "__dict__", None)
    if isinstance(value, tuple):
        return tuple(map(facts, value))
    return type(value), struct.pack("<d", value) if isinstance(value, float) else value


def dtype_facts(dtype: Any) -> tuple[Any, ...]:
    """All that a dtype is."""
    return dtype, dtype.str, dtype.itemsize, dtype.isalignedstruct, dict(dtype.metadata or {})


@pytest.mark.filterwarnings("ignore:The 'generic' unit for NumPy timedelta:DeprecationWarning")  # of numpy 2.5
@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_what_goes_together_comes_back_as_it_was(pool, make):
    """Items arrive and results come back with the same type, dtype and bits, alone and in one chunk with others."""
    expected = [facts(value) for value in make()]
    for chunksize in (1, 100):
        assert [facts(value) for value in pool.map(make_again, make(), chunksize=chunksize)] == expected
    assert [facts(value) for value in pool.map(lambda at: make()[at], range(len(expected)), chunksize=100)] == expected


def make_again(value: Any) -> Any:
    """The identity."""
    return value


#: Arrays that are mapped along their first axis: each row arrives as it is.
ARRAYS: dict[str, Callable[[], Any]] = {
    "rows": lambda: np.arange(12.0).reshape(4, 3),
    "fortran": lambda: np.asfortranarray(np.arange(24).reshape(4, 3, 2)),
    "transposed": lambda: np.arange(24).reshape(4, 3, 2).transpose(0, 2, 1),
    "strided": lambda: np.arange(24).reshape(4, 6)[::2, ::3],
    "broadcast": lambda: np.broadcast_to(np.arange(3), (4, 3)),
    "read-only": lambda: _fixed(np.arange(12).reshape(4, 3)),
    "big-endian": lambda: np.arange(12, dtype=">i4").reshape(4, 3),
    "padded": lambda: np.zeros((2, 3), PADDED),
    "times": lambda: np.arange(4).astype("M8[D]"),
    "text": lambda: np.array(["a", "b\0c"]),
    "half": lambda: np.arange(4, dtype="f2"),
    "empty": lambda: np.zeros((0, 3)),
    "rows-empty": lambda: np.zeros((3, 0)),
    "objects": lambda: np.array([[None, 1], ["a", 2]], object),
}


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_rows_arrive_as_they_are(pool, make):
    """`fn` is given the same types, dtypes, shapes and flags as in a loop over the array."""
    assert pool.map(facts, make(), chunksize=100) == [facts(row) for row in pickled(make())]


def pickled(rows: Any) -> list[Any]:
    """Rows as each travels by itself: what pickle keeps of strides is C or Fortran order."""
    import pickle

    return [pickle.loads(pickle.dumps(row, 5)) for row in rows]
