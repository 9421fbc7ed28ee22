"""Classes that travel by value, mended where cloudpickle loses something.

Owns what such a class is made with on the other side: slots, enumeration members, msgspec structs, abstract
registrations. A class that comes home is the original. Must not know picklers or jobs. Imported with cloudpickle.
"""

from __future__ import annotations

import copyreg
import sys
from _thread import allocate_lock
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType

from distmap.tasks._typing import Any
from distmap.tasks.modules import place
from distmap.tasks.rebuild import HEAP_TYPE, identities, remake


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
    key = identities.key(cls)
    more = members, _registered_with(cls), copyreg.dispatch_table.get(cls)
    return remake, (key, make, args), (key, setter, attributes, more), None, None, restore_class


#: Which classes are registered with which abstract ones (by `id`), and as of when.
_registrations: tuple[object, dict[int, list[Any]]] = None, {}


def _registered_with(cls: type) -> list[Any]:
    """The abstract classes that exist on the other side too, where this class is not registered with them."""
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
    """An empty class. The keywords of its class statement are unknown: hooks that require one are passed over."""
    import types

    try:
        return types.new_class(name, bases, {"metaclass": kind}, lambda body: body.update(space))
    except Exception as exc:
        error = exc
    resolved = types.resolve_bases(bases)
    if resolved is not bases:
        space = {**space, "__orig_bases__": bases}
    with _WithoutSubclassHooks(resolved):
        for level in kind.__mro__:
            try:
                if "__new__" in vars(level):
                    return level.__new__(kind, name, resolved, dict(space))
            except Exception:
                continue  # it wants a keyword as well
    raise error


class _WithoutSubclassHooks:
    """While it is entered, these bases do not look at the class that is made of them."""

    _lock = allocate_lock()

    def __init__(self, bases: tuple[type, ...]) -> None:
        owners = {kind: None for base in bases for kind in base.__mro__ if "__init_subclass__" in vars(kind)}
        self._found = {kind: vars(kind)["__init_subclass__"] for kind in owners if kind.__flags__ & HEAP_TYPE}

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
    if identities.is_home(key):
        return
    setter(cls, (attributes, {}))
    for name, parts in members.items():
        vars(cls.__members__[name]).update(parts)
    for base in bases:
        base.register(cls)
    if reducer is not None:
        copyreg.pickle(cls, reducer)
