"""Tests of distmap.tasks.pickling: what travels by value and what by name, and whose class comes back."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
import threading
import types
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

#: Told by a fresh `__main__` that maps over a fresh interpreter.
NOTEBOOK = """
import dataclasses, enum, functools, math
import os.path
from support.far import Far
told = []
far = Far()

def check(name, true):
    if not true:
        told.append(name)

check("lambda", far.map(lambda x: x + 1, range(3)) == [1, 2, 3])

def make(k):
    return lambda x: k * x

check("closure", far.map(make(3), [1, 2]) == [3, 6])

def helper(x):
    return math.floor(x) + len(os.path.basename("/a/bc"))

def caller(x):
    return helper(x)

check("a function that calls another and uses imports", far.map(caller, [1.5]) == [3])

@functools.lru_cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

check("a recursive cached function", far.map(fib, [30]) == [832040])

class Model:
    seen = []
    def __init__(self, k):
        self.k = k
    def run(self, x):
        Model.seen.append(x)
        return self.k * helper(x)
    def grown(self):
        return Model(self.k + 1)

run = Model.run
check("bound method", far.map(Model(2).run, [1, 2]) == [6, 8])
grown = far.map(lambda m: m.grown(), [Model(i) for i in range(100)])
check("instances come back as their class", all(type(m) is Model and m.k == i + 1 for i, m in enumerate(grown)))
check("a class is not written over when it comes home", Model.run is run and Model.seen == [])
seen = far.map(lambda m: (m.run(1), len(Model.seen))[1], [Model(1)] * 3)
check("class level state of the far side lasts", seen == [1, 2, 3])

@dataclasses.dataclass
class Point:
    x: int
    other: "Point | None" = None

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Pair:
    a: Point
    b: Colour

pairs = far.map(lambda p: Pair(Point(p.a.x + 1, p.a), p.b), [Pair(Point(1), Colour.RED)])
check("nested classes", pairs == [Pair(Point(2, Point(1)), Colour.RED)] and pairs[0].b is Colour.RED)
check("a class as item", far.map(lambda cls: cls(5), [Point]) == [Point(5)])

Old = Point
@dataclasses.dataclass
class Point:
    x: int
    y: int = 7

check("a class whose cell ran again", [type(p) for p in far.map(lambda x: Point(x), [1])] == [Point])
check("its new definition is used", far.map(lambda x: Point(x).y, [1]) == [7])
check("the old class still comes back as itself", type(far.map(lambda p: p, [Old(1)])[0]) is Old)

Model.extra = 5
check("a class that was changed", far.map(lambda m: m.extra, [Model(1)]) == [5])

class Mine(ValueError):
    def __init__(self, a, b):
        super().__init__(a, b)

def fail(x):
    raise Mine(x, 2)

try:
    far.map(fail, [1])
except Mine as exc:
    check("exception class", exc.args == (1, 2) and "item 0" in exc.__notes__[0])
else:
    check("exception class", False)

count = 0
def counting(x):
    global count
    count += 1
    return count
check("globals are the far side's own", far.map(counting, range(3)) == [1, 2, 3] and count == 0)

far.process.communicate()
print("failed:", told)
"""


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


def test_a_notebook_by_value(script: Callable[..., str]) -> None:
    """Whatever `__main__` defines works in another interpreter, and its instances come back as of its classes."""
    assert script(NOTEBOOK) == "failed: []"


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
        looks = iter([False, False, True])
        warm_up(lambda: next(looks))
        print("inspect" in sys.modules, "cloudpickle" in sys.modules)
        warm_up(lambda: False)
        print("cloudpickle" in sys.modules)
        """
    )
    assert told.splitlines() == ["True False", "True"]


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


def test_modules_made_at_run_time_travel_by_value() -> None:
    """A function of a module without source is pickled by value, though the module is in sys.modules."""
    module = types.ModuleType("made_at_run_time")
    exec("K = 4\ndef f(x): return x + K\nclass C: pass", vars(module))
    sys.modules["made_at_run_time"] = module
    try:
        payload = dump_value((module.f, module.C), Dependencies(), what="the value")
    finally:
        del sys.modules["made_at_run_time"]
    function, cls = load_value(payload)
    assert function(1) == 5
    assert isinstance(cls(), module.C)


def test_what_the_user_registered_with_cloudpickle_travels_by_value() -> None:
    """`cloudpickle.register_pickle_by_value` is honoured for an installed module."""
    import colorsys

    import cloudpickle

    cloudpickle.register_pickle_by_value(colorsys)
    try:
        assert len(dump_value(colorsys.rgb_to_hsv, Dependencies(), what="").head) > 300
    finally:
        cloudpickle.unregister_pickle_by_value(colorsys)
    assert len(dump_value(colorsys.rgb_to_hsv, Dependencies(), what="").head) < 100


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
