"""The texts of local modules, as far as they matter to a function.

Owns which statements of a module are reached from the names that are used of it, and their digest, without comments,
docstrings and layout. Must not know functions, values or how modules travel. For the kernel: task processes do not
import this.

What is left out for sure does nothing: definitions, assignments and imports whose names nothing reached mentions. All
that may have an effect when the module is imported counts always: calls, decorators, classes with bases of their own,
loops. Where it cannot be told what is used (`globals()`, a module that is passed on), the whole module counts.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from hashlib import sha256

from distmap.tasks._typing import NamedTuple
from distmap.tasks.extras import Source
from distmap.tasks.imports import absolute_import, never_true

#: With these a module reaches all of its names, or those of all modules.
_REFLECTION = {"globals", "vars", "locals", "eval", "exec", "__getattr__"}
_IMPORTING = {"__import__", "import_module", "importlib"}
_HARMLESS_DECORATORS = {"property", "staticmethod", "classmethod"}
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
#: Stands for all names of a module.
EVERYTHING = None


class _Import(NamedTuple):
    """What an import statement binds: `name` to the module, or to `member` of it; "*" to all of its names."""

    name: str
    module: str
    member: str | None


class _Statement(NamedTuple):
    """A statement of a module."""

    text: str
    binds: frozenset[str]
    #: Names that it mentions, with the attribute that is taken of each at once.
    mentions: frozenset[tuple[str, str | None]]
    #: What it imports: at the top of the module, or somewhere inside.
    imports: tuple[_Import, ...]
    inner: tuple[_Import, ...]
    #: It may have an effect when the module is imported.
    counts: bool


def digests_of(sources: Mapping[str, Source], used: Mapping[str, set[str] | None]) -> dict[str, bytes]:
    """The digest of each module that is reached, by its name.

    Args:
        used: the names that are used of each module at least, or EVERYTHING.
    """
    slicing = _Slicing(sources)
    for module, names in used.items():
        slicing.visit(module)
        for name in sorted(names) if names is not None else [EVERYTHING]:
            slicing.request(module, name)
    return slicing.digests()


class _Slicing:
    """The statements that are reached, of several modules."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._modules = {name: _statements(name, source) for name, source in sources.items()}
        self._reached: dict[str, set[int]] = {}
        self._requested: set[tuple[str, str | None]] = set()
        self._queue: list[tuple[str, int]] = []

    def digests(self) -> dict[str, bytes]:
        """The digest of what is reached of each module."""
        found = {}
        for module, reached in sorted(self._reached.items()):
            state = sha256()
            for at in sorted(reached):
                state.update(self._modules[module][at].text.encode("utf-8", "surrogatepass") + b"\n")
            found[module] = state.digest()
        return found

    def visit(self, module: str) -> None:
        """The module is imported: what has an effect then is reached, and what it imports is imported too."""
        if module not in self._modules or module in self._reached:
            return
        self._reached[module] = set()
        if "." in module:
            self.visit(module.rpartition(".")[0])
        for at, statement in enumerate(self._modules[module]):
            for one in statement.imports:
                self.visit(one.module)
                self.visit(f"{one.module}.{one.member}")
            if statement.counts:
                self._reach(module, at)
        self._settle()

    def request(self, module: str, name: str | None) -> None:
        """A name of a module is used."""
        if module not in self._modules or (module, name) in self._requested:
            return
        self._requested.add((module, name))
        self.visit(module)
        if name is None:
            for at in range(len(self._modules[module])):
                self._reach(module, at)
        elif not self._bind(module, name, None):
            inner = f"{module}.{name}"
            self.request(*((inner, EVERYTHING) if inner in self._modules else (module, EVERYTHING)))
        self._settle()

    def _reach(self, module: str, at: int) -> None:
        if at not in self._reached[module]:
            self._reached[module].add(at)
            self._queue.append((module, at))

    def _settle(self) -> None:
        while self._queue:
            module, at = self._queue.pop()
            statement = self._modules[module][at]
            for name, attribute in statement.mentions:
                if name in _REFLECTION or (name, attribute) == ("sys", "modules"):
                    self.request(module, EVERYTHING)
                if name in _IMPORTING:
                    for other in self._modules:
                        self.request(other, EVERYTHING)
                self._bind(module, name, attribute)
            for one in statement.inner:
                self._use(one, None)

    def _bind(self, module: str, name: str, attribute: str | None, passed: tuple[str, ...] = ()) -> bool:
        """Reach what binds a name in a module; False if nothing does."""
        found = False
        for at, statement in enumerate(self._modules[module]):
            if name in statement.binds:
                found = True
                self._reach(module, at)
            for one in statement.imports:
                if one.name == name:
                    self._use(one, attribute)
                elif one.name == "*" and one.module in self._modules and one.module not in passed:
                    if self._bind(one.module, name, attribute, (*passed, module)):
                        found = True
                        self._reach(module, at)
        return found

    def _use(self, one: _Import, attribute: str | None) -> None:
        """What an import binds is used; of a module `attribute` only, if that is known."""
        module, member = one.module, one.member
        self.visit(module)
        if member == "*":
            self.request(module, EVERYTHING)
        elif member is None:
            self.request(module, attribute)
        elif f"{module}.{member}" in self._modules:
            self.request(f"{module}.{member}", attribute)
        else:
            self.request(module, member)


# --- reading a source -------------------------------------------------------------------------------------------------

#: By name and digest of a source.
_known: dict[tuple[str, bytes], list[_Statement]] = {}


def _statements(name: str, source: Source) -> list[_Statement]:
    key = name, source.digest
    if key not in _known:
        _known[key] = list(_read(name, source))
    return _known[key]


def _read(name: str, source: Source) -> Iterator[_Statement]:
    try:
        tree = ast.parse(source.text)
    except (SyntaxError, ValueError, RecursionError):
        yield _Statement(source.text, frozenset(), frozenset(), (), (), True)
        return
    _drop_docstrings(tree)
    home = name if source.package else name.rpartition(".")[0]
    for node in tree.body:
        if isinstance(node, ast.If) and never_true(ast.unparse(node.test)) and not node.orelse:
            continue
        mine = isinstance(node, (ast.Import, ast.ImportFrom))
        imports = tuple(_imports(node, home))
        yield _Statement(
            ast.dump(node, annotate_fields=False),
            frozenset(_bound(node)),
            frozenset(_mentioned(node)),
            imports if mine else (),
            () if mine else imports,
            not (mine or _is_harmless(node)),
        )


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *_Function)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                del node.body[0]


def _imports(statement: ast.stmt, home: str) -> Iterator[_Import]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname or "." not in alias.name:
                    yield _Import(alias.asname or alias.name, alias.name, None)
                    continue
                first = alias.name.partition(".")[0]  # is bound, and leads to the module
                yield _Import(first, first, None)
                yield _Import(first, alias.name, "*")
        elif isinstance(node, ast.ImportFrom):
            module = absolute_import(node.module or "", node.level, home)
            for alias in node.names:
                yield _Import(alias.asname or alias.name, module, alias.name)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement binds in its module."""
    if isinstance(statement, (ast.ClassDef, *_Function)):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, (ast.ClassDef, *_Function)):
            yield node.name
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name


def _mentioned(statement: ast.stmt) -> Iterator[tuple[str, str | None]]:
    queue: list[ast.AST] = [statement]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr
            continue
        if isinstance(node, ast.Name):
            yield node.id, None
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            yield from ((name, None) for name in node.names)
        elif isinstance(node, _Function) and node.name == "__getattr__":
            yield node.name, None
        queue += ast.iter_child_nodes(node)


def _is_harmless(statement: ast.stmt) -> bool:
    """Whether it does nothing but bind names: what it says matters only where these are used."""
    if isinstance(statement, _Function):
        defaults = [*statement.args.defaults, *filter(None, statement.args.kw_defaults)]
        return not statement.decorator_list and not any(map(_calls, defaults)) and statement.name != "__getattr__"
    if isinstance(statement, ast.ClassDef):
        plain = all(isinstance(base, ast.Name) and hasattr(builtins, base.id) for base in statement.bases)
        heads = not statement.decorator_list and not statement.keywords
        return plain and heads and all(map(_is_harmless_inside, statement.body))
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = all(
            isinstance(part, (ast.Name, ast.Tuple, ast.expr_context)) for one in targets for part in ast.walk(one)
        )
        parts = [statement.value, getattr(statement, "annotation", None)]
        return names and not any(map(_calls, filter(None, parts)))
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _is_harmless_inside(statement: ast.stmt) -> bool:
    """The same for a statement of a class."""
    if isinstance(statement, _Function) and statement.decorator_list:
        known = all(isinstance(one, ast.Name) and one.id in _HARMLESS_DECORATORS for one in statement.decorator_list)
        return known and not any(map(_calls, statement.args.defaults))
    return _is_harmless(statement)


def _calls(node: ast.AST) -> bool:
    return any(isinstance(part, (ast.Call, ast.Await, ast.NamedExpr)) for part in ast.walk(node))
