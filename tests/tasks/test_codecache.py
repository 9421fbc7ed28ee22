"""The cache of pickled functions gives what it has while nothing that a function reaches has changed."""

from __future__ import annotations

import functools
import gc
import importlib
import math
import sys
import timeit
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmap.core.limits import LIMITS
from distmap.tasks import codecache
from distmap.tasks.broadcast import Broadcast
from distmap.tasks.codecache import CodeCache


def prepare(value: object) -> None:
    """A set-up."""


def notebook(source: str, **names: Any) -> dict[str, Any]:
    """Run a cell: what it defines belongs to `__main__`, and is pickled by value."""
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace


@pytest.mark.parametrize(
    ("source", "stateless"),
    [
        ("def f(x): return k + g(x)\ndef g(x): y = x; return [y for _ in t]", True),
        ("f = math.sqrt", True),
        ("f = functools.partial(math.pow, 2)", True),
        ("def f(x):\n  n = 0\n  def g():\n    nonlocal n\n    n += 1\n  g()\n  return n", True),
        ("def f(x):\n  global k\n  k += 1", False),
        ("def f(x):\n  global k\n  del k", False),
        ("def f(x): return g(x)\ndef g(x):\n  global k\n  k = x", False),
        ("def f(x):\n  def g():\n    global k\n    k = x\n  g()", False),
        ("def f(x): f.last = x", False),
        ("def f(x): setattr(f, 'last', x)", False),
        ("def f(x): globals()['k'] = x", False),
        ("def f(x): f.__dict__['last'] = x", False),
        ("def h():\n  n = 0\n  def f(x):\n    nonlocal n\n    n += 1\n  return f\nf = h()", False),
    ],
)
def test_a_function_that_may_leave_something_behind_is_told_apart(source: str, stateless: bool) -> None:
    """One that travels by value is loaded anew for each call, unless it can change nothing of what it brings."""
    cell = notebook(source, k=1, math=math, functools=functools, t=(1, 2))
    assert CodeCache().get(cell["f"]).stateless is stateless


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("def f(x): return k", "k = 2"),
        ("def f(x): return g(x)\ndef g(x): return 1", "def g(x): return 2"),
        ("def f(x): return g(x)\ndef g(x): return k", "k = 2"),
        ("def f(x): return lambda: k", "k = 2"),
        ("def f(x): return nothing_yet", "nothing_yet = 2"),
        ("def f(x): return m.pi", "import cmath as m"),
        ("def f(x): return k", "del k"),
        ("def f(x, d=1): return d", "f.__defaults__ = (2,)"),
        ("def f(x): return 1", "f.__code__ = (lambda x: 2).__code__"),
        ("def f(x): return 1", "f.note = 2"),
        ("def f(x): return t", "t = (1, (3,))"),
    ],
)
def test_a_change_that_the_function_can_see_is_seen(source: str, change: str) -> None:
    """Cached code is used while nothing reachable by name has changed, and no longer."""
    cell = notebook(source, k=1, m=math, t=(1, (2,)))
    cache = CodeCache()
    first = cache.get(cell["f"])
    assert cache.get(cell["f"]) is first
    exec(change, cell)
    assert cache.get(cell["f"]) is not first


@pytest.mark.parametrize(
    "source",
    [
        "k = []\ndef f(x): return k",
        "class C: pass\ndef f(x): return C()",
        "k = (1, [2])\ndef f(x): return k",
        "def f(x, d=[]): return d",
        "def f(x, *, d=1): return d",
        "f = lambda x: g(x)\ng = [].append",
        "import numpy\nk = numpy.zeros(3)\ndef f(x): return k",
        "def f(x): return 1\nf.note = []",
    ],
)
def test_what_may_change_unseen_is_never_cached(source: str) -> None:
    """A function that reaches anything mutable is pickled each time."""
    cell = notebook(source)
    cache = CodeCache()
    assert cache.get(cell["f"]) is not cache.get(cell["f"])


def test_large_captures_are_told_apart_by_content() -> None:
    """For `submit` an array of any size gives the same digest until it is changed in place or bound anew."""
    big = np.zeros(500_000)
    cell = notebook("def f(x): return big", big=big)
    cache = CodeCache()
    first = cache.get(cell["f"])
    assert cache.get(cell["f"]).digest == first.digest
    big[400_000] = 1
    second = cache.get(cell["f"])
    assert second.digest != first.digest
    big[400_000] = 0
    assert cache.get(cell["f"]).digest == first.digest
    cell["big"] = np.ones(500_000)
    assert cache.get(cell["f"]).digest not in (first.digest, second.digest)


def test_who_submits_a_large_capture_for_long_is_told_of_broadcast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it at each call takes time: after a while a warning names the function and the remedy, once."""
    monkeypatch.setattr(codecache, "_LONG", 1e-9)
    cache = CodeCache()
    cell = notebook("def f(x): return big", big=np.zeros(500_000))
    with pytest.warns(UserWarning, match=r"the 3 MB that function f\(\) captures.*pool.broadcast"):
        cache.get(cell["f"])
    cache.get(cell["f"])


def test_a_module_without_source_is_never_cached() -> None:
    """Its content may change without a trace."""
    module = types.ModuleType("made_without_source")
    sys.modules["made_without_source"] = module
    try:
        cell = notebook("def f(x): return m", m=module)
        cache = CodeCache()
        assert cache.get(cell["f"]) is not cache.get(cell["f"])
    finally:
        del sys.modules["made_without_source"]


def test_captured_variables_are_watched() -> None:
    """A cell of a closure that is given another value, or none, makes new code."""
    k: Any = 1

    def f(x: int) -> Any:
        return k  # noqa: F821  (deleted below)

    cache = CodeCache()
    first = cache.get(f)
    assert cache.get(f) is first
    k = 2
    second = cache.get(f)
    assert second is not first
    del k
    assert cache.get(f) is not second


def test_importable_functions_are_cached() -> None:
    """Builtins, installed functions and classes, and functions that use them."""
    handle = Broadcast(1)
    cell = notebook(
        "def f(x): return math.floor(sqrt(x)), P, h, T", math=math, sqrt=math.sqrt, P=Path, h=handle, T=(1, "a")
    )
    cache = CodeCache()
    for fn in (len, math.sqrt, functools.reduce, importlib.import_module, Path, cell["f"]):
        assert cache.get(fn) is cache.get(fn)
    # An instance is never cached, its class is.
    assert cache.get(Path, "call") is cache.get(Path, "call")
    assert cache.get(len) is not cache.get(len, "call")
    handle.release()


def test_the_cache_is_bounded() -> None:
    """It forgets rather than grows, and tells apart what runs before a function."""
    cache = CodeCache(size=2)
    first = cache.get(len)
    setups = (cache.setup(print, frozenset(), ()),)
    assert cache.get(len) is first
    assert cache.get(len, "one", setups).digest != first.digest
    for fn in (abs, max, min):
        cache.get(fn)
    assert cache.get(len) is not first


def test_large_captures_of_a_map_are_not_hashed() -> None:
    """The code of a call over many items is its own each time; that of a submit is the same while its content is."""
    f = notebook("def f(x): return x + data[0]", data=np.zeros(1 << 20))["f"]
    cache = CodeCache()
    assert cache.get(f).digest == cache.get(f).digest
    assert cache.get(f, exact=False).digest != cache.get(f, exact=False).digest


def test_a_call_keeps_no_function_that_holds_a_handle() -> None:
    """The value goes with its handle, which may be held by the function alone; submits keep it, as they are many."""
    made = notebook("def f(x): return handle.value + x", handle=Broadcast(1))
    function = made["f"]
    cache = CodeCache()
    cache.get(function, exact=False)
    gone = weakref.ref(function)
    made.clear()
    del function, made
    gc.collect()
    assert gone() is None


def test_a_hit_is_cheap() -> None:
    """Looking up a simple function costs far less than pickling it: microseconds, not tens of them."""
    cell = notebook("def f(x): return x * x")
    cache = CodeCache()
    cache.get(cell["f"])
    best = min(timeit.repeat(lambda: cache.get(cell["f"]), number=1000, repeat=5)) / 1000
    assert best < 10e-6


def test_files_are_looked_at_once_for_many_submits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each; again in the next cell of a notebook, and after a while: then an edit that took effect is seen."""
    (tmp_path / "looked_at.py").write_text("def f(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    shell = types.SimpleNamespace(execution_count=1)
    notebook_like = types.ModuleType("IPython")
    notebook_like.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", notebook_like)
    looks: list[int] = []
    holds = codecache.unchanged
    monkeypatch.setattr(codecache, "unchanged", lambda files: looks.append(len(files)) or holds(files))
    monkeypatch.setattr(codecache, "LIMITS", LIMITS._replace(stamp_seconds=60.0))
    module = importlib.import_module("looked_at")
    try:
        cache = CodeCache()
        first = cache.get(module.f)
        assert [cache.get(module.f) for _ in range(100)] == [first] * 100
        assert looks == [1]

        def autoreloaded(text: str) -> None:
            (tmp_path / "looked_at.py").write_text(text)
            module.f.__code__ = notebook(text)["f"].__code__

        autoreloaded("def f(x):\n    return 2 * x\n")
        shell.execution_count = 2
        second = cache.get(module.f)
        assert second.digest != first.digest
        autoreloaded("def f(x):\n    return 300 * x\n")
        monkeypatch.setattr(codecache, "LIMITS", LIMITS._replace(stamp_seconds=0.0))
        cache.get(module.f)
        assert cache.get(module.f).digest not in (first.digest, second.digest)
        monkeypatch.setattr(codecache, "LIMITS", LIMITS._replace(stamp_seconds=60.0))
        third = cache.get(module.f)
        (tmp_path / "looked_at.py").write_text("def f(x):\n    return 4000 * x\n")
        assert cache.get(module.f) is third
        importlib.reload(module)
        assert cache.get(module.f).digest != third.digest
    finally:
        del sys.modules["looked_at"]
