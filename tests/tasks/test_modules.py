"""Tests of distmap.tasks.modules: which modules travel, by what content, and how they are served."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import pytest
from support.modules import write

from distmap.tasks.modules import place, registered


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
