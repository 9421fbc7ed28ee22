"""Checks of arguments: each is converted to the type that distmap uses, or refused by an error that names it.

Owns the rule for every option and its words: what was expected, what was got. Knows nothing else of distmap. Whole
numbers are taken by `operator.index`, so those of NumPy too.
"""

from __future__ import annotations

import functools
import operator
import os
import reprlib
from collections.abc import Callable, Mapping
from threading import TIMEOUT_MAX
from types import FunctionType
from typing import Any

from distmap.tasks._typing import NamedTuple


class Rule(NamedTuple):
    """What an option may be."""

    #: Completes "... must be".
    expected: str
    #: The value as it is used. Raises TypeError or ValueError for anything else.
    take: Callable[[Any], Any]
    #: An error does not show it.
    secret: bool = False


def checked(name: str, value: Any, rule: Rule | None = None) -> Any:
    """The value of an option, as it is used.

    Raises:
        TypeError, ValueError: it is of another type, or out of range; says what was expected and what was given.
    """
    rule = RULES[name] if rule is None else rule
    try:
        return rule.take(value)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} must be {rule.expected}; got {displayed(value, rule.secret)}") from None


def displayed(value: Any, secret: bool = False) -> str:
    if secret:
        return type(value).__name__
    try:
        text = reprlib.repr(value)
    except Exception:  # of a class that reprlib takes for a builtin by its name
        text = "one whose repr fails"
    return text if isinstance(value, bool | int | float | None) else f"{text} ({type(value).__name__})"


# --- the rules --------------------------------------------------------------------------------------------------------


def _whole(least: int | None = None, *, none: bool = False) -> Rule:
    def take(value: Any) -> int | None:
        if value is None and none:
            return None
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
        if least is not None and number < least:
            raise ValueError
        return number

    words = "a whole number" + ("" if least is None else f" of at least {least}")
    return Rule(words + ", or None" * none, take)


def _seconds(words: str, fits: Callable[[float], bool]) -> Rule:
    def take(value: Any) -> float | None:
        if value is None:
            return None
        # float() would take text too.
        if isinstance(value, bool | str | bytes | bytearray):
            raise TypeError
        number = float(value)
        if not fits(number):  # also of one that is no number
            raise ValueError
        return min(number, TIMEOUT_MAX)

    return Rule(f"{words}, or None", take)


def _one_of(*values: Any) -> Rule:
    def take(value: Any) -> Any:
        for one in values:
            if type(value) is type(one) and value == one:
                return value
        raise ValueError

    words = [f'"{one}"' if isinstance(one, str) else repr(one) for one in values]
    return Rule(f"{', '.join(words[:-1])} or {words[-1]}", take)


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError
    return value


def _variables(value: Any) -> dict[str, str]:
    if not (value is None or isinstance(value, Mapping)):
        raise TypeError
    taken = dict(value or {})
    if not all(isinstance(text, str) for pair in taken.items() for text in pair):
        raise TypeError
    if any(name == "" or "=" in name or "\0" in name + text for name, text in taken.items()):
        raise ValueError  # no system has such variables
    return taken


def _headers(value: Any) -> dict[str, str] | str | None:
    return _variables(value) if isinstance(value, Mapping) else _path(value)


def _filled(value: Any) -> str | None:
    if (text := _text(value)) == "":
        raise ValueError
    return text


def _listen(value: Any) -> str | bool | None:
    return value if isinstance(value, bool) else _text(value)


def _size(value: Any) -> int | str | None:
    if isinstance(value, bool):
        raise TypeError
    return value if value is None or isinstance(value, str) else operator.index(value)


def _path(value: Any) -> str | None:
    return None if value is None else os.fsdecode(value)


def _file(value: Any) -> str | None:
    path = _path(value)
    if path == "" or (path is not None and ("\0" in path or path.endswith(os.sep))):
        raise ValueError
    return path


def _token(value: Any) -> Any:
    # A Secret is known by its method: its module is costly to import.
    if not (value is None or isinstance(value, str) or hasattr(type(value), "reveal")):
        raise TypeError
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str | bytes):
        raise TypeError
    strings = tuple(value)
    if not all(isinstance(one, str) for one in strings):
        raise TypeError
    return strings


def _progress(value: Any) -> Any:
    if not (value is None or isinstance(value, bool) or callable(value)):
        raise TypeError
    return value


#: Seconds that a call waits; what is below 0 does not wait.
WAIT = _seconds("a number of seconds", lambda number: number == number)

RULES: dict[str, Rule] = {
    "batch_size": _whole(1, none=True),
    "buffer": _whole(1, none=True),
    "buffersize": _whole(1, none=True),
    "checkpoint": Rule('the path of a file, such as "scores.sqlite", or None', _file),
    "ca": Rule("the path of a file of certificates, or None", _path),
    "chunksize": _whole(1, none=True),
    "connect_timeout": _seconds("a number of seconds of at least 0", lambda number: number >= 0),
    "desc": Rule("a string, or None", _text),
    "env": Rule(
        'a dict of names and values as text, such as {"OMP_NUM_THREADS": "4"}, or None', _variables, secret=True
    ),
    "initargs": Rule("a list or tuple of arguments", tuple),
    "headers": Rule(
        'a dict of names and values, the path of a file with a line "Name: value" each, or None', _headers, secret=True
    ),
    "install": _one_of(True, False),
    "launch": Rule('a command line such as "mpiexec -n 32 distmap-worker {url}", or None', _filled),
    "least": _whole(0),
    "listen": Rule('an address such as "wss://0.0.0.0:8786", True, or None', _listen),
    "maxtasksperchild": _whole(1, none=True),
    "memory_limit": Rule('a number of bytes, text such as "2GB" or "80%", or None', _size),
    "most": _whole(0, none=True),
    "n": _whole(0),
    "on_change": _one_of("error", "restart", "keep"),
    "on_error": _one_of("raise", "return", "skip"),
    "output": _one_of(True, False, "item"),
    "priority": _whole(),
    "processes": _whole(1, none=True),
    "progress": Rule("True, False, None or a function that takes a snapshot", _progress),
    "proxy": Rule('the URL of a proxy, such as "http://host:3128", "" for none, or None', _text, secret=True),
    "relay": Rule('the address of a relay, such as "wss://relay.example/", or None', _filled),
    "retries": _whole(0),
    "seed": _whole(0, none=True),
    "slots": _whole(1),
    "tags": Rule('a collection of strings, such as ["gpu"]', _strings),
    "timeout": _seconds("a number of seconds above 0", lambda number: number > 0),
    "tls_cert": Rule("the path of a file, or None", _path),
    "tls_key": Rule("the path of a file, or None", _path),
    "token": Rule("a string, a Secret or None", _token, secret=True),
    "total": _whole(0, none=True),
    "url": Rule('an address such as "wss://gpu1:8786", or None', _text),
}


def is_whole(value: Any) -> bool:
    """Whether this is meant as a whole number: an int, or one of NumPy's; an array is not."""
    return isinstance(value, int) or (hasattr(type(value), "__index__") and not hasattr(type(value), "__iter__"))


# --- functions --------------------------------------------------------------------------------------------------------

#: Flags of a function's code (as in `inspect`), and what a call of such a function would make.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200
_SUSPENDS = _GENERATOR | _COROUTINE | _ASYNC_GENERATOR
_CACHED = type(functools.lru_cache(len))


def function(role: str, fn: Any) -> None:
    """Refuse what cannot be called, and functions of which a call runs nothing.

    Args:
        role: what it was given as, such as "reduce".

    Raises:
        TypeError: says what it is, and what to give instead.
    """
    if not callable(fn):
        raise TypeError(f"{role} must be a function; got {displayed(fn)}")
    inner = _inner(fn)
    flags = inner.__code__.co_flags & _SUSPENDS if isinstance(inner, FunctionType) else 0
    if not flags:
        return
    name = f"{inner.__qualname__}()"
    if flags & _COROUTINE:
        raise TypeError(
            f"{role} must be a plain function; {name} is a coroutine function (async def): a call of it runs nothing, "
            "it only makes a coroutine, which does not travel. Give a function that calls "
            f"asyncio.run({inner.__name__}(...))"
        )
    kind = "an asynchronous generator function" if flags & _ASYNC_GENERATOR else "a generator function"
    raise TypeError(
        f"{role} must be a plain function; {name} is {kind} (it has a yield): a call of it runs nothing, it only makes "
        "a generator, which does not travel. Give a function that returns a list"
    )


def _inner(fn: Any) -> Any:
    """The function of a partial, a bound method, a cached function or an object with `__call__`."""
    while not isinstance(fn, FunctionType):
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, _CACHED):
            fn = fn.__wrapped__
        elif (bound := getattr(fn, "__func__", None)) is not None:
            fn = bound
        elif isinstance(fn, type) or not isinstance(called := getattr(type(fn), "__call__", None), FunctionType):  # noqa: B004
            return fn
        else:
            return called
    return fn


def functions(**given: Callable[..., object] | None) -> None:
    """The same for optional functions, by the names of their options."""
    for role, fn in given.items():
        if fn is not None:
            function(role, fn)
