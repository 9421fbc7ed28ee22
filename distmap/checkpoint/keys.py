"""Keys of items: a digest of an item's content, the same in every process.

Owns what counts as content. Must not know tables or jobs. In the thread that reads the input.

The key is not a digest of the pickle as it travels. That differs between processes where the content does not: text
that is one object or two, the order of a set, the version of NumPy that wrote an array, the class of a notebook cell.
Plain values are written by marshal in its oldest form, which knows no identity; all else by a pickler without memo,
for which sets are their sorted members, arrays their type, shape and bytes, functions and classes of the user what they
do, and those of installed packages their names.
"""

from __future__ import annotations

import _pickle
import io
import marshal
from collections.abc import Callable
from hashlib import blake2b, sha256
from struct import pack
from types import FunctionType
from typing import Any

from distmap.checkpoint.schema import BY_PLACE, KEY
from distmap.core.limits import LIMITS
from distmap.tasks.broadcast import Broadcast
from distmap.tasks.fingerprint import fingerprint
from distmap.tasks.modules import loaded, place
from distmap.tasks.picklers import UNPICKLABLE, by_reference
from distmap.tasks.plain import SCALARS

#: Items of a call that are digested twice, to see whether their pickles can be relied on.
_TRIALS = 3

#: id of a function or class -> it (so that no id is used again), and the digest of what it does.
Definitions = dict[int, tuple[object, bytes]]


class Keyer:
    """Makes the keys of the items of one call.

    Args:
        tell: is told, once, why an item has no key of its own.
    """

    def __init__(self, tell: Callable[[str], object] = lambda sentence: None) -> None:
        self._trials = _TRIALS
        self._tell: Callable[[str], object] | None = tell
        self._definitions: Definitions = {}

    def item(self, value: Any) -> bytes:
        """The key of an item; BY_PLACE if it has no content that can be relied on."""
        kind = type(value)
        if kind in SCALARS:
            return _digest(marshal.dumps(value, 0))
        if kind is tuple and all(type(part) in SCALARS for part in value):
            return _digest(marshal.dumps(value, 0))
        try:
            key = content_digest(value, self._definitions)
            if self._trials:
                self._trials -= 1
                if content_digest(value, self._definitions) != key:
                    return self._by_place(f"two pickles of one {kind.__qualname__} differ")
        except UNPICKLABLE as error:
            return self._by_place(f"a {kind.__qualname__} cannot be pickled here, {type(error).__name__}: {error}")
        return key

    def _by_place(self, why: str) -> bytes:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(
                f"some items are known to the checkpoint by their index only ({why}): if such an item is replaced by "
                "another one, that goes unnoticed"
            )
        return BY_PLACE

    def chunk(self, items: Any) -> bytes:
        """The keys of the items of a chunk: one for all of them if they are many and plain."""
        return self.block(items) or b"".join(map(self.item, items))

    def block(self, items: Any) -> bytes | None:
        """One key for all of many plain items; None if they are to have keys of their own."""
        if len(items) < LIMITS.checkpoint_block_items:
            return None
        numpy = loaded("numpy")
        if numpy is not None and isinstance(items, numpy.ndarray):
            if items.nbytes // len(items) > 8 * KEY or items.dtype.hasobject or type(items) is not numpy.ndarray:
                return None
            return _digest(_array_digest(numpy, items))
        kinds: set[type]
        if type(items) is range:
            kinds, items = {int}, list(items)
        elif type(items) in (list, tuple):
            kinds = set(map(type, items))
            if not kinds <= SCALARS:
                return None
            items = items if type(items) is list else list(items)
        else:
            return None
        # Version 2 writes floats as they are; it has two forms of text, which say how the text came to be.
        return _digest(marshal.dumps(items, 0 if str in kinds else 2))


def content_digest(value: Any, definitions: Definitions) -> bytes:
    """The digest of any value's content.

    Args:
        definitions: what was found of functions and classes before; it is filled.

    Raises:
        Exception: one of UNPICKLABLE: it does not pickle.
    """
    file = io.BytesIO()
    try:
        _Content(file, definitions, memo=False).dump(value)
    except (ValueError, RecursionError):  # it leads back to itself, or so deep that the pickler takes it for that
        file = io.BytesIO()
        _Content(file, definitions, memo=True).dump(value)
    return _digest(file.getbuffer())


def _digest(content: Any) -> bytes:
    """Of long ones by SHA-256, for which processors have instructions: 1.7 GB/s, where BLAKE2 gives 1.0."""
    if len(content) > 2000:
        return sha256(content).digest()[:KEY]
    return blake2b(content, digest_size=KEY).digest()


def _array_digest(numpy: Any, value: Any) -> bytes:
    """Type, shape and bytes of an array, whatever its order in memory."""
    head = repr((value.dtype.descr if value.dtype.names else value.dtype.str, value.shape)).encode()
    data = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8).data
    return sha256(pack("<Q", len(head)) + head).digest() + sha256(data).digest()


class _Content(_pickle.Pickler):
    """Writes what a value is. Its output is never read again."""

    def __init__(self, file: io.BytesIO, definitions: Definitions, *, memo: bool) -> None:
        super().__init__(file, 5)
        self._definitions = definitions
        # Without a memo an object that comes twice is written twice: whether two parts are one object is no content.
        self.fast = not memo
        self._numpy = loaded("numpy")

    def persistent_id(self, obj: Any) -> Any:
        """In place of the object: what stands for it; None: its pickle does."""
        kind = type(obj)
        if kind is set or kind is frozenset:
            return "set", kind is set, sorted([content_digest(part, self._definitions) for part in obj])
        if kind is FunctionType or isinstance(obj, type):
            return None if is_installed(obj) else ("definition", self._behaviour(obj))
        if kind is Broadcast:
            return "broadcast", content_digest(obj.value, self._definitions)
        numpy = self._numpy
        if numpy is not None and kind is numpy.ndarray and not obj.dtype.hasobject:
            return "array", _array_digest(numpy, obj)
        if numpy is not None and isinstance(obj, numpy.generic) and not obj.dtype.hasobject:
            return "number", kind.__name__, obj.dtype.str, obj.tobytes()
        return None

    def _behaviour(self, obj: Any) -> bytes:
        found = self._definitions.get(id(obj))
        if found is None:
            found = self._definitions[id(obj)] = obj, fingerprint(obj).digest
        return found[1]


def is_installed(obj: Any) -> bool:
    """Whether a function or class is neither the notebook's nor a local module's: its name then tells what it is."""
    module = obj.__module__
    return type(module) is str and place(module) == "reference" and by_reference(obj)
