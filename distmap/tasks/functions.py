"""A function with the constants of its job, as `Code`: pickled once per job, or not at all if nothing has changed.

Owns `dump_code`, the cache that repeated `submit`s go through, and the error that names what does not pickle in a
function. Must not know items, tasks or workers. In a task process only the type `Code` of it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType

from distmap.errors import PayloadError
from distmap.tasks._typing import Any, Buffer, Literal, NamedTuple
from distmap.tasks.caller import warn
from distmap.tasks.failures import short_repr
from distmap.tasks.modules import imported, imported_again, place, stamps, unchanged
from distmap.tasks.object_paths import cells_of, names_of, parts_of, path_to_generator, pickling_error
from distmap.tasks.pickling import Blob, Broadcast, Dependencies, Payload, by_reference, digest_of, dump_value, size
from distmap.tasks.surroundings import NO_SURROUNDINGS, CallSurroundings

#: How an item x is given to the function: fn(x), fn(*x), fn(*x[0], **x[1]); the last one also for a set-up.
Style = Literal["one", "star", "call", "setup"]

#: Code with more captured bytes than this gets a digest of its own for each job: hashing costs more than it saves.
_HASHED = 1 << 20
#: `submit` does hash them, at each call. After so many seconds of that the user is told of the quicker way, once.
_LONG = 2.0
#: So much in the pickle itself (arrays are not) is copied into every slot; the user is told once per name.
_LARGE = 100 << 20
_MISSING = object()
_CONSTANTS = (int, float, complex, str, bytes, bool, type(None), type(...), type(NotImplemented), range, Broadcast)


class Code(NamedTuple):
    """A pickled function with what belongs to its job; the same digest means the same behaviour."""

    digest: bytes
    payload: Payload
    #: To be put before the code is loaded.
    blobs: tuple[Blob, ...]
    #: Where the call was made.
    surroundings: CallSurroundings = NO_SURROUNDINGS
    #: What has to run before it in a task process.
    setups: tuple[Setup, ...] = ()

    def own(self) -> Code:
        """The same with copies of what it captured: what the caller does to an array from now on does not matter."""
        payload = self.payload
        return self._replace(payload=payload._replace(buffers=tuple(map(bytearray, payload.buffers))))


class Setup(NamedTuple):
    """A function that has to run in a task process before its first item: once, while its digest is the same."""

    code: Code
    #: A stand-in for it in the pickles of other functions, with which it shares its globals; None: it needs none.
    anchor: Any
    #: Only on workers that carry all of these.
    tags: frozenset[str] = frozenset()


def dump_code(
    fn: Callable[..., Any],
    *,
    style: Style = "one",
    combine: Callable[[Any, Any], Any] | None = None,
    seed: int | None = None,
    setups: Sequence[Setup] = (),
    surroundings: CallSurroundings = NO_SURROUNDINGS,
) -> Code:
    """Pickle a function with the constants of its job.

    Args:
        setups: what will have run in each process before: functions that are pickled by value find the globals of the
            notebook as these left them there.

    Raises:
        PayloadError: it does not pickle; the message names the function and the variable at fault.
    """
    return _build((fn, style, combine, seed), tuple(setups), surroundings)[0]


def underlying(fn: object) -> FunctionType | None:
    """The function behind partials and bound methods, if there is one."""
    while isinstance(fn, MethodType | partial):
        fn = fn.func if isinstance(fn, partial) else fn.__func__
    return fn if isinstance(fn, FunctionType) else None


def _anchor(fn: object) -> FunctionType | None:
    """A function that shares the globals of `fn`, and names none of them; None if `fn` has its own everywhere."""
    found = underlying(fn)
    if found is None or by_reference(found):
        return None
    anchor = FunctionType((lambda: None).__code__, found.__globals__, "<set-up>")
    anchor.__module__, anchor.__qualname__ = found.__module__, "<set-up>"
    return anchor


def _build(
    content: tuple[Any, ...], setups: tuple[Setup, ...], surroundings: CallSurroundings, *, exact: bool = False
) -> tuple[Code, Dependencies]:
    """The code of a job. `exact`: however large what it captured is, equal content has an equal digest."""
    needs = Dependencies()
    fn = content[0]
    content = (*content, tuple([(setup.code.digest, setup.anchor) for setup in setups]))
    try:
        payload = dump_value(content, needs, what=f"function {name_of(fn)}")
    except PayloadError as exc:
        names = ("", "style", "combine=", "seed=", "a set-up")
        error = pickling_error(
            f"function {name_of(fn)} cannot be sent to a worker", content, exc.__cause__ or exc, names
        )
        raise error from error.__cause__
    if needs.generator:
        _warn_generator(fn)
    if size(payload.head) > _LARGE:
        _warn_large(fn)
    for name in imported_again(needs.references):
        warn(
            f"module {name!r} was imported again here, but it looks installed or has compiled parts, so that task "
            "processes import it by themselves, once, and go on with what they have; a new Pool takes the new text"
        )
    blobs = (*needs.blobs(), *needs.versions())
    buffers = payload.buffers
    if sum(map(size, buffers)) > _HASHED:
        buffers = tuple(map(_hash, buffers)) if exact else (os.urandom(16),)
    digests = [blob.digest for blob in (*blobs, *surroundings) if blob is not None]
    return Code(digest_of(payload.head, *buffers, *digests), payload, blobs, surroundings, setups), needs


def _hash(buffer: Buffer) -> bytes:
    from hashlib import sha256  # processors have instructions for it: 1.7 GB/s, where blake2b gives 1.0

    return sha256(buffer).digest()


def name_of(fn: object) -> str:
    fn = underlying(fn) or fn
    name = getattr(fn, "__qualname__", None)
    return f"{name}()" if isinstance(name, str) else short_repr(fn)


# --- what a function reaches ------------------------------------------------------------------------------------------


_warned: set[str] = set()


def _warn(name: str, text: str) -> None:
    """Warn at the user's line, once for each name."""
    if name in _warned:
        return
    _warned.add(name)
    warn(text)


def _warn_large(fn: Callable[..., Any]) -> None:
    sizes = [(sys.getsizeof(part.value), str(part)) for part in parts_of(fn)]
    nbytes, words = max(sizes, default=(0, "what it captures"))
    _warn(
        words,
        f"function {name_of(fn)}: {words} is very large ({max(nbytes, _LARGE) >> 20} MB or more) and is copied into "
        "every slot of every worker; keep it in NumPy arrays (shared by the slots of a host), or load it in the "
        "function",
    )


def _warn_generator(fn: Callable[..., Any]) -> None:
    found = path_to_generator(fn)
    if found is not None:
        words, generator = found
        _warn(
            f"{name_of(fn)} {words}",
            f"function {name_of(fn)}: {words or 'it'} is a random generator ({short_repr(generator)}): every slot gets "
            "a copy of it as it is now, so that all draw the same numbers; take distmap.rng() in the function, which "
            "differs for each item (and seed= in the call, to get the same numbers again)",
        )


# --- the cache --------------------------------------------------------------------------------------------------------


class _Mutable(Exception):
    """The function reaches something whose change could not be noticed."""


class _Entry:
    """Code, and everything that must still be as it was when it was made."""

    __slots__ = ("cells", "code", "files", "functions", "mappings")

    def __init__(self) -> None:
        self.code: Code
        self.functions: list[tuple[FunctionType, CodeType, object, object]] = []
        self.mappings: list[tuple[dict[str, Any], str, object]] = []
        self.cells: list[tuple[CellType, object]] = []
        self.files: list[tuple[str | None, object]] = []

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
        return not self.files or unchanged(self.files)

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


class CodeCache:
    """Gives the Code of functions; the last one again while nothing that the function reaches by name has changed.

    A function that reaches anything changeable (a list, an array, an instance, a class of the notebook) is pickled each
    time, and its arrays are read: only so is a change in place seen. The digest tells whether it is still the same.
    """

    def __init__(self, *, size: int = 64) -> None:
        self._size = size
        self._entries: dict[tuple[int, Style, tuple[object, ...]], tuple[object, _Entry]] = {}
        #: Seconds spent on large captures.
        self._seconds = 0.0

    def setup(self, fn: Callable[..., Any], tags: frozenset[str], before: tuple[Setup, ...]) -> Setup:
        """The function as a set-up that runs after those `before`; the same wherever a call is made."""
        return Setup(self.get(fn, "setup", before), _anchor(fn), tags)

    def get(
        self,
        fn: Callable[..., Any],
        style: Style = "one",
        setups: tuple[Setup, ...] = (),
        surroundings: CallSurroundings = NO_SURROUNDINGS,
    ) -> Code:
        key = (id(fn), style, tuple([(setup.code.digest, setup.tags) for setup in setups]))
        known = self._entries.get(key)
        if known is not None and known[0] is fn and known[1].code.surroundings is surroundings and known[1].holds():
            return known[1].code
        entry: _Entry | None = _Entry()
        try:
            # Before pickling, so that a change in between is seen at the next call.
            entry.note(fn)  # type: ignore[union-attr]
        except _Mutable:
            entry = None
        begun = perf_counter()
        code, needs = _build((fn, style, None, None), setups, surroundings, exact=True)
        if code.payload.nbytes > _HASHED:
            self._tell_of_broadcast(fn, code.payload.nbytes, perf_counter() - begun)
        if entry is not None:
            files = stamps(needs.modules)
            checks = imported(needs.modules)
            # What is large is not kept here beyond the futures that use it.
            if checks is not None and code.payload.nbytes <= _HASHED:
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
