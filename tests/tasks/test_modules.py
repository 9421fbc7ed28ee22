"""Tests of distmap.tasks.modules: which modules travel, by what content, and how they are served."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distmap.tasks.modules import place, registered

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, like that of a notebook; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) is None or str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    def run(source: str) -> str:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])}
        command = [sys.executable, "-W", "error", "-B", "-c", textwrap.dedent(source)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=18, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def write(folder: Path, **files: str) -> None:
    importlib.invalidate_caches()
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py" if not name.endswith("_init") else name[:-5] + "/__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("builtins", "reference"),
        ("json.decoder", "reference"),
        ("os.path", "reference"),
        ("math", "reference"),
        ("numpy", "reference"),
        ("numpy.linalg", "reference"),
        ("distmap.tasks.modules", "reference"),
        ("__main__", "value"),
        ("not.imported", "value"),
    ],
)
def test_place(name: str, expected: str) -> None:
    """The standard library, installed packages and distmap go by reference, `__main__` and the unknown by value."""
    import json.decoder  # noqa: F401

    if name.startswith("numpy"):
        pytest.importorskip("numpy.linalg")
    assert place(name) == expected


def test_a_module_with_source_elsewhere_is_local(folder: Path) -> None:
    """A module beside the notebook, its packages and a folder without __init__.py are local."""
    write(folder, near="x = 1", pkg_init="", pkg__sub="", spaces__inner="")
    for name in ("near", "pkg", "pkg.sub", "spaces", "spaces.inner"):
        importlib.import_module(name)
        assert place(name) == "local"


def test_a_module_made_at_run_time_goes_by_value() -> None:
    """A module object that somebody put into sys.modules has no source to send; one within a package of the standard
    library is made there too."""
    for name, expected in (("made_here", "value"), ("json.made", "reference"), ("made_here.sub", "value")):
        sys.modules[name] = types.ModuleType(name)
        try:
            assert place(name) == expected
        finally:
            if name != "made_here":
                del sys.modules[name]
    del sys.modules["made_here"]


def test_registered_with_cloudpickle() -> None:
    """What the user told cloudpickle to send by value is known, submodules included."""
    import xml.dom

    import cloudpickle

    cloudpickle.register_pickle_by_value(xml)
    try:
        assert registered("xml")
        assert registered("xml.dom")
    finally:
        cloudpickle.unregister_pickle_by_value(xml)
    assert not registered("xml.dom")
