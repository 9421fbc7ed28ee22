"""What must be on a worker before a task, and for whom it is kept here: for a call, for one chunk, or for a handle.

Owns who needs which blob. What nobody needs any more is forgotten here, and the caller is told, so that the workers
forget it too. Knows no worker and no engine; lives on the loop's thread, in the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import NamedTuple

from distmap.tasks.payload import Blob

#: In the place of a chunk: what the whole call needs.
WHOLE = -1


class Holder(NamedTuple):
    """Who needs blobs: a chunk of a job, or the whole of it."""

    job: int
    chunk: int = WHOLE


class Growth(NamedTuple):
    """So many bytes that a living handle held before are now kept for this chunk alone."""

    holder: Holder
    nbytes: int


class Blobs:
    """All blobs of a pool.

    Args:
        pinned: digests of values whose handle lives; they are kept beyond the jobs that use them.
    """

    def __init__(self, pinned: Set[bytes]) -> None:
        self._pinned = pinned
        self._blobs: dict[bytes, Blob] = {}
        self._holders: dict[bytes, dict[Holder, None]] = {}
        self._held: dict[Holder, set[bytes]] = {}
        #: Values that are kept for a chunk alone, and for which.
        self._alone: dict[bytes, Holder] = {}

    def __getitem__(self, digest: bytes) -> Blob:
        return self._blobs[digest]

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._blobs

    def __len__(self) -> int:
        return len(self._blobs)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(blob.payload.nbytes for blob in self._blobs.values())

    def keep(self, holder: Holder, blobs: Iterable[Blob]) -> int:
        """Keep blobs for somebody; equal digests are kept once. Gives the bytes of those that a chunk alone needs."""
        alone = 0
        for blob in blobs:
            if holder.chunk != WHOLE and blob.digest not in self._blobs and blob.digest not in self._pinned:
                self._alone[blob.digest] = holder
                alone += blob.payload.nbytes
            self._blobs.setdefault(blob.digest, blob)
            self._holders.setdefault(blob.digest, {})[holder] = None
            self._held.setdefault(holder, set()).add(blob.digest)
        return alone

    def let_go(self, holder: Holder) -> list[bytes]:
        """The holder needs nothing any more. Gives what is forgotten now."""
        digests = self._held.pop(holder, ())
        for digest in digests:
            del self._holders[digest][holder]
            if self._alone.get(digest) == holder:
                del self._alone[digest]
        return self._forget(digests)

    def end(self, job: int) -> list[bytes]:
        """The job is over, with all its chunks. Gives what is forgotten now."""
        holders = [holder for holder in self._held if holder.job == job]
        return [digest for holder in holders for digest in self.let_go(holder)]

    def unpinned(self, digest: bytes) -> tuple[list[bytes], Growth | None]:
        """The handle is gone. Gives what is forgotten now, and for which chunk it is kept, if it is so from now on."""
        chunk = next((holder for holder in self._holders.get(digest, ()) if holder.chunk != WHOLE), None)
        if chunk is None or digest in self._alone:  # a chunk may be there before its handle was heard of
            return self._forget([digest]), None
        self._alone[digest] = chunk
        return [], Growth(chunk, self._blobs[digest].payload.nbytes)

    def _forget(self, digests: Iterable[bytes]) -> list[bytes]:
        unused = [
            digest
            for digest in digests
            if digest in self._blobs and digest not in self._pinned and not self._holders[digest]
        ]
        for digest in unused:
            del self._blobs[digest], self._holders[digest]
        return unused
