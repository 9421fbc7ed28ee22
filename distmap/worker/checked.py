"""`distmap-worker --check URL`: the way to a pool or worker, hop by hop, in place of a worker.

Owns what is printed and the exit code. `transport/check.py` goes the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from distmap.driver.portal import new_loop
from distmap.transport.check import check
from distmap.transport.first_hop import FirstHop
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL

#: Exit codes.
PASSED, FAILED = 0, 1


async def _end(closed: Callable[[], Awaitable[None]]) -> None:
    await closed()


def checked(url: WorkerURL, token: Secret, hop: FirstHop) -> int:
    """Go the way, print the report; returns the exit code."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            found = runner.run(check(url, token=token, hop=hop))
        finally:
            if hop.closed is not None:
                runner.run(_end(hop.closed))
    print(found, flush=True)
    return PASSED if found.ok else FAILED
