"""A way through an SSH login, as the first hop of connections: dialled again and again, ended once.

Owns the logins of one way: at most one is under way, one is held for each connection, and those whose connection is
over end. It must not know what is run on the other side; subclasses do. On one event loop.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from distmap.errors import ConnectError, DistmapError
from distmap.transport.first_hop import FirstHop
from distmap.transport.ssh import SSH
from distmap.transport.ssh_url import SSHTarget


class SSHTunnel:
    """The way to one target. Its `hop` is for `dial`."""

    def __init__(self, target: SSHTarget) -> None:
        self.target = target
        #: What the login that is under way does, for people.
        self.doing = "logging in"
        self._opening: asyncio.Task[tuple[SSH, socket.socket]] | None = None
        #: Calls that wait for it.
        self._waiting = 0
        #: The logins that are held, each with the socket that leads through it.
        self._open: list[tuple[SSH, socket.socket]] = []
        #: Logins that were given up and have not ended.
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def hop(self) -> FirstHop:
        """How connections take this way."""
        return FirstHop(tunnel=self.tunnel, closed=self.close)

    async def login(self) -> tuple[SSH, socket.socket]:
        """Log in; gives the run of ssh, and the socket that leads through it. Cancelled if nobody wants it any more.

        Raises:
            ConnectError: It failed; one sentence. No process is left then.
        """
        raise NotImplementedError

    async def tunnel(self, seconds: float) -> socket.socket:
        """A socket that leads to the other side.

        A login may take longer than a dial, as may what it starts: it goes on meanwhile, and the next call takes it.

        Raises:
            ConnectError: It failed, or is not done after so many seconds; one sentence.
        """
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                return await self._next()
        except TimeoutError:
            raise ConnectError(f"{self.target}: still {self.doing}") from None
        except asyncio.CancelledError:
            if self._waiting == 1:
                self._give_up()  # nobody wants it
            raise
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End all logins."""
        self._give_up()
        for _, sock in self._open:
            sock.close()
        await self._end_those_that_are_over()
        await asyncio.gather(*self._ending)

    async def _next(self) -> socket.socket:
        while True:
            await self._end_those_that_are_over()
            if self._opening is None:
                self.doing = "logging in"
                self._opening = asyncio.get_running_loop().create_task(self.login())
            opening = self._opening
            await asyncio.wait({opening})
            if self._opening is opening:  # else another dial has taken it
                self._opening = None
                ssh, sock = opening.result()
                self._open.append((ssh, sock))
                if not _has_ended(sock):
                    return sock
                sock.close()

    def _give_up(self) -> None:
        """End the login that is under way."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            ending = asyncio.get_running_loop().create_task(_end(opening))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end_those_that_are_over(self) -> None:
        """End the logins whose connection is over: where the network hangs, ssh would wait for it."""
        over = [ssh for ssh, sock in self._open if sock.fileno() < 0]
        self._open = [pair for pair in self._open if pair[0] not in over]
        await asyncio.gather(*(ssh.close() for ssh in over))


async def _end(opening: asyncio.Task[tuple[SSH, socket.socket]]) -> None:
    with suppress(asyncio.CancelledError, DistmapError, OSError):
        ssh, sock = await opening  # it may have succeeded meanwhile
        sock.close()
        await ssh.close()


def _has_ended(sock: socket.socket) -> bool:
    """Whether the other side has closed it: nobody waits for long."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
