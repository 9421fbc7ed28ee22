"""What travels of local modules, and what goes with them to workers on other machines.

Owns `Source` (one module), and `Extras`: data files of packages and versions of what is installed, how they are
gathered in the kernel, and how versions are compared on a worker. Slots of this machine have the files and the packages
themselves, so no extras are sent to them. Must not know how modules are found or served. Imported by task processes, so
it stays light.
"""

from __future__ import annotations

import _pickle
import os
import sys
from collections.abc import Iterable, Mapping
from stat import S_ISDIR, S_ISREG

from distmap.tasks._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from distmap.core.limits import Limits

#: Never data: what Python makes or imports.
_NO_DATA = (".py", ".pyc", ".pyo", ".pyd")
#: By such files a distribution without a list of its modules is known to have brought one.
_MODULE_ENDS = (".py", ".so", ".pyd")
_NO_FOLDERS = ("__pycache__", "node_modules")
_NO_FOLDER_ENDS = (".egg-info", ".dist-info")

Stamps = list[tuple[str | None, object]]


class Source(NamedTuple):
    """A module as it travels."""

    package: bool
    filename: str | None
    text: str
    digest: bytes
    #: Where a package's other files lie (data, compiled submodules): of use on the same host only.
    path: tuple[str, ...]


class Unit(NamedTuple):
    """One top-level module or package as it travels: which modules of it, and its data files."""

    #: Of the data files.
    digest: bytes
    modules: tuple[str, ...]
    #: The folders that hold it in the process that sent it.
    bases: tuple[str, ...]
    #: Path below the base, content.
    files: tuple[tuple[str, bytes], ...]
    #: Path below the base, size, of what is too large; the limit of all of it.
    left_out: dict[str, int]
    limit: int
    #: Folders, by their paths below the base, in which more files lie than are looked at.
    cut: tuple[str, ...] = ()


class Extras(NamedTuple):
    units: dict[str, Unit]
    #: Of the distributions that a function reaches by reference; the module for which it reaches each.
    versions: dict[str, str]
    modules: dict[str, str] = {}  # noqa: RUF012  (nobody changes it)


class Lack(NamedTuple):
    """A distribution that a worker has in another version than the process that made the call, or not at all."""

    name: str
    wanted: str
    #: None: it is missing.
    there: str | None

    @property
    def serious(self) -> bool:
        """It is missing, or the first two numbers of the version differ."""
        return self.there is None or _series(self.there) != _series(self.wanted)


def _series(version: str) -> list[str]:
    return version.partition("+")[0].split(".")[:2]


class _RemoteWorkers:
    """Whether a pool of this process has workers on other machines: only they need any of this."""

    expected = False


remote_workers = _RemoteWorkers()


def stamp(path: str | None) -> object:
    """(mtime, size) of a file or folder; None if there is none."""
    try:
        status = os.stat(path or "")
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


class Survey(NamedTuple):
    """The data files that lie in the packages of a bundle, before any is read."""

    #: Top-level name -> folders that hold it; paths below such a folder with the file and its size.
    bases: dict[str, tuple[str, ...]]
    files: dict[str, dict[str, tuple[str, int]]]
    #: While they hold, nothing was added, changed or removed.
    stamps: Stamps
    #: Top-level name -> folders, below such a one, that were not looked through, as there are too many files.
    cut: dict[str, list[str]]


def _limits() -> Limits:
    from distmap.core.limits import LIMITS  # in the kernel only: it imports typing

    return LIMITS


def survey(sources: Mapping[str, Source], limits: Limits | None = None) -> Survey:
    """Look which data files there are."""
    found = Survey({}, {}, [], {})
    left = (limits or _limits()).data_files
    for top, source in sources.items():
        if "." in top:
            continue
        folders = source.path if source.package else (os.path.dirname(source.filename or ""),)
        found.bases[top] = tuple([os.path.dirname(folder) if source.package else folder for folder in folders])
        found.files[top], found.cut[top] = {}, []
        for folder in source.path:
            left = _walk(found, top, folder, os.path.basename(folder), left)
    return found


def _walk(found: Survey, top: str, folder: str, name: str, left: int) -> int:
    """Note the data files below a folder, `left` of them at most; how many may follow."""
    found.stamps.append((folder, stamp(folder)))
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return left
    for entry in entries:
        if left <= 0:
            found.cut[top].append(name)
            break
        path, below = os.path.join(folder, entry), f"{name}/{entry}"
        if entry.startswith(".") or entry.endswith(_NO_DATA):
            continue
        try:
            status = os.stat(path)
        except OSError:
            continue
        if S_ISREG(status.st_mode):
            left -= 1
            found.files[top][below] = (path, status.st_size)
            found.stamps.append((path, (status.st_mtime_ns, status.st_size)))
        elif S_ISDIR(status.st_mode) and not os.path.islink(path):
            if entry not in _NO_FOLDERS and not entry.endswith(_NO_FOLDER_ENDS):
                left = _walk(found, top, path, below, left)
    return left


def gather(sources: Mapping[str, Source], found: Survey, limits: Limits | None = None) -> Extras:
    """Read the data files, the smallest first, up to `data_bytes` of them."""
    from hashlib import blake2b

    every = [(size, top, below, path) for top, files in found.files.items() for below, (path, size) in files.items()]
    most = room = (limits or _limits()).data_bytes
    content: dict[str, list[tuple[str, bytes]]] = {top: [] for top in found.bases}
    left_out: dict[str, dict[str, int]] = {top: {} for top in found.bases}
    for size, top, below, path in sorted(every):
        if size <= room:
            try:
                with open(path, "rb") as file:
                    data = file.read(room + 1)
            except OSError:
                continue  # not ours to read, or gone
            if len(data) <= room:
                room -= len(data)
                content[top].append((below, data))
                continue
        left_out[top][below] = size
    units = {}
    for top, bases in found.bases.items():
        state = blake2b(digest_size=16)
        for below, data in content[top]:
            state.update(_pickle.dumps((below, data), 5))
        modules = tuple([name for name in sources if name.partition(".")[0] == top])
        units[top] = Unit(
            state.digest(), modules, bases, tuple(content[top]), left_out[top], most, tuple(found.cut[top])
        )
    return Extras(units, {})


# --- versions ---------------------------------------------------------------------------------------------------------


class _Installed:
    """What is installed on a path."""

    def __init__(self, path: Stamps, earlier: _Installed | None = None) -> None:
        self.path = path
        #: Top-level module -> its distribution and version; None: it has none.
        self._known: dict[str, tuple[str, str] | None] = {}
        #: Those that were looked through. One that has not changed is not read again.
        self._folders: dict[tuple[str | None, object], Mapping[str, list[Distribution]]] = (
            {} if earlier is None else {at: earlier._folders[at] for at in path if at in earlier._folders}
        )

    def of(self, top: str) -> tuple[str, str] | None:
        if top not in self._known:
            self._known[top] = None if top in sys.stdlib_module_names else self._look(top)
        return self._known[top]

    def _look(self, top: str) -> tuple[str, str] | None:
        if (version := version_of(top)) is not None:  # most are called like their module
            return top, version
        for at in self.path:
            if at not in self._folders:
                self._folders[at] = _read_folder(at[0] or "")
            for distribution in self._folders[at].get(top, ()):
                if (name := _name_of(distribution)) and (version := version_of(name)) is not None:
                    return name, version
        return None


def _read_folder(folder: str) -> dict[str, list[Distribution]]:
    """The distributions in a folder of the path, by the top-level modules that they brought.

    As `packages_distributions` of importlib.metadata in a tenth of its time: that makes a path of each installed file.
    """
    from importlib import metadata

    found: dict[str, list[Distribution]] = {}
    for distribution in metadata.distributions(path=[folder]):
        tops = (distribution.read_text("top_level.txt") or "").split()
        if not tops:
            paths = [line.partition(",")[0] for line in (distribution.read_text("RECORD") or "").splitlines()]
            tops = [path.partition("/")[0].partition(".")[0] for path in paths if path.endswith(_MODULE_ENDS)]
        for top in set(tops):
            found.setdefault(top, []).append(distribution)
    return found


def _name_of(distribution: Distribution) -> str | None:
    try:
        head = distribution.metadata
    except (OSError, KeyError, Warning):  # a folder without METADATA; Python 3.12 and 3.13 warn of it
        return None
    return head["Name"] if head is not None and "Name" in head else None


def version_of(distribution: str) -> str | None:
    """The version that is installed; None if there is none, or if its folder does not tell."""
    from importlib import metadata

    try:
        head = metadata.metadata(distribution)
    except (metadata.PackageNotFoundError, OSError):
        # OSError: a folder without METADATA, to the finder of the package importlib_metadata (Dask brings it).
        return None
    return head["Version"] if "Version" in head else None


_installed = _Installed([])


def distributions(modules: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The distribution that each of these top-level modules belongs to, with its version."""
    global _installed
    path: Stamps = [(entry, stamp(entry)) for entry in sys.path if isinstance(entry, str)]
    if path != _installed.path:  # something was installed meanwhile
        _installed = _Installed(path, _installed)
    return {top: found for top in sorted(modules) if (found := _installed.of(top)) is not None}


def lacking(extras: Extras) -> list[Lack]:
    """In a worker: what is not here, or in another version."""
    found = []
    for name, wanted in extras.versions.items():
        there = version_of(name)
        if there == wanted or (there is None and _is_importable(extras.modules.get(name))):
            continue  # a module that lies here without saying its version is taken for the right one
        found.append(Lack(name, wanted, there))
    return found


def _is_importable(module: str | None) -> bool:
    if module is None or module in sys.modules:
        return True
    from importlib.util import find_spec

    return find_spec(module) is not None


def differences(lacks: Iterable[Lack]) -> list[str]:
    """A line for each distribution that has another version on the worker, to be followed by who says it."""
    # One that is missing is told by the import that fails.
    return [f"{lack.name} is {lack.wanted} here and {lack.there} on" for lack in lacks if lack.there is not None]
