"""Channels inside one process keep the contract, and break as told."""

from __future__ import annotations

import asyncio

import pytest

from distmap.testing.channels import CHECKS, Check
from distmap.transport.channel import ChannelClosed
from distmap.transport.memory import connect, pair


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Check) -> None:
    """A pair in memory is a channel like any other."""

    async def main() -> None:
        left, right = pair()
        await check(left, right)
        await left.close()

    asyncio.run(main())


def test_peers_have_names() -> None:
    """Each end shows the name of the other."""

    async def main() -> None:
        left, right = pair(("there", "here"))
        assert (left.peer, right.peer) == ("there", "here")

    asyncio.run(main())


def test_connect_gives_both_sides_the_others_info() -> None:
    """As after dial and listen."""

    async def main() -> None:
        pool, worker = connect({"name": "nb"}, {"name": "gpu1", "slots": 2})
        assert pool.peer_info == {"name": "gpu1", "slots": 2}
        assert worker.peer_info == {"name": "nb"}
        await pool.channel.send([b"hello"])
        assert await worker.channel.recv() == b"hello"

    asyncio.run(main())


def test_a_stalled_end_hears_nothing_until_resumed() -> None:
    """What is sent during a stall arrives afterwards, in order, and only then counts as life."""

    async def main() -> None:
        left, right = pair()
        right.stall()
        await left.send([b"1"])
        await left.send([b"2"])
        waiting = asyncio.create_task(right.recv())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert right.last_heard < 0
        right.resume()
        assert await waiting == b"1"
        assert await right.recv() == b"2"
        assert right.last_heard > 0
        right.stall()
        right.resume()

    asyncio.run(main())


def test_an_aborted_stall_loses_what_was_on_the_way() -> None:
    """As a network that comes back only to say that the connection is gone."""

    async def main() -> None:
        left, right = pair()
        right.stall()
        await left.send([b"lost"])
        left.abort()
        with pytest.raises(ChannelClosed) as caught:
            await right.recv()
        assert caught.value.code == 1006

    asyncio.run(main())
