"""Messages to header bytes and back.

Owns the layout of every message: one tag byte, then fixed little-endian fields, then what varies. Never pickle, so
that no byte of a stranger can run anything. Imported by task processes, so it needs `struct` and nothing else.

Both functions are total: `decode` gives a message or raises ProtocolError, for any bytes. Parts are not its business:
they travel beside the header.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from distmap.errors import ProtocolError
from distmap.light import cast
from distmap.wire.messages import (
    NAME,
    Beat,
    BlobKind,
    Bye,
    DeathReason,
    Died,
    Draining,
    Drop,
    Free,
    Interrupt,
    Kill,
    Message,
    Output,
    Put,
    Ready,
    Refused,
    Report,
    Revoke,
    Segment,
    Task,
)

_KINDS: tuple[BlobKind, ...] = ("code", "value", "modules", "extras", "surroundings", "secret", "descriptor")
_REASONS: tuple[DeathReason, ...] = ("died", "timeout", "killed", "idle")

# The first byte says which message it is; numbers are never used again for another meaning.
_PUT, _DROP, _TASK, _REPORT, _REFUSED, _REVOKE, _INTERRUPT, _KILL = 1, 2, 3, 4, 5, 6, 7, 8
_DIED, _READY, _SEGMENT, _FREE, _BEAT, _DRAINING, _BYE, _OUTPUT = 9, 10, 11, 12, 13, 14, 15, 16

_put = struct.Struct("<B16sBH")
_drop = struct.Struct("<B16s")
_task = struct.Struct("<BIQIIQd16sHB")
_report = struct.Struct("<BIQIIdBI")
_output = struct.Struct("<BIQQI")
_output_piece = struct.Struct("<qBI")
_refused = struct.Struct("<BIQ")
_revoke = struct.Struct("<BIQI")
_interrupt = struct.Struct("<BIQ")
_kill = struct.Struct("<BI")
_died = struct.Struct("<BIqqBI")
_ready = struct.Struct("<BI")
_segment = struct.Struct("<BQQ")
_free = struct.Struct("<BQ")
_beat = struct.Struct("<BddI")
_beat_slot = struct.Struct("<qqd")
_bye = struct.Struct("<BI")


def encode(message: Message) -> bytes:
    """The header bytes of a message. Raises ProtocolError if a field does not fit its place on the wire."""
    encoder = _ENCODERS.get(type(message))
    if encoder is None:
        raise ProtocolError(f"{type(message).__name__} is no message of distmap's protocol")
    try:
        return encoder(message)
    except (struct.error, ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"a {type(message).__name__} cannot be written to the wire: {error}") from error


def decode(header: bytes | bytearray | memoryview) -> Message:
    """The message that the header bytes spell, all of them. Raises ProtocolError for anything else."""
    data = bytes(header)
    decoder = _DECODERS.get(data[0]) if data else None
    if decoder is None:
        raise ProtocolError(f"a header begins with {data[:1].hex() or 'nothing'}, which is no message of distmap")
    try:
        return decoder(data)
    except (struct.error, ValueError, IndexError) as error:
        raise ProtocolError(f"a header of kind {data[0]} is malformed: {error}") from error


# --- one pair for each message ---------------------------------------------------------------------------------------


def _exact(data: bytes, size: int) -> None:
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes where {size} were due")


def _digest(digest: bytes) -> bytes:
    # "16s" would silently pad or cut.
    if len(digest) != 16:
        raise ValueError(f"a digest has {len(digest)} bytes, not 16")
    return digest


def _text(text: str) -> bytes:
    # Texts come from people and from dying processes: lone surrogates must not cost the message.
    return text.encode("utf-8", "replace")


def _encode_put(m: Put) -> bytes:
    name = _text(m.name[:NAME])
    return _put.pack(_PUT, _digest(m.digest), _KINDS.index(m.kind), len(name)) + name


def _decode_put(data: bytes) -> Put:
    _, digest, kind, size = _put.unpack_from(data)
    _exact(data, _put.size + size)
    name = str(data[_put.size :], "utf-8")
    if len(name) > NAME:
        raise ValueError(f"a name of {len(name)} characters where {NAME} are the most")
    return Put(digest, _KINDS[kind], name)


def _encode_drop(m: Drop) -> bytes:
    return _drop.pack(_DROP, _digest(m.digest))


def _decode_drop(data: bytes) -> Drop:
    return Drop(_drop.unpack(data)[1])


def _encode_task(m: Task) -> bytes:
    code, count = _digest(m.code), len(m.needs)
    head = _task.pack(_TASK, m.slot, m.attempt, m.lo, m.hi, m.start, m.timeout, code, count, m.output)
    return b"".join((head, *map(_digest, m.needs))) if m.needs else head


def _decode_task(data: bytes) -> Task:
    _, slot, attempt, lo, hi, start, timeout, code, count, output = _task.unpack_from(data)
    at = _task.size
    _exact(data, at + 16 * count)
    needs = tuple([data[at + 16 * i : at + 16 * i + 16] for i in range(count)]) if count else ()
    return Task(slot, attempt, code, needs, lo, hi, start, timeout, output != 0)


def _encode_report(m: Report) -> bytes:
    count = len(m.failed)
    head = _report.pack(_REPORT, m.slot, m.attempt, m.lo, m.hi, m.seconds, m.ended, count)
    return head + struct.pack(f"<{count}I", *m.failed) if count else head


def _decode_report(data: bytes) -> Report:
    _, slot, attempt, lo, hi, seconds, ended, count = _report.unpack_from(data)
    # Checked before the offsets are unpacked: the count is the sender's word.
    _exact(data, _report.size + 4 * count)
    failed = struct.unpack_from(f"<{count}I", data, _report.size) if count else ()
    return Report(slot, attempt, lo, hi, seconds, ended != 0, failed)


def _encode_output(m: Output) -> bytes:
    head = _output.pack(_OUTPUT, m.slot, m.attempt, m.dropped, len(m.pieces))
    return head + b"".join([_output_piece.pack(*piece) for piece in m.pieces])


def _decode_output(data: bytes) -> Output:
    _, slot, attempt, dropped, count = _output.unpack_from(data)
    _exact(data, _output.size + count * _output_piece.size)
    return Output(slot, attempt, dropped, tuple(_output_piece.iter_unpack(data[_output.size :])))


def _encode_refused(m: Refused) -> bytes:
    return _refused.pack(_REFUSED, m.slot, m.attempt)


def _decode_refused(data: bytes) -> Refused:
    return Refused(*_refused.unpack(data)[1:])


def _encode_revoke(m: Revoke) -> bytes:
    return _revoke.pack(_REVOKE, m.slot, m.attempt, m.stop)


def _decode_revoke(data: bytes) -> Revoke:
    return Revoke(*_revoke.unpack(data)[1:])


def _encode_interrupt(m: Interrupt) -> bytes:
    return _interrupt.pack(_INTERRUPT, m.slot, m.attempt)


def _decode_interrupt(data: bytes) -> Interrupt:
    return Interrupt(*_interrupt.unpack(data)[1:])


def _encode_kill(m: Kill) -> bytes:
    return _kill.pack(_KILL, m.slot)


def _decode_kill(data: bytes) -> Kill:
    return Kill(_kill.unpack(data)[1])


def _encode_died(m: Died) -> bytes:
    text = _text(m.text)
    return _died.pack(_DIED, m.slot, m.attempt, m.at, _REASONS.index(m.reason), len(text)) + text


def _decode_died(data: bytes) -> Died:
    _, slot, attempt, at, reason, size = _died.unpack_from(data)
    _exact(data, _died.size + size)
    return Died(slot, attempt, at, _REASONS[reason], str(data[_died.size :], "utf-8"))


def _encode_ready(m: Ready) -> bytes:
    return _ready.pack(_READY, m.slot)


def _decode_ready(data: bytes) -> Ready:
    return Ready(_ready.unpack(data)[1])


def _encode_segment(m: Segment) -> bytes:
    return _segment.pack(_SEGMENT, m.segment, m.size)


def _decode_segment(data: bytes) -> Segment:
    return Segment(*_segment.unpack(data)[1:])


def _encode_free(m: Free) -> bytes:
    return _free.pack(_FREE, m.segment)


def _decode_free(data: bytes) -> Free:
    return Free(_free.unpack(data)[1])


def _encode_beat(m: Beat) -> bytes:
    return _beat.pack(_BEAT, m.cpu, m.memory, len(m.slots)) + b"".join([_beat_slot.pack(*slot) for slot in m.slots])


def _decode_beat(data: bytes) -> Beat:
    _, cpu, memory, count = _beat.unpack_from(data)
    _exact(data, _beat.size + count * _beat_slot.size)
    return Beat(cpu, memory, tuple(_beat_slot.iter_unpack(data[_beat.size :])))


def _encode_draining(m: Draining) -> bytes:
    return bytes((_DRAINING,))


def _decode_draining(data: bytes) -> Draining:
    _exact(data, 1)
    return Draining()


def _encode_bye(m: Bye) -> bytes:
    text = _text(m.reason)
    return _bye.pack(_BYE, len(text)) + text


def _decode_bye(data: bytes) -> Bye:
    _, size = _bye.unpack_from(data)
    _exact(data, _bye.size + size)
    return Bye(str(data[_bye.size :], "utf-8"))


# Each encoder takes its own message type only; the table's key is what guarantees it, hence the cast.
_ENCODERS = cast(
    "dict[type, Callable[[Message], bytes]]",
    {
        Put: _encode_put,
        Drop: _encode_drop,
        Task: _encode_task,
        Report: _encode_report,
        Output: _encode_output,
        Refused: _encode_refused,
        Revoke: _encode_revoke,
        Interrupt: _encode_interrupt,
        Kill: _encode_kill,
        Died: _encode_died,
        Ready: _encode_ready,
        Segment: _encode_segment,
        Free: _encode_free,
        Beat: _encode_beat,
        Draining: _encode_draining,
        Bye: _encode_bye,
    },
)

_DECODERS: dict[int, Callable[[bytes], Message]] = {
    _PUT: _decode_put,
    _DROP: _decode_drop,
    _TASK: _decode_task,
    _REPORT: _decode_report,
    _OUTPUT: _decode_output,
    _REFUSED: _decode_refused,
    _REVOKE: _decode_revoke,
    _INTERRUPT: _decode_interrupt,
    _KILL: _decode_kill,
    _DIED: _decode_died,
    _READY: _decode_ready,
    _SEGMENT: _decode_segment,
    _FREE: _decode_free,
    _BEAT: _decode_beat,
    _DRAINING: _decode_draining,
    _BYE: _decode_bye,
}
