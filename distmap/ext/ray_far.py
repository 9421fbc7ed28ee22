"""What runs on a cluster of Ray's: the far end of a call, and the side channel to and from it.

Owns both. All calls of a pool share one switchboard, a small actor: what runs in a worker tells it things, which the
pool fetches; what the pool wishes is kept for each process until that fetches it. Must not know what a call does.

Threads: Ray calls back in threads of its own, so nothing here waits in the thread of a call. `Future`s of Ray are used
and not `ray.get`, which would tell Ray that the call waits, and that another one may begin.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray

from distmap.engine.attempt import BlobParts
from distmap.engine.foreign_host import control
from distmap.ext.packing import pack_answer, pickled, unpack_call

#: Of the names of switchboards.
NAMESPACE = "distmap"
#: A pool, or a process, that fetches nothing misses what is older than so many.
MOST_KEPT = 10_000


class _Mailbox:
    """What one reader has not fetched yet."""

    def __init__(self) -> None:
        self._kept: deque[bytes] = deque(maxlen=MOST_KEPT)
        self._some = asyncio.Event()

    def put(self, data: bytes) -> None:
        self._kept.append(data)
        self._some.set()

    async def take(self) -> list[bytes]:
        await self._some.wait()
        self._some.clear()
        taken = list(self._kept)
        self._kept.clear()
        return taken


class Switchboard:
    """The actor."""

    def __init__(self) -> None:
        self._pool = _Mailbox()
        self._processes: dict[str, dict[str, _Mailbox]] = {}

    async def tell(self, data: bytes) -> None:
        self._pool.put(data)

    async def told(self) -> list[bytes]:
        return await self._pool.take()

    async def wish(self, node: str, data: bytes) -> None:
        """For all processes of a node: who runs something else ignores it."""
        for mailbox in self._processes.get(node, {}).values():
            mailbox.put(data)

    async def wishes(self, node: str, process: str) -> list[bytes]:
        processes = self._processes.setdefault(node, {})
        return await processes.setdefault(process, _Mailbox()).take()


_channels: dict[str, Callable[[bytes], None]] = {}


def _channel(name: str) -> Callable[[bytes], None] | None:
    """The way to a pool, from this process; None if there is none now."""
    if name not in _channels:
        try:
            switchboard = ray.get_actor(name, NAMESPACE)
        except ValueError:  # the pool is closed, or the actor has died
            return None
        node, process = ray.get_runtime_context().get_node_id(), f"{socket.gethostname()}-{os.getpid()}"

        def heard(future: Future[list[bytes]]) -> None:
            try:
                wishes = future.result()
            except Exception:  # likewise: the next call looks again
                _channels.pop(name, None)
                return
            for wish in wishes:
                control(wish)
            listen()

        def listen() -> None:
            switchboard.wishes.remote(node, process).future().add_done_callback(heard)

        _channels[name] = switchboard.tell.remote
        listen()
    return _channels[name]


def far_end(switchboard: str, head: bytes, beside: list[Any], *blobs: BlobParts) -> Any:
    """One call; `blobs` were put into the object store before."""
    run, task, sent, parts = unpack_call(head, [memoryview(buffer) for buffer in beside])
    sent += [blob._replace(parts=tuple(memoryview(part) for part in blob.parts)) for blob in blobs]
    answer, beside = pack_answer(run(task, sent, parts, _channel(switchboard)))
    return (answer, pickled(beside)) if beside else answer
