"""Payloads know their size, and digests tell them apart."""

from __future__ import annotations

import pickle

from distmap.tasks.payload import Payload, digest_of, load_value, size


def test_a_payload_counts_bytes_whatever_holds_them() -> None:
    """Head and buffers are counted in bytes, views of wider elements too."""
    wide = memoryview(bytearray(32)).cast("q")
    payload = Payload(b"head", (bytearray(3), wide))
    assert size(wide) == 32
    assert payload.nbytes == 4 + 3 + 32
    assert payload.parts == [b"head", bytearray(3), wide]


def test_a_digest_tells_where_a_part_ends() -> None:
    """The same bytes in other parts have another digest."""
    assert digest_of(b"ab", b"c") == digest_of(b"ab", bytearray(b"c"))
    assert digest_of(b"ab", b"c") != digest_of(b"a", b"bc")


def test_a_value_loads_from_its_buffers() -> None:
    """Buffers that were taken out of the pickle are given back to it."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(pickle.PickleBuffer(b"out of band"), 5, buffer_callback=buffers.append)
    assert load_value(Payload(head, tuple(buffer.raw() for buffer in buffers))) == b"out of band"
