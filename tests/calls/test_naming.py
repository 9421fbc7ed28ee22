"""Items that ended their process are named without running anything of theirs here."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import pathlib

import numpy as np
import pytest

from distmap.calls.naming import name_of_item
from distmap.tasks.items import dump_items

ran = []


@dataclasses.dataclass
class Plain:
    x: int


class Pair(collections.namedtuple("Pair", "a b")):
    pass


Two = collections.namedtuple("Two", "a b")


class Restored:
    def __setstate__(self, state):
        ran.append(state)

    def __getstate__(self):
        return {"x": 1}


class Made:
    def __reduce__(self):
        return ran.append, (1,)


class Built:
    def __new__(cls, x=None):
        ran.append(x)
        return super().__new__(cls)

    def __reduce__(self):
        return Built, (1,)


def named(item):
    payload, _ = dump_items([item, Plain(0)])
    ran.clear()
    try:
        return name_of_item(payload, 0)
    finally:
        assert ran == []


@pytest.mark.parametrize(
    "item",
    [
        3, "text", (1, "a"), [1, {2: 3}], {4}, 1 << 100, Plain(5), Two(1, 2), datetime.date(2020, 1, 2),
        pathlib.PurePosixPath("a/b"), np.float64(0.5), collections.Counter("aab"),
    ],
    ids=lambda item: type(item).__name__,
)  # fmt: skip
def test_what_is_harmless_is_shown(item):
    """Values of Python and NumPy, and objects that are nothing but their attributes, are shown as they are."""
    assert named(item) == repr(item)


def test_arrays_are_shown():
    """An array beside the pickle too."""
    assert named(np.arange(3)) == repr(np.arange(3))
    assert "0" in named(np.zeros(100_000))


@pytest.mark.parametrize("kind", [Restored, Made, Built])
def test_what_would_run_code_is_not_unpickled(kind):
    """Of such an item the size is told, and what would make it."""
    text = named(kind())
    assert text.startswith("pickle of ")
    assert kind is Made or kind.__name__ in text


def test_a_class_that_travels_by_value():
    """Objects of a class that is defined in a function or a notebook are shown, if they are nothing but attributes."""

    @dataclasses.dataclass
    class Local:
        x: int

    class Doomed:
        def __setstate__(self, state):
            raise AssertionError("it was unpickled")

        def __getstate__(self):
            return 1

    assert "Local(x=7)" in named(Local(7))
    assert named(Doomed()).startswith("pickle of ")
