"""Section 4: what a call is given is taken, or refused at the call by an error that names it.

Each row: the call, and the words of the error. Plain Python takes NumPy's whole numbers wherever it takes an int.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distmap

P = distmap.Pool
TWO = np.int64(2)


#: Calls with whole numbers of NumPy, by name and by position, and what they give.
TAKEN: dict[str, tuple[Callable[[P], Any], Any]] = {
    "chunksize-map": (lambda p: p.map(abs, [-1, -2], chunksize=TWO), [1, 2]),
    "chunksize-map-by-position": (lambda p: p.map(abs, [-1, -2], TWO), [1, 2]),
    "chunksize-imap-by-position": (lambda p: list(p.imap(abs, [-1, -2], TWO)), [1, 2]),
    "chunksize-starmap-by-position": (lambda p: p.starmap(pow, [(2, 3)], np.uint8(2)), [8]),
    "chunksize-map-async-by-position": (lambda p: p.map_async(abs, [-1], TWO, None, None).get(10), [1]),
    "chunksize-executor": (lambda p: list(p.executor().map(abs, [-1], chunksize=TWO)), [1]),
    "retries": (lambda p: p.map(abs, [-1], retries=TWO), [1]),
    "buffer": (lambda p: list(p.imap(abs, [-1], buffer=TWO)), [1]),
    "buffersize": (lambda p: list(p.executor().map(abs, [-1], buffersize=TWO)), [1]),
    "batch-size": (lambda p: p.map_batches(len, [1, 2, 3], batch_size=TWO), [2, 1]),
    "batch-size-by-position": (lambda p: p.map_batches(len, [1, 2, 3], TWO), [2, 1]),
    "priority": (lambda p: p.map(abs, [-1], priority=np.int16(-3)), [1]),
    "total": (lambda p: p.map(abs, iter([-1]), total=TWO), [1]),
    "seed": (lambda p: p.map(abs, [-1], seed=np.uint32(7)), [1]),
    "timeout": (lambda p: p.map(abs, [-1], timeout=np.float32(15)), [1]),
    "timeout-for-ever": (lambda p: p.map(abs, [-1], timeout=float("inf")), [1]),
    "timeout-of-result": (lambda p: p.submit(abs, -1).result(np.float64(15)), 1),
    "timeout-of-result-for-ever": (lambda p: p.map_async(abs, [-1]).get(float("inf")), [1]),
    "wait": (lambda p: len(p.wait_for_workers(np.int64(1), np.int64(5))) > 0, True),
    "tags-generator": (lambda p: p.map(abs, [-1], tags=(tag for tag in ())), [1]),
}


@pytest.mark.parametrize(("call", "expected"), TAKEN.values(), ids=TAKEN)
def test_numbers_of_numpy_are_taken(pool, call, expected):
    """A number that Python takes as an index or as a float is taken, by name and by position."""
    assert call(pool) == expected


def test_a_pool_of_so_many_slots():
    """`Pool(n)`, `processes=`, `maxtasksperchild=` and `add(n)` take NumPy's numbers."""
    with P(np.int64(1), maxtasksperchild=np.int8(50)) as pool:
        pool.add(np.int32(1))
        assert sum(worker.slots for worker in pool.workers) == 2
    with P(processes=np.uint8(1)) as pool:
        assert pool.map(abs, [-1]) == [1]


#: Calls with an option of a wrong type or out of range, and the words of the error.
REFUSED: dict[str, tuple[Callable[[P], Any], str]] = {
    "timeout-text": (
        lambda p: p.map(abs, [1], timeout="5"),
        "timeout must be a number of seconds above 0, or None; got '5",
    ),
    "timeout-zero": (
        lambda p: p.map(abs, [1], timeout=0),
        "timeout must be a number of seconds above 0, or None; got 0",
    ),
    "timeout-nan": (lambda p: p.map(abs, [1], timeout=float("nan")), "timeout must be a number"),
    "timeout-time": (lambda p: p.map(abs, [1], timeout=np.timedelta64(5, "s")), "timeout must be a number of seconds"),
    "timeout-of-submit": (
        lambda p: p.submit(abs, 1).result("5"),
        "timeout must be a number of seconds, or None; got '5'",
    ),
    "timeout-of-get": (lambda p: p.apply_async(abs, (1,)).get("5"), "timeout must be a number of seconds, or None"),
    "timeout-of-wait": (lambda p: p.submit(abs, 1).wait("5"), "timeout must be a number of seconds, or None"),
    "timeout-of-exception": (lambda p: p.submit(abs, 1).exception("5"), "timeout must be a number of seconds"),
    "timeout-of-job": (lambda p: p.map_async(abs, [1]).result("5"), "timeout must be a number of seconds, or None"),
    "timeout-of-job-wait": (lambda p: p.map_async(abs, [1]).wait("5"), "timeout must be a number of seconds, or None"),
    "timeout-of-next": (lambda p: p.imap(abs, [1]).next("5"), "timeout must be a number of seconds, or None"),
    "timeout-of-executor": (lambda p: p.executor().map(abs, [1], timeout="5"), "timeout must be a number of seconds"),
    "timeout-of-workers": (lambda p: p.wait_for_workers(1, "5"), "timeout must be a number of seconds, or None"),
    "number-of-workers": (lambda p: p.wait_for_workers("1"), "n must be a whole number of at least 0; got '1' (str)"),
    "chunksize-float": (lambda p: p.map(abs, [1], chunksize=2.0), "chunksize must be a whole number of at least 1"),
    "chunksize-zero-by-position": (lambda p: p.map(abs, [1], 0), "chunksize must be a whole number of at least 1"),
    "chunksize-bool": (lambda p: p.map(abs, [1], chunksize=True), "chunksize must be a whole number"),
    "chunksize-executor": (lambda p: p.executor().map(abs, [1], chunksize=0), "chunksize must be a whole number"),
    "batch-size-float": (
        lambda p: p.map_batches(len, [1], 2.0),
        "batch_size must be a whole number of at least 1, or None",
    ),
    "batch-size-zero": (lambda p: p.map_batches(len, [1], batch_size=0), "batch_size must be a whole number"),
    "buffer": (lambda p: p.imap(abs, [1], buffer="2"), "buffer must be a whole number of at least 1, or None; got '2'"),
    "buffersize": (lambda p: p.executor().map(abs, [1], buffersize=0), "buffersize must be a whole number"),
    "retries": (lambda p: p.map(abs, [1], retries=1.5), "retries must be a whole number of at least 0; got 1.5"),
    "retries-none": (lambda p: p.map(abs, [1], retries=None), "retries must be a whole number of at least 0; got None"),
    "priority": (lambda p: p.map(abs, [1], priority="high"), "priority must be a whole number; got 'high' (str)"),
    "total": (lambda p: p.map(abs, [1], total=-1), "total must be a whole number of at least 0, or None; got -1"),
    "seed": (lambda p: p.map(abs, [1], seed=1.5), "seed must be a whole number of at least 0, or None; got 1.5"),
    "desc": (lambda p: p.map(abs, [1], desc=5), "desc must be a string, or None; got 5"),
    "tags-string": (
        lambda p: p.map(abs, [1], tags="gpu"),
        'tags must be a collection of strings, such as ["gpu"]; got',
    ),
    "tags-numbers": (lambda p: p.map(abs, [1], tags=[1]), "tags must be a collection of strings"),
    "on-error": (lambda p: p.map(abs, [1], on_error=None), 'on_error must be "raise", "return" or "skip"; got None'),
    "output": (lambda p: p.map(abs, [1], output="all"), "output must be True, False or \"item\"; got 'all' (str)"),
    "progress": (lambda p: p.map(abs, [1], progress="bar"), "progress must be True, False, None or a function"),
    "callback": (lambda p: p.map_async(abs, [1], callback=5), "callback must be a function; got 5"),
    "error-callback": (
        lambda p: p.apply_async(abs, (1,), error_callback=5),
        "error_callback must be a function; got 5",
    ),
    "reduce": (lambda p: p.map_reduce(abs, [1], 5), "reduce must be a function; got 5"),
    "combine": (lambda p: p.map_reduce(abs, [1], max, combine=5), "combine must be a function; got 5"),
    "function": (lambda p: p.map([1], abs), "the first argument must be a function; got [1] (list)"),
    "unknown": (lambda p: p.map(abs, [1], chunk_size=5), "unknown option 'chunk_size'; the options are chunksize"),
    "pool-slots-float": (lambda p: P(2.0), "Pool(...) takes a number of slots"),
    "pool-slots-zero": (lambda p: P(np.int64(0)), "slots must be a whole number of at least 1; got np.int64(0)"),
    "pool-processes-text": (
        lambda p: P(processes="2"),
        "processes must be a whole number of at least 1, or None; got '2'",
    ),
    "pool-tasks": (lambda p: P(1, maxtasksperchild=2.5), "maxtasksperchild must be a whole number"),
    "pool-connect-timeout": (
        lambda p: P(1, connect_timeout="5"),
        "connect_timeout must be a number of seconds of at least 0",
    ),
    "pool-connect-timeout-below-0": (lambda p: P(1, connect_timeout=-1), "connect_timeout must be a number of seconds"),
    "pool-initializer": (lambda p: P(1, initializer=5), "initializer must be a function; got 5"),
    "pool-initargs": (lambda p: P(1, print, 5), "initargs must be a list or tuple of arguments; got 5"),
    "pool-env": (lambda p: P(1, env={"KEY": 5}), 'env must be a dict of names and values as text, such as {"OMP_'),
    "pool-env-name": (lambda p: P(1, env={"A=B": "x"}), "env must be a dict of names and values as text, such as"),
    "pool-env-name-empty": (lambda p: P(1, env={"": "x"}), "env must be a dict of names and values as text, such as"),
    "pool-env-zero-byte": (lambda p: P(1, env={"A": "\0"}), "env must be a dict of names and values as text, such as"),
    "pool-listen": (
        lambda p: P(listen=8786),
        'listen must be an address such as "wss://0.0.0.0:8786", True, or None; got 8786',
    ),
    "pool-token": (lambda p: P(1, token=b"abc"), "token must be a string, a Secret or None; got bytes"),
    "pool-certificate": (lambda p: P(1, tls_cert=5), "tls_cert must be the path of a file, or None; got 5"),
}


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED)
def test_an_option_that_cannot_be_is_named(local_pool, call, words):
    """The error says which option, what was expected and what was given, and nothing is run."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call(local_pool)
    assert words in str(caught.value)
    assert local_pool.map(abs, [-1]) == [1]


async def fetch(*args: Any) -> Any:
    """A coroutine function."""
    return args


def parts(*args: Any) -> Any:
    """A generator function."""
    yield from args


async def stream(*args: Any) -> Any:
    """An asynchronous generator function."""
    yield args


class Fetcher:
    """An object that is called like a coroutine function."""

    async def __call__(self, *args: Any) -> Any:
        return args

    async def fetch(self, *args: Any) -> Any:
        """A method that is a coroutine function."""
        return args


SUSPENDING: dict[str, tuple[Any, str]] = {
    "coroutine": (fetch, "fetch() is a coroutine function"),
    "generator": (parts, "parts() is a generator function"),
    "asynchronous-generator": (stream, "stream() is an asynchronous generator function"),
    "partial": (functools.partial(fetch, 1), "fetch() is a coroutine function"),
    "object": (Fetcher(), "Fetcher.__call__() is a coroutine function"),
    "method": (Fetcher().fetch, "Fetcher.fetch() is a coroutine function"),
    "cached": (functools.lru_cache(fetch), "fetch() is a coroutine function"),
    "lambda": (lambda *x: (yield x), "<lambda>() is a generator function"),
}

PLACES: dict[str, Callable[[P, Any], Any]] = {
    "map": lambda p, fn: p.map(fn, [1]),
    "map-async": lambda p, fn: p.map_async(fn, [1]),
    "starmap": lambda p, fn: p.starmap(fn, [(1,)]),
    "imap": lambda p, fn: p.imap(fn, [1]),
    "map-batches": lambda p, fn: p.map_batches(fn, [1]),
    "map-reduce": lambda p, fn: p.map_reduce(fn, [1], max),
    "map-reduce-reduce": lambda p, fn: p.map_reduce(abs, [1], fn),
    "map-reduce-combine": lambda p, fn: p.map_reduce(abs, [1], max, combine=fn),
    "apply": lambda p, fn: p.apply(fn, (1,)),
    "apply-async": lambda p, fn: p.apply_async(fn, (1,)),
    "submit": lambda p, fn: p.submit(fn, 1),
    "executor-submit": lambda p, fn: p.executor().submit(fn, 1),
    "executor-map": lambda p, fn: p.executor().map(fn, [1]),
    "run": lambda p, fn: p.run(fn),
    "callback": lambda p, fn: p.map_async(abs, [1], callback=fn),
    "progress": lambda p, fn: p.map(abs, [1], progress=fn),
    "initializer": lambda p, fn: P(1, initializer=fn),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("fn", "words"), SUSPENDING.values(), ids=SUSPENDING)
def test_functions_of_which_a_call_runs_nothing_are_refused(local_pool, place, fn, words):
    """Coroutine and generator functions are refused at the call, by name, wherever a function is taken."""
    with pytest.raises(TypeError) as caught:
        place(local_pool, fn)
    assert words in str(caught.value)
