"""One item out of a chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distmap.tasks.items import Items, dump_items
from distmap.tasks.picked import pick


class Thing:
    def __init__(self, value: object) -> None:
        self.value = value


def _open(payload: Any) -> Any:
    items = Items(payload.parts)
    assert items.count == 1
    return items.load(0) if items.whole is None else items.whole[0]


@pytest.mark.parametrize(
    "items", [[1, 2, 3], range(5, 9), [("a", 1), ("b", 2), ("c", 3)], [{"k": 1}, [2], {3}]], ids=str
)
def test_an_item_of_each_kind_of_chunk(items: Any) -> None:
    """What is picked opens as the item that it was, whether the chunk was one pickle or many."""
    payload, _ = dump_items(items)
    assert [_open(pick(payload, at)) for at in range(3)] == list(items)[:3]


def test_rows_of_an_array() -> None:
    """A row of an array comes back as a row, in memory of its own."""
    array = np.arange(12.0).reshape(4, 3)
    picked = pick(dump_items(array)[0], 2)
    array[:] = -1
    assert _open(picked).tolist() == [6.0, 7.0, 8.0]


def test_large_arrays_go_with_their_own_item_only() -> None:
    """Of the buffers of a chunk an item keeps its own, as a copy."""
    arrays = [np.full(50_000, float(n)) for n in range(3)]
    payload, _ = dump_items([{"a": array} for array in arrays])
    picked = pick(payload, 1)
    arrays[1][:] = -1
    assert picked.nbytes < 1.1 * arrays[1].nbytes
    assert set(_open(picked)["a"]) == {1.0}


def test_classes_that_travel_with_the_chunk() -> None:
    """Objects of a class that goes by value come back as objects of that class."""
    Thing.__module__ = "__main__"
    try:
        payload, _ = dump_items([Thing(1), Thing(np.zeros(50_000)), Thing(3)])
        assert [type(_open(pick(payload, at))) is Thing for at in range(3)] == [True] * 3
        assert _open(pick(payload, 1)).value.shape == (50_000,)
    finally:
        Thing.__module__ = __name__
