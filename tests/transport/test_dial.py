"""Dialling: what is proved on the way, and the sentence of every hop that fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.server import serve

from distmap.errors import AuthenticationError, ConnectError, ProtocolError, VersionMismatch
from distmap.transport.dial import open_link
from distmap.transport.first_hop import FirstHop
from distmap.transport.hop_report import OnHop, unwatched
from distmap.transport.tls import server_context
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL, parse_url
from distmap.transport.websocket import SUBPROTOCOL
from distmap.wire import handshake
from distmap.wire.handshake import Role

TOKEN = Secret(b"t" * 32)  # the one of conftest.py
POOL: dict[str, object] = {"name": "nb", "python": "3.13"}
WORKER: dict[str, object] = {"name": "gpu1", "slots": 2, "python": "3.13"}


# --- what works ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", [("worker", "pool"), ("pool", "worker")])
def test_both_sides_learn_who_the_other_is(roles: tuple[Role, Role], open_port: Any, dial_pool: Any, run: Any) -> None:
    """Whoever listens: INFO of the other side, a first round trip, and a peer's name."""
    infos = {"pool": POOL, "worker": WORKER}

    async def main() -> None:
        async with open_port(role=roles[0], info=lambda theirs: infos[roles[0]]) as worker:
            ours = await dial_pool(worker.url, role=roles[1], info=infos[roles[1]])
            theirs = await worker.accepted.get()
            assert ours.peer_info == infos[roles[0]]
            assert theirs.peer_info == infos[roles[1]]
            assert 0 < ours.rtt < 5
            assert 0 < theirs.rtt < 5
            assert ours.channel.peer == worker.server.url
            assert theirs.channel.peer.startswith("127.0.0.1:")
            await ours.channel.close()
            assert worker.refused.empty()

    run(main)


@pytest.mark.parametrize("on_hop", [unwatched, lambda *args, **found: None], ids=["dial", "check"])
@pytest.mark.parametrize(
    "proxy", ["http://ann:s3cret@127.0.0.1:1/path", "foo://ann:s3cret@127.0.0.1:1", "http://ann:s3cret/x@127.0.0.1:1"]
)
def test_no_traceback_shows_the_password_of_a_proxy(proxy: str, on_hop: OnHop, run: Any) -> None:
    """Also where its address cannot be used, and the library's error, which is the cause of ours, quotes all of it."""

    async def main() -> None:
        with pytest.raises(ConnectError, match=r"the proxy \w+://127") as failed:
            await open_link(parse_url("wss://gpu1:1"), 5.0, FirstHop(proxy=proxy), False, on_hop)
        shown = "".join(traceback.format_exception(failed.value))
        assert failed.value.__cause__ is not None
        assert "s3cret" not in shown

    run(main)


def test_environment_proxies_are_not_asked_for_loopback(
    monkeypatch: pytest.MonkeyPatch, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """With a proxy configured that does not exist, a worker on this machine is still reached."""
    for name in ("https_proxy", "http_proxy", "all_proxy", "wss_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def main() -> None:
        async with open_port() as worker:
            ours = await dial_pool(worker.url)
            await ours.channel.close()

    run(main)


# --- who is refused --------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_told_on_both_sides(open_port: Any, dial_pool: Any, run: Any) -> None:
    """One sentence each; none of them holds a token."""
    other = Secret.generate()

    async def main() -> None:
        async with open_port() as worker:
            with pytest.raises(AuthenticationError, match=r"^wss://127\.0\.0\.1:\d+: wrong token: the ") as caught:
                await dial_pool(worker.url, token=other)
            sentence = await worker.refusal()
            assert sentence.startswith("127.0.0.1:")
            assert f"the pool holds another token ({other.kid}) than this side ({TOKEN.kid})" in sentence
            assert "dm1_" not in sentence + str(caught.value)
            assert worker.accepted.empty()

    run(main)


def test_an_impostor_on_the_port_is_refused(dial_pool: Any, run: Any) -> None:
    """Who took the worker's port, but has no token, is not trusted by the pool."""

    async def main() -> None:
        context, certificate = server_context()

        async def impostor(link: Any) -> None:
            side = handshake.Listener(
                kid=TOKEN.kid, token=bytes(32), role="worker", nonce=os.urandom(32), certificate=certificate
            )
            await link.send(side.hello())
            await link.recv()
            await link.send(bytes(32))
            await link.wait_closed()

        async with serve(impostor, "127.0.0.1", 0, ssl=context, subprotocols=[SUBPROTOCOL]) as server:
            url = WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(AuthenticationError, match=f"did not prove that it holds the token {TOKEN.kid}"):
                await dial_pool(url)

    run(main)


def test_equal_roles_are_refused(open_port: Any, dial_pool: Any, run: Any) -> None:
    """A pool that dials a pool is told so."""

    async def main() -> None:
        async with open_port(role="pool") as worker:
            with pytest.raises(AuthenticationError, match="talks to a worker only"):
                await dial_pool(worker.url)
            assert "left during the handshake" in await worker.refusal()

    run(main)


def test_python_versions_that_differ_are_refused_on_both_sides(open_port: Any, dial_pool: Any, run: Any) -> None:
    """One sentence that names both."""

    async def main() -> None:
        async with open_port() as worker:
            with pytest.raises(VersionMismatch, match=r"nb runs Python 3\.11 and worker gpu1 runs Python 3\.13"):
                await dial_pool(worker.url, info={**POOL, "python": "3.11"})
            assert "pool nb runs Python 3.11 and worker gpu1 runs Python 3.13" in await worker.refusal()
            assert worker.accepted.empty()

    run(main)


def test_protocol_versions_that_differ_are_refused_on_both_sides(
    monkeypatch: pytest.MonkeyPatch, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """The dialer names both ranges, the listener notes it."""

    OURS = b'"v":[%d,%d]' % handshake.PROTOCOL

    class Newer(handshake.Listener):
        def hello(self) -> bytes:
            hello = super().hello().replace(OURS, b'"v":[7,8]')
            self._hello = hello
            return hello

    async def main() -> None:
        async with open_port() as worker:
            with pytest.raises(VersionMismatch, match=r"^wss://.*speaks versions 7 to 8 .* \d to \d"):
                await dial_pool(worker.url)
            assert "another version of the protocol" in await worker.refusal()

    monkeypatch.setattr(handshake, "Listener", Newer)
    run(main)


# --- what fails on the way -------------------------------------------------------------------------------------------


def test_nothing_listens(dial_pool: Any, run: Any) -> None:
    """A refused connection names port and host, with one address and with several."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def main() -> None:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(ConnectError, match=f"^wss://{host}:{port}: nothing listens on port {port} of {host}"):
                await dial_pool(WorkerURL(host, port))

    run(main)


def test_a_host_that_does_not_resolve(dial_pool: Any, run: Any) -> None:
    """DNS is named as the hop that failed."""

    async def main() -> None:
        with pytest.raises(ConnectError, match=r"^wss://nowhere\.invalid:1: the host name nowhere\.invalid does not"):
            await dial_pool(parse_url("wss://nowhere.invalid:1"))

    run(main)


@contextlib.asynccontextmanager
async def tcp(greeting: bytes | None, context: ssl.SSLContext | None = None) -> AsyncIterator[WorkerURL]:
    """A TCP (or TLS) server that says something and, if that is not empty, hangs up; None: hangs up at once."""
    done = asyncio.Event()
    accepted: set[asyncio.Task[Any] | None] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.add(asyncio.current_task())
        with contextlib.suppress(OSError):
            if greeting is not None:
                writer.write(greeting)
                await writer.drain()
                if not greeting:
                    await done.wait()
                else:
                    await reader.read(65536)
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        done.set()
        server.close()
        await server.wait_closed()
        await asyncio.gather(*filter(None, accepted))


HTTP_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("greeting", "tls", "sentence"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", False, "it does not speak TLS"),
        (HTTP_PAGE, False, "it does not speak TLS"),
        (None, False, "it ended the connection instead of speaking TLS"),
        (b"", False, "kept silent"),
        (HTTP_PAGE, True, "answered the WebSocket upgrade with HTTP 200"),
        (b"220 mail ESMTP\r\n", True, "it speaks TLS, but no WebSocket"),
        (b"", True, "did not answer the WebSocket upgrade within 1 s"),
        (None, True, "it speaks TLS, but ended the connection"),
    ],
)
def test_something_else_listens(greeting: bytes | None, tls: bool, sentence: str, dial_pool: Any, run: Any) -> None:
    """Whatever it is, one sentence names the URL and the hop at which it turned out not to be distmap."""

    async def main() -> None:
        async with tcp(greeting, server_context()[0] if tls else None) as url:
            with pytest.raises(ConnectError, match=sentence) as caught:
                await dial_pool(url, timeout=1)
            assert str(caught.value).startswith(f"{url}: ")
            assert "\n" not in str(caught.value)

    run(main)


@pytest.mark.parametrize("subprotocols", [None, ["chat"], [SUBPROTOCOL]])
def test_another_websocket_server(subprotocols: Any, dial_pool: Any, run: Any) -> None:
    """Without our subprotocol it is refused at once; with it, at HELLO."""

    async def main() -> None:
        async def other(link: Any) -> None:
            await link.send('{"hello": "world"}')
            await link.wait_closed()

        context = server_context()[0]
        async with serve(other, "127.0.0.1", 0, ssl=context, subprotocols=subprotocols) as server:
            url = WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises((ConnectError, ProtocolError), match=rf"^{url}: ") as caught:
                await dial_pool(url)
            assert isinstance(caught.value, ProtocolError if subprotocols == [SUBPROTOCOL] else ConnectError)

    run(main)


@pytest.mark.parametrize(("code", "error"), [(4400, ProtocolError), (4409, ConnectError), (1013, ConnectError)])
def test_a_listener_that_hangs_up(code: int, error: type[Exception], dial_pool: Any, run: Any) -> None:
    """A close during the handshake is told with its code."""

    async def main() -> None:
        async def hang_up(link: Any) -> None:
            await link.close(code)

        async with serve(hang_up, "127.0.0.1", 0, ssl=server_context()[0], subprotocols=[SUBPROTOCOL]) as server:
            url = WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(error, match=rf"^{url}: the worker"):
                await dial_pool(url)

    run(main)


def test_a_listener_that_says_nothing(dial_pool: Any, run: Any) -> None:
    """The handshake has a deadline; then the dialer says so and leaves nothing open."""

    async def main() -> None:
        async def mute(link: Any) -> None:
            await link.wait_closed()

        async with serve(mute, "127.0.0.1", 0, ssl=server_context()[0], subprotocols=[SUBPROTOCOL]) as server:
            url = WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(ConnectError, match=r"did not finish the handshake within 0\.5 s"):
                await dial_pool(url, timeout=0.5)

    run(main)


def test_a_cancelled_dial_leaves_nothing(dial_pool: Any, run: Any) -> None:
    """Cancelling in the middle of the handshake closes the socket."""

    async def main() -> None:
        reached, gone = asyncio.Event(), asyncio.Event()

        async def mute(link: Any) -> None:
            reached.set()
            await link.wait_closed()
            gone.set()

        async with serve(mute, "127.0.0.1", 0, ssl=server_context()[0], subprotocols=[SUBPROTOCOL]) as server:
            url = WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
            dialling = asyncio.create_task(dial_pool(url))
            await reached.wait()
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
            await gone.wait()

    run(main)


def test_a_proxy_that_does_not_let_through(monkeypatch: pytest.MonkeyPatch, dial_pool: Any, run: Any) -> None:
    """A proxy of the environment is used beyond this machine, and named when it refuses."""
    for name in ("http_proxy", "all_proxy", "no_proxy", "NO_PROXY", "ws_proxy", "wss_proxy"):
        monkeypatch.delenv(name, raising=False)

    async def main() -> None:
        async with tcp(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            with pytest.raises(
                ConnectError, match=r"^wss://gpu1\.example:1: the proxy http://127\.0\.0\.1:\d+ refused"
            ):
                await dial_pool(parse_url("wss://gpu1.example:1"))

    run(main)


def test_redirects_are_not_followed(dial_pool: Any, run: Any) -> None:
    """A worker never redirects; who does is something else."""

    async def main() -> None:
        answer = b"HTTP/1.1 302 Found\r\nLocation: wss://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
        async with tcp(answer, server_context()[0]) as url:
            with pytest.raises(ConnectError, match=rf"^{url}: .*HTTP 302"):
                await dial_pool(url)

    run(main)


# --- listening -------------------------------------------------------------------------------------------------------
