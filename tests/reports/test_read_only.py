"""Large arrays that a function captures are shared by the slots of a host, so they are read-only: the error says so."""

from __future__ import annotations

import re
from importlib.util import find_spec

import numpy as np
import pytest

LARGE = np.zeros(200_000)
SMALL = np.zeros(2_000)


def assign(array):
    array[0] = 1


def add_out(array):
    np.add(array, 1, out=array)


def sort(array):
    array.sort()


def set_flag(array):
    array.setflags(write=True)


def write_to_memory(array):
    memoryview(array)[0] = 1.0


def pandas_column(array):
    import pandas as pd

    series = pd.Series(array, copy=False)
    series.iloc[0] = 1


def add_in_place(array):
    array += 1


WAYS = [
    pytest.param(way, id=way.__name__.replace("_", "-"))
    for way in (assign, add_out, sort, set_flag, write_to_memory, pandas_column, add_in_place)
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["captured", "broadcast"])
def test_the_error_says_why_an_array_is_read_only(pool, needs, way, how):
    """Writing to a shared array names the reason and the two ways out, with the exception's own type."""
    if way is pandas_column:
        needs(find_spec("pandas") is not None, "pandas")
    large = LARGE
    handle = pool.broadcast(large)

    def fn(x):
        way(large if how == "captured" else handle.value)

    with pytest.raises((ValueError, TypeError)) as caught:
        pool.map(fn, [0])
    pool.last = None  # its error holds this frame, and with it the handle
    notes = "\n".join(caught.value.__notes__)
    assert re.search(r"1 MB or more.*read-only", notes, re.DOTALL)
    assert ".copy()" in notes
    assert "pool.broadcast(value, writable=True)" in notes


@pytest.mark.parametrize("way", [way for way in WAYS if way.values[0] is not set_flag])
def test_the_two_ways_out(pool, needs, way):
    """A copy can be written to, and so can the slot's own copy of a writable broadcast; neither is seen elsewhere."""
    if way is pandas_column:
        needs(find_spec("pandas") is not None, "pandas")
    large = LARGE
    handle = pool.broadcast({"a": LARGE, "b": SMALL}, writable=True)

    def fn(x):
        copied = large.copy()
        for array in (copied, handle.value["a"], handle.value["b"]):
            way(array)
        return True

    assert pool.map(fn, [0, 1, 2, 3], chunksize=1) == [True] * 4
    assert not LARGE.any()


def test_each_slot_writes_to_its_own_copy(pool):
    """What one slot writes to a writable broadcast stays in that slot, and is there at its next item."""
    handle = pool.broadcast(np.zeros(300_000), writable=True)

    def count(x):
        import os

        handle.value[7] += 1
        return os.getpid(), handle.value[7], handle.value.sum()

    found = pool.map(count, range(12), chunksize=1)
    for pid in {pid for pid, *_ in found}:
        counts = sorted(count for one, count, _ in found if one == pid)
        assert counts == list(range(1, len(counts) + 1))
    assert all(count == total for _, count, total in found)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(SMALL, id="small-array"),
        pytest.param(np.zeros(20_000), id="array-beside-the-pickle"),
        pytest.param(LARGE, id="large-array"),
        pytest.param(bytearray(2_000_000), id="large-bytearray"),
    ],
)
def test_items_can_be_written_to(pool, value):
    """Items and results of any size are the function's and the caller's own."""

    def fn(x):
        x[0] = 3
        return x

    (back,) = pool.map(fn, [value])
    back[1] = 4
    assert (back[0], back[1], value[0]) == (3, 4, 0)


@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(lambda: int("read-only"), id="no-shared-array"),
        pytest.param(lambda: {}["read-only"], id="another-type"),
    ],
)
def test_no_word_about_it_where_nothing_is_shared(pool, fail):
    """A function that captures no large array gets no note about them."""
    with pytest.raises((ValueError, KeyError)) as caught:
        pool.map(lambda x: fail(), [0])
    assert "writable" not in "".join(caught.value.__notes__)
    pool.last = None
