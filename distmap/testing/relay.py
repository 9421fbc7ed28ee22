"""A TCP relay on loopback that does to a connection what a bad network does, when a test says so.

Owns the port and the thread with its loop; what happens to bytes is in `links.py`. It knows nothing of TLS, WebSocket
or distmap, so it can stand before anything that listens.

Threads: all methods of `Relay` may be called from any thread; connections and faults change in the relay's loop only.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from types import TracebackType
from typing import Any

from distmap.driver.portal import Portal
from distmap.testing.links import DIRECTIONS, Direction, Network
from distmap.transport.url import parse_url

#: Whether two sockets may have one port (not on Windows).
_SHARES_PORTS = hasattr(socket, "SO_REUSEPORT")


class Relay:
    """A TCP relay on 127.0.0.1 that passes bytes to a target until it is told to fail; a context manager.

    It takes connections on a port of its own, makes one to the target for each, and passes bytes both ways. The
    directions are called "to_target" (from who dialled the relay) and "to_client" (back to it). Faults act on all
    connections, later ones too, and can be combined. The end of the block leaves no thread, socket or task.

    What stands before a worker that listens is dialled by the pool; what stands before a pool that listens is dialled
    by workers.

    Args:
        host: the host of the target.
        port: its port.
        latency: as in `shape`, which may change these four later.
        jitter: the same.
        bandwidth: the same.
        slice: the same.
        seed: of what is random.

    Examples:
        A map goes on after its connection was reset:

        ```py
        with WorkerProcess("--port", "0", "--slots", "2") as worker, Relay.before(worker.url) as relay:
            with Pool(relay.url) as pool:
                job = pool.map_async(work, range(1000))
                relay.cut_after(10_000, "to_client").wait(10)
                assert len(job.get(60)) == 1000
        ```
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        bandwidth: float | None = None,
        slice: int | None = None,
        seed: int = 0,
    ) -> None:
        self._network = Network(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0], seed)
        self.shape(latency=latency, jitter=jitter, bandwidth=bandwidth, slice=slice)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        #: Bound for as long as the relay lives, never listening: a relay that is cut keeps its port.
        self._placeholder = _bound(0)
        self.port: int = self._placeholder.getsockname()[1]
        if not _SHARES_PORTS:
            self._placeholder.close()
        self._portal = Portal(name="distmap-relay", crashed=self._network.crashed)
        try:
            self._portal.ask(self._listen)
        except BaseException:
            self.close()
            raise

    @classmethod
    def before(cls, url: str, **options: Any) -> Relay:
        """A relay before the worker, or the listening pool, of this `wss://` URL. Options as those of the class."""
        target = parse_url(url)
        return cls(target.host, target.port, **options)

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Relay on port {self.port}: {self.connections} connections, {self.bytes_passed}>"

    # --- what it says ------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """What to dial instead of the target."""
        return f"wss://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._network.links)

    @property
    def accepted(self) -> int:
        """Connections that were taken so far."""
        return self._network.accepted

    @property
    def resets(self) -> int:
        """Connections that the relay itself has reset so far."""
        return self._network.resets

    @property
    def bytes_passed(self) -> dict[Direction, int]:
        """Bytes that have passed so far in each direction, of all connections together."""
        return dict(self._network.passed)

    # --- how bytes pass ----------------------------------------------------------------------------------------------

    def shape(
        self, *, latency: float = 0.0, jitter: float = 0.0, bandwidth: float | None = None, slice: int | None = None
    ) -> None:
        """Set how bytes pass from now on.

        Args:
            latency: seconds that bytes are held, in each direction.
            jitter: most seconds that are added to `latency`, at random for each read. Bytes keep their order.
            bandwidth: bytes per second that pass in each direction of a connection; None: no limit.
            slice: most bytes of one write: each has 1 to so many, at random; None: as they come.
        """
        network = self._network
        network.latency, network.jitter, network.bandwidth, network.slice = latency, jitter, bandwidth, slice

    # --- faults ------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Reset (RST) all connections on both sides, as a firewall does that restarts. New ones are taken."""
        self._portal.ask(self._network.reset)

    def cut(self) -> None:
        """Reset all connections, and refuse new ones until `restore()`."""
        self._portal.ask(self._cut)

    def restore(self) -> None:
        """Take new connections again, after `cut()`."""
        self._portal.ask(self._listen)

    def silence(self) -> None:
        """Pass nothing in both directions, and close nothing, until `speak()`: the network drops all packets.

        New connections are taken, and hear nothing. What was sent meanwhile passes afterwards, as TCP sends it again.
        """
        self._portal.ask(self._network.stop, *DIRECTIONS)

    def one_way(self, stopped: Direction) -> None:
        """Pass nothing in the direction `stopped`, until `speak()`; the other direction goes on."""
        self._portal.ask(self._network.stop, stopped)

    def speak(self) -> None:
        """Pass bytes again in both directions, after `silence()`, `one_way()` or `stall_after()`."""
        self._portal.ask(self._network.speak)

    # --- faults at byte n ---------------------------------------------------------------------------------------------

    def flip(self, direction: Direction, at_byte: int) -> threading.Event:
        """Change one bit of the byte that follows after `at_byte` more bytes in this direction.

        Returns:
            An event that is set when it has happened.
        """
        return self._portal.ask(self._network.mark, direction, at_byte, None)

    def cut_after(self, n_bytes: int, direction: Direction) -> threading.Event:
        """Reset all connections, once, as soon as `n_bytes` more bytes have passed in this direction.

        With 0 this happens when the next byte would pass.

        Returns:
            An event that is set when it has happened.
        """
        return self._portal.ask(self._network.mark, direction, n_bytes, self._network.reset)

    def stall_after(self, n_bytes: int, direction: Direction) -> threading.Event:
        """Do what `silence()` does as soon as `n_bytes` more bytes have passed in this direction.

        Returns:
            An event that is set when it has happened.
        """
        return self._portal.ask(self._network.mark, direction, n_bytes, lambda: self._network.stop(*DIRECTIONS))

    def forget(self) -> None:
        """Forget the faults at byte n that have not happened yet."""
        self._portal.ask(self._network.forget)

    # --- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Reset all connections, end the relay, raise what went wrong in it. Closing twice is fine."""
        try:
            self._portal.ask(self._cut)
        finally:
            self._portal.close()
            self._placeholder.close()
        if self._network.failure is not None:
            raise self._network.failure

    # --- in the relay's loop -----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(128)
            self._accepting = asyncio.get_running_loop().create_task(self._accept(self._listener))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                client, _ = await loop.sock_accept(listener)
                self._network.take(client)
        except Exception as error:  # out of descriptors: the test is told when the relay is closed
            self._network.crashed(error)

    def _cut(self) -> None:
        if self._accepting is not None and self._listener is not None:
            self._accepting.cancel()
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = self._accepting = None
        self._network.reset()


def _bound(port: int) -> socket.socket:
    """A socket that has the port; several of one relay may have it, and one of them listens."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if _SHARES_PORTS:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setblocking(False)
        bound.bind(("127.0.0.1", port))
    except BaseException:
        bound.close()
        raise
    return bound
