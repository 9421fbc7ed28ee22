"""The bytes of a side channel: copies of what a chunk said, on their way to the pool, and wishes on the way back.

Owns their layout: who gave the call and its number in the attempt, then message and parts, each with its length. Knows
no engine. What is no such thing is refused, as anybody may use the same channel.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer, NamedTuple
from distmap.tasks.payload import size
from distmap.wire.codec import decode, encode
from distmap.wire.messages import Beat, Message

#: Most bytes of the parts of a copy: more comes with the answer alone.
COPY_BYTES = 64 << 10
#: In the place of a number: what the answer does not have.
UNNUMBERED = 0xFFFF_FFFF

_head = struct.Struct("<8sII")
_length = struct.Struct("<I")


class Origin(NamedTuple):
    """Who gave a call, and which of its calls it was."""

    worker: bytes
    call: int


class Copy(NamedTuple):
    """Something that a chunk said, or that is wished of one."""

    origin: Origin
    #: Its place in the answer, or UNNUMBERED.
    number: int
    message: Message
    parts: list[Buffer]


def pack(origin: Origin, number: int, message: Message, parts: Sequence[Buffer] = ()) -> bytes:
    """Its bytes; empty if it has too many."""
    if sum(map(size, parts)) > COPY_BYTES:
        return b""
    pieces: list[Buffer] = [_head.pack(*origin, number)]
    for piece in (encode(message), *parts):
        pieces += [_length.pack(size(piece)), piece]
    return b"".join(pieces)


def unpack(data: bytes) -> Copy:
    """What the bytes spell. Raises ProtocolError for anything else."""
    try:
        *origin, number = _head.unpack_from(data)
        at, pieces = _head.size, []
        while at < len(data):
            (length,) = _length.unpack_from(data, at)
            at += _length.size + length
            if at > len(data):
                raise ProtocolError("bytes of a side channel were cut")
            pieces.append(data[at - length : at])
        header, *parts = pieces
    except (struct.error, ValueError, TypeError) as error:
        raise ProtocolError(f"bytes of a side channel are malformed: {error}") from error
    return Copy(Origin(*origin), number, decode(header), list(parts))


def progress(origin: Origin, attempt: int, at: int, seconds: float) -> bytes:
    """Where an attempt is, and for how long."""
    return pack(origin, UNNUMBERED, Beat(0.0, 0.0, ((attempt, at, seconds),)))
