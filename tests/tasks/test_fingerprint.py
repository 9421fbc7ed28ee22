"""A function has the same fingerprint in every kernel while it does the same, and its parts name what changed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.kernels import Kernel

from distmap.tasks.fingerprint import Fingerprint, changes, fingerprint

TESTS = Path(__file__).resolve().parents[1]


def cell(source: str, **names: Any) -> dict[str, Any]:
    """Run a cell: what it defines belongs to `__main__`."""
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(textwrap.dedent(source), namespace)
    return namespace


def of(source: str, name: str = "f", **names: Any) -> Fingerprint:
    return fingerprint(cell(source, **names)[name])


#: A notebook with what functions are made of.
NOTEBOOK = '''
import asyncio, collections, dataclasses, enum, functools, typing
import numpy as np
import helpers
from helpers import shift

words = {"alpha", "beta", "gamma", "delta"}
table = {"plus": lambda x: x + 1, "names": frozenset(words)}
weights = np.linspace(0, 1, 10_000)

class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"

Pair = collections.namedtuple("Pair", "left right")

class Row(typing.NamedTuple):
    a: int
    b: str = "x"

@dataclasses.dataclass
class Config:
    rate: float = 0.5
    tags: set = dataclasses.field(default_factory=set)

class Base:
    def score(self, x):
        return x

class Model(Base):
    kinds = {"one", "two", "three"}
    __slots__ = ("scale", "parent")
    def __init__(self, scale):
        self.scale = scale
        self.parent = self
    def score(self, x):
        return super().score(x) * self.scale * len(self.kinds)
    @property
    def double(self):
        return Model(self.scale * 2)
    @classmethod
    def make(cls):
        return cls(1)
    @staticmethod
    def help(x):
        return even(x)

def timed(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)
    return wrapper

def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 1)

@functools.lru_cache(maxsize=8)
def cached(n):
    return n in {"p", "q", "r"}

@functools.singledispatch
def shown(x):
    return str(x)

@shown.register
def _(x: int):
    return -x

def generator(n):
    yield from (odd(i) for i in range(n))

async def later(n):
    async with asyncio.timeout(1):
        return [x async for x in n]

model, config = Model(2), Config(tags={"u", "v", "w"})
by_hand = functools.partial(even, n=3)

def outer(scale):
    def inner(x):
        return x * scale
    return inner

inner = outer(3)

@timed
def f(x, alpha=1, *, beta={"s", "t"}):
    """Scores."""
    import helpers.deep
    class Local(Base):
        y = x
    total = sum(generator(3)) + model.score(x) + config.rate + weights.sum()
    return [total, Colour.RED, Pair(1, 2), Row(1), words, table, by_hand(), inner(x), cached("p"), shown(1), later,
            shift(x), helpers.scale(x), lambda: Local, model.double.help(2), Model.make(), np.float32(1)]
'''

#: The same notebook, written and run in another way.
MOVED = "# a comment\n\n\n" + NOTEBOOK.replace('    """Scores."""\n', "    # a comment\n\n").replace(
    "config.rate + weights", "config.rate\\\n        + weights"
)


@pytest.fixture
def helpers(tmp_path: Path) -> Callable[..., None]:
    """Writes the package beside the notebook."""

    def write(*, factor: int = 2, comment: str = "") -> None:
        folder = tmp_path / "helpers"
        folder.mkdir(exist_ok=True)
        text = f"from helpers.near import shift\nfactor = {factor}\ndef scale(x):\n    return factor * x{comment}\n"
        (folder / "__init__.py").write_text(text)
        (folder / "near.py").write_text("def shift(x):\n    return x + 1\n")
        (folder / "deep.py").write_text("x = 1\n")

    write()
    return write


SHOW = "import json; from distmap.tasks.fingerprint import fingerprint; print(json.dumps(fingerprint(f).parts))"


def parts_in_process(folder: Path, source: str, seed: str) -> dict[str, str]:
    """The parts of `f` in a process of its own, with another order of sets."""
    path = os.pathsep.join([str(TESTS.parent), str(folder)])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed}
    program = f"exec(compile({source!r}, '/tmp/cell_{seed}.py', 'exec'))\n{SHOW}"
    command = [sys.executable, "-W", "error", "-B", "-c", program]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=18, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_another_process_gives_the_same(tmp_path: Path, helpers: Callable[..., None]) -> None:
    """With another order of sets, moved lines, comments and another layout every part is the same."""
    one = parts_in_process(tmp_path, NOTEBOOK, "1")
    helpers(comment="  # it")
    other = parts_in_process(tmp_path, MOVED, "2")
    assert changes(one, other) == []
    assert one == other
    assert {"the module helpers", "the module helpers.near", "the module helpers.deep"} <= set(one)
    assert not [name for name in one if "only the type" in name]
    helpers(factor=3)
    assert changes(one, parts_in_process(tmp_path, MOVED, "3")) == ["the module helpers changed"]


@pytest.mark.own_leaks("threads", "descriptors")
@pytest.mark.timeout(90)
def test_another_kernel_gives_the_same(tmp_path: Path, helpers: Callable[..., None]) -> None:
    """In a new kernel, as another cell that was changed in nothing but its looks, a function is the same."""
    found = []
    for source in (NOTEBOOK, MOVED):
        kernel = Kernel(tmp_path)
        try:
            for _ in found:
                kernel.run("1 + 1")  # so that the cell has another number
            kernel.run(source)
            found.append(json.loads(kernel.run(SHOW).printed))
            assert kernel.error is None
        finally:
            kernel.close()
    assert changes(*found) == []
    assert found[0] == found[1]


WRAPPED = """
import functools
def d(g):
    @functools.wraps(g)
    def w(x): return g(x)
    return w
@d
def f(x): return ?
"""
DATACLASS = "import dataclasses\n@dataclasses.dataclass\nclass C:\n a: int = ?\ndef f(x): C"

#: A cell with a gap (?), what stands in it before and after, and what is said then.
CHANGES = [
    ("def f(x): return x + ?", "1", "2", "the code of f changed"),
    ("def f(x, a=?): return a", "1", "2", "the default of a changed"),
    ("def f(x, *, a=?): return a", "1", "2", "the default of a changed"),
    ("k = ?\ndef f(x): return k", "1", "2", "the global k changed"),
    ("k = [?]\ndef f(x): return [k for _ in x]", "1", "2", "the global k changed"),
    ("def g(): return ?\ndef f(x): return g()", "1", "2", "the global g changed"),
    ("def g(a=?): 0\ndef f(x): return g()", "1", "2", "the default of a of g changed"),
    ("k = ?\ndef g(): return k\ndef f(x): g()", "1", "2", "the global k changed"),
    ("k = ?\ndef f(x):\n class C: y = k", "1", "2", "the global k changed"),
    ("def g(): f(?)\ndef f(x): g()", "1", "2", "the global g changed"),
    ("f = (lambda s: lambda x: x * s)(?)", "1", "2", "the captured value s changed"),
    ("t = {'a': lambda: ?}\ndef f(x): t", "1", "2", "the function <lambda> in the global t changed"),
    ("class C:\n def m(self): return ?\nf = C().m", "1", "2", "the code of C.m changed"),
    ("class C:\n def __call__(s, x): return ?\nf=C()", "1", "2", "the method C.__call__ changed"),
    ("class C:\n k = ?\n def m(s): 0\nf = C().m", "1", "2", "the class C changed"),
    ("class B: k = ?\nclass C(B): 0\ndef f(x): C", "1", "2", "the class B changed"),
    ("class C:\n @property\n def p(s): return ?\nc = C()\ndef f(x): c", "1", "2", "the method C.p changed"),
    ("class C:\n @staticmethod\n def p(): return ?\ndef f(x): C.p", "1", "2", "the method C.p changed"),
    ("import functools\nf = functools.partial(max, ?)", "1", "2", "the argument 1 of its partial() changed"),
    ("import functools\nf = functools.partial(print?)", ", end=''", "", "the argument end is gone"),
    ("import functools\n@functools.lru_cache\ndef f(x): return ?", "1", "2", "the code of f changed"),
    ("import functools\n@functools.lru_cache(?)\ndef f(x): 0", "1", "2", "the decorator of f changed"),
    ("def f(x): 0\nf.k = ?", "1", "2", "the attribute k of f changed"),
    ("?\ndef f(x): return nobody", "", "nobody = 1", "the global nobody changed"),
    ("import ? as m\ndef f(x): return m.pi", "math", "cmath", "the global m changed"),
    ("from math import ? as s\ndef f(x): s(x)", "sin", "cos", "the global s changed"),
    ("import enum\nE = enum.Enum('E', {'A': ?})\ndef f(x): E.A", "1", "2", "the class E changed"),
    ("import numpy as np\nw = np.full(9, ?)\ndef f(x): w", "1", "2", "the global w changed"),
    ("async def g():\n yield ?\ndef f(x): g()", "1", "2", "the global g changed"),
    (DATACLASS, "1", "2", "the class C changed"),
    (WRAPPED, "1", "2", "the function f changed"),
]


@pytest.mark.parametrize(("source", "old", "new", "said"), CHANGES)
def test_a_change_is_seen_and_named(source: str, old: str, new: str, said: str) -> None:
    """Whatever a function reaches, a change of it is another digest, and the part that has it is named."""
    one, same, other = (of(source.replace("?", it)) for it in (old, old, new))
    assert one.digest == same.digest != other.digest
    assert said in changes(one.parts, other.parts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 1\nb = 2\ndef f(x): return a + b", "b = 2\na = 1\ndef f(x): return a + b"),
        ("def f(x): return 1", "unused = 5\ndef f(x): return 1"),
        ("def f(x): return 1", "@staticmethod\ndef f(x): return 1\nf = f.__func__"),
        ("def f(x): return x.real", "real = 5\ndef f(x): return x.real"),
        ("class C:\n '''Text.'''\n a = 1\n b = 2\ndef f(x): C", "class C:\n b = 2\n a = 1\ndef f(x): C"),
        ("def f(x): return len(x)", "def f(x):\n  return len(x)"),
    ],
)
def test_what_a_function_does_not_reach_does_not_matter(one: str, other: str) -> None:
    """The order of definitions, unused globals and texts for people are no change."""
    assert of(one) == of(other)


def test_local_modules_count_by_their_text(folder: Path) -> None:
    """A module beside the notebook is a part, with what it imports; a comment in it is no change."""
    (folder / "near_util.py").write_text("import near_more\ndef scale(x):\n    return near_more.k * x\n")
    (folder / "near_more.py").write_text("k = 1\n")
    importlib.invalidate_caches()
    source = "import near_util\ndef f(x): return near_util.scale(x)"
    one = of(source)
    assert {"the module near_util", "the module near_more"} <= set(one.parts)
    module = sys.modules["near_util"]
    assert "the module near_util" in fingerprint(module.scale).parts
    text = "# why\nimport near_more\n\n\ndef scale(x):\n    return near_more.k * x\n\ndef other(): return 1\n"
    (folder / "near_util.py").write_text(text)
    importlib.reload(module)
    assert of(source).digest == one.digest
    (folder / "near_more.py").write_text("k = 23\n")
    importlib.reload(sys.modules["near_more"])
    assert changes(one.parts, of(source).parts) == ["the module near_more changed"]
    inside = "def f(x):\n    from near_util import scale\n    return scale(x)"
    assert "the module near_more" in of(inside).parts


def test_installed_packages_count_by_their_names() -> None:
    """Their versions can be asked for, and are no part; what their decorators capture is."""
    source = "import numpy as np, functools\n@functools.singledispatch\ndef f(x): return np.sum(x)"
    found = of(source)
    assert found.versions()["numpy"] == np.__version__
    assert not [name for name in found.parts if "module" in name]
    assert changes(found.parts, of(source.replace("sum", "max")).parts) == ["the function f changed"]


def test_the_name_is_that_of_the_function() -> None:
    """Partials, bound methods and decorators are looked through."""
    assert of("import functools\ndef g(x): 1\nf = functools.partial(g, 1)").name == "g"
    assert of("class C:\n def m(self): 1\nf = C().m").name == "C.m"
    assert of("class C:\n def __call__(self): 1\nf = C()").name == "C"
    assert of("import functools\n@functools.lru_cache\ndef f(x): 1").name == "f"
    assert fingerprint(len).name == "len"


def test_another_python_is_named_alone() -> None:
    """Its code differs in all functions, so nothing else is said."""
    before = {"Python 3.11": "", "the code of f": "1"}
    assert changes(before, {"Python 3.12": "", "the code of f": "2"}) == ["Python 3.12 is used in place of Python 3.11"]
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in fingerprint(len).parts


def test_what_is_new_is_said_where_nothing_changed() -> None:
    """A part that came or went alone is named; beside a changed part it follows from that."""
    assert changes({"a": "1"}, {"a": "1", "b": "2"}) == ["b is new"]
    assert changes({"a": "1", "b": "2"}, {"a": "1"}) == ["b is gone"]
    assert changes({"a": "1"}, {"a": "2", "b": "2"}) == ["a changed"]


def test_what_only_counts_by_its_type_is_named_so() -> None:
    """A captured lock says in the name of its part that nothing else of it was looked at."""
    found = of("import threading\nlock = threading.Lock()\ndef f(x): return lock")
    assert "the global lock (of each lock only the type counts)" in found.parts


def test_functions_of_one_name_are_told_apart() -> None:
    """Two lambdas in one list are two parts, and exchanging them is a change."""
    one = of("k = [lambda: 1, lambda: 2]\ndef f(x): k")
    other = of("k = [lambda: 2, lambda: 1]\ndef f(x): k")
    assert one.digest != other.digest
    assert "the function <lambda> in the global k (2)" in one.parts


def test_modules_made_at_run_time_count_by_content() -> None:
    """A module without a file is its names and values, itself among them."""
    source = "import types\nm = types.ModuleType('made_up')\nm.k = {}\nm.me = m\ndef f(x): return m.k"
    assert of(source.format(1)).digest == of(source.format(1)).digest != of(source.format(2)).digest
