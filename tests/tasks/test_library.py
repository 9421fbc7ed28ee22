"""What a process was sent is kept until it is dropped."""

from __future__ import annotations

import pytest

from distmap.errors import PayloadError
from distmap.tasks.library import Library
from distmap.tasks.payload import Payload
from distmap.wire.messages import Task


def test_what_was_put_is_there_until_it_is_dropped() -> None:
    """A digest that is not here is named; to drop it again is harmless."""
    library = Library()
    library.put(b"d" * 16, "value", Payload(b"x"))
    assert library.get(b"d" * 16) == ("value", Payload(b"x"))
    for _ in range(2):
        library.drop(b"d" * 16)
    with pytest.raises(PayloadError, match="64646464"):
        library.get(b"d" * 16)


def test_only_read_only_views_are_shared_by_slots() -> None:
    """A task shares memory if something that it was sent is a view that nobody may write to."""
    library = Library()
    task = Task(0, 1, b"c" * 16, (b"v" * 16,), 0, 1, 0, 0.0)
    assert not library.shares(task)
    library.put(b"v" * 16, "value", Payload(b"x", (memoryview(bytearray(3)),)))
    assert not library.shares(task)
    library.put(b"c" * 16, "code", Payload(b"x", (memoryview(b"abc"),)))
    assert library.shares(task)
    library.drop(b"v" * 16)
