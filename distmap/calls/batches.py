"""Cuts data into slices of rows for `map_batches`, and joins the results.

Owns the list of what has rows, and the joining by each library's own means. A joined value has exactly the types that
its parts have; parts that do not fit together stay a list. No library is imported: objects are recognised by their
types.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from distmap.tasks._typing import NamedTuple

#: Sequences whose slices are what iterating over them gives; a subclass might slice otherwise.
_SEQUENCES = (list, tuple, range, str, bytes, bytearray)

WHAT_HAS_ROWS = (
    "a list, tuple, range, str, bytes or array.array; a NumPy array or another with a shape that can be sliced; a "
    "pandas or polars frame, Series or Index; a pyarrow table, record batch or array; an xarray DataArray; a sparse "
    "matrix in a sliceable format"
)


class Rows(NamedTuple):
    """Something that is cut by rows."""

    length: int
    #: Rows from one number up to another.
    cut: Callable[[int, int], Any]


def rows_of(data: Any) -> Rows | None:
    """How to cut it; None if it has no rows, and can only be iterated over.

    Raises:
        TypeError: it has rows, but they cannot be cut; or no first axis.
    """
    kind = type(data)
    if kind in _SEQUENCES or (kind.__module__, kind.__name__) == ("array", "array"):
        return Rows(len(data), lambda lo, hi: data[lo:hi])
    if hasattr(kind, "iloc"):
        return Rows(len(data), lambda lo, hi: data.iloc[lo:hi])
    if _is_a(kind, "pyarrow", "Array", "ChunkedArray"):
        return Rows(len(data), lambda lo, hi: data.slice(lo, hi - lo))
    # An array says its shape and type, a frame its shape and columns. Nothing else that has a length is known to
    # slice by rows: a deque does not, a mapping has keys, a group-by has groups.
    tells = hasattr(kind, "shape") and (hasattr(kind, "dtype") or hasattr(kind, "columns"))
    if not tells and not _is_a(kind, "scipy", "spmatrix", "sparray"):
        return None
    if not data.shape:
        raise TypeError(f"map_batches cannot cut a {kind.__name__}, which has no rows. It cuts {WHAT_HAS_ROWS}")
    try:
        data[0:0]
    except (TypeError, NotImplementedError) as error:
        raise TypeError(
            f"map_batches cannot cut a {kind.__name__}, which has no slices; convert it, as with .tocsr(). "
            f"It cuts {WHAT_HAS_ROWS}"
        ) from error
    return Rows(data.shape[0], lambda lo, hi: data[lo:hi])


def nothing_of(data: Any) -> Any:
    """The result of `map_batches` when there is no batch: no rows of an array or frame, else an empty list.

    What `fn` would have made of it nobody knows, so types and columns are those of the data. A copy, which does not
    keep the data, where there is one to be had.
    """
    rows = None if type(data) in _SEQUENCES else rows_of(data)
    if rows is None:
        return []
    empty = rows.cut(0, 0)
    return empty.copy() if hasattr(empty, "copy") else empty


def concatenate(batches: list[Any]) -> Any:
    """The results of `map_batches` as one.

    Lists (and tuples) are chained into a list. Arrays, frames, Series, columns and sparse matrices are joined along
    their rows by their own library if all are of one type and agree in what the joined one has once: dtype, columns,
    names, the shape of a row. Anything else stays a list with one entry for each batch.
    """
    kinds = set(map(type, batches))
    if kinds <= {list, tuple}:
        return [value for batch in batches for value in batch]
    if len(kinds) > 1:
        return batches
    (kind,) = kinds
    for base in kind.__mro__:
        root = base.__module__.partition(".")[0]
        join = _JOINS.get((root, base.__name__))
        if join is not None:
            joined = join(sys.modules[root], batches)
            return joined if type(joined) is kind else batches
    return batches


def _is_a(kind: type, root: str, *names: str) -> bool:
    return any(base.__name__ in names and base.__module__.partition(".")[0] == root for base in kind.__mro__)


def _agree(batches: Iterable[Any], *facts: Callable[[Any], Any]) -> bool:
    """Whether these facts are the same of all."""
    first, *others = batches
    return all(fact(other) == expected for fact in facts for expected in [fact(first)] for other in others)


# Each takes its library and the batches; None: they do not fit together.


def _join_arrays(numpy: Any, batches: list[Any]) -> Any:
    first, kind = batches[0], type(batches[0])
    if first.ndim == 0 or not _agree(batches, lambda batch: batch.shape[1:]):
        return None
    if not _agree(batches, lambda batch: batch.dtype):
        # Text is as wide as its longest, here and in the whole; other types would be converted.
        if first.dtype.kind not in "US" or not _agree(batches, lambda batch: batch.dtype.kind + batch.dtype.byteorder):
            return None
    elif kind.__module__.partition(".")[0] != "numpy":
        # A class of somebody else's says by this method what becomes of its attributes.
        if kind.__array_function__ is numpy.ndarray.__array_function__:
            return None
        joined = numpy.concatenate(batches)
        return joined if joined.dtype == first.dtype else None
    dtype = max((batch.dtype for batch in batches), key=lambda dtype: dtype.itemsize)
    shape = (sum(map(len, batches)), *first.shape[1:])
    if isinstance(first, numpy.ma.MaskedArray):
        joined = numpy.ma.empty(shape, dtype)
        at = 0
        for batch in batches:
            joined[at : at + len(batch)] = batch
            at += len(batch)
        if _agree(batches, lambda batch: repr(batch.fill_value)):
            joined.fill_value = first.fill_value
        return joined
    # Into memory of that very type: numpy.concatenate by itself takes byte order and padding away.
    joined = numpy.empty(shape, dtype)
    numpy.concatenate(batches, out=joined)
    return joined.view(kind)


def _join_pandas(pandas: Any, batches: list[Any]) -> Any:
    def index(batch: Any) -> Any:
        return list(batch.index.names), _dtypes(batch.index)

    if not _agree(batches, index):
        return None
    if batches[0].ndim == 1:
        return pandas.concat(batches) if _agree(batches, lambda batch: (repr(batch.name), batch.dtype)) else None
    columns = batches[0].columns
    alike = all(batch.columns.identical(columns) for batch in batches)
    return pandas.concat(batches) if alike and _agree(batches, lambda batch: list(batch.dtypes)) else None


def _join_pandas_index(pandas: Any, batches: list[Any]) -> Any:
    if not _agree(batches, lambda batch: (list(batch.names), _dtypes(batch))):
        return None
    return batches[0].append(batches[1:])


def _dtypes(index: Any) -> list[Any]:
    """Of an Index one, of a MultiIndex as many as it has levels."""
    return [index.dtype] if index.nlevels == 1 else list(index.dtypes)


def _join_polars(polars: Any, batches: list[Any]) -> Any:
    def facts(batch: Any) -> Any:
        return batch.schema if hasattr(batch, "schema") else (batch.name, batch.dtype)

    return polars.concat(batches) if _agree(batches, facts) else None


def _join_pyarrow(pyarrow: Any, batches: list[Any]) -> Any:
    first = batches[0]
    if hasattr(first, "schema"):
        if not all(batch.schema.equals(first.schema, check_metadata=True) for batch in batches):
            return None
        if isinstance(first, pyarrow.Table):
            return pyarrow.concat_tables(batches)
        return pyarrow.concat_batches(batches) if hasattr(pyarrow, "concat_batches") else None
    if not _agree(batches, lambda batch: batch.type):
        return None
    if isinstance(first, pyarrow.ChunkedArray):
        return pyarrow.chunked_array([chunk for batch in batches for chunk in batch.chunks], first.type)
    return pyarrow.concat_arrays(batches)


def _join_xarray(xarray: Any, batches: list[Any]) -> Any:
    first = batches[0]
    if not first.dims or not _agree(batches, lambda batch: (batch.dims, batch.dtype, batch.name, set(batch.coords))):
        return None
    along = first.dims[0]

    def others(batch: Any) -> Any:
        """What there is once: everything but the rows."""
        once = batch.coords.to_dataset()
        return once.drop_vars([name for name in once.variables if along in once[name].dims]).assign_attrs(batch.attrs)

    if not all(others(batch).identical(others(first)) for batch in batches[1:]):
        return None
    return xarray.concat(batches, along, coords="minimal", compat="override", join="exact", combine_attrs="override")


def _join_sparse(scipy: Any, batches: list[Any]) -> Any:
    first = batches[0]
    if first.ndim != 2 or not _agree(batches, lambda batch: (batch.dtype, batch.shape[1])):
        return None
    return scipy.sparse.vstack(batches, format=first.format)


_JOINS: dict[tuple[str, str], Callable[[Any, list[Any]], Any]] = {
    ("numpy", "ndarray"): _join_arrays,
    ("pandas", "DataFrame"): _join_pandas,
    ("pandas", "Series"): _join_pandas,
    ("pandas", "Index"): _join_pandas_index,
    ("polars", "DataFrame"): _join_polars,
    ("polars", "Series"): _join_polars,
    ("pyarrow", "Table"): _join_pyarrow,
    ("pyarrow", "RecordBatch"): _join_pyarrow,
    ("pyarrow", "Array"): _join_pyarrow,
    ("pyarrow", "ChunkedArray"): _join_pyarrow,
    ("xarray", "DataArray"): _join_xarray,
    ("scipy", "spmatrix"): _join_sparse,
    ("scipy", "sparray"): _join_sparse,
}
