"""When to dial again: after which pause, or at once because the network has changed.

Owns the order of the pauses and the look at the network; used alike by a pool that dials workers and by a worker that
dials its pool.

The look: a UDP socket that is connected to the other side sends nothing, and has the address of this machine that would
be used. It differs when a cable, Wi-Fi or VPN comes or goes, on every system and without rights, for some microseconds.
Events of the kernel (netlink) would say the same a moment earlier, on Linux only, for a descriptor and a parser.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections.abc import Iterator
from typing import Any

from distmap.core.limits import LIMITS


def delays(most: float = math.inf) -> Iterator[float]:
    """Seconds to wait before the second, third, ... try, without end; about `most` at most."""
    turn = 0
    while True:
        base = min(most, LIMITS.redial[min(turn, len(LIMITS.redial) - 1)])
        yield base * (1.0 + LIMITS.redial_jitter * random.random())
        turn += 1


class Route:
    """The way from this machine to the other side, as far as this machine knows.

    Args:
        remote: The address of a socket there (`Connection.remote`); None: unknown, and the way never changes.
    """

    def __init__(self, remote: tuple[Any, ...] | None) -> None:
        self._remote = remote
        self._address = self._look()

    def is_new(self) -> bool:
        """Whether there is a way, and another one than at the last call."""
        before, self._address = self._address, self._look()
        return self._address is not None and self._address != before

    def _look(self) -> str | None:
        if self._remote is None:
            return None
        family = socket.AF_INET6 if ":" in str(self._remote[0]) else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect(self._remote)
                return str(sock.getsockname()[0])
        except OSError:  # no way at all
            return None


async def pause(seconds: float, route: Route) -> None:
    """Wait for so long, or until there is a new way to the other side."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while (left := end - clock()) > 0 and not route.is_new():  # noqa: ASYNC110
        await asyncio.sleep(min(left, LIMITS.redial_look))
