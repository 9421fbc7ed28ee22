"""Which modules travel with a function, and when they have changed.

Owns the line between modules that the other side has (standard library, site-packages: by reference) and *local* ones
that travel as source, the record of what source a module was imported from, and the finder that serves such sources
in a task process. Must not know functions, jobs or pickles: names of modules come in, bundles of sources go out.

A bundle is a plain dict, `{name: Source}`. Imported by task processes: `ast` and `importlib` are imported when needed.
"""

from __future__ import annotations

import _pickle
import operator
import os
import sys
from collections.abc import Iterable, Sequence
from types import CodeType, ModuleType

from distmap.light import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

#: "reference": importable on the other side; "local": its source travels; "value": it has no source, so what lives in
#: it is pickled by value (as `__main__` is).
Place = Literal["reference", "local", "value"]

_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_OWN = __name__.partition(".")[0]


class Source(NamedTuple):
    """A module as it travels."""

    package: bool
    filename: str | None
    text: str
    digest: bytes
    #: Where a package's other files lie (data, compiled submodules): of use on the same host only.
    path: tuple[str, ...]


class _Record(NamedTuple):
    #: The spec under which the module was imported (a reload makes a new one), or the file's (mtime, size).
    mark: object
    source: Source
    imports: tuple[tuple[str, ...], ...]
    #: The file's (mtime, size) and the code of the module's functions, as they were when the source was read.
    stamp: object = None
    codes: tuple[CodeType, ...] = ()

    def holds(self, module: ModuleType) -> bool:
        """Whether the imported module is still what was read.

        IPython's autoreload may put new code into the functions of a module, and new values under its names, without
        importing it again. A file that was edited and nothing more changes neither: then the workers go on with what
        this process runs.
        """
        if _stamp(self.source.filename) == self.stamp:
            return True
        return _same(_codes(module), self.codes) and not _autoreloaded(module.__name__, self.source.filename)


def _autoreloaded(name: str, filename: str | None) -> bool:
    """Whether IPython's autoreload has taken up the file as it is now; for a changed constant nothing else tells."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    magics = getattr(getattr(shell, "magics_manager", None), "registry", {}).get("AutoreloadMagics")
    reloader = getattr(magics, "_reloader", None)
    if reloader is None or filename is None:
        return False
    try:
        saved = os.stat(filename).st_mtime
    except OSError:
        return False
    return bool(reloader.modules_mtimes.get(name) == saved != reloader.failed.get(filename))


_records: dict[str, _Record] = {}
#: Modules that were found to be "reference" once; they never become local.
_references: set[str] = {"builtins", "sys"}


def place(name: str) -> Place:
    """How what lives in the module of that name travels."""
    if name in _references:
        return "reference"
    if name == "__main__":
        return "value"
    module = sys.modules.get(name)
    if module is None:
        return "value"
    result = _place(name, module)
    if result == "reference":
        _references.add(name)
    return result


def _place(name: str, module: ModuleType) -> Place:
    top = name.partition(".")[0]
    if top == _OWN or name in sys.builtin_module_names:
        return "reference"
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        if _is_local(spec):
            return "local"
        if spec.origin is not None or spec.loader is not None or spec.submodule_search_locations is not None:
            return "reference"
    if getattr(module, "__file__", None) is not None:
        return "reference"
    # Made at run time. Those that an installed package makes (six.moves) are made on the other side too.
    if top != name and top in sys.modules:
        return "value" if place(top) != "reference" else "reference"
    return "value"


def _is_local(spec: ModuleSpec) -> bool:
    """True if there is Python source of it that neither the standard library nor an installed package owns."""
    if spec.origin is not None and spec.has_location:
        return spec.origin.endswith(".py") and _is_local_path(spec.origin)
    # A folder without __init__.py: a package all the same.
    paths = spec.submodule_search_locations
    return spec.origin is None and paths is not None and any(_is_local_path(path + os.sep) for path in paths)


def _is_local_path(path: str) -> bool:
    path = os.path.abspath(path) + (os.sep if path.endswith(os.sep) else "")
    return not (any(part in path for part in _INSTALLED) or path.startswith(_STDLIB))


def loaded(name: str) -> Any:
    """The imported module of that name; None if there is none, or if a thread is importing it just now.

    A module is in `sys.modules` before it has run, so that what another thread finds there may lack anything.
    """
    module = sys.modules.get(name)
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module


def registered(name: str) -> bool:
    """True if the user told cloudpickle to send this module, or a package that it is in, by value."""
    names = _registry()
    while name not in names:
        name = name.rpartition(".")[0]
        if not name:
            return False
    return True


def any_registered() -> bool:
    return bool(_registry())


def _registry() -> set[str]:
    # Nobody can have registered anything while it is being imported.
    cloudpickle = loaded("cloudpickle")
    return cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else set()


# --- kernel: what to send ---------------------------------------------------------------------------------------------


def bundle(names: Iterable[str]) -> dict[str, Source]:
    """The local modules among `names`, their packages, and every local module that these import, as sources.

    The text of an imported module is the one read when this import of it was first seen: editing the file changes
    nothing until it is imported again (reload, autoreload).
    """
    found: dict[str, Source] = {}
    queue = list(names)
    looked: set[str] = set()
    while queue:
        name = queue.pop()
        if name in looked:
            continue
        looked.add(name)
        if "." in name:
            queue.append(name.rpartition(".")[0])
        record = _record(name)
        if record is None:
            continue
        found[name] = record.source
        for candidates in record.imports:
            queue += candidates
    return dict(sorted(found.items()))


def imported(names: Iterable[str]) -> list[tuple[dict[str, Any], str, object]] | None:
    """What must still hold, `mapping.get(key) is value` for each, for the bundle of these modules to be current.

    None if that cannot be told: a module that is not imported here changes on disk without a trace.
    """
    checks: list[tuple[dict[str, Any], str, object]] = []
    for name in bundle(names):
        module = sys.modules.get(name)
        if module is None:
            return None
        checks.append((sys.modules, name, module))
        checks.append((vars(module), "__spec__", module.__spec__))
    return checks


_Checks = list[tuple[dict[str, Any], str, object]]
_packed: dict[frozenset[str], tuple[_Checks, list[tuple[str | None, object]], bytes, bytes]] = {}
#: Digests of bundles that were packed here: this process has those modules already.
_own: set[bytes] = set()


def pack(names: frozenset[str]) -> tuple[bytes, bytes] | None:
    """The bundle of these modules as (digest, pickle); None if none of them is local."""
    known = _packed.get(names)
    if known is not None and all(mapping.get(key) is value for mapping, key, value in known[0]) and unchanged(known[1]):
        return known[2:]
    files = stamps(names)
    sources = bundle(names)
    if not sources:
        return None
    from hashlib import blake2b

    packed = _pickle.dumps(sources, 5)
    digest = blake2b(packed, digest_size=16).digest()
    _own.add(digest)
    checks = imported(names)
    if checks is not None:
        _packed[names] = (checks, files, digest, packed)
    return digest, packed


def is_own(digest: bytes) -> bool:
    """True if this process packed the bundle, so that it must not be installed over its own modules."""
    return digest in _own


def _record(name: str) -> _Record | None:
    if name in _references:
        return None
    module = sys.modules.get(name)
    if module is not None:
        if name == "__main__" or place(name) != "local":
            return None
        spec: ModuleSpec | None = module.__spec__
        mark: object = spec
    else:
        spec = _find(name)
        if spec is None or not _is_local(spec):
            return None
        mark = _stamp(spec.origin)
    known = _records.get(name)
    if known is not None:
        current = known.mark == mark if module is None else known.mark is mark and known.holds(module)
        if current:
            return known
    assert spec is not None
    stamp = _stamp(spec.origin)  # before the text is read: a change in between is then seen next time
    source = _read(name, spec)
    if source is None:
        return None
    codes = _codes(module) if module is not None else ()
    if known is not None and known.source == source:
        record = known._replace(mark=mark, stamp=stamp, codes=codes)
    else:
        record = _Record(mark, source, imports_of(source.text, name, package=source.package), stamp, codes)
    _records[name] = record
    return record


def _codes(module: ModuleType) -> tuple[CodeType, ...]:
    """The code objects of the functions and methods that the module defines, in its order."""
    found: list[CodeType] = []
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for member in list(vars(value).values()) if isinstance(value, type) else [value]:
            code = getattr(getattr(member, "__func__", member), "__code__", None)
            if isinstance(code, CodeType):
                found.append(code)
    return tuple(found)


def _same(some: tuple[CodeType, ...], others: tuple[CodeType, ...]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def stamps(names: Iterable[str]) -> list[tuple[str | None, object]]:
    """The files of the bundle of these modules, with (mtime, size) at the moment: while they hold, it is current."""
    files = [source.filename for source in bundle(names).values()]
    return [(filename, _stamp(filename)) for filename in files]


def unchanged(files: list[tuple[str | None, object]]) -> bool:
    """Whether files still have the given stamps."""
    return all(_stamp(filename) == stamp for filename, stamp in files)


def _stamp(filename: str | None) -> object:
    try:
        status = os.stat(filename or "")
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _read(name: str, spec: ModuleSpec) -> Source | None:
    import hashlib

    path = tuple(spec.submodule_search_locations or ())
    package = spec.submodule_search_locations is not None
    if not spec.has_location:
        return Source(package, None, "", b"", path)
    try:
        text = spec.loader.get_source(name)  # type: ignore[union-attr]
    except (AttributeError, ImportError, OSError, SyntaxError):
        return None
    if text is None:
        return None
    digest = hashlib.blake2b(f"{spec.origin}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return Source(package, spec.origin, text, digest, path)


def _find(name: str) -> ModuleSpec | None:
    """The spec of a module that is not imported, without importing its parents (importlib.util.find_spec would)."""
    parent, _, last = name.rpartition(".")
    if not last.isidentifier() or (not parent and name in sys.stdlib_module_names):
        return None
    path: Sequence[str] | None = None
    if parent:
        loaded = sys.modules.get(parent)
        path = getattr(loaded, "__path__", None)
        if loaded is None:
            spec = _find(parent)
            path = spec.submodule_search_locations if spec is not None else None
        if path is None:
            return None
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path, None)
        except Exception:
            continue
        if spec is not None:
            return spec
    return None


def imports_of(text: str, name: str, *, package: bool) -> tuple[tuple[str, ...], ...]:
    """The names of modules that a source imports anywhere, inside functions too; relative ones made absolute."""
    import ast

    try:
        tree = ast.parse(text)
    except SyntaxError:
        return ()
    home = name if package else name.rpartition(".")[0]
    found: list[tuple[str, ...]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.append(tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = home.split(".")[: len(home.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            # `from package import name`: the name may be a submodule or anything else; who is no module is not found.
            if base:
                found.append((base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")))
    return tuple(found)


def imports_of_code(code: CodeType) -> set[str]:
    """The names of modules that a function imports when it runs, nested functions included."""
    from opcode import EXTENDED_ARG, opmap

    names: set[str] = set()
    queue = [code]
    while queue:
        code = queue.pop()
        queue += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        ops = code.co_code[::2]
        if opmap["IMPORT_NAME"] not in ops:
            continue
        extended = 0
        for op, arg in zip(ops, code.co_code[1::2], strict=True):
            if op == EXTENDED_ARG:
                extended = (extended | arg) << 8
                continue
            if op == opmap["IMPORT_NAME"]:
                names.add(code.co_names[extended | arg])
            # `from package import submodule` as well.
            elif op == opmap["IMPORT_FROM"] and names:
                names.update([f"{name}.{code.co_names[extended | arg]}" for name in names & set(code.co_names)])
            extended = 0
    return names


# --- task process: serving what was sent ------------------------------------------------------------------------------


class _Loader:
    """Runs a module's source; gives it to tracebacks."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        filename = self._source.filename or f"<{module.__name__}>"
        exec(compile(self._source.text, filename, "exec", dont_inherit=True), vars(module))

    def is_package(self, name: str) -> bool:
        return self._source.package

    def get_source(self, name: str) -> str:
        return self._source.text


class Shelf:
    """The finder of a task process: serves the sources that were sent, before anything on disk."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        source = self._sources.get(name)
        if source is None:
            return None
        from importlib.machinery import ModuleSpec

        spec = ModuleSpec(name, _Loader(source), origin=source.filename, is_package=source.package)  # type: ignore[arg-type]
        if source.package:
            spec.submodule_search_locations = list(source.path)
        spec.has_location = source.filename is not None
        return spec

    def invalidate_caches(self) -> None:
        """Part of the finder protocol; there is nothing to forget."""

    def install(self, sources: dict[str, Source]) -> bool:
        """Serve these from now on. True if a module that is imported has changed, so that it was forgotten.

        Then every served module is forgotten, not only the changed one: others hold names out of it.
        """
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        changed = {
            name
            for name, source in sources.items()
            if name in sys.modules
            and (name not in self._sources or self._sources[name].digest != source.digest)
            # A folder without source that was imported from this disk is the same folder.
            and not (name not in self._sources and source.filename is None)
        }
        self._sources.update(sources)
        if not changed:
            return False
        for name in self._sources:
            sys.modules.pop(name, None)
        return True
