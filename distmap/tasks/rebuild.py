"""Objects that pickle does not take, or would send as a name that means nothing elsewhere: taken apart, built again.

Owns a pair of functions for each kind: one that says what an object is made of, one that makes it again; pickles
contain the name of the second, so a new name is a change of what travels. Exceptions and classes have files of their
own. Must not know picklers, jobs or cloudpickle. Imported when the first such object is met.
"""

from __future__ import annotations

import copyreg
import os
import sys
from _thread import RLock, allocate_lock
from _weakref import ref
from collections.abc import Callable

from distmap.tasks._typing import Any
from distmap.tasks.modules import place
from distmap.tasks.rebuild_errors import Reduced, builtin_new

_MISSING = object()


# --- what pickles by a name -------------------------------------------------------------------------------------------


class _Identities:
    """Objects that are one object, here and wherever they went (classes, sentinels): by keys that travel with them."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._start = os.urandom(8).hex()
        self._count = 0
        #: What gives the object, and whether it comes from here.
        self._objects: dict[str, tuple[Callable[[], Any], bool]] = {}
        self._keys: dict[int, str] = {}

    def key(self, obj: object) -> str:
        with self._lock:
            if id(obj) not in self._keys:
                self._count += 1
                self._keep(f"{self._start}-{self._count}", obj, home=True)
            return self._keys[id(obj)]

    def find(self, key: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """The object of that key; made if it is not here."""
        obj = self._objects.get(key, (_nothing, False))[0]()
        if obj is None:
            made = make(*args)  # without the lock: it may import modules, and run what the user wrote
            with self._lock:
                obj = self._objects.get(key, (_nothing, False))[0]()
                if obj is None:
                    obj = made
                    self._keep(key, obj, home=False)
        return obj

    def is_home(self, key: str) -> bool:
        return self._objects.get(key, (_nothing, False))[1]

    def _keep(self, key: str, obj: Any, *, home: bool) -> None:
        number = id(obj)

        def forget(watched: object) -> None:
            if self._objects.get(key, (None, False))[0] is watched:
                del self._objects[key]
            self._keys.pop(number, None)

        try:
            get: Callable[[], Any] = ref(obj, forget)
        except TypeError:
            get = lambda: obj  # noqa: E731 - it cannot be watched, so it is kept
        self._objects[key], self._keys[number] = (get, home), key


def _nothing() -> None:
    """What is not here."""


identities = _Identities()
#: Set for the types that a class statement makes, among others (Include/object.h).
HEAP_TYPE = 1 << 9


def home_of(obj: object, name: str) -> str | None:
    """The module in which an object is found under the name that it gives; one that the other side has goes first."""
    said = getattr(obj, "__module__", None)
    if type(said) is str and find(said, name, _MISSING) is obj:
        return said
    local = None
    for module in list(sys.modules):
        if name.partition(".")[0] in getattr(sys.modules.get(module), "__dict__", ()) and module != "__main__":
            if find(module, name, _MISSING) is obj:
                if place(module) == "reference":
                    return module
                local = local or module
    return local


def find(module: str, name: str, *default: Any) -> Any:
    """What has that name in a module; with a default only if it is imported."""
    if not default:
        __import__(module)
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, *default)
    return found


def reduce_named(obj: Any) -> Reduced | None:
    """Take apart what pickles by a name that does not lead to it elsewhere; None if it is of no kind that can be."""
    kind = type(obj)
    take = _TAKEN.get((kind.__module__, kind.__name__), _instance if kind.__flags__ & HEAP_TYPE else None)
    taken = None if take is None else take(obj)
    if taken is None or len(taken) == 2:
        return taken
    make, args, state = taken
    key = identities.key(obj)
    return remake, (key, make, args), (key, state), None, None, restore


def remake(key: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return identities.find(key, make, args)


def restore(obj: Any, state: tuple[str, Any]) -> None:
    """Give it the state that it had where it comes from; one that is at home keeps its own."""
    key, parts = state
    if identities.is_home(key) or parts is None:
        return
    if hasattr(type(obj), "__setstate__"):
        obj.__setstate__(parts)
        return
    attributes, slots = parts if isinstance(parts, tuple) else (parts, None)
    if type(obj).__name__ == "TypeAliasType":
        _unvalued.pop(id(obj), {})[_VALUE] = slots["value"]  # it is given once, and holds from then on
        return
    if attributes:
        vars(obj).clear()
        vars(obj).update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


def _instance(obj: Any) -> Reduced:
    """An instance of a class that was written in Python, without asking what it says of pickling."""
    kind = type(obj)
    if "enum" in sys.modules and isinstance(obj, sys.modules["enum"].Enum):
        return kind, (obj._value_,)
    base: Any = builtin_new(kind).__self__  # type: ignore[attr-defined]
    made_of = None if base is object else base(obj)
    return copyreg._reconstructor, (kind, base, made_of), obj.__getstate__()  # type: ignore[attr-defined]


def _type_parameter(obj: Any) -> Reduced:
    said = {
        word: getattr(obj, f"__{word}__", None) for word in ("bound", "covariant", "contravariant", "infer_variance")
    }
    given = {word: value for word, value in said.items() if value}
    if getattr(obj, "has_default", bool)():  # 3.13
        given["default"] = obj.__default__
    return make_type_parameter, (type(obj), obj.__name__, given, obj.__module__), None


def make_type_parameter(kind: Any, name: str, given: dict[str, Any], module: str) -> Any:
    made = kind(name, **given)
    made.__module__ = module
    return made


def _alias(obj: Any) -> Reduced:
    try:
        value = obj.__value__
    except NameError:  # it speaks of something that is not defined, nor is it there
        value = "undefined"
    if obj.__type_params__ or not obj.__name__.isidentifier():
        return make_generic_alias, (obj.__name__, obj.__module__, value, obj.__type_params__), None
    return make_alias, (obj.__name__, obj.__module__), (None, {"value": value})


def make_alias(name: str, module: str) -> Any:
    """An alias whose value comes later, as it may lead to the alias itself."""
    space: dict[str, Any] = {"__name__": module}
    exec(f"type {name} = {_VALUE}", space)
    _unvalued[id(space[name])] = space
    return space[name]


#: Where aliases that were just made look for their value.
_unvalued: dict[int, dict[str, Any]] = {}
_VALUE = "_value_of_the_alias"


def make_generic_alias(name: str, module: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    # It takes the name of its module from the code that calls it.
    space = {"__name__": module, "args": (name, value), "parameters": parameters}
    exec("import typing\nmade = typing.TypeAliasType(*args, type_params=parameters)", space)
    return space["made"]


def _ufunc(obj: Any) -> Reduced | None:
    """What `numpy.frompyfunc` made (and `vectorize` keeps): only the garbage collector knows its function."""
    import gc

    fn = next((part for part in gc.get_referents(obj) if callable(part)), None)
    return None if fn is None else (make_ufunc, (fn, obj.nin, obj.nout, obj.identity))


def make_ufunc(fn: Callable[..., Any], nin: int, nout: int, identity: object) -> Any:
    from numpy import frompyfunc

    return frompyfunc(fn, nin, nout) if identity is None else frompyfunc(fn, nin, nout, identity=identity)


def _cached(obj: Any) -> Reduced:
    return cache_again, (obj.__wrapped__, obj.cache_parameters())


def cache_again(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    from functools import lru_cache

    return lru_cache(**parameters)(fn)


#: By module and name of their type: some are not imported, or are of a newer Python.
_TAKEN: dict[tuple[str, str], Callable[[Any], Reduced | None]] = {
    ("functools", "_lru_cache_wrapper"): _cached,
    ("numpy", "ufunc"): _ufunc,
    ("typing", "ParamSpec"): _type_parameter,
    ("typing", "TypeAliasType"): _alias,
    ("typing", "TypeVarTuple"): _type_parameter,
}


# --- what no pickler takes --------------------------------------------------------------------------------------------


class Ref(ref):  # type: ignore[type-arg]
    """A weak reference that has travelled. It keeps its object: where it was, somebody else did."""

    __slots__ = ("_held",)


def reduce_ref(obj: Any) -> Reduced:
    return make_ref, (obj(),)


def make_ref(obj: Any) -> Any:
    if obj is None:
        return ref(_Gone())
    made: Any = Ref(obj)
    made._held = obj
    return made


class _Gone:
    """An object without other references, for a weak reference that is dead."""


def reduce_weak_mapping(obj: Any) -> Reduced:
    return type(obj), (), None, None, iter(list(obj.items()))


def reduce_cached_property(obj: Any) -> Reduced:
    state = {name: value for name, value in vars(obj).items() if name != "lock"}
    return object.__new__, (type(obj),), state, None, None, restore_cached_property


def restore_cached_property(obj: Any, state: dict[str, Any]) -> None:
    vars(obj).update(state)
    if sys.version_info < (3, 12):
        obj.lock = RLock()


def reduce_local(obj: Any) -> Reduced:
    """A `threading.local` is empty in another thread, and it always arrives in another thread."""
    return type(obj), ()


# --- NumPy ------------------------------------------------------------------------------------------------------------


def reduce_number(number: Any) -> Any:
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
    return make_number, (base, kind, value, getattr(number, "__dict__", None))


def make_number(base: Any, kind: type, value: object, attributes: dict[str, Any] | None) -> Any:
    number = base.__new__(kind, value)
    if attributes:
        number.__dict__.update(attributes)
    return number


# --- IPython ----------------------------------------------------------------------------------------------------------

#: The error of a function that asks for the IPython shell on a worker.
NO_SHELL = (
    "there is no IPython where the function runs: `!command` and `%magic` do not work in a function that a pool runs; "
    "use subprocess.run() for a command, and plain Python in place of a magic"
)


def is_shell(obj: object) -> bool:
    shells = getattr(sys.modules.get("IPython.core.interactiveshell"), "InteractiveShell", None)
    return shells is not None and isinstance(obj, shells)


def get_ipython() -> None:
    """Stands for the notebook's `get_ipython`. A NameError, as outside of IPython: some functions ask in this way."""
    raise NameError(NO_SHELL, name="get_ipython")
