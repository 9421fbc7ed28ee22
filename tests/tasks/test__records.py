"""Records behave as dataclasses with slots would."""

from __future__ import annotations

import copy
import pickle
from collections import deque

import pytest

from distmap.tasks._records import Record, field


class Chunk(Record):
    """Items."""

    id: int
    start: int = 0
    tries: dict[int, int] = field(default_factory=dict)
    owner: Chunk | None = None

    def end(self) -> int:
        return self.start + len(self.tries)


class Options(Record, frozen=True, kw_only=True):
    """What was asked for."""

    size: int = 1
    name: str = "none"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(self.size)


class Nothing(Record):
    """No fields."""


def test_fields_and_defaults() -> None:
    """Fields are given in order or by name; a default that is made is made for each record, and none is shared."""
    first, second = Chunk(1), Chunk(id=2, start=5, tries={3: 1})
    first.tries[0] = 1
    assert (first.id, first.start, first.tries, first.owner, first.end()) == (1, 0, {0: 1}, None, 1)
    assert (second.id, second.start, second.tries, Chunk(3).tries) == (2, 5, {3: 1}, {})
    assert (Chunk._fields, Chunk.__doc__, Chunk.__match_args__) == (
        ("id", "start", "tries", "owner"),
        "Items.",
        Chunk._fields,
    )
    assert Options._defaults == {"size": 1, "name": "none"}
    Nothing()


def test_what_is_wrong_at_a_call() -> None:
    """A field without a default is due; there is no other field, neither at a call nor afterwards."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'id'"):
        Chunk()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        Chunk(1, other=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Options(1)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Chunk(1).other = 2  # type: ignore[attr-defined]


def test_text() -> None:
    """It names class and fields; a record that holds itself is shown once."""
    chunk = Chunk(1)
    chunk.owner = chunk
    assert repr(chunk) == "Chunk(id=1, start=0, tries={}, owner=...)"
    assert repr(Nothing()) == "Nothing()"


def test_equality() -> None:
    """A record that can change is equal to itself only; a frozen one to each of its class that has the same fields."""
    assert Chunk(1) != Chunk(1)
    assert len({Chunk(1), Chunk(1)}) == 2
    assert Options(size=2) == Options(size=2) != Options(size=3)
    assert len({Options(), Options(size=1)}) == 1
    assert Options() != 1


def test_a_frozen_record() -> None:
    """Nobody sets or deletes its fields; `__post_init__` looks at them first."""
    options = Options(size=4)
    for wrong in (lambda: setattr(options, "size", 5), lambda: delattr(options, "size")):
        with pytest.raises(AttributeError, match=r"^Options does not change: its field 'size' cannot be set$"):
            wrong()
    with pytest.raises(ValueError, match="-1"):
        Options(size=-1)
    assert options.size == 4


def test_match_and_copies() -> None:
    """`match` takes its fields apart; a copy and a pickle have the same ones."""
    match Chunk(7, 8):
        case Chunk(number, start):
            assert (number, start) == (7, 8)
    chunk = Chunk(1, tries={2: 2})
    for twin in (copy.copy(chunk), copy.deepcopy(chunk), pickle.loads(pickle.dumps(chunk))):
        assert (twin.id, twin.tries) == (1, {2: 2})


def test_a_made_default_of_any_kind() -> None:
    """What makes it is called without arguments, once for each record that is not given the field."""

    class Meter(Record):
        samples: deque[int] = field(default_factory=lambda: deque([1]))

    assert Meter().samples == deque([1])
    assert Meter().samples is not Meter().samples
    assert Meter(deque()).samples == deque()


def test_a_subclass() -> None:
    """It may change what methods do, and has the fields of its base."""

    class Loud(Chunk):
        def end(self) -> int:
            return -super().end()

    assert (Loud(1, start=4).end(), Loud(1)._fields) == (-4, Chunk._fields)
