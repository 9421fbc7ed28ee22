"""Tests of distmap.tasks.object_paths: the words for what is in a value."""

from __future__ import annotations

import functools
import random
import threading
from typing import Any

import numpy as np
import pytest

from distmap.tasks.broadcast import Broadcast
from distmap.tasks.object_paths import parts_of, path_to_generator, pickling_error

LOCK = threading.Lock()


class Slotted:
    __slots__ = ("empty", "inner")

    def __init__(self, inner: object) -> None:
        self.inner = inner


class Reduced:
    """What is pickled of it is not what it has."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __reduce__(self) -> Any:
        return Reduced, ({"hidden": [self.inner]},)


class Error(Exception):
    """Its constructor's argument is in `args`."""


def words(value: object) -> str:
    return str(pickling_error("it", value, TypeError("cannot")))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (LOCK, "it: TypeError: cannot"),
        ([1, {"a": (LOCK,)}], "it: element 1, the value of key 'a', element 0 (<unlocked"),
        ([*range(5000), LOCK], "it: element 5000 (<unlocked"),
        (Slotted(Slotted([LOCK])), "it: its attribute 'inner', its attribute 'inner', element 0 (<unlocked"),
        (Reduced(LOCK), "it: its attribute 'inner' (<unlocked"),
        (functools.partial(print, 1, end=LOCK), "it: its argument 'end' (<unlocked"),
        (LOCK.acquire, "it: the object it is bound to (<unlocked"),
        ({LOCK: 1}, "it: TypeError: cannot"),
        ([Broadcast([LOCK])], "it: element 0, its value, element 0 (<unlocked"),
        ([1], "it: TypeError: cannot"),
    ],
    ids=["itself", "containers", "far-back", "slots", "reduced", "partial", "bound", "key", "broadcast", "fine"],
)
def test_the_way_to_what_does_not_pickle(value: object, said: str) -> None:
    """Each step has a name where it has one; where the way cannot be told the error is."""
    assert words(value).startswith(said)


def test_a_search_that_is_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done in Python; without it the error says what it can."""
    monkeypatch.setattr("distmap.tasks.object_paths._MOST_LOOKED", 100)
    assert words([*range(1000), LOCK]) == "it: TypeError: cannot"


def test_deep_values_are_given_up() -> None:
    """The search ends at Python's limit of recursion, not the process."""
    deep: list[Any] = [LOCK]
    for _ in range(5000):
        deep = [deep]
    assert words(deep) == "it: TypeError: cannot"


def test_parts() -> None:
    """What no pickle of a user's function has is no part; what an exception was given is."""
    assert list(parts_of(random)) == []
    assert [str(part) for part in parts_of(Error(1, 2))] == ["its argument 0", "its argument 1"]


def test_generators_are_found_in_what_is_the_users() -> None:
    """In containers, objects of the user's and handles, in circles too, but not inside of installed packages."""
    generator = np.random.default_rng(1)
    assert path_to_generator(generator.normal) == ("the object it is bound to", generator)
    assert path_to_generator(Slotted({"a": [generator]}).__class__) is None
    circle: list[object] = [Broadcast(generator)]
    circle.insert(0, circle)
    assert path_to_generator(circle) == ("element 1, its value", generator)
    assert path_to_generator(threading.Thread(args=(generator,))) is None
    assert path_to_generator([[[[[[[generator]]]]]]]) is None
    assert path_to_generator([0] * 200 + [generator]) is None
