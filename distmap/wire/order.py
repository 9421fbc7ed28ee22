"""Ordering constraints between outgoing messages: which one waits for which before its first frame is cut.

Owns the order of messages of one direction. It knows messages but no bytes. Read by `session.py`, which calls an
entry ready when nothing that it follows is unfinished.

Everything may overtake everything, except where one message means another:

- messages about one slot keep their order (Task, Kill, Renew; Report, Output, Refused, Died, Ready), but Revoke and
  Interrupt follow only the Task of their attempt, so that they overtake the next Task of the slot, which may be large;
- a Task follows the Put of each digest that it names; a Drop follows the Put and every Task that names the digest;
- Bye follows everything.

Frames arrive in the order in which they were cut, so the receiver has nothing to hold back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from distmap.wire import messages as msg

T = TypeVar("T", bound=Hashable)

_NOTHING: tuple[()] = ()


class _Key(Generic[T]):
    """The unfinished entries that touch a key: the last one that changed it, and those that read it since."""

    __slots__ = ("last", "readers")

    def __init__(self) -> None:
        self.last: T | None = None
        self.readers: set[T] = set()


class _Node(Generic[T]):
    """An unfinished entry: how many entries it waits for, which ones wait for it, and which keys it touches."""

    __slots__ = ("keys", "then", "waits")

    def __init__(self, keys: tuple[Hashable, ...]) -> None:
        self.keys = keys
        self.then: list[T] = []
        self.waits = 0


class Order(Generic[T]):
    """Entries that wait for each other. `ready(entry)` is called for each, once, when it may begin."""

    def __init__(self, ready: Callable[[T], None]) -> None:
        self._ready = ready
        self._nodes: dict[T, _Node[T]] = {}
        self._keys: dict[Hashable, _Key[T]] = {}

    @property
    def unfinished(self) -> int:
        """How many entries are not done."""
        return len(self._nodes)

    def add(self, entry: T, message: msg.Message) -> None:
        """Take the entry of a message; it follows the earlier entries that touch the same keys."""
        changes, reads = _touches(message)
        node = self._nodes[entry] = _Node((*changes, *reads))
        for name in reads:
            key = self._key(name)
            self._follow(node, entry, (key.last,))
            key.readers.add(entry)
        for name in changes:
            key = self._key(name)
            self._follow(node, entry, (key.last, *key.readers))
            key.last = entry
            key.readers.clear()
        if not node.waits:
            self._ready(entry)

    def add_last(self, entry: T) -> None:
        """Take an entry that follows everything before it."""
        before = list(self._nodes)
        node = self._nodes[entry] = _Node(_NOTHING)
        self._follow(node, entry, before)
        if not node.waits:
            self._ready(entry)

    def done(self, entry: T) -> None:
        """The entry's last byte is cut; what waited only for it becomes ready."""
        node = self._nodes.pop(entry)
        for name in node.keys:
            key = self._keys.get(name)
            # Gone already when the entry touches a key twice.
            if key is not None:
                key.readers.discard(entry)
                if key.last == entry:
                    key.last = None
                if key.last is None and not key.readers:
                    del self._keys[name]
        for other in node.then:
            waiting = self._nodes[other]
            waiting.waits -= 1
            if not waiting.waits:
                self._ready(other)

    def _key(self, name: Hashable) -> _Key[T]:
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = _Key()
        return key

    def _follow(self, node: _Node[T], entry: T, earlier: Iterable[T | None]) -> None:
        for other in earlier:
            if other is not None and other != entry:
                self._nodes[other].then.append(entry)
                node.waits += 1


def _touches(message: msg.Message) -> tuple[tuple[Hashable, ...], tuple[Hashable, ...]]:
    """The keys that a message changes, and those that it only reads.

    A slot is its number, an attempt the complement of its own (so that the two never meet), a digest its bytes.
    """
    if isinstance(message, msg.Task):
        return (message.slot, ~message.attempt), (message.code, *message.needs)
    if isinstance(message, msg.Report | msg.Output | msg.Refused | msg.Died | msg.Ready | msg.Kill | msg.Renew):
        return (message.slot,), _NOTHING
    if isinstance(message, msg.Revoke | msg.Interrupt):
        return (~message.attempt,), _NOTHING
    if isinstance(message, msg.Put | msg.Drop):
        return (message.digest,), _NOTHING
    return _NOTHING, _NOTHING
