"""One message cut into pieces, and put together again."""

from __future__ import annotations

import struct

import pytest

from distmap.core.limits import LIMITS
from distmap.errors import ProtocolError
from distmap.wire.codec import encode
from distmap.wire.messages import Drop
from distmap.wire.streams import Incoming, Outgoing

HEADER = encode(Drop(b"a" * 16))
ROOM = 100


def pieces(entry: Outgoing) -> list[bytes]:
    """The bytes of each frame until nothing is left."""
    cut = []
    while entry.left:
        cut.append(b"".join(entry.cut()))
    return cut


def test_a_stream_is_its_meta_block_and_its_parts() -> None:
    """Number of parts, their sizes, header, then the parts; each frame but the last is full."""
    entry = Outgoing(7, HEADER, [b"x" * 150, b"", b"y" * 30], ROOM)
    meta = struct.pack("<I3Q", 3, 150, 0, 30) + HEADER
    assert entry.opening == struct.pack("<I", len(meta))
    cut = pieces(entry)
    assert b"".join(cut) == meta + b"x" * 150 + b"y" * 30
    assert [len(piece) for piece in cut] == [ROOM, ROOM, len(meta) + 180 - 2 * ROOM]


def test_pieces_are_views() -> None:
    """A part is not copied, whether one frame takes it or many."""
    part = bytearray(3 * ROOM)
    entry = Outgoing(1, HEADER, [part], ROOM)
    for _ in range(3):
        assert any(isinstance(piece, memoryview) and piece.obj is part for piece in entry.cut())
    assert any(piece is part for piece in Outgoing(1, HEADER, [part], 1000).cut())


def test_views_of_any_shape_count_as_bytes() -> None:
    """Views of wider items or more dimensions are cut by their bytes, empty ones too."""
    wide = memoryview(struct.pack("<4I", 1, 2, 3, 4)).cast("I")
    square = memoryview(bytes(range(6))).cast("B", (2, 3))
    empty = memoryview(b"").cast("B").cast("I")
    [piece] = pieces(Outgoing(1, HEADER, [wide, square, empty], 1000))
    assert piece.endswith(HEADER + wide.tobytes() + bytes(range(6)))


@pytest.mark.parametrize(
    ("parts", "room", "control"), [([], ROOM, True), ([b""], ROOM, False), ([], 10, False)], ids=str
)
def test_only_small_messages_without_parts_are_control(parts: list[bytes], room: int, control: bool) -> None:
    """What has parts, or needs more than one frame, waits for credit."""
    assert Outgoing(1, HEADER, parts, room).control is control


def test_bytes_in_any_pieces_fill_the_message() -> None:
    """The message is complete with its last byte, not before, and its parts are memory of its own."""
    parts = [b"12", b"", b"345"]
    data = b"".join(pieces(Outgoing(1, HEADER, parts, ROOM)))
    entry = Incoming(len(data) - 5, LIMITS, bytearray)
    for at, byte in enumerate(data, 1):
        assert entry.feed(memoryview(bytes((byte,)))) is (at == len(data))
    assert entry.message == Drop(b"a" * 16)
    assert entry.parts == parts


def test_sizes_are_checked_before_memory_is_taken() -> None:
    """What announces more than is allowed, or more than it sends, is refused; nothing is allocated for it."""

    def allocate(size: int) -> bytearray:
        raise AssertionError(size)

    limits = LIMITS._replace(message_bytes=100, meta_bytes=50)
    for size in (3, 51):
        with pytest.raises(ProtocolError, match="meta block"):
            Incoming(size, limits, allocate)
    for meta in (struct.pack("<I", 5), struct.pack("<IQ", 1, 101) + HEADER):
        with pytest.raises(ProtocolError, match="announces"):
            Incoming(len(meta), limits, allocate).feed(memoryview(meta))
    meta = struct.pack("<I", 0) + HEADER
    with pytest.raises(ProtocolError, match="1 bytes more"):
        Incoming(len(meta), limits, allocate).feed(memoryview(meta + b"x"))
