"""Messages to header bytes and back.

Owns the layout of every message: one tag byte, then fixed little-endian fields, then what varies. Never pickle, so
that no byte of a stranger can run anything. Imported by task processes, so it needs `struct` and nothing else.

Both functions are total: `decode` gives a message or raises ProtocolError, for any bytes. Two headers never give one
message (but for a boolean, where every byte other than 0 is true), so that a damaged header is refused or gives a
message that encodes to the damaged bytes. Parts are not its business: they travel beside the header.
"""

from __future__ import annotations

import struct

from distmap.errors import ProtocolError
from distmap.tasks._typing import cast
from distmap.wire import messages as msg

_KINDS: tuple[msg.BlobKind, ...] = ("code", "value", "modules", "extras", "surroundings", "secret", "descriptor")
_REASONS: tuple[msg.DeathReason, ...] = ("died", "timeout", "killed", "idle", "memory", "limit")

# The first byte says which message it is; numbers are never used again for another meaning.
_PUT, _TASK, _REPORT, _DIED, _BEAT, _BYE, _OUTPUT = 1, 3, 4, 9, 13, 15, 16

_put = struct.Struct("<B16sBH")
_task = struct.Struct("<BIQIIQd16sHBB")
_report = struct.Struct("<BIQIIdBI")
_output = struct.Struct("<BIQQI")
_output_piece = struct.Struct("<qBI")
_died = struct.Struct("<BIqqBI")
_beat = struct.Struct("<BddIII")
_beat_device = struct.Struct("<dd")
_beat_slot = struct.Struct("<qqd")
_bye = struct.Struct("<BI")

#: Messages whose fields are all of fixed size: the first byte, and the layout of that byte and the fields in order.
_FIXED: dict[type, tuple[int, struct.Struct]] = {
    msg.Drop: (2, struct.Struct("<B16s")),
    msg.Refused: (5, struct.Struct("<BIQ?")),
    msg.Revoke: (6, struct.Struct("<BIQI")),
    msg.Interrupt: (7, struct.Struct("<BIQ")),
    msg.Kill: (8, struct.Struct("<BI")),
    msg.Ready: (10, struct.Struct("<BI")),
    msg.Segment: (11, struct.Struct("<BQQ")),
    msg.Free: (12, struct.Struct("<BQ")),
    msg.Draining: (14, struct.Struct("<B")),
    msg.Renew: (17, struct.Struct("<BI")),
}
_FIXED_BY_TAG = {tag: (kind, layout) for kind, (tag, layout) in _FIXED.items()}


def encode(message: msg.Message) -> bytes:
    """The header bytes of a message. Raises ProtocolError if a field does not fit its place on the wire."""
    try:
        match message:  # the frequent ones first
            case msg.Task():
                return _encode_task(message)
            case msg.Report():
                return _encode_report(message)
            case msg.Put():
                return _encode_put(message)
            case msg.Output():
                return _encode_output(message)
            case msg.Beat():
                return _encode_beat(message)
            case msg.Died():
                return _encode_died(message)
            case msg.Bye():
                return _encode_bye(message)
            case msg.Drop():
                _digest(message.digest)
        fixed = _FIXED.get(type(message))
        if fixed is None:
            raise ProtocolError(f"{type(message).__name__} is no message of distmap's protocol")
        tag, layout = fixed
        return layout.pack(tag, *message)
    except (struct.error, ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"a {type(message).__name__} cannot be written to the wire: {error}") from error


def decode(header: bytes | bytearray | memoryview) -> msg.Message:
    """The message that the header bytes spell, all of them. Raises ProtocolError for anything else."""
    data = bytes(header)  # copies a view: headers are small, and slices of bytes are cheaper than those of views
    tag = data[0] if data else 0
    try:
        if tag == _TASK:
            return _decode_task(data)
        if tag == _REPORT:
            return _decode_report(data)
        if tag == _PUT:
            return _decode_put(data)
        if tag == _OUTPUT:
            return _decode_output(data)
        if tag == _BEAT:
            return _decode_beat(data)
        if tag == _DIED:
            return _decode_died(data)
        if tag == _BYE:
            return _decode_bye(data)
        if tag in _FIXED_BY_TAG:
            kind, layout = _FIXED_BY_TAG[tag]
            return cast("msg.Message", kind(*layout.unpack(data)[1:]))
    except (struct.error, ValueError, IndexError) as error:
        raise ProtocolError(f"a header of kind {tag} is malformed: {error}") from error
    raise ProtocolError(f"a header begins with {data[:1].hex() or 'nothing'}, which is no message of distmap")


# --- one pair for each message of varying size -----------------------------------------------------------------------


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


def _encode_put(m: msg.Put) -> bytes:
    name = _text(m.name[: msg.MAX_NAME])
    return _put.pack(_PUT, _digest(m.digest), _KINDS.index(m.kind), len(name)) + name


def _decode_put(data: bytes) -> msg.Put:
    _, digest, kind, size = _put.unpack_from(data)
    _exact(data, _put.size + size)
    name = str(data[_put.size :], "utf-8")
    if len(name) > msg.MAX_NAME:
        raise ValueError(f"a name of {len(name)} characters where {msg.MAX_NAME} are the most")
    return msg.Put(digest, _KINDS[kind], name)


def _encode_task(m: msg.Task) -> bytes:
    slot, attempt, code, needs, lo, hi, start, timeout, output, strict = m
    for digest in (code, *needs):
        if len(digest) != 16:
            _digest(digest)
    head = _task.pack(_TASK, slot, attempt, lo, hi, start, timeout, code, len(needs), output, strict)
    return b"".join((head, *needs)) if needs else head


def _decode_task(data: bytes) -> msg.Task:
    _, slot, attempt, lo, hi, start, timeout, code, count, output, strict = _task.unpack_from(data)
    at = _task.size
    _exact(data, at + 16 * count)
    needs = tuple([data[at + 16 * i : at + 16 * i + 16] for i in range(count)]) if count else ()
    return msg.Task(slot, attempt, code, needs, lo, hi, start, timeout, output != 0, strict != 0)


def _encode_report(m: msg.Report) -> bytes:
    count = len(m.failed)
    head = _report.pack(_REPORT, m.slot, m.attempt, m.lo, m.hi, m.seconds, m.ended, count)
    return head + struct.pack(f"<{count}I", *m.failed) if count else head


def _decode_report(data: bytes) -> msg.Report:
    _, slot, attempt, lo, hi, seconds, ended, count = _report.unpack_from(data)
    # Checked before the offsets are unpacked: the count is the sender's word.
    _exact(data, _report.size + 4 * count)
    failed = struct.unpack_from(f"<{count}I", data, _report.size) if count else ()
    return msg.Report(slot, attempt, lo, hi, seconds, ended != 0, failed)


def _encode_output(m: msg.Output) -> bytes:
    head = _output.pack(_OUTPUT, m.slot, m.attempt, m.dropped, len(m.pieces))
    return head + b"".join([_output_piece.pack(*piece) for piece in m.pieces])


def _decode_output(data: bytes) -> msg.Output:
    _, slot, attempt, dropped, count = _output.unpack_from(data)
    _exact(data, _output.size + count * _output_piece.size)
    return msg.Output(slot, attempt, dropped, tuple(_output_piece.iter_unpack(data[_output.size :])))


def _encode_died(m: msg.Died) -> bytes:
    text = _text(m.text)
    return _died.pack(_DIED, m.slot, m.attempt, m.at, _REASONS.index(m.reason), len(text)) + text


def _decode_died(data: bytes) -> msg.Died:
    _, slot, attempt, at, reason, size = _died.unpack_from(data)
    _exact(data, _died.size + size)
    return msg.Died(slot, attempt, at, _REASONS[reason], str(data[_died.size :], "utf-8"))


def _encode_beat(m: msg.Beat) -> bytes:
    states = m.states.encode("ascii")
    if len(states) > len(m.slots):
        raise ValueError(f"states of {len(states)} slots where there are {len(m.slots)}")
    slots = [_beat_slot.pack(*slot) for slot in m.slots]
    if len(m.devices) > len(m.slots):
        raise ValueError(f"{len(m.devices)} devices where there are {len(m.slots)} slots")
    devices = [_beat_device.pack(*device) for device in m.devices]
    head = _beat.pack(_BEAT, m.cpu, m.memory, len(m.slots), len(states), len(devices))
    return b"".join((head, *slots, states, *devices))


def _decode_beat(data: bytes) -> msg.Beat:
    _, cpu, memory, count, letters, devices = _beat.unpack_from(data)
    slots_end = _beat.size + count * _beat_slot.size
    states_end = slots_end + letters
    _exact(data, states_end + devices * _beat_device.size)
    if letters > count or devices > count:
        raise ValueError(f"states of {letters} slots and {devices} devices where there are {count} slots")
    return msg.Beat(
        cpu,
        memory,
        tuple(_beat_slot.iter_unpack(data[_beat.size : slots_end])),
        str(data[slots_end:states_end], "ascii"),
        tuple(_beat_device.iter_unpack(data[states_end:])),
    )


def _encode_bye(m: msg.Bye) -> bytes:
    text = _text(m.reason)
    return _bye.pack(_BYE, len(text)) + text


def _decode_bye(data: bytes) -> msg.Bye:
    _, size = _bye.unpack_from(data)
    _exact(data, _bye.size + size)
    return msg.Bye(str(data[_bye.size :], "utf-8"))
