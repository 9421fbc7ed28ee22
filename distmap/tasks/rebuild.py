"""Objects that pickle does not take, or would send as a name that means nothing elsewhere: taken apart, built again.

Owns a pair of functions for each kind: one that says what an object is made of, one that makes it again; pickles name
the second, so that to rename one changes what travels. Must not know picklers, jobs or cloudpickle. Imported when the
first such object is met.
"""

from __future__ import annotations

import copyreg
import os
import sys
from _thread import RLock, allocate_lock
from _weakref import ref
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, MemberDescriptorType

from distmap.tasks._typing import Any
from distmap.tasks.failures import BROKEN, short_repr
from distmap.tasks.modules import place

#: What a reducer gives: the maker, its arguments, a state, and who puts the state into what was made.
Reduced = tuple[Any, ...]

_MISSING = object()

# --- exceptions -------------------------------------------------------------------------------------------------------

#: So many exceptions of a chain of causes, contexts and group members are pickled side by side, each further hundred
#: one level deeper: by itself each would be a level, and a retry loop makes thousands.
_SIDE_BY_SIDE = 100
#: Of what is left behind so many characters are kept.
_TEXT = 2_000
_LINKS = ("__cause__", "__context__", "__suppress_context__")


class Left:
    """Stands in an exception for a part of it that does not travel: an open file, a lock. It looks like that part."""

    def __init__(self, part: object) -> None:
        self._shown = short_repr(part)
        try:
            self._text = str(part)[:_TEXT]
        except BROKEN:
            self._text = self._shown

    def __repr__(self) -> str:
        return self._shown

    def __str__(self) -> str:
        return self._text


def reduce_error(error: BaseException, linked: set[int], travels: Callable[[object], object] | None = None) -> Reduced:
    """Take an exception apart: its class, `args`, `__dict__`, slots and notes, and those that it is linked to.

    Its `__init__` is not called again: it may take other arguments than `args`, or make other `args` out of them.

    Args:
        error: The exception.
        linked: Exceptions of this pickle whose links somebody takes care of; those of this one are added.
        travels: Says whether a part pickles; what does not is left behind. Without it all parts are taken.
    """
    cls = type(error)
    kept = _Kept(travels)
    base = next(kind for kind in cls.__mro__ if kind.__module__ == "builtins")
    own = BaseException.args.__get__(error)  # type: ignore[attr-defined]
    if isinstance(error, BaseExceptionGroup):
        args: Any = error.message, list(error.exceptions)
        usual = len(own) == 2 and own[0] is error.message
        own = None if usual else kept.each("argument", own)
    else:
        given = _method(base, "__reduce__")(error)[1]
        args = kept.each("argument", given)
        # Some builtins keep a part of what they were given elsewhere.
        own = None if given is own else kept.each("argument", own)
    slots = {name: getattr(error, name) for name in copyreg._slotnames(cls) if hasattr(error, name)}  # type: ignore[attr-defined]
    attributes = kept.all(vars(error))
    fields = kept.all({**_fields(error), **slots})
    if kept.left:
        notes = attributes.get("__notes__")
        attributes["__notes__"] = [*(notes if isinstance(notes, list) else ()), kept.note()]
    theirs = _their_own(error, base)
    if travels is not None and not travels(theirs):
        theirs = None
    if theirs is not None:
        own = kept.each("argument", BaseException.args.__get__(error))  # type: ignore[attr-defined]
    state = own, attributes, fields, _links_of(error, linked)
    return remake_error, (cls, args, theirs), state, None, None, restore_error


class _Kept:
    """Parts of an exception; in the place of those that do not travel stands `Left`."""

    def __init__(self, travels: Callable[[object], object] | None) -> None:
        self._travels = travels
        self.left: list[str] = []

    def one(self, name: str, part: Any) -> Any:
        # An exception in the place of a part is taken apart by itself.
        if self._travels is None or isinstance(part, BaseException) or self._travels(part):
            return part
        left = Left(part)
        self.left.append(f"{name} ({left!r})")
        return left

    def each(self, name: str, parts: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(self.one(f"{name} {at}", part) for at, part in enumerate(parts))

    def all(self, parts: dict[str, Any]) -> dict[str, Any]:
        return {name: self.one(f"attribute {name!r}", part) for name, part in parts.items()}

    def note(self) -> str:
        return f"does not pickle and was left behind: {', '.join(self.left)}"


def _method(kind: type, name: str) -> Any:
    """As the class has it, whatever a subclass made of it."""
    return getattr(kind, name)


def _fields(error: BaseException) -> dict[str, Any]:
    """What builtin exceptions keep in fields of their own (`OSError.filename`, `ImportError.name`).

    Not the object that misses an attribute: it may be anything, and large.
    """
    found: dict[str, Any] = {}
    for kind in type(error).__mro__:
        if kind.__module__ == "builtins" and kind not in (BaseException, object):
            for name, field in vars(kind).items():
                if type(field) in (MemberDescriptorType, GetSetDescriptorType) and name not in ("obj", "exceptions"):
                    value = getattr(error, name, None)
                    if value is not None:
                        found[name] = value
    return found


def _links_of(error: BaseException, linked: set[int]) -> list[tuple[Any, ...]]:
    """Causes and contexts of all exceptions that this one leads to: apart from them, as there may be circles."""
    links: list[tuple[Any, ...]] = []
    queue = [error]
    count = len(linked)
    while queue and len(linked) - count < _SIDE_BY_SIDE:
        one = queue.pop(0)
        if id(one) in linked:
            continue
        linked.add(id(one))
        found = [getattr(one, name) for name in _LINKS]
        if any(found):
            links.append((one, *found))
        queue += [other for other in found[:2] if other is not None]
        if isinstance(one, BaseExceptionGroup):
            queue += one.exceptions
    return links


def _their_own(error: BaseException, base: Any) -> Any:
    """What the class says by itself about pickling, if it does."""
    cls: Any = type(error)
    if cls.__reduce__ is base.__reduce__ and cls.__reduce_ex__ is base.__reduce_ex__:
        return None
    try:
        reduced = error.__reduce_ex__(5)
    except BROKEN:
        return None
    return reduced[:3] if isinstance(reduced, tuple) else None


def remake_error(cls: type[BaseException], args: tuple[Any, ...], theirs: Any) -> BaseException:
    """An exception of that class as its class says, or else without calling its `__init__`."""
    if theirs is not None:
        try:
            call, given, *state = theirs
            made = call(*given)
            if state and state[0] is not None:
                made.__setstate__(state[0])
            if isinstance(made, cls):
                return made
        except Exception:
            pass  # it is not as its class says; made in the other way it has all that it had
    error: BaseException = builtin_new(cls)(cls, *args)
    base = next(kind for kind in cls.__mro__ if kind.__module__ == "builtins")
    try:
        _method(base, "__init__")(error, *args)  # fills what the builtin keeps in fields of its own
    except Exception:
        pass  # its `args` are not those of the builtin: its fields come with the state
    return error


def restore_error(error: BaseException, state: tuple[Any, ...]) -> None:
    args, attributes, fields, links = state
    if args is not None:
        BaseException.args.__set__(error, args)  # type: ignore[attr-defined]
    if type(error).__setstate__ is BaseException.__setstate__:
        vars(error).update(attributes)
    else:
        error.__setstate__(attributes)
    for name, value in fields.items():
        try:
            if getattr(error, name, _MISSING) is not value:
                BaseException.__setattr__(error, name, value)  # its class may forbid to set any, as frozen ones do
        except (AttributeError, TypeError):
            pass  # a field that can only be read
    for one, *found in links:
        for name, value in zip(_LINKS, found, strict=True):
            getattr(BaseException, name).__set__(one, value)


def builtin_new(cls: type) -> Callable[..., Any]:
    """The `__new__` of the class that is not written in Python."""
    for kind in cls.__mro__:
        new = vars(kind).get("__new__")
        if isinstance(new, BuiltinFunctionType) and new.__self__ is kind:
            return new
    return object.__new__


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


_identities = _Identities()
#: Set for the types that a class statement makes, among others (Include/object.h).
_HEAP_TYPE = 1 << 9


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
    take = _TAKEN.get((kind.__module__, kind.__name__), _instance if kind.__flags__ & _HEAP_TYPE else None)
    taken = None if take is None else take(obj)
    if taken is None or len(taken) == 2:
        return taken
    make, args, state = taken
    key = _identities.key(obj)
    return remake, (key, make, args), (key, state), None, None, restore


def remake(key: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return _identities.find(key, make, args)


def restore(obj: Any, state: tuple[str, Any]) -> None:
    """Give it the state that it had where it comes from; one that is at home keeps its own."""
    key, parts = state
    if _identities.is_home(key) or parts is None:
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
    """What `numpy.frompyfunc` made (and `vectorize` keeps): only the garbage collector tells of which function."""
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

# --- classes ----------------------------------------------------------------------------------------------------------


def reduce_class(cls: Any, reduced: Any) -> Any:
    """Mend what cloudpickle says of a class that travels by value.

    Of its own it would make the class a second time at each load; write over the original when it comes home; make it
    without slots, and the members of an enumeration without what their `__new__` or `__init__` gave them.
    """
    if not isinstance(reduced, tuple) or len(reduced) != 6:
        return reduced
    make, args, (attributes, _), _, _, setter = reduced
    attributes = dict(attributes)
    members: dict[str, Any] = {}
    if len(args) == 7:
        bases, name, qualname, _, module, _, _ = args
        # With aliases, and flags of several bits.
        values = {name: _member_value(member._value_) for name, member in cls.__members__.items()}
        for member in values:
            attributes.pop(member, None)
        for member, made in cls.__members__.items():
            members[member] = {key: value for key, value in vars(made).items() if key not in _MEMBER}
        args = bases, name, qualname, values, module, None, None
    else:
        kind, name, bases, space, _, _ = args
        make, space = make_class, {**space, "__qualname__": cls.__qualname__}
        if "__class__" in attributes:
            space["__class__"] = attributes.pop("__class__")  # that of a proxy; a class that is there refuses it
        args = kind, name, bases, space
        if hasattr(cls, "__struct_config__"):
            make, args = make_struct, (*args, *_struct(cls))
            attributes = {name: value for name, value in attributes.items() if name not in (*args[4], *_OF_STRUCTS)}
        # `NamedTuple` makes them by itself; it is a function.
        elif "__slots__" in vars(cls) and not any(isinstance(base, FunctionType) for base in bases):
            space["__slots__"] = slots = _slots_of(cls)
            for slot in slots:
                attributes.pop(slot, None)
    key = _identities.key(cls)
    more = members, _registered_with(cls), copyreg.dispatch_table.get(cls)
    return remake, (key, make, args), (key, setter, attributes, more), None, None, restore_class


#: Which classes are registered with which abstract ones (by `id`), and as of when.
_registrations: tuple[object, dict[int, list[Any]]] = None, {}


def _registered_with(cls: type) -> list[Any]:
    """The abstract classes that exist on the other side too, where nobody has registered this one with them."""
    global _registrations
    import abc

    token, found = _registrations
    if token != abc.get_cache_token():
        token, found = abc.get_cache_token(), {}
        for name, module in list(sys.modules.items()):
            if name in ("collections.abc", "numbers") or (name != "__main__" and place(name) == "local"):
                for base in list(vars(module).values()):
                    if isinstance(base, abc.ABCMeta) and base.__module__ != "__main__":
                        for known in abc._get_dump(base)[0]:  # type: ignore[attr-defined]
                            found.setdefault(id(known()), []).append((known, base))
        _registrations = token, found
    return [base for known, base in found.get(id(cls), []) if known() is cls]


#: What every member of an enumeration has.
_MEMBER = ("_name_", "_value_", "_sort_order_", "__objclass__")


def _member_value(value: Any) -> Any:
    """As a class statement must be given it: a function or a class in there would be a method, not a member."""
    from enum import member

    return member(value) if isinstance(value, type) or hasattr(value, "__get__") else value


#: What msgspec sets by itself.
_OF_STRUCTS = ("__annotations__", "__match_args__", "__slots__")


def _struct(cls: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a class of msgspec is made with, as its fields are laid out then: fields, defaults and keywords."""
    import inspect

    msgspec: Any = sys.modules["msgspec"]
    fields = cls.__struct_fields__
    own = vars(cls).get("__annotations__", {})
    defaults = dict(zip(reversed(fields), reversed(cls.__struct_defaults__), strict=False))
    defaults = {name: value for name, value in defaults.items() if name in own and value is not msgspec.NODEFAULT}
    factories = {name: value.factory for name, value in defaults.items() if hasattr(value, "factory")}
    config, parameters = cls.__struct_config__, inspect.signature(cls).parameters
    keywords = {name: getattr(config, name) for name in dir(config) if not name.startswith("_")}
    keywords["kw_only"] = any(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in own)
    keywords["rename"] = dict(zip(fields, cls.__struct_encode_fields__, strict=True))
    plain = {name: value for name, value in defaults.items() if name not in factories}
    return own, {"plain": plain, "factories": factories}, keywords


def make_struct(
    kind: Any, name: str, bases: Any, space: Any, own: Any, defaults: dict[str, Any], keywords: dict[str, Any]
) -> Any:
    import types
    from importlib import import_module

    msgspec: Any = import_module("msgspec")
    made = {name: msgspec.field(default_factory=factory) for name, factory in defaults["factories"].items()}
    body = {**space, "__annotations__": own, **defaults["plain"], **made}
    return types.new_class(name, bases, {"metaclass": kind, **keywords}, lambda final: final.update(body))


def _slots_of(cls: type) -> tuple[str, ...]:
    """The slots as they must be given to make such a class: mangled names, and none twice."""
    kinds = {name: type(part) for name, part in vars(cls).items()}
    own = [name for name, kind in kinds.items() if kind is MemberDescriptorType]
    return (*own, *(name for name in ("__dict__", "__weakref__") if kinds.get(name) is GetSetDescriptorType))


def make_class(kind: Any, name: str, bases: tuple[Any, ...], space: dict[str, Any]) -> Any:
    """An empty class. The keywords of the class statement are known no more: whoever asks for them is not asked."""
    import types

    try:
        return types.new_class(name, bases, {"metaclass": kind}, lambda body: body.update(space))
    except Exception as exc:
        error = exc
    resolved = types.resolve_bases(bases)
    if resolved is not bases:
        space = {**space, "__orig_bases__": bases}
    with _Hushed(resolved):
        for level in kind.__mro__:
            try:
                if "__new__" in vars(level):
                    return level.__new__(kind, name, resolved, dict(space))
            except Exception:
                continue  # it wants a keyword as well
    raise error


class _Hushed:
    """While it is entered, these bases do not look at the class that is made of them."""

    _lock = allocate_lock()

    def __init__(self, bases: tuple[type, ...]) -> None:
        owners = {kind: None for base in bases for kind in base.__mro__ if "__init_subclass__" in vars(kind)}
        self._found = {kind: vars(kind)["__init_subclass__"] for kind in owners if kind.__flags__ & _HEAP_TYPE}

    def __enter__(self) -> None:
        self._lock.acquire()
        for kind in self._found:
            type.__setattr__(kind, "__init_subclass__", classmethod(lambda cls, **_: None))

    def __exit__(self, *_: object) -> None:
        for kind, found in self._found.items():
            type.__setattr__(kind, "__init_subclass__", found)
        self._lock.release()


def restore_class(cls: Any, state: tuple[Any, ...]) -> None:
    """Fill a class that was made here; the original has everything, and perhaps newer than what comes home."""
    key, setter, attributes, (members, bases, reducer) = state
    if _identities.is_home(key):
        return
    setter(cls, (attributes, {}))
    for name, parts in members.items():
        vars(cls.__members__[name]).update(parts)
    for base in bases:
        base.register(cls)
    if reducer is not None:
        copyreg.pickle(cls, reducer)


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
    """Nobody keeps it."""


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
    """In another thread it is empty, and whoever gets it runs in another thread."""
    return type(obj), ()


# --- IPython ----------------------------------------------------------------------------------------------------------

#: Said wherever a function asks for the shell on a worker.
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
