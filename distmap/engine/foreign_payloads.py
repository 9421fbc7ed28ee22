"""What the workers of a foreign engine need to run chunks, and how it gets there.

Owns the payloads that the driver has put, and the handles of those that the engine's own store has. Small ones travel
with every call. A large one is handed to that store once for all workers, if there is one, and calls carry its handle;
else, or while that takes too long, it travels with a call once a worker says that it lacks it. On the loop's thread.
Knows no attempts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from distmap.core.limits import LIMITS, Limits
from distmap.engine.adapter import Adapter, Call
from distmap.engine.attempt import BlobParts
from distmap.engine.base import Parts
from distmap.tasks.payload import size
from distmap.wire.messages import BlobKind

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("distmap")

#: Code and values up to this many bytes travel with every attempt.
INLINE_BYTES = 64 << 10


class _Kept:
    """One payload."""

    def __init__(self, blob: BlobParts) -> None:
        self.blob = blob
        self.size = sum(map(size, blob.parts))
        self.large = self.size > INLINE_BYTES
        #: Workers on which the driver has put it.
        self.users: set[int] = set()
        #: The hand-over that is under way.
        self.call: Call | None = None
        #: Runs while calls wait for it.
        self.timer: asyncio.TimerHandle | None = None
        #: What the engine's store calls it, if that has it.
        self.handles: list[Any] = []


class ForeignPayloads:
    """The payloads of one engine.

    Args:
        members: the keys of the members that are there.
        changed: called once a hand-over has ended, or takes too long, so that calls may go that waited for it.
    """

    def __init__(
        self,
        adapter: Adapter,
        loop: asyncio.AbstractEventLoop,
        members: Callable[[], list[str]],
        changed: Callable[[], None],
        *,
        limits: Limits = LIMITS,
    ) -> None:
        self._adapter = adapter
        self._loop = loop
        self._members = members
        self._changed = changed
        self._limits = limits
        self._kept: dict[bytes, _Kept] = {}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._kept

    def put(self, worker: int, digest: bytes, kind: BlobKind, parts: Parts) -> None:
        """Keep a payload for a worker."""
        kept = self._kept.get(digest)
        if kept is None:
            kept = self._kept[digest] = _Kept(BlobParts(digest, kind, tuple(parts)))
            if kept.large:
                self._hand_over(kept)
        kept.users.add(worker)

    def drop(self, worker: int, digest: bytes) -> None:
        """The worker needs it no more."""
        if (kept := self._kept.get(digest)) is not None:
            kept.users.discard(worker)
            if not kept.users:
                del self._kept[digest]
                self._forget(kept)

    def left(self, worker: int) -> None:
        """The worker is gone."""
        for digest in [digest for digest, kept in self._kept.items() if worker in kept.users]:
            self.drop(worker, digest)

    def clear(self) -> None:
        """The pool ends."""
        for kept in self._kept.values():
            self._forget(kept)
        self._kept.clear()

    # --- for a call --------------------------------------------------------------------------------------------------

    def pending(self, digests: Iterable[bytes]) -> bool:
        """Whether one of these is being handed over, and that is to be waited for."""
        return any(kept.timer is not None for kept in self._of(digests))

    def handles(self, digests: Iterable[bytes]) -> list[Any]:
        """Of those that the engine's store has."""
        return [handle for kept in self._of(digests) for handle in kept.handles]

    def small(self, digests: Iterable[bytes]) -> list[BlobParts]:
        """Those that travel with every call."""
        return [kept.blob for kept in self._of(digests) if not kept.large]

    def blobs(self, digests: Iterable[bytes]) -> list[BlobParts]:
        """All of them."""
        return [kept.blob for kept in self._of(digests)]

    def _of(self, digests: Iterable[bytes]) -> list[_Kept]:
        return [self._kept[digest] for digest in digests if digest in self._kept]

    # --- the engine's store ------------------------------------------------------------------------------------------

    def _hand_over(self, kept: _Kept) -> None:
        try:
            kept.call = self._adapter.put(kept.blob, self._members())
        except Exception as error:
            log.info("x %s could not take a payload: %r", self._adapter.name, error)
        if kept.call is not None:
            seconds = self._limits.engine_hand_over + kept.size / (1 << 20)
            kept.timer = self._loop.call_later(seconds, self._give_up, kept)
            done = partial(call_on_loop, self._loop)
            kept.call.add_done_callback(lambda call: done(partial(self._handed_over, kept, call)))

    def _give_up(self, kept: _Kept) -> None:
        """It takes too long, such as for one worker that has stopped: calls wait no more, but use it should it come."""
        kept.timer = None
        log.info("x %s has not taken a payload of %d bytes yet", self._adapter.name, kept.size)
        self._changed()

    def _handed_over(self, kept: _Kept, call: Call) -> None:
        if kept.call is not call:
            return
        kept.call = None
        self._end_timer(kept)
        try:
            handle: Any = call.result()
        except BaseException as error:  # it travels with a call then
            log.info("x %s could not take a payload: %r", self._adapter.name, error)
        else:
            kept.handles.append(handle)
            if self._kept.get(kept.blob.digest) is not kept:  # dropped meanwhile
                self._forget(kept)
        self._changed()

    def _end_timer(self, kept: _Kept) -> None:
        if kept.timer is not None:
            kept.timer.cancel()
            kept.timer = None

    def _forget(self, kept: _Kept) -> None:
        self._end_timer(kept)
        handles, kept.handles = kept.handles, []
        for handle in handles:
            try:
                self._adapter.drop(handle)
            except Exception as error:
                log.info("x %s could not forget a payload: %r", self._adapter.name, error)


def call_on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> bool:
    """From whatever thread an engine calls back in. False: the loop is closed, nobody waits for it any more."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return False
    return True
