"""The finder of a task process: serves the local modules that were sent, before anything on disk.

Owns what such a module sees of itself: `__file__`, `__path__`, its source, its data files. On the machine where it
comes from these are the real ones. Elsewhere sources and data files are written into a folder of this process's
worker, unless the same files lie at the same place there (a shared file system). Must not know tasks or pickles.
Imported by task processes, so it stays light: what costs is imported when something is served.
"""

from __future__ import annotations

import os
import sys

# The file system's part of the import system: it is there from the start, `importlib.machinery` is not.
from _frozen_importlib_external import NamespaceLoader, SourceFileLoader, spec_from_file_location
from types import CodeType

from distmap.tasks._typing import TYPE_CHECKING
from distmap.tasks.extras import Extras, Source, Unit

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


class _Loader(SourceFileLoader):
    """Runs the text that was sent; data is read from where the module lies."""

    def __init__(self, name: str, path: str, source: Source) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        filename = self._source.filename or self.path
        if filename != self.path and os.path.exists(filename):
            # Another file lies where the source comes from: tracebacks must not show its lines.
            import linecache

            text = self._source.text
            linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        # Under its name in the notebook's process, which is the one that tracebacks are read by.
        return compile(self._source.text, filename, "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str:
        return self._source.text

    def is_package(self, fullname: str) -> bool:
        return self._source.package


class SourceFinder:
    """What was sent to this process.

    Args:
        folder: where files are written; None: a folder that this process removes at its end.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._sources: dict[str, Source] = {}
        self._units: dict[str, Unit] = {}
        #: Top-level name -> where its files were written; none if they are read where they come from.
        self._roots: dict[str, str] = {}
        self._folder = folder
        #: On another machine than that of the notebook, as far as is known.
        self._elsewhere = folder is not None

    # --- the finder --------------------------------------------------------------------------------------------------

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        source = self._sources.get(name)
        if source is None:
            return None
        root = self._roots.get(name.partition(".")[0])
        folders = list(source.path) if root is None else [os.path.join(root, *name.split("."))]
        if source.filename is None:  # a folder without __init__.py
            from importlib.machinery import ModuleSpec

            spec = ModuleSpec(name, NamespaceLoader(name, folders, lambda *_: None), is_package=True)
            spec.submodule_search_locations = folders
            return spec
        at = source.filename if root is None else _file_of(root, name, source)
        loader = _Loader(name, at, source)
        return spec_from_file_location(
            name, at, loader=loader, submodule_search_locations=folders if source.package else None
        )

    def invalidate_caches(self) -> None:
        """Part of the finder protocol; there is nothing to forget."""

    # --- what is sent ------------------------------------------------------------------------------------------------

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
        return bool(changed) and self._forget()

    def add(self, extras: Extras) -> bool:
        """Have the files of these modules, which were installed before. True if modules were forgotten, as above.

        Raises:
            OSError: they cannot be written.
        """
        self._elsewhere = True
        changed = False
        for top, unit in extras.units.items():
            known, before = self._units.get(top, unit), self._roots.get(top)
            self._units[top] = unit
            if self._is_here(unit):
                self._roots.pop(top, None)
            else:
                self._roots[top] = root = os.path.join(self._own_folder(), unit.digest.hex())
                for name in unit.modules:
                    source = self._sources[name]
                    if source.filename is not None:
                        _write(_file_of(root, name, source), source.text.encode("utf-8", "surrogatepass"))
                for path, data in unit.files:
                    _write(os.path.join(root, path), data)
            if top in sys.modules and (known.digest != unit.digest or self._roots.get(top) != before):
                changed = True  # it was imported from another place, or with other data
        return changed and self._forget()

    def _forget(self) -> bool:
        for name in self._sources:
            sys.modules.pop(name, None)
        return True

    def _is_here(self, unit: Unit) -> bool:
        """Whether the same files lie at the same places on this machine."""
        for name in unit.modules:
            source = self._sources[name]
            if source.filename is None:
                continue
            try:
                text = SourceFileLoader(name, source.filename).get_source(name)
            except ImportError:
                return False
            if text != source.text:
                return False
        return all(any(_holds(os.path.join(base, path), data) for base in unit.bases) for path, data in unit.files)

    def _own_folder(self) -> str:
        if self._folder is not None:
            os.makedirs(self._folder, 0o700, exist_ok=True)
        else:
            import shutil
            import tempfile
            from multiprocessing.util import Finalize  # also where processes end without `atexit`

            self._folder = tempfile.mkdtemp(prefix="distmap-")
            Finalize(None, shutil.rmtree, (self._folder, True), exitpriority=0)
        return self._folder

    # --- what was not sent -------------------------------------------------------------------------------------------

    def explain(self, error: BaseException) -> None:
        """Add a note to an error that comes from what does not travel."""
        for cause in (error, error.__cause__):  # what cannot be unpickled has such a cause
            words: str | None = None
            if self._elsewhere and isinstance(cause, ModuleNotFoundError) and cause.name:
                words = self._missing(cause.name)
            elif self._elsewhere and isinstance(cause, FileNotFoundError) and isinstance(cause.filename, str | bytes):
                words = self._left_out(os.path.abspath(os.fsdecode(cause.filename)))
            if words is not None and words not in getattr(error, "__notes__", ()):
                error.add_note(words)

    def _missing(self, name: str) -> str:
        top = name.partition(".")[0]
        if top in self._sources:
            return (
                f"of the local package {top!r} only the modules travel that something imports by name: write "
                f'`import {name}` or `importlib.import_module("{name}")` in the function or in a module that it uses'
            )
        return (
            f"an installed package {top!r} must be installed on the worker too; a local module travels if the function "
            f'or a module that it uses imports it by name: `import {name}` or `importlib.import_module("{name}")`'
        )

    def _left_out(self, path: str) -> str | None:
        for top, source in self._sources.items():
            if top not in self._units and any(path.startswith(folder + os.sep) for folder in source.path):
                return (
                    f"{os.path.basename(path)} did not travel: when this call began its pool had no workers on other "
                    "machines; from the next call on the data files of local packages travel to them"
                )
        for top, unit in self._units.items():
            for base in (self._roots.get(top), *unit.bases):
                if base is None or not path.startswith(base + os.sep):
                    continue
                below = os.path.relpath(path, base)
                size = unit.left_out.get(below)
                if size is not None:
                    return (
                        f"{os.path.basename(path)} ({size / (1 << 20):.1f} MB) did not travel: data files of local "
                        f"packages do up to {unit.limit >> 20} MB for each call; pass its content as an argument, or "
                        "put it where every worker can read it"
                    )
                if any(below.startswith(folder + os.sep) for folder in unit.cut):
                    from distmap.core.limits import LIMITS

                    return (
                        f"{os.path.basename(path)} may be one of those that did not travel: of local packages "
                        f"{LIMITS.data_files:,} data files do for each call; put them into one file, or where every "
                        "worker can read them"
                    )
                if not self._sources[top].package and self._roots.get(top) == base:
                    return (
                        f"{os.path.basename(path)} did not travel: data files do inside a package (a folder that is "
                        f"imported), not beside a single module such as {top!r}; pass its content as an argument"
                    )
        return None


def _file_of(root: str, name: str, source: Source) -> str:
    where = os.path.join(root, *name.split("."))
    return os.path.join(where, "__init__.py") if source.package else where + ".py"


def _holds(path: str, data: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size == len(data) and file.read() == data
    except OSError:
        return False


def _write(path: str, data: bytes) -> None:
    """Whole, or not at all: other task processes of the worker write the same files at the same time."""
    if _holds(path, data):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.{os.getpid()}.part"
    with open(part, "wb") as file:
        file.write(data)
    os.replace(part, path)
