"""Tests of distmap.tasks.finder: how the modules that were sent are served in a task process."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from distmap.tasks.extras import Extras, Source, Unit
from distmap.tasks.finder import SourceFinder


def source(text: str, *, package: bool = False, path: tuple[str, ...] = ()) -> Source:
    return Source(package, "/nowhere/x.py" if text else None, text, text.encode(), path)


@pytest.fixture
def finder() -> Iterator[SourceFinder]:
    before = set(sys.modules)
    finder = SourceFinder()
    yield finder
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_shelf_serves_sources(finder: SourceFinder) -> None:
    """Served modules import, relatively too, know their file and give their source to tracebacks."""
    import inspect

    assert not finder.install(
        {
            "served": source("from .part import K\n", package=True),
            "served.part": source("K = 5\ndef f():\n    return __file__\n"),
            "bare": source("", package=True),
            "bare.inner": source("from served import K"),
        }
    )
    module = importlib.import_module("served")
    assert module.K == 5
    assert module.part.f() == "/nowhere/x.py"
    assert inspect.getsource(module.part.f) == "def f():\n    return __file__\n"
    assert importlib.import_module("bare.inner").K == 5
    assert sys.modules["served.part"].__spec__.parent == "served"  # type: ignore[union-attr]


def test_a_changed_module_is_forgotten_with_all_others(finder: SourceFinder) -> None:
    """New content of an imported module makes all served modules import again; equal content does not."""
    first = {"one": source("K = 1"), "two": source("from one import K")}
    finder.install(first)
    assert importlib.import_module("two").K == 1
    assert not finder.install(first)
    assert not finder.install({"three": source("K = 3")})
    assert finder.install({"one": source("K = 2")})
    assert importlib.import_module("two").K == 2
    assert finder.install(first)
    assert importlib.import_module("two").K == 1


def extras(digest: bytes = b"1", data: bytes = b"data", name: str = "files_pkg") -> Extras:
    unit = Unit(
        digest, (name, f"{name}.part"), ("/nowhere",), ((f"{name}/x.txt", data),), {f"{name}/big": 1 << 30}, 1 << 20
    )
    return Extras({name: unit}, {})


SERVED = {
    "files_pkg": Source(True, "/nowhere/files_pkg/__init__.py", "K = 1", b"1", ("/nowhere/files_pkg",)),
    "files_pkg.part": Source(False, "/nowhere/files_pkg/part.py", "def f():\n    raise KeyError(1)\n", b"2", ()),
}


def test_files_are_written_into_the_folder(finder: SourceFinder, tmp_path: Path) -> None:
    """Elsewhere modules lie, with their data, in a folder that only this user can read; code keeps its name."""
    folder = tmp_path / "files"
    far = SourceFinder(str(folder))
    try:
        far.install(SERVED)
        assert not far.add(extras())
        part = importlib.import_module("files_pkg.part")
        assert Path(part.__file__).parent.joinpath("x.txt").read_bytes() == b"data"
        assert Path(part.__file__).read_text() == SERVED["files_pkg.part"].text
        assert part.f.__code__.co_filename == "/nowhere/files_pkg/part.py"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert far.add(extras(b"2", b"newer")), "other data: the modules are imported again"
        assert pkgutil.get_data("files_pkg", "x.txt") == b"newer"
        assert not far.add(extras(b"2", b"newer"))
        assert not list(folder.rglob("*.part"))
    finally:
        sys.meta_path.remove(far)


def test_files_that_lie_there_already_are_used(finder: SourceFinder, tmp_path: Path) -> None:
    """With a shared file system a module is the very file of the notebook; with one other byte it is not."""
    package = tmp_path / "same_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("K = 1")
    (package / "x.txt").write_bytes(b"data")
    source = Source(True, str(package / "__init__.py"), "K = 1", b"1", (str(package),))
    finder.install({"same_pkg": source})
    unit = Unit(b"1", ("same_pkg",), (str(tmp_path),), (("same_pkg/x.txt", b"data"),), {}, 1)
    finder.add(Extras({"same_pkg": unit}, {}))
    assert importlib.import_module("same_pkg").__file__ == str(package / "__init__.py")
    (package / "x.txt").write_bytes(b"Data")
    far = SourceFinder(str(tmp_path / "files"))
    far.install({"same_pkg": source})
    far.add(Extras({"same_pkg": unit}, {}))
    spec = far.find_spec("same_pkg")
    sys.meta_path.remove(far)
    assert spec is not None
    assert spec.origin == str(tmp_path / "files" / b"1".hex() / "same_pkg/__init__.py")


def test_tracebacks_show_the_lines_that_ran(finder: SourceFinder, tmp_path: Path) -> None:
    """Where another file lies under the name of the source, its lines are not shown."""
    other = tmp_path / "clone.py"
    other.write_text("something else\n" * 5)
    far = SourceFinder(str(tmp_path / "files"))
    far.install({"clone": Source(False, str(other), "def f():\n    raise KeyError(1)\n", b"1", ())})
    far.add(Extras({"clone": Unit(b"1", ("clone",), (str(tmp_path),), (), {}, 1)}, {}))
    try:
        with pytest.raises(KeyError) as caught:
            importlib.import_module("clone").f()
    finally:
        sys.meta_path.remove(far)
    assert "raise KeyError(1)" in "".join(traceback.format_exception(caught.value))


MISSING = {
    "package": (ModuleNotFoundError("no", name="elsewhere"), "an installed package 'elsewhere' must be installed"),
    "part of a local one": (ModuleNotFoundError("no", name="files_pkg.more"), "of the local package 'files_pkg' only"),
    "large file": (FileNotFoundError(2, "no", "/nowhere/files_pkg/big"), r"big \(1024.0 MB\) did not travel"),
    "other file": (FileNotFoundError(2, "no", "/nowhere/files_pkg/none"), None),
    "file elsewhere": (FileNotFoundError(2, "no", b"/tmp/none"), None),
    "no name": (ModuleNotFoundError("no"), None),
    "another error": (KeyError("x"), None),
}


@pytest.mark.parametrize(("error", "note"), MISSING.values(), ids=MISSING)
def test_what_is_missing_is_explained_once(
    error: BaseException, note: str | None, finder: SourceFinder, tmp_path: Path
) -> None:
    """Errors that come from what did not travel get a note; others do not."""
    far = SourceFinder(str(tmp_path / "files"))
    far.install(SERVED)
    far.add(extras())
    sys.meta_path.remove(far)
    for _ in range(2):
        far.explain(error)
    notes = getattr(error, "__notes__", [])
    assert len(notes) == (note is not None)
    if note is not None:
        assert re.search(note, notes[0])
    here: BaseException = ModuleNotFoundError("no", name="elsewhere")
    finder.explain(here)
    assert not hasattr(here, "__notes__"), "on this machine nothing is missing that is there in the kernel"


def test_a_folder_of_its_own_goes_with_the_process(tmp_path: Path) -> None:
    """In a process that nobody cleans up after, such as that of an executor, the files go at its end."""
    script = (
        "from distmap.tasks.extras import *; from distmap.tasks.finder import SourceFinder\n"
        "finder = SourceFinder()\n"
        "finder.install({'own': Source(False, '/nowhere/own.py', '', b'', ())})\n"
        "finder.add(Extras({'own': Unit(b'1', ('own',), ('/nowhere',), (), {}, 1)}, {}))\n"
        "import own, os; assert os.path.exists(own.__file__); print(own.__file__)"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
