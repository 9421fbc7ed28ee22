"""A short text for an item that ended its process, without running anything of it in this process.

Owns what may be unpickled for that: what is made by Python and NumPy alone, and objects of classes that leave their
making to Python. What ended a task process as it was unpickled there must not do the same here.
"""

from __future__ import annotations

import _pickle
from typing import Any

from distmap.tasks.items import Items
from distmap.tasks.modules import loaded, lookup
from distmap.tasks.payload import Payload
from distmap.tasks.picklers import definition
from distmap.tasks.reprs import shown

_PATHS = {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"}
#: What makes plain values: of these modules everything that has no effect but its value.
_HARMLESS = {
    "builtins": {"bytearray", "complex", "frozenset", "object", "range", "set", "slice"},
    "collections": {"OrderedDict", "deque", "defaultdict", "Counter"},
    "copyreg": {"_reconstructor", "__newobj__"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # 3.13
    "uuid": {"UUID"},
}
_NUMPY = {"_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer"}


class _Refused(Exception):
    """Something that may have an effect would be called; its argument says what."""


class _Harmless(_pickle.Unpickler):
    """Unpickles what has no effect; raises _Refused before it calls anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands there, if it is loaded and harmless."""
        if (module, name) == (definition.__module__, definition.__name__):
            return _defined
        found = lookup(loaded(module), name)  # nothing is imported for it
        if name in _HARMLESS.get(module, ()) or (module.partition(".")[0] == "numpy" and name in _NUMPY):
            return found
        return _checked(found, f"{module}.{name}")


def _defined(index: int) -> Any:
    """A class that travels once for a chunk."""
    found: Any = definition(index)
    return _checked(found, found.__qualname__)


def _checked(found: Any, name: str) -> Any:
    if isinstance(found, type) and _made_by_python(found):
        return found
    raise _Refused(name)


def _made_by_python(kind: type) -> bool:
    """Whether an object of the class comes back without a line of it being run: by setting its attributes."""
    if type(kind) is not type:
        return False
    if kind.__mro__ == (kind, tuple, object):
        return hasattr(kind, "_fields")  # a named tuple
    own = {name for base in kind.__mro__ if base is not object for name in vars(base)}
    return own.isdisjoint(_MAKERS)


_MAKERS = (
    "__new__ __reduce__ __reduce_ex__ __setstate__ __getnewargs__ __getnewargs_ex__ __setattr__ __getattribute__"
).split()


def name_of_item(payload: Payload, at: int) -> str:
    """Short repr of an item of a chunk; if it should not be unpickled in this process, what makes it and its size."""
    items = Items(payload.parts)
    if items.whole is not None:  # plain values or an array: nothing else travels so
        return shown(items.whole[at])
    try:
        return shown(items.load(at, _Harmless))
    except Exception as error:
        maker = str(error) if isinstance(error, _Refused) else ""
        made = f" made by {maker}" if maker and not maker.startswith(("distmap.", "cloudpickle.")) else ""
        return f"pickle of {len(items.pickled(at))} bytes{made}"
