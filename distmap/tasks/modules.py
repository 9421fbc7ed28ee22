"""Which modules travel with a function, and when they have changed.

Owns the line between modules that the other side has (standard library, site-packages: by reference) and *local* ones
that travel as source, and the record of what source a module was imported from. `finder.py` serves them in a task
process. Must not know functions, jobs or pickles: names of modules come in, bundles of sources go out.

A bundle is a plain dict, `{name: Source}`. Imported by task processes: `ast` and `importlib` are imported when needed.
"""

from __future__ import annotations

import _pickle
import operator
import os
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import CodeType, ModuleType

from distmap.tasks._typing import TYPE_CHECKING, Any, Literal, NamedTuple
from distmap.tasks.extras import Extras, Source, Stamps, gather, remote_workers, stamp, survey, versions

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

#: "reference": importable on the other side; "local": its source travels; "value": it has no source, or none any more,
#: so what lives in it is pickled by value (as `__main__` is).
Place = Literal["reference", "local", "value"]

_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_OWN = __name__.partition(".")[0]
_Spec = type(sys.__spec__)


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
        if stamp(self.source.filename) == self.stamp:
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
        spec = _spec_of(name, module)
        if spec is not None and spec.has_location and spec.origin is not None and _is_local_path(spec.origin):
            _outside[name] = spec
    return result


#: Modules by reference whose files lie where local ones do, and the specs under which they were imported.
_outside: dict[str, ModuleSpec] = {}


def imported_again(names: Iterable[str]) -> list[str]:
    """Those of these modules that go by reference, and that were imported anew since this was last asked."""
    found = []
    for name in names:
        known = _outside.get(name)
        if known is not None and (spec := _spec_of(name, sys.modules.get(name))) is not known and spec is not None:
            _outside[name] = spec
            found.append(name)
    return found


def _place(name: str, module: ModuleType) -> Place:
    top = name.partition(".")[0]
    if top == _OWN or name in sys.builtin_module_names:
        return "reference"
    spec = _spec_of(name, module)
    if spec is not None:
        if _is_local(name, spec):
            # Its file may have been removed, or renamed, since it was imported.
            return "local" if name in _records or _read(name, spec) is not None else "value"
        if spec.origin is not None or spec.loader is not None or spec.submodule_search_locations is not None:
            return "reference"
    if getattr(module, "__file__", None) is not None:
        return "reference"
    # Made at run time. Those that an installed package makes (six.moves) are made on the other side too.
    if top != name and top in sys.modules:
        return "value" if place(top) != "reference" else "reference"
    return "value"


def _spec_of(name: str, module: object) -> ModuleSpec | None:
    """The spec under which a module was imported; None if it was made at run time.

    A module may put something else in its own place, such as an object that loads things when they are asked for: then
    the spec is what an import would find.
    """
    try:
        spec = getattr(module, "__spec__", None)
    except Exception:  # that object's own idea of attributes
        spec = None
    if isinstance(spec, _Spec):
        return spec
    known = _replaced.get(name)
    if known is None or known[0] is not module:
        known = _replaced[name] = (module, _find(name))
    return known[1]


_replaced: dict[str, tuple[object, ModuleSpec | None]] = {}


def _namespace(module: object) -> dict[str, Any]:
    """The module's own names; empty for what replaced it and has none."""
    found = getattr(module, "__dict__", None)
    return found if isinstance(found, dict) else {}


def _is_local(name: str, spec: ModuleSpec) -> bool:
    """True if there is Python source of it that neither the standard library nor an installed package owns."""
    if spec.origin is not None and spec.has_location:
        if not (spec.origin.endswith(".py") and _is_local_path(spec.origin)):
            return False
        folder, above = os.path.dirname(spec.origin), name.count(".") + (spec.submodule_search_locations is not None)
    else:
        # A folder without __init__.py: a package all the same.
        paths = spec.submodule_search_locations
        local = [path for path in paths or () if _is_local_path(path + os.sep)]
        if spec.origin is not None or not local:
            return False
        folder, above = local[0], name.count(".") + 1
    for _ in range(above):
        folder = os.path.dirname(folder)
    key = (name.partition(".")[0], folder)
    if key not in _installations:
        _installations[key] = _is_installation(*key)
    return not _installations[key]


#: (top-level module, folder that holds it) -> whether it is an installation there.
_installations: dict[tuple[str, str], bool] = {}


def _is_installation(top: str, folder: str) -> bool:
    """True for what was installed outside site-packages (`pip --target`, vendored), or has compiled parts.

    Its sources alone would be of no use elsewhere, or too many: it goes by reference.
    """
    if not _installed_in(folder).isdisjoint((top, _EVERYTHING)):
        return True
    from importlib.machinery import EXTENSION_SUFFIXES

    from distmap.core.limits import LIMITS  # here, as it imports typing

    # Not the bare one: a library for ctypes is a data file.
    ends = tuple(suffix for suffix in EXTENSION_SUFFIXES if suffix != ".so")
    for name, module in list(sys.modules.items()):
        # An editable install may have them in a folder of its own.
        if name.startswith(f"{top}.") and (getattr(module, "__file__", None) or "").endswith(ends):
            return True
    left = LIMITS.package_files
    for _, folders, files in os.walk(os.path.join(folder, top)):
        left -= len(folders) + len(files)
        if any(file.endswith(ends) for file in files):
            return True
        if left <= 0:
            break
    return False


_EVERYTHING = "*"
#: By folder: its stamp, and what was found in it then.
_folders: dict[str, tuple[object, set[str]]] = {}


def _installed_in(folder: str) -> set[str]:
    """The top-level names that an installer says it has put there. (An egg-info of development lists none.)"""
    seen = stamp(folder)
    known = _folders.get(folder)
    if known is not None and known[0] == seen:
        return known[1]
    names: set[str] = set()
    try:
        entries = os.listdir(folder)
    except OSError:
        entries = []
    for entry in entries:
        if entry == "EGG-INFO":
            names.add(_EVERYTHING)
        elif entry.endswith((".dist-info", ".egg-info")):
            record = "RECORD" if entry.endswith(".dist-info") else "installed-files.txt"
            try:
                with open(os.path.join(folder, entry, record), encoding="utf-8", errors="replace") as file:
                    lines = file.read().split("\n")
            except OSError:
                continue
            firsts = {line.partition(",")[0].removeprefix("../").partition("/")[0] for line in lines}
            names |= {first.removesuffix(".py") for first in firsts}
    _folders[folder] = seen, names
    return names


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
        names_of = _namespace(module)
        checks.append((names_of, "__spec__", names_of.get("__spec__")))
    return checks


class Packed(NamedTuple):
    """A bundle as it travels."""

    digest: bytes
    pickled: bytes
    #: Digest and pickle of what only workers on other machines need; None while there are none.
    extras: tuple[bytes, bytes] | None = None

    @property
    def nbytes(self) -> int:
        return len(self.pickled) + (0 if self.extras is None else len(self.extras[1]))


_Checks = list[tuple[dict[str, Any], str, object]]
#: Bytes of bundles and extras above which what was packed is forgotten, to be packed again.
_KEPT = 64 << 20
_packed: dict[tuple[frozenset[str], bool], tuple[_Checks, Stamps, Packed]] = {}
#: Digests of what was packed here: this process has those modules already.
_own: set[bytes] = set()
#: Of what the log has told.
_logged: set[tuple[bytes, bytes | None]] = set()


def pack(names: frozenset[str]) -> Packed | None:
    """The bundle of these modules; None if none of them is local."""
    wanted = names, remote_workers.expected
    known = _packed.get(wanted)
    if known is not None and all(mapping.get(key) is value for mapping, key, value in known[0]) and unchanged(known[1]):
        return known[2]
    files = stamps(names)
    sources = bundle(names)
    if not sources:
        return None
    extras = gather(sources, survey(sources)) if remote_workers.expected else None
    packed = Packed(*_pickled(sources), None if extras is None else _pickled(extras))
    _log(sources, packed, extras)
    checks = imported(names)
    if checks is not None:
        if sum(kept.nbytes for *_, kept in _packed.values()) > _KEPT:
            _packed.clear()
        _packed[wanted] = (checks, files, packed)
    return packed


def pack_versions(names: Iterable[str]) -> tuple[bytes, bytes] | None:
    """Digest and pickle of the versions that these modules, and what local ones among them import, have here.

    None if there are none, or if nobody needs them.
    """
    if not remote_workers.expected:
        return None
    reached = set(names)
    for name in bundle(reached):
        for imports in _records[name].imports:
            reached.update(imports)
    found = versions({name.partition(".")[0] for name in reached} - {_OWN})
    return _pickled(Extras({}, found)) if found else None


def _pickled(value: object) -> tuple[bytes, bytes]:
    from hashlib import blake2b

    pickled = _pickle.dumps(value, 5)
    digest = blake2b(pickled, digest_size=16).digest()
    _own.add(digest)
    return digest, pickled


def _log(sources: dict[str, Source], packed: Packed, extras: Extras | None) -> None:
    """Say once what travels."""
    told = packed.digest, None if packed.extras is None else packed.extras[0]
    if told in _logged:
        return
    _logged.add(told)
    import logging

    log = logging.getLogger("distmap")
    log.info("> modules that travel, %.1f kB in all: %s", len(packed.pickled) / 1e3, ", ".join(sources))
    for top, unit in ({} if extras is None else extras.units).items():
        size = sum(len(data) for _, data in unit.files)
        if unit.files:
            log.info("> data files of %s that travel to other machines: %d, %.1f kB", top, len(unit.files), size / 1e3)
        if unit.cut:
            log.warning(
                "> folders of %s with too many data files: some do not travel: %s", top, ", ".join(unit.cut[:10])
            )
        if unit.left_out:
            log.warning("> data files of %s that do not travel: %s", top, ", ".join(sorted(unit.left_out)[:10]))


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
        spec = _spec_of(name, module)
        mark: object = spec
    else:
        spec = _find(name)
        if spec is None or not _is_local(name, spec):
            return None
        mark = stamp(spec.origin)
    known = _records.get(name)
    if known is not None:
        current = known.mark == mark if module is None else known.mark is mark and known.holds(module)
        if current:
            return known
    assert spec is not None
    seen = stamp(spec.origin)  # before the text is read: a change in between is then seen next time
    source = _read(name, spec)
    if source is None:
        return None
    codes = _codes(module) if module is not None else ()
    if known is not None and known.source == source:
        record = known._replace(mark=mark, stamp=seen, codes=codes)
    else:
        record = _Record(mark, source, imports_of(source.text, name, package=source.package), seen, codes)
    _records[name] = record
    return record


def _codes(module: ModuleType) -> tuple[CodeType, ...]:
    """The code objects of the functions and methods that the module defines, in its order."""
    found: list[CodeType] = []
    names = _namespace(module)
    for value in list(names.values()):
        if getattr(value, "__module__", None) != names.get("__name__"):
            continue
        for member in list(vars(value).values()) if isinstance(value, type) else [value]:
            code = getattr(getattr(member, "__func__", member), "__code__", None)
            if isinstance(code, CodeType):
                found.append(code)
    return tuple(found)


def _same(some: tuple[CodeType, ...], others: tuple[CodeType, ...]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def stamps(names: Iterable[str]) -> Stamps:
    """The files of the bundle of these modules, with (mtime, size) at the moment: while they hold, it is current."""
    sources = bundle(names)
    found: Stamps = [(source.filename, stamp(source.filename)) for source in sources.values()]
    return found + survey(sources).stamps if remote_workers.expected else found


def unchanged(files: Stamps) -> bool:
    """Whether files still have the given stamps."""
    return all(stamp(filename) == seen for filename, seen in files)


def _read(name: str, spec: ModuleSpec) -> Source | None:
    import hashlib
    from importlib.machinery import SourceFileLoader

    path = tuple(spec.submodule_search_locations or ())
    package = spec.submodule_search_locations is not None
    if not spec.has_location:
        return Source(package, None, "", b"", path)
    # Of what imports in a way of its own (pytest, with its assertions) the file says what it imported.
    loader: Any = spec.loader if hasattr(spec.loader, "get_source") else SourceFileLoader(name, str(spec.origin))
    try:
        text = loader.get_source(name)
    except (ImportError, OSError, SyntaxError):
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
        package = sys.modules.get(parent)
        path = getattr(package, "__path__", None)
        if package is None:
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
        if isinstance(node, ast.If) and _never_true(ast.unparse(node.test)):
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


def _never_true(test: str) -> bool:
    return test in ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")


#: Functions that import the module that they are given the name of.
_IMPORTING = ("import_module", "__import__")


def _imported_from(base: str, level: int, names: Iterable[str], home: str) -> tuple[str, ...]:
    """What `from base import names` may import: a name may be a submodule or anything else."""
    if level:
        above = home.split(".")[: len(home.split(".")) - level + 1]
        base = ".".join([*above, base] if base else above)
    return (base, *[f"{base}.{name}" for name in names]) if base else ()


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
