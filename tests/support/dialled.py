"""One connection, dialled as a pool does, up to the proof of the other side, which goes on as if nobody had come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from distmap.transport.dial import GivenUp, prove
from distmap.transport.first_hop import load_hop
from distmap.transport.token import Secret
from distmap.transport.url import parse_url

#: A name of this machine that distmap does not take for it: a proxy of the environment is not asked for loopback.
NOT_KNOWN_AS_LOOPBACK = "127.1"


def dialled(url: str, token: Secret, *, timeout: float = 15.0, **hop: Any) -> None:
    """Returns when the worker has proved itself; raises what `dial` raises.

    Args:
        url: Of a worker.
        token: Its token.
        timeout: Seconds for all of it.
        hop: The arguments of `load_hop`: headers, ca, proxy.
    """

    def enough() -> Mapping[str, object]:
        raise GivenUp

    async def main() -> None:
        try:
            await prove(parse_url(url), token=token, role="pool", info=enough, timeout=timeout, hop=load_hop(**hop))
        except GivenUp:
            return
        raise AssertionError("the other side did not ask for our INFO")

    asyncio.run(main())
