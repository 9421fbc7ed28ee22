"""Tests of distmap.tasks.pickling: what travels by value and what by name, and whose class comes back."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from distmap.errors import PayloadError
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.payload import Payload, load_value
from distmap.tasks.pickling import dump_small, dump_value

TESTS = Path(__file__).resolve().parent


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    def run(source: str) -> str:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(source)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=18, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def there_and_back(value: object, needs: Dependencies | None = None) -> object:
    payload = dump_value(value, needs or Dependencies(), what="the value")
    return load_value(Payload(bytes(payload.head), tuple(bytearray(part) for part in payload.buffers)))


@pytest.mark.parametrize(
    "value", [3, "text", [1, {"a": (2, None)}], Fraction(1, 3), len, Fraction, functools.partial(pow, 2)]
)
def test_importable_values_need_no_cloudpickle(value: object) -> None:
    """Values of importable classes go through the C pickler and come back equal."""
    back = there_and_back(value)
    assert back(3) == 8 if isinstance(value, functools.partial) else back == value  # type: ignore[attr-defined]


def test_cloudpickle_is_loaded_only_when_needed(script: Callable[..., str]) -> None:
    """Plain data and importable functions load neither cloudpickle nor numpy; a lambda loads cloudpickle."""
    told = script(
        """
        import sys
        from distmap.tasks.runner import Runner
        from distmap.tasks.code import dump_code
        from distmap.tasks.items import dump_items, load_results
        payload, _ = dump_items([{"a": 1}, [2]]); load_results(payload.parts, 0, 2)
        print(sorted({"cloudpickle", "numpy", "asyncio", "hashlib", "ast", "dis"} & set(sys.modules)))
        dump_code(lambda x: x)
        print("cloudpickle" in sys.modules)
        """
    )
    assert told.splitlines() == ["[]", "True"]


def test_warming_up_gives_way(script: Callable[..., str]) -> None:
    """A process that has nothing to do imports cloudpickle, but not in one go, so that what comes need not wait."""
    told = script(
        """
        import sys
        from distmap.tasks.pickling import warm_up
        looks = iter([False] * 3 + [True])
        warm_up(lambda: next(looks))
        print("typing" in sys.modules, "inspect" in sys.modules, "cloudpickle" in sys.modules)
        sizes = [len(sys.modules)]
        warm_up(lambda: sizes.append(len(sys.modules)))
        print("cloudpickle" in sys.modules)
        print(max(after - before for before, after in zip(sizes, sizes[1:] + [len(sys.modules)])) < 12)
        """
    )
    assert told.splitlines() == ["True False False", "True", "True"]


def test_large_buffers_travel_out_of_band_and_arrive_writable() -> None:
    """An array over 32 KB is not copied into the pickle; over writable memory it arrives writable."""
    array = np.arange(100_000.0)
    payload = dump_value({"a": array, "b": array[:10]}, Dependencies(), what="the value")
    assert len(payload.head) < 1000
    assert [memoryview(part).nbytes for part in payload.buffers] == [array.nbytes]
    assert payload.nbytes == len(payload.head) + array.nbytes
    back = there_and_back(array)
    assert isinstance(back, np.ndarray)
    back += 1
    assert (back == array + 1).all()


def test_a_value_that_does_not_pickle_is_named() -> None:
    """The error begins with what it is about and keeps the original as its cause."""
    with pytest.raises(PayloadError, match=r"the value cannot be pickled: TypeError: .*lock") as caught:
        there_and_back([threading.Lock()])
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_reduce_that_exits_is_an_error_of_the_value() -> None:
    """SystemExit from a `__reduce__` does not end the process."""

    class Bad:
        def __reduce__(self) -> str:
            raise SystemExit(3)

    with pytest.raises(PayloadError, match="SystemExit: 3"):
        there_and_back(Bad())


def test_exceptions_pickle_small() -> None:
    """An exception is one bytes object, large buffers included."""
    blob = dump_small(ValueError(np.zeros(100_000)))
    assert len(blob) > 800_000


def test_nothing_is_left_open_by_an_exported_payload() -> None:
    """A payload outlives what made it without complaint from the garbage collector."""
    import gc

    payloads = [dump_value([x], Dependencies(), what="") for x in range(10)]
    gc.collect()
    assert [load_value(payload) for payload in payloads] == [[x] for x in range(10)]


def test_memory_of_a_dump_is_let_go_at_once():
    """Large buffers are not kept by a circle until some garbage collection."""
    import gc
    import weakref

    class Block(np.ndarray):
        """An array that can be watched."""

    gc.disable()
    try:
        block = np.zeros(100_000).view(Block)
        gone = weakref.ref(block)
        payload = dump_value(block.view(np.ndarray), Dependencies(), what="block")
        assert payload.buffers
        del block, payload
        assert gone() is None
    finally:
        gc.enable()
