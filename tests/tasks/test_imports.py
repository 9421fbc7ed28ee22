"""What a source or a function imports is read from it, and nothing is imported."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from distmap.tasks.imports import imports_of, imports_of_code


def test_imports_of_a_source() -> None:
    """Imports anywhere in a source are found, relative ones made absolute."""
    text = """
    import a, b.c
    from d import e
    from . import f
    from .g import *
    from ..h import i as j
    def inside():
        import k
    """
    found = imports_of(textwrap.dedent(text), "top.mid.mod", package=False)
    assert sorted(found) == [
        ("a", "b.c"),
        ("d", "d.e"),
        ("k",),
        ("top.h", "top.h.i"),
        ("top.mid", "top.mid.f"),
        ("top.mid.g",),
    ]
    assert imports_of("from .x import y", "pkg", package=True) == (("pkg.x", "pkg.x.y"),)
    assert imports_of("this is no Python", "pkg", package=True) == ()


def test_imports_of_a_function() -> None:
    """Imports that a function makes when it runs are found, in nested functions and with long names tables too."""

    def outer() -> object:
        import json.decoder

        def inner() -> object:
            from xml import dom

            return dom

        return json, inner

    assert {"json.decoder", "xml", "xml.dom"} <= imports_of_code(outer.__code__)
    many = "def f():\n" + "".join(f"    a{n}.b\n" for n in range(300)) + "    import last.one\n"
    namespace: dict[str, Callable[[], None]] = {}
    exec(many, namespace)
    assert imports_of_code(namespace["f"].__code__) == {"last.one"}
