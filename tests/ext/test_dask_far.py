"""How calls and answers travel to Dask workers and back."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

pytest.importorskip("distributed")

from distmap.engine.attempt import Answer, BlobParts
from distmap.ext.dask_far import Bundle, pack_answer, pack_blob, unpack_answer, unpack_blob
from distmap.wire.messages import Output, Report


def travelled(bundle: Bundle) -> tuple[Any, int]:
    """As it arrives, and the bytes that were not left out of the pickle."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(bundle, 5, buffer_callback=buffers.append)
    return pickle.loads(pickled, buffers=[buffer.raw() for buffer in buffers]), len(pickled)


def test_buffers_are_not_copied_into_pickles() -> None:
    """Whatever their kind; what arrives can be written to if what was sent could be."""
    sent = Bundle(b"head", b"a" * 100_000, bytearray(100_000), memoryview(bytearray(100_000)))
    arrived, pickled = travelled(sent)
    assert pickled < 1000
    assert arrived.head == b"head"
    assert [memoryview(part).readonly for part in arrived.buffers] == [True, False, False]
    assert arrived.__sizeof__() == sent.__sizeof__() == 300_004
    assert pickle.loads(pickle.dumps(sent, 5)).buffers == (b"a" * 100_000, bytearray(100_000), bytearray(100_000))


def test_answers_and_payloads_arrive_as_they_were() -> None:
    """Messages keep their parts, and their order."""
    report = Report(0, 7, 0, 2, 0.5, True, (1,))
    said: list[Any] = [(Output(0, 7, 0, ((0, 0, 2),)), [b"hi"]), (report, [b"head", bytearray(9)])]
    answer = Answer(said, (), 0.25, True)
    assert unpack_answer(travelled(pack_answer(answer))[0]) == answer
    assert unpack_answer(travelled(pack_answer(Answer([], (b"d" * 16,))))[0]) == Answer([], (b"d" * 16,))
    blob = BlobParts(b"d" * 16, "value", (b"head", bytearray(5)))
    assert unpack_blob(travelled(pack_blob(blob))[0]) == blob
