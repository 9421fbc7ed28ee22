"""Calls and answers as a small pickle and large buffers."""

from __future__ import annotations

import pytest

from distmap.engine.attempt import Answer, BlobParts, run_there
from distmap.ext.packing import BESIDE_BYTES, MOST_BESIDE, pack_answer, pack_call, unpack_answer, unpack_call
from distmap.wire.messages import Report, Task

TASK = Task(0, 1, b"code", (b"code",), 0, 1, 0, 0.0)


def test_a_call_comes_back_as_it_was() -> None:
    """What is large lies beside the pickle, and is not copied."""
    small, large = b"small", memoryview(bytearray(BESIDE_BYTES))
    blob = BlobParts(b"code", "code", (b"head", large))
    head, beside = pack_call(run_there, TASK, [blob], [small, large])
    assert len(head) < 1000
    large[0] = 7
    assert [buffer[0] for buffer in beside] == [7, 7]
    run, task, blobs, parts = unpack_call(head, beside)
    assert (run, task, parts[0]) == (run_there, TASK, small)
    assert parts[1] == large
    assert [(one.digest, one.kind, *one.parts) for one in blobs] == [(b"code", "code", b"head", large)]


@pytest.mark.parametrize("size", [3, BESIDE_BYTES])
def test_results_may_be_written_to(size: int) -> None:
    """An answer arrives in memory of its own, also out of memory that is read-only."""
    report = Report(0, 1, 0, 1, 0.5, True, ())
    head, beside = pack_answer(Answer([(report, [b"head", bytearray(size)])], (), 0.5, True))
    answer = unpack_answer(head, [buffer.toreadonly() for buffer in beside])
    assert answer[1:] == ((), 0.5, True)
    [(message, (first, second))] = answer.messages
    assert (message, first) == (report, b"head")
    assert not memoryview(second).readonly


def test_the_buffers_beside_a_pickle_are_few() -> None:
    """Engines do not take any number of them; the rest travels inside."""
    parts = [bytes([at]) * BESIDE_BYTES for at in range(MOST_BESIDE + 5)]
    head, beside = pack_call(run_there, TASK, [], parts)
    assert len(beside) == MOST_BESIDE
    assert [bytes(part) for part in unpack_call(head, beside)[3]] == parts
