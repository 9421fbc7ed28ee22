"""Local modules as plain Python imports them: their files, their data, their neighbours, what replaces them."""

from __future__ import annotations

import concurrent.futures
import importlib
import itertools
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import distmap
from distmap.testing.workers import WorkerProcess

Write = Callable[..., Path]
_numbers = itertools.count(1)


def _fresh(beside: Write, files: dict[str, Any]) -> str:
    """Write files, `~` in names and texts standing for a name that no other row has; gives that name."""
    name = f"mod{next(_numbers)}"
    beside({path.replace("~", name): text.replace("~", name) for path, text in files.items()})
    return name


def _is_far(pool: distmap.Pool) -> bool:
    return pool.workers[0].address != "local"


# --- files ------------------------------------------------------------------------------------------------------------

#: What a module of a package may look at; each gives what it gives in plain Python.
LOOKS = """
    import importlib.resources, importlib.util, inspect, linecache, os, pkgutil, traceback
    from importlib import resources
    from pathlib import Path

    TOP = __name__.partition(".")[0]

    def files(x):
        return resources.files(TOP).joinpath("data.txt").read_text()
    def files_of_a_subpackage(x):
        return resources.files(TOP + ".sub").joinpath("table.csv").read_text()
    def listing(x):
        return sorted(path.name for path in resources.files(TOP).iterdir() if path.name[0] not in "_.")
    def as_file(x):
        with resources.as_file(resources.files(TOP) / "data.txt") as path:
            return path.is_file(), path.read_bytes()
    def open_binary(x):
        with resources.open_binary(TOP, "raw.bin") as file:
            return file.read()
    def get_data(x):
        return pkgutil.get_data(TOP, "data.txt"), pkgutil.get_data(TOP, "deep/er/x.json")
    def beside_file(x):
        here = Path(__file__)
        return here.with_name("table.csv").read_text(), here.parents[1].joinpath("data.txt").read_text()
    def by_spec(x):
        spec = __spec__
        return spec.name, spec.parent, Path(spec.origin).name, spec.has_location, Path(spec.origin).is_file()
    def by_path(x):
        package = importlib.import_module(TOP)
        return [Path(path).name for path in package.__path__], os.path.isdir(package.__path__[0])
    def by_loader(x):
        loader = __loader__
        return (
            loader.is_package(__name__), Path(loader.get_filename(__name__)).name, len(loader.get_source(__name__)),
            loader.get_data(str(Path(__file__).with_name("table.csv"))), loader.get_code(__name__) is not None,
        )
    def source_of_a_function(x):
        return inspect.getsource(files)
    def source_of_the_module(x):
        return len(inspect.getsource(importlib.import_module(__name__)))
    def source_file(x):
        return Path(inspect.getsourcefile(files)).name, Path(inspect.getfile(files)).name
    def lines_of_a_traceback(x):
        try:
            raise KeyError(x)  # this line
        except KeyError as error:
            return traceback.format_exception(error)[1].strip().split("\\n")[-1]
    def lines_of_the_cache(x):
        return linecache.getline(__file__, 1), len(linecache.getlines(__file__))
    def submodules(x):
        return sorted(info.name for info in pkgutil.walk_packages(importlib.import_module(TOP).__path__, TOP + "."))
    def specs(x):
        found = importlib.util.find_spec(TOP + ".sub")
        return found.name, Path(found.origin).name, found.submodule_search_locations is not None
"""
NAMES = [line.split()[1].partition("(")[0] for line in LOOKS.splitlines() if line.startswith("    def ")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_module_finds_its_files(name: str, pool: distmap.Pool, beside: Write) -> None:
    """Files, data and source of a local package are on every worker what they are here."""
    package = _fresh(
        beside,
        {
            "~/__init__.py": "",
            "~/data.txt": "hello",
            "~/raw.bin": "\0\1",
            "~/deep/er/x.json": "{}",
            "~/sub/__init__.py": "",
            "~/sub/table.csv": "a,b",
            "~/sub/looks.py": LOOKS,
        },
    )
    fn = getattr(importlib.import_module(f"{package}.sub.looks"), name)
    assert pool.map(fn, [1, 2], chunksize=1) == [fn(1), fn(2)]


def test_data_that_is_edited(pool: distmap.Pool, beside: Write) -> None:
    """The next call finds the data file as it is then, also one that has come or gone, and `submit` as well."""
    text = """
        from importlib import resources
        def read(name):
            path = resources.files("~") / name
            return path.read_text() if path.is_file() else None
    """
    name = _fresh(beside, {"~/__init__.py": text, "~/one.txt": "old"})
    read = importlib.import_module(name).read
    assert pool.map(read, ["one.txt", "two.txt"]) == ["old", None]
    folder = beside({f"{name}/one.txt": "newer", f"{name}/two.txt": "come"})
    assert pool.map(read, ["one.txt", "two.txt"]) == ["newer", "come"]
    assert pool.apply(read, ("one.txt",)) == "newer"
    (folder / name / "one.txt").unlink()
    assert pool.apply(read, ("one.txt",)) is None


#: What does not travel: files, a function that reads one of them, and the words of the note.
LEFT_OUT: dict[str, tuple[dict[str, str], str, str]] = {
    "too large": (
        {"~/__init__.py": "", "~/big.bin": ""},
        "Path(__file__).with_name('big.bin')",
        "big.bin (17.0 MB) did not",
    ),
    "too many": (
        {"~/__init__.py": "", "~/big.bin": "", **{f"~/a/{at}": "" for at in range(2000)}},
        "Path(__file__).with_name('big.bin')",
        "big.bin may be one of those that did not travel: of local packages 2,000 data files do",
    ),
    "no package": ({"big.bin": ""}, "Path(__file__).with_name('big.bin')", "not beside a single module such as"),
}


@pytest.mark.parametrize(("files", "path", "words"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_data_that_does_not_travel(
    files: dict[str, str], path: str, words: str, pool: distmap.Pool, beside: Write
) -> None:
    """On this machine it is there; elsewhere the error has a note that says why it is not, and what to do."""
    where = "~/reads.py" if "~/__init__.py" in files else "~.py"
    text = f"from pathlib import Path\ndef read(x):\n    with open({path}, 'rb') as file: return len(file.read())"
    name = _fresh(beside, {**files, where: text})
    (big,) = beside({}).glob("**/big.bin")
    with big.open("wb") as file:
        file.truncate(17 << 20)
    read = importlib.import_module(where.replace("~", name)[:-3].replace("/", ".")).read
    if not _is_far(pool):
        assert pool.map(read, [1]) == [17 << 20]
        return
    with pytest.raises(FileNotFoundError) as caught:
        pool.map(read, [1])
    assert words in "\n".join(caught.value.__notes__)


JOINED = """
    import sys, threading
    from pathlib import Path
    import distmap, joined
    busy, url = sys.argv[1:]
    with distmap.Pool(1) as pool:
        job = pool.map_async(joined.read, [busy, *[""] * 5], chunksize=1, on_error="return")
        while not Path(busy, "busy").exists():
            threading.Event().wait(0.005)
        pool.add(url)
        while not job.progress or job.progress.done < 3:
            threading.Event().wait(0.005)
        Path(busy, "free").touch()
        print(*job.get(15)[-1].__notes__)
        print(pool.map(joined.read, [""], tags=["far"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a path that only one process knows")
def test_data_of_a_call_that_a_first_worker_joins(tmp_path: Path) -> None:
    """A call that began without other machines brings them no files: the error there says so, the next call does."""
    text = """
        import time
        from pathlib import Path
        def read(busy):
            if busy:
                Path(busy, "busy").touch()
                while not Path(busy, "free").exists():
                    time.sleep(0.005)
            return Path(__file__).with_name("data.txt").read_text()
    """
    package = tmp_path / "joined"
    package.mkdir()
    (package / "__init__.py").write_text(textwrap.dedent(text))
    (package / "data.txt").write_text("data")
    fd = os.open(tmp_path, os.O_RDONLY)
    env = {**os.environ, "PYTHONPATH": f"/proc/self/fd/{fd}"}
    with WorkerProcess("--port", "0", "--slots", "1", "--tag", "far", env={"TMPDIR": str(tmp_path)}) as worker:
        command = [sys.executable, "-c", textwrap.dedent(JOINED), str(tmp_path), worker.url]
        done = subprocess.run(command, env=env, pass_fds=[fd], capture_output=True, text=True, timeout=18)
    os.close(fd)
    notes, after = [*done.stdout.splitlines(), "", done.stderr][:2]
    assert "data.txt did not travel: when this call began its pool had no workers on other machines" in notes
    assert after == "['data']", done.stderr


# --- how modules come about -------------------------------------------------------------------------------------------

#: A function of x, by its path in the module `~`, and files: each after a line with its name.
KINDS = {
    "circular imports": (
        "f",
        """
        -- ~/__init__.py
        from .a import f
        -- ~/a.py
        from . import b
        K = 1
        def f(x): return b.g(x) + K
        -- ~/b.py
        from . import a
        def g(x): return x * 10 + a.K
        """,
    ),
    "namespace package": (
        "deep.mod.f",
        """
        -- ~/deep/mod.py
        from . import other
        def f(x): return other.K + x
        -- ~/deep/other.py
        K = 5
        """,
    ),
    "data of a namespace package": (
        "mod.f",
        """
        -- ~/mod.py
        from importlib.resources import files
        def f(x): return files("~").joinpath("x.txt").read_text()
        -- ~/x.txt
        t
        """,
    ),
    "lazy attributes": (
        "f",
        """
        -- ~/__init__.py
        def __getattr__(name):
            import importlib
            if name != "late":
                raise AttributeError(name)
            return importlib.import_module(".late", __name__)
        def f(x):
            import ~
            return ~.late.K + x
        -- ~/late.py
        K = 7
        """,
    ),
    "replaced by an object": (
        "g",
        """
        -- ~.py
        import sys
        class Lazy:
            K = 3
            @staticmethod
            def g(x):
                import ~
                return ~.K + x
        sys.modules[__name__] = Lazy()
        """,
    ),
    "replaced by a module": (
        "f",
        """
        -- ~.py
        import sys, types
        class Module(types.ModuleType):
            @property
            def K(self): return 4
        def f(x): return sys.modules[__name__].K + x
        new = Module(__name__)
        new.f = f
        sys.modules[__name__] = new
        """,
    ),
    "a class of a replaced module": (
        "bound",
        """
        -- ~.py
        import sys
        class Thing:
            def f(self, x): return x + 1
        class Lazy: pass
        lazy = Lazy()
        lazy.Thing = Thing
        lazy.bound = Thing().f
        sys.modules[__name__] = lazy
        """,
    ),
    "dynamic import by a literal": (
        "f",
        """
        -- ~.py
        import importlib
        def f(x): return importlib.import_module("~_plugin").K + x
        -- ~_plugin.py
        K = 8
        """,
    ),
    "relative dynamic import": (
        "f",
        """
        -- ~/__init__.py
        from importlib import import_module
        def f(x): return import_module(".part", __package__).K + x
        -- ~/part.py
        K = 9
        """,
    ),
    "__import__": (
        "f",
        """
        -- ~.py
        def f(x): return __import__("~_other").K + x
        -- ~_other.py
        K = 2
        """,
    ),
    "a lambda of a module": (
        "f",
        """
        -- ~.py
        import ~_impl as impl
        f = lambda x: impl.g(x)
        -- ~_impl.py
        def g(x): return x
        """,
    ),
    "an import for type checkers": (
        "f",
        """
        -- ~.py
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import ~_types
        def f(x): return x
        -- ~_types.py
        1 / 0
        """,
    ),
}


def _files(text: str) -> dict[str, str]:
    parts = textwrap.dedent(text).strip().split("-- ")[1:]
    return {name: content for name, _, content in (part.partition("\n") for part in parts)}


@pytest.mark.parametrize(("path", "text"), KINDS.values(), ids=KINDS)
def test_a_kind_of_module(path: str, text: str, pool: distmap.Pool, beside: Write) -> None:
    """A function of such a module gives on a worker what it gives here; so does a lambda that uses the module."""
    name = _fresh(beside, _files(text))
    found: Any = importlib.import_module(f"{name}.{path.rpartition('.')[0]}" if path.count(".") else name)
    fn = getattr(found, path.rpartition(".")[2])
    assert pool.map(fn, [1, 2]) == [fn(1), fn(2)]
    assert pool.map(lambda x: fn(x), [1, 2]) == [fn(1), fn(2)]


def test_a_module_whose_file_has_gone(pool: distmap.Pool, beside: Write) -> None:
    """What was imported from a file that was removed or renamed since goes by value."""
    text = """
        K = 2
        def g(x): return x + K
        def f(x): return g(x)
        class Thing:
            def __init__(self, x): self.x = x
            def value(self): return f(self.x)
        def make(x): return Thing(x)
    """
    name = _fresh(beside, {"~/__init__.py": "", "~/late.py": text})
    module = importlib.import_module(f"{name}.late")
    (beside({}) / name / "late.py").unlink()
    assert pool.map(module.f, [1, 2]) == [3, 4]
    assert pool.map(module.Thing.value, [module.Thing(1)]) == [3]
    assert {type(made) for made in pool.map(module.make, [1, 2], chunksize=1)} == {module.Thing}


def test_a_global_that_is_a_replaced_module(pool: distmap.Pool, beside: Write) -> None:
    """A function of the notebook that uses it finds the worker's own, as with any module."""
    name = _fresh(
        beside,
        {"~.py": "import sys\nclass Config:\n    def __init__(self): self.seen = 1\nsys.modules[__name__] = Config()"},
    )
    config: Any = importlib.import_module(name)
    config.seen = 2
    assert pool.map(lambda x: config.seen + x, [1]) == [2]


def test_dynamic_imports_of_a_function(pool: distmap.Pool, beside: Write) -> None:
    """A literal in a function of the notebook is seen like an import statement."""
    beside({"plugged.py": "K = 6", "plug/__init__.py": "", "plug/ged.py": "K = 7"})

    def fn(x: int) -> int:
        import importlib

        return importlib.import_module("plugged").K + importlib.import_module("plug.ged").K + x

    assert pool.map(fn, [1]) == [14]


def test_a_dynamic_import_that_nobody_sees(pool: distmap.Pool, beside: Write) -> None:
    """It works on this machine; elsewhere the ModuleNotFoundError says how to make the module travel."""
    name = _fresh(
        beside, {"~/__init__.py": "", "~/one.py": "def f(x): return __import__(x)", "~/two.py": "", "~_alone.py": ""}
    )
    one = importlib.import_module(f"{name}.one")
    for missing, words in {
        f"{name}.two": "of the local package",
        f"{name}_alone": "imports it by name: `import",
    }.items():
        if not _is_far(pool):
            assert pool.map(lambda x: one.f(x).__name__, [missing]) == [name if "." in missing else missing]
            continue
        with pytest.raises(ModuleNotFoundError, match=missing) as caught:
            pool.map(one.f, [missing])
        assert words in "\n".join(caught.value.__notes__)


# --- what looks like an installation ----------------------------------------------------------------------------------

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
#: Files that make the package `~` one that goes by reference, or not.
INSTALLATIONS: dict[str, tuple[dict[str, str], bool]] = {
    "pip --target": ({"~-1.0.dist-info/RECORD": "~/__init__.py,sha256=x,1\n"}, True),
    "an old installer": ({"~.egg-info/installed-files.txt": "../~/__init__.py\n"}, True),
    "an egg": ({"EGG-INFO/PKG-INFO": ""}, True),
    "compiled parts": ({f"~/deep/_fast{SUFFIX}": ""}, True),
    "dist-info of somebody else": ({"other-1.0.dist-info/RECORD": "other/__init__.py,,\n"}, False),
    "development": ({"~.egg-info/top_level.txt": "~\n", "pyproject.toml": ""}, False),
    "a library for ctypes": ({"~/lib~.so": ""}, False),
    "compiled for another Python": ({"~/_fast.cpython-27m-x86_64-linux-gnu.so": ""}, False),
}


@pytest.mark.parametrize(("files", "by_reference"), INSTALLATIONS.values(), ids=INSTALLATIONS)
def test_a_folder_that_looks_like_an_installation(
    files: dict[str, str], by_reference: bool, pool: distmap.Pool, beside: Write
) -> None:
    """It is imported from the same path on this machine; a worker that lacks it says so, and how to mend that."""
    name = _fresh(beside, {"~/__init__.py": "from .part import f", "~/part.py": "def f(x): return x + 1", **files})
    fn = importlib.import_module(name).f
    if not (by_reference and _is_far(pool)):
        assert pool.map(fn, [1]) == [2]
        return
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'") as caught:
        pool.map(fn, [1])
    assert f"an installed package '{name}' must be installed on the worker" in "\n".join(caught.value.__notes__)


def test_an_item_of_a_package_that_is_missing_there(pool: distmap.Pool, beside: Write) -> None:
    """An item that cannot be unpickled for that reason has the same note."""
    name = _fresh(beside, {"~/__init__.py": "class Thing: k = 1", f"~/_fast{SUFFIX}": ""})
    things = [importlib.import_module(name).Thing()]
    if not _is_far(pool):
        assert pool.map(lambda thing: thing.k, things) == [1]
        return
    with pytest.raises(distmap.PayloadError) as caught:
        pool.map(lambda thing: thing.k, things)
    assert f"an installed package '{name}' must be installed on the worker" in "\n".join(caught.value.__notes__)


def test_a_package_with_compiled_parts_that_is_edited(local_pool: distmap.Pool, beside: Write) -> None:
    """Task processes that have imported it go on with that, as one warning says; a new pool has the new text."""
    name = _fresh(beside, {"~/__init__.py": "def f(x): return 'old'", f"~/_fast{SUFFIX}": ""})
    module = importlib.import_module(name)
    assert local_pool.map(module.f, [1, 2], chunksize=1) == ["old"] * 2
    beside({f"{name}/__init__.py": "def f(x): return 'newer'"})
    importlib.reload(module)
    with pytest.warns(UserWarning, match=f"module '{name}' was imported again here"):
        local_pool.map(module.f, [1])
    local_pool.map(module.f, [1])
    with distmap.Pool(1) as pool:
        assert pool.map(module.f, [1]) == ["newer"]


def test_only_what_is_reached_travels(
    local_pool: distmap.Pool, beside: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a package the modules that are imported; the log says which, and how large they are together."""
    name = _fresh(
        beside, {"~/__init__.py": "", "~/used.py": "def f(x): return x", "~/unused.py": "x = 1", "~/data.txt": "x"}
    )
    with caplog.at_level("INFO", logger="distmap"):
        local_pool.map(importlib.import_module(f"{name}.used").f, [1])
    (line,) = [record.getMessage() for record in caplog.records if "modules that travel" in record.getMessage()]
    assert line.endswith(f"kB in all: {name}, {name}.used")


# --- where they are read ----------------------------------------------------------------------------------------------


def test_local_modules_are_not_read_on_the_loop(pool: distmap.Pool, beside: Write) -> None:
    """Files are looked at, read and parsed by whoever calls, for items of local classes too, never by the loop."""
    files = {"~/__init__.py": "from .part import Thing", "~/part.py": "class Thing:\n    k = 3", "~/x.txt": ""}
    calls: list[Callable[[Callable[[Any], int], Any], object]] = [
        lambda fn, item: pool.apply(fn, (item,)),
        lambda fn, item: pool.map(fn, [item])[0],
        lambda fn, item: pool.map_async(fn, [item]).get()[0],
        lambda fn, item: next(pool.imap(fn, [item])),
    ]
    # Each call has a module of its own, which nobody has read yet.
    things = [importlib.import_module(_fresh(beside, files)).Thing for _ in calls]
    seen: set[str] = set()
    watching = [True]

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if watching and (event == "compile" or (event == "open" and "/mod" in str(args[0]))):
            seen.add(threading.current_thread().name)

    sys.addaudithook(watch)
    try:
        assert [call(lambda x: x.k, thing()) for call, thing in zip(calls, things, strict=True)] == [3] * 4
    finally:
        watching.clear()
    assert "MainThread" in seen, "nothing was read: the test looks in the wrong place"
    assert "distmap" not in seen


# --- versions ---------------------------------------------------------------------------------------------------------


def _installed(folder: Path, version: str, top: str = "versioned") -> Path:
    """A folder with one installed package, `top`, of the distribution of that name with a dash in front."""
    info = folder / f"dist_{top}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{top}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{top}.py,,\n{info.name}/METADATA,,\n")
    (info / "top_level.txt").write_text(top)
    (folder / f"{top}.py").write_text(f"V = {version!r}\ndef f(x): return V\nclass Thing: pass\n")
    return folder


@pytest.fixture(scope="module")
def other_versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[distmap.Pool]:
    """Two workers that have another version of a package than this process."""
    folder = _installed(tmp_path_factory.mktemp("there"), "2.0")
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).syspath_prepend(
            str(_installed(tmp_path_factory.mktemp("here"), "1.0"))
        )
        workers = [
            stack.enter_context(
                WorkerProcess("--port", "0", "--slots", "1", "--name", name, env={"PYTHONPATH": str(folder)})
            )
            for name in ("ann", "bob")
        ]
        pool = stack.enter_context(distmap.Pool([worker.url for worker in workers]))
        pool.wait_for_workers(2, 15)
        yield pool


def _second(thing: object, x: int) -> int:
    return x


#: How a function comes to use the package, as functions of a chunk's worth of items.
USES: dict[str, Callable[[Any], Callable[[int], object]]] = {
    "its own function": lambda module: module.f,
    "a lambda over the module": lambda module: lambda x: module.V,
    "a lambda over its function": lambda module: lambda x: (module.f(x), time.sleep(0.001)),
    "an import in the function": lambda module: lambda x: __import__("versioned").V,
    "a captured object": lambda module: partial(_second, module.Thing()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_other_versions_are_warned_of_once(
    use: Callable[[Any], Callable[[int], object]], other_versions: distmap.Pool
) -> None:
    """A call that uses a package of which workers have another version says so once: package, versions, workers."""
    module = importlib.import_module("versioned")
    for _ in range(2):
        with pytest.warns(UserWarning, match="dist-versioned is 1.0 here and 2.0 on ") as caught:
            other_versions.map(use(module), range(30), chunksize=1)
        (warning,) = caught
        assert {"ann", "bob"} >= set(str(warning.message).partition(" on ")[2].partition(":")[0].split(", "))
        assert warning.filename == __file__


def test_a_local_module_that_uses_another_version(other_versions: distmap.Pool, beside: Write) -> None:
    """What local modules import counts too; a call that uses nothing of it is not warned of anything."""
    name = _fresh(beside, {"~.py": "import versioned\ndef f(x): return versioned.V\ndef g(x): return x"})
    with pytest.warns(UserWarning, match="dist-versioned is 1.0 here and 2.0 on"):
        other_versions.map(importlib.import_module(name).f, range(30), chunksize=1)
    assert other_versions.map(abs, range(30), chunksize=1) == list(range(30))


def test_other_versions_that_a_stream_meets(other_versions: distmap.Pool) -> None:
    """Lazy iteration warns at its end."""
    with pytest.warns(UserWarning, match="dist-versioned is 1.0 here"):
        list(other_versions.imap(lambda x: __import__("versioned").V, range(30), chunksize=1))


# --- scripts ----------------------------------------------------------------------------------------------------------

MAIN = """
    import sys
    from . import helper
    from .helper import scale
    import distmap

    class Point:
        def __init__(self, x): self.x = x

    def inside(x):
        from . import late
        from .late import K
        return late.K + K + x

    def outside(x):
        return scale(x) + helper.K

    def of_a_class(p):
        return Point(helper.double(p.x))

    if __name__ == "__main__":
        with distmap.Pool(int(sys.argv[1]) if sys.argv[1].isdecimal() else sys.argv[1]) as pool:
            print(pool.map(inside, [1]), pool.map(outside, [1]), [p.x for p in pool.map(of_a_class, [Point(2)])])
            print(pool.map(lambda x: __import__("pkg.late", fromlist=["K"]).K, [1]))
"""


@pytest.mark.parametrize("far", [False, True], ids=["local", "remote"])
def test_a_module_that_is_run_as_a_script(far: bool, tmp_path: Path) -> None:
    """In `python -m package.module` functions of `__main__` import relatively, and its neighbours travel."""
    package = tmp_path / "project" / "pkg"
    package.mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "helper": "K = 10\ndef scale(x): return x * K\ndef double(x): return 2 * x\n",
        "late": "from .helper import K\n",
        "main": textwrap.dedent(MAIN),
    }.items():
        (package / f"{name}.py").write_text(text)
    with ExitStack() as stack:
        where = "1"
        if far:
            worker = WorkerProcess("--port", "0", "--slots", "1", cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
            where = stack.enter_context(worker).url
        command = [sys.executable, "-m", "pkg.main", where]
        done = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, timeout=18)
    assert done.stdout.split("\n") == ["[21] [20] [4]", "[10]", ""], done.stderr
    assert not list(tmp_path.glob("distmap-*")), "the files of a pool that is gone stay"


@pytest.mark.own_leaks  # multiprocessing keeps a tracker of named resources
def test_files_in_the_processes_of_an_executor(beside: Write) -> None:
    """What an executor's process is sent it looks for on its own machine first."""
    text = "from pathlib import Path\ndef f(x): return Path(__file__).with_name('x.txt').read_text(), __file__"
    name = _fresh(beside, {"~/__init__.py": text, "~/x.txt": "data"})
    fn = importlib.import_module(name).f
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor,
        distmap.Pool(executor) as pool,
    ):
        assert pool.map(fn, [1]) == [fn(1)]
