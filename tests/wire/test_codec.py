"""Messages to bytes and back; bad bytes are refused, whatever they are."""

from __future__ import annotations

import math
import random
from typing import Any, get_args

import pytest

from distmap.errors import ProtocolError
from distmap.wire.codec import decode, encode
from distmap.wire.messages import (
    OUTPUT_BYTES,
    OUTPUT_PIECES,
    Beat,
    Bye,
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
    Renew,
    Report,
    Revoke,
    Segment,
    Task,
)

D = bytes(range(16))
BIG = 2**64 - 1

SAMPLES: list[Message] = [
    Put(D, "code"),
    Put(D, "value"),
    Put(D, "modules"),
    Put(D, "code", "schätze\n\x1b[2J"),
    Put(D, "code", "ä" * 80),
    Drop(D),
    Task(0, 0, D, (), 0, 1, 0, 0.0),
    Task(2**32 - 1, BIG, D, (D[::-1], D), 7, 2**32 - 1, BIG, 1.5),
    Task(0, 0, D, (), 0, 1, 0, 0.0, False),
    Report(0, 1, 0, 10, 0.25, False, ()),
    Report(3, BIG, 5, 10, 0.0, True, (5, 7, 9)),
    Output(0, 1, 3412, ()),
    Output(2**32 - 1, BIG, 0, ((-1, 0, 12), (7, 1, 2**32 - 1))),
    Task(0, 0, D, (), 0, 1, 0, 0.0, strict=True),
    Refused(1, 2),
    Refused(1, 2, unfit=True),
    Renew(2**32 - 1),
    Revoke(1, 2, 3),
    Interrupt(1, 2),
    Kill(4),
    Died(1, -1, -1, "idle", ""),
    Died(1, 5, 3, "died", "SIGSEGV\nStapel: ä 🙂"),
    Died(1, 5, 3, "timeout", "x"),
    Died(1, 5, 3, "killed", "x"),
    Ready(9),
    Segment(1, 2**40),
    Free(1),
    Beat(0.5, 0.25, ()),
    Beat(0.0, 1.0, ((-1, 0, 0.0), (12, 3, 4.5))),
    Beat(0.0, 1.0, ((-1, 0, 0.0), (12, 3, 4.5)), " D"),
    Beat(0.0, 1.0, ((-1, 0, 0.0), (12, 3, 4.5)), "D", ((0.5, 0.25), (-1.0, -1.0))),
    Draining(),
    Bye(""),
    Bye("going away, auf Wiedersehen ü"),
]


def test_samples_cover_every_message() -> None:
    """No message can be added without a sample here."""
    assert {type(sample) for sample in SAMPLES} == set(get_args(Message))


def test_samples_differ_from_every_default() -> None:
    """A field that is forgotten on the wire would come back as its default, so some sample has another value."""
    for kind in get_args(Message):
        for name, default in kind._field_defaults.items():
            values = [getattr(sample, name) for sample in SAMPLES if type(sample) is kind]
            assert any(value != default for value in values), f"{kind.__name__}.{name}"


@pytest.mark.parametrize("message", SAMPLES, ids=repr)
def test_round_trip(message: Message) -> None:
    """A message comes back equal, of the same type, from any kind of buffer."""
    header = encode(message)
    for buffer in (header, bytearray(header), memoryview(header)):
        back = decode(buffer)
        assert back == message
        assert type(back) is type(message)


@pytest.mark.parametrize("message", SAMPLES, ids=repr)
def test_cut_and_trailing_bytes_are_refused(message: Message) -> None:
    """Every prefix of a header and every header with bytes behind it is refused."""
    header = encode(message)
    for end in range(len(header)):
        with pytest.raises(ProtocolError):
            decode(header[:end])
    for tail in (b"\0", b"\0" * 16, header):
        with pytest.raises(ProtocolError):
            decode(header + tail)


def test_decode_is_total() -> None:
    """Random bytes and damaged headers give a message or ProtocolError, and what decodes encodes again."""
    chance = random.Random(1)
    headers = [encode(sample) for sample in SAMPLES]
    for _ in range(20_000):
        data = bytearray(chance.choice(headers))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            message = decode(data)
        except ProtocolError:
            continue
        assert repr(decode(encode(message))) == repr(message)


@pytest.mark.parametrize(
    "message",
    [
        Put(b"short", "code"),
        Put(D, "poem"),  # type: ignore[arg-type]
        Drop(D + b"x"),
        Task(-1, 0, D, (), 0, 1, 0, 0.0),
        Task(0, 2**64, D, (), 0, 1, 0, 0.0),
        Task(0, 0, D, (b"x",), 0, 1, 0, 0.0),
        Report(0, 0, 0, 1, 0.0, True, (2**32,)),
        Output(0, 0, -1, ()),
        Output(0, 0, 0, ((0, 0, 2**32),)),
        Output(0, 0, 0, ((0, 0),)),  # type: ignore[arg-type]
        Kill("one"),  # type: ignore[arg-type]
        Died(0, 0, 0, "bored", ""),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused(message: Message) -> None:
    """A field that has no place on the wire raises ProtocolError that names the message."""
    with pytest.raises(ProtocolError, match=type(message).__name__):
        encode(message)


def test_a_long_name_is_cut() -> None:
    """Where it is sent; one that comes too long all the same is refused."""
    header = encode(Put(D, "code", "x" * 5000))
    assert decode(header) == Put(D, "code", "x" * 80)
    longer = header[:-82] + (81).to_bytes(2, "little") + b"x" * 81
    assert len(longer) == len(header) + 1
    with pytest.raises(ProtocolError, match="a name of 81 characters"):
        decode(longer)


def test_only_messages_are_encoded() -> None:
    """Anything else is refused by name."""
    stranger: Any = {"put": 1}
    with pytest.raises(ProtocolError, match="dict"):
        encode(stranger)


def test_texts_of_dying_processes_travel() -> None:
    """Lone surrogates, which stderr of a task may hold, do not cost the message."""
    assert decode(encode(Died(0, 1, 2, "died", "a\udcffb"))) == Died(0, 1, 2, "died", "a?b")


def test_huge_announcements_are_refused_without_memory() -> None:
    """Counts that the bytes do not bear out are refused before anything of that size is made."""
    report = bytearray(encode(Report(0, 0, 0, 1, 0.0, True, ())))
    report[-4:] = b"\xff" * 4
    beat = bytearray(encode(Beat(0.0, 0.0, ())))
    beat[-4:] = b"\xff" * 4
    output = bytearray(encode(Output(0, 0, 0, ())))
    output[-4:] = b"\xff" * 4
    for header in (report, beat, output):
        with pytest.raises(ProtocolError, match="were due"):
            decode(header)


def test_states_of_slots_that_there_are_not() -> None:
    """A Beat has at most one state for each of its slots."""
    with pytest.raises(ProtocolError, match="states of 2 slots where there are 1"):
        encode(Beat(0.0, 0.0, ((1, 2, 3.0),), "SD"))
    header = bytearray(encode(Beat(0.0, 0.0, ())))
    header[-8:-4] = b"\1\0\0\0"
    with pytest.raises(ProtocolError, match="states of 1 slots and 0 devices where there are 0"):
        decode(bytes(header) + b"D")


def test_devices_of_slots_that_there_are_not() -> None:
    """A Beat has at most one device for each of its slots."""
    with pytest.raises(ProtocolError, match="1 devices where there are 0 slots"):
        encode(Beat(0.0, 0.0, (), "", ((1.0, 1.0),)))
    header = bytearray(encode(Beat(0.0, 0.0, ())))
    header[-4:] = b"\1\0\0\0"
    with pytest.raises(ProtocolError, match="states of 0 slots and 1 devices where there are 0"):
        decode(bytes(header) + bytes(16))


def test_odd_floats_survive() -> None:
    """Infinity and not-a-number are passed on: judging figures is not the codec's business."""
    back = decode(encode(Beat(math.inf, math.nan, ())))
    assert isinstance(back, Beat)
    assert back.cpu == math.inf
    assert math.isnan(back.memory)


def test_pieces_spell_their_text() -> None:
    """An Output says of every size of text whether it is its own, and refuses texts beyond the bounds."""
    assert Output(0, 0, 0, ()).spells(0)
    assert Output(0, 0, 0, ((0, 0, 5), (1, 1, 7))).spells(12)
    assert not Output(0, 0, 0, ((0, 0, 5), (1, 1, 7))).spells(11)
    assert not Output(0, 0, 0, ()).spells(1)
    assert Output(0, 0, 0, ((0, 0, OUTPUT_BYTES),)).spells(OUTPUT_BYTES)
    assert not Output(0, 0, 0, ((0, 0, OUTPUT_BYTES + 1),)).spells(OUTPUT_BYTES + 1)
    assert not Output(0, 0, 0, ((0, 0, 0),) * (OUTPUT_PIECES + 1)).spells(0)
