"""What processes of one machine share: locks, queues, pipes, sockets, shared memory and proxies of multiprocessing.

Owns how they travel to slots of this machine, as multiprocessing passes them to the processes that it spawns: names and
keys as secrets, descriptors as such. They are not sent to other machines and executors: loading there raises an error
that says why. Must not know picklers, slots or connections. Imported when the first such object is met.
"""

from __future__ import annotations

import os
from _weakref import ref
from collections.abc import Callable
from multiprocessing import context, process, reduction
from multiprocessing.process import AuthenticationString  # type: ignore[attr-defined]

from distmap.errors import PayloadError
from distmap.tasks._typing import Any
from distmap.tasks.received import received
from distmap.wire.messages import BlobKind

#: Called with what slots of this machine must be sent: digest, kind, bytes, and an object that must live as long.
Note = Callable[[bytes, BlobKind, bytes, object], object]

_MADE_BY_FORK = "in a fork context"

#: By id, objects that were met here while they live, and the digest that stands for each; and these digests.
_marks: dict[int, tuple[ref[Any], bytes]] = {}
_marked: dict[bytes, int] = {}
#: Digests of keys that were met here.
_keys: dict[bytes, bytes] = {}
#: Descriptors that were noted here, while somebody may need them.
_open: dict[bytes, ref[Descriptor]] = {}


class Descriptor:
    """A descriptor of its own; open as long as a blob refers to it."""

    def __init__(self, digest: bytes, fd: int) -> None:
        self.fd = fd
        _open[digest] = ref(self, lambda _: _open.pop(digest, None))

    def __bytes__(self) -> bytes:
        return b"%d" % self.fd

    def __del__(self) -> None:
        os.close(self.fd)


def descriptor(digest: bytes, fd: int) -> Descriptor:
    """A copy of the descriptor, to be passed to slots of this machine under that digest; the same while it lives."""
    known = _open.get(digest)
    kept = known() if known is not None else None
    return Descriptor(digest, os.dup(fd)) if kept is None else kept


# --- the process that shares ------------------------------------------------------------------------------------------


def reduce_shared(obj: Any, note: Note) -> Any:
    """Take one apart, and note the secret and the descriptor that it is made of there."""
    if isinstance(obj, AuthenticationString):
        digest = _keys.setdefault(bytes(obj), os.urandom(16))
        note(digest, "secret", bytes(obj), None)
        return _key, (digest,)
    reducers: dict[type, Callable[[Any], Any]] = reduction.ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    make, name, before = reducers.get(type(obj)), type(obj).__name__, context.get_spawning_popen()
    if hasattr(obj, "_b_base_") and not hasattr(obj, "_wrapper"):
        return NotImplemented  # of ctypes, in no shared memory
    digest = _mark(obj)
    context.set_spawning_popen(_Spawning(note, digest, name))  # type: ignore[arg-type]
    try:
        maker, args, *rest = obj.__reduce_ex__(5) if make is None else make(obj)
    except RuntimeError as error:
        if _MADE_BY_FORK not in str(error):
            raise
        raise PayloadError(
            f"a {name} of multiprocessing's default context is for forked children only, and slots are fresh "
            "processes: make it, or the queue, event or value that it belongs to, with "
            'multiprocessing.get_context("spawn")'
        ) from None
    finally:
        context.set_spawning_popen(before)
    # It lives as long as the call: the system forgets its name with it.
    note(digest, "secret", bytes(process.current_process().authkey), obj)
    return _make, (digest, name, maker, args), *rest


class _Spawning:
    """What multiprocessing's own reducers ask for descriptors: to them this is a child that is being started."""

    def __init__(self, note: Note, digest: bytes, name: str) -> None:
        self._note, self._digest, self._name = note, digest, name

    def duplicate_for_child(self, fd: int) -> int:
        if os.name != "posix":
            raise PayloadError(f"a {self._name} of multiprocessing cannot be passed to a running process on Windows")
        return fd

    def DupFd(self, fd: int) -> ReceivedDescriptor:  # multiprocessing's name
        digest = bytes(byte ^ 0xFF for byte in self._digest)  # another one, and always the same
        kept = descriptor(digest, fd)
        self._note(digest, "descriptor", bytes(kept), kept)
        return ReceivedDescriptor(digest, self._name)


def _mark(obj: Any, digest: bytes | None = None) -> bytes:
    """The digest that stands for this object, the same as long as it lives."""
    key = id(obj)
    known = _marks.get(key)
    if known is not None and known[0]() is obj:
        return known[1]
    made = digest or os.urandom(16)

    def gone(_: object) -> None:
        _marks.pop(key, None)
        _marked.pop(made, None)

    try:
        _marks[key] = ref(obj, gone), made
        _marked[made] = key
    except TypeError:  # it takes no weak references
        pass
    return made


# --- the process that it is shared with -------------------------------------------------------------------------------


def _make(digest: bytes, name: str, maker: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    key = received.get(digest)
    if key is None and digest not in _marked:
        raise _out_of_reach(name)
    if key is not None and key != process.current_process().authkey:
        process.current_process().authkey = key
    made = maker(*args)
    _mark(made, digest)
    return made


def _key(digest: bytes) -> Any:
    found = received.get(digest) or next((key for key, known in _keys.items() if known == digest), None)
    if found is None:
        raise _out_of_reach("proxy")
    _keys.setdefault(found, digest)  # so that it is known by that where it came from
    return AuthenticationString(found)


class ReceivedDescriptor:
    """A descriptor that was passed; each object that is made of it gets a copy of its own."""

    def __init__(self, digest: bytes, name: str) -> None:
        self._digest, self._name = digest, name

    def __reduce__(self) -> Any:
        return ReceivedDescriptor, (self._digest, self._name)

    def detach(self) -> int:
        """The copy, which is the caller's to close."""
        fd = received.get(self._digest)
        if fd is not None:
            return os.dup(int(fd))
        known = _open.get(self._digest)
        kept = known() if known is not None else None
        if kept is None:
            raise _out_of_reach(self._name)
        return os.dup(kept.fd)


def adopt_tracker(digest: bytes) -> None:
    """Task process: let the tracker of the process that shares know of our shared memory, not one of our own.

    One of our own would remove, at our end, what others still use.
    """
    from multiprocessing import resource_tracker

    tracker: Any = resource_tracker._resource_tracker
    if tracker._fd is None:
        tracker._fd = os.dup(int(received[digest]))


def _out_of_reach(name: str) -> PayloadError:
    return PayloadError(
        f"a {name} of multiprocessing works in the process that made it and on slots of its machine; workers "
        "elsewhere, executors, and the caller if a task made it, cannot reach it: pass and return values instead"
    )
