"""How one value becomes bytes.

Owns the picklers: first a C pickler that is fast, and that refuses what lives in `__main__` (it would pickle a name
that no other process can import); cloudpickle second. Large buffers go out of band. Must not know chunks, tasks or
connections. The only importer of cloudpickle. Imported by task processes: cloudpickle only when needed.
"""

from __future__ import annotations

import _pickle
import copyreg
import io
import sys
from _thread import _local
from _weakref import ref
from collections.abc import Callable
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType

from distmap.errors import PayloadError
from distmap.tasks._typing import Any
from distmap.tasks.broadcast import Dependencies, mention
from distmap.tasks.failures import BROKEN, failed_to_travel
from distmap.tasks.kinds import (
    ASKED,
    BROADCAST,
    DEFINED,
    ERROR,
    GENERATOR,
    MEMBER,
    NAMED,
    NUMBER,
    PLAIN,
    SIMPLE_ERROR,
    SPECIAL,
    Kinds,
)
from distmap.tasks.modules import any_registered, place, registered
from distmap.tasks.payload import Payload

#: Buffers from this size travel out of band; below, one more part costs more than the copy (measured).
OUT_OF_BAND = 32 << 10
#: What a `__reduce__` may raise to say that its object does not travel.
UNPICKLABLE = BROKEN


# --- picklers ---------------------------------------------------------------------------------------------------------

_BY_IDENTITY: Any = object.__eq__
Keep = Callable[[_pickle.PickleBuffer], Any]


class _ByValue(Exception):
    """The C pickler met something that the other side cannot import."""


#: Those that belong to a module, whose functions are methods of theirs: every process has its own.
_MODULES_OWN = (("random", "_inst"), ("numpy.random.mtrand", "_rand"))


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
    if how == BROADCAST:
        return mention(obj, pickler.needs, dump_value)
    if how == ERROR or how == SIMPLE_ERROR:
        pickler.errors = True
        if how == SIMPLE_ERROR and pickler.travels is None and not _is_linked(obj):
            return NotImplemented
        from distmap.tasks.rebuild_errors import reduce_error

        return reduce_error(obj, pickler.linked, pickler.travels)
    if how == GENERATOR:
        own = _modules_own(obj)
        pickler.needs.generator |= own is None
        return own or NotImplemented
    if how == NUMBER:
        from distmap.tasks.rebuild import reduce_number

        return reduce_number(obj)
    if how == MEMBER:
        # The value of a member leads to it, if that is equal to anything but itself; else its name does.
        by_name = type(obj._value_).__eq__ is _BY_IDENTITY
        return (getattr, (type(obj), obj._name_)) if by_name else NotImplemented
    from distmap.tasks.shared import reduce_shared

    return reduce_shared(obj, pickler.needs.share)


class FastPickler(_pickle.Pickler):
    """C speed for everything importable; raises for what is not, where plain pickle would send a useless name."""

    def __init__(self, file: io.BytesIO, keep: Keep, needs: Dependencies, kinds: Kinds) -> None:
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
        if how == PLAIN:
            return NotImplemented
        if how == DEFINED:
            module = obj.__module__
            if type(module) is not str or "<locals>" in obj.__qualname__:
                raise _ByValue
            where = place(module)
            if where == "value":
                raise _ByValue
            (self.needs.modules if where == "local" else self.needs.references).add(module)
            return NotImplemented
        if how in SPECIAL:
            return _reduce_of_both(self, obj, how)
        make = self.makers.get(kind)
        reduced = obj.__reduce_ex__(5) if make is None else make(obj)
        if type(reduced) is not str:
            if how == NAMED:
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


def underlying(fn: object) -> FunctionType | None:
    """The function behind partials and bound methods, if there is one."""
    while isinstance(fn, MethodType | partial):
        fn = fn.func if isinstance(fn, partial) else fn.__func__
    return fn if isinstance(fn, FunctionType) else None


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


def cloud_pickler(
    file: io.BytesIO, keep: Keep, needs: Dependencies, kinds: Kinds, definitions: Definitions | None
) -> Any:
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
    from distmap.tasks.imports import imports_of_code
    from distmap.tasks.rebuild_classes import reduce_class

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
            self, file: io.BytesIO, keep: Keep, needs: Dependencies, kinds: Kinds, definitions: Definitions | None
        ) -> None:
            super().__init__(file, 5, keep)
            self.needs, self.kinds, self.definitions = needs, kinds, definitions
            self.linked: set[int] = set()
            #: Whether an exception was met, and says which of its parts travel; without it all are to.
            self.errors = False
            self.travels: Callable[[object], bool] | None = None

        def reducer_override(self, obj: Any) -> Any:
            how = self.kinds.of(type(obj))
            if how == DEFINED:
                return self.define(obj)
            if how in SPECIAL:
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
            elif how in (NAMED, ASKED):
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
            return reduce_class(obj, super().reducer_override(obj))

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
        self._kinds = Kinds()
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
        return cloud_pickler(self.file, self._out_of_band, self.needs, self._kinds, self.definitions)

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


def dump_small(value: object, *, careful: bool = False) -> bytes:
    """One value as plain bytes, everything in band (exceptions)."""
    writer = Writer(Dependencies(), out_of_band=sys.maxsize)
    writer.write(value, careful=careful)
    return writer.file.getvalue()


def _comes_back(part: object) -> bool:
    """Whether a part of an exception survives a round trip by itself."""
    try:
        _pickle.loads(dump_small(part))
    except UNPICKLABLE:
        return False
    return True
