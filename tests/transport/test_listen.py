"""An open port: who is accepted, who is refused and how, and how many may wait."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from distmap.core.limits import LIMITS
from distmap.errors import AuthenticationError, ConnectError, WorkerBusy
from distmap.transport import listen as module
from distmap.transport import tls
from distmap.transport.channel import Connection
from distmap.transport.dial import dial
from distmap.transport.first_hop import FirstHop
from distmap.transport.listen import listen
from distmap.transport.tls import client_context
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.transport.websocket import PATH, SUBPROTOCOL

TOKEN = Secret(b"t" * 32)
POOL: dict[str, object] = {"name": "nb", "python": "3.13"}
WORKER: dict[str, object] = {"name": "gpu1", "slots": 2, "python": "3.13"}


def nothing(theirs: Mapping[str, object]) -> Mapping[str, object]:
    """The INFO of who has nothing to say."""
    return {}


async def ignore(connection: Connection) -> None:
    """For ports that nobody dials."""


def test_the_callback_may_return_or_stay(open_port: Any, dial_pool: Any, run: Any) -> None:
    """A connection lives until its channel is closed, not until its callback returns."""

    async def main() -> None:
        async def stay(connection: Connection) -> None:
            assert await connection.channel.recv() == b"ping"
            await connection.channel.send([b"pong"])
            await connection.channel.close()

        async with open_port(on_connection=stay) as worker:
            ours = await dial_pool(worker.url)
            await ours.channel.send([b"ping"])
            assert await ours.channel.recv() == b"pong"
            await ours.channel.close()

    run(main)


def test_a_failing_callback_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture, open_port: Any, dial_pool: Any, run: Any
) -> None:
    """The error is logged, that connection closed, and the next one served."""

    async def main() -> None:
        calls = 0

        async def fail(connection: Connection) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise RuntimeError("boom")

        async with open_port(on_connection=fail) as worker:
            first = await dial_pool(worker.url)
            with pytest.raises(ConnectionError):
                await first.channel.recv()
            second = await dial_pool(worker.url)
            await second.channel.send([b"fine"])
            await second.channel.close()

    run(main)
    assert "boom" in caplog.text


def test_only_tls_1_3_is_spoken(open_port: Any, run: Any) -> None:
    """A client that offers TLS 1.2 at most is refused."""

    async def main() -> None:
        async with open_port() as worker:
            old = client_context()
            old.minimum_version = ssl.TLSVersion.TLSv1_2
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(OSError):
                await connect(f"{worker.url}{PATH}", ssl=old, proxy=None)

    run(main)


def test_a_certificate_of_ones_own(tmp_path: Path, open_port: Any, dial_pool: Any, run: Any) -> None:
    """--tls-cert and --tls-key: the proof is bound to that certificate."""
    from cryptography import x509

    certificate, key = tls._ephemeral_certificate()
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)

    async def main() -> None:
        async with open_port(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem") as worker:
            ours = await dial_pool(worker.url)
            shown = ours.channel._link.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)  # type: ignore[attr-defined]
            assert x509.load_der_x509_certificate(shown) == x509.load_pem_x509_certificate(certificate)
            await ours.channel.close()

    run(main)


def test_a_busy_worker_says_so_and_by_whom(open_port: Any, dial_pool: Any, run: Any) -> None:
    """Both sides get the same sentence, and the worker's callback is not called."""

    async def main() -> None:
        async with open_port() as worker:
            worker.info = {**WORKER, "refused": "busy", "by": "alice@laptop"}
            with pytest.raises(WorkerBusy, match=r"gpu1 \(wss://.*\) is busy: it serves alice@laptop"):
                await dial_pool(worker.url)
            assert "worker gpu1 is busy: it serves alice@laptop" in await worker.refusal()
            assert worker.accepted.empty()

    run(main)


def test_only_one_of_two_pools_gets_a_free_worker(open_port: Any, dial_pool: Any, run: Any) -> None:
    """A worker that decides in its callback is never promised twice, however the two dial."""

    async def main() -> None:
        taken: list[Connection] = []

        async def take(connection: Connection) -> None:
            taken.append(connection)

        def info(theirs: Mapping[str, object]) -> Mapping[str, object]:
            return {**WORKER, "refused": "busy", "by": taken[0].peer_info["name"]} if taken else WORKER

        async with open_port(info=info, on_connection=take) as worker:
            dials = [dial_pool(worker.url, info={**POOL, "name": f"nb{number}"}) for number in range(6)]
            results = await asyncio.gather(*dials, return_exceptions=True)
            assert len([result for result in results if isinstance(result, Connection)]) == 1
            assert len([result for result in results if isinstance(result, WorkerBusy)]) == 5
            assert len(taken) == 1
            await taken[0].channel.close()

    run(main)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost"])
def test_web_pages_are_refused(origin: str, open_port: Any, run: Any) -> None:
    """Any Origin header means a browser: 403, with no body."""

    async def main() -> None:
        async with open_port() as worker:
            with pytest.raises(InvalidStatus) as caught:
                await connect(
                    f"{worker.url}{PATH}", ssl=client_context(), proxy=None, origin=origin, subprotocols=[SUBPROTOCOL]
                )
            response = caught.value.response
            assert (response.status_code, response.body) == (403, b"")
            assert "Server" not in response.headers
            assert "web page" in await worker.refusal()

    run(main)


def test_no_other_path_exists(open_port: Any, run: Any) -> None:
    """Whatever else is asked for: 404."""

    async def main() -> None:
        async with open_port() as worker:
            for path in ("/", "/distmap/1/", "/distmap/2", "/distmap/1?token=x"):
                with pytest.raises(InvalidStatus) as caught:
                    await connect(f"{worker.url}{path}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL])
                assert caught.value.response.status_code == 404

    run(main)


@pytest.mark.parametrize(
    "message", [b"", b"x" * 5000, b"\0\0" + bytes(32), "text", b"{}", pickle.dumps(print)], ids=lambda m: repr(m[:9])
)
def test_strangers_get_no_further_than_the_proof(
    message: bytes | str, monkeypatch: pytest.MonkeyPatch, open_port: Any, run: Any
) -> None:
    """Anything but HELLO and proof ends the connection, unpickles nothing, and is told in one sentence."""

    def explode(*args: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", explode)

    async def main() -> None:
        async with open_port() as worker:
            async with connect(
                f"{worker.url}{PATH}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL]
            ) as link:
                await link.recv()
                await link.send(message)
                with pytest.raises(ConnectionClosed) as caught:
                    await link.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code in (4400, 4401)
                assert caught.value.rcvd.reason == ""
            assert "refused" in await worker.refusal()
            assert worker.accepted.empty()

    run(main)


def test_strangers_who_wait_are_sent_away(monkeypatch: pytest.MonkeyPatch, open_port: Any, run: Any) -> None:
    """No proof within the time: closed."""
    monkeypatch.setattr(module, "LIMITS", LIMITS._replace(hop_timeout=0.2))

    async def main() -> None:
        async with open_port() as worker:
            async with connect(
                f"{worker.url}{PATH}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL]
            ) as link:
                await link.wait_closed()
            assert "no proof of the token within 0.2 s" in await worker.refusal()

    run(main)


def test_strangers_are_limited_and_members_are_not(open_port: Any, dial_pool: Any, run: Any) -> None:
    """At most so many connections of one address are without proof; proved ones do not count."""

    async def main() -> None:
        async with open_port() as worker, contextlib.AsyncExitStack() as stack:
            members = [await dial_pool(worker.url) for _ in range(LIMITS.unauthenticated_per_address + 2)]

            async def stranger() -> Any:
                return await connect(
                    f"{worker.url}{PATH}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL]
                )

            links = [await stranger() for _ in range(LIMITS.unauthenticated_per_address)]
            for link in links:
                stack.push_async_callback(link.close)
            with pytest.raises(ConnectError, match="too many are waiting there"):
                await dial_pool(worker.url)
            await links.pop().close()
            while "left during" not in await worker.refusal():
                pass
            late = await dial_pool(worker.url)
            for member in [*members, late]:
                await member.channel.close()

    run(main)


def test_a_port_that_is_taken(open_port: Any, run: Any) -> None:
    """Said in one sentence that names it."""

    async def main() -> None:
        async with open_port() as worker:
            with pytest.raises(ConnectError, match=rf"^{worker.url}: cannot listen there: .*in use"):
                await listen(
                    WorkerURL("127.0.0.1", worker.server.port),
                    token=TOKEN,
                    role="worker",
                    info=nothing,
                    on_connection=worker.accept,
                )

    run(main)


def test_an_address_that_does_not_exist(run: Any) -> None:
    """A host name to listen on that does not resolve is named."""

    async def main() -> None:
        with pytest.raises(ConnectError, match=r"nowhere\.invalid does not resolve"):
            await listen(
                WorkerURL("nowhere.invalid", 0),
                token=TOKEN,
                role="worker",
                info=nothing,
                on_connection=ignore,
            )

    run(main)


@pytest.mark.parametrize("host", ["", "0.0.0.0"])
def test_every_interface_is_shown_by_the_hosts_name(host: str, run: Any) -> None:
    """What the others dial is never 0.0.0.0."""

    async def main() -> None:
        listening = await listen(WorkerURL(host, 0), token=TOKEN, role="pool", info=nothing, on_connection=ignore)
        assert listening.url == f"wss://{socket.gethostname()}:{listening.port}"
        await listening.close()

    run(main)


def test_closing_ends_strangers_and_members(open_port: Any, dial_pool: Any, run: Any) -> None:
    """After close nothing of the listener is left, whoever was connected; closing twice is fine."""

    async def main() -> None:
        async with open_port() as worker:
            member = await dial_pool(worker.url)
            stranger = await connect(
                f"{worker.url}{PATH}", ssl=client_context(), proxy=None, subprotocols=[SUBPROTOCOL]
            )
            await worker.accepted.get()
            await worker.server.close()
            with pytest.raises(ConnectionError):
                await member.channel.recv()
            await member.channel.close()
            await stranger.wait_closed()
            await worker.server.close()
            with pytest.raises(ConnectError, match="nothing listens"):
                await dial_pool(worker.url)

    run(main)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_a_unix_socket_instead_of_a_port(run: Any) -> None:
    """It is reached by a tunnel, with TLS and proof as on a port, and takes the place of a socket that was left."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/socket"
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(path)

            async def tunnel(seconds: float) -> socket.socket:
                sock = socket.socket(socket.AF_UNIX)
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, path)
                return sock

            address = WorkerURL("localhost", 0, path=path, scheme="unix")
            server = await listen(address, token=TOKEN, role="worker", info=lambda _: WORKER, on_connection=ignore)
            assert server.url == f"unix:{path}"
            there = WorkerURL("localhost", 22, shown="ssh://gpu1")
            ours = await dial(there, token=TOKEN, role="pool", info=POOL, hop=FirstHop(tunnel=tunnel))
            assert ours.peer_info == WORKER
            assert ours.channel.peer == "ssh://gpu1"
            assert not ours.through_hop
            assert ours.remote is None
            await ours.channel.close()
            with pytest.raises(AuthenticationError, match=r"ssh://gpu1: .*wrong token"):
                await dial(there, token=Secret(b"u" * 32), role="pool", info=POOL, hop=FirstHop(tunnel=tunnel))
            await server.close()

    run(main)
