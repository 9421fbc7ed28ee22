"""Values as digests of what they are, the same in every process.

Owns the canonical form of values: by content, whatever the order of sets, the identity of equal parts, or the process
says. Must not know functions and classes: whoever makes an `Encoder` says what stands for those. For the kernel: task
processes do not import this.
"""

from __future__ import annotations

import _pickle
import copyreg
import io
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from hashlib import sha256
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, TypeVar

from distmap.tasks.broadcast import Broadcast, given_value
from distmap.tasks.bytecode import digest_of_code
from distmap.tasks.kinds import is_generator
from distmap.tasks.modules import loaded
from distmap.tasks.picklers import UNPICKLABLE, modules_own, replaced
from distmap.tasks.rebuild import home_of, is_shell, reduce_named, remake

_ATOMS = {type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)}
#: What only holds what was computed from the rest, and differs from one call to the next.
_CACHES = {"WeakKeyDictionary", "WeakValueDictionary", "WeakSet"}
#: How deep a value may be nested; the bound of the interpreter would depend on who calls.
_DEEPEST = 150
#: Elements from which a list of nothing but numbers and texts is taken in one go.
_MANY = 8


class Encoder:
    """Gives the bytes that stand for a value; equal ones for equal content.

    Args:
        refer: gives the bytes that stand for a function, a class or a module.
        by_name: is told each module and name that stand for an object; no name: the module itself.
    """

    def __init__(self, refer: Callable[[Any], bytes], by_name: Callable[[str, str | None], object]) -> None:
        self._refer = refer
        self._by_name = by_name
        #: id -> the object (so that no id is used again), and its bytes; or how deep it is, while it is looked at.
        self._seen: dict[int, tuple[object, bytes | int]] = {}
        self._depth = 0
        #: Types of the objects of which nothing but the type counts, as they do not pickle.
        self.opaque: set[str] = set()

    def encode(self, value: Any) -> bytes:
        """The bytes that stand for a value: short, or a digest."""
        kind = type(value)
        if kind in _ATOMS:
            return _atom(value)
        if issubclass(kind, (FunctionType, type, ModuleType)):
            return self._refer(value)
        known = self._seen.get(id(value))
        if known is not None:
            told = known[1]
            return told if isinstance(told, bytes) else b"up%d" % (self._depth - told)
        if self._depth > _DEEPEST:
            raise RecursionError
        self._seen[id(value)] = value, self._depth
        self._depth += 1
        try:
            found = self._composite(kind, value)
        except RecursionError:
            if self._depth > 1:
                raise
            found = self._only_type(kind)
        finally:
            self._depth -= 1
        self._seen[id(value)] = value, found
        return found

    def forget(self) -> None:
        """Begin anew: what was met before does not matter to what comes."""
        self._seen.clear()
        self.opaque = set()

    def _composite(self, kind: type, value: Any) -> bytes:
        how = _HOW.get(kind)
        if how is not None:
            return how(self, value)
        if isinstance(value, BuiltinFunctionType):
            return self._builtin(value)
        if kind.__name__ in _CACHES and kind.__module__ in ("weakref", "_weakrefset"):
            return join("cache")
        if (home := replaced(value)) is not None:
            return self._named(home, "")
        if is_generator(kind) and modules_own(value):
            return join("the module's own", _text(kind.__module__))
        enum = loaded("enum")
        if enum is not None and isinstance(value, enum.Enum):
            return self._all("member", (kind, value._name_, value._value_))
        if kind is TypeVar:  # cloudpickle gives it a random number
            return self._all("type variable", (value.__name__, value.__bound__, value.__constraints__))
        numpy = loaded("numpy")
        if numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic)):
            return self._array(numpy, kind, value)
        torch = loaded("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(torch, value)
        return self._object(kind, value)

    # --- what has a form of its own -----------------------------------------------------------------------------------

    def _all(self, tag: str, values: Iterable[Any]) -> bytes:
        return join(tag, *map(self.encode, values))

    def _sequence(self, value: list[Any] | tuple[Any, ...]) -> bytes:
        tag = type(value).__name__
        if len(value) >= _MANY and _ATOMS.issuperset(map(type, value)):
            return join(tag, _flat(value))
        return self._all(tag, list(value))

    def _mapping(self, value: Mapping[Any, Any]) -> bytes:
        pairs = list(value.items())
        if len(pairs) >= _MANY and _ATOMS.issuperset([type(part) for pair in pairs for part in pair]):
            return join("dict", _flat([part for pair in pairs for part in pair]))
        return join("dict", *[self.encode(part) for pair in pairs for part in pair])

    def _set(self, value: Iterable[Any]) -> bytes:
        return join(type(value).__name__, *sorted(map(self.encode, value)))

    def _method(self, value: MethodType) -> bytes:
        if is_shell(value.__self__):
            return join("notebook")
        return self._all("method", (value.__func__, value.__self__))

    def _builtin(self, value: BuiltinFunctionType) -> bytes:
        owner = value.__self__
        if owner is None or isinstance(owner, ModuleType):
            return self._named(str(value.__module__), value.__qualname__)
        return self._all("method", (value.__qualname__, owner))

    def _partial(self, value: partial[Any]) -> bytes:
        return self._all("partial", (value.func, value.args, value.keywords, vars(value)))

    def _named(self, module: str, name: str) -> bytes:
        self._by_name(module, name or None)
        return join("named", _text(module, name))

    def _array(self, numpy: Any, kind: type, value: Any) -> bytes:
        """An array or a number of NumPy: its own pickles name modules that NumPy moves about."""
        dtype = value.dtype
        about = self.encode((kind.__name__, dtype.descr if dtype.names else dtype.str, value.shape))
        if dtype.hasobject:
            return join("array", about, self.encode(value.tolist()))
        flat = numpy.ascontiguousarray(value).reshape(-1)
        return join("array", about, _buffer(flat.view(numpy.uint8)) if flat.nbytes else b"")

    def _tensor(self, torch: Any, value: Any) -> bytes:
        about = (type(value), str(value.dtype), tuple(value.shape), value.requires_grad, value.device.type)
        try:
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        except UNPICKLABLE:  # a sparse one, say
            return self._only_type(type(value))
        return join("tensor", self.encode(about), _buffer(flat))

    # --- any other object: as it pickles ------------------------------------------------------------------------------

    def _object(self, kind: type, value: Any) -> bytes:
        make = _makers().get(kind)
        try:
            reduced = value.__reduce_ex__(5) if make is None else make(value)
            if isinstance(reduced, str):
                home = home_of(value, reduced)
                if home is not None and home != "__main__":
                    return self._named(home, reduced)
                reduced = reduce_named(value) or (type, (kind,))
            if reduced[0] is remake:  # with a key, which another process has another one for
                (_, make, args), (_, state) = reduced[1:3]
                reduced = make, args, state
            make, args, state, items, pairs = (*reduced, None, None, None)[:5]
            elements = None if items is None else list(items)
            flat = None if pairs is None else [part for pair in pairs for part in pair]
        except UNPICKLABLE:
            return self._only_type(kind)
        return self._all("object", [make, args, _lasting(kind, state), elements, flat])

    def _only_type(self, kind: type) -> bytes:
        self.opaque.add(kind.__name__)
        return join("opaque", _text(kind.__module__, kind.__qualname__))


def _lasting(kind: type, state: Any) -> Any:
    """The state of an object in the order of its names, without what it computes when asked."""
    if type(state) is tuple and len(state) == 2 and all(type(part) in (dict, type(None)) for part in state):
        return tuple(_lasting(kind, part) for part in state)
    if type(state) is not dict or not all(type(name) is str for name in state):
        return state
    return {name: state[name] for name in sorted(state) if not isinstance(getattr(kind, name, None), cached_property)}


def join(tag: str, *parts: bytes) -> bytes:
    """The digest of parts of a kind."""
    state = sha256(f"{tag} {len(parts)} ".encode())
    for part in parts:
        state.update(b"%d " % len(part))
        state.update(part)
    return state.digest()


def _text(*texts: str) -> bytes:
    return "\0".join(texts).encode("utf-8", "surrogatepass")


def _atom(value: object) -> bytes:
    return _pickle.dumps(value, 5)


def _flat(values: Iterable[object]) -> bytes:
    """Numbers and texts as one pickle, in which it does not matter which of them are one object."""
    file = io.BytesIO()
    pickler = _pickle.Pickler(file, 5)
    pickler.fast = True
    pickler.dump(list(values))
    return sha256(file.getbuffer()).digest()


def _buffer(value: Any) -> bytes:
    view = value if isinstance(value, memoryview) else memoryview(value)
    return sha256(view if view.c_contiguous else view.tobytes()).digest()


def _makers() -> Mapping[type, Callable[[Any], Any]]:
    """How types pickle that do not say it themselves: as they travel, with what cloudpickle knows."""
    if loaded("cloudpickle") is None:
        return copyreg.dispatch_table
    from distmap.tasks.cloud import Cloud

    return Cloud.dispatch_table


_HOW: dict[type, Callable[[Encoder, Any], bytes]] = {
    list: Encoder._sequence,
    tuple: Encoder._sequence,
    dict: Encoder._mapping,
    MappingProxyType: Encoder._mapping,
    set: Encoder._set,
    frozenset: Encoder._set,
    MethodType: Encoder._method,
    partial: Encoder._partial,
    CodeType: lambda self, code: digest_of_code(code, self.encode),
    Broadcast: lambda self, handle: self._all("broadcast", (given_value(handle),)),
    bytearray: lambda self, value: join("bytearray", _buffer(value)),
    memoryview: lambda self, value: join("memoryview", self.encode((value.format, value.shape)), _buffer(value)),
    _pickle.PickleBuffer: lambda self, value: join("buffer", _buffer(value.raw())),
    staticmethod: lambda self, value: self._all("staticmethod", (value.__func__,)),
    classmethod: lambda self, value: self._all("classmethod", (value.__func__,)),
    property: lambda self, value: self._all("property", (value.fget, value.fset, value.fdel)),
    cached_property: lambda self, value: self._all("cached_property", (value.func,)),
}
