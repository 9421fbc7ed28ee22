"""What surrounds a call in the process that makes it: arguments, warning filters, path, working directory, environment.

Owns the record of it, how it is taken at each call, and how a task process switches to it before an item of that call
runs. Slots of this machine get all of it, workers elsewhere the arguments, the filters and what the pool's `env=` adds.
Must not know jobs, tasks or connections. Imported by task processes, so it stays light.

A filter travels as plain values. Its category goes by its name: it need not be importable on the other side, and must
not be imported there only because a filter mentions it.
"""

from __future__ import annotations

import _pickle
import _warnings
import os
import sys
from collections.abc import Callable, Iterable, Mapping

from distmap.tasks._typing import Any, NamedTuple, cast
from distmap.tasks.modules import loaded, lookup
from distmap.tasks.payload import Blob, Payload, digest_of

#: Never part of what travels.
_SECRET = "DISTMAP_TOKEN"
#: Names the variables that a slot has of its own, such as the one of its GPU: no call changes them.
OWN_VARIABLES = "DISTMAP_SLOT_VARIABLES"

#: Action, message, module and name of the category, module, line; a text is (pattern, flags) where it is a regex.
_Text = str | tuple[str, int] | None
_Filter = tuple[str, _Text, tuple[str, str], _Text, int]


class Surroundings(NamedTuple):
    """The surroundings that a task process takes over; None: that part stays as it is there."""

    argv: tuple[str, ...]
    filters: tuple[_Filter, ...]
    path: tuple[str, ...] | None = None
    cwd: str | None = None
    #: Variables that differ from those that the task processes were started with; None: taken out.
    env: Mapping[str, str | None] = {}
    #: Digest of the descriptor of the process that tracks shared memory.
    tracker: bytes | None = None


class CallSurroundings(NamedTuple):
    """The surroundings of one call, as they are sent."""

    #: To slots of this machine.
    here: Blob | None = None
    #: To workers elsewhere.
    there: Blob | None = None
    #: To slots of this machine, before `here`.
    tracker: Blob | None = None

    def of(self, place: str) -> tuple[Blob, ...]:
        """What task processes at a place ("here", "there") are sent, in this order."""
        wanted = {"here": (self.tracker, self.here), "there": (self.there,)}.get(place, ())
        return tuple([blob for blob in wanted if blob is not None])


#: No surroundings are sent.
NO_SURROUNDINGS = CallSurroundings()


# --- kernel: taking them ----------------------------------------------------------------------------------------------


class Watch:
    """Takes the surroundings at each call of one pool. As long as nothing has changed it gives what it gave before.

    Args:
        base: the environment that the pool's task processes of this machine start with.
        added: what is added to the environment of every task process, wherever it is.
        changed: called with new ones.
    """

    def __init__(
        self, base: Mapping[str, str], added: Mapping[str, str], changed: Callable[[CallSurroundings], object]
    ) -> None:
        self._base = base
        self._added = added
        self._changed = changed
        self._last: tuple[Any, CallSurroundings] | None = None
        self._tracker = os.urandom(16)

    def look(self) -> CallSurroundings:
        """The surroundings at this moment. From any thread; takes a few microseconds."""
        environ = getattr(os.environ, "_data", os.environ)  # as bytes, which are compared and copied ten times faster
        try:
            cwd = os.getcwd()
        except OSError:  # it was deleted
            cwd = None
        # A process that has not imported this has no shared memory of that kind, and needs no tracker for it.
        shares = loaded("multiprocessing.shared_memory") is not None
        last = self._last
        if last is not None:
            argv, filters, path, before, shared, env = last[0]
            if (
                cwd == before
                and shares == shared
                and path == sys.path
                and argv == sys.argv
                and filters == _filters()
                and env == environ
            ):
                return last[1]
        seen = ([*sys.argv], [*_filters()], [*sys.path], cwd, shares, {**environ})
        taken = self._taken(*seen)
        self._last = (seen, taken)
        self._changed(taken)
        return taken

    def _taken(
        self, argv: Any, filters: Any, path: Any, cwd: str | None, shares: bool, environ: Any
    ) -> CallSurroundings:
        plain = _strings(argv), _plain(filters)
        now = {os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()} | {**self._added}
        names = {name for name in now.keys() | self._base.keys() if now.get(name) != self._base.get(name)} - {_SECRET}
        env = {name: now.get(name) for name in sorted(names)}
        tracker = _tracker(self._tracker) if shares else None
        here = Surroundings(*plain, _strings(path), cwd, env, self._tracker if tracker is not None else None)
        return CallSurroundings(_blob(here), _blob(Surroundings(*plain, env=self._added)), tracker)


def _tracker(digest: bytes) -> Blob | None:
    if os.name != "posix":
        return None  # shared memory needs no tracker there
    from multiprocessing import resource_tracker

    # It lasts as long as this process.
    return Blob(digest, "descriptor", Payload(b"%d" % cast("int", resource_tracker.getfd())))


def _strings(values: Iterable[object]) -> tuple[str, ...]:
    """The texts among the values: a program may have put anything there."""
    return tuple([value for value in values if isinstance(value, str)])


def _blob(surroundings: Surroundings) -> Blob:
    pickled = _pickle.dumps(tuple(surroundings), 5)
    return Blob(digest_of(pickled), "surroundings", Payload(pickled))


# --- warning filters --------------------------------------------------------------------------------------------------


def _filters() -> list[Any]:
    warnings = loaded("warnings")
    of_context = getattr(warnings, "_get_filters", None)  # since 3.14
    found: list[Any] = getattr(warnings, "filters", _warnings.filters) if of_context is None else of_context()
    return found


def _plain(filters: Iterable[Any]) -> tuple[_Filter, ...]:
    """The filters as plain values. One that matches by an object other than a regex cannot travel and is left out."""
    found: list[_Filter] = []
    for action, message, category, module, line in filters:
        texts = [
            (text.pattern, text.flags) if hasattr(text, "pattern") and hasattr(text, "flags") else text
            for text in (message, module)
        ]
        if all(text is None or isinstance(text, str | tuple) for text in texts):
            found.append((action, texts[0], (category.__module__, category.__qualname__), texts[1], line))
    return tuple(found)


class _ByName(type):
    """The type of a category that stands for another one of the same name."""

    def __subclasscheck__(cls, other: type) -> bool:
        return any((kind.__module__, kind.__qualname__) == (cls.__module__, cls.__qualname__) for kind in other.__mro__)


def _category(module: str, name: str) -> type:
    found = lookup(loaded(module), name)
    if isinstance(found, type):
        return found
    return _ByName(name.rpartition(".")[2], (Warning,), {"__module__": module, "__qualname__": name})


def _filter_by(filters: Iterable[_Filter]) -> None:
    import re
    import warnings

    warnings.resetwarnings()  # it also tells the interpreter that they change
    for action, message, category, module, line in filters:
        texts = [re.compile(*text) if isinstance(text, tuple) else text for text in (message, module)]
        _filters().append((action, texts[0], _category(*category), texts[1], line))


# --- task process: switching to them ----------------------------------------------------------------------------------


class SurroundingsSwitch:
    """Switches this process to the surroundings of the call whose items come next.

    What differs from the surroundings before is set; everything else stays. So what a set-up changes lasts until the
    calling process changes the same thing; of what items change `hygiene.py` sets most back.
    """

    def __init__(self) -> None:
        self._digest = b""
        self._before: Surroundings | None = None
        self._env: dict[str, str] = {}
        # Not for pools that a task makes.
        self._own = os.environ.pop(OWN_VARIABLES, "").split()

    def switch_to(self, digest: bytes, payload: Payload) -> None:
        """Switch to the surroundings in this blob."""
        if digest == self._digest:
            return
        wanted = Surroundings(*_pickle.loads(payload.head))
        before = self._before
        if before is None:  # no task has run yet
            self._env = dict(os.environ)
            before = Surroundings(tuple(sys.argv), _plain(_filters()), tuple(sys.path), None)
        if wanted.tracker is not None and before.tracker is None:
            from distmap.tasks.shared import adopt_tracker

            adopt_tracker(wanted.tracker)
        if wanted.argv != before.argv:
            sys.argv = [*wanted.argv]
        if wanted.filters != before.filters:
            _filter_by(wanted.filters)
        if wanted.path is not None and wanted.path != before.path:
            own = [entry for entry in sys.path if entry not in (before.path or ()) and entry not in wanted.path]
            sys.path[:] = [*own, *wanted.path]
        for name in before.env.keys() | wanted.env.keys():
            old, value = (of.get(name, self._env.get(name)) for of in (before.env, wanted.env))
            if value != old and name not in self._own:
                _set(name, value)
        if wanted.cwd is not None and wanted.cwd != before.cwd:
            _enter(wanted.cwd)
        self._digest, self._before = digest, wanted._replace(cwd=wanted.cwd or before.cwd)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError:
        pass  # it was deleted or locked since: what needs it says so better than we could
