"""A function with the constants of its job, as `Code`: pickled once per job.

Owns `dump_code`, set-ups, the error that names what does not pickle in a function, and the warnings about large
captures and random generators. `codecache.py` pickles nothing anew that has not changed. Must not know items, tasks or
workers. For the kernel: task processes do not import this.
"""

from __future__ import annotations

import os
import sys
from _weakref import ref
from collections.abc import Callable, Sequence
from types import FunctionType

from distmap.errors import PayloadError
from distmap.tasks._typing import Any, Buffer, Literal, NamedTuple
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.caller import warn
from distmap.tasks.failures import short_repr
from distmap.tasks.modules import imported_again
from distmap.tasks.object_paths import parts_of, path_to_generator, pickling_error
from distmap.tasks.payload import Blob, Payload, digest_of, size
from distmap.tasks.picklers import by_reference, underlying
from distmap.tasks.pickling import dump_value
from distmap.tasks.surroundings import NO_SURROUNDINGS, CallSurroundings

#: How an item x is given to the function: fn(x), fn(*x), fn(*x[0], **x[1]); the last one also for a set-up.
Style = Literal["one", "star", "call", "setup"]

#: Code with more captured bytes than this gets a digest of its own for each job: hashing costs more than it saves.
HASHED = 1 << 20
#: Bytes in the pickle itself (arrays are not) above which the user is warned, once per name: each slot gets a copy.
_LARGE = 100 << 20


class Origin(NamedTuple):
    """What a code was made of, for whoever runs one of its items in this process."""

    #: The function itself, while somebody else holds it; else None.
    fn: Callable[[], Any]
    style: Style
    seed: int | None


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
    origin: Origin | None = None
    #: It keeps nothing from one call to the next where it is loaded, so that it need not be loaded anew for each.
    stateless: bool = False

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
    return build((fn, style, combine, seed), tuple(setups), surroundings)[0]


def anchor_for(fn: object) -> FunctionType | None:
    """A function that shares the globals of `fn`, and names none of them; None if `fn` has its own everywhere."""
    found = underlying(fn)
    if found is None or by_reference(found):
        return None
    anchor = FunctionType((lambda: None).__code__, found.__globals__, "<set-up>")
    anchor.__module__, anchor.__qualname__ = found.__module__, "<set-up>"
    return anchor


def build(
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
    if sum(map(size, buffers)) > HASHED:
        buffers = tuple(map(_hash, buffers)) if exact else (os.urandom(16),)
    digests = [blob.digest for blob in (*blobs, *surroundings) if blob is not None]
    origin = Origin(_weakly(fn), content[1], content[3])
    return Code(digest_of(payload.head, *buffers, *digests), payload, blobs, surroundings, setups, origin), needs


def _weakly(fn: Callable[..., Any]) -> Callable[[], Any]:
    try:
        return ref(fn)
    except TypeError:  # it takes no weak references
        return lambda: None


def _hash(buffer: Buffer) -> bytes:
    from hashlib import sha256  # processors have instructions for it: 1.7 GB/s, where blake2b gives 1.0

    return sha256(buffer).digest()


def name_of(fn: object) -> str:
    fn = underlying(fn) or fn
    name = getattr(fn, "__qualname__", None)
    return f"{name}()" if isinstance(name, str) else short_repr(fn)


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
