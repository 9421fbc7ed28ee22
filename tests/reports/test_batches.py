"""Section 1: `map_batches` cuts what has rows, and what it joins is what the batches were.

Each row: the data and what `fn` makes of a batch. Plain Python: [fn(slice) for each slice], joined by the library, or
left a list where joining would change something.
"""

from __future__ import annotations

from collections import UserDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.optional import optional

Needs = Callable[[bool, str], None]

PADDED = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 12], "itemsize": 20})


def same(a: Any, b: Any) -> bool:
    """Equal, of the same type, and alike in all that the type has beside."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        masks = np.array_equal(np.ma.getmaskarray(a), np.ma.getmaskarray(b))
        fill = str(getattr(a, "fill_value", None)) == str(getattr(b, "fill_value", None))
        data = np.asarray(a).tolist() == np.asarray(b).tolist()
        return a.dtype == b.dtype and a.dtype.str == b.dtype.str and a.shape == b.shape and masks and fill and data
    root = type(a).__module__.partition(".")[0]
    if root == "pandas":
        check = {"DataFrame": "frame", "Series": "series"}.get(type(a).__name__, "index")
        getattr(pd.testing, f"assert_{check}_equal")(a, b)
        return True
    if root == "scipy":
        return a.dtype == b.dtype and a.shape == b.shape and (a != b).nnz == 0
    if root == "xarray":
        return bool(a.identical(b)) and getattr(a, "dtype", None) == getattr(b, "dtype", None)
    if root == "polars":
        facts = (a.schema, b.schema) if hasattr(a, "schema") else ((a.name, a.dtype), (b.name, b.dtype))
        return facts[0] == facts[1] and bool(a.equals(b, null_equal=True))
    return bool(a.equals(b)) if root == "pyarrow" else a == b


def itself(batch: Any) -> Any:
    """What a batch is."""
    return batch


def frame() -> Any:
    """Five rows with an index of their own."""
    data = {"a": range(5), "b": list("xyzxy"), "c": pd.Categorical(list("uvuvu"))}
    return pd.DataFrame(data, index=pd.Index(range(10, 15), name="id"))


def pyarrow(needs: Needs) -> Any:
    """Five rows, with a note in the schema."""
    return optional("pyarrow", needs).table({"a": range(5)}).replace_schema_metadata({"note": "x"})


def cube(needs: Needs) -> Any:
    """Rows with coordinates, a scalar coordinate, a name and attributes."""
    coords = {"t": list("abcde"), "x": [7, 8], "at": 3}
    return optional("xarray", needs).DataArray(
        np.arange(10.0).reshape(5, 2), dims=["t", "x"], coords=coords, name="n", attrs={"unit": "m"}
    )


#: What comes back is the data: it was cut and joined again.
WHOLE: dict[str, Callable[[Needs], Any]] = {
    "list": lambda needs: list(range(5)),
    "numpy": lambda needs: np.arange(10.0).reshape(5, 2),
    "numpy-fortran": lambda needs: np.asfortranarray(np.arange(10.0).reshape(5, 2)),
    "numpy-big-endian": lambda needs: np.arange(5, dtype=">f4"),
    "numpy-times": lambda needs: np.arange(5).astype("M8[h]"),
    "numpy-text": lambda needs: np.array(["a", "bbb", "c", "d", "e"]),
    "numpy-bytes": lambda needs: np.array([b"a", b"b\0c", b"", b"d", b"e"]),
    "numpy-objects": lambda needs: np.array([1, None, "x", 2.5, b"y"], object),
    "numpy-half": lambda needs: np.arange(5, dtype="f2"),
    "numpy-structured": lambda needs: np.array([(x, x / 2) for x in range(5)], dtype=[("a", "i4"), ("b", "f8")]),
    "numpy-structured-padded": lambda needs: np.ones(5, PADDED),
    "numpy-records": lambda needs: np.rec.array([(x, x / 2) for x in range(5)], dtype=[("a", "i4"), ("b", "f8")]),
    "numpy-matrix": lambda needs: np.eye(5).view(np.matrix),
    "masked": lambda needs: np.ma.array(range(5), mask=[0, 1, 0, 0, 1], fill_value=7),
    "masked-structured": lambda needs: np.ma.array(np.ones(5, PADDED), mask=[(0, 1)] * 5),
    "masked-rows": lambda needs: np.ma.array(np.eye(5), mask=np.eye(5) > 0),
    "masked-nothing": lambda needs: np.ma.array(range(5)),
    "pandas-frame": lambda needs: frame(),
    "pandas-series": lambda needs: frame()["b"],
    "pandas-series-categorical": lambda needs: frame()["c"],
    "pandas-index": lambda needs: frame().index,
    "pandas-index-of-levels": lambda needs: pd.MultiIndex.from_product([[1, 2], ["a", "b"]], names=["x", "y"]),
    "pandas-frame-of-levels": lambda needs: frame().set_index("b", append=True),
    "pandas-frame-columns-twice": lambda needs: frame().set_axis(["a", "a", "c"], axis=1),
    "pandas-dates": lambda needs: pd.Series(range(5), pd.date_range("2026", periods=5, tz="UTC")),
    "pandas-nullable": lambda needs: pd.DataFrame({"a": pd.array([1, None, 3, 4, 5], dtype="Int8")}),
    "pandas-attrs": lambda needs: _noted(frame()),
    "polars-frame": lambda needs: optional("polars", needs).DataFrame({"a": range(5), "b": list("xyzxy")}),
    "polars-series": lambda needs: optional("polars", needs).Series("s", [1, None, 3, 4, 5]),
    "polars-categorical": lambda needs: optional("polars", needs).Series(
        "s", list("xyzxy"), dtype=optional("polars", needs).Categorical
    ),
    "pyarrow-table": pyarrow,
    "pyarrow-array": lambda needs: optional("pyarrow", needs).array([1, None, 3, 4, 5], "int16"),
    "pyarrow-dictionary": lambda needs: optional("pyarrow", needs).array(list("xyzxy")).dictionary_encode(),
    "pyarrow-chunked": lambda needs: optional("pyarrow", needs).chunked_array([[1, 2, 3], [4, 5]]),
    "xarray": cube,
    "xarray-dates": lambda needs: cube(needs).assign_coords(t=pd.date_range("2026", periods=5)),
    "xarray-no-coordinates": lambda needs: optional("xarray", needs).DataArray(np.eye(5)),
    "sparse-csr": lambda needs: optional("scipy.sparse", needs).csr_array(np.eye(5)),
    "sparse-csc": lambda needs: optional("scipy.sparse", needs).csc_matrix(np.eye(5, dtype="f4")),
    "sparse-lil": lambda needs: optional("scipy.sparse", needs).lil_matrix(np.eye(5)),
}


def _noted(data: Any) -> Any:
    data.attrs["unit"] = "m"
    return data


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_it_is_cut_and_joined_to_what_it_was(pool, make, needs):
    """Masks, fill values, units, byte order, names, index, categories, coordinates and formats are all there."""
    data = make(needs)
    for size in (2, 5, None):
        assert same(pool.map_batches(itself, data, size), data)


#: Batches that do not fit together without a change of one of them: they come back as they are, in a list.
APART: dict[str, Callable[[Needs], tuple[Any, Callable[[Any], Any]]]] = {
    "numpy-dtypes": lambda needs: (np.arange(5), lambda b: b if b[0] else b / 2),
    "numpy-integers-that-no-float-holds": lambda needs: (np.arange(5), lambda b: b + 2**60 if b[0] else b / 2),
    "numpy-shapes": lambda needs: (np.arange(5), lambda b: np.zeros((1, len(b)))),
    "numpy-axes": lambda needs: (np.arange(5), lambda b: b if b[0] else b[:, None]),
    "numpy-no-axis": lambda needs: (np.arange(5), lambda b: np.array(b.sum())),
    "numpy-numbers": lambda needs: (np.arange(5), lambda b: b.sum()),
    "numpy-time-units": lambda needs: (np.arange(5), lambda b: b.astype("m8[s]" if b[0] else "m8[ms]")),
    "numpy-byte-orders": lambda needs: (np.arange(5), lambda b: b.astype("<i4" if b[0] else ">i4")),
    "numpy-structured": lambda needs: (np.arange(5), lambda b: np.zeros(1, "i4,f8" if b[0] else "i4,f4")),
    "numpy-and-masked": lambda needs: (np.arange(5), lambda b: b if b[0] else np.ma.array(b, mask=True)),
    "numpy-class-with-attributes": lambda needs: (np.arange(5), lambda b: b.view(Measured)),
    "pandas-columns": lambda needs: (frame(), lambda b: b if len(b) > 1 else b.rename(columns={"a": "z"})),
    "pandas-columns-order": lambda needs: (frame(), lambda b: b if len(b) > 1 else b[["b", "a", "c"]]),
    "pandas-columns-missing": lambda needs: (frame(), lambda b: b if len(b) > 1 else b[["a", "b"]]),
    "pandas-dtypes": lambda needs: (frame(), lambda b: b if len(b) > 1 else b.astype({"a": float})),
    "pandas-categories": lambda needs: (
        frame(),
        lambda b: b.assign(c=b["c"].cat.remove_unused_categories()),
    ),
    "pandas-index-names": lambda needs: (frame(), lambda b: b if len(b) > 1 else b.rename_axis("other")),
    "pandas-index-dtypes": lambda needs: (frame(), lambda b: b if len(b) > 1 else b.set_axis(["x"])),
    "pandas-series-names": lambda needs: (frame()["a"], lambda b: b if len(b) > 1 else b.rename("z")),
    "pandas-frame-and-series": lambda needs: (frame(), lambda b: b if len(b) > 1 else b["a"]),
    "polars-dtypes": lambda needs: (
        optional("polars", needs).DataFrame({"a": range(5)}),
        lambda b: b if len(b) > 1 else b * 1.5,
    ),
    "polars-names": lambda needs: (
        optional("polars", needs).Series("s", range(5)),
        lambda b: b if len(b) > 1 else b.alias("z"),
    ),
    "pyarrow-types": lambda needs: (pyarrow(needs), lambda b: b if len(b) > 1 else b.rename_columns(["z"])),
    "pyarrow-notes": lambda needs: (pyarrow(needs), lambda b: b if len(b) > 1 else b.replace_schema_metadata(None)),
    "xarray-coordinates": lambda needs: (cube(needs), lambda b: b if len(b) > 1 else b.assign_coords(x=[0, 1])),
    "xarray-attributes": lambda needs: (cube(needs), lambda b: b if len(b) > 1 else b.assign_attrs(unit="s")),
    "xarray-names": lambda needs: (cube(needs), lambda b: b if len(b) > 1 else b.rename("z")),
    "xarray-dataset": lambda needs: (cube(needs), lambda b: b.to_dataset()),
    "sparse-dtypes": lambda needs: (
        optional("scipy.sparse", needs).csr_array(np.eye(5)),
        lambda b: b if b.shape[0] > 1 else b.astype("f4"),
    ),
    "sparse-columns": lambda needs: (
        optional("scipy.sparse", needs).csr_array(np.eye(5)),
        lambda b: b if b.shape[0] > 1 else b[:, :3],
    ),
    "named-tuples": lambda needs: ([1, 2, 3], lambda b: Range(min(b), max(b))),
    "dicts": lambda needs: ([1, 2, 3], lambda b: dict.fromkeys(b)),
    "text": lambda needs: ("abcde", lambda b: b.upper()),
    "numbers": lambda needs: ([1, 2, 3], sum),
}


class Measured(np.ndarray):
    """Has an attribute beside its numbers, and does not say what becomes of it."""

    unit = "m"


class Range(tuple):
    """A tuple of its own type, as named tuples are."""

    def __new__(cls, lo: int, hi: int) -> Range:
        return tuple.__new__(cls, (lo, hi))

    def __getnewargs__(self) -> tuple[int, int]:
        return self[0], self[1]


@pytest.mark.parametrize("make", APART.values(), ids=APART)
def test_what_does_not_fit_together_is_a_list(pool, make, needs):
    """No value is converted, no name or note dropped, no gap filled: the batches come back as `fn` returned them."""
    data, fn = make(needs)
    shape = getattr(data, "shape", None)
    count = shape[0] if shape else len(data)
    cut = getattr(data, "iloc", data)
    expected = [fn(cut[at : at + 2]) for at in range(0, count, 2)]
    assert same(pool.map_batches(fn, data, 2), expected)


def test_text_of_unequal_width_is_joined(pool):
    """Arrays of text are as wide as their longest: the joined one is too, and no letter is lost."""
    got = pool.map_batches(lambda part: np.array([word * len(part) for word in part]), list("abcde"), 2)
    assert same(got, np.array(["aa", "bb", "cc", "dd", "e"]))


def test_a_class_that_says_how_it_is_joined(pool):
    """A subclass of an array with `__array_function__` of its own is joined by that."""

    class Unit(np.ndarray):
        unit = "?"

        def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
            result = super().__array_function__(function, types, args, kwargs).view(Unit)
            result.unit = "joined"
            return result

    got = pool.map_batches(lambda part: np.asarray(part).view(Unit), np.arange(4), 2)
    assert (type(got).__name__, got.tolist(), got.unit) == ("Unit", [0, 1, 2, 3], "joined")


#: What has no rows, and what its items are.
ITERATED: dict[str, Callable[[Needs], Any]] = {
    "deque": lambda needs: deque(range(5)),
    "user-dict": lambda needs: UserDict(dict.fromkeys("abcde")),
    "dict": lambda needs: dict.fromkeys("abcde"),
    "set": lambda needs: {3},
    "generator": lambda needs: (x for x in range(5)),
    "groups": lambda needs: ((key, len(part)) for key, part in frame().groupby("b")),
    "dataset": lambda needs: optional("xarray", needs).Dataset({"a": ("x", [1, 2]), "b": ("x", [3, 4])}),
    "bytes-view": lambda needs: memoryview(b"abcde"),
}


@pytest.mark.parametrize("make", ITERATED.values(), ids=ITERATED)
def test_what_has_no_rows_is_iterated_over(pool, make, needs):
    """`fn` gets lists of what iterating gives."""
    expected = list(make(needs))
    assert pool.map_batches(itself, make(needs), 2) == expected
    assert pool.map_batches(lambda part: [type(part).__name__], make(needs), 100) == ["list"]


def test_a_group_by_gives_its_groups(local_pool):
    """Iterating over a group-by gives pairs of a key and its rows."""
    grouped = frame().groupby("b")
    got = local_pool.map_batches(lambda part: [(key, len(rows)) for key, rows in part], grouped, 2)
    assert got == [(key, len(rows)) for key, rows in grouped]


@pytest.mark.parametrize("kind", ["number", "array-0-d", "sparse-coo", "sparse-dia"])
def test_what_cannot_be_cut_is_refused(local_pool, needs, kind):
    """The error names what was given and what can be cut."""
    make: dict[str, Callable[[], Any]] = {
        "number": lambda: 5,
        "array-0-d": lambda: np.array(5),
        "sparse-coo": lambda: optional("scipy.sparse", needs).coo_matrix(np.eye(2)),
        "sparse-dia": lambda: optional("scipy.sparse", needs).dia_array(np.eye(2)),
    }
    data = make[kind]()
    with pytest.raises(TypeError, match=f"map_batches cannot cut an? {type(data).__name__}.*pandas or polars frame"):
        local_pool.map_batches(itself, data)
