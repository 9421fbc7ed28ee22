"""The normal form of bytecode holds what code does, and not how it was written down."""

from __future__ import annotations

import ast
import shelve
import textwrap
from collections.abc import Iterator
from types import CodeType

import pytest

from distmap.tasks.bytecode import attributes_of, digest_of_code, globals_of


def encode(value: object) -> bytes:
    return repr((type(value).__name__, sorted(value) if isinstance(value, frozenset) else value)).encode()


def code_of(source: str) -> CodeType:
    """The code of the function that a source begins with."""
    module = compile(textwrap.dedent(source), "<cell>", "exec", dont_inherit=True)
    return next(constant for constant in module.co_consts if isinstance(constant, CodeType))


def digest(source: str) -> bytes:
    return digest_of_code(code_of(source), encode)


def functions(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from functions(constant)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(x): return x + 1", "# a comment\n\n\ndef f(x):\n    # another\n    return (\n        x\n        + 1)"),
        ("def f(x): return x", 'def f(x):\n    """It returns x."""\n    return x'),
        ("def f(x):\n  if x: pass\n  return x", "def f(x):\n  if x:\n    pass\n  return x"),
        ("def f(x):\n  while x: pass", "def f(x):\n  while x:\n    pass"),
        ("def f():\n  while True: pass", "def f():\n  while True:\n\n    pass"),
        ("def f(x): return x in {'a', 'b', 'c'}", "def f(x): return x in {'c', 'a', 'b'}"),
        ("def f(a, b): return g(a, b)", "def f(a, b):\n  return g(\n    a,\n    b,\n  )"),
        ("def f():\n  class C:\n    x = 1\n  return C", "def f():\n  class C:\n    'Text.'\n\n    x = 1\n  return C"),
        ("def f(x) -> int: return x", "def f(x): return x"),
    ],
)
def test_the_layout_of_a_source_does_not_matter(one: str, other: str) -> None:
    """Comments, docstrings, line breaks and the order of a set are nothing that code does."""
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(x): return x + 1", "def f(x): return x + 2"),
        ("def f(x): return x + 1", "def f(x): return x + 1.0"),
        ("def f(x): return 1", "def f(x): return True"),
        ("def f(x): return x + 1", "def f(x): return x - 1"),
        ("def f(x): return x.a", "def f(x): return x.b"),
        ("def f(x): return g(x)", "def f(x): return h(x)"),
        ("def f(x): return x < 1", "def f(x): return x <= 1"),
        ("def f(x): return x", "def f(y): return y"),
        ("def f(x, y): return x", "def f(x, *y): return x"),
        ("def f(x, y): return x", "def f(x, /, y): return x"),
        ("def f(x, y): return x", "def f(x, *, y): return x"),
        ("def f(x): return 1", "def f(x): yield 1"),
        ("def f(x): return 1", "async def f(x): return 1"),
        ("def f(x): return [y for y in x]", "def f(x): return [y for y in x if y]"),
        ("def f(x): return lambda: 1", "def f(x): return lambda: 2"),
        ("def f(x):\n  if x: return 1\n  return 2", "def f(x):\n  if not x: return 1\n  return 2"),
        ("def f(x):\n  try: g()\n  except E: return 1", "def f(x):\n  g()\n  try: pass\n  except E: return 1"),
        ("def f(x): return h(a=x, b=1)", "def f(x): return h(b=x, a=1)"),
        ("def f():\n  global x\n  x = 1", "def f():\n  x = 1"),
        ("def f(x):\n  while x: x = g(x)", "def f(x):\n  if x: x = g(x)"),
    ],
)
def test_what_code_does_matters(one: str, other: str) -> None:
    """Another constant, name, operator, signature or order of steps is another digest."""
    assert digest(one) != digest(other)


def test_a_whole_module_written_in_another_way_has_the_same_digests() -> None:
    """Every function of a module of the standard library keeps its digest when the module is unparsed."""
    with open(str(shelve.__file__), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    sources = tree, ast.unparse(tree)
    one, other = (list(functions(compile(source, "<source>", "exec", dont_inherit=True))) for source in sources)
    assert [code.co_code for code in one] != [code.co_code for code in other]  # so this shows something
    for code, same in zip(one, other, strict=True):
        assert digest_of_code(code, encode) == digest_of_code(same, encode), code.co_qualname


def test_globals_are_found_wherever_they_are_read() -> None:
    """Globals of nested functions, comprehensions and classes count; attributes, locals and what is only set do not."""
    code = code_of("""
        def f(x, local=1):
            global written
            written = a.attribute
            class C(B):
                y = c
                def m(self): return [d(z) for z in x]
            return lambda: e + local
    """)
    assert globals_of(code) - {"__name__"} == {"a", "B", "c", "d", "e"}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("m.a(1) + m.b", {"a", "b"}),
        ("[m.a for _ in m.b.c]", {"a", "b"}),
        ("lambda: m.a", {"a"}),
        ("g(m)", None),
        ("m.a(m)", None),
        ("lambda: m", None),
        ("getattr(m, 'a')", None),
    ],
)
def test_attributes_of_a_global_are_found(body: str, found: set[str] | None) -> None:
    """Those that are taken of it, if nothing else is done with it."""
    assert attributes_of(code_of(f"def f(): return {body}"), "m") == found
