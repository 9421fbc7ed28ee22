"""The pickler for what the other side cannot import: functions and classes of a notebook, and what they reach.

Owns `Cloud`, the only user of cloudpickle, and what cloudpickle does not take or loses. Must not know chunks, tasks or
connections. Imported when the first such object is met: cloudpickle costs 40 ms.
"""

from __future__ import annotations

import io
import sys
from _thread import _local
from collections import ChainMap
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from types import CodeType, FunctionType, MethodType, ModuleType
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

import cloudpickle

from distmap.errors import PayloadError
from distmap.tasks import rebuild
from distmap.tasks._typing import Any
from distmap.tasks.imports import imports_of_code
from distmap.tasks.kinds import ASKED, DEFINED, NAMED, SPECIAL
from distmap.tasks.modules import place
from distmap.tasks.picklers import (
    Definitions,
    Keep,
    PickleContext,
    by_value,
    definition,
    found_by_name,
    reduce_special,
    replaced,
)
from distmap.tasks.rebuild_classes import reduce_class

_REDUCERS: dict[type, Callable[[Any], Any]] = {
    ref: rebuild.reduce_ref,
    rebuild.Ref: rebuild.reduce_ref,
    WeakKeyDictionary: rebuild.reduce_weak_mapping,
    WeakValueDictionary: rebuild.reduce_weak_mapping,
    cached_property: rebuild.reduce_cached_property,
    _local: rebuild.reduce_local,
}
_TABLE = ChainMap(_REDUCERS, cloudpickle.Pickler.dispatch_table)


class Cloud(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle with what it lacks; notes what the pickle needs."""

    dispatch_table = _TABLE

    def __init__(
        self, file: io.BytesIO, keep: Keep, context: PickleContext, definitions: Definitions | None = None
    ) -> None:
        super().__init__(file, 5, keep)
        self.needs, self.kinds, self.dump_value = context
        self.definitions = definitions
        self.linked: set[int] = set()
        #: Whether an exception was met, and says which of its parts travel; without it all are to.
        self.errors = False
        self.travels: Callable[[object], bool] | None = None

    def reducer_override(self, obj: Any) -> Any:
        how = self.kinds.of(type(obj))
        if how == DEFINED:
            return self.define(obj)
        if how in SPECIAL:
            return reduce_special(self, obj, how)
        home = replaced(obj)
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
        home = replaced(obj)
        if home is not None:
            self.note(home)
            return NotImplemented
        self.note(obj.__module__)
        if not by_value(obj):
            return NotImplemented
        if isinstance(obj, FunctionType):
            package = obj.__globals__.get("__package__")
            self.needs.modules |= imports_of_code(obj.__code__, package if type(package) is str else "")
            return super().reducer_override(obj)
        if self.definitions is not None:
            return definition, (self.definitions.index(obj),)
        return reduce_class(obj, super().reducer_override(obj))

    def named(self, obj: Any) -> Any:
        """What may pickle by a name."""
        if type(obj).__name__ == "SystemRandom":
            return type(obj), ()  # it has no state, and says no more than that
        make = self.dispatch_table.get(type(obj))
        reduced = obj.__reduce_ex__(5) if make is None else make(obj)
        if type(reduced) is not str:
            return reduced
        return found_by_name(obj, reduced, self.needs) or rebuild.reduce_named(obj) or reduced

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
