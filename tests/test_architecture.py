"""The rings of the house, held by reading its source: nothing is imported here.

A module of `distmap` imports only lower rings and its own group. Where a rule stops a change, change the change, or
this table and the design in the same commit.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
#: What is installed: CI runs these tests against a wheel, too.
PACKAGE = Path(str(find_spec("distmap").origin)).parent  # type: ignore[union-attr]

#: Unit (a folder, or a file of the top level) -> ring. The longer name wins: one file may stand apart from its folder.
RINGS = {
    "_version": 0,
    "errors": 0,
    "calls.checks": 0,  # rules for values, of calls and of what they are made of
    "tasks._records": 0,  # kinds of classes only: the pure folders and the shells share them
    "tasks._typing": 0,  # names only: what task processes import of the pure folders needs them too
    "core.limits": 0,  # numbers only, imports nothing: the two pure folders and the shells share them
    "core.launch_limits": 0,  # likewise
    "core.relay_limits": 0,
    "core.ssh_limits": 0,
    "core": 1,
    "wire": 1,
    "relay": 2,  # it forwards what it cannot read: nothing of tokens and sessions is in reach
    "tasks": 2,
    "calls.traces": 3,  # how errors read: views show them too
    "checkpoint": 3,
    "checkpoint.info": 6,  # what views show of a checkpoint
    "driver.portal": 3,  # a loop in its own thread, which a worker has too
    "transport": 3,
    "slots": 4,
    "engine": 5,
    "views": 5,
    "worker": 5,
    "launch": 5,
    "driver": 6,
    "calls": 7,
    "pool": 8,
    "ext": 9,
    "testing": 9,
}

#: Units of one ring that are one thing in several files, and so may import each other (never in a circle).
GROUPS = [
    {
        "calls.checks",
        "core.launch_limits",
        "core.limits",
        "core.relay_limits",
        "core.ssh_limits",
        "tasks._records",
        "tasks._typing",
    },
]

#: The most modules that may lie beside the folders: who looks for a room reads a short list.
MOST_FLAT = 5

#: What a pure folder may not see: anything that waits, asks the clock or a die, or touches the machine.
IMPURE = {
    "_pickle",
    "_signal",
    "_thread",
    "asyncio",
    "concurrent",
    "ctypes",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "pickle",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
}

#: Third-party package -> the only modules that may import it.
IMPORTERS = {
    "IPython": {"views.cell_card"},
    "cloudpickle": {"tasks.cloud"},
    "cryptography": {"transport.tls"},
    "ipyparallel": {"ext.ipyparallel"},
    "ipywidgets": {"views.widgets"},
    "joblib": {"ext.joblib"},
    "psutil": {"slots.memory", "testing.engine_suite", "worker.load"},
    "tqdm": {"views.terminal"},
    "websockets": {
        "relay.relay",
        "transport.dial",
        "transport.hop_errors",
        "transport.listen",
        "transport.room",
        "transport.websocket",
    },
}

#: Who reads the time of the day, and what for. Durations come from a clock that is never set.
WALL_CLOCK = {
    "checkpoint.owner": "two machines share no other clock; the owner must have been silent for long",
    "checkpoint.sections": "when a section of a checkpoint was begun, for people",
    "checkpoint.store": "when a result was kept, for people",
    "launch.attach": "the age of folders that workers which were killed have left",
    "testing.engines": "the day of a record, for people",
    "transport.tls": "the validity of a certificate, which nobody asks for",
}

#: Modules without a test file of their own, and why.
UNTESTED = {
    "_version": "one string",
    "core.events": "frozen records; the scheduler's tests build every one of them",
    "core.launch_limits": "frozen numbers; core/test_limits.py looks at them, too",
    "core.relay_limits": "frozen numbers; core/test_limits.py looks at them, too",
    "core.ssh_limits": "frozen numbers; core/test_limits.py looks at them, too",
    "driver.messages": "records; the tests of the driver and of the calls receive every one of them",
    "engine.base": "protocols only",
    "engine.adapter": "protocols only",
    "launch.launcher": "a protocol only",
    "slots.listener": "a protocol only",
    "tasks.cells": "six numbers; the tests of slots and runner use them",
    "testing.engine_faults": "cases; testing/test_engines.py puts every one of them to real engines",
    "testing.engine_results": "likewise",
    "testing.engine_launches": "the suite tries it, where there is a Slurm",
    "testing.engine_starts": "likewise, each start",
    "testing.engine_work": "what the items of these cases do",
    "views.base": "a protocol only",
    "views.cell_card": "needs a kernel: the one of views/test_notebook.py",
    "views.style": "one string; the tests of the cards show it",
    "wire.messages": "frozen records; the codec's tests send every one of them",
}

#: How much fits where one looks at it: lines of a file and of a function, methods of a class, parameters.
FILE_LINES, FUNCTION_LINES, METHODS, PARAMETERS = 400, 60, 25, 8

#: What is larger all the same, and why. (A file says it at its head: "Longer than 400 lines because ...".)
LARGE = {
    "calls.remote.remote": "the options of a pool that are about workers elsewhere, all of them by keyword",
    "engine.hub.HubEngine": "the port of an engine, and whom it dials and awaits: all of it changes the same members",
    "pool.Pool": "its short calls, with their docstrings, are the face of the package",
    "pool.Pool.__init__": "the options of a pool, most of them by keyword",
    "pool.Pool._assemble": "it makes the parts of a pool in one order: imports while processes start, costly ones last",
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {name: path for name, path in SOURCES.items() if not name.endswith("__init__")}
TEST_FILES = sorted(TESTS.rglob("test_*.py"))


def unit(module: str) -> str:
    """The unit that a module (without the leading `distmap.`) belongs to."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in RINGS:
            return name
    pytest.fail(f"distmap.{module} is in no ring: give it one in RINGS")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name of everything imported, in functions and under TYPE_CHECKING too."""
    return list(_imports(tree_of(path)))


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
                continue
            module = node.module or ""
            for alias in node.names:
                # `from distmap.x import y` may name the module y or a thing in x.
                full = f"{module}.{alias.name}"
                yield node.lineno, full if full.removeprefix("distmap.") in SOURCES else module


def own(name: str) -> str | None:
    return name.removeprefix("distmap.") if name.startswith("distmap.") else None


def test_every_import_goes_down() -> None:
    """A module imports lower rings and its own unit or group only."""
    wrong = []
    for name, path in MODULES.items():
        here = unit(name)
        for line, imported in imports(path):
            if (target := own(imported)) is None:
                continue
            there = unit(target)
            together = here.split(".")[0] == there.split(".")[0] or any({here, there} <= group for group in GROUPS)
            if not together and RINGS[there] >= RINGS[here]:
                wrong.append(f"{path.name}:{line}: {here} (ring {RINGS[here]}) imports {there} (ring {RINGS[there]})")
    assert not wrong, "\n".join(wrong)


def test_few_modules_lie_flat() -> None:
    """Nearly everything lives in a room: at most five modules lie beside the folders."""
    assert len([name for name in SOURCES if "." not in name]) <= MOST_FLAT


def test_no_circle() -> None:
    """No module imports itself through others, not even inside functions."""
    edges = {
        name: {t for _, i in imports(path) if (t := own(i)) and t in MODULES and t != name}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in edges[name]:
                walk(target, (*trail, name))
            done.add(name)

    for name in edges:
        walk(name, ())


def test_the_root_is_never_imported_inside() -> None:
    """The package names modules by their full path, never through its own public face."""
    wrong = [
        f"distmap.{name}:{line}: {imported}"
        for name, path in SOURCES.items()
        for line, imported in imports(path)
        if imported == "distmap" or imported.startswith(".")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["core", "wire"])
def test_pure_folders_touch_nothing(folder: str) -> None:
    """The pure folders import neither the clock, the machine, concurrency nor any third party."""
    wrong = []
    for path in sorted((PACKAGE / folder).glob("*.py")):
        for line, imported in imports(path):
            top = imported.split(".")[0]
            if top != "distmap" and (top in IMPURE or top not in sys.stdlib_module_names):
                wrong.append(f"{path.name}:{line}: {imported}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", IMPORTERS)
def test_one_importer(package: str) -> None:
    """Each third-party package that shapes the design has one place that knows it."""
    found = {name for name, path in SOURCES.items() if any(i.split(".")[0] == package for _, i in imports(path))}
    assert found == IMPORTERS[package], "one that is not needed any more goes"


def test_classes_of_fields_are_cheap() -> None:
    """Named tuples are those of `tasks/_typing.py`; core and driver have records, not dataclasses: they load sooner."""
    found = [
        f"{path.name}:{line}: {imported}"
        for name, path in MODULES.items()
        for line, imported in imports(path)
        if imported == "dataclasses" and name.startswith(("core.", "driver."))
    ]
    found += [
        f"{path.name}:{node.lineno}: typing.NamedTuple"
        for name, path in MODULES.items()
        if name != "tasks._typing"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.module == "typing" and "NamedTuple" in {a.name for a in node.names}
    ]
    assert not found, f"these take the time of an import: {found}"


def test_folder_heads_hold_a_docstring_only() -> None:
    """Importing a folder costs nothing: its `__init__.py` has no code. (The package's own gives the public names.)"""
    for name, path in SOURCES.items():
        if name.endswith(".__init__"):
            body = tree_of(path).body
            assert len(body) == 1, path
            assert isinstance(body[0], ast.Expr), path


def test_every_module_says_what_it_owns() -> None:
    """Every module begins with a docstring."""
    missing = [n for n, p in SOURCES.items() if not ast.get_docstring(tree_of(p))]
    assert not missing


@pytest.mark.parametrize("name", [n for n in MODULES if n not in UNTESTED])
def test_the_tests_mirror_the_package(name: str) -> None:
    """Every module has its test file at the same place under `tests/`."""
    *folders, last = name.split(".")
    assert TESTS.joinpath(*folders, f"test_{last}.py").exists()


def test_the_exemptions_are_needed() -> None:
    """No exemption outlives its module, or its reason: a test file at the module's place."""
    assert set(UNTESTED) <= set(MODULES)
    places = {name: name.split(".") for name in UNTESTED}
    assert not [n for n, (*folders, last) in places.items() if TESTS.joinpath(*folders, f"test_{last}.py").exists()]


def test_the_wall_clock_measures_nothing() -> None:
    """A clock that is set changes no wait and no judgement: only what is shown or dated reads the time of the day."""
    readers = set()
    for name, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            match node:
                case ast.Attribute(value=ast.Name(id="time"), attr="time" | "time_ns"):
                    readers.add(name)
                case ast.Attribute(
                    attr="now" | "today" | "utcnow",
                    value=ast.Attribute(attr="datetime" | "date") | ast.Name(id="datetime" | "date"),
                ):
                    readers.add(name)
                case ast.ImportFrom(module="time", names=names) if {"time", "time_ns"} & {one.name for one in names}:
                    readers.add(name)
    assert readers == set(WALL_CLOCK)


def test_test_folders_are_no_packages() -> None:
    """No `__init__.py` under `tests/`: with import mode importlib it would only hide clashes."""
    assert not list(TESTS.rglob("__init__.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_test_says_what_it_shows() -> None:
    """Every test function has a docstring, and no two tests of a file have one name."""
    wrong = []
    for path in TEST_FILES:
        tree = tree_of(path)
        bodies = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
        for body in bodies:
            tests = [
                node
                for node in body.body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
            ]
            names = [node.name for node in tests]
            wrong += [f"{path.name}: {n} is there twice" for n in sorted({n for n in names if names.count(n) > 1})]
            wrong += [f"{path.name}:{node.lineno}: {node.name}" for node in tests if not ast.get_docstring(node)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["core", "wire"])
def test_pure_tests_wait_for_nothing(folder: str) -> None:
    """Tests of the pure folders use no sleep, no mock, no event loop and no clock."""
    wrong = []
    for path in sorted((TESTS / folder).rglob("*.py")):
        tree = tree_of(path)
        used = {i.split(".")[0] for _, i in imports(path)}
        used |= {i for _, i in imports(path) if i.endswith("mock")}
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        wrong += [f"{path.name}: {n}" for n in used & {"asyncio", "mock", "unittest.mock", "time", "threading"}]
        wrong += [f"{path.name}: {n}" for n in names & {"sleep", "Mock", "MagicMock"}]
    assert not wrong, "\n".join(wrong)


def test_no_bare_sleep() -> None:
    """Tests wait for events with a deadline: nobody calls `time.sleep` in a test's own body."""
    wrong = []
    for path in TEST_FILES:
        for node in functions(path):
            if node.name.startswith("test"):
                # A nested function is what the test sends away; it may sleep as users' functions do.
                inner = {id(n) for f in ast.walk(node) if f is not node and isinstance(f, _SCOPES) for n in ast.walk(f)}
                wrong += [
                    f"{path.name}:{call.lineno}"
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call) and id(call) not in inner and _is_sleep(call.func)
                ]
    assert not wrong, "\n".join(wrong)


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _is_sleep(func: ast.expr) -> bool:
    if not isinstance(func, ast.Attribute) or func.attr != "sleep" or not isinstance(func.value, ast.Name):
        return False
    return func.value.id in ("time", "asyncio")


# --- sizes ------------------------------------------------------------------------------------------------------------


def _sizes(name: str, node: ast.AST) -> Iterator[tuple[str, str, int, int]]:
    """Of every class and function below a node: its dotted name, what is counted, how many there are, and the limit."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            methods = [one for one in child.body if isinstance(one, _FUNCTIONS) and not _is_overload(one)]
            yield f"{name}.{child.name}", "methods", len(methods), METHODS
        elif isinstance(child, _FUNCTIONS):
            end = child.end_lineno or child.lineno
            yield f"{name}.{child.name}", "lines", end - child.lineno + 1, FUNCTION_LINES
            given = child.args
            names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            count = len(names) + bool(given.vararg) + bool(given.kwarg) - (names[:1] in (["self"], ["cls"]))
            yield f"{name}.{child.name}", "parameters", count, PARAMETERS
        named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _sizes(f"{name}.{child.name}" if named else name, child)  # type: ignore[attr-defined]


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list)


def _too_large(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """What of a module is above a limit: its dotted name, and a sentence."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    head = ast.get_docstring(tree_of(path)) or ""
    if lines > FILE_LINES and f"\nLonger than {FILE_LINES} lines because" not in head:
        yield name, f"{lines} lines, and its head does not say why (Longer than {FILE_LINES} lines because ...)"
    for full, what, count, limit in _sizes(name, tree_of(path)):
        if count > limit:
            yield full, f"{count} {what}, more than {limit}"


def test_nothing_is_too_large() -> None:
    """Files, functions, classes and lists of parameters keep their sizes, or stand in the table with a reason."""
    found = dict(pair for name, path in SOURCES.items() for pair in _too_large(name, path))
    assert not [f"{name}: {words}" for name, words in found.items() if name not in LARGE]
    assert set(LARGE) <= set(found), "a row that is not needed any more goes"


def test_every_folder_says_what_lives_there() -> None:
    """The head of a folder has more than one line: what it holds, what it may import, where to begin reading."""
    heads = {name.removesuffix(".__init__"): path for name, path in SOURCES.items() if name.endswith(".__init__")}
    assert not [name for name, path in heads.items() if "\n" not in (ast.get_docstring(tree_of(path)) or "")]
