"""A channel over WebSocket and TLS keeps the contract."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from distmap.testing.channels import CHECKS, Check
from distmap.testing.relay import Relay
from distmap.transport.channel import Channel, ChannelClosed
from distmap.transport.url import parse_url


@pytest.mark.parametrize("dialled", ["left", "right"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Check, dialled: str, open_port: Any, dial_pool: Any, run: Any) -> None:
    """Over TLS and TCP, seen from the side that dialled and from the side that listened."""

    async def main() -> None:
        async with open_port() as worker:
            ours = await dial_pool(worker.url)
            theirs = await worker.accepted.get()
            ends = (ours.channel, theirs.channel) if dialled == "left" else (theirs.channel, ours.channel)
            await check(*ends)
            for end in ends:
                end.abort()

    run(main)


def test_the_librarys_logger_stays_quiet() -> None:
    """At DEBUG it would format every frame, whatever level the program's root has."""
    assert not logging.getLogger("distmap.websockets").isEnabledFor(logging.INFO)
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    try:
        assert not logging.getLogger("distmap.websockets").isEnabledFor(logging.DEBUG)
    finally:
        root.setLevel(before)


def test_a_burst_into_a_broken_connection_ends_at_once(
    open_port: Any, dial_pool: Any, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What is sent after the connection broke is refused; asyncio's own warning would land in the notebook."""

    async def burst(channel: Channel) -> None:
        for _ in range(20):
            await channel.send([b"x"])

    async def main() -> None:
        async with open_port() as worker:
            with Relay.before(str(worker.url)) as relay:
                ours = (await dial_pool(parse_url(relay.url))).channel
                theirs = (await worker.accepted.get()).channel
                relay.reset()
                with pytest.raises(ChannelClosed, match="broke"):
                    await burst(ours)
                for end in (ours, theirs):
                    with pytest.raises(ChannelClosed):
                        await end.recv()

    run(main)
    assert not caplog.records
