"""What runs in a Dask worker, and how calls and answers travel there and back.

Owns the far end of `dask.py`. Large buffers travel beside the pickles, so that Dask copies none of them. Must not know
what is run.
"""

from __future__ import annotations

import pickle
import socket
import sys
from collections.abc import Sequence
from typing import Any

import distributed

from distmap._version import __version__
from distmap.engine import foreign_host
from distmap.engine.adapter import Run
from distmap.engine.attempt import Answer, BlobParts
from distmap.tasks._typing import Buffer
from distmap.tasks.payload import size
from distmap.wire.messages import Task

#: Most bytes that go over the side channel at once: the scheduler keeps the last thousand of them.
EVENT_BYTES = 16 << 10


class Bundle:
    """A pickle and buffers, which protocol 5 takes out of band."""

    def __init__(self, head: bytes, *buffers: Buffer) -> None:
        self.head = head
        self.buffers = buffers

    @property
    def nbytes(self) -> int:
        return sum(map(size, self.buffers))

    def __reduce__(self) -> tuple[Any, ...]:
        return Bundle, (self.head, *map(pickle.PickleBuffer, self.buffers))

    def __sizeof__(self) -> int:
        """What Dask believes that it keeps."""
        return len(self.head) + self.nbytes


def pack_call(run: Run, task: Task, blobs: Sequence[BlobParts], parts: Sequence[Buffer]) -> Bundle:
    outline = [(blob.digest, blob.kind, len(blob.parts)) for blob in blobs]
    buffers = [part for blob in blobs for part in blob.parts]
    return Bundle(pickle.dumps((run, task, outline)), *buffers, *parts)


def pack_blob(blob: BlobParts) -> Bundle:
    return Bundle(pickle.dumps((blob.digest, blob.kind)), *blob.parts)


def unpack_blob(packed: Bundle) -> BlobParts:
    digest, kind = pickle.loads(packed.head)
    return BlobParts(digest, kind, packed.buffers)


def pack_answer(answer: Answer) -> Bundle:
    outline = [(message, len(parts)) for message, parts in answer.messages]
    buffers = [part for _, parts in answer.messages for part in parts]
    return Bundle(pickle.dumps((outline, *answer[1:])), *buffers)


def unpack_answer(packed: Bundle) -> Answer:
    outline, *others = pickle.loads(packed.head)
    rest = iter(packed.buffers)
    return Answer([(message, [next(rest) for _ in range(count)]) for message, count in outline], *others)


def far_end(topic: str, sent: bytes | Bundle, *kept: Bundle) -> Bundle:
    """Run one call in a thread of a Dask worker.

    Args:
        topic: where its side channel leads.
        sent: the call; pickled if it is small, as then the scheduler keeps it.
        kept: what handles stand for.
    """
    worker = distributed.get_worker()
    packed = pickle.loads(sent) if isinstance(sent, bytes) else sent
    run, task, outline = pickle.loads(packed.head)
    rest = iter(packed.buffers)
    blobs = [BlobParts(digest, kind, tuple(next(rest) for _ in range(count))) for digest, kind, count in outline]
    blobs += map(unpack_blob, kept)

    def emit(data: bytes) -> None:
        if len(data) <= EVENT_BYTES:
            worker.log_event(topic, data)

    return pack_answer(run(task, blobs, list(rest), emit))


async def control(data: bytes) -> None:
    """What `send` calls on the worker's own loop, beside what its threads run."""
    foreign_host.control(data)


def about() -> tuple[str, str, str]:
    """Name of the host, Python, distmap."""
    return socket.gethostname(), f"{sys.version_info[0]}.{sys.version_info[1]}", __version__
