"""How one value becomes bytes, and back, and what it refers to on the way.

Owns the picklers: a guarded C pickler first (fast, but it would pickle what lives in `__main__` by a name that nobody
else can import, so it is made to refuse that), cloudpickle second; large buffers out of band. Owns broadcast handles
and the collection of what a pickle needs. Must not know chunks, tasks or connections. The only importer of
cloudpickle. Imported by task processes: cloudpickle and hashlib only when needed.
"""

from __future__ import annotations

import _pickle
import copyreg
import io
import os
import sys
from _thread import _local, allocate_lock, get_ident
from _weakref import ref
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType

from distmap.errors import PayloadError
from distmap.tasks._typing import Any, Buffer, NamedTuple
from distmap.tasks.failures import BROKEN, failed_to_travel
from distmap.tasks.modules import any_registered, imports_of_code, loaded, pack, pack_versions, place, registered
from distmap.wire.messages import BlobKind

#: Buffers from this size travel out of band; below, one more part costs more than the copy (measured).
OUT_OF_BAND = 32 << 10
#: What a `__reduce__` may raise to say that its object does not travel.
UNPICKLABLE = BROKEN


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
        self._needs = Dependencies()
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

    @property
    def held(self) -> Any:
        """The value, if it was given here."""
        return None if self._value is _MISSING else self._value

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
        self._value, self._blob, self._needs = _MISSING, None, Dependencies()
        self.on_release()

    def mention(self, needs: Dependencies) -> tuple[Callable[..., Broadcast], tuple[bytes, bool]]:
        """For picklers: note that the value is needed, and reduce the handle to its digest."""
        if get_ident() in self._pickling:
            needs.circular[self.digest] = self  # its blob is not there yet; `Dependencies.blobs` asks again
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
            if digest not in self.values:
                handle.mention(self)
        values = tuple(self.values.values())
        packed = pack(frozenset(self.modules)) if self.modules else None
        if packed is None:
            return values
        # In this order: the files of modules that are there.
        extras = () if packed.extras is None else (Blob(packed.extras[0], "extras", Payload(packed.extras[1])),)
        return (Blob(packed.digest, "modules", Payload(packed.pickled)), *extras, *values)

    def versions(self) -> tuple[Blob, ...]:
        """What is installed here of what is needed by reference; nothing while all workers are on this machine."""
        packed = pack_versions(self.modules | self.references)
        return () if packed is None else (Blob(packed[0], "extras", Payload(packed[1])),)


def digest_of(*chunks: Buffer) -> bytes:
    from hashlib import blake2b

    state = blake2b(digest_size=16)
    for chunk in chunks:
        state.update(size(chunk).to_bytes(8, "little"))
        state.update(chunk)
    return state.digest()


# --- picklers ---------------------------------------------------------------------------------------------------------

Keep = Callable[[_pickle.PickleBuffer], Any]


#: NumPy's own that its pickles bring back as something else: as another type, or without zeros at the end.
_LOSSY = ("str_", "bytes_", "longlong", "ulonglong")


def _is_lossy(kind: type) -> bool | None:
    """Whether NumPy's own pickles of numbers of this type bring back something else; None if they are not NumPy's."""
    generic = getattr(loaded("numpy"), "generic", None)
    if generic is None or not issubclass(kind, generic) or kind.__reduce__ is not generic.__reduce__:
        return None
    return kind.__module__ != "numpy" or kind.__name__ in _LOSSY


def _reduce_number(number: Any) -> Any:
    """A NumPy scalar: NumPy itself writes down the dtype only, so that a subclass would come back as its base."""
    kind = type(number)
    own = kind.__module__ == "numpy"
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


# What a pickler does with the objects of one type.
_PLAIN, _DEFINED, _BROADCAST, _ERROR, _SIMPLE_ERROR, _GENERATOR, _NUMBER, _MEMBER, _SHARED, _NAMED, _ASKED = range(11)
_OF_BOTH = range(_BROADCAST, _SHARED + 1)
_BY_IDENTITY: Any = object.__eq__

#: Random generators, by module and name of a class of theirs.
_GENERATORS = {
    ("random", "Random"),
    ("numpy.random._generator", "Generator"),
    ("numpy.random.mtrand", "RandomState"),
    ("numpy.random.bit_generator", "BitGenerator"),
}
#: Those that belong to a module, whose functions are methods of theirs: every process has its own.
_MODULES_OWN = (("random", "_inst"), ("numpy.random.mtrand", "_rand"))


def is_generator(kind: type) -> bool:
    """Whether objects of this type are random generators with a state of their own."""
    names = {(base.__module__, base.__name__) for base in kind.__mro__}
    return not names.isdisjoint(_GENERATORS) and ("random", "SystemRandom") not in names


#: A class of exceptions that has none of these leaves it to the builtins how it is made, and how it pickles.
_MAKERS = {"__new__", "__init__", "__slots__", "__getattribute__", "__setattr__"}
_MAKERS |= {"__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__", "__getstate__", "__setstate__"}


def _is_simple(kind: type[BaseException]) -> bool:
    """Whether an exception of this type is its `args` and its `__dict__` (but for its links), as plain pickle says."""
    own = [base for base in kind.__mro__ if base.__module__ != "builtins"]
    builtin = [base for base in kind.__mro__ if base.__module__ == "builtins"]
    return (
        type(kind) is type
        and all(_MAKERS.isdisjoint(vars(base)) for base in own)
        and all(base.__basicsize__ <= BaseException.__basicsize__ for base in builtin)
    )


#: What processes of one machine share: all classes of these modules, and these classes of others.
_SHARED_HOMES = {f"multiprocessing.{name}" for name in ("connection", "heap", "queues", "shared_memory", "synchronize")}
_SHARED_KINDS = {
    ("multiprocessing.managers", "BaseProxy"),
    ("multiprocessing.process", "AuthenticationString"),
    ("multiprocessing.sharedctypes", "SynchronizedBase"),
    ("socket", "socket"),
    ("_ctypes", "_SimpleCData"),
    ("_ctypes", "Array"),
    ("_ctypes", "Structure"),
}


def is_shared(kind: type) -> bool:
    """Whether objects of this type are, or may be, shared by processes of one machine."""
    return any(
        base.__module__ in _SHARED_HOMES or (base.__module__, base.__name__) in _SHARED_KINDS for base in kind.__mro__
    )


#: What is done with the types that every function brings along.
_usual: dict[int, int] = {}


class _Kinds:
    """What is done with the objects of which type: looked at once for each of what one Writer meets."""

    def __init__(self) -> None:
        #: By the `id` of the type, as a metaclass may forbid to hash it. The types are kept, so that no id is reused.
        self.found = dict(_usual)
        self._kept: list[type] = []

    def of(self, kind: type) -> int:
        found = self.found.get(id(kind))
        return self.look(kind) if found is None else found

    def look(self, kind: type) -> int:
        if issubclass(kind, (type, FunctionType)):
            how = _DEFINED
        elif kind is Broadcast:
            how = _BROADCAST
        elif issubclass(kind, BaseException):
            how = _SIMPLE_ERROR if _is_simple(kind) else _ERROR
        elif is_generator(kind):
            how = _GENERATOR
        elif (lossy := _is_lossy(kind)) is not None:
            how = _NUMBER if lossy else _PLAIN
        elif kind.__reduce_ex__ is getattr(getattr(loaded("enum"), "Enum", None), "__reduce_ex__", None):
            how = _MEMBER
        elif is_shared(kind):
            how = _SHARED
        elif (
            kind in copyreg.dispatch_table
            or kind.__reduce_ex__ is not object.__reduce_ex__
            or kind.__reduce__ is not object.__reduce__
        ):
            how = _NAMED  # perhaps
        else:
            how = _PLAIN
        self.found[id(kind)] = how
        self._kept.append(kind)
        return how

    def gave_no_name(self, kind: type) -> None:
        """Objects of this type are asked no more, if what speaks for them is written in C: it knows no exceptions."""
        says = (kind.__reduce_ex__, kind.__reduce__, copyreg.dispatch_table.get(kind))
        in_c = kind is not BuiltinFunctionType and not any(isinstance(method, FunctionType) for method in says)
        self.found[id(kind)] = _PLAIN if in_c else _ASKED


_usual.update({id(kind): _Kinds().look(kind) for kind in (type, FunctionType, BuiltinFunctionType, CodeType, CellType)})


def _modules_own(generator: object) -> Any:
    for module, name in _MODULES_OWN:
        if getattr(sys.modules.get(module), name, None) is generator:
            from distmap.tasks.rebuild import find

            return find, (module, name)
    return None


def _is_linked(error: BaseException) -> bool:
    return error.__suppress_context__ or error.__context__ is not None or error.__cause__ is not None


def _reduce_of_both(pickler: Any, obj: Any, how: int) -> Any:
    """What both picklers do in the same way."""
    if how == _BROADCAST:
        return obj.mention(pickler.needs)
    if how == _ERROR or how == _SIMPLE_ERROR:
        pickler.errors = True
        if how == _SIMPLE_ERROR and pickler.travels is None and not _is_linked(obj):
            return NotImplemented
        from distmap.tasks.rebuild import reduce_error

        return reduce_error(obj, pickler.linked, pickler.travels)
    if how == _GENERATOR:
        own = _modules_own(obj)
        pickler.needs.generator |= own is None
        return own or NotImplemented
    if how == _NUMBER:
        return _reduce_number(obj)
    if how == _MEMBER:
        # The value of a member leads to it, if that is equal to anything but itself; else its name does.
        by_name = type(obj._value_).__eq__ is _BY_IDENTITY
        return (getattr, (type(obj), obj._name_)) if by_name else NotImplemented
    from distmap.tasks.shared import reduce_shared

    return reduce_shared(obj, pickler.needs.share)


class FastPickler(_pickle.Pickler):
    """C speed for everything importable; raises for what is not, where plain pickle would send a useless name."""

    def __init__(self, file: io.BytesIO, keep: Keep, needs: Dependencies, kinds: _Kinds) -> None:
        super().__init__(file, 5, buffer_callback=keep)
        self.needs, self.kinds, self.found = needs, kinds, kinds.found
        self.makers: dict[type, Callable[[Any], Any]] = copyreg.dispatch_table
        self.linked: set[int] = set()
        self.errors = False
        self.travels: Callable[[object], bool] | None = None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        how = self.found.get(id(kind))
        if how is None:
            how = self.kinds.look(kind)
        if how == _PLAIN:
            return NotImplemented
        if how == _DEFINED:
            module = obj.__module__
            if type(module) is not str or "<locals>" in obj.__qualname__:
                raise _ByValue
            where = place(module)
            if where == "value":
                raise _ByValue
            (self.needs.modules if where == "local" else self.needs.references).add(module)
            return NotImplemented
        if how in _OF_BOTH:
            return _reduce_of_both(self, obj, how)
        make = self.makers.get(kind)
        reduced = obj.__reduce_ex__(5) if make is None else make(obj)
        if type(reduced) is not str:
            if how == _NAMED:
                self.kinds.gave_no_name(kind)
            return reduced
        module = getattr(obj, "__module__", None)
        # All of NumPy's functions say that they are of `numpy`, also those that other packages make.
        if type(module) is str and module != "numpy" and place(module) == "reference":
            return reduced
        reduced = _found_by_name(obj, reduced, self.needs)
        if reduced is None:
            raise _ByValue
        return reduced


def _found_by_name(obj: Any, name: str, needs: Dependencies) -> Any:
    """How an object that gives only a name is found on the other side; None if it is not."""
    from distmap.tasks.rebuild import find, home_of

    home = home_of(obj, name)
    if home is None or registered(home):
        return None
    where = place(home)
    if where == "value":
        return None
    (needs.modules if where == "local" else needs.references).add(home)
    return name if home == getattr(obj, "__module__", None) else (find, (home, name))


def by_reference(obj: Any) -> bool:
    """True if a function or class is found in its module under its name, and that is importable on the other side."""
    module = obj.__module__
    if type(module) is not str or "<locals>" in obj.__qualname__ or place(module) == "value":
        return False
    found: Any = sys.modules[module]
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


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
    return not by_reference(obj) or registered(obj.__module__)


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


def _cloud(file: io.BytesIO, keep: Keep, needs: Dependencies, kinds: _Kinds, definitions: Definitions | None) -> Any:
    """A cloudpickle pickler that notes what it needs. Its class is made at first use: cloudpickle costs 40 ms."""
    global _cloud_type
    if _cloud_type is None:
        _cloud_type = _make_cloud_type()
    return _cloud_type(file, keep, needs, kinds, definitions)


def _make_cloud_type() -> Any:
    from collections import ChainMap
    from functools import cached_property
    from importlib import import_module
    from weakref import WeakKeyDictionary, WeakValueDictionary

    import cloudpickle

    from distmap.tasks import rebuild

    more = {
        ref: rebuild.reduce_ref,
        rebuild.Ref: rebuild.reduce_ref,
        WeakKeyDictionary: rebuild.reduce_weak_mapping,
        WeakValueDictionary: rebuild.reduce_weak_mapping,
        cached_property: rebuild.reduce_cached_property,
        _local: rebuild.reduce_local,
    }

    table = ChainMap(more, cloudpickle.Pickler.dispatch_table)

    class Cloud(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = table

        def __init__(
            self, file: io.BytesIO, keep: Keep, needs: Dependencies, kinds: _Kinds, definitions: Definitions | None
        ) -> None:
            super().__init__(file, 5, keep)
            self.needs, self.kinds, self.definitions = needs, kinds, definitions
            self.linked: set[int] = set()
            #: Whether an exception was met, and says which of its parts travel; without it all are to.
            self.errors = False
            self.travels: Callable[[object], bool] | None = None

        def reducer_override(self, obj: Any) -> Any:
            how = self.kinds.of(type(obj))
            if how == _DEFINED:
                return self.define(obj)
            if how in _OF_BOTH:
                return _reduce_of_both(self, obj, how)
            home = _replaced(obj)
            if home is not None:
                self.note(home)
                return import_module, (home,)
            if isinstance(obj, ModuleType):
                self.note(obj.__name__)
            elif isinstance(obj, CodeType):
                # cloudpickle leaves out where the code stands (3.1.1), without which no traceback could show its lines.
                make, args = self.dispatch_table[CodeType](obj)
                return make, tuple(
                    "".join(obj.co_filename) if type(arg) is str and arg == "<dynamic-code>" else arg for arg in args
                )
            elif isinstance(obj, MethodType) and rebuild.is_shell(obj.__self__) and obj.__name__ == "get_ipython":
                return rebuild.find, (rebuild.__name__, "get_ipython")
            elif rebuild.is_shell(obj):
                raise PayloadError(rebuild.NO_SHELL)
            elif how in (_NAMED, _ASKED):
                return self.named(obj)
            return NotImplemented

        def define(self, obj: Any) -> Any:
            """A function or a class."""
            home = _replaced(obj)
            if home is not None:
                self.note(home)
                return NotImplemented
            self.note(obj.__module__)
            if not _by_value(obj):
                return NotImplemented
            if isinstance(obj, FunctionType):
                package = obj.__globals__.get("__package__")
                self.needs.modules |= imports_of_code(obj.__code__, package if type(package) is str else "")
                return super().reducer_override(obj)
            if self.definitions is not None:
                return _definition, (self.definitions.index(obj),)
            return rebuild.reduce_class(obj, super().reducer_override(obj))

        def named(self, obj: Any) -> Any:
            """What may pickle by a name."""
            if type(obj).__name__ == "SystemRandom":
                return type(obj), ()  # it has no state, and says no more than that
            make = self.dispatch_table.get(type(obj))
            reduced = obj.__reduce_ex__(5) if make is None else make(obj)
            if type(reduced) is not str:
                return reduced
            return _found_by_name(obj, reduced, self.needs) or rebuild.reduce_named(obj) or reduced

        def note(self, module: object) -> None:
            if type(module) is not str:
                return
            where = place(module)
            if where == "local":
                self.needs.modules.add(module)
            elif where == "reference":
                self.needs.references.add(module)
            elif module != "__main__" and module in sys.modules:
                # cloudpickle takes everything in sys.modules for importable, also what was made at run time.
                cloudpickle.register_pickle_by_value(sys.modules[module])

    return Cloud


# --- one value --------------------------------------------------------------------------------------------------------


class OutOfBand:
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

    def forget(self) -> None:
        """Take what comes from now on for new, also memory that came before."""
        self._known.clear()


class Writer:
    """Appends pickles to one file; buffers go to one list."""

    def __init__(
        self, needs: Dependencies, definitions: Definitions | None = None, *, out_of_band: int = OUT_OF_BAND
    ) -> None:
        self.file = io.BytesIO()
        self.needs = needs
        self.definitions = definitions
        self._out_of_band = OutOfBand(out_of_band)
        self._kinds = _Kinds()
        self._fast = FastPickler(self.file, self._out_of_band, needs, self._kinds)
        # What the user told cloudpickle to send by value, only cloudpickle knows.
        self._cloudy = any_registered()

    @property
    def buffers(self) -> list[memoryview]:
        """All buffers so far."""
        return self._out_of_band.buffers

    @property
    def used(self) -> list[int]:
        """Which of them the last pickle refers to."""
        return self._out_of_band.used

    def keep(self) -> None:
        """Copy the buffers of the last pickle: its value may be changed from now on, and come again."""
        buffers = self._out_of_band.buffers
        for at in set(self._out_of_band.used):
            buffers[at] = memoryview(bytearray(buffers[at]))
        self._out_of_band.forget()

    def write(self, value: object, *, careful: bool = False) -> None:
        """Append one pickle; `used` then names its buffers. If this raises, nothing was appended.

        `careful`: parts of exceptions that do not come back are left behind. It is tried anyhow if all else fails.
        """
        start = self.file.tell()
        self._out_of_band.used = []
        if not self._cloudy and not careful:
            try:
                self._fast.clear_memo()
                self._fast.linked.clear()
                self._fast.dump(value)
                return
            except UNPICKLABLE:
                self._reset(start)
        cloud = self._cloud()
        try:
            if careful:
                cloud.travels = _comes_back
            cloud.dump(value)
        except BaseException as exc:
            self._reset(start)
            if careful or not cloud.errors or not isinstance(exc, UNPICKLABLE):
                raise
            try:
                self.write(value, careful=True)
            except UNPICKLABLE:
                raise exc from None
        # The next item is most likely of the same kind.
        self._cloudy = True

    def _cloud(self) -> Any:
        return _cloud(self.file, self._out_of_band, self.needs, self._kinds, self.definitions)

    def _reset(self, start: int) -> None:
        self.file.seek(start)
        self.file.truncate()
        self._out_of_band.used = []


def dump_value(value: object, needs: Dependencies, *, what: str) -> Payload:
    """One value as one pickle, large buffers out of band. Raises PayloadError that begins with `what`."""
    writer = Writer(needs)
    try:
        writer.write(value)
    except UNPICKLABLE as exc:
        raise failed_to_travel(f"{what} cannot be pickled", exc, value) from exc
    return Payload(writer.file.getvalue(), tuple(writer.buffers[at] for at in writer.used))


def load_value(payload: Payload) -> Any:
    return _pickle.loads(payload[0], buffers=payload[1])


def dump_small(value: object, *, careful: bool = False) -> bytes:
    """One value as plain bytes, everything in band (exceptions)."""
    writer = Writer(Dependencies(), out_of_band=sys.maxsize)
    writer.write(value, careful=careful)
    return writer.file.getvalue()


#: The search for what does not pickle gives up after so many objects: it is done in Python.
_MOST_LOOKED = 500_000


def path_to_failure(value: object) -> tuple[list[object], BaseException]:
    """The objects from the value to the innermost one that does not pickle, and what that raised."""
    import pickle

    way: list[object] = []
    looked = 0
    cloud = _cloud(io.BytesIO(), lambda _: False, Dependencies(), _Kinds(), None)

    slow: Any = pickle._Pickler

    class Tracer(slow):  # type: ignore[misc]
        """The pickler that is written in Python, which says where it is."""

        dispatch_table = cloud.dispatch_table
        reducer_override = cloud.reducer_override

        def save(self, obj: object, *args: Any) -> None:
            nonlocal looked
            looked += 1
            if looked > _MOST_LOOKED:
                raise _Lost
            way.append(obj)
            if type(obj) is Broadcast:
                self.save(obj.held)
            super().save(obj, *args)
            way.pop()

    try:
        Tracer(_Nowhere(), 5, buffer_callback=lambda _: False).dump(value)
    except UNPICKLABLE as exc:
        if not isinstance(exc, _Lost | RecursionError):
            return way, exc
    raise _Lost


class _Lost(Exception):
    """What does not pickle was not found."""


class _Nowhere:
    """A file that nobody reads."""

    def write(self, data: object) -> None: ...


def _comes_back(part: object) -> bool:
    """Whether a part of an exception survives a round trip by itself."""
    try:
        _pickle.loads(dump_small(part))
    except UNPICKLABLE:
        return False
    return True
