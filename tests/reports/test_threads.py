"""First calls from many threads at once: as right as one after the other.

What is imported or filled at first use, two threads may enter together. Each run is a fresh process, for there is only
one first time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType

import pytest

from distmap.tasks import modules

ROOT = Path(__file__).resolve().parents[2]

#: Eight threads, one barrier: each row of `calls` is the first of its kind in this process.
CALLS = """
    import sys, threading
    import distmap

    def add(*xs): return sum(xs) + 1
    def total(xs): return [sum(xs)]
    class Thing:
        def __init__(self, x): self.x = x
        def __eq__(self, other): return type(other) is Thing and other.x == self.x
    def thing(x): return Thing(x)
    def use(x): return handle().value[x]
    def own():
        with distmap.Pool(1) as mine: return mine.map(add, range(3))
    def stream(pool): return list(pool.imap(add, range(3)))
    def shared(pool):
        h = pool.broadcast([4, 5, 6])
        return pool.map(lambda x: h.value[x], range(3))
    def refused(pool):
        try: pool.map(add, [1], timeout="no")
        except (TypeError, ValueError): return "refused"
    def none(pool):
        return issubclass(distmap.NoWorkers, distmap.DistmapError) and distmap.NoWorkers is distmap.errors.NoWorkers

    calls = {
        "map": (lambda pool: pool.map(add, range(3)), [1, 2, 3]),
        "submit": (lambda pool: pool.submit(add, 1, 2).result(), 4),
        "imap": (stream, [1, 2, 3]),
        "starmap": (lambda pool: pool.starmap(add, [(1, 2), (3, 4)]), [4, 8]),
        "map_reduce": (lambda pool: pool.map_reduce(add, range(3), lambda a, b: a + b), 6),
        "map_batches": (lambda pool: pool.map_batches(total, [1, 2, 3, 4], 2), [3, 7]),
        "broadcast": (shared, [4, 5, 6]),
        "classes": (lambda pool: pool.map(thing, [1, 2]), [Thing(1), Thing(2)]),
        "Pool": (lambda pool: own(), [1, 2, 3]),
        "executor": (lambda pool: list(pool.executor().map(add, range(3))), [1, 2, 3]),
        "apply_async": (lambda pool: pool.apply_async(add, (1,)).get(10), 2),
        "error": (none, True),
        "numpy": (lambda pool: __import__("numpy") and pool.map(add, range(3)), [1, 2, 3]),
        "cloudpickle": (lambda pool: __import__("cloudpickle") and pool.map(add, range(3)), [1, 2, 3]),
    }
    names = sys.argv[1].split()
    barrier, wrong = threading.Barrier(len(names)), []
    pool = None if "-" in sys.argv else distmap.Pool(2)

    def work(name):
        call, right = calls[name]
        barrier.wait(10)
        try:
            got = call(pool)
            if got != right: wrong.append(f"{name}: {got}")
        except BaseException as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=[name]) for name in names]
    [t.start() for t in threads]; [t.join() for t in threads]
    if pool is not None: pool.terminate()
    print(wrong or "fine")
"""

ROWS = {
    "eight-maps": "map map map map map map map map",
    "eight-submits": "submit submit submit submit submit submit submit submit",
    "one-of-each": "map submit imap starmap map_reduce map_batches broadcast classes",
    "pools-beside-calls": "Pool Pool map imap executor apply_async error error",
    "beside-imports-of-the-user": "numpy cloudpickle map submit imap map_batches classes classes",
    "eight-pools": "Pool Pool Pool Pool Pool Pool Pool Pool",
}


@pytest.mark.parametrize("names", ROWS.values(), ids=ROWS)
def test_first_calls_of_eight_threads(names: str, tmp_path: Path) -> None:
    """Whatever kinds of first calls come at once, each gives what it gives alone."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CALLS), names, *(["-"] if set(names.split()) == {"Pool"} else [])],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=18,
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


#: What is made at first use, and must be one for all threads: (prelude, expression).
ONE = {
    "errors-of-other-packages": ("from distmap import errors", "id(errors.NoWorkers)"),
    "public-names": ("import distmap", "id(distmap.NoWorkers), id(distmap.Pool)"),
    "token-of-the-environment": (
        "import os\nfrom distmap.transport.token import Secret, load_token\n"
        "os.environ['DISTMAP_TOKEN'] = Secret.generate().reveal()",
        "load_token().reveal()",
    ),
}


@pytest.mark.parametrize(("prelude", "expression"), ONE.values(), ids=ONE)
def test_what_is_made_once_is_one_for_all_threads(prelude: str, expression: str, tmp_path: Path) -> None:
    """Eight threads that ask for it first, at once, are given the same."""
    code = f"""
import sys, threading
{prelude}
barrier, found = threading.Barrier(8), []
def work():
    barrier.wait(10)
    found.append(({expression}))
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(found), len(set(found)))
"""
    env = {name: value for name, value in os.environ.items() if name != "DISTMAP_TOKEN_FILE"}
    env |= {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=18)
    assert (done.stdout, done.stderr) == ("8 1\n", "")


def test_a_module_that_is_being_imported_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a library is used only if it is loaded, one that another thread imports just now counts as not loaded."""
    name = "half_imported_module"
    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text("begun.set()\ngo_on.wait(10)\nfinished = True\n")
    monkeypatch.setattr("builtins.begun", begun, raising=False)
    monkeypatch.setattr("builtins.go_on", go_on, raising=False)
    thread = threading.Thread(target=__import__, args=[name])
    thread.start()
    try:
        assert begun.wait(10)
        assert isinstance(sys.modules[name], ModuleType)
        assert modules.loaded(name) is None
    finally:
        go_on.set()
        thread.join(10)
    assert modules.loaded(name).finished
    assert modules.loaded("no_such_module") is None
    sys.modules.pop(name)
