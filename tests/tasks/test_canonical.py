"""The bytes that stand for a value are the same for equal content, and for nothing else."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import functools
import random
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest

from distmap.tasks.broadcast import Broadcast
from distmap.tasks.canonical import Encoder


def encode(value: object) -> bytes:
    return encoder().encode(value)


def encoder() -> Encoder:
    return Encoder(lambda obj: obj.__qualname__.encode(), lambda module, name: None)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Node:
    def __init__(self, value: object, after: object = None) -> None:
        self.value, self.after = value, after

    @functools.cached_property
    def slow(self) -> int:
        return 1


class Bare:
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


def circle(value: object) -> Node:
    node = Node(value)
    node.after = [node]
    return node


def used(cached: Node) -> Node:
    assert cached.slow
    return cached


Maker = Callable[[], Any]

SAME: list[tuple[Maker, Maker]] = [
    (lambda: {"a", "b", "c"}, lambda: {"c", "b", "a"}),
    (lambda: frozenset(range(99)), lambda: frozenset(reversed(range(99)))),
    (lambda: ["ab", "ab"], lambda: ["ab", "".join("ab")]),
    (lambda: ["ab"] * 99, lambda: ["".join("ab") for _ in range(99)]),
    (lambda: [[1]] * 2, lambda: [[1], [1]]),
    (lambda: [{"x": {"p", "q"}}], lambda: [{"x": {"q", "p"}}]),
    (lambda: np.arange(6.0), lambda: np.array([0, 1, 2, 3, 4, 5], float)),
    (lambda: np.zeros((3, 4)), lambda: np.asfortranarray(np.zeros((3, 4)))),
    (lambda: np.array([{"a", "b"}, None]), lambda: np.array([{"b", "a"}, None])),
    (lambda: TypeVar("T", bound=int), lambda: TypeVar("T", bound=int)),
    (lambda: circle(1), lambda: circle(1)),
    (lambda: Node(1), lambda: used(Node(1))),
    (lambda: Bare(1), lambda: Bare(1)),
    (lambda: np.random.default_rng(1), lambda: np.random.default_rng(1)),
    (lambda: functools.partial(max, 1, key=len), lambda: functools.partial(max, 1, key=len)),
    (lambda: Broadcast([1]), lambda: Broadcast([1])),
    (lambda: weakref.WeakValueDictionary(), lambda: weakref.WeakValueDictionary({1: CACHED})),
    (lambda: random.random, lambda: random.Random.random.__get__(random._inst)),  # type: ignore[attr-defined]
]
CACHED = Node(1)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_content_gives_equal_bytes(one: Maker, other: Maker) -> None:
    """The order of sets, the identity of parts, and what was computed when asked do not matter."""
    assert encode(one()) == encode(other())


DIFFERENT: list[tuple[Any, Any]] = [
    (1, True),
    (1, 1.0),
    (0.0, -0.0),
    ("1", b"1"),
    ([1, 2], (1, 2)),
    ([1, 2], [2, 1]),
    ([1] * 99, [1.0] * 99),
    ([[1], 2], [[1, 2]]),
    ({1}, frozenset({1})),
    ({1: 2}, {2: 1}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (np.arange(4), np.arange(4.0)),
    (np.zeros((2, 3)), np.zeros((3, 2))),
    (np.zeros(9), np.ones(9)),
    (np.float32(1), np.float64(1)),
    (np.float64(1), np.float64(2)),
    (np.float64(1), np.array(1.0)),
    (np.array(["2020-01-01"], "M8[D]"), np.array(["2020-01-02"], "M8[D]")),
    (np.zeros(2, [("a", "i4")]), np.zeros(2, [("b", "i4")])),
    (np.zeros((0, 3)), np.zeros((0, 4))),
    (TypeVar("T"), TypeVar("S")),
    (Colour.RED, Colour.BLUE),
    (Node(1), Node(2)),
    (Bare(1), Bare(2)),
    (Point(1), Point(1, 1)),
    (circle(1), Node(1, [Node(1)])),
    (functools.partial(max, 1), functools.partial(min, 1)),
    (Node(1).__init__, Node(2).__init__),  # type: ignore[misc]
    ([].append, [1].append),
    (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
    (collections.OrderedDict(a=1), {"a": 1}),
    (random.Random(1), random.Random(2)),
    (bytearray(b"a"), b"a"),
    (len, max),
    (np.add, np.subtract),
    (range(3), range(4)),
    (Broadcast(1), Broadcast(2)),
    (ValueError("a"), ValueError("b")),
    (property(len), property(max)),
    (functools.lru_cache(4)(circle), functools.lru_cache(5)(circle)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_content_gives_other_bytes(one: object, other: object) -> None:
    """Type, order and every part of the content count."""
    assert encode(one) != encode(other)


def test_large_arrays_are_read_and_not_copied() -> None:
    """One changed byte is seen in an array of any layout."""
    for array in (np.zeros(1 << 20), np.asfortranarray(np.zeros((1 << 10, 1 << 5))), np.zeros(1 << 12)[::2]):
        before = encode(array)
        array[-1] = 1
        assert encode(array) != before


def test_of_what_does_not_pickle_the_type_counts_and_is_said() -> None:
    """Locks of two processes are equal; whoever asks learns that only the type was looked at."""
    one = encoder()
    assert one.encode([threading.Lock(), 1]) == encode([threading.Lock(), 1]) != encode([threading.RLock(), 1])
    assert one.opaque == {"lock"}
    one.forget()
    assert not one.opaque


def test_very_deep_values_count_by_their_type_however_deep_the_caller_is() -> None:
    """A list of lists without end in sight gives the same bytes from any depth of the stack."""

    def nested(depth: int) -> object:
        value: object = 1
        for _ in range(depth):
            value = [value]
        return value

    def deeper(left: int) -> bytes:
        return deeper(left - 1) if left else encode(nested(1_000))

    assert deeper(0) == deeper(100)
    assert encode(nested(100)) != encode(nested(101))


def test_tables_count_by_content() -> None:
    """DataFrames of equal content are equal, whatever they were made of."""
    pandas = pytest.importorskip("pandas")
    columns = {"a": [1, 2, 3], "b": ["x", "y", None]}
    frame, other = pandas.DataFrame(columns), pandas.DataFrame(columns)
    assert encode(frame) == encode(other)
    other.loc[2, "b"] = "z"
    assert encode(frame) != encode(other)
