"""What has rows is cut by them, and what comes back is joined only where nothing of it changes."""

from __future__ import annotations

from collections import UserDict, deque
from importlib import import_module, util

import numpy as np
import pandas as pd
import pytest

from distmap.calls.batches import concatenate, nothing_of, rows_of


def test_rows_of_what_has_them():
    """Sequences, arrays, frames, Series and Index are cut by rows."""
    frame = pd.DataFrame({"a": range(5)})
    for data in (list("abcde"), tuple("abcde"), range(5), "abcde", np.zeros((5, 2)), frame, frame["a"], frame.index):
        rows = rows_of(data)
        assert rows is not None
        assert rows.length == 5
        assert type(rows.cut(1, 3)) is type(data) or isinstance(data, pd.RangeIndex)
        assert len(rows.cut(1, 3)) == 2


@pytest.mark.parametrize(
    "data", [deque([1]), UserDict(a=1), {"a": 1}, {1}, iter([1]), pd.DataFrame({"a": [1]}).groupby("a"), 5]
)
def test_other_things_have_none(data):
    """Nothing is taken to have rows because it has a length and square brackets."""
    assert rows_of(data) is None


def test_what_cannot_be_cut_is_named():
    """The error names the type, why, and what can be cut."""
    with pytest.raises(TypeError, match=r"a ndarray, which has no rows\. It cuts a list"):
        rows_of(np.array(3))


def test_lists_are_chained():
    """Lists and tuples become one list; other types, and types of somebody's own, stay a list of batches."""
    assert concatenate([[1], (2, 3)]) == [1, 2, 3]
    assert concatenate([1.5, 2.5]) == [1.5, 2.5]
    assert concatenate([np.float64(1), np.float64(2)]) == [1, 2]
    assert concatenate([{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]
    assert concatenate([np.zeros(1), [1]])[1] == [1]
    assert concatenate([]) == []


class Parts(tuple):
    """A tuple of its own type, as a named one is."""


def test_named_tuples_are_not_taken_apart():
    """A tuple of another type is one result."""
    assert concatenate([Parts((1, 2)), Parts((3, 4))]) == [Parts((1, 2)), Parts((3, 4))]


def test_arrays_and_frames_are_joined():
    """Arrays and frames of one kind become one."""
    assert list(concatenate([np.arange(2), np.arange(3)])) == [0, 1, 0, 1, 2]
    assert list(concatenate([pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})])["a"]) == [1, 2]
    masked = np.ma.array(np.arange(4, dtype=">f4"), mask=[0, 1, 0, 1], fill_value=7)
    joined = concatenate([masked[:3], masked[3:]])
    assert (joined.dtype.str, joined.mask.tolist(), joined.fill_value) == (">f4", [False, True, False, True], 7)


@pytest.mark.parametrize("name", ["polars", "pyarrow", "xarray", "scipy.sparse"])
def test_other_libraries(needs, name):
    """Their values are cut and joined by themselves, to the same type."""
    needs(util.find_spec(name.partition(".")[0]) is not None, name)
    library = import_module(name)
    make = {
        "polars": lambda: library.Series("s", [1, 2, 3]),
        "pyarrow": lambda: library.record_batch({"a": [1, 2, 3]}),
        "xarray": lambda: library.DataArray([1, 2, 3], dims=["x"]),
        "scipy.sparse": lambda: library.lil_array(np.eye(3)),
    }
    data = make[name]()
    rows = rows_of(data)
    assert rows is not None
    joined = concatenate([rows.cut(0, 2), rows.cut(2, 3)])
    assert type(joined) is type(data)
    assert type(nothing_of(data)) is type(data)


def test_nothing_of():
    """No rows of an array or frame, as a copy; an empty list of anything else."""
    data = np.zeros((4, 3), "f4")
    empty = nothing_of(data)
    assert (empty.shape, empty.dtype, empty.base) == ((0, 3), np.dtype("f4"), None)
    assert list(nothing_of(pd.DataFrame({"a": [1]})).columns) == ["a"]
    for other in ([1], (1,), range(3), "abc", iter([1]), {1: 2}):
        assert nothing_of(other) == []
