"""What a pickler does with the objects of one type.

Owns the decision, made once for each type that a Writer meets. `pickling.py` carries it out. Imported by task
processes.
"""

from __future__ import annotations

import copyreg
from types import BuiltinFunctionType, CellType, CodeType, FunctionType

from distmap.tasks.broadcast import Broadcast
from distmap.tasks.modules import loaded

#: NumPy's own that its pickles bring back as something else: as another type, or without zeros at the end.
_LOSSY = ("str_", "bytes_", "longlong", "ulonglong")


def _is_lossy(kind: type) -> bool | None:
    """Whether NumPy's own pickles of numbers of this type bring back something else; None if they are not NumPy's."""
    generic = getattr(loaded("numpy"), "generic", None)
    if generic is None or not issubclass(kind, generic) or kind.__reduce__ is not generic.__reduce__:
        return None
    return kind.__module__ != "numpy" or kind.__name__ in _LOSSY


# What a pickler does with the objects of one type: nothing; look where it is defined (functions and classes); a special
# treatment (BROADCAST to SHARED); NAMED types may pickle by a name, which is asked of each object of ASKED ones.
PLAIN, DEFINED, BROADCAST, ERROR, SIMPLE_ERROR, GENERATOR, NUMBER, MEMBER, SHARED, NAMED, ASKED = range(11)
#: Both picklers treat these in the same way.
SPECIAL = range(BROADCAST, SHARED + 1)
#: Random generators, by module and name of a class of theirs.
_GENERATORS = {
    ("random", "Random"),
    ("numpy.random._generator", "Generator"),
    ("numpy.random.mtrand", "RandomState"),
    ("numpy.random.bit_generator", "BitGenerator"),
}


def is_generator(kind: type) -> bool:
    """Whether objects of this type are random generators with a state of their own."""
    names = {(base.__module__, base.__name__) for base in kind.__mro__}
    return not names.isdisjoint(_GENERATORS) and ("random", "SystemRandom") not in names


#: A class of exceptions that defines none of these is made, and pickled, as builtin exceptions are.
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


#: The treatment of the types that every function brings along.
_usual: dict[int, int] = {}


class Kinds:
    """The treatment of each type that one Writer meets, decided once per type."""

    def __init__(self) -> None:
        #: By the `id` of the type, as a metaclass may forbid to hash it. The types are kept, so that no id is reused.
        self.found = dict(_usual)
        self._kept: list[type] = []

    def of(self, kind: type) -> int:
        found = self.found.get(id(kind))
        return self.look(kind) if found is None else found

    def look(self, kind: type) -> int:
        if issubclass(kind, (type, FunctionType)):
            how = DEFINED
        elif kind is Broadcast:
            how = BROADCAST
        elif issubclass(kind, BaseException):
            how = SIMPLE_ERROR if _is_simple(kind) else ERROR
        elif is_generator(kind):
            how = GENERATOR
        elif (lossy := _is_lossy(kind)) is not None:
            how = NUMBER if lossy else PLAIN
        elif kind.__reduce_ex__ is getattr(getattr(loaded("enum"), "Enum", None), "__reduce_ex__", None):
            how = MEMBER
        elif is_shared(kind):
            how = SHARED
        elif (
            kind in copyreg.dispatch_table
            or kind.__reduce_ex__ is not object.__reduce_ex__
            or kind.__reduce__ is not object.__reduce__
        ):
            how = NAMED  # perhaps
        else:
            how = PLAIN
        self.found[id(kind)] = how
        self._kept.append(kind)
        return how

    def gave_no_name(self, kind: type) -> None:
        """Objects of this type gave no name. If their reducers are written in C, no other one will."""
        says = (kind.__reduce_ex__, kind.__reduce__, copyreg.dispatch_table.get(kind))
        in_c = kind is not BuiltinFunctionType and not any(isinstance(method, FunctionType) for method in says)
        self.found[id(kind)] = PLAIN if in_c else ASKED


_usual.update({id(kind): Kinds().look(kind) for kind in (type, FunctionType, BuiltinFunctionType, CodeType, CellType)})
