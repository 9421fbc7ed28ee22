"""Pools inside pools: a module that makes or uses a pool at its top level, and tasks that make pools of their own."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import distmap

Write = Callable[..., Path]
_numbers = itertools.count(1)

#: Does not end in the kernel, where it must work, but counts the processes that a worker has started.
MAKES_A_POOL = """
    import psutil
    from distmap import Pool
    pool = Pool(4)
    def children(x):
        return len(psutil.Process().children(recursive=True)), repr(pool)
    def work(x):
        return x * x
    def within(x):
        with pool:
            return pool.map(work, range(x)), [worker.slots for worker in pool.workers]
"""


@pytest.fixture
def helper(beside: Write) -> Callable[[str], Any]:
    """Imports a module with that text, under a name that no other row has."""

    def make(text: str) -> Any:
        name = f"nest{next(_numbers)}"
        beside({f"{name}.py": text})
        return importlib.import_module(name)

    return make


@pytest.fixture(scope="module", autouse=True)
def psutil() -> None:
    """The rows count processes with it."""
    pytest.importorskip("psutil")


def test_a_pool_in_a_global_of_a_module(pool: distmap.Pool, helper: Callable[[str], Any]) -> None:
    """In a task process that imports the module its pool starts nothing until a task uses it; then it works."""
    module = helper(MAKES_A_POOL)
    with module.pool:
        assert module.pool.map(module.work, range(3)) == [0, 1, 4]
        assert pool.map(module.children, range(2)) == [(0, "<Pool: not started, nothing has used it yet>")] * 2
        assert pool.map(module.within, [3]) == [([0, 1, 4], [4])]
        assert pool.map(module.children, range(2), chunksize=1)[0][0] == 0


#: What a module does at its top level with its pool, once; the kernel, which imports it first, must be able to do it.
AT_TOP_LEVEL = {
    "map": "found = pool.map(abs, [-1])",
    "with": "with pool: found = pool.map(abs, [-1])",
    "starmap": "found = pool.starmap(max, [(1, 2)])",
    "map_async": "found = pool.map_async(abs, [-1]).get()",
    "imap": "found = list(pool.imap(abs, [-1]))",
    "apply": "found = pool.apply(abs, (-1,))",
    "submit": "found = pool.submit(abs, -1).result()",
    "executor": "found = list(pool.executor().map(abs, [-1]))",
    "run": "found = pool.run(int)",
    "broadcast": "found = pool.broadcast([1])",
    "workers": "found = pool.workers",
    "map in a function that the top level calls": "def go(): return pool.map(abs, [-1])\nfound = go()",
}


@pytest.mark.parametrize("line", AT_TOP_LEVEL.values(), ids=AT_TOP_LEVEL)
def test_a_call_at_the_top_level_of_a_module(line: str, pool: distmap.Pool, beside: Write) -> None:
    """A worker that imports the module raises one sentence, which names the module, and starts nothing."""
    name = f"nest{next(_numbers)}"
    beside({f"{name}.py": f"from distmap import Pool\npool = Pool('inline')\n{line}\ndef f(x): return x\n"})
    module = importlib.import_module(name)
    try:
        with pytest.raises(RuntimeError, match=f"module '{name}' uses a Pool at its top level") as caught:
            pool.map(module.f, [1])
    finally:
        module.pool.terminate()
    assert "if __name__" in str(caught.value)


def _importing(name: str) -> Callable[[int], object]:
    """A function of the notebook that imports that module when it runs."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(f"def f(x):\n    import {name}\n    return {name}.f(x)", space)
    return space["f"]


def _submit(fn: Callable[..., object]) -> object:
    """By a pool of its own, which ends with its thread for callbacks."""
    with distmap.Pool(1) as pool:
        return pool.submit(fn, 1).result()


#: How a task comes to import such a module, other than by its function.
WAYS: dict[str, Callable[[distmap.Pool, Any, str], object]] = {
    "function": lambda pool, module, name: pool.map(module.f, [1]),
    "item": lambda pool, module, name: pool.map(lambda x: x, [module.Thing()]),
    "import in the function": lambda pool, module, name: pool.map(_importing(name), [1]),
    "broadcast": lambda pool, module, name: pool.map(lambda handle: handle.value, [pool.broadcast(module.Thing())]),
    "submit": lambda pool, module, name: _submit(module.f),
    "run": lambda pool, module, name: pool.run(module.g),
}
MAPS = """
    from distmap import Pool
    with Pool(1) as pool:
        results = pool.map(abs, [-1])
    def f(x): return x
    def g(): return 1
    class Thing: pass
"""


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_to_import_such_a_module(
    way: Callable[[distmap.Pool, Any, str], object], local_pool: distmap.Pool, beside: Write
) -> None:
    """However a task process comes to import it, the top level of the module starts no pool there."""
    name = f"nest{next(_numbers)}"
    beside({f"{name}.py": MAPS})
    module = importlib.import_module(name)
    with pytest.raises(Exception, match=f"module '{name}' uses a Pool at its top level"):
        way(local_pool, module, name)


def test_an_initializer_from_such_a_module(beside: Write) -> None:
    """The initializer's module is imported in the slots like any other."""
    beside({"nested_setup.py": MAPS})
    module = importlib.import_module("nested_setup")
    with distmap.Pool(1, module.g) as pool, pytest.raises(RuntimeError, match="module 'nested_setup' uses a Pool"):
        pool.map(abs, [1])


def test_a_script_that_maps_while_it_is_imported(beside: Write) -> None:
    """A module that maps a function of its own at its top level is told so at once, in the process that imports it."""
    beside(
        {
            "analysis.py": "from distmap import Pool\ndef f(x): return x * x\n"
            "with Pool(1) as pool: results = pool.map(f, range(4))\n"
        }
    )
    with pytest.raises(RuntimeError, match="module 'analysis' uses a Pool at its top level"):
        importlib.import_module("analysis")


def test_a_module_that_fails_is_imported_once(beside: Write, tmp_path: Path) -> None:
    """The chunks that wait behind the first one do not import it again, while a new call does."""
    log = tmp_path / "log"
    text = f"import pathlib, sys\nif 'slots' in dir(sys): pathlib.Path({str(log)!r}).open('a').write('x')\n"
    beside({"fails_there.py": text + "assert 'slots' not in dir(sys), 'only in the kernel'\ndef f(x): return x\n"})
    module = importlib.import_module("fails_there")

    def mark(x: int) -> None:
        import sys

        sys.slots = 1  # type: ignore[attr-defined]

    with distmap.Pool(1) as pool:
        pool.map(mark, [1])
        for _ in range(2):
            with pytest.raises(AssertionError, match="only in the kernel"):
                pool.map(module.f, range(8), chunksize=1)
    assert log.read_text() == "xx"


def test_a_pool_in_a_task_takes_its_share(local_pool: distmap.Pool) -> None:
    """`Pool()` inside a task has as many slots as the task process has cores for itself; `Pool(n)` has n."""

    def slots(n: int | None) -> tuple[int, list[int]]:
        with distmap.Pool(n) as inner:
            return sum(worker.slots for worker in inner.workers), inner.map(abs, [-1, -2])

    from distmap.tasks.nesting import cores

    assert local_pool.map(slots, [None, 2], chunksize=1) == [(max(1, cores() // 2), [1, 2]), (2, [1, 2])]


def test_nesting_has_a_limit(local_pool: distmap.Pool) -> None:
    """Pools inside pools end at a depth with a name, with a sentence."""

    def deeper(x: int) -> int:
        with distmap.Pool(1) as inner:
            return 1 + inner.map(deeper, [x])[0]

    with pytest.raises(RuntimeError, match="3 deep, and 3 is the limit"):
        local_pool.map(deeper, [0])
