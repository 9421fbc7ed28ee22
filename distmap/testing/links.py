"""One connection through a relay: two pipes, and what they ask before each write.

Owns the sockets of a connection, the bytes that are under way, and what all connections of a relay share (`Network`).
It must not know ports, threads, and who says when something fails: that is `relay.py`. All of it runs in the relay's
loop.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

Direction = Literal["to_target", "to_client"]
DIRECTIONS: tuple[Direction, Direction] = ("to_target", "to_client")

#: Bytes of the largest read and of the largest write.
_PIECE = 64 << 10
#: Bytes that are held for each direction of a connection, if `bandwidth` sets no smaller limit.
_HELD = 1 << 20
#: Seconds of `bandwidth` that are held: a slow link has a short queue, as a good router has.
_HELD_SECONDS = 0.1
#: close() then sends a reset (RST), and drops what was not sent.
_RESET = struct.pack("ii", 1, 0)


class Network:
    """What all connections of a relay share: how bytes pass, and what happens to them.

    Args:
        target: where connections go: family, type, protocol, canonical name and address, as `getaddrinfo` gives them.
        seed: of what is random.
    """

    def __init__(self, target: tuple[Any, ...], seed: int) -> None:
        self.target = target
        self.random = random.Random(seed)
        # As `Relay.shape` describes them.
        self.latency = self.jitter = 0.0
        self.bandwidth: float | None = None
        self.slice: int | None = None
        self.links: set[Link] = set()
        #: Connections that were taken, and those that the relay itself has reset.
        self.accepted = self.resets = 0
        #: Bytes that have passed, by direction.
        self.passed = dict.fromkeys(DIRECTIONS, 0)
        #: By direction: what happens at which number of passed bytes, the next one first.
        self.marks: dict[Direction, list[Mark]] = {direction: [] for direction in DIRECTIONS}
        #: Set while bytes may pass.
        self.open = {direction: asyncio.Event() for direction in DIRECTIONS}
        #: The first exception that is a bug of the relay, or want of descriptors.
        self.failure: BaseException | None = None
        self.speak()

    def stop(self, *directions: Direction) -> None:
        for direction in directions:
            self.open[direction].clear()

    def speak(self) -> None:
        for gate in self.open.values():
            gate.set()

    def take(self, client: socket.socket) -> None:
        """Begin to serve a connection."""
        self.accepted += 1
        link = Link(self, client)
        self.links.add(link)
        link.task = asyncio.get_running_loop().create_task(link.serve())

    def reset(self) -> None:
        for link in list(self.links):
            self.resets += 1
            link.reset()

    def mark(self, direction: Direction, after: int, action: Callable[[], None] | None) -> threading.Event:
        """Have something done after so many more bytes; the event is set when it has happened."""
        mark = Mark(self.passed[direction] + after, action)
        self.marks[direction] = sorted([*self.marks[direction], mark], key=lambda one: one.at)
        return mark.happened

    def forget(self) -> None:
        for direction in DIRECTIONS:
            self.marks[direction] = []

    def crashed(self, error: BaseException) -> None:
        self.failure = self.failure or error


class Mark:
    """A fault at a byte: what is done when `at` bytes have passed; None flips a bit of the next one."""

    def __init__(self, at: int, action: Callable[[], None] | None) -> None:
        self.at = at
        self.action = action
        self.happened = threading.Event()


class Link:
    """One connection through the relay: the socket of who dialled, that of the target, and a task."""

    def __init__(self, network: Network, client: socket.socket) -> None:
        self._network = network
        self._client = client
        self._target = socket.socket(*network.target[:3])
        self._loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None]
        for end in (client, self._target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def serve(self) -> None:
        try:
            await self._network.open["to_target"].wait()
            await self._loop.sock_connect(self._target, self._network.target[4])
            async with asyncio.TaskGroup() as pipes:
                pipes.create_task(Pipe(self._network, "to_target", self._client, self._target).run())
                pipes.create_task(Pipe(self._network, "to_client", self._target, self._client).run())
        except* OSError:
            # One side has reset its connection, or the target does not listen: the other one is told in the same way.
            self._forget(reset=True)
        except* Exception as error:
            self._network.crashed(error)
        finally:
            self._forget()

    def reset(self) -> None:
        """Send RST to both sides, now."""
        self._forget(reset=True)
        self.task.cancel()

    def _forget(self, reset: bool = False) -> None:
        self._network.links.discard(self)
        for end in (self._client, self._target):
            if end.fileno() >= 0:
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # What still waits for the socket must not hear of its number again, which the next one gets.
                self._loop.remove_reader(end)
                self._loop.remove_writer(end)
                end.close()


class Pipe:
    """One direction of a connection: reads, holds bytes for as long as they travel, writes."""

    def __init__(self, network: Network, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        self._network = network
        self._direction = direction
        self._source = source
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        #: When each piece may pass, and its bytes; no bytes: the source has ended.
        self._held: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._news = asyncio.Condition()
        #: When the next byte may pass: what went before takes its time at this bandwidth.
        self._free = 0.0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self._read())
            ends.create_task(self._write())

    async def _read(self) -> None:
        network, due, data = self._network, 0.0, b"more"
        while data:
            await network.open[self._direction].wait()
            data = await self._loop.sock_recv(self._source, _PIECE)
            delay = network.latency + network.random.uniform(0, network.jitter)
            due = max(due, self._loop.time() + delay)
            async with self._news:
                self._held.append((due, data))
                self._size += len(data)
                self._news.notify()
                await self._news.wait_for(lambda: self._size <= self._most())

    def _most(self) -> float:
        bandwidth, delay = self._network.bandwidth, self._network.latency + self._network.jitter
        return _HELD if bandwidth is None else min(_HELD, bandwidth * (delay + _HELD_SECONDS))

    async def _write(self) -> None:
        while True:
            async with self._news:
                await self._news.wait_for(lambda: self._held)
            due, data = self._held.popleft()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                await self._network.open[self._direction].wait()
                self._sink.shutdown(socket.SHUT_WR)
                return
            await self._pass(data)
            async with self._news:
                self._size -= len(data)
                self._news.notify()

    async def _pass(self, data: bytes) -> None:
        """Write what may be written now, again and again: each write asks for the faults that stand then."""
        network, direction = self._network, self._direction
        view = memoryview(bytearray(data))
        while view:
            await network.open[direction].wait()
            if (wait := self._free - self._loop.time()) > 0:
                await asyncio.sleep(wait)
                continue  # it may have been stopped meanwhile
            if not self._at_mark(view):
                continue
            try:
                sent = self._sink.send(view[: self._next_size(len(view))])
            except (BlockingIOError, InterruptedError):
                await self._writable()
                continue
            network.passed[direction] += sent
            view = view[sent:]
            if network.bandwidth is not None:
                self._free = max(self._free, self._loop.time()) + sent / network.bandwidth
            self._act()
            if network.slice is not None:
                await asyncio.sleep(0)  # the reader may come in between

    def _next_size(self, most: int) -> int:
        network = self._network
        marks, passed = network.marks[self._direction], network.passed[self._direction]
        if network.slice is not None:
            most = min(most, network.random.randint(1, network.slice))
        if network.bandwidth is not None:
            most = min(most, max(1, int(network.bandwidth * _HELD_SECONDS / 4)))
        return min(most, marks[0].at - passed) if marks else most

    def _at_mark(self, view: memoryview) -> bool:
        """Do what is due before the next byte; False if that was more than to change a bit of it."""
        marks, passed = self._network.marks[self._direction], self._network.passed[self._direction]
        while marks and marks[0].at <= passed and marks[0].action is None:
            view[0] ^= 1 << self._network.random.randrange(8)
            marks.pop(0).happened.set()
        return not self._act()

    def _act(self) -> bool:
        """Do what is due after the last byte; gives whether anything was."""
        marks, passed = self._network.marks[self._direction], self._network.passed[self._direction]
        if not marks or marks[0].at > passed or (action := marks[0].action) is None:
            return False
        mark = marks.pop(0)
        action()
        mark.happened.set()
        return True

    async def _writable(self) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._sink, _release, ready)
        try:
            await ready
        finally:
            if self._sink.fileno() >= 0:
                self._loop.remove_writer(self._sink)


def _release(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
