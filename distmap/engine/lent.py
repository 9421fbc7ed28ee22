"""Large payloads for other processes of this machine, which open them by the descriptors of this one.

Owns the lending and the opening. A payload is written once into memory without a name; who runs a chunk of an executor
maps it, in place of a copy through a pipe for each process and chunk. It ends with the one who lent it. Where it cannot
be opened (another machine, user or container; no Linux) there is nothing, and the payload travels with the call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from distmap.engine.adapter import Run
from distmap.engine.attempt import Answer, BlobParts, Emit
from distmap.engine.base import Parts
from distmap.tasks._typing import NamedTuple
from distmap.tasks.payload import size
from distmap.transport.segments import LARGE, SegmentMapping, anonymous_file, private
from distmap.wire.messages import BlobKind, Task

#: Parts begin at multiples of so many bytes, as arrays like it.
_ALIGNED = 64
#: In the place of the seconds of an answer: items could not be opened.
_UNREADABLE = -1.0


class Lent(NamedTuple):
    """Where a payload is."""

    pid: int
    fd: int
    #: Of the memory: a descriptor of that number may be of something else, there or here.
    label: str
    digest: bytes
    kind: BlobKind
    #: Begin and length of each part.
    spans: tuple[tuple[int, int], ...]


def lend(blob: BlobParts) -> Lent | None:
    """Lend a payload, until `take_back`; None: it is small, or this system has no such way.

    Raises:
        OSError: There is no memory or descriptor to be had.
    """
    if sys.platform != "linux" or sum(map(size, blob.parts)) < LARGE:
        return None
    label = os.urandom(8).hex()
    fd = anonymous_file(label)
    try:
        spans, at = [], 0
        for part in blob.parts:
            with memoryview(part).cast("B") as view:
                spans.append((at, len(view)))
                done = 0
                while done < len(view):
                    done += os.pwrite(fd, view[done:], at + done)
            at = -(-(at + done) // _ALIGNED) * _ALIGNED
        os.ftruncate(fd, at)
    except BaseException:
        os.close(fd)
        raise
    return Lent(os.getpid(), fd, label, blob.digest, blob.kind, tuple(spans))


def take_back(lent: Lent) -> None:
    """Nobody opens it any more; who has done so keeps it."""
    os.close(lent.fd)


def borrow(lent: Lent) -> BlobParts | None:
    """The payload, in memory that this process may write to; None if it is not to be had here."""
    try:
        fd = os.open(f"/proc/{lent.pid}/fd/{lent.fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if f"distmap-{lent.label} " not in os.readlink(f"/proc/self/fd/{fd}"):
            return None
        mapping = SegmentMapping(fd, os.fstat(fd).st_size, writable=False)
    except OSError:
        return None
    finally:
        os.close(fd)
    whole = memoryview(private(mapping.lend(mapping.size)))
    return BlobParts(lent.digest, lent.kind, tuple([whole[at : at + length] for at, length in lent.spans]))


def run_with(
    lent: Sequence[Lent],
    items: Lent | None,
    run: Run,
    task: Task,
    blobs: Sequence[BlobParts],
    parts: Parts,
    emit: Emit | None,
) -> Answer:
    """As `run`, with what was lent. What cannot be opened is missing, as far as it is not there already.

    Args:
        lent: payloads.
        items: the items of the task, in place of `parts`. If they cannot be opened, the answer `is_unreadable`.
    """
    if items is not None:
        if (opened := borrow(items)) is None:
            return Answer([], (task.code,), _UNREADABLE)
        parts = opened.parts
    found = [borrow(one) for one in lent]
    return run(task, [*blobs, *[blob for blob in found if blob is not None]], parts, emit)


def is_unreadable(answer: Answer) -> bool:
    """Whether items could not be opened there. Nothing was run; that its code is missing has it sent again."""
    return answer.seconds == _UNREADABLE
