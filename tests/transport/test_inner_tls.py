"""Two ends with a hop between them that ends TLS: it sees ciphertext, and whatever it does to it fails closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from support.certificates import Certificate, certificate
from support.hop import Direction, RawChannel, hop
from websockets.exceptions import ConnectionClosed

from distmap.core.limits import LIMITS
from distmap.errors import AuthenticationError, ConnectError, DistmapError, ProtocolError
from distmap.testing.channels import CHECKS, Check
from distmap.transport.channel import CLOSE_BROKEN, ChannelClosed
from distmap.transport.first_hop import load_hop
from distmap.transport.inner_tls import InnerTLS
from distmap.transport.memory import pair
from distmap.transport.room import Room
from distmap.transport.tls import client_context, server_context
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL

#: Where the port of the listener has TLS of its own, and where it has none.
SCHEMES = ("wss", "ws")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """What the hop shows; its authority is trusted by who is told so."""
    return certificate(tmp_path_factory.mktemp("hop"))


def trusting(shown: Certificate) -> dict[str, Any]:
    return {"hop": load_hop(ca=shown.ca)}


# --- an honest hop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialled", ["left", "right"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Check, dialled: str, shown: Certificate, open_port: Any, dial_pool: Any, run: Any) -> None:
    """A channel through a hop keeps the contract of every channel, seen from either end."""

    async def main() -> None:
        async with open_port(address="ws://127.0.0.1:0") as worker, hop(worker.url, shown) as between:
            ours = await dial_pool(between.url, **trusting(shown))
            theirs = await worker.accepted.get()
            ends = (ours.channel, theirs.channel) if dialled == "left" else (theirs.channel, ours.channel)
            await check(*ends)
            for end in ends:
                end.abort()

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_hop_sees_ciphertext(scheme: str, shown: Certificate, open_port: Any, dial_pool: Any, run: Any) -> None:
    """After the first HELLO nothing that the ends say can be read on the way; both know that there is a hop."""
    secret = b"this is only for the two ends " * 1000

    async def main() -> None:
        async with open_port(address=f"{scheme}://127.0.0.1:0") as worker, hop(worker.url, shown) as between:
            ours = await dial_pool(between.url, **trusting(shown))
            theirs = await worker.accepted.get()
            assert ours.through_hop
            assert theirs.through_hop
            assert ours.session == theirs.session
            await ours.channel.send([secret])
            assert await theirs.channel.recv() == secret
            await ours.channel.close()
            assert worker.refused.empty()
            # Two connections: at the first look it is seen that there is a hop, which then has to be trusted.
            first, second, *rest = sorted([*between.seen["down"], *between.seen["up"]], key=lambda one: one[:1] != b"{")
            assert json.loads(first)["role"] == json.loads(second)["role"] == "worker"
            assert len(rest) == 10
            for told in (b"gpu1", b'"nb"', b"python", b"only for", b"role", b"kid"):
                assert not [message for message in rest if told in message]

    run(main)


def test_a_direct_connection_has_no_second_tls(open_port: Any, dial_pool: Any, run: Any) -> None:
    """Where TLS shows the listener's certificate there is no hop, and nothing is encrypted twice."""

    async def main() -> None:
        async with open_port() as worker:
            ours = await dial_pool(worker.url)
            theirs = await worker.accepted.get()
            assert not ours.through_hop
            assert not theirs.through_hop
            await ours.channel.close()

    run(main)


def test_a_hop_has_to_be_trusted(shown: Certificate, open_port: Any, dial_pool: Any, run: Any) -> None:
    """Without its authority the dialer says so, and the hop is told nothing."""

    async def main() -> None:
        async with open_port() as worker, hop(worker.url, shown) as between:
            with pytest.raises(ConnectError, match=r"the certificate that 127\.0\.0\.1 shows is not trusted"):
                await dial_pool(between.url)
            assert between.seen["up"] == []
            assert worker.accepted.empty()

    run(main)


def test_headers_go_to_a_trusted_host_only(shown: Certificate, open_port: Any, dial_pool: Any, run: Any) -> None:
    """An untrusted host is only looked at, without the headers: it could be the listener itself."""

    async def main() -> None:
        async with open_port() as worker, hop(worker.url, shown) as between:
            with pytest.raises(ConnectError, match="headers are sent only to a host that is trusted"):
                await dial_pool(between.url, hop=load_hop({"Authorization": "token abc"}))
            assert between.seen["up"] == []
            assert [request for request in between.requests if "Authorization" in request] == []
            ours = await dial_pool(between.url, hop=load_hop({"Authorization": "token abc"}, shown.ca))
            assert between.requests[-1]["Authorization"] == "token abc"
            await ours.channel.close()

    run(main)


def test_a_room_is_not_named_to_an_untrusted_relay(
    shown: Certificate, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """A relay is never the listener itself, so one that is not trusted gets no request, with or without headers."""

    async def main() -> None:
        async with open_port() as worker, hop(worker.url, shown) as between:
            room = Room(worker.token, between.url, "pool")
            for headers in ({}, {"Authorization": "token abc"}):
                with pytest.raises(ConnectError, match="is not trusted"):
                    await dial_pool(between.url, hop=replace(load_hop(headers), room=room))
            assert between.requests == []

    run(main)


def test_a_direct_connection_needs_no_headers(open_port: Any, dial_pool: Any, run: Any) -> None:
    """Headers for one worker of a pool do not keep it from others that are reached directly, and are not sent there."""

    async def main() -> None:
        async with open_port() as worker:
            ours = await dial_pool(worker.url, hop=load_hop({"Authorization": "token abc"}))
            assert not ours.through_hop
            await ours.channel.close()

    run(main)


def test_headers_do_not_go_over_plain_http(dial_pool: Any, run: Any) -> None:
    """Everybody on the way could read them."""

    async def main() -> None:
        with pytest.raises(ConnectError, match="headers are not sent over ws://"):
            await dial_pool(WorkerURL("gpu1", 1, scheme="ws"), hop=load_hop({"Authorization": "token abc"}))
        # A proxy that is given counts for this machine too: it would lead to its own.
        through = load_hop({"Authorization": "token abc"}, proxy="http://127.0.0.1:1")
        with pytest.raises(ConnectError, match="headers are not sent over ws://"):
            await dial_pool(WorkerURL("127.0.0.1", 1, scheme="ws"), hop=through)

    run(main)


def test_a_port_behind_a_proxy_takes_nothing_in_the_clear(open_port: Any, run: Any) -> None:
    """Who answers its HELLO without TLS inside is refused, with a right proof as well."""

    async def main() -> None:
        from websockets.asyncio.client import connect

        from distmap.transport.websocket import OPTIONS, PATH
        from distmap.wire import handshake

        async with open_port(address="ws://127.0.0.1:0") as worker:
            async with connect(f"{worker.url}{PATH}", **OPTIONS, proxy=None) as link:
                hello = await link.recv(decode=False)
                token = worker.token
                side = handshake.Dialer(
                    kid=token.kid,
                    token=token.material(),
                    role="pool",
                    nonce=bytes(32),
                    certificate=handshake.certificate_of(hello, "worker"),
                )
                await link.send(side.receive_hello(hello))
                with pytest.raises(ConnectionClosed):
                    await link.recv()
            assert "it takes TLS inside the messages only" in await worker.refusal()
            assert worker.accepted.empty()

    run(main)


# --- a hop that attacks -----------------------------------------------------------------------------------------------


def lie(shown: bytes, message: bytes) -> bytes:
    """A HELLO that names another certificate."""
    return json.dumps({**json.loads(message), "cert": shown.hex()}).encode()


def fingerprint(cert: Certificate) -> bytes:
    return server_context(cert.cert, cert.key)[1]


def test_a_hop_that_hides_itself_gets_no_proof_of_use(
    shown: Certificate, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """It names its own certificate in the listener's HELLO, to be taken for the end: the proof is bound to that one."""
    own = fingerprint(shown)

    def tamper(direction: Direction, number: int, message: bytes) -> Sequence[bytes]:
        return [lie(own, message)] if (direction, number) == ("down", 0) else [message]

    async def main() -> None:
        async with open_port() as worker, hop(worker.url, shown, tamper) as between:
            with pytest.raises(AuthenticationError, match="wrong token"):
                await dial_pool(between.url, **trusting(shown))
            assert "its proof is wrong" in await worker.refusal()
            assert worker.accepted.empty()

    run(main)


@pytest.mark.parametrize("lies", [False, True], ids=["passes HELLO on", "lies in HELLO"])
def test_a_hop_that_ends_the_inner_tls_too(
    lies: bool, shown: Certificate, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """It serves another certificate inside: the dialer sees it, or is lied to and makes a proof that nobody takes."""
    context, own = server_context()

    async def between_both(link: Any, back: Any) -> None:
        down, up = RawChannel(link), RawChannel(back)
        await down.send([await up.recv()])  # HELLO, in the clear
        try:
            first = await down.recv()
        except ChannelClosed:
            return
        inside, beyond = InnerTLS(down, context, server_side=True), InnerTLS(up, client_context(), server_side=False)
        with contextlib.suppress(ChannelClosed):
            await asyncio.gather(inside.handshake(first), beyond.handshake())
            hello = bytes(await beyond.recv())
            await inside.send([lie(own, hello) if lies else hello])
            await beyond.send([await inside.recv()])
            await inside.send([await beyond.recv()])
        await back.close(1000)
        await back.wait_closed()
        await link.close(4401 if lies else 1000)

    async def main() -> None:
        async with open_port() as worker, hop(worker.url, shown, handle=between_both) as between:
            sentence = "ended the connection during the handshake" if lies else "passes itself off as the worker"
            with pytest.raises(ConnectError if lies else AuthenticationError, match=sentence):
                await dial_pool(between.url, **trusting(shown))
            # Two connections, as at first it is seen that there is a hop.
            refusals = [await worker.refusal(), await worker.refusal()]
            assert any("its proof is wrong" in refusal for refusal in refusals) == lies
            assert worker.accepted.empty()

    run(main)


def flipped(message: bytes, at: int) -> bytes:
    changed = bytearray(message)
    changed[at % len(changed)] ^= 0x10
    return bytes(changed)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_changed_bit_in_the_handshake(
    direction: Direction, at: int, shown: Certificate, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """Whichever message of the handshake it is in, no connection comes of it.

    What HELLO says in the clear is not one of them: it only makes the two ends speak TLS inside, where it comes anew.
    """

    async def main() -> None:
        for target in range(4) if direction == "up" else range(1, 5):

            def tamper(where: Direction, number: int, message: bytes, target: int = target) -> Sequence[bytes]:
                return [flipped(message, at) if (where, number) == (direction, target) else message]

            async with open_port(address="ws://127.0.0.1:0") as worker, hop(worker.url, shown, tamper) as between:
                with pytest.raises(DistmapError):
                    await dial_pool(between.url, **trusting(shown))
                assert len(between.seen[direction]) > target
                if (direction, target) != ("down", 4):  # the last of all, which only the dialer reads
                    assert worker.accepted.empty()

    run(main)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda message: [flipped(message, 30)], id="flip"),
        pytest.param(lambda message: [message, message], id="replay"),
        pytest.param(lambda message: [message[:-1]], id="cut"),
        pytest.param(lambda message: [message + b"x" * 40], id="append"),
        pytest.param(lambda message: [b"x" * 100, message], id="insert"),
    ],
)
def test_a_changed_frame_ends_the_channel(
    attack: Any, shown: Certificate, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """What was sent is received as it was, or the channel is over: never something else."""
    attacking = False

    def tamper(direction: Direction, number: int, message: bytes) -> Sequence[bytes]:
        return attack(message) if attacking and direction == "up" else [message]

    async def main() -> None:
        nonlocal attacking
        async with open_port(address="ws://127.0.0.1:0") as worker, hop(worker.url, shown, tamper) as between:
            ours = await dial_pool(between.url, **trusting(shown))
            theirs = await worker.accepted.get()
            attacking = True
            for number in range(3):
                with contextlib.suppress(ChannelClosed):
                    await ours.channel.send([b"frame %d" % number])
            received: list[bytes] = []

            async def receive() -> None:
                while True:
                    received.append(bytes(await theirs.channel.recv()))

            with pytest.raises(ChannelClosed):
                await asyncio.wait_for(receive(), 10)
            assert received in ([], [b"frame 0"])
            ours.channel.abort()

    run(main)


def test_messages_that_are_cut_and_joined_keep_their_frames(
    shown: Certificate, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """A hop may cut messages into pieces: the borders of frames are inside, where it cannot reach."""

    def tamper(direction: Direction, number: int, message: bytes) -> Sequence[bytes]:
        return [message[at : at + 700] for at in range(0, len(message), 700)] if number else [message]

    async def main() -> None:
        async with open_port() as worker, hop(worker.url, shown, tamper) as between:
            ours = await dial_pool(between.url, **trusting(shown))
            theirs = await worker.accepted.get()
            for size in (1, 1000, 100_000):
                await theirs.channel.send([bytes(size)])
                assert len(await ours.channel.recv()) == size
            await ours.channel.close()

    run(main)


@pytest.mark.parametrize("code", [1000, 4400, 4401, 4409, 4410])
def test_a_hop_cannot_say_why_it_ended(code: int, shown: Certificate, open_port: Any, dial_pool: Any, run: Any) -> None:
    """Whatever code a hop closes with, both ends take it for a connection that broke, which a session survives."""

    async def forging(link: Any, back: Any) -> None:
        async def pump(source: Any, sink: Any) -> None:
            with contextlib.suppress(ConnectionClosed):
                while (message := await source.recv(decode=False)) != b"":
                    await sink.send(message)

        up = asyncio.create_task(pump(link, back))
        down = asyncio.create_task(pump(back, link))
        await over.wait()
        up.cancel()
        down.cancel()
        await asyncio.gather(link.close(code, "no"), back.close(code, "no"))

    over = asyncio.Event()

    async def main() -> None:
        async with open_port() as worker, hop(worker.url, shown, handle=forging) as between:
            ours = await dial_pool(between.url, **trusting(shown))
            theirs = await worker.accepted.get()
            over.set()
            for end in (ours, theirs):
                with pytest.raises(ChannelClosed) as closed:
                    await end.channel.recv()
                assert closed.value.code == CLOSE_BROKEN
                assert "no" not in closed.value.reason.split()

    run(main)


@pytest.mark.parametrize("side", ["dials", "listens"])
def test_a_hop_that_loses_codes_hides_no_refusal(
    side: str, shown: Certificate, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """Why the other end has ended the channel is said inside, where a proxy that drops close codes cannot lose it."""

    async def main() -> None:
        async with open_port() as worker, hop(worker.url, shown, keeps_codes=False) as between:
            ours = await dial_pool(between.url, **trusting(shown))
            theirs = await worker.accepted.get()
            ends, hears = (ours, theirs) if side == "dials" else (theirs, ours)
            await ends.channel.close(4321, "enough of it")
            with pytest.raises(ChannelClosed) as closed:
                await hears.channel.recv()
            assert (closed.value.code, closed.value.reason) == (4321, "enough of it")
            with pytest.raises(AuthenticationError, match="wrong token"):
                await dial_pool(between.url, **trusting(shown), token=Secret.generate())

    run(main)


def test_a_recorded_session_cannot_be_replayed(shown: Certificate, open_port: Any, dial_pool: Any, run: Any) -> None:
    """What a hop has recorded of one session opens no other one."""

    async def main() -> None:
        async with open_port(address="ws://127.0.0.1:0") as worker:
            async with hop(worker.url, shown) as between:
                ours = await dial_pool(between.url, **trusting(shown))
                await worker.accepted.get()
                recorded = between.seen["up"]
                await ours.channel.close()
            from websockets.asyncio.client import connect

            from distmap.transport.websocket import OPTIONS, PATH

            async with connect(f"{worker.url}{PATH}", **OPTIONS, proxy=None) as link:
                with contextlib.suppress(ConnectionClosed):
                    for message in recorded:
                        await link.recv()
                        await link.send(message)
                    await link.recv()
            assert worker.accepted.empty()

    run(main)


def test_a_hop_that_joins_two_of_one_kind(shown: Certificate, open_port: Any, dial_pool: Any, run: Any) -> None:
    """A hop that leads a pool to another pool is found out: roles are part of the proof."""

    async def main() -> None:
        async with open_port(role="pool") as pool, hop(pool.url, shown) as between:
            with pytest.raises(AuthenticationError, match="talks to a worker only"):
                await dial_pool(between.url, **trusting(shown))
            assert pool.accepted.empty()

    run(main)


# --- by itself --------------------------------------------------------------------------------------------------------


def test_a_frame_that_is_announced_too_large(run: Any) -> None:
    """The size is checked before memory is taken for it."""

    async def main() -> None:
        left, right = pair()
        context, _ = server_context()
        ours = InnerTLS(left, client_context(), server_side=False)
        theirs = InnerTLS(right, context, server_side=True)
        await asyncio.gather(ours.handshake(), theirs.handshake())
        await ours.send([bytes(LIMITS.websocket_bytes), b"x"])
        with pytest.raises(ChannelClosed, match="are allowed"):
            await theirs.recv()
        left.abort()

    run(main)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("ending", ["left", "right"])
def test_an_end_of_tls_that_anybody_can_send(ending: str, run: Any) -> None:
    """Who proves nothing can say close_notify of TLS: that ends the channel, and does not hold up the event loop."""

    async def main() -> None:
        left, right = pair()
        context, _ = server_context()
        ours = InnerTLS(left, client_context(), server_side=False)
        theirs = InnerTLS(right, context, server_side=True)
        await asyncio.gather(ours.handshake(), theirs.handshake())
        enemy, other = (ours, theirs) if ending == "left" else (theirs, ours)
        with contextlib.suppress(ssl.SSLWantReadError):
            enemy._tls.unwrap()
        await enemy._flush()
        with pytest.raises(ChannelClosed, match="TLS was ended") as closed:
            await other.recv()
        assert closed.value.code == CLOSE_BROKEN

    run(main)


def test_what_is_no_tls(run: Any) -> None:
    """A hop, or another protocol, that answers something else ends the channel with a reason."""

    async def main() -> None:
        left, right = pair()
        ours = InnerTLS(left, client_context(), server_side=False)
        await right.send([b"hello there, this is no TLS at all"])
        with pytest.raises(ChannelClosed, match="no TLS inside the messages"):
            await ours.handshake()

    run(main)


def test_a_hello_of_something_else(shown: Certificate, dial_pool: Any, run: Any) -> None:
    """Behind the hop is no distmap: said so, and nothing is sent there."""

    async def main() -> None:
        async def other(link: Any, back: Any) -> None:
            await link.send(b"{}")
            await link.wait_closed()

        async with other_server() as target, hop(target, shown, handle=other) as between:
            with pytest.raises(ProtocolError, match="not of distmap's handshake"):
                await dial_pool(between.url, **trusting(shown))

    run(main)


@contextlib.asynccontextmanager
async def other_server() -> Any:
    """A WebSocket server for a hop to connect to."""
    from websockets.asyncio.server import serve

    from distmap.transport.websocket import OPTIONS

    async with serve(lambda link: link.wait_closed(), "127.0.0.1", 0, **OPTIONS) as server:
        yield WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1], scheme="ws")
