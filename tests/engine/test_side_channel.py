"""The bytes of a side channel."""

from __future__ import annotations

import pytest

from distmap.engine.side_channel import COPY_BYTES, UNNUMBERED, Copy, Origin, pack, progress, unpack
from distmap.errors import ProtocolError
from distmap.wire.messages import Beat, Kill, Output, Report

ORIGIN = Origin(b"12345678", 7)


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (Report(0, 5, 1, 3, 0.25, False, ()), [b"head", b"buffer", b""]),
        (Output(0, 5, 0, ((1, 0, 5),)), [b"hello"]),
        (Kill(0), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_packed_is_unpacked(message: object, parts: list[bytes]) -> None:
    """Message and parts, with who gave the call and the place in the answer."""
    data = pack(ORIGIN, 3, message, [memoryview(part) for part in parts])  # type: ignore[arg-type]
    assert unpack(data) == Copy(ORIGIN, 3, message, parts)  # type: ignore[arg-type]


def test_where_an_attempt_is() -> None:
    """A beat that no answer has."""
    beat = Beat(0.0, 0.0, ((5, 2, 0.5),))
    assert unpack(progress(ORIGIN, 5, 2, 0.5)) == Copy(ORIGIN, UNNUMBERED, beat, [])


def test_large_parts_come_with_the_answer_alone() -> None:
    """There are no bytes of them."""
    report = Report(0, 5, 1, 3, 0.25, False, ())
    assert pack(ORIGIN, 0, report, [bytes(COPY_BYTES)])
    assert not pack(ORIGIN, 0, report, [bytes(COPY_BYTES), b"x"])


def test_what_is_no_such_thing_is_refused() -> None:
    """Whatever bytes come: others may use the channel too."""
    data = pack(ORIGIN, 0, Report(0, 5, 1, 3, 0.25, False, ()), [b"part"])
    for cut in (*[data[:size] for size in range(len(data) - 8)], b"", b"hello", data + b"x"):
        if cut != data[: len(data) - 8]:
            with pytest.raises(ProtocolError):
                unpack(cut)
