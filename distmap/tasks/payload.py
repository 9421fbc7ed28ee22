"""A pickled value and its raw buffers; what must be on a worker before the tasks that mention it.

Owns `Payload` and `Blob`. Must not know picklers, tasks or connections. Imported by task processes: hashlib only when
needed.
"""

from __future__ import annotations

import _pickle

from distmap.tasks._typing import Any, Buffer, NamedTuple
from distmap.wire.messages import BlobKind


class Payload(NamedTuple):
    """A small pickle and the raw buffers that it refers to."""

    head: Buffer
    buffers: tuple[Buffer, ...] = ()

    @property
    def parts(self) -> list[Buffer]:
        return [self.head, *self.buffers]

    @property
    def nbytes(self) -> int:
        return size(self.head) + sum(map(size, self.buffers))


class Blob(NamedTuple):
    """Something that must be on a worker before a task that mentions it: a module bundle or a broadcast value."""

    digest: bytes
    kind: BlobKind
    payload: Payload
    #: Must live as long as the blob.
    keep: object = None


def size(buffer: Buffer) -> int:
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def digest_of(*chunks: Buffer) -> bytes:
    from _blake2 import blake2b  # that of hashlib, without OpenSSL, which takes a millisecond to start

    state = blake2b(digest_size=16)
    for chunk in chunks:
        state.update(size(chunk).to_bytes(8, "little"))
        state.update(chunk)
    return state.digest()


def load_value(payload: Payload) -> Any:
    return _pickle.loads(payload[0], buffers=payload[1])
