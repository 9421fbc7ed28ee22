"""Shared segments: filled here, mapped there, used again."""

from __future__ import annotations

import gc
import itertools
import os

import pytest

from distmap.transport.segments import Arena, Segment, SegmentMapping, Spare, anonymous_file, private


def mapped(fd: int, size: int, *, writable: bool = True) -> SegmentMapping:
    try:
        return SegmentMapping(fd, size, writable=writable)
    finally:
        os.close(fd)


def test_what_is_written_is_what_is_mapped() -> None:
    """Bytes written before and after the descriptor was given away are seen by the mapping."""
    segment = Segment(1, 8192)
    segment.write(b"first")
    mapping = mapped(segment.keep(), 8192)
    view = mapping.lend(5)
    assert view == b"first"
    segment.write(memoryview(b"other"))
    assert view == b"other"
    view[0] = ord("O")
    assert not view.readonly
    segment.close()
    assert view == b"Other"


def test_a_loan_is_over_when_its_last_view_is_gone() -> None:
    """`gone` is called once, and only when no slice, cast or array of the memory is left."""
    numpy = pytest.importorskip("numpy")
    segment = Segment(1, 8192)
    mapping = mapped(segment.keep(), 8192)
    calls: list[int] = []
    view = mapping.lend(800, lambda: calls.append(1))
    array = numpy.frombuffer(view, dtype=numpy.float64)[10:20]
    piece = view[3:5]
    del view
    assert calls == []
    del array
    assert calls == []
    del piece
    assert calls == [1]
    assert mapping.lend(100) == bytes(100)
    segment.close()


def test_memory_outlives_the_mapping_object_while_it_is_used() -> None:
    """Views keep the memory mapped after everybody else let go of it."""
    segment = Segment(1, 1 << 20)
    segment.write(b"still here")
    mapping = mapped(segment.keep(), 1 << 20)
    segment.close()
    view = mapping.lend(10)
    del mapping, segment
    gc.collect()
    assert view == b"still here"


def test_a_read_only_mapping_refuses_writes() -> None:
    """Views of a read-only mapping cannot be written to."""
    segment = Segment(1, 4096)
    view = mapped(segment.keep(), 4096, writable=False).lend(10)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    segment.close()


def test_what_was_lent_to_be_read_can_be_made_ones_own() -> None:
    """Writes to a private view stay in this mapping: another one of the segment does not see them."""
    segment = Segment(1, 8192)
    segment.write(b"shared")
    mine, other = (mapped(os.dup(segment.fd), 8192, writable=False).lend(6) for _ in range(2))
    own = private(mine)
    assert isinstance(own, memoryview)
    own[0] = ord("S")
    assert (bytes(own), bytes(mine), bytes(other)) == (b"Shared", b"Shared", b"shared")
    segment.close()


@pytest.mark.parametrize("buffer", [b"abc", bytearray(b"abc"), memoryview(b"abc")], ids=["bytes", "bytearray", "view"])
def test_any_buffer_becomes_ones_own(buffer: bytes | bytearray | memoryview) -> None:
    """What is not in shared memory is copied if it must not be written to."""
    own = private(buffer)
    assert (own is buffer) == isinstance(buffer, bytearray)
    memoryview(own)[0] = ord("A")
    assert bytes(own) == b"Abc"


@pytest.mark.parametrize("length", [0, 4097])
def test_no_loan_beyond_the_segment(length: int) -> None:
    """A part that is said to be larger than its segment is refused, or it would read what is not there."""
    segment = Segment(1, 4096)
    mapping = mapped(segment.keep(), 4096)
    with pytest.raises(ValueError, match="segment of 4096"):
        mapping.lend(length)
    segment.close()


def test_what_cannot_be_mapped_is_an_error() -> None:
    """A descriptor that maps to nothing raises OSError."""
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="cannot map"):
            SegmentMapping(reader, 4096, writable=True)
    finally:
        os.close(reader)
        os.close(writer)


def test_an_arena_uses_again_what_comes_back() -> None:
    """A freed segment serves the next part of about its size, without a new descriptor."""
    arena = Arena(Spare(1 << 20, 1 << 20), itertools.count(1))
    first, fd = arena.fill(b"x" * 10_000)
    assert fd >= 0
    view = mapped(fd, first.size).lend(10_000)
    assert arena.free(first.number) == []
    second, again = arena.fill(b"y" * 9_000)
    assert (second.number, again) == (first.number, -1)
    assert view[:9_000] == b"y" * 9_000
    third, fd = arena.fill(b"z" * 9_000)
    assert third.number != first.number
    os.close(fd)
    arena.close()


def test_an_arena_does_not_pin_large_memory_for_small_parts() -> None:
    """A much smaller part gets a segment of its own size."""
    arena = Arena(Spare(1 << 30, 1 << 30), itertools.count(1))
    large, fd = arena.fill(bytes(1 << 20))
    os.close(fd)
    arena.free(large.number)
    small, fd = arena.fill(bytes(10_000))
    assert fd >= 0
    assert small.size < 20_000
    os.close(fd)
    arena.close()


def test_an_arena_gives_up_the_oldest_beyond_its_spare() -> None:
    """Free memory is bounded; what is given up is named, so that the reader can forget it."""
    arena = Arena(Spare(100_000, 100_000), itertools.count(1))
    numbers = []
    for _ in range(3):
        segment, fd = arena.fill(bytes(40_000))
        os.close(fd)
        numbers.append(segment.number)
    given_up = [number for n in numbers for number in arena.free(n)]
    assert given_up == numbers[:1]
    assert arena.free(numbers[0]) == []
    assert arena.free(999) == []
    arena.close()


def test_an_arena_keeps_more_at_work_than_at_rest() -> None:
    """What is beyond the rest is there for the next parts, last used first, until it rests; then it is named."""
    arena = Arena(Spare(50_000, 200_000), itertools.count(1))
    numbers = []
    for _ in range(3):
        segment, fd = arena.fill(bytes(40_000))
        os.close(fd)
        numbers.append(segment.number)
    assert [arena.free(number) for number in numbers] == [[], [], []]
    assert arena.restless
    assert arena.fill(bytes(40_000))[0].number == numbers[2]
    assert arena.rest() == numbers[:1]
    assert not arena.restless
    assert arena.rest() == []
    assert arena.fill(bytes(40_000))[0].number == numbers[1]
    arena.close()


def test_anonymous_files_have_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memfd a temporary file is used, and it is unlinked at once."""
    monkeypatch.setattr("sys.platform", "darwin")
    fd = anonymous_file("test")
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_no_segment_when_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that cannot be sized raises OSError and leaves no descriptor."""

    def fail(fd: int, size: int) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="No space"):
        Segment(1, 4096)
