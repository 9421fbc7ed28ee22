"""A short text for any object, in bounded time and memory as far as that can be had.

Owns what an item looks like in notes and messages. Builtin containers are shown by their first elements, long numbers
and texts by their beginning. A `__repr__` of the user may do anything: it is not called for an object that holds much,
and a timer stops it after a short time where a timer can (in the main thread, not on Windows). One that computes for
long in C, or makes a giant text, cannot be stopped. Imported when a text is wanted, not at the start of a task process.
"""

from __future__ import annotations

import builtins
import gc
import reprlib
import signal
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType

from distmap.tasks._typing import Any

#: Letters of a text, and of one element in it.
LENGTH, ELEMENT = 200, 160
#: Seconds for all that classes do in the `__repr__`s that one text needs.
SECONDS = 0.25
#: An object from which more objects, or bytes of text, can be reached is not asked for its own `__repr__`.
OBJECTS, BYTES = 10_000, 1 << 20
#: Bits of a number that is written out: more take a time that grows with their square.
BITS = 2_000

#: What is not looked into: it is shared by everything, and no `__repr__` shows it in full.
_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, CodeType, FrameType)


def shown(obj: object) -> str:
    """A text of at most 200 letters on one line. Raises nothing, whatever the object does."""
    try:
        text = _in_time(_Short().repr, obj)
    except _Late:
        text = f"<{type(obj).__name__} whose repr takes longer than {SECONDS} s>"
    except (Exception, SystemExit, GeneratorExit):
        text = f"<{type(obj).__name__} whose repr fails>"
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else text[: LENGTH - 3] + "..."


class _Short(reprlib.Repr):
    """Looks at the beginning of builtin types only, and asks others if they are small."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = ELEMENT
        self.maxlevel = 4

    def repr1(self, x: Any, level: int) -> str:
        # By how it is shown, not by the name of its type: a subclass without a `__repr__` is shown as its base.
        own: Any = type(x).__repr__
        for base, show in _BUILTIN.items():
            if own is base.__repr__:
                return show(self, x, level)
        return self.repr_instance(x, level)

    def repr_number(self, x: int, level: int) -> str:
        bits = int.bit_length(x)
        return f"<a number of {bits} bits>" if bits > BITS else int.__repr__(x)

    def repr_bytes(self, x: Any, level: int) -> str:
        text = repr(x[:ELEMENT])
        return text if len(x) <= ELEMENT else text + "..."

    # reprlib would sort all keys and elements.

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        return super().repr_dict(dict(islice(x.items(), self.maxdict + 1)), level)

    def repr_set(self, x: set[Any], level: int) -> str:
        return super().repr_set(set(islice(x, self.maxset + 1)), level)

    def repr_frozenset(self, x: frozenset[Any], level: int) -> str:
        return super().repr_frozenset(frozenset(islice(x, self.maxfrozenset + 1)), level)

    def repr_instance(self, x: Any, level: int) -> str:
        kind: Any = type(x)
        own: Any = kind.__repr__
        if own is not object.__repr__ and _is_large(x):
            for base, show in _BUILTIN.items():
                if issubclass(kind, base):
                    return f"{kind.__name__}({show(self, x, level)})"
            return f"<{kind.__name__}, too large to show>"
        try:
            text = builtins.repr(x)
        except (Exception, SystemExit, GeneratorExit):
            return f"<{kind.__name__} whose repr fails>"
        return text if len(text) <= ELEMENT else text[: ELEMENT - 3] + "..."


_BUILTIN: dict[Any, Callable[[_Short, Any, int], str]] = {
    str: _Short.repr_str,
    int: _Short.repr_number,
    bytes: _Short.repr_bytes,
    bytearray: _Short.repr_bytes,
    list: _Short.repr_list,
    tuple: _Short.repr_tuple,
    dict: _Short.repr_dict,
    set: _Short.repr_set,
    frozenset: _Short.repr_frozenset,
    deque: _Short.repr_deque,
}
_SIZED: tuple[Any, ...] = (str, bytes, bytearray, list, tuple, dict, set, frozenset, deque)


def _is_large(obj: object) -> bool:
    """Whether much can be reached from it. NumPy arrays and their like tell nothing, and show little of themselves."""
    todo, seen, nbytes = [obj], set(), 0
    while todo:
        x = todo.pop()
        if id(x) in seen or isinstance(x, _SHARED):
            continue
        seen.add(id(x))
        base = next((base for base in _SIZED if issubclass(type(x), base)), None)
        length: int = 0 if base is None else base.__len__(x)
        if base in (str, bytes, bytearray):
            nbytes += length
        elif length > OBJECTS:
            return True
        if len(seen) > OBJECTS or nbytes > BYTES:
            return True
        todo += gc.get_referents(x)
    return False


class _Late(BaseException):
    """The time is over; no Exception, which a `__repr__` might catch."""


def _in_time(show: Callable[[object], str], obj: object) -> str:
    """`show(obj)`; raises _Late after SECONDS where a timer can be had that nobody else uses."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return show(obj)
    before = signal.getsignal(signal.SIGALRM)
    if before is None or any(signal.getitimer(signal.ITIMER_REAL)):
        return show(obj)
    waiting = [True]

    def late(number: int, frame: object) -> None:
        if waiting:
            raise _Late

    signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        return show(obj)
    finally:
        waiting.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
