"""Broadcast handles, and the collection of what a pickle depends on.

Owns `Broadcast` (the handle), the values that this process was sent, and `Dependencies` (modules, values and versions
that must be on a worker before a pickle is loaded there). Must not know picklers: callers pass in the function that
pickles the value of a handle. Imported by task processes.
"""

from __future__ import annotations

import os
from _thread import _local, allocate_lock, get_ident
from _weakref import ref
from collections.abc import Callable

from distmap.errors import PayloadError
from distmap.tasks._typing import Any, Buffer
from distmap.tasks.payload import Blob, Payload, load_value
from distmap.wire.messages import BlobKind

# A task process fills these from its main thread; a function may read a value from any thread.

#: What this process was sent, and what it loaded of that.
_sent: dict[bytes, Payload] = {}
_loaded: dict[bytes, Any] = {}
#: One thread loads a value, others that want it wait for it.
_locks: dict[bytes, Any] = {}
#: `loading`: the digests that this thread is loading, the innermost last.
_here = _local()
#: Gives a shared buffer as one that this process may write to.
_private: Callable[[Buffer], Buffer] = bytearray
#: Handles whose value was given here, while they live.
_own: dict[bytes, ref[Broadcast]] = {}
_MISSING = object()


class Broadcast:
    """A value that is sent once to each worker; `.value` inside the function gives it.

    Make one with `pool.broadcast(value)`, then use the handle in functions and items. On a worker the value is loaded
    once per slot and large arrays in it are shared by all slots of the host, read-only unless it was made `writable`.
    """

    def __init__(self, value: object = _MISSING, *, digest: bytes | None = None, writable: bool = False) -> None:
        self.digest = digest or os.urandom(16)
        self.writable = writable
        self._value = value
        self._blob: Blob | None = None
        self._needs = Dependencies()
        #: Threads that are just pickling the value.
        self._pickling: set[int] = set()
        #: Called by `release`: the pool then drops the workers' copies.
        self._on_release: Callable[[], object] = lambda: None
        if digest is None:
            name = self.digest
            _own[name] = ref(self, lambda _: _own.pop(name, None))

    @property
    def value(self) -> Any:
        """The value. On a worker it is loaded on first use, once for each slot."""
        if self._value is not _MISSING:
            return self._value
        found = _loaded.get(self.digest, _MISSING)
        return _load(self.digest, self.writable) if found is _MISSING else found

    def release(self) -> None:
        """Forget the value, here and on the workers, where it goes when no running call uses it any more.

        Functions that still use the handle fail with a `PayloadError` that says so. Releasing twice is harmless.
        """
        _own.pop(self.digest, None)
        self._value, self._blob, self._needs = _MISSING, None, Dependencies()
        self._on_release()

    def __reduce__(self) -> Any:
        raise PayloadError("a broadcast handle travels only inside functions, items and results of a pool")

    def __repr__(self) -> str:
        return f"<Broadcast {self.digest.hex()[:8]}>"


def call_on_release(handle: Broadcast, callback: Callable[[], object]) -> None:
    """Have `callback` called when the handle is released."""
    handle._on_release = callback


def given_value(handle: Broadcast) -> Any:
    """The value of a handle, if it was given in this process; else None."""
    return None if handle._value is _MISSING else handle._value


def mention(
    handle: Broadcast, dependencies: Dependencies, dump: Callable[..., Payload]
) -> tuple[Callable[..., Broadcast], tuple[bytes, bool]]:
    """For picklers: note that the value is needed, and reduce the handle to its digest.

    Args:
        dump: `pickling.dump_value`, which pickles the value at its first use.
    """
    if get_ident() in handle._pickling:
        # The blob of the handle is not there yet; `Dependencies.blobs` takes it later.
        dependencies.circular[handle.digest] = handle
    elif handle._value is not _MISSING:
        dependencies.values[handle.digest] = _blob_of(handle, dump)
        dependencies.add(handle._needs)
    return _handle, (handle.digest, handle.writable)


def _blob_of(handle: Broadcast, dump: Callable[..., Payload]) -> Blob:
    """The value as it is sent; pickled on first use."""
    if handle._blob is None:
        thread = get_ident()
        handle._pickling.add(thread)
        try:
            payload = dump(handle._value, handle._needs, what="the broadcast value")
        finally:
            handle._pickling.discard(thread)
        handle._blob = Blob(handle.digest, "value", payload)
    return handle._blob


def _load(digest: bytes, writable: bool) -> Any:
    """Load a value that was sent. That runs the user's code, which may read other values, or this one in a thread."""
    loading: list[bytes] = _here.__dict__.setdefault("loading", [])
    if digest in loading:
        raise PayloadError(
            "the value of this broadcast is being loaded just now, and its unpickling reads the value of a broadcast "
            "that refers back to it; keep the handle, and read its .value in the function"
        )
    if loading:
        # Whoever is in the middle of a load waits for no other thread, which may be waiting for this one.
        return _load_now(digest, writable, loading)
    with _locks.setdefault(digest, allocate_lock()):
        return _load_now(digest, writable, loading)


def _load_now(digest: bytes, writable: bool, loading: list[bytes]) -> Any:
    found = _loaded.get(digest, _MISSING)
    if found is not _MISSING:
        return found
    payload = _sent.get(digest)
    if payload is None:
        raise PayloadError("this broadcast is not available here: it was released, or its pool is closed")
    if writable:
        payload = payload._replace(buffers=tuple(map(_private, payload.buffers)))
    loading.append(digest)
    try:
        value = load_value(payload)
    finally:
        loading.pop()
    return _loaded.setdefault(digest, value)


def _handle(digest: bytes, writable: bool = False) -> Broadcast:
    known = _own.get(digest)
    handle = known() if known is not None else None
    return handle if handle is not None else Broadcast(digest=digest, writable=writable)


def keep_value(digest: bytes, payload: Payload) -> None:
    """Task process: a broadcast value has arrived."""
    _sent[digest] = payload


def forget_value(digest: bytes) -> None:
    """Task process: the value is no longer needed."""
    _sent.pop(digest, None)
    _loaded.pop(digest, None)
    _locks.pop(digest, None)


def copy_with(private: Callable[[Buffer], Buffer]) -> None:
    """Task process: there is a way to make a shared buffer writable that copies less than all of it."""
    global _private
    _private = private


def reload_values() -> None:
    """Task process: modules have changed, so that values load again, with the new classes, at next use."""
    _loaded.clear()


class Dependencies:
    """Collects the local modules and the broadcast values that are mentioned while something is pickled."""

    __slots__ = ("circular", "generator", "modules", "references", "values")

    def __init__(self) -> None:
        self.modules: set[str] = set()
        #: Modules that the other side must have by itself.
        self.references: set[str] = set()
        self.values: dict[bytes, Blob] = {}
        #: Handles that were mentioned in the middle of their own pickling.
        self.circular: dict[bytes, Broadcast] = {}
        #: Whether a random generator is among what was pickled.
        self.generator = False

    def add(self, other: Dependencies) -> None:
        """Need what the other needs too."""
        self.modules |= other.modules
        self.references |= other.references
        self.values.update(other.values)
        self.circular.update(other.circular)
        self.generator |= other.generator

    def share(self, digest: bytes, kind: BlobKind, data: bytes, keep: object) -> None:
        """Need something that only slots of this machine are sent."""
        self.values[digest] = Blob(digest, kind, Payload(data), keep)

    def blobs(self) -> tuple[Blob, ...]:
        for digest, handle in list(self.circular.items()):
            if digest not in self.values and (blob := handle._blob) is not None:
                self.values[digest] = blob
                self.add(handle._needs)
        values = tuple(self.values.values())
        if not self.modules:
            return values
        from distmap.tasks.bundling import pack  # in the kernel only

        packed = pack(frozenset(self.modules))
        if packed is None:
            return values
        # In this order: the files of modules that are there.
        extras = () if packed.extras is None else (Blob(packed.extras[0], "extras", Payload(packed.extras[1])),)
        return (Blob(packed.digest, "modules", Payload(packed.pickled)), *extras, *values)

    def versions(self) -> tuple[Blob, ...]:
        """What is installed here of what is needed by reference; nothing while all workers are on this machine."""
        from distmap.tasks.bundling import pack_versions

        packed = pack_versions(self.modules | self.references)
        return () if packed is None else (Blob(packed[0], "extras", Payload(packed[1])),)
