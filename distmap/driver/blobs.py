"""Which blobs are kept here, and for whom: for a job, for one chunk, or for a handle of the user.

A blob is code, a value or a module that must be on a worker before a task. What nobody needs any more is forgotten
here and then by the workers. Must not know workers or engines; on the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from distmap.tasks._typing import NamedTuple
from distmap.tasks.payload import Blob
from distmap.tasks.surroundings import CallSurroundings

#: In the place of a chunk: the whole job needs it.
WHOLE = -1


class Holder(NamedTuple):
    """Who needs blobs: a chunk of a job, or the whole job."""

    job: int
    chunk: int = WHOLE


class Blobs:
    """All blobs of a pool.

    Args:
        drop: lets the workers forget a blob.
        grew: called when a value that a handle kept is kept for one chunk from now on, with the chunk and the bytes.
    """

    def __init__(self, drop: Callable[[bytes], None], grew: Callable[[Holder, int], None]) -> None:
        self._drop = drop
        self._grew = grew
        #: Values whose handle lives, and the surroundings of the last call: kept beyond the jobs that use them.
        self._pinned: set[bytes] = set()
        self._around: set[bytes] = set()
        self._blobs: dict[bytes, Blob] = {}
        self._holders: dict[bytes, dict[Holder, None]] = {}
        #: Who holds what.
        self.held: dict[Holder, set[bytes]] = {}
        #: Values that are kept for one chunk alone, and for which.
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

    # --- jobs and chunks --------------------------------------------------------------------------------------------

    def keep(self, holder: Holder, blobs: Iterable[Blob]) -> int:
        """Keep blobs for a holder; equal digests are kept once. Returns the bytes that a chunk alone needs."""
        alone = 0
        for blob in blobs:
            if holder.chunk != WHOLE and blob.digest not in self._blobs and blob.digest not in self._pinned:
                self._alone[blob.digest] = holder
                alone += blob.payload.nbytes
            self._blobs.setdefault(blob.digest, blob)
            self._holders.setdefault(blob.digest, {})[holder] = None
            self.held.setdefault(holder, set()).add(blob.digest)
        return alone

    def keep_for_chunk(self, job: int, chunk: int, blobs: Sequence[Blob]) -> int:
        """Keep what a chunk refers to. Returns the bytes of values that are kept for it alone."""
        # A value may be one item's alone, and its handle may be gone; a module comes with chunk after chunk.
        self.keep(Holder(job), [blob for blob in blobs if blob.kind != "value"])
        return self.keep(Holder(job, chunk), [blob for blob in blobs if blob.kind == "value"])

    def let_go(self, holder: Holder) -> None:
        """The holder needs nothing any more."""
        digests = self.held.pop(holder, ())
        for digest in digests:
            del self._holders[digest][holder]
            if self._alone.get(digest) == holder:
                del self._alone[digest]
            self._forget(digest)

    def end(self, job: int) -> None:
        """The job is over, with all its chunks."""
        for holder in [holder for holder in self.held if holder.job == job]:
            self.let_go(holder)

    def clear(self) -> None:
        """The pool ends: what is let go of from now on comes too late."""
        for kept in (self._blobs, self._holders, self.held, self._alone):
            kept.clear()

    # --- handles ----------------------------------------------------------------------------------------------------

    def pin(self, digest: bytes) -> None:
        """Keep a value beyond the jobs that use it, until `unpin`."""
        self._pinned.add(digest)

    def unpin(self, digest: bytes) -> None:
        """The handle of a value is gone, or was released."""
        self._pinned.discard(digest)
        chunk = next((holder for holder in self._holders.get(digest, ()) if holder.chunk != WHOLE), None)
        if chunk is None or digest in self._alone:  # a chunk may come before its handle was heard of
            self._forget(digest)
        else:
            self._alone[digest] = chunk
            self._grew(chunk, self._blobs[digest].payload.nbytes)

    def keep_surroundings(self, around: CallSurroundings) -> None:
        """Keep these surroundings between one job and the next, and no longer the last ones."""
        before, self._around = self._around, {blob.digest for blob in around if blob is not None}
        self._pinned |= self._around
        for digest in before - self._around:
            self.unpin(digest)

    def _forget(self, digest: bytes) -> None:
        """Forget a blob if nobody needs it."""
        if digest in self._blobs and digest not in self._pinned and not self._holders[digest]:
            del self._blobs[digest], self._holders[digest]
            self._drop(digest)
