"""What a call is given is taken in one form, or refused by an error that names it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import Any

import numpy as np
import pytest

from distmap.calls.checks import RULES, WAIT, checked, displayed, function, functions, is_whole


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("chunksize", np.int64(3), 3),
        ("chunksize", np.array(3), 3),
        ("chunksize", None, None),
        ("priority", -(10**30), -(10**30)),
        ("timeout", 5, 5.0),
        ("timeout", np.float32(0.5), 0.5),
        ("timeout", Fraction(1, 4), 0.25),
        ("timeout", math.inf, TIMEOUT_MAX),
        ("connect_timeout", 0, 0.0),
        ("tags", (tag for tag in ["a", "b"]), ("a", "b")),
        ("tls_cert", Path("a"), "a"),
        ("output", "item", "item"),
        ("token", "secret", "secret"),
        ("initargs", [1, 2], (1, 2)),
    ],
)
def test_what_is_taken(name, given, taken):
    """Numbers of other libraries become Python's, collections tuples, paths strings."""
    got = checked(name, given)
    assert (type(got), got) == (type(taken), taken)


@pytest.mark.parametrize(
    ("name", "given", "error"),
    [
        ("chunksize", 0, ValueError),
        ("chunksize", 2.0, TypeError),
        ("chunksize", "2", TypeError),
        ("chunksize", True, TypeError),
        ("chunksize", np.timedelta64(3, "s"), TypeError),
        ("chunksize", np.array([1, 2]), TypeError),
        ("retries", None, TypeError),
        ("timeout", "5", TypeError),
        ("timeout", b"5", TypeError),
        ("timeout", True, TypeError),
        ("timeout", 0, ValueError),
        ("timeout", math.nan, ValueError),
        ("timeout", 10**400, ValueError),
        ("timeout", np.timedelta64(3, "s"), TypeError),
        ("connect_timeout", -1, ValueError),
        ("tags", "gpu", TypeError),
        ("tags", ["gpu", 1], TypeError),
        ("tags", 5, TypeError),
        ("desc", 5, TypeError),
        ("on_error", "ignore", ValueError),
        ("output", 1, ValueError),
        ("progress", 3, TypeError),
        ("tls_key", 5, TypeError),
        ("initargs", 5, TypeError),
    ],
)
def test_what_is_refused(name, given, error):
    """The error names the option, says what was expected, and shows what was given."""
    with pytest.raises(error) as caught:
        checked(name, given)
    assert str(caught.value) == f"{name} must be {RULES[name].expected}; got {displayed(given)}"


def test_a_wait_may_be_over_already():
    """What is below 0 waits not at all; text is no time."""
    assert checked("timeout", -1, WAIT) == -1.0
    with pytest.raises(TypeError, match="timeout must be a number of seconds, or None; got '5'"):
        checked("timeout", "5", WAIT)


def test_a_token_is_never_shown():
    """The error about a token says its type only."""
    with pytest.raises(TypeError) as caught:
        checked("token", b"very secret")
    assert str(caught.value) == "token must be a string, a Secret or None; got bytes"


def test_what_is_shown():
    """A number as it is, anything else with its type, at most some 80 letters; a broken repr breaks nothing."""

    class Broken:
        def __repr__(self):
            raise OSError("no repr")

    assert displayed(0) == "0"
    assert displayed("5") == "'5' (str)"
    assert len(displayed(list(range(10_000)))) < 80
    assert displayed(Broken()).startswith("<Broken instance at 0x")


def test_whole_numbers_by_position():
    """An int, one of NumPy's, but no array: an array is data."""
    assert is_whole(3)
    assert is_whole(np.int8(3))
    assert not is_whole(np.array([3]))
    assert not is_whole(2.0)
    assert not is_whole(None)


async def fetch(x: int) -> int:
    """A coroutine function."""
    return x


def count(x: int) -> Any:
    """A generator function."""
    yield x


async def stream(x: int) -> Any:
    """An asynchronous generator function."""
    yield x


class Asynchronous:
    """Has a coroutine function, and is one."""

    async def __call__(self, x: int) -> int:
        return x

    async def method(self, x: int) -> int:
        """One that is bound."""
        return x

    @staticmethod
    async def static(x: int) -> int:
        """One that is not."""
        return x

    @classmethod
    def made(cls, x: int) -> Any:
        """A generator function of a class."""
        yield x


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (fetch, "fetch()"),
        (count, "count()"),
        (stream, "stream()"),
        (functools.partial(functools.partial(fetch), 1), "fetch()"),
        (functools.lru_cache(fetch), "fetch()"),
        (Asynchronous(), "Asynchronous.__call__()"),
        (Asynchronous().method, "Asynchronous.method()"),
        (functools.partial(Asynchronous().method), "Asynchronous.method()"),
        (Asynchronous.static, "Asynchronous.static()"),
        (Asynchronous.made, "Asynchronous.made()"),
        (lambda x: (yield x), "<lambda>()"),
    ],
)
def test_functions_of_which_a_call_runs_nothing(fn, name):
    """They are refused by name, however they are wrapped."""
    with pytest.raises(TypeError) as caught:
        function("reduce", fn)
    assert str(caught.value).startswith("reduce must be a plain function; ")
    assert name in str(caught.value)


def test_what_is_no_function():
    """It is refused by its type, and what was left out is no fault."""
    with pytest.raises(TypeError, match=r"callback must be a function; got \[1\] \(list\)"):
        functions(callback=[1])
    functions(callback=None)


def blocking(x: int) -> int:
    """A plain function around a coroutine function."""
    import asyncio

    return asyncio.run(fetch(x))


@pytest.mark.parametrize(
    "fn",
    [
        blocking,
        functools.wraps(fetch)(lambda x: blocking(x)),
        functools.partial(blocking, 1),
        len,
        "abc".upper,
        Asynchronous,
        np.sqrt,
        dict.get,
        functools.lru_cache(blocking),
    ],
)
def test_functions_that_run(fn: Callable[..., Any]) -> None:
    """Functions, classes, builtins, ufuncs and what is wrapped around them are taken."""
    function("fn", fn)
