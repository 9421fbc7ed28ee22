"""Which modules a source text or a function imports when it runs.

Owns the reading of import statements, and of `import_module("name")`. Names come out, nothing is imported. Must not
know where modules are found, or how they travel. For the kernel: task processes do not import this.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from types import CodeType

from distmap.tasks._typing import Any


def imports_of(text: str, name: str, *, package: bool) -> tuple[tuple[str, ...], ...]:
    """The names of modules that a source imports anywhere, inside functions too; relative ones made absolute.

    Not what it imports for type checkers only, or when it is run as a script.
    """
    import ast

    try:
        queue: list[ast.AST] = [ast.parse(text)]
    except SyntaxError:
        return ()
    home = name if package else name.rpartition(".")[0]
    found: list[tuple[str, ...]] = []
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and never_true(ast.unparse(node.test)):
            queue += node.orelse
            continue
        queue += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found.append(tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names if alias.name != "*")
            found.append(_imported_from(node.module or "", node.level, names, home))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in _IMPORTING and isinstance(literal := node.args[0].value, str):
                found.append((_literal(literal, home),))
    return tuple(names for names in found if any(names))


def never_true(test: str) -> bool:
    """Whether the test of an `if` is never true where tasks run."""
    return test in ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")


#: Functions that import the module that they are given the name of.
_IMPORTING = ("import_module", "__import__")


def _imported_from(base: str, level: int, names: Iterable[str], home: str) -> tuple[str, ...]:
    """What `from base import names` may import: a name may be a submodule or anything else."""
    base = absolute_import(base, level, home)
    return (base, *[f"{base}.{name}" for name in names]) if base else ()


def absolute_import(base: str, level: int, home: str) -> str:
    """The module that `from base import ...` names, with `level` dots in front, in a module of the package `home`."""
    if level:
        above = home.split(".")[: len(home.split(".")) - level + 1]
        base = ".".join([*above, base] if base else above)
    return base


def _literal(name: str, home: str) -> str:
    """The absolute name of a module that is named by a literal: relative to its package with dots in front."""
    bare = name.lstrip(".")
    return _imported_from(bare, len(name) - len(bare), (), home)[0] if bare else ""


@lru_cache(maxsize=256)
def imports_of_code(code: CodeType, package: str = "") -> set[str]:
    """The names of modules that a function imports when it runs, nested functions included.

    Args:
        package: what relative imports in it are relative to.
    """
    from opcode import opmap

    names: set[str] = set()
    queue = [code]
    while queue:
        code = queue.pop()
        queue += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        if opmap["IMPORT_NAME"] not in code.co_code[::2] and not any(name in code.co_names for name in _IMPORTING):
            continue
        from dis import get_instructions

        before: list[Any] = [None, None]
        for step in get_instructions(code):
            if step.opname == "IMPORT_NAME":
                level, wanted = before[-2:]
                names.update(
                    _imported_from(step.argval, level, [name for name in wanted or () if name != "*"], package)
                )
            elif step.opname == "LOAD_CONST" and isinstance(step.argval, str) and before[-1] in _IMPORTING:
                names.add(_literal(step.argval, package))
            if step.opname.startswith("LOAD_"):
                before.append(step.argval)
    names.discard("")
    return names
