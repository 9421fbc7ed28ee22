"""One connection, dialled as a pool does and closed at once."""

from __future__ import annotations

import asyncio
from typing import Any

from distmap.transport.dial import dial
from distmap.transport.first_hop import load_hop
from distmap.transport.identity import pool_info
from distmap.transport.token import Secret
from distmap.transport.url import parse_url


def dialled(url: str, token: Secret, *, timeout: float = 15.0, **hop: Any) -> bool:
    """Whether the connection went through a hop that ends TLS; raises what `dial` raises.

    Args:
        url: Of a worker.
        token: Its token.
        timeout: Seconds for all of it.
        hop: The arguments of `load_hop`: headers, ca, proxy.
    """

    async def main() -> bool:
        connection = await dial(
            parse_url(url), token=token, role="pool", info=pool_info(), timeout=timeout, hop=load_hop(**hop)
        )  # fmt: skip
        await connection.channel.close()
        return connection.through_hop

    return asyncio.run(main())
