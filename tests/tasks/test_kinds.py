"""What a pickler does with the objects of a type."""

from __future__ import annotations

import random
import threading
from enum import Enum

import pytest

from distmap.tasks import kinds
from distmap.tasks.broadcast import Broadcast


class Colour(Enum):
    RED = 1


class Linked(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (int, kinds.PLAIN),
        (type, kinds.DEFINED),
        (type(len), kinds.NAMED),
        (Broadcast, kinds.BROADCAST),
        (ValueError, kinds.SIMPLE_ERROR),
        (Linked, kinds.ERROR),
        (random.Random, kinds.GENERATOR),
        (random.SystemRandom, kinds.NAMED),
        (Colour, kinds.MEMBER),
        (type(threading.Lock()), kinds.PLAIN),
    ],
)
def test_each_type_has_one_treatment(kind: type, expected: int) -> None:
    """Looked at twice, the answer is the same; most types need nothing."""
    table = kinds.Kinds()
    assert table.of(kind) == table.of(kind) == expected


def test_a_type_that_gives_no_name_is_asked_no_more() -> None:
    """If its reducers are written in C; those in Python may give a name the next time."""
    table = kinds.Kinds()
    table.gave_no_name(bytearray)
    table.gave_no_name(random.SystemRandom)
    assert table.of(bytearray) == kinds.PLAIN
    assert table.of(random.SystemRandom) == kinds.ASKED
