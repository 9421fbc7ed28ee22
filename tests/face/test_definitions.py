"""Any function works that a notebook can define, and local modules travel by value and follow their edits."""

from __future__ import annotations

import json

import pytest

#: Cells of a notebook, run one after the other in `__main__`. Each puts what is to be true into `told`.
CELLS = [
    """
import collections, dataclasses, enum, functools, math
import math as m
import os.path
import distmap
told = {}
pool = distmap.Pool(2)
""",
    """told["lambda"] = pool.map(lambda x: x + 1, range(5)) == [1, 2, 3, 4, 5]""",
    """
def outer(k):
    def inner(x):
        return k * x
    return inner
told["closure"] = pool.map(outer(3), range(5)) == [0, 3, 6, 9, 12]
""",
    """
def helper(x):
    return m.factorial(x) + math.floor(1.5)
""",
    """
def caller(x):
    return helper(x)
told["calls another cell's function"] = pool.map(caller, range(5)) == [2, 2, 3, 7, 25]
""",
    """
def helper(x):
    return -x
told["a cell run again with another body"] = pool.map(caller, range(3)) == [0, -1, -2]
""",
    """
scale = 2
def scaled(x):
    return scale * x
first = pool.map(scaled, [1, 2])
scale = 5
told["a global that changed"] = (first, pool.map(scaled, [1, 2])) == ([2, 4], [5, 10])
""",
    """
def even(n):
    return True if n == 0 else odd(n - 1)
def odd(n):
    return False if n == 0 else even(n - 1)
told["functions that call each other"] = pool.map(even, range(4)) == [True, False, True, False]
""",
    """
class Model:
    def __init__(self, k):
        self.k = k
    def run(self, x):
        return self.k * x
    @staticmethod
    def double(x):
        return 2 * x
    @classmethod
    def make(cls, k):
        return cls(k)
    def __call__(self, x):
        return self.k - x
told["bound method"] = pool.map(Model(3).run, range(3)) == [0, 3, 6]
told["static method"] = pool.map(Model.double, range(3)) == [0, 2, 4]
told["callable object"] = pool.map(Model(3), range(3)) == [3, 2, 1]
made = pool.map(Model.make, range(3))
told["class method gives instances of the class here"] = all(type(x) is Model and x.k == i for i, x in enumerate(made))
""",
    """
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
Pair = collections.namedtuple("Pair", "a b")
points = pool.map(lambda x: Point(x), range(3))
told["dataclass comes back as itself"] = all(isinstance(p, Point) for p in points)
told["dataclass comes back equal"] = points == [Point(0), Point(1), Point(2)]
told["dataclass goes in as itself"] = pool.map(lambda p: isinstance(p, Point), points) == [True, True, True]
told["enum is identical"] = pool.map(lambda c: c, [Colour.RED, Colour.BLUE]) == [Colour.RED, Colour.BLUE]
told["enum goes in as itself"] = pool.map(lambda c: c is Colour.RED, [Colour.RED, Colour.BLUE]) == [True, False]
told["named tuple comes back as itself"] = type(pool.map(lambda x: Pair(x, x), [1])[0]) is Pair
told["the class itself as function"] = pool.map(Point, [1, 2]) == [Point(1), Point(2)]
""",
    """
old = Point
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    z: int = 9
again = pool.map(lambda x: Point(x), range(3))
told["a class whose cell ran again"] = all(type(p) is Point and p.z == 9 for p in again)
told["the old class still works"] = type(pool.map(lambda p: p, [old(1)])[0]) is old
""",
    """
class Base:
    def name(self):
        return "base"
class Child(Base):
    def name(self):
        return "child of " + super().name()
told["super() in a class of a cell"] = pool.map(lambda x: Child().name(), [1]) == ["child of base"]
class Odd(ValueError):
    pass
def raises(x):
    raise Odd("mine")
try:
    pool.map(raises, [1])
except Odd:
    told["exception class of a cell"] = True
""",
    """
told["partial"] = pool.map(functools.partial(pow, 2), range(4)) == [1, 2, 4, 8]
told["builtin"] = pool.map(len, ["a", "bc"]) == [1, 2]
told["top-level import of a submodule"] = pool.map(lambda x: os.path.basename(x), ["/a/b"]) == ["b"]
told["generator results as lists"] = pool.map(lambda n: list(range(n)), [2]) == [[0, 1]]
""",
    """
@functools.lru_cache
def cached(n):
    return n * 2
told["decorated by lru_cache"] = pool.map(lambda n: cached(n), [4]) == [8]
def deco(fn):
    @functools.wraps(fn)
    def wrapper(*a):
        return fn(*a) + 1
    return wrapper
@deco
def wrapped(x):
    return x
told["decorated by a decorator of a cell"] = pool.map(wrapped, [1]) == [2]
""",
    """
def recursive(n):
    return 1 if n < 2 else n * recursive(n - 1)
told["recursive"] = pool.map(recursive, [5]) == [120]
def with_default(x, table={"k": 4}, *, more=lambda y: y * 10):
    return table["k"] + more(x)
told["defaults"] = pool.map(with_default, [1]) == [14]
""",
    """
from typing import NamedTuple
class Row(NamedTuple):
    n: int
class Plain:
    __slots__ = ("v",)
    def __init__(self, v):
        self.v = v
told["NamedTuple class"] = isinstance(pool.map(lambda x: Row(x), [3])[0], Row)
told["class with slots"] = pool.map(lambda o: o.v, [Plain(4)]) == [4]
told["many instances of a cell's class"] = pool.map(lambda o: o.v, [Plain(i) for i in range(3000)]) == list(range(3000))
""",
    """
told["submit"] = pool.submit(lambda a, b=0: a - b, 5, b=2).result(10) == 3
told["map_reduce"] = pool.map_reduce(lambda x: {x}, range(5), lambda a, b: a | b) == set(range(5))
pool.terminate()
""",
]

RUN_CELLS = """
import json, sys, traceback
cells = json.loads(sys.argv[1])
failures = []
for cell in cells:
    try:
        exec(compile(cell, "<cell>", "exec"), globals())
    except BaseException:
        failures.append(cell.strip() + "\\n" + traceback.format_exc())
print(json.dumps({"told": told, "failures": failures}))
"""


def test_whatever_a_notebook_defines(script):
    """Lambdas, closures, functions of other cells, methods, dataclasses, enums and re-run cells all work."""
    outcome = json.loads(script(RUN_CELLS, json.dumps(CELLS)).splitlines()[-1])
    assert outcome["failures"] == []
    assert [name for name, true in outcome["told"].items() if not true] == []
    assert len(outcome["told"]) == 34


def test_main_is_not_imported_again(script):
    """A script without a `__main__` guard runs once, whatever it does at its top."""
    out = script(
        """
        import distmap
        print("top")
        def f(x):
            return x + 1
        with distmap.Pool(2) as pool:
            print(pool.map(f, range(4)))
        """
    )
    assert out.splitlines() == ["top", "[1, 2, 3, 4]"]


def test_a_script_in_a_file_needs_no_guard(tmp_path, script):
    """A file run as a script works the same, and its functions see its globals."""
    (tmp_path / "job.py").write_text(
        "import distmap\nK = 3\ndef f(x):\n    return K * x\nprint('top')\n"
        "with distmap.Pool(2) as pool:\n    print(pool.map(f, range(3)))\n"
    )
    out = script("import runpy; runpy.run_path('job.py', run_name='__main__')")
    assert out.splitlines() == ["top", "[0, 3, 6]"]


def test_local_modules_travel_and_follow_their_edits(script):
    """A function of helpers.py works on every slot; edited and re-imported, the new behaviour runs."""
    out = script(
        """
        import importlib, json, os, pathlib, sys
        sys.path.insert(0, "")
        sys.dont_write_bytecode = True
        import distmap
        helpers = pathlib.Path("helpers.py")
        source = ["BASE = 10", "def f(x):", "    return BASE + x"]
        source += ["class Thing:", "    def __init__(self, v):", "        self.v = v"]
        helpers.write_text("\\n".join(source))
        import helpers as h
        told = []
        with distmap.Pool(2) as pool:
            told.append(pool.map(h.f, range(3)))
            told.append(pool.map(lambda x: h.f(x) * 2, range(3)))
            told.append([isinstance(t, h.Thing) for t in pool.map(h.Thing, range(2))])
            told.append(pool.map(lambda t: t.v, [h.Thing(4)]))
            helpers.write_text(helpers.read_text().replace("BASE = 10", "BASE = 500"))
            told.append(pool.map(h.f, range(3)))  # edited, not re-imported: as this process sees it
            importlib.reload(h)
            told.append(pool.map(h.f, range(3)))
            told.append(pool.map(lambda x: h.f(x) * 2, range(3)))
            told.append([isinstance(t, h.Thing) for t in pool.map(h.Thing, range(2))])
        print(json.dumps(told))
        """
    )
    assert json.loads(out) == [
        [10, 11, 12],
        [20, 22, 24],
        [True, True],
        [4],
        [10, 11, 12],
        [500, 501, 502],
        [1000, 1002, 1004],
        [True, True],
    ]


def test_a_local_package_travels_whole(script):
    """Submodules, relative imports and imports inside functions of a local package work, also when one is edited."""
    out = script(
        """
        import importlib, json, pathlib, sys
        sys.path.insert(0, "")
        sys.dont_write_bytecode = True
        import distmap
        here = pathlib.Path("lab")
        (here / "deep").mkdir(parents=True)
        (here / "__init__.py").write_text("from .core import work\\n")
        (here / "core.py").write_text(
            "from . import consts\\nfrom .deep.tools import twice\\ndef work(x):\\n    from lab import late\\n"
            "    return late.add(twice(x), consts.K)\\n"
        )
        (here / "consts.py").write_text("K = 1\\n")
        (here / "late.py").write_text("def add(a, b):\\n    return a + b\\n")
        (here / "deep" / "__init__.py").write_text("")
        (here / "deep" / "tools.py").write_text("from ..consts import K\\ndef twice(x):\\n    return 2 * x\\n")
        import lab as l
        import lab.core
        told = []
        with distmap.Pool(2) as pool:
            told.append(pool.map(l.work, range(3)))
            told.append(pool.map(lambda x: l.core.work(x), range(3)))
            (here / "consts.py").write_text("K = 100\\n")
            for name in ("lab.consts", "lab.core", "lab"):
                importlib.reload(sys.modules[name])
            told.append(pool.map(l.work, range(3)))
            work = l.work
            told.append(pool.map(lambda x: work(x), range(3)))
        print(json.dumps(told))
        """
    )
    assert json.loads(out) == [[1, 3, 5], [1, 3, 5], [100, 102, 104], [100, 102, 104]]


def test_a_module_that_is_not_on_the_path_of_the_slots(script):
    """A module from a folder put on sys.path after the pool started works as well."""
    out = script(
        """
        import pathlib, sys
        import distmap
        sys.dont_write_bytecode = True
        with distmap.Pool(2) as pool:
            pool.map(abs, [1])
            pathlib.Path("late").mkdir()
            pathlib.Path("late/latecomer.py").write_text("def f(x):\\n    return x * 7\\n")
            sys.path.insert(0, "late")
            import latecomer
            print(pool.map(latecomer.f, [1, 2]), pool.map(lambda x: latecomer.f(x), [3]))
        """
    )
    assert out.split("\n")[0] == "[7, 14] [21]"


@pytest.mark.parametrize("heavy", ["websockets", "asyncio", "ipywidgets", "numpy", "cloudpickle", "ssl"])
def test_import_is_light(script, heavy):
    """`import distmap` loads nothing heavy."""
    assert script(f"import sys, distmap; print({heavy!r} in sys.modules)").strip() == "False"


def test_numpy_is_not_imported_unasked(script):
    """A pool that is given no arrays loads neither numpy nor pandas, here or in a slot."""
    out = script(
        """
        import sys, distmap
        with distmap.Pool(1) as pool:
            print(pool.map(lambda x: "numpy" in __import__("sys").modules, [1]), "numpy" in sys.modules)
        """
    )
    assert out.strip() == "[False] False"
