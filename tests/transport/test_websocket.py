"""WebSocket channels keep the contract; strangers are refused, and every failing hop has its sentence."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from distmap.errors import (
    AuthenticationError,
    ConnectError,
    ProtocolError,
    VersionMismatch,
    WorkerBusy,
)
from distmap.security import Secret, WorkerURL, client_context, parse_url, server_context
from distmap.testing.channels import CHECKS, Check
from distmap.transport import websocket
from distmap.transport.channel import Connection
from distmap.transport.websocket import (
    MAX_UNPROVED_PER_ADDRESS,
    PATH,
    SUBPROTOCOL,
    Listening,
    Role,
    dial,
    listen,
)
from distmap.wire import handshake

TOKEN = Secret.generate()
POOL: dict[str, object] = {"name": "nb", "python": "3.13"}
WORKER: dict[str, object] = {"name": "gpu1", "slots": 2, "python": "3.13"}


class Door:
    """A listening worker that keeps who came and who was refused."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Connection] = asyncio.Queue()
        self.refused: asyncio.Queue[str] = asyncio.Queue()
        self.info: Mapping[str, object] = WORKER
        self.listening: Listening

    @property
    def url(self) -> WorkerURL:
        return parse_url(self.listening.url)

    async def enter(self, connection: Connection) -> None:
        self.came.put_nowait(connection)

    async def sentence(self) -> str:
        async with asyncio.timeout(10):
            return await self.refused.get()


@contextlib.asynccontextmanager
async def door(**options: Any) -> AsyncIterator[Door]:
    made = Door()
    options = {"token": TOKEN, "role": "worker", "info": lambda: made.info, "on_connection": made.enter, **options}
    made.listening = await listen("127.0.0.1", 0, on_refused=made.refused.put_nowait, **options)
    try:
        yield made
    finally:
        await made.listening.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run it, and see that it leaves no task behind."""

    async def watched() -> None:
        async with asyncio.timeout(15):
            await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    asyncio.run(watched())


async def dial_pool(url: WorkerURL, **options: Any) -> Connection:
    return await dial(url, **{"token": TOKEN, "role": "pool", "info": POOL, "timeout": 10, **options})


# --- what works ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialled", ["left", "right"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Check, dialled: str) -> None:
    """Over TLS and TCP, seen from the side that dialled and from the side that listened."""

    async def main() -> None:
        async with door() as there:
            ours = await dial_pool(there.url)
            theirs = await there.came.get()
            ends = (ours.channel, theirs.channel) if dialled == "left" else (theirs.channel, ours.channel)
            await check(*ends)
            for end in ends:
                end.abort()

    run(main)


@pytest.mark.parametrize("roles", [("worker", "pool"), ("pool", "worker")])
def test_both_sides_learn_who_the_other_is(roles: tuple[Role, Role]) -> None:
    """Whoever listens: INFO of the other side, a first round trip, and a peer's name."""
    infos = {"pool": POOL, "worker": WORKER}

    async def main() -> None:
        async with door(role=roles[0], info=lambda: infos[roles[0]]) as there:
            ours = await dial_pool(there.url, role=roles[1], info=infos[roles[1]])
            theirs = await there.came.get()
            assert ours.peer_info == infos[roles[0]]
            assert theirs.peer_info == infos[roles[1]]
            assert 0 < ours.rtt < 5
            assert 0 < theirs.rtt < 5
            assert ours.channel.peer == there.listening.url
            assert theirs.channel.peer.startswith("127.0.0.1:")
            await ours.channel.close()
            assert there.refused.empty()

    run(main)


def test_the_callback_may_return_or_stay() -> None:
    """A connection lives until its channel is closed, not until its callback returns."""

    async def main() -> None:
        async def stay(connection: Connection) -> None:
            assert await connection.channel.recv() == b"ping"
            await connection.channel.send([b"pong"])
            await connection.channel.close()

        async with door(on_connection=stay) as there:
            ours = await dial_pool(there.url)
            await ours.channel.send([b"ping"])
            assert await ours.channel.recv() == b"pong"
            await ours.channel.close()

    run(main)


def test_a_failing_callback_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged, that connection closed, and the next one served."""

    async def main() -> None:
        calls = 0

        async def fail(connection: Connection) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise RuntimeError("boom")

        async with door(on_connection=fail) as there:
            first = await dial_pool(there.url)
            with pytest.raises(ConnectionError):
                await first.channel.recv()
            second = await dial_pool(there.url)
            await second.channel.send([b"fine"])
            await second.channel.close()

    run(main)
    assert "boom" in caplog.text


def test_only_tls_1_3_is_spoken() -> None:
    """A client that offers TLS 1.2 at most is refused."""

    async def main() -> None:
        async with door() as there:
            old = client_context()
            old.minimum_version = ssl.TLSVersion.TLSv1_2
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(OSError):
                await connect(f"{there.url}{PATH}", ssl=old, proxy=None)

    run(main)


def test_a_certificate_of_ones_own(tmp_path: Path) -> None:
    """--tls-cert and --tls-key: the proof is bound to that certificate."""
    from cryptography import x509

    from distmap import security

    certificate, key = security._ephemeral_certificate()
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)

    async def main() -> None:
        async with door(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem") as there:
            ours = await dial_pool(there.url)
            shown = ours.channel._link.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)  # type: ignore[attr-defined]
            assert x509.load_der_x509_certificate(shown) == x509.load_pem_x509_certificate(certificate)
            await ours.channel.close()

    run(main)


def test_environment_proxies_are_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a proxy configured that does not exist, a worker on this machine is still reached."""
    for name in ("https_proxy", "http_proxy", "all_proxy", "wss_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def main() -> None:
        async with door() as there:
            ours = await dial_pool(there.url)
            await ours.channel.close()

    run(main)


# --- who is refused --------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_told_on_both_sides() -> None:
    """One sentence each; none of them holds a token."""
    other = Secret.generate()

    async def main() -> None:
        async with door() as there:
            with pytest.raises(AuthenticationError, match=r"^wss://127\.0\.0\.1:\d+: wrong token: the ") as caught:
                await dial_pool(there.url, token=other)
            sentence = await there.sentence()
            assert sentence.startswith("127.0.0.1:")
            assert f"the pool holds another token ({other.kid}) than this side ({TOKEN.kid})" in sentence
            assert "dm1_" not in sentence + str(caught.value)
            assert there.came.empty()

    run(main)


@contextlib.asynccontextmanager
async def relay(target: WorkerURL) -> AsyncIterator[WorkerURL]:
    """A man in the middle with a certificate of his own."""
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(target.host, target.port, ssl=client_context())
        tasks = {asyncio.create_task(pump(reader, back_writer)), asyncio.create_task(pump(back_reader, writer))}
        pumps.update(tasks)
        await asyncio.wait(tasks)
        for end in (writer, back_writer):
            end.transport.abort()
            with contextlib.suppress(OSError):
                await end.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server_context()[0])
    try:
        yield WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()
        if pumps:
            await asyncio.wait(pumps)


def test_a_relay_is_refused_on_both_sides() -> None:
    """TLS that ends in between is noticed, and the dialer's proof is never given."""

    async def main() -> None:
        async with door() as there:
            async with relay(there.url) as middle:
                with pytest.raises(AuthenticationError, match="TLS is being terminated between you and the worker"):
                    await dial_pool(middle)
                assert "something stands in between" in await there.sentence()
            assert there.came.empty()

    run(main)


def test_a_relay_that_lies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dialer that is fooled about the certificate gives a proof that the listener does not take."""

    class Fooled(handshake.Dialer):
        def receive_hello(self, message: bytes) -> bytes:
            true, self_seen = bytes.fromhex(__import__("json").loads(message)["cert"]), self._certificate
            return super().receive_hello(message.replace(true.hex().encode(), self_seen.hex().encode()))

    async def main() -> None:
        async with door() as there:
            async with relay(there.url) as middle:
                with pytest.raises(AuthenticationError, match="wrong token"):
                    await dial_pool(middle)
            assert "its proof is wrong" in await there.sentence()

    monkeypatch.setattr(handshake, "Dialer", Fooled)
    run(main)


def test_an_impostor_on_the_port_is_refused() -> None:
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


def test_equal_roles_are_refused() -> None:
    """A pool that dials a pool is told so."""

    async def main() -> None:
        async with door(role="pool") as there:
            with pytest.raises(AuthenticationError, match="talks to a worker only"):
                await dial_pool(there.url)
            assert "left during the handshake" in await there.sentence()

    run(main)


def test_a_busy_worker_says_so_and_by_whom() -> None:
    """Both sides get the same sentence, and the worker's callback is not called."""

    async def main() -> None:
        async with door() as there:
            there.info = {**WORKER, "refused": "busy", "by": "alice@laptop"}
            with pytest.raises(WorkerBusy, match=r"gpu1 \(wss://.*\) is busy: it serves alice@laptop"):
                await dial_pool(there.url)
            assert "worker gpu1 is busy: it serves alice@laptop" in await there.sentence()
            assert there.came.empty()

    run(main)


def test_only_one_of_two_pools_gets_a_free_worker() -> None:
    """A worker that decides in its callback is never promised twice, however the two dial."""

    async def main() -> None:
        taken: list[Connection] = []

        async def take(connection: Connection) -> None:
            taken.append(connection)

        def info() -> Mapping[str, object]:
            return {**WORKER, "refused": "busy", "by": taken[0].peer_info["name"]} if taken else WORKER

        async with door(info=info, on_connection=take) as there:
            dials = [dial_pool(there.url, info={**POOL, "name": f"nb{number}"}) for number in range(6)]
            results = await asyncio.gather(*dials, return_exceptions=True)
            assert len([result for result in results if isinstance(result, Connection)]) == 1
            assert len([result for result in results if isinstance(result, WorkerBusy)]) == 5
            assert len(taken) == 1
            await taken[0].channel.close()

    run(main)


def test_python_versions_that_differ_are_refused_on_both_sides() -> None:
    """One sentence that names both."""

    async def main() -> None:
        async with door() as there:
            with pytest.raises(VersionMismatch, match=r"nb runs Python 3\.11 and worker gpu1 runs Python 3\.13"):
                await dial_pool(there.url, info={**POOL, "python": "3.11"})
            assert "pool nb runs Python 3.11 and worker gpu1 runs Python 3.13" in await there.sentence()
            assert there.came.empty()

    run(main)


def test_protocol_versions_that_differ_are_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dialer names both ranges, the listener notes it."""

    OURS = b'"v":[%d,%d]' % handshake.PROTOCOL

    class Newer(handshake.Listener):
        def hello(self) -> bytes:
            hello = super().hello().replace(OURS, b'"v":[7,8]')
            self._hello = hello
            return hello

    async def main() -> None:
        async with door() as there:
            with pytest.raises(VersionMismatch, match=r"^wss://.*speaks versions 7 to 8 .* \d to \d"):
                await dial_pool(there.url)
            assert "another version of the protocol" in await there.sentence()

    monkeypatch.setattr(handshake, "Listener", Newer)
    run(main)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost"])
def test_web_pages_are_refused(origin: str) -> None:
    """Any Origin header means a browser: 403, with no body."""

    async def main() -> None:
        async with door() as there:
            with pytest.raises(InvalidStatus) as caught:
                await connect(
                    f"{there.url}{PATH}", ssl=client_context(), proxy=None, origin=origin, subprotocols=[SUBPROTOCOL]
                )
            response = caught.value.response
            assert (response.status_code, response.body) == (403, b"")
            assert "Server" not in response.headers
            assert "web page" in await there.sentence()

    run(main)


def test_no_other_path_exists() -> None:
    """Whatever else is asked for: 404."""

    async def main() -> None:
        async with door() as there:
            for path in ("/", "/distmap/1/", "/distmap/2", "/distmap/1?token=x"):
                with pytest.raises(InvalidStatus) as caught:
                    await connect(f"{there.url}{path}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL])
                assert caught.value.response.status_code == 404

    run(main)


@pytest.mark.parametrize(
    "message", [b"", b"x" * 5000, b"\0\0" + bytes(32), "text", b"{}", pickle.dumps(print)], ids=lambda m: repr(m[:9])
)
def test_strangers_get_no_further_than_the_proof(message: bytes | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but HELLO and proof ends the connection, unpickles nothing, and is told in one sentence."""

    def explode(*args: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", explode)

    async def main() -> None:
        async with door() as there:
            async with connect(
                f"{there.url}{PATH}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL]
            ) as link:
                await link.recv()
                await link.send(message)
                with pytest.raises(ConnectionClosed) as caught:
                    await link.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code in (4400, 4401)
                assert caught.value.rcvd.reason == ""
            assert "refused" in await there.sentence()
            assert there.came.empty()

    run(main)


def test_strangers_who_wait_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proof within the time: closed."""
    monkeypatch.setattr(websocket, "HOP_TIMEOUT", 0.2)

    async def main() -> None:
        async with door() as there:
            async with connect(
                f"{there.url}{PATH}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL]
            ) as link:
                await link.wait_closed()
            assert "no proof of the token within 0.2 s" in await there.sentence()

    run(main)


def test_strangers_are_limited_and_members_are_not() -> None:
    """At most so many connections of one address are without proof; proved ones do not count."""

    async def main() -> None:
        async with door() as there, contextlib.AsyncExitStack() as stack:
            members = [await dial_pool(there.url) for _ in range(MAX_UNPROVED_PER_ADDRESS + 2)]

            async def stranger() -> Any:
                return await connect(f"{there.url}{PATH}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL])

            links = [await stranger() for _ in range(MAX_UNPROVED_PER_ADDRESS)]
            for link in links:
                stack.push_async_callback(link.close)
            with pytest.raises(ConnectError, match="too many are waiting there"):
                await dial_pool(there.url)
            await links.pop().close()
            while "left during" not in await there.sentence():
                pass
            late = await dial_pool(there.url)
            for member in [*members, late]:
                await member.channel.close()

    run(main)


# --- what fails on the way -------------------------------------------------------------------------------------------


def test_nothing_listens() -> None:
    """A refused connection names port and host, with one address and with several."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def main() -> None:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(ConnectError, match=f"^wss://{host}:{port}: nothing listens on port {port} of {host}"):
                await dial_pool(WorkerURL(host, port))

    run(main)


def test_a_host_that_does_not_resolve() -> None:
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
def test_something_else_listens(greeting: bytes | None, tls: bool, sentence: str) -> None:
    """Whatever it is, one sentence names the URL and the hop at which it turned out not to be distmap."""

    async def main() -> None:
        async with tcp(greeting, server_context()[0] if tls else None) as url:
            with pytest.raises(ConnectError, match=sentence) as caught:
                await dial_pool(url, timeout=1)
            assert str(caught.value).startswith(f"{url}: ")
            assert "\n" not in str(caught.value)

    run(main)


@pytest.mark.parametrize("subprotocols", [None, ["chat"], [SUBPROTOCOL]])
def test_another_websocket_server(subprotocols: Any) -> None:
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
def test_a_listener_that_hangs_up(code: int, error: type[Exception]) -> None:
    """A close during the handshake is told with its code."""

    async def main() -> None:
        async def hang_up(link: Any) -> None:
            await link.close(code)

        async with serve(hang_up, "127.0.0.1", 0, ssl=server_context()[0], subprotocols=[SUBPROTOCOL]) as server:
            url = WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(error, match=rf"^{url}: the worker"):
                await dial_pool(url)

    run(main)


def test_a_listener_that_says_nothing() -> None:
    """The handshake has a deadline; then the dialer says so and leaves nothing open."""

    async def main() -> None:
        async def mute(link: Any) -> None:
            await link.wait_closed()

        async with serve(mute, "127.0.0.1", 0, ssl=server_context()[0], subprotocols=[SUBPROTOCOL]) as server:
            url = WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(ConnectError, match=r"did not finish the handshake within 0\.5 s"):
                await dial_pool(url, timeout=0.5)

    run(main)


def test_a_cancelled_dial_leaves_nothing() -> None:
    """Cancelling in the middle of the handshake closes the socket."""

    async def main() -> None:
        there, gone = asyncio.Event(), asyncio.Event()

        async def mute(link: Any) -> None:
            there.set()
            await link.wait_closed()
            gone.set()

        async with serve(mute, "127.0.0.1", 0, ssl=server_context()[0], subprotocols=[SUBPROTOCOL]) as server:
            url = WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
            dialling = asyncio.create_task(dial_pool(url))
            await there.wait()
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
            await gone.wait()

    run(main)


def test_a_proxy_that_does_not_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_redirects_are_not_followed() -> None:
    """A worker never redirects; who does is something else."""

    async def main() -> None:
        answer = b"HTTP/1.1 302 Found\r\nLocation: wss://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
        async with tcp(answer, server_context()[0]) as url:
            with pytest.raises(ConnectError, match=rf"^{url}: .*HTTP 302"):
                await dial_pool(url)

    run(main)


# --- listening -------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken() -> None:
    """Said in one sentence that names it."""

    async def main() -> None:
        async with door() as there:
            with pytest.raises(ConnectError, match=rf"^{there.url}: cannot listen there: .*in use"):
                await listen(
                    "127.0.0.1",
                    there.listening.port,
                    token=TOKEN,
                    role="worker",
                    info=dict,
                    on_connection=there.enter,
                )

    run(main)


def test_an_address_that_does_not_exist() -> None:
    """A host name to listen on that does not resolve is named."""

    async def main() -> None:
        with pytest.raises(ConnectError, match=r"nowhere\.invalid does not resolve"):
            await listen("nowhere.invalid", 0, token=TOKEN, role="worker", info=dict, on_connection=Door().enter)

    run(main)


@pytest.mark.parametrize("host", ["", "0.0.0.0"])
def test_every_interface_is_shown_by_the_hosts_name(host: str) -> None:
    """What the others dial is never 0.0.0.0."""

    async def main() -> None:
        listening = await listen(host, 0, token=TOKEN, role="pool", info=dict, on_connection=Door().enter)
        assert listening.url == f"wss://{socket.gethostname()}:{listening.port}"
        await listening.close()

    run(main)


def test_closing_ends_strangers_and_members() -> None:
    """After close nothing of the listener is left, whoever was connected; closing twice is fine."""

    async def main() -> None:
        async with door() as there:
            member = await dial_pool(there.url)
            stranger = await connect(f"{there.url}{PATH}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL])
            await there.came.get()
            await there.listening.close()
            with pytest.raises(ConnectionError):
                await member.channel.recv()
            await member.channel.close()
            await stranger.wait_closed()
            await there.listening.close()
            with pytest.raises(ConnectError, match="nothing listens"):
                await dial_pool(there.url)

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
