"""The pickler for everything that is importable on the other side, and what both picklers have in common.

Owns `FastPickler`: C speed, but it refuses what lives in `__main__`, of which plain pickle would send a name that no
other process can import. `cloud.py` has the pickler for the rest. Must not know chunks, tasks or connections. Imported
by task processes.
"""

from __future__ import annotations

import _pickle
import copyreg
import io
import sys
from _thread import _local
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType, ModuleType

from distmap.tasks._typing import Any, NamedTuple
from distmap.tasks.broadcast import Dependencies, mention
from distmap.tasks.failures import BROKEN
from distmap.tasks.kinds import (
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
from distmap.tasks.modules import lookup, place, registered
from distmap.tasks.payload import Payload

#: What a `__reduce__` may raise to say that its object does not travel.
UNPICKLABLE = BROKEN
_BY_IDENTITY: Any = object.__eq__
Keep = Callable[[_pickle.PickleBuffer], Any]


class _ByValue(Exception):
    """The C pickler met something that the other side cannot import."""


#: Those that belong to a module, whose functions are methods of theirs: every process has its own.
_MODULES_OWN = (("random", "_inst"), ("numpy.random.mtrand", "_rand"))


def modules_own(generator: object) -> Any:
    for module, name in _MODULES_OWN:
        if getattr(sys.modules.get(module), name, None) is generator:
            from distmap.tasks.rebuild import find

            return find, (module, name)
    return None


def _is_linked(error: BaseException) -> bool:
    return error.__suppress_context__ or error.__context__ is not None or error.__cause__ is not None


def reduce_special(pickler: Any, obj: Any, how: int) -> Any:
    """What both picklers do in the same way."""
    if how == BROADCAST:
        return mention(obj, pickler.needs, pickler.dump_value)
    if how == ERROR or how == SIMPLE_ERROR:
        pickler.errors = True
        if how == SIMPLE_ERROR and pickler.travels is None and not _is_linked(obj):
            return NotImplemented
        from distmap.tasks.rebuild_errors import reduce_error

        return reduce_error(obj, pickler.linked, pickler.travels)
    if how == GENERATOR:
        own = modules_own(obj)
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


class PickleContext(NamedTuple):
    """What the picklers of one Writer have in common."""

    needs: Dependencies
    kinds: Kinds
    #: `pickling.dump_value`, for the values of broadcast handles. (It cannot be imported here: it needs the picklers.)
    dump_value: Callable[..., Payload]


class FastPickler(_pickle.Pickler):
    """C speed for everything importable; raises for what is not, where plain pickle would send a useless name."""

    def __init__(self, file: io.BytesIO, keep: Keep, context: PickleContext) -> None:
        super().__init__(file, 5, buffer_callback=keep)
        self.needs, self.kinds, self.dump_value = context
        self.found = self.kinds.found
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
            return reduce_special(self, obj, how)
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
        reduced = found_by_name(obj, reduced, self.needs)
        if reduced is None:
            raise _ByValue
        return reduced


def found_by_name(obj: Any, name: str, needs: Dependencies) -> Any:
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
    return lookup(sys.modules[module], obj.__qualname__) is obj


def underlying(fn: object) -> FunctionType | None:
    """The function behind partials and bound methods, if there is one."""
    while isinstance(fn, MethodType | partial):
        fn = fn.func if isinstance(fn, partial) else fn.__func__
    return fn if isinstance(fn, FunctionType) else None


def replaced(obj: Any) -> str | None:
    """The module that has put another object in its own place, if this is that object or has a name in it."""
    named = isinstance(obj, type | FunctionType)
    home = obj.__module__ if named else getattr(type(obj), "__module__", None)
    module = sys.modules.get(home) if type(home) is str else None
    if module is None or isinstance(module, ModuleType) or home == "__main__":
        return None
    if not named:
        return home if module is obj else None
    return home if lookup(module, obj.__qualname__) is obj else None


def by_value(obj: Any) -> bool:
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


def definition(index: int) -> object:
    return loading.definitions[index]
