"""What lives in a notebook travels by value."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from distmap.tasks.broadcast import Dependencies
from distmap.tasks.payload import Payload, load_value
from distmap.tasks.pickling import dump_value

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


def test_a_notebook_by_value(script: Callable[..., str]) -> None:
    """Whatever `__main__` defines works in another interpreter, and its instances come back as of its classes."""
    assert script(NOTEBOOK) == "failed: []"


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
