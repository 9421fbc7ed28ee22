"""Tests of distmap.tasks.plain: which values travel together, and as what they come back."""

from __future__ import annotations

import collections
import enum
import pickle
from typing import Any

import numpy as np
import pytest

from distmap.tasks.plain import are_plain, dump_numbers, dump_plain, fixed_size


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    """A subclass of a plain type."""


Point = collections.namedtuple("Point", "x y")
SHARED = {"a": 1}


def shown(values: Any) -> list[tuple[type, str]]:
    """The types and the contents, all the way down: equality takes True for 1."""
    return [(type(value), repr(value)) for value in values]


@pytest.mark.parametrize(
    "values",
    [
        [],
        (),
        [1, 2.5, None, True, 10**50, -1, ()],
        (0, False, float("inf")),
        [1, "two", b"3", 4j],
        [1j, 2],
        [1, *"abcdefgh", 2, 3],
        ["a", "b", "a"],
        [(1, "a"), (), (2.5, None)],
        [{}, {"a": 1, 2: "b", ("k", 3): None}, {"a": True}],
        [[], [1, "x", b"y"], [2.5]],
        ({"a": 1}, {"a": 1}),
    ],
)
def test_plain_values_are_one_pickle(values: Any) -> None:
    """Numbers, text, tuples and flat records come back out of one pickle with the types that they had."""
    pickled = dump_plain(values)
    assert pickled is not None
    back = pickle.loads(pickled)
    assert type(back) is type(values)
    assert shown(back) == shown(values)


@pytest.mark.parametrize(
    "values",
    [
        [1, [2], 3],
        [0, {"a": 1}, 0],
        [1, bytearray(b"x"), 1],
        [1, {2}, 3],
        [None, *"abcdefgh", [1], 2, None],
        [1, Colour.RED, 2],
        [Colour.RED],
        [1, np.int64(2), 3],
        [1, len, 3],
        [1, object(), 3],
        ["a", Text("b")],
        [("a", [])],
        [((1,),)],
        [Point(1, 2)],
        [{"a": 1}, [1]],
        [{"a": [1]}],
        [{"a": (1,)}],
        [{"a": Colour.RED}],
        [{Colour.RED: 1}],
        [{Point(1, 2): 1}],
        [collections.OrderedDict(a=1)],
        [[1, [2]]],
        [[bytearray(b"x")]],
        [SHARED, SHARED],
        [SHARED, {"a": 2}, SHARED],
    ],
)
def test_what_may_change_or_is_of_the_users_travels_otherwise(values: Any) -> None:
    """Other values, subclasses, nested containers and one record in two places are not pickled together."""
    assert dump_plain(values) is None
    assert dump_plain(tuple(values)) is None


def test_records_keep_what_they_share_inside() -> None:
    """Text that stands twice in a record is one object again; two equal records are two."""
    text = "".join(["some", "text"])
    pickled = dump_plain([{"a": text, "b": text}, {"a": text}])
    assert pickled is not None
    first, second = pickle.loads(pickled)
    assert first["a"] is first["b"]
    assert first is not second


def test_many_numbers_and_one_other_value_among_them() -> None:
    """One value of another kind is found wherever it is."""
    for at in (0, 1, 500, 700, 999):
        values: list[Any] = list(range(1000))
        values[at] = {}
        assert dump_plain(values) is None
        values[at] = "text"
        pickled = dump_plain(values)
        assert pickled is not None
        assert pickle.loads(pickled) == values


def test_numbers_are_told_by_their_pickle() -> None:
    """Numbers alone give one; whatever else is among them gives none, however large it is."""
    for numbers in ([], [1], [None, 2.5, (), True, -(10**30)], tuple(range(10**5)), [0.5] * 10**5):
        pickled = dump_numbers(numbers)
        assert pickled is not None
        assert pickle.loads(pickled) == numbers
    for other in ("a", b"", "x" * 10**6, bytes(10**6), [0] * 10**6, {}, 1j, (1,), len):
        assert dump_numbers([1, other]) is None
        assert dump_numbers([other, 1]) is None
    assert dump_plain([1, "x" * 10**6]) == pickle.dumps([1, "x" * 10**6], 5)


def test_plain_is_told_by_types() -> None:
    """Scalars and tuples of them are plain, in any mixture, and nothing else is."""
    assert are_plain([1, "a", (2, b"c"), ()])
    assert not are_plain([1, "a", (2, [b"c"])])
    assert not are_plain([[1]])


@pytest.mark.parametrize(
    ("value", "size"),
    [(1, 0), ("abc", 3), (b"ab", 2), ((1, "abc", b"d"), 4), (np.float32(1), 0), ([1], None), ((1, [2]), None)],
)
def test_the_size_of_what_nothing_changes(value: Any, size: int | None) -> None:
    """It is the length of text and bytes; what may be changed has none."""
    assert fixed_size(value) == size
