"""How modules travel: by reference, as source, or not at all.

Owns the line between modules that the other side has (standard library, site-packages: by reference) and *local* ones
that travel as source; and the reading of a source. `bundling.py` packs local modules in the kernel, `finder.py` serves
them in a task process. Must not know functions, jobs or pickles. Imported by task processes: `importlib` and the rest
are imported when needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

from distmap.tasks._typing import TYPE_CHECKING, Any, Literal
from distmap.tasks.extras import Source, stamp
from distmap.tasks.payload import digest_of

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

#: "reference": importable on the other side; "local": its source travels; "value": it has no source, or none any more,
#: so what lives in it is pickled by value (as `__main__` is).
TravelsAs = Literal["reference", "local", "value"]

_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
DISTMAP = __name__.partition(".")[0]
_Spec = type(sys.__spec__)


#: Modules whose source was recorded in this process: they stay local even if their file is removed or renamed.
recorded: set[str] = set()
#: Modules that were found to be "reference" once; they never become local.
references: set[str] = {"builtins", "sys"}


def place(name: str) -> TravelsAs:
    """How what lives in the module of that name travels."""
    if name in references:
        return "reference"
    if name == "__main__":
        return "value"
    module = sys.modules.get(name)
    if module is None:
        return "value"
    result = _place(name, module)
    if result == "reference":
        references.add(name)
        spec = spec_of(name, module)
        if spec is not None and spec.has_location and spec.origin is not None and _is_local_path(spec.origin):
            _outside[name] = spec
    return result


#: Modules by reference whose files lie where local ones do, and the specs under which they were imported.
_outside: dict[str, ModuleSpec] = {}


def imported_again(names: Iterable[str]) -> list[str]:
    """Those of these modules that go by reference, and that were imported anew since the last call of this."""
    found = []
    for name in names:
        known = _outside.get(name)
        if known is not None and (spec := spec_of(name, sys.modules.get(name))) is not known and spec is not None:
            _outside[name] = spec
            found.append(name)
    return found


def _place(name: str, module: ModuleType) -> TravelsAs:
    top = name.partition(".")[0]
    if top == DISTMAP or name in sys.builtin_module_names:
        return "reference"
    spec = spec_of(name, module)
    if spec is not None:
        if is_local(name, spec):
            # Its file may have been removed, or renamed, since it was imported.
            return "local" if name in recorded or read_source(name, spec) is not None else "value"
        if spec.origin is not None or spec.loader is not None or spec.submodule_search_locations is not None:
            return "reference"
    if getattr(module, "__file__", None) is not None:
        return "reference"
    # Made at run time. Those that an installed package makes (six.moves) are made on the other side too.
    if top != name and top in sys.modules:
        return "value" if place(top) != "reference" else "reference"
    return "value"


def spec_of(name: str, module: object) -> ModuleSpec | None:
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
        known = _replaced[name] = (module, find_spec(name))
    return known[1]


_replaced: dict[str, tuple[object, ModuleSpec | None]] = {}


def namespace(module: object) -> dict[str, Any]:
    """The module's own names; empty for what replaced it and has none."""
    found = getattr(module, "__dict__", None)
    return found if isinstance(found, dict) else {}


def is_local(name: str, spec: ModuleSpec) -> bool:
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


def lookup(found: Any, dotted: str) -> Any:
    """What a dotted name leads to from an object; None if it leads nowhere."""
    for name in dotted.split("."):
        found = getattr(found, name, None)
    return found


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
    # While cloudpickle is being imported, nothing can have been registered with it.
    cloudpickle = loaded("cloudpickle")
    return cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else set()


#: Digests of what was packed here: this process has those modules already.
packed_here: set[bytes] = set()


def read_source(name: str, spec: ModuleSpec) -> Source | None:
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
    digest = digest_of(f"{spec.origin}\0{text}".encode("utf-8", "surrogatepass"))
    return Source(package, spec.origin, text, digest, path)


def find_spec(name: str) -> ModuleSpec | None:
    """The spec of a module that is not imported, without importing its parents (importlib.util.find_spec would)."""
    parent, _, last = name.rpartition(".")
    if not last.isidentifier() or (not parent and name in sys.stdlib_module_names):
        return None
    path: Sequence[str] | None = None
    if parent:
        package = sys.modules.get(parent)
        path = getattr(package, "__path__", None)
        if package is None:
            spec = find_spec(parent)
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
