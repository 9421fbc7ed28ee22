"""A channel over WebSocket and TLS keeps the contract."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from distmap.core.limits import LIMITS
from distmap.testing.channels import CHECKS, Check
from distmap.testing.relay import Relay
from distmap.transport import listen as listening
from distmap.transport import websocket as module
from distmap.transport.channel import Channel, ChannelClosed
from distmap.transport.tls import client_context
from distmap.transport.url import parse_url
from distmap.transport.websocket import OPTIONS, PATH
from distmap.wire import handshake


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


@pytest.mark.parametrize("address", ["ws://127.0.0.1:0", "wss://127.0.0.1:0"])
def test_pings_whose_answers_are_not_taken(
    address: str, open_port: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end the connection: who sends them needs no proof, and their answers would fill the memory."""
    monkeypatch.setattr(module, "LIMITS", LIMITS._replace(untaken_bytes=64 << 10))
    # Long enough that no deadline of the handshake is what ends it.
    monkeypatch.setattr(listening, "LIMITS", LIMITS._replace(hop_timeout=60.0))
    pings = 4000 * Frame(Opcode.PING, bytes(125)).serialize(mask=True)

    async def main() -> None:
        async with open_port(address=address) as worker:
            tls = {"ssl": client_context()} if address.startswith("wss") else {}
            async with connect(f"{worker.url}{PATH}", **OPTIONS, **tls, proxy=None) as link:
                await link.recv()
                link.transport.pause_reading()
                # So that the buffers of the system are full soon, on a slow machine too.
                link.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                async with asyncio.timeout(15):
                    while not link.transport.is_closing():
                        if link.transport.get_write_buffer_size() < len(pings):
                            link.transport.write(pings)
                        await asyncio.sleep(0)

    run(main)


def test_who_takes_no_info_holds_nobody_up(
    open_port: Any, dial_pool: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INFO is sent to one after the other: a hop that takes nothing at that moment does not stop all others."""
    monkeypatch.setattr(module, "LIMITS", LIMITS._replace(untaken_bytes=1 << 40))

    def give(seconds: float) -> None:
        monkeypatch.setattr(listening, "LIMITS", LIMITS._replace(hop_timeout=seconds))

    pings = 4000 * Frame(Opcode.PING, bytes(125)).serialize(mask=True)

    async def main() -> None:
        asked = asyncio.Event()

        def info(theirs: Any) -> dict[str, object]:
            if not asked.is_set():
                give(0.2)  # for what is sent now
            asked.set()
            return {"name": "gpu1", "slots": 2, "python": "3.13"}

        give(15.0)
        async with open_port(info=info) as worker:
            async with connect(f"{worker.url}{PATH}", **OPTIONS, ssl=client_context(), proxy=None) as link:
                hello, token = await link.recv(decode=False), worker.token
                shown = handshake.certificate_of(hello, "worker")
                side = handshake.Dialer(
                    kid=token.kid, token=token.material(), role="pool", nonce=bytes(32), certificate=shown
                )  # fmt: skip
                await link.send(side.receive_hello(hello))
                side.receive_proof(await link.recv(decode=False))
                link.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                link.transport.pause_reading()
                for _ in range(20):
                    link.transport.write(pings)
                await link.send(side.seal_info({"name": "nb", "python": "3.13"}))
                await asked.wait()
                give(15.0)
                ours = await dial_pool(worker.url, timeout=10.0)
                await ours.channel.close()
                link.transport.abort()

    run(main)
