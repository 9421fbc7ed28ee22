"""The cache of pickled functions that repeated calls go through.

Owns `CodeCache` and the checks that say whether a global that a function uses has changed. Must not know items, tasks
or workers. For the kernel: task processes do not import this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from opcode import opmap
from time import monotonic, perf_counter
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType

from distmap.core.limits import LIMITS
from distmap.tasks._typing import Any
from distmap.tasks.broadcast import Broadcast
from distmap.tasks.bundling import imported, stamps, unchanged
from distmap.tasks.caller import warn
from distmap.tasks.code import HASHED, Code, Setup, Style, anchor_for, build, name_of
from distmap.tasks.modules import place
from distmap.tasks.object_paths import cells_of, names_of
from distmap.tasks.picklers import by_reference
from distmap.tasks.surroundings import NO_SURROUNDINGS, CallSurroundings

#: Seconds of hashing large captures (`submit` does it at each call) after which the user is shown a quicker way, once.
_LONG = 2.0
_MISSING = object()
_CONSTANTS = (int, float, complex, str, bytes, bool, type(None), type(...), type(NotImplemented), range, Broadcast)
#: Instructions by which a function that travels by value can change what it finds at its next item, and names by which
#: it gets at all that it has.
_STORES = frozenset(
    [opmap[name] for name in ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR") if name in opmap]
)
_STORES_CELL = frozenset([opmap[name] for name in ("STORE_DEREF", "DELETE_DEREF") if name in opmap])
_REACHES_ALL = {"globals", "locals", "vars", "exec", "eval", "setattr", "delattr", "f_globals", "f_back"}


class _Mutable(Exception):
    """The function reaches something whose change could not be noticed."""


class _Checked:
    """Code, and everything that must still be as it was when it was made."""

    __slots__ = ("_looked", "cells", "code", "files", "functions", "mappings")

    def __init__(self) -> None:
        self.code: Code
        self.functions: list[tuple[FunctionType, CodeType, object, object]] = []
        self.mappings: list[tuple[dict[str, Any], str, object]] = []
        self.cells: list[tuple[CellType, object]] = []
        self.files: list[tuple[str | None, object]] = []
        #: Until when the files count as unchanged, and the cell of the notebook in which they were looked at.
        self._looked: tuple[float, object] = (0.0, None)

    def holds(self) -> bool:
        try:
            for fn, code, defaults, kwdefaults in self.functions:
                if (
                    fn.__code__ is not code
                    or fn.__defaults__ is not defaults
                    or fn.__kwdefaults__ is not kwdefaults
                    or fn.__dict__
                ):
                    return False
            for mapping, key, value in self.mappings:
                if mapping.get(key, _MISSING) is not value:
                    return False
            for cell, value in self.cells:
                if cell.cell_contents is not value:
                    return False
        except ValueError:  # a cell became empty
            return False
        return not self.files or self._files_hold()

    def _files_hold(self) -> bool:
        now, cell = monotonic(), _cell()
        until, looked_in = self._looked
        if now < until and cell == looked_in:
            return True
        self._looked = now + LIMITS.stamp_seconds, cell
        return unchanged(self.files)

    def note(self, value: object) -> None:
        """Record what this value reaches; raises _Mutable if a change in it would go unseen."""
        kind = type(value)
        if kind in _CONSTANTS:
            return
        if kind in (tuple, frozenset):
            for element in value:  # type: ignore[attr-defined]
                self.note(element)
        elif kind is partial:
            for part in (value.func, value.args, *value.keywords.values()):  # type: ignore[attr-defined]
                self.note(part)
        elif kind is FunctionType:
            self._note_function(value)  # type: ignore[arg-type]
        elif isinstance(value, type):
            if not by_reference(value):
                raise _Mutable
            self._note_reference(value)
        elif kind is BuiltinFunctionType:
            if not isinstance(value.__self__, ModuleType | type(None)):  # type: ignore[attr-defined]
                raise _Mutable
        elif kind is not ModuleType or place(value.__name__) == "value":  # type: ignore[attr-defined]
            raise _Mutable

    def _note_function(self, fn: FunctionType) -> None:
        if by_reference(fn):
            self._note_reference(fn)
            return
        if any(known is fn for known, *_ in self.functions):
            return
        if fn.__dict__ or fn.__kwdefaults__:
            raise _Mutable
        self.functions.append((fn, fn.__code__, fn.__defaults__, fn.__kwdefaults__))
        self.note(fn.__defaults__)
        namespace = fn.__globals__
        for name in names_of(fn.__code__):
            value = namespace.get(name, _MISSING)
            self.mappings.append((namespace, name, value))
            if value is not _MISSING:
                self.note(value)
        for _, cell, value in cells_of(fn):
            self.cells.append((cell, value))
            self.note(value)

    def _note_reference(self, obj: FunctionType | type) -> None:
        # A nested name is checked by its first part: a class that is importable counts as constant.
        first = obj.__qualname__.partition(".")[0]
        namespace = vars(sys.modules[obj.__module__])
        self.mappings.append((namespace, first, namespace.get(first, _MISSING)))


def _keeps_state(fn: FunctionType) -> bool:
    """Whether a function that travels by value may leave something behind in its globals, its cells or itself.

    It reaches nothing that can be changed in place; so these are all.
    """
    return _stores(fn.__code__, _STORES | _STORES_CELL if fn.__closure__ else _STORES)


def _stores(code: CodeType, stores: frozenset[int]) -> bool:
    if not stores.isdisjoint(code.co_code[::2]):
        return True
    if any(name in _REACHES_ALL or (name[:2] == "__" and name != "__name__") for name in code.co_names):
        return True
    return any(_stores(constant, stores) for constant in code.co_consts if isinstance(constant, CodeType))


def _cell() -> object:
    """What changes from cell to cell of a notebook: between two of them autoreload takes up edited files."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "execution_count", None)


class CodeCache:
    """Gives the Code of functions; the last one again while nothing that the function reaches by name has changed.

    Files of local modules are looked at once in `LIMITS.stamp_seconds`: a look lets other threads go on first, which
    costs each of many submits more than all the rest. Nobody runs an older function for it. A module that is imported
    again is another one at once; and autoreload, which changes functions in place, does so between two cells, after
    which the files are looked at. Only a data file of a package, which workers elsewhere are sent, is sent as it was if
    it is edited and needed again within this time.

    A function that reaches anything changeable (a list, an array, an instance, a class of the notebook) is pickled each
    time, and its arrays are read: only so is a change in place seen. The digest tells whether it is still the same.
    """

    def __init__(self, *, size: int = 64) -> None:
        self._size = size
        self._entries: dict[tuple[int, Style, tuple[object, ...]], tuple[object, _Checked]] = {}
        #: Seconds spent on large captures.
        self._seconds = 0.0

    def setup(self, fn: Callable[..., Any], tags: frozenset[str], before: tuple[Setup, ...]) -> Setup:
        """The function as a set-up that runs after those `before`; the same wherever a call is made."""
        return Setup(self.get(fn, "setup", before), anchor_for(fn), tags)

    def get(
        self,
        fn: Callable[..., Any],
        style: Style = "one",
        setups: tuple[Setup, ...] = (),
        surroundings: CallSurroundings = NO_SURROUNDINGS,
        *,
        exact: bool = True,
    ) -> Code:
        """The code of the function.

        Args:
            exact: as of `build`; a call over many items can do without. Its function is not kept either if it mentions
                broadcast values: they go with their handles, which the function may hold.
        """
        key = (id(fn), style, tuple([(setup.code.digest, setup.tags) for setup in setups]) if setups else ())
        known = self._entries.get(key)
        if known is not None and known[0] is fn and known[1].code.surroundings is surroundings and known[1].holds():
            return known[1].code
        entry: _Checked | None = _Checked()
        try:
            # Before pickling, so that a change in between is seen at the next call.
            entry.note(fn)  # type: ignore[union-attr]
        except _Mutable:
            entry = None
        begun = perf_counter()
        code, needs = build((fn, style, None, None), setups, surroundings, exact=exact)
        if exact and code.payload.nbytes > HASHED:
            self._tell_of_broadcast(fn, code.payload.nbytes, perf_counter() - begun)
        if entry is not None:
            files = stamps(needs.modules)
            checks = imported(needs.modules)
            # What is large is not kept here beyond the futures that use it.
            if checks is not None and code.payload.nbytes <= HASHED and (exact or not needs.values):
                code = code._replace(
                    stateless=not needs.values and not any(_keeps_state(fn) for fn, *_ in entry.functions)
                )
                entry.files = files
                entry.code = code
                entry.mappings += checks
                if len(self._entries) >= self._size:
                    self._entries.clear()
                self._entries[key] = (fn, entry)
                return code
        self._entries.pop(key, None)
        return code

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def _tell_of_broadcast(self, fn: Callable[..., Any], nbytes: int, seconds: float) -> None:
        before, self._seconds = self._seconds, self._seconds + seconds
        if before < _LONG <= self._seconds:
            warn(
                f"each submit looks through the {nbytes >> 20} MB that function {name_of(fn)} captures, to see whether "
                "they have changed; a handle of pool.broadcast(value) is quicker"
            )
