"""`distmap.per_process`: what a process computes once and keeps, such as a model that takes a minute to load.

Owns the decorator, the values that this process keeps, and when it lets go of them. Must not know jobs or slots. A task
process imports this with the first function that uses it, and the rest (`fingerprint.py`) with the first call.

What is kept is known by what its function does and by its arguments, not by the function object: that is another one
for each call of a pool, and in a cell that ran again unchanged.
"""

from __future__ import annotations

import gc
import os
from _thread import RLock
from collections.abc import Callable
from functools import update_wrapper
from types import FunctionType

from distmap.core.limits import LIMITS
from distmap.tasks._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import ParamSpec, TypeVar
    from weakref import WeakKeyDictionary

    P = ParamSpec("P")
    R = TypeVar("R")

#: Arguments that stand for themselves.
_ATOMS = {type(None), bool, int, float, str, bytes}
#: `code.co_flags` of functions whose call returns what runs later, and only once.
_RUNS_LATER = 0x20 | 0x80 | 0x200


def per_process(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute its value once in each process, for example load a model; later calls give that object.

    Use it as a decorator, in a cell or a module, and call the function inside the functions that a pool runs. Each task
    process calls it when an item needs it first, and keeps what it returned for later items and calls of the pool.
    In the notebook, and with `Pool("inline")`, the same holds for the process of the notebook.

    A value is kept for the function and its arguments. If the function has changed (its cell was edited, or what it
    captures is another value), the old value is let go and a new one is computed. A process keeps at most 32 values;
    the one that was not used for the longest time goes first. An error is not kept: the next call tries again.
    Threads that call at the same time wait for one computation.

    Args:
        function: what computes the value. Its arguments are compared by their content; `model("a")` and
            `model(name="a")` are two calls with a value each.

    Returns:
        The function that gives the kept value.

    Raises:
        TypeError: `function` cannot be called, or is a generator function or an async function; or, when the returned
            function is called, an argument has no content that can be compared, as an open file.

    Examples:
        >>> import distmap
        >>> @distmap.per_process
        ... def model(name):
        ...     return {"name": name}  # in earnest: read the weights, move them to the GPU
        >>> def score(x):
        ...     return len(model("tiny")["name"]) * x
        >>> with distmap.Pool(2) as pool:
        ...     pool.map(score, [1, 2, 3])
        [4, 8, 12]
    """
    if not callable(function):
        raise TypeError(f"per_process takes the function that computes the value; got {function!r}")
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & _RUNS_LATER:
        raise TypeError(
            f"per_process cannot keep what {function.__qualname__} returns: a generator or coroutine can be used only "
            "once; give it a function that returns the finished value"
        )
    keep = kept_value

    # A function and not an object with __call__: so it travels, and its changes are seen, as those of any function.
    # It refers to no global, as a function of a notebook is rebuilt among those of the notebook.
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        value: R = keep(function, args, kwargs)
        return value

    return update_wrapper(call, function)


class _Entry:
    """One value, or the place where it will be."""

    __slots__ = ("done", "lock", "name", "value")

    def __init__(self, name: str) -> None:
        #: Held by the thread that computes; the same thread may come again, as in any recursion.
        self.lock = RLock()
        #: Of its function, if there is only one such name; else empty.
        self.name = name
        self.done = False
        self.value: Any = None


class Values:
    """The values that this process keeps."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: Whatever runs while a thread holds it (a signal, the garbage collector) may call us again.
        self._lock = RLock()
        #: By digest of the function and the arguments; the last used one is the last.
        self._entries: dict[tuple[bytes, Any], _Entry] = {}
        #: Number of values that were computed.
        self.computed = 0

    def get(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value for these arguments, computed if it is not there."""
        digest = _digest_of(function)
        key = digest, _key_of(function, args, kwargs)
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                entry = _Entry(_only_name(function))
            self._entries[key] = entry
            old = [] if entry.done else self._take_out_old(digest, entry.name)
            unused = self._take_out_unused()
        # Before the new one is computed: the memory of a GPU has no room for both. Not under the lock: code of the user
        # may run as they go.
        if old:
            old.clear()
            gc.collect()  # most models refer to themselves on some way
        unused.clear()
        if not entry.done:
            with entry.lock:
                if not entry.done:
                    entry.value = function(*args, **kwargs)
                    entry.done = True
                    self.computed += 1
        return entry.value

    def _take_out_old(self, digest: bytes, name: str) -> list[_Entry]:
        """Take out what an earlier form of the function computed."""
        old = [key for key, entry in self._entries.items() if name and entry.name == name and key[0] != digest]
        return [self._entries.pop(key) for key in old]

    def _take_out_unused(self) -> list[_Entry]:
        """Take out what was not used for the longest time."""
        return [self._entries.pop(next(iter(self._entries))) for _ in range(len(self._entries) - self._most)]

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            gone, self._entries = self._entries, {}
        del gone


#: Those of this process.
values = Values(LIMITS.per_process_values)


def kept_value(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What functions that `per_process` made call, in any process."""
    return values.get(function, args, kwargs)


#: Digests of functions, while they live; made with the first one.
_digests: WeakKeyDictionary[FunctionType | type, bytes] | None = None


def _digest_of(function: Callable[..., Any]) -> bytes:
    global _digests
    if _digests is None:
        from weakref import WeakKeyDictionary

        _digests = WeakKeyDictionary()
    # What has no `__eq__` of a user, and is another object when it is made again.
    plain = function if isinstance(function, FunctionType | type) else None
    known = None if plain is None else _digests.get(plain)
    if known is None:
        from distmap.tasks.fingerprint import fingerprint

        found = fingerprint(function)
        # What does not pickle was captured in this process; only the function itself tells one such value from another.
        known = found.digest + (b"" if found.exact else os.urandom(8))
        if plain is not None:
            known = _digests.setdefault(plain, known)  # one for all threads, even if what it captured changes just now
    return known


def _only_name(function: Callable[..., Any]) -> str:
    """The full name of a function, if one process has no two of that name at a time; else empty."""
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str) or "<" in name:  # a lambda, or made by another function
        return ""
    return f"{getattr(function, '__module__', '')} {name}"


def _key_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What stands for the arguments in a dict."""
    if _ATOMS.issuperset(map(type, args)) and _ATOMS.issuperset(map(type, kwargs.values())):
        named = [(name, *_plain(kwargs[name])) for name in sorted(kwargs)]
        return tuple(map(_plain, args)), tuple(named)
    from distmap.tasks.canonical import Encoder
    from distmap.tasks.fingerprint import fingerprint

    def refer(value: Any) -> bytes:
        return fingerprint(value).digest

    encoder = Encoder(refer, lambda module, name: None)
    key = encoder.encode((args, dict(sorted(kwargs.items()))))
    if encoder.opaque:
        raise TypeError(
            f"{getattr(function, '__qualname__', function)} is kept per process for its arguments, and an argument of "
            f"type {' and '.join(sorted(encoder.opaque))} has no content that can be compared; give it what that is "
            "made from, such as a path or a name"
        )
    return key


def _plain(value: Any) -> tuple[type, Any]:
    """As in a dict 1 is True and 1.0, and nan is nothing."""
    kind = type(value)
    return kind, repr(value) if kind is float else value
