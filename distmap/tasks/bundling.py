"""Packs the local modules that a function needs, and notices when they have changed.

Owns the record of the source that each module was imported from, bundles (a plain dict, `{name: Source}`) and what goes
with them to workers on other machines. `finder.py` serves them in a task process. Must not know functions, jobs or
picklers: names of modules come in, bundles of sources go out. For the kernel: task processes do not import this.
"""

from __future__ import annotations

import _pickle
import operator
import os
import sys
from collections.abc import Iterable
from types import CodeType, ModuleType

from distmap.tasks._typing import Any, NamedTuple
from distmap.tasks.extras import Extras, Source, Stamps, distributions, gather, remote_workers, stamp, survey
from distmap.tasks.imports import imports_of
from distmap.tasks.modules import (
    DISTMAP,
    find_spec,
    is_local,
    namespace,
    packed_here,
    place,
    read_source,
    recorded,
    references,
    spec_of,
)
from distmap.tasks.payload import digest_of


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
    """Whether IPython's autoreload has taken up the file as it is now; nothing else shows a changed constant."""
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
        names_of = namespace(module)
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
#: Digests of the bundles and extras that were logged.
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
    found = distributions({name.partition(".")[0] for name in reached} - {DISTMAP})
    # A pickle tells one text that comes twice from two equal ones; the digest must not.
    same = sys.intern
    versions = {same(str(name)): same(str(version)) for name, version in found.values()}
    modules = {same(str(name)): same(top) for top, (name, _) in found.items()}
    return _pickled(Extras({}, versions, modules)) if found else None


def _pickled(value: object) -> tuple[bytes, bytes]:
    pickled = _pickle.dumps(value, 5)
    digest = digest_of(pickled)
    packed_here.add(digest)
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


def _record(name: str) -> _Record | None:
    if name in references:
        return None
    module = sys.modules.get(name)
    if module is not None:
        if name == "__main__" or place(name) != "local":
            return None
        spec = spec_of(name, module)
        mark: object = spec
    else:
        spec = find_spec(name)
        if spec is None or not is_local(name, spec):
            return None
        mark = stamp(spec.origin)
    known = _records.get(name)
    if known is not None:
        current = known.mark == mark if module is None else known.mark is mark and known.holds(module)
        if current:
            return known
    assert spec is not None
    seen = stamp(spec.origin)  # before the text is read: a change in between is then seen next time
    source = read_source(name, spec)
    if source is None:
        return None
    codes = _codes(module) if module is not None else ()
    if known is not None and known.source == source:
        record = known._replace(mark=mark, stamp=seen, codes=codes)
    else:
        record = _Record(mark, source, imports_of(source.text, name, package=source.package), seen, codes)
    _records[name] = record
    recorded.add(name)
    return record


def _codes(module: ModuleType) -> tuple[CodeType, ...]:
    """The code objects of the functions and methods that the module defines, in its order."""
    found: list[CodeType] = []
    names = namespace(module)
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
