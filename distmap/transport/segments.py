"""Same-host shared memory: segments that one process fills and another maps.

Owns the memory itself: making it, filling it, mapping it, and knowing when nothing refers to a mapping any more. It
must not know messages or sockets: its users pass descriptors and numbers of segments. Segments have no name (a memfd,
or a temporary file that is unlinked at once), so a crash leaves nothing behind.

Fresh memory costs several times a copy into warm memory (page faults), so the process that makes a segment keeps it
when it comes back, and its reader keeps the mapping. `mmap.mmap` is not used: before 3.13 each of its objects holds a
descriptor, and a thousand results in a list would use up the limit. ctypes is loaded with the first segment, not with
this module, which task processes import before they can receive anything.
"""

from __future__ import annotations

import os
import sys
from _weakref import ref
from collections.abc import Callable, Iterator

from distmap.tasks._typing import TYPE_CHECKING, Any, Buffer, NamedTuple

if TYPE_CHECKING:
    import ctypes


#: Whether descriptors can be passed and mapped here at all.
SUPPORTED = os.name == "posix"

#: Parts of at least this many bytes travel in a segment; smaller ones are as fast through the socket.
LARGE = 1 << 20

#: A free segment is used for a part of at least 1/4 of its size; for a smaller one it would pin too much memory.
_LEAST_USE = 4

_PROT_READ, _PROT_WRITE, _MAP_SHARED, _MAP_PRIVATE = 1, 2, 1, 2  # the same numbers on Linux, macOS and the BSDs

_libc: ctypes.CDLL | None = None


def _load() -> ctypes.CDLL:
    global _libc
    if _libc is None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        _libc = libc
    return _libc


def anonymous_file(label: str) -> int:
    """A descriptor of a file without a name, closed on exec. `label` shows in /proc where the system has it."""
    if sys.platform == "linux":
        return os.memfd_create(f"distmap-{label}")
    import tempfile

    fd, path = tempfile.mkstemp(prefix="distmap-")
    os.unlink(path)
    return fd


class SegmentMapping:
    """A segment in this process's memory. It stays mapped as long as this object or anything lent from it lives."""

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        import ctypes

        self.size = size
        self._writable = writable
        self._unmap: Callable[[int, int], object] = _load().munmap
        self._address = 0
        self._lent: ref[Any] | None = None
        how = (_PROT_READ | _PROT_WRITE, _MAP_SHARED) if writable else (_PROT_READ, _MAP_PRIVATE)
        address = _load().mmap(None, size, *how, fd, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), f"cannot map {size} bytes of shared memory")
        self._address = address

    def lend(self, length: int, gone: Callable[[], object] | None = None) -> memoryview:
        """The first `length` bytes. `gone` is called once nothing refers to them any more.

        It is called by the garbage collector, in any thread: it must not block and must not raise. One loan at a time.
        """
        import ctypes

        if not 0 < length <= self.size:
            raise ValueError(f"cannot lend {length} bytes of a segment of {self.size}")
        # The array object is what every view of these bytes keeps alive; it keeps this mapping alive in turn.
        owner: Any = (ctypes.c_ubyte * length).from_address(self._address)
        owner.mapping = self
        if gone is not None:
            self._lent = ref(owner, lambda _: gone())
        view = memoryview(owner).cast("B")
        return view if self._writable else view.toreadonly()

    def unlock(self) -> bool:
        """Make a mapping for reading writable: a page that is written to is copied for this process."""
        return bool(_load().mprotect(self._address, self.size, _PROT_READ | _PROT_WRITE) == 0)

    def __del__(self) -> None:
        if self._address:
            self._unmap(self._address, self.size)
            self._address = 0


def private(buffer: Buffer) -> Buffer:
    """The same bytes, writable. Of a mapping for reading, each page is copied when it is first written to."""
    view = memoryview(buffer)
    if not view.readonly:
        return buffer
    mapping = getattr(view.obj, "mapping", None)
    if isinstance(mapping, SegmentMapping) and mapping.unlock():
        return memoryview(view.obj).cast("B")
    return bytearray(view)


class Segment:
    """Memory made here, to be mapped elsewhere."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.fd = anonymous_file("segment")
        self._mapping: SegmentMapping | None = None
        self._view: memoryview | None = None
        try:
            os.ftruncate(self.fd, size)
        except OSError:
            self.close()
            raise

    def write(self, data: Buffer) -> None:
        """Copy the data to the start of the segment."""
        view = memoryview(data)
        if self._view is not None:
            self._view[: view.nbytes] = view.cast("B")
            return
        # Fresh memory: writing saves the page faults of a mapping (12 against 16 ms for 16 MB where measured).
        done = 0
        while done < view.nbytes:
            done += os.pwrite(self.fd, view[done : done + (1 << 30)], done)

    def keep(self) -> int:
        """Map it for the next write and return the descriptor, which the caller passes on and closes."""
        self._mapping = SegmentMapping(self.fd, self.size, writable=True)
        self._view = self._mapping.lend(self.size)
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Release the memory here; processes that have mapped it keep it."""
        self._view = self._mapping = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Spare(NamedTuple):
    """Bytes of free segments that are kept: at rest, and while parts come and go."""

    at_rest: int
    at_work: int


class Arena:
    """The segments that one process fills for one reader, and fills again when the reader reports them free."""

    def __init__(self, spare: Spare, numbers: Iterator[int]) -> None:
        self._spare = spare
        self._numbers = numbers
        self._out: dict[int, Segment] = {}
        #: Oldest first; together at most `spare.at_work` bytes.
        self._free: list[Segment] = []

    def fill(self, data: Buffer) -> tuple[Segment, int]:
        """A segment that holds the data, and its descriptor if the reader has not seen it yet, else -1.

        Raises OSError when the system gives no memory or no descriptor.
        """
        size = memoryview(data).nbytes
        fitting = [s for s in self._free if size <= s.size <= _LEAST_USE * size]
        if fitting:
            segment, fd = min(reversed(fitting), key=lambda s: s.size), -1  # of those, the one that was used last
            self._free.remove(segment)
            segment.write(data)
        else:
            segment = Segment(next(self._numbers), _rounded(size))
            try:
                segment.write(data)
                fd = segment.keep()
            except OSError:
                segment.close()
                raise
        self._out[segment.number] = segment
        return segment, fd

    def free(self, number: int) -> list[int]:
        """The reader has finished with a segment. Returns the numbers of closed segments, for the reader to unmap."""
        segment = self._out.pop(number, None)
        if segment is None:
            return []
        self._free.append(segment)
        return self._give_up(self._spare.at_work)

    @property
    def restless(self) -> bool:
        """Whether there is something to give up at rest."""
        return sum(s.size for s in self._free) > self._spare.at_rest

    def rest(self) -> list[int]:
        """No parts have come or gone for a while. Returns the numbers of closed segments, as `free` does."""
        return self._give_up(self._spare.at_rest)

    def _give_up(self, most: int) -> list[int]:
        given_up = []
        while sum(s.size for s in self._free) > most:
            oldest = self._free.pop(0)
            oldest.close()
            given_up.append(oldest.number)
        return given_up

    def close(self) -> None:
        """Release everything."""
        for segment in (*self._out.values(), *self._free):
            segment.close()
        self._out.clear()
        self._free.clear()


def _rounded(size: int) -> int:
    """Up to the next eighth of a power of two: parts of nearly one size share segments; pages not touched are free."""
    step = max(4096, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step
