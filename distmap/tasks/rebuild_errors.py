"""Exceptions taken apart for a pickle, and built again without calling their `__init__`.

Owns what of an exception travels: class, `args`, attributes, fields of builtins, notes, and the exceptions that it is
linked to. Must not know picklers or jobs. Imported when the first exception with links or fields of its own is met.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType

from distmap.tasks._typing import Any
from distmap.tasks.failures import BROKEN, short_repr

#: What a reducer gives: the maker, its arguments, a state, and who puts the state into what was made.
Reduced = tuple[Any, ...]

_MISSING = object()

#: Exceptions of a chain of causes, contexts and group members that are pickled side by side, each further hundred
#: one level deeper: by itself each would be a level, and a retry loop makes thousands.
_SIDE_BY_SIDE = 100
#: Characters that are kept of the text of a part that is left behind.
_TEXT = 2_000
_LINKS = ("__cause__", "__context__", "__suppress_context__")


class Placeholder:
    """Stands in an exception for a part that does not travel (an open file, a lock), and shows as that part does."""

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
    kept = _KeptParts(travels)
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


class _KeptParts:
    """Parts of an exception; in the place of those that do not travel stands `Placeholder`."""

    def __init__(self, travels: Callable[[object], object] | None) -> None:
        self._travels = travels
        self.left: list[str] = []

    def one(self, name: str, part: Any) -> Any:
        # An exception in the place of a part is taken apart by itself.
        if self._travels is None or isinstance(part, BaseException) or self._travels(part):
            return part
        left = Placeholder(part)
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
