"""What a process was sent, and what it installed of that.

Owns `Library`: the payloads of a process by their digests, shared by all its runners. Must not know tasks that run, or
connections. Imported by task processes.
"""

from __future__ import annotations

from _thread import allocate_lock

from distmap.errors import PayloadError
from distmap.tasks import received
from distmap.tasks.broadcast import forget_value, keep_value, reload_values
from distmap.tasks.extras import Extras, Lack, lacking
from distmap.tasks.finder import SourceFinder
from distmap.tasks.modules import packed_here
from distmap.tasks.payload import Payload, load_value
from distmap.tasks.surroundings import SurroundingsSwitch
from distmap.wire.messages import BlobKind, Task


class Library:
    """What a process was sent, once for all its runners: payloads, and the modules that were installed of them."""

    def __init__(self, folder: str | None = None) -> None:
        self.payloads: dict[bytes, tuple[BlobKind, Payload]] = {}
        #: Grows when modules were replaced: what was loaded before holds on to the old ones.
        self.edition = 0
        self.finder = SourceFinder(folder)
        self.surroundings = SurroundingsSwitch()
        #: Digest of extras -> the extras, and what of their versions is not here, once somebody wanted to know.
        self._extras: dict[bytes, Extras] = {}
        self._lacks: dict[bytes, list[Lack]] = {}
        self._installed: set[bytes] = set()
        #: The runners of foreign executors run in threads of their own; one installs at a time.
        self._lock = allocate_lock()

    def put(self, digest: bytes, kind: BlobKind, payload: Payload) -> None:
        """Keep a payload; it is loaded when a task first needs it."""
        self.payloads[digest] = (kind, payload)
        if kind == "value":
            keep_value(digest, payload)
        elif kind in ("secret", "descriptor"):
            received.keep(digest, bytes(payload.head))

    def drop(self, digest: bytes) -> None:
        """Forget a payload."""
        kind, _ = self.payloads.pop(digest, ("", None))
        received.forget(digest, kind)
        forget_value(digest)

    def get(self, digest: bytes) -> tuple[BlobKind, Payload]:
        """Raises PayloadError if it is not here."""
        try:
            return self.payloads[digest]
        except KeyError:
            raise PayloadError(f"digest {digest.hex()} is needed by a task but was not put here before it") from None

    def install(self, digest: bytes, kind: BlobKind, payload: Payload) -> None:
        """Serve modules and files that were sent, unless they are served already."""
        if digest in self._installed or digest in packed_here:
            return  # what this process packed must not be installed over its own modules
        with self._lock:
            sent = load_value(payload)
            if kind == "extras":
                self._extras[digest] = sent
            if self.finder.install(sent) if kind == "modules" else self.finder.add(sent):
                self._installed.clear()
                self.edition += 1
                reload_values()
            self._installed.add(digest)

    def lacks(self, task: Task) -> list[Lack]:
        """What the code of a task was made with and is not here. To be asked after set-ups, which may install it."""
        found: list[Lack] = []
        for digest in task.needs:
            if (extras := self._extras.get(digest)) is not None:
                if digest not in self._lacks:
                    self._lacks[digest] = lacking(extras)
                found += self._lacks[digest]
        return found

    def shares(self, task: Task) -> bool:
        """Whether something that the task was sent lies in memory that other slots read too."""
        sent = [self.payloads[digest][1].buffers for digest in (*task.needs, task.code) if digest in self.payloads]
        return any(type(buffer) is memoryview and buffer.readonly for buffers in sent for buffer in buffers)
