"""Paths from a value to a part of it, in words: to what does not pickle, what is large, what is a random generator.

Owns what the parts of an object are called. Must not know jobs or workers. Imported when something is wrong, and when a
random generator was pickled.
"""

from __future__ import annotations

import copyreg
import io
from collections.abc import Iterator, Sequence
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType

from distmap.errors import PayloadError
from distmap.tasks._typing import Any, NamedTuple
from distmap.tasks.broadcast import Broadcast, Dependencies, given_value
from distmap.tasks.failures import BROKEN, failed_to_travel, promise_in, short_repr
from distmap.tasks.kinds import Kinds, is_generator
from distmap.tasks.modules import place
from distmap.tasks.picklers import UNPICKLABLE, PickleContext, by_reference
from distmap.tasks.pickling import dump_value

#: Bounds of the search for random generators: steps from the function, objects in all, elements of each object.
_DEPTH, _OBJECTS, _ELEMENTS = 6, 2_000, 100


class Part(NamedTuple):
    """What is pickled along with an object."""

    #: With a place for the key.
    words: str
    key: object
    value: object

    def __str__(self) -> str:
        return self.words.format(self.key if isinstance(self.key, str) and "'" in self.words else short_repr(self.key))


def names_of(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= names_of(constant)
    return names


def cells_of(fn: FunctionType) -> Iterator[tuple[str, CellType, object]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield name, cell, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def parts_of(obj: object) -> Iterator[Part]:
    """What is pickled along with an object, as far as it has names."""
    if isinstance(obj, FunctionType):
        if not by_reference(obj):
            yield from _parts_of_function(obj)
    elif isinstance(obj, MethodType | BuiltinFunctionType):
        yield Part("the object it is bound to", None, obj.__self__)
        if isinstance(obj, MethodType):
            yield Part("the method", None, obj.__func__)
    elif isinstance(obj, Broadcast):
        yield Part("its value", None, given_value(obj))
    elif isinstance(obj, dict):
        for key, value in list(obj.items()):
            yield Part("the value of key {}", key, value)
    elif isinstance(obj, (list, tuple, set, frozenset)):
        for at, value in enumerate(list(obj)):
            yield Part("element {}", at, value)
    elif type(obj).__name__ == "partial" and hasattr(obj, "func"):
        yield Part("its function", None, obj.func)
        for at, value in enumerate(obj.args):  # type: ignore[attr-defined]
            yield Part("its argument {}", at, value)
        for key, value in obj.keywords.items():  # type: ignore[attr-defined]
            yield Part("its argument '{}'", key, value)
    elif not isinstance(obj, ModuleType):
        yield from _parts_of_instance(obj)


def _parts_of_function(fn: FunctionType) -> Iterator[Part]:
    for name in sorted(names_of(fn.__code__)):
        if name in fn.__globals__:
            yield Part("its global variable '{}'", name, fn.__globals__[name])
    for name, _, value in cells_of(fn):
        yield Part("its captured variable '{}'", name, value)
    code, defaults = fn.__code__, fn.__defaults__ or ()
    named = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for name, value in (*zip(named, defaults, strict=True), *(fn.__kwdefaults__ or {}).items()):
        yield Part("its default argument '{}'", name, value)
    for name, value in list(vars(fn).items()):
        yield Part("its attribute '{}'", name, value)


def _parts_of_instance(obj: object) -> Iterator[Part]:
    kept = getattr(obj, "__dict__", {})
    for name, value in list(kept.items()):
        yield Part("its attribute '{}'", name, value)
    for name in copyreg._slotnames(type(obj)):  # type: ignore[attr-defined]
        try:
            yield Part("its attribute '{}'", name, getattr(obj, name))
        except AttributeError:
            continue
    if isinstance(obj, BaseException):
        for at, value in enumerate(obj.args):
            yield Part("its argument {}", at, value)
    if not isinstance(obj, type) and not by_reference(type(obj)):
        yield Part("its class", None, type(obj))


def pickling_error(what: str, value: object, exc: BaseException, names: Sequence[str] = ()) -> PayloadError:
    """The error of a value that does not pickle: with the path to the object at fault, as far as that can be found.

    Args:
        what: Begins the message.
        value: It.
        exc: What pickling it raised.
        names: What its elements are called, if it is a tuple that the user knows nothing of.
    """
    try:
        way, cause = path_to_failure(value)
        promise = next((at for at, obj in enumerate(way) if promise_in(obj, 0)), None)
        if promise is not None:
            del way[promise + 1 :]
        words = _in_words(way, names)
    except BROKEN:
        words = ""  # of no use for this, whatever is wrong with it: the error itself says what it can
    if not words:
        return failed_to_travel(what, exc, value)
    if promise is not None:
        return failed_to_travel(f"{what}: {words}", cause, way[-1])
    return failed_to_travel(f"{what}: {words} ({short_repr(way[-1])}) does not pickle", cause)


def _in_words(way: list[object], names: Sequence[str] = ()) -> str:
    """The names of the steps of a way. Between two of them may be what only the pickler sees."""
    words: list[str] = []
    at, named = 0, True
    while at < len(way) - 1:
        if not named and type(way[at]) in (tuple, list, dict):
            at += 1  # made for the pickler
            continue
        later = {id(obj): index for index, obj in enumerate(way) if index > at}
        part = next((part for part in parts_of(way[at]) if id(part.value) in later), None)
        named = part is not None
        if part is None:
            at += 1
            continue
        words.append(names[part.key] if names and not at and isinstance(part.key, int) else str(part))
        at = later[id(part.value)]
    return ", ".join(filter(None, words))


def path_to_generator(fn: object) -> tuple[str, object] | None:
    """A random generator that a function, or an object of the user's, brings along, and the words that lead to it.

    Objects of installed packages are not searched: a fitted estimator, say, keeps generators that it does not use.
    """
    seen: set[int] = set()
    queue: list[tuple[object, tuple[str, ...]]] = [(fn, ())]
    while queue and len(seen) < _OBJECTS:
        obj, words = queue.pop(0)
        if is_generator(type(obj)):
            return ", ".join(words), obj
        if id(obj) in seen or len(words) >= _DEPTH or _is_elsewhere(obj):
            continue
        seen.add(id(obj))
        for count, part in enumerate(parts_of(obj)):
            if count >= _ELEMENTS:
                break
            queue.append((part.value, (*words, str(part))))
    return None


def _is_elsewhere(obj: object) -> bool:
    if isinstance(obj, (FunctionType, MethodType, BuiltinFunctionType, Broadcast, dict, list, tuple, set, frozenset)):
        return False
    kind = obj if isinstance(obj, type) else type(obj)
    return kind.__name__ != "partial" and place(kind.__module__) == "reference"


# --- the search for what does not pickle ------------------------------------------------------------------------------

#: Objects after which the search for what does not pickle gives up: it runs in Python.
_MOST_LOOKED = 500_000


def path_to_failure(value: object) -> tuple[list[object], BaseException]:
    """The objects from the value to the innermost one that does not pickle, and what that raised."""
    import pickle

    from distmap.tasks.cloud import Cloud

    way: list[object] = []
    looked = 0
    context = PickleContext(Dependencies(), Kinds(), dump_value)
    cloud: Any = Cloud(io.BytesIO(), lambda _: False, context)

    slow: Any = pickle._Pickler

    class Tracer(slow):  # type: ignore[misc]
        """The pickler that is written in Python, which says where it is."""

        dispatch_table = cloud.dispatch_table
        reducer_override = cloud.reducer_override

        def save(self, obj: object, *args: Any) -> None:
            nonlocal looked
            looked += 1
            if looked > _MOST_LOOKED:
                raise _Lost
            way.append(obj)
            if type(obj) is Broadcast:
                self.save(given_value(obj))
            super().save(obj, *args)
            way.pop()

    try:
        Tracer(_Nowhere(), 5, buffer_callback=lambda _: False).dump(value)
    except UNPICKLABLE as exc:
        if not isinstance(exc, _Lost | RecursionError):
            return way, exc
    raise _Lost


class _Lost(Exception):
    """What does not pickle was not found."""


class _Nowhere:
    """A file that drops what is written."""

    def write(self, data: object) -> None: ...
