"""A channel over WebSocket and TLS keeps the contract."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from distmap.core.limits import LIMITS
from distmap.testing.channels import CHECKS, Check, Recorder
from distmap.testing.relay import Relay
from distmap.transport import listen as listening
from distmap.transport import websocket as module
from distmap.transport.channel import Channel, ChannelClosed
from distmap.transport.tls import client_context
from distmap.transport.url import parse_url
from distmap.transport.websocket import OPTIONS, PATH
from distmap.wire import handshake

#: A whole binary message of a client.
WHOLE = Frame(Opcode.BINARY, b"x").serialize(mask=True)


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


def test_what_a_hop_makes_of_the_messages(open_port: Any, run: Any) -> None:
    """Fragments, pings between them, text, and bytes that come one by one: the messages stay whole and in order."""

    async def main() -> None:
        async with open_port(address="ws://127.0.0.1:0") as worker, listening_links(worker) as links:
            async with connect(f"{worker.url}{PATH}", **OPTIONS, proxy=None) as link:
                await link.recv()
                mask = [frame.serialize(mask=True) for frame in (
                    Frame(Opcode.BINARY, b"whole"),
                    Frame(Opcode.BINARY, b"in ", fin=False),
                    Frame(Opcode.PING, b"?"),
                    Frame(Opcode.CONT, b"", fin=False),
                    Frame(Opcode.CONT, b"pieces"),
                    Frame(Opcode.TEXT, "täxt".encode()),
                    Frame(Opcode.BINARY, b""),
                    Frame(Opcode.BINARY, bytes(range(256)) * 300),
                    Frame(Opcode.PONG, b"!"),
                    Frame(Opcode.BINARY, b"last"),
                )]  # fmt: skip
                theirs, receiver = links[0], Recorder()
                theirs.queue.hand_to(receiver)
                for by in (5, 70_000):
                    stream = b"".join(mask)
                    while stream:
                        # As asyncio does with what it has read.
                        place = theirs.get_buffer(-1)[:by]
                        piece, stream = stream[: len(place)], stream[len(place) :]
                        place[: len(piece)] = piece
                        theirs.buffer_updated(len(piece))
                    assert receiver.frames == [
                        b"whole", b"in pieces", "täxt".encode(), b"", bytes(range(256)) * 300, b"last",
                    ]  # fmt: skip
                    receiver.frames.clear()
                link.transport.abort()

    run(main)


def test_a_loop_that_asks_for_no_buffer(open_port: Any, run: Any) -> None:
    """uvloop calls `data_received` with all that comes: the receiver gets it, and is told to write after each read."""

    async def main() -> None:
        async with open_port(address="ws://127.0.0.1:0") as worker, listening_links(worker) as links:
            async with connect(f"{worker.url}{PATH}", **OPTIONS, proxy=None) as link:
                await link.recv()
                pumps: list[int] = []
                receiver = Recorder(lambda: pumps.append(len(receiver.frames)))
                links[0].queue.hand_to(receiver)
                for piece in (2 * WHOLE + WHOLE[:3], WHOLE[3:]):
                    links[0].data_received(piece)
                assert receiver.frames == 3 * [b"x"]
                assert pumps == [2, 3]
                link.transport.abort()

    run(main)


def test_large_frames_are_read_in_large_pieces(open_port: Any, run: Any) -> None:
    """The memory for what comes in has room for a read at each time, and grows to that of a few frames at most."""
    frame = Frame(Opcode.BINARY, bytes(LIMITS.frame_bytes)).serialize(mask=True)

    async def main() -> None:
        async with open_port(address="ws://127.0.0.1:0") as worker, listening_links(worker) as links:
            async with connect(f"{worker.url}{PATH}", **OPTIONS, proxy=None) as link:
                await link.recv()
                theirs, receiver, moved = links[0], Recorder(), 0
                theirs.queue.hand_to(receiver)
                stream = memoryview(frame * 20)
                while stream:
                    place = theirs.get_buffer(-1)
                    assert 64 << 10 <= len(place) <= 5 * len(frame)
                    size = min(200_000, len(place), len(stream))
                    place[:size] = stream[:size]
                    before = theirs._end
                    theirs.buffer_updated(size)
                    moved += theirs._end < before + size and theirs._end > 0
                    stream = stream[size:]
                assert [len(one) for one in receiver.frames] == 20 * [LIMITS.frame_bytes]
                assert moved < 12
                small = Frame(Opcode.BINARY, b"a heartbeat").serialize(mask=True)
                theirs.get_buffer(-1)[: len(small)] = small
                theirs.buffer_updated(len(small))
                assert len(theirs.get_buffer(-1)) == 64 << 10
                link.transport.abort()

    run(main)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (Frame(Opcode.BINARY, b"x").serialize(mask=False), 1002),
        (b"\x83" + WHOLE[1:], 1002),
        (Frame(Opcode.CONT, b"x").serialize(mask=True), 1002),
        (
            Frame(Opcode.BINARY, b"x", fin=False).serialize(mask=True) + Frame(Opcode.BINARY, b"").serialize(mask=True),
            1002,
        ),
        (b"\x82\xff" + (LIMITS.websocket_bytes + 1).to_bytes(8) + bytes(4), 1009),
        (b"\x82\xff" + b"\x7f" + bytes(11), 1009),
    ],
    ids=["unmasked", "unknown", "continued", "interrupted", "too large", "endless"],
)
def test_what_breaks_the_protocol(wrong: bytes, code: int, open_port: Any, run: Any) -> None:
    """The connection ends with the code that the library has for it, and nothing of it is given out."""

    async def main() -> None:
        async with open_port(address="ws://127.0.0.1:0") as worker, listening_links(worker) as links:
            async with connect(f"{worker.url}{PATH}", **OPTIONS, proxy=None) as link:
                await link.recv()
                links[0].queue.hand_to(receiver := Recorder())
                link.transport.write(wrong + Frame(Opcode.BINARY, b"after").serialize(mask=True))
                async with asyncio.timeout(10):
                    with pytest.raises(ConnectionClosed):
                        await link.recv()
                    await receiver.until(lambda: receiver.ends == 1)
                assert link.close_code == code
                assert receiver.frames == []
                assert receiver.ended is not None
                assert receiver.ended.code == code

    run(main)


@contextlib.asynccontextmanager
async def listening_links(worker: Any) -> AsyncIterator[list[module.Link]]:
    """The links that the port makes meanwhile; the proof is not waited for."""
    links: list[module.Link] = []

    async def admit(self: Any, link: module.Link, peer: str) -> bool:
        links.append(link)
        await link.send(b"hello")
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening.Acceptor, "admit", admit)
        yield links


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
            # So that the buffers of the system are full soon. From the start: of a window that shrinks later, what is
            # under way is dropped, answers included, and TCP tries again after seconds only.
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((worker.url.host, worker.url.port))
            async with connect(f"{worker.url}{PATH}", **OPTIONS, **tls, sock=sock) as link:
                await link.recv()
                link.transport.pause_reading()
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
