"""Results that wait for the pool: in memory at first, then in files, then in the task processes.

Owns the bounds of what is kept, the files, and the decision to read nothing more from the slots. It must not know what
is in a result, nor why the pool does not take it: it may be out of reach, or its network slow. On the supervisor's
loop; writing a result to a file takes as long as its copy to the system's cache.

A file has its name only until it is mapped. Its memory is given on as views, like any other, so whoever sends or
acknowledges a message knows nothing of files; when the last view is gone, so is the space on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import weakref
from collections.abc import Callable, Sequence

from distmap.core.limits import Limits
from distmap.tasks._typing import Buffer
from distmap.tasks.payload import size

log = logging.getLogger("distmap.worker")

#: Parts begin at multiples of this, as large arrays do in memory.
_ALIGNED = 64
#: Seconds between two looks for room while the slots wait.
_LOOK_AGAIN = 0.05


class _File:
    """One file of the spool, mapped and without a name."""

    def __init__(self, path: str, nbytes: int) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, 0, nbytes)  # a full disk is known now, not at the first write
            else:
                os.ftruncate(self._descriptor, nbytes)
            self.memory = mmap.mmap(self._descriptor, nbytes, access=mmap.ACCESS_READ)
            self._view = memoryview(self.memory)
        except BaseException:
            os.close(self._descriptor)
            os.unlink(path)
            raise
        self.nbytes = nbytes
        self._used = 0
        if os.name == "posix":
            os.unlink(path)  # elsewhere the folder is removed in the end, with all that is in it

    def fits(self, nbytes: int) -> bool:
        return self._used + nbytes <= self.nbytes

    def write(self, part: Buffer) -> Buffer:
        """The same bytes, in the file. Raises OSError for a disk that is full all the same."""
        begin, end = self._used, self._used + size(part)
        rest, at = memoryview(part).cast("B"), begin
        os.lseek(self._descriptor, begin, os.SEEK_SET)
        while at < end:
            written = os.write(self._descriptor, rest)
            rest, at = rest[written:], at + written
        self._used = _aligned(end)
        return self._view[begin:end]

    def close(self) -> None:
        """Nothing more is written; what was lives as long as its views."""
        os.close(self._descriptor)
        self._view.release()


class Spool:
    """Files for parts of messages.

    Args:
        folder: Made when the first file is; whoever owns it removes it.
        limits: `spool_bytes` and `spool_file_bytes` count.
    """

    def __init__(self, folder: str, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._file: _File | None = None
        self._files = 0
        #: Bytes of files that hold something.
        self.nbytes = 0
        #: Why the last file could not be made, in words.
        self.problem = ""

    def has_room(self, nbytes: int) -> bool:
        """Whether so many bytes can be kept; makes a file for them if need be."""
        if self._file is not None and self._file.fits(nbytes):
            return True
        wanted = max(nbytes, self._limits.spool_file_bytes)
        if self.nbytes + wanted > self._limits.spool_bytes:
            self.problem = f"{self._limits.spool_bytes >> 20} MB of files are full"
            return False
        self.close()
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            self._files += 1
            file = _File(os.path.join(self._folder, f"results-{self._files}"), wanted)
        except OSError as error:
            self.problem = f"no file can be written to {self._folder}: {error.strerror or error}"
            return False
        self._file = file
        self.nbytes += wanted
        weakref.finalize(file.memory, self._free, wanted)
        return True

    def keep(self, parts: Sequence[Buffer]) -> list[Buffer] | None:
        """The parts as memory of files; None if there is no room for all of them."""
        if not self.has_room(sum(_aligned(size(part)) for part in parts)):
            return None
        assert self._file is not None
        try:
            return [self._file.write(part) for part in parts]
        except OSError as error:
            self.problem = f"no file can be written to {self._folder}: {error.strerror or error}"
            return None

    def _free(self, nbytes: int) -> None:
        self.nbytes -= nbytes

    def close(self) -> None:
        """Write nothing more to the present file. Closing twice is fine."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class Backlog:
    """Bounds what waits for the pool. `stow` the parts of each message with results before it is sent.

    Args:
        folder: For files.
        waiting: Tells how many bytes wait for the pool, those in files too.
        hold: Told True when nothing more can be kept, so that the slots have to wait, and False when they may go on.
        limits: Those of kept results.
    """

    def __init__(
        self, folder: str, *, waiting: Callable[[], int], hold: Callable[[bool], None], limits: Limits
    ) -> None:
        self.spool = Spool(folder, limits)
        self._waiting = waiting
        self._hold = hold
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._spooling = False

    def stow(self, parts: list[Buffer]) -> list[Buffer]:
        """The parts, in memory or in a file; to be sent at once."""
        nbytes = sum(map(size, parts))
        if self._in_memory() + nbytes <= self._limits.kept_bytes:
            if self._spooling:
                self._spooling = False
                self.spool.close()  # its last file takes no room on the disk any longer than its results
            return parts
        stored = self.spool.keep(parts)
        if stored is None:
            self._wait(nbytes)
            return parts
        if not self._spooling:
            self._spooling = True
            log.info("%d MB of results wait for the pool; further ones go to files", self._limits.kept_bytes >> 20)
        return stored

    def close(self) -> None:
        """Wait for no room any more. Closing twice is fine."""
        if self._timer is not None:
            self._timer.cancel()
        self.spool.close()

    def _in_memory(self) -> int:
        return self._waiting() - self.spool.nbytes

    def _wait(self, nbytes: int) -> None:
        if self._timer is None:
            log.warning("task processes wait until the pool has taken results: %s", self.spool.problem)
            self._hold(True)
            self._look_later(nbytes)

    def _look_later(self, nbytes: int) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._look, nbytes)

    def _look(self, nbytes: int) -> None:
        """Whether another message like the one that was too much has room now."""
        if self._in_memory() > max(0, self._limits.kept_bytes - nbytes) and not self.spool.has_room(nbytes):
            self._look_later(nbytes)
            return
        self._timer = None
        log.info("task processes go on")
        self._hold(False)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED
