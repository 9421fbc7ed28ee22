"""How one value becomes bytes, and back, and what it refers to on the way.

Owns the picklers: a guarded C pickler first (fast, but it would pickle what lives in `__main__` by a name that nobody
else can import, so it is made to refuse that), cloudpickle second; large buffers out of band. Owns broadcast handles
and the collection of what a pickle needs. Must not know chunks, tasks or connections. The only importer of
cloudpickle. Imported by task processes: cloudpickle and hashlib only when needed.
"""

from __future__ import annotations

import _pickle
import io
import os
import sys
from _thread import _local, allocate_lock, get_ident
from _weakref import ref
from _weakrefset import WeakSet
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType

from distmap.errors import PayloadError
from distmap.failures import failed_to_travel
from distmap.light import Any, NamedTuple
from distmap.modules import any_registered, imports_of_code, loaded, pack, place, registered
from distmap.wire.messages import BlobKind

Buffer = bytes | bytearray | memoryview

#: Buffers from this size travel out of band; below, one more part costs more than the copy (measured).
OUT_OF_BAND = 32 << 10
#: What a `__reduce__` may raise to say that its object does not travel; KeyboardInterrupt is the user's own.
UNPICKLABLE = (Exception, SystemExit, GeneratorExit)


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


def size(buffer: Buffer) -> int:
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


# --- broadcast --------------------------------------------------------------------------------------------------------

#: What this process was sent, and what it loaded of that.
_sent: dict[bytes, Payload] = {}
_loaded: dict[bytes, Any] = {}
#: One thread loads a value, others that want it wait for it.
_locks: dict[bytes, Any] = {}
#: What each thread is just loading.
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
        self._needs = Needs()
        #: Threads that are just pickling the value.
        self._pickling: set[int] = set()
        #: Tells the pool that the workers' copies are not needed any more.
        self.on_release: Callable[[], object] = lambda: None
        if digest is None:
            name = self.digest
            _own[name] = ref(self, lambda _: _own.pop(name, None))

    @property
    def value(self) -> Any:
        if self._value is not _MISSING:
            return self._value
        found = _loaded.get(self.digest, _MISSING)
        return _load(self.digest, self.writable) if found is _MISSING else found

    def blob(self) -> Blob:
        """The value as it is sent; pickled on first use."""
        if self._blob is None:
            thread = get_ident()
            self._pickling.add(thread)
            try:
                payload = dump_value(self._value, self._needs, what="the broadcast value")
            finally:
                self._pickling.discard(thread)
            self._blob = Blob(self.digest, "value", payload)
        return self._blob

    def release(self) -> None:
        """Forget the value, here and on the workers, where it goes when no running call uses it any more.

        Functions that still use the handle fail with a `PayloadError` that says so. Releasing twice is harmless.
        """
        _own.pop(self.digest, None)
        self._value, self._blob, self._needs = _MISSING, None, Needs()
        self.on_release()

    def mention(self, needs: Needs) -> tuple[Callable[..., Broadcast], tuple[bytes, bool]]:
        """For picklers: note that the value is needed, and reduce the handle to its digest."""
        if get_ident() in self._pickling:
            needs.circular[self.digest] = self  # its blob is not there yet; `Needs.blobs` asks again
        elif self._value is not _MISSING:
            needs.values[self.digest] = self.blob()
            needs.add(self._needs)
        return _handle, (self.digest, self.writable)

    def __reduce__(self) -> Any:
        raise PayloadError("a broadcast handle travels only inside functions, items and results of a pool")

    def __repr__(self) -> str:
        return f"<Broadcast {self.digest.hex()[:8]}>"


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


# --- what a pickle refers to ------------------------------------------------------------------------------------------


class Needs:
    """Collects the local modules and the broadcast values that are mentioned while something is pickled."""

    __slots__ = ("circular", "modules", "references", "values")

    def __init__(self) -> None:
        self.modules: set[str] = set()
        #: Modules that the other side must have by itself.
        self.references: set[str] = set()
        self.values: dict[bytes, Blob] = {}
        #: Handles that were mentioned in the middle of their own pickling.
        self.circular: dict[bytes, Broadcast] = {}

    def add(self, other: Needs) -> None:
        """Need what the other needs too."""
        self.modules |= other.modules
        self.references |= other.references
        self.values.update(other.values)
        self.circular.update(other.circular)

    def blobs(self) -> tuple[Blob, ...]:
        for digest, handle in list(self.circular.items()):
            if digest not in self.values:
                handle.mention(self)
        values = tuple(self.values.values())
        packed = pack(frozenset(self.modules)) if self.modules else None
        if packed is None:
            return values
        # In this order: the files of modules that are there.
        extras = () if packed.extras is None else (Blob(packed.extras[0], "extras", Payload(packed.extras[1])),)
        return (Blob(packed.digest, "modules", Payload(packed.pickled)), *extras, *values)


def digest_of(*chunks: Buffer) -> bytes:
    from hashlib import blake2b

    state = blake2b(digest_size=16)
    for chunk in chunks:
        state.update(size(chunk).to_bytes(8, "little"))
        state.update(chunk)
    return state.digest()


# --- picklers ---------------------------------------------------------------------------------------------------------

Keep = Callable[[_pickle.PickleBuffer], Any]


#: What functools.lru_cache makes pickles by name even in `__main__`, with cloudpickle too.
_Cached = type(lru_cache(len))


def _cache_again(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return lru_cache(**parameters)(fn)


#: NumPy's own that its pickles bring back as something else: as another type, or without zeros at the end.
_LOSSY = ("str_", "bytes_", "longlong", "ulonglong")


def _reduce_number(number: Any, generic: Any) -> Any:
    """A NumPy scalar: NumPy itself writes down the dtype only, so that a subclass would come back as its base."""
    kind = type(number)
    own = kind.__module__ == "numpy"
    if (own and kind.__name__ not in _LOSSY) or kind.__reduce__ is not generic.__reduce__:
        return NotImplemented
    base = next(base for base in kind.__mro__ if base.__module__ == "numpy")
    if isinstance(number, str):
        value: Any = str.__str__(number)
    elif isinstance(number, bytes):
        value = bytes.__getitem__(number, slice(None))
    else:
        value = int(number) if own else base(number)
    return _make_number, (base, kind, value, getattr(number, "__dict__", None))


def _make_number(base: Any, kind: type, value: object, attributes: dict[str, Any] | None) -> Any:
    number = base.__new__(kind, value)
    if attributes:
        number.__dict__.update(attributes)
    return number


class _ByValue(Exception):
    """The C pickler met something that the other side cannot import."""


class _Guard(_pickle.Pickler):
    """C speed for everything importable; raises for what is not, where plain pickle would send a useless name."""

    def __init__(self, file: io.BytesIO, keep: Keep, needs: Needs) -> None:
        super().__init__(file, 5, buffer_callback=keep)
        self.needs = needs
        self.number = getattr(loaded("numpy"), "generic", None)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)):
            module = obj.__module__
            if type(module) is not str or "<locals>" in obj.__qualname__:
                raise _ByValue
            where = place(module)
            if where == "value":
                raise _ByValue
            if where == "local":
                self.needs.modules.add(module)
        elif type(obj) is Broadcast:
            return obj.mention(self.needs)
        elif type(obj) is _Cached and _by_value(obj):
            raise _ByValue
        elif self.number is not None and isinstance(obj, self.number):
            return _reduce_number(obj, self.number)
        return NotImplemented


def _replaced(obj: Any) -> str | None:
    """The module that has put another object in its own place, if this is that object or has a name in it."""
    named = isinstance(obj, type | FunctionType)
    home = obj.__module__ if named else getattr(type(obj), "__module__", None)
    module = sys.modules.get(home) if type(home) is str else None
    if module is None or isinstance(module, ModuleType) or home == "__main__":
        return None
    if not named:
        return home if module is obj else None
    found: Any = module
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return home if found is obj else None


def _by_value(obj: Any) -> bool:
    module = getattr(obj, "__module__", None)
    if type(module) is not str or "<locals>" in obj.__qualname__:
        return True
    return place(module) == "value" or registered(module)


class Definitions:
    """The classes that the items of one chunk have in common and that travel by value: once, not in each item."""

    def __init__(self) -> None:
        self.classes: list[type] = []
        self._index: dict[int, int] = {}

    def index(self, cls: type) -> int:
        found = self._index.get(id(cls))
        if found is None:
            found = self._index[id(cls)] = len(self.classes)
            self.classes.append(cls)
        return found


loading = _local()


def _definition(index: int) -> object:
    return loading.definitions[index]


_cloud_type: Any = None


def warm_up(busy: Callable[[], bool]) -> None:
    """Import what most functions will need, piece by piece, until there is something better to do."""
    for name in ("typing", "inspect", "logging", "cloudpickle"):  # the last one imports the others
        if busy():
            return
        __import__(name)


def _cloud(file: io.BytesIO, keep: Keep, needs: Needs, definitions: Definitions | None) -> _pickle.Pickler:
    """A cloudpickle pickler that notes what it needs. Its class is made at first use: cloudpickle costs 40 ms."""
    global _cloud_type
    if _cloud_type is None:
        _cloud_type = _make_cloud_type()
    pickler: _pickle.Pickler = _cloud_type(file, keep, needs, definitions)
    return pickler


def _make_cloud_type() -> Any:
    from importlib import import_module

    import cloudpickle

    class Cloud(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(self, file: io.BytesIO, keep: Keep, needs: Needs, definitions: Definitions | None) -> None:
            super().__init__(file, 5, keep)
            self.needs, self.definitions = needs, definitions
            self.number = getattr(loaded("numpy"), "generic", None)

        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is Broadcast:
                return obj.mention(self.needs)
            if type(obj) is _Cached and _by_value(obj):
                return _cache_again, (obj.__wrapped__, obj.cache_parameters())
            home = _replaced(obj)
            if home is not None:
                self.note(home)
                return (import_module, (home,)) if sys.modules[home] is obj else NotImplemented
            if isinstance(obj, ModuleType):
                self.note(obj.__name__)
            elif isinstance(obj, FunctionType):
                self.note(obj.__module__)
                if _by_value(obj):
                    package = obj.__globals__.get("__package__")
                    self.needs.modules |= imports_of_code(obj.__code__, package if type(package) is str else "")
            elif isinstance(obj, CodeType):
                # cloudpickle leaves out where the code stands (3.1.1), without which no traceback could show its lines.
                make, args = self.dispatch_table[CodeType](obj)
                return make, tuple(
                    "".join(obj.co_filename) if type(arg) is str and arg == "<dynamic-code>" else arg for arg in args
                )
            elif isinstance(obj, type):
                self.note(obj.__module__)
                if self.definitions is not None and _by_value(obj):
                    return _definition, (self.definitions.index(obj),)
                return _protect(obj, super().reducer_override(obj))
            elif self.number is not None and isinstance(obj, self.number):
                return _reduce_number(obj, self.number)
            return super().reducer_override(obj)

        def note(self, module: object) -> None:
            if type(module) is not str:
                return
            where = place(module)
            if where == "local":
                self.needs.modules.add(module)
            elif where == "value" and module != "__main__" and module in sys.modules:
                # cloudpickle takes everything in sys.modules for importable, also what was made at run time.
                cloudpickle.register_pickle_by_value(sys.modules[module])

    return Cloud


#: Classes that were defined in this process and travelled from it; a copy that comes back must not change them.
_classes: WeakSet[type] = WeakSet()
_foreign: WeakSet[type] = WeakSet()


def _protect(cls: type, reduced: Any) -> Any:
    """Keep cloudpickle from writing a class's travelled attributes over the original when it comes home.

    cloudpickle finds the original class by its tracker id (so `isinstance` holds), but then sets every attribute
    again: methods would lose their globals, class-level counters would jump back.
    """
    if not isinstance(reduced, tuple) or len(reduced) != 6 or reduced[5] is None:
        return reduced
    _remember_class(cls, home=True)
    return (*reduced[:2], (reduced[5], reduced[2]), None, None, _update_class)


def _remember_class(cls: type, *, home: bool) -> None:
    if not home:
        _foreign.add(cls)
    elif cls not in _foreign:
        _classes.add(cls)


def _update_class(cls: type, state: tuple[Callable[[type, object], object], object]) -> type:
    if cls in _classes:
        return cls
    setter, attributes = state
    setter(cls, attributes)
    _remember_class(cls, home=False)
    return cls


# --- one value --------------------------------------------------------------------------------------------------------


class _Aside:
    """Takes large buffers out of a pickle, each memory block once. Apart from Writer, so that no circle keeps them."""

    def __init__(self, least: int) -> None:
        self.buffers: list[memoryview] = []
        self.used: list[int] = []
        self._known: dict[tuple[int, int], int] = {}
        self._least = least

    def __call__(self, buffer: _pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < self._least:
            return True
        key = (id(view.obj), view.nbytes)
        at = self._known.get(key)
        if at is None:
            at = self._known[key] = len(self.buffers)
            self.buffers.append(view)
        self.used.append(at)
        return False


class Writer:
    """Appends pickles to one file; buffers go to one list."""

    def __init__(self, needs: Needs, definitions: Definitions | None = None, *, out_of_band: int = OUT_OF_BAND) -> None:
        self.file = io.BytesIO()
        self.needs = needs
        self.definitions = definitions
        self._aside = _Aside(out_of_band)
        self._guard = _Guard(self.file, self._aside, needs)
        # What the user told cloudpickle to send by value, only cloudpickle knows.
        self._cloudy = any_registered()

    @property
    def buffers(self) -> list[memoryview]:
        """All buffers so far."""
        return self._aside.buffers

    @property
    def used(self) -> list[int]:
        """Which of them the last pickle refers to."""
        return self._aside.used

    def write(self, value: object) -> None:
        """Append one pickle; `used` then names its buffers. If this raises, nothing was appended."""
        start = self.file.tell()
        self._aside.used = []
        if not self._cloudy:
            try:
                self._guard.clear_memo()
                self._guard.dump(value)
                return
            except UNPICKLABLE:
                self._reset(start)
        try:
            _cloud(self.file, self._aside, self.needs, self.definitions).dump(value)
        except BaseException:
            self._reset(start)
            raise
        # The next item is most likely of the same kind.
        self._cloudy = True

    def _reset(self, start: int) -> None:
        self.file.seek(start)
        self.file.truncate()
        self._aside.used = []


def dump_value(value: object, needs: Needs, *, what: str) -> Payload:
    """One value as one pickle, large buffers out of band. Raises PayloadError that begins with `what`."""
    writer = Writer(needs)
    try:
        writer.write(value)
    except UNPICKLABLE as exc:
        raise failed_to_travel(f"{what} cannot be pickled", exc) from exc
    return Payload(writer.file.getvalue(), tuple(writer.buffers[at] for at in writer.used))


def load_value(payload: Payload) -> Any:
    return _pickle.loads(payload[0], buffers=payload[1])


def dump_small(value: object) -> bytes:
    """One value as plain bytes, everything in band (exceptions)."""
    writer = Writer(Needs(), out_of_band=sys.maxsize)
    writer.write(value)
    return writer.file.getvalue()
