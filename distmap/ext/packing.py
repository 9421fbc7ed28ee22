"""Calls and answers as one small pickle and the large buffers beside it, for engines that move buffers without copies.

Owns the two forms. Must not know which engine moves them, and what a call does.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from distmap.engine.adapter import Run
from distmap.engine.attempt import Answer, BlobParts
from distmap.engine.base import Parts
from distmap.tasks._typing import Buffer
from distmap.wire.messages import Task

#: Buffers of fewer bytes travel inside the pickle: each one beside it costs more than a copy.
BESIDE_BYTES = 32 << 10
#: At most so many buffers of one call travel beside the pickle; ipyparallel takes no more than 63 things in a result.
MOST_BESIDE = 60


def pack_call(run: Run, task: Task, blobs: Sequence[BlobParts], parts: Parts) -> tuple[bytes, list[memoryview]]:
    """What `unpack_call` takes: a pickle, and the buffers beside it."""
    return _dump((run, task, [blob._replace(parts=pickled(blob.parts)) for blob in blobs], pickled(parts)))


def unpack_call(head: Buffer, beside: Sequence[Buffer]) -> tuple[Run, Task, list[BlobParts], Sequence[Buffer]]:
    """The arguments of `pack_call`, their buffers as they came."""
    call: tuple[Run, Task, list[BlobParts], Sequence[Buffer]] = pickle.loads(head, buffers=beside)
    return call


def pack_answer(answer: Answer) -> tuple[bytes, list[memoryview]]:
    messages: Any = [(message, pickled(parts)) for message, parts in answer.messages]
    return _dump(answer._replace(messages=messages))


def unpack_answer(head: Buffer, beside: Sequence[Buffer]) -> Answer:
    """The answer, in memory of its own, which may be written to: arrays of results stand in it."""
    answer: Answer = pickle.loads(head, buffers=[bytearray(buffer) for buffer in beside])
    return answer


def pickled(parts: Sequence[Buffer]) -> tuple[Any, ...]:
    """As objects that pickle, and without a copy where the pickler can keep buffers apart."""
    return tuple([pickle.PickleBuffer(part) for part in parts])


def _dump(value: Any) -> tuple[bytes, list[memoryview]]:
    beside: list[memoryview] = []

    def inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < BESIDE_BYTES or len(beside) == MOST_BESIDE:
            return True
        beside.append(raw)
        return False

    return pickle.dumps(value, 5, buffer_callback=inside), beside
