"""A pool's connections at a relay: enough of them, and as good as those that are taken at a port."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import certificate
from support.relays import Guest, relaying_at
from support.waiting import eventually

from distmap.core.limits import LIMITS
from distmap.core.relay_limits import RELAY
from distmap.errors import AuthenticationError, ConnectError, DistmapError
from distmap.relay import relay as relay_module
from distmap.relay.relay import Relay
from distmap.testing.channels import CHECKS, Check
from distmap.transport import spares as module
from distmap.transport.channel import Connection
from distmap.transport.dial import dial
from distmap.transport.first_hop import FirstHop
from distmap.transport.listen import Acceptor
from distmap.transport.room import Room, parse_relay
from distmap.transport.spares import Spares
from distmap.transport.tls import client_context, server_context
from distmap.transport.token import Secret
from distmap.wire import handshake, relaying

TOKEN = Secret(b"t" * 32)
DIRECT = FirstHop()
POOL = {"name": "nb", "python": "3.13"}
WORKER = {"name": "gpu1", "slots": 2, "python": "3.13"}


class Waiting:
    """A pool that waits at a relay."""

    def __init__(self, url: str, token: Secret = TOKEN, hop: FirstHop = DIRECT) -> None:
        self.accepted: asyncio.Queue[Connection] = asyncio.Queue()
        self.refused: asyncio.Queue[str] = asyncio.Queue()
        self.errors: dict[str, str] = {}
        acceptor = Acceptor(
            token, "pool", server_context(), True, lambda theirs: POOL, self.accept, self.refused.put_nowait
        )
        self.spares = Spares(parse_relay(url), hop, acceptor, token=token, errors=self.errors)

    async def accept(self, connection: Connection) -> None:
        self.accepted.put_nowait(connection)


@contextlib.asynccontextmanager
async def pool_at(url: str, token: Secret = TOKEN, hop: FirstHop = DIRECT) -> AsyncIterator[Waiting]:
    pool = Waiting(url, token, hop)
    pool.spares.start()
    try:
        yield pool
    finally:
        await pool.spares.close()
        while not pool.accepted.empty():
            pool.accepted.get_nowait().channel.abort()


async def worker_at(url: str, token: Secret = TOKEN, **options: Any) -> Connection:
    relay = parse_relay(url)
    hop = FirstHop(room=Room(token, relay, "worker", patience=10))
    return await dial(relay, **{"token": token, "role": "worker", "info": WORKER, "hop": hop, **options})


@pytest.mark.parametrize(
    ("check", "seen_from"),
    [pytest.param(check, ("pool", "worker")[at % 2], id=check.__name__) for at, check in enumerate(CHECKS)],
)
def test_contract(check: Check, seen_from: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel through a relay keeps the contract of every channel."""
    monkeypatch.setattr(relay_module, "LIMITS", LIMITS._replace(close_timeout=0.2))

    async def main() -> None:
        async with relaying_at() as url, pool_at(url) as pool:
            worker = await worker_at(url)
            ours = await pool.accepted.get()
            ends = (ours.channel, worker.channel) if seen_from == "pool" else (worker.channel, ours.channel)
            await check(*ends)
            for end in ends:
                end.abort()

    run(main)


def test_both_know_each_other_and_that_there_is_a_hop(run: Any) -> None:
    """They have one session, and the infos of each other."""

    async def main() -> None:
        async with relaying_at() as url, pool_at(url) as pool:
            worker = await worker_at(url)
            ours = await pool.accepted.get()
            assert (ours.peer_info["name"], worker.peer_info["name"]) == ("gpu1", "nb")
            assert ours.session == worker.session
            assert ours.through_hop
            assert worker.through_hop
            assert pool.errors == {}
            worker.channel.abort()

    run(main)


def test_many_workers_at_once(run: Any) -> None:
    """Far more than there are spares wait for the pool; all are let in, and a few spares are left at the end."""

    async def main() -> None:
        async with relaying_at() as url:
            workers = [asyncio.create_task(worker_at(url)) for _ in range(40)]
            async with pool_at(url) as pool:
                await asyncio.gather(*workers)
                assert pool.accepted.qsize() == 40
                await eventually(lambda: pool.spares._free == RELAY.spares)
                await eventually(lambda: len(pool.spares._tasks) == RELAY.spares)
            for worker in workers:
                worker.result().channel.abort()

    run(main)


def test_the_relay_is_away_for_a_while(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is told for as long as it is so; the pool comes back by itself."""
    monkeypatch.setattr(module, "RELAY", RELAY._replace(redial=0.1))

    async def main() -> None:
        relay = Relay()
        port = await relay.open("127.0.0.1", 0)
        url = f"ws://127.0.0.1:{port}"
        async with pool_at(url) as pool:
            await pool.spares.tried.wait()
            assert pool.errors == {}
            await relay.close()
            await eventually(lambda: pool.errors)
            await eventually(lambda: "start distmap-relay there" in pool.errors[url])
            relay = Relay()
            await relay.open("127.0.0.1", port)
            worker = await worker_at(url)
            assert pool.errors == {}
            worker.channel.abort()
            await relay.close()

    run(main)


def test_a_relay_that_refuses(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second pool says why it gets no workers, and takes the room when the first one has gone."""
    monkeypatch.setattr(module, "RELAY", RELAY._replace(redial=0.1))

    async def main() -> None:
        async with relaying_at() as url, pool_at(url) as first:
            await first.spares.tried.wait()
            async with pool_at(url) as second:
                await second.spares.tried.wait()
                assert "another pool with this token uses the relay" in second.errors[url]
                await first.spares.close()
                worker = await worker_at(url)
                assert second.accepted.qsize() == 1
                await eventually(lambda: second.errors == {})
                worker.channel.abort()

    run(main)


def test_why_a_worker_was_refused_stays_known(run: Any) -> None:
    """A spare that waits is no reason to forget it."""

    async def main() -> None:
        async with relaying_at() as url, pool_at(url) as pool:
            await pool.spares.tried.wait()
            pool.errors[url] = "the worker runs Python 3.9"
            await eventually(lambda: pool.spares._free == RELAY.spares)
            pool.spares._waits()
            assert pool.errors == {url: "the worker runs Python 3.9"}

    run(main)


def test_another_token_is_another_room(run: Any) -> None:
    """The two never meet: the worker waits in vain."""

    async def main() -> None:
        async with relaying_at() as url, pool_at(url) as pool:
            relay, other = parse_relay(url), Secret(b"o" * 32)
            hop = FirstHop(room=Room(other, relay, "worker", patience=0.2))
            with pytest.raises(ConnectError, match="no pool with this token came"):
                await dial(relay, token=other, role="worker", info=WORKER, hop=hop)
            assert pool.refused.empty()

    run(main)


# --- a relay that attacks ---------------------------------------------------------------------------------------------


class WrongRoom(Relay):
    """Leads everybody into one room, whatever they say."""

    def _enter(self, guest: Any, join: relaying.Join) -> str | None:
        return super()._enter(guest, join._replace(room="f" * 32))


class OneSide(Relay):
    """Pairs two of one kind: it takes each second one for the other kind."""

    turn = 0

    def _enter(self, guest: Any, join: relaying.Join) -> str | None:
        self.turn += 1
        side: relaying.Side = "pool" if self.turn % 2 else "worker"
        return super()._enter(guest, join._replace(side=side, pool="f" * 32))


@contextlib.asynccontextmanager
async def attacking(kind: type[Relay]) -> AsyncIterator[str]:
    relay = kind()
    port = await relay.open("127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{port}"
    finally:
        await relay.close()


def test_a_relay_that_joins_strangers(run: Any) -> None:
    """The worker of somebody else proves nothing to the pool, and the pool nothing to it."""

    async def main() -> None:
        async with attacking(WrongRoom) as url, pool_at(url) as pool:
            with pytest.raises(AuthenticationError, match="wrong token"):
                await worker_at(url, Secret(b"o" * 32))
            assert "wrong token, refused" in await asyncio.wait_for(pool.refused.get(), 10)
            assert pool.accepted.empty()

    run(main)


def test_a_relay_that_joins_two_pools(run: Any) -> None:
    """Each waits for a dialer, and refuses what is none."""

    async def main() -> None:
        async with attacking(OneSide) as url, pool_at(url) as pool:
            sentence = await asyncio.wait_for(pool.refused.get(), 10)
            assert "it takes TLS inside the messages only" in sentence or "left during the handshake" in sentence
            assert pool.accepted.empty()

    run(main)


def test_a_relay_that_joins_two_workers(run: Any) -> None:
    """Both wait for a HELLO, and give up."""

    async def main() -> None:
        async with attacking(OneSide) as url:
            both = await asyncio.gather(*(worker_at(url, timeout=0.5) for _ in range(2)), return_exceptions=True)
            for error in both:
                assert isinstance(error, ConnectError), error

    run(main)


def test_a_dialer_without_tls_inside(run: Any, tmp_path: Path) -> None:
    """Who holds the token and leaves out the TLS inside the messages is refused: the relay could read along."""
    shown = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.cert, shown.key)

    async def main() -> None:
        async with relaying_at(context) as url, pool_at(url, hop=FirstHop(ca=shown.ca)) as pool:
            guest = await Guest.worker(url, TOKEN.room(), ssl=client_context())
            while (await guest.notice()).kind != "paired":
                pass
            hello = await guest.link.recv()
            assert isinstance(hello, bytes)
            side = handshake.Dialer(
                kid=TOKEN.kid,
                token=TOKEN.material(),
                role="worker",
                nonce=b"n" * handshake.NONCE_BYTES,
                certificate=handshake.certificate_of(hello, "pool") or b"",
            )
            await guest.link.send(side.receive_hello(hello))
            assert "TLS inside the messages only" in await asyncio.wait_for(pool.refused.get(), 10)
            await guest.closed()
            assert pool.accepted.empty()

    run(main)


def test_what_a_relay_sees(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room, two HELLOs of the handshake in which nothing is secret, and ciphertext."""
    seen: list[bytes] = []
    forward = Relay._forward

    async def watched(self: Relay, guest: Any) -> None:
        recv = guest.recv

        async def noting(*args: Any) -> Any:
            message = await recv(*args)
            seen.append(message if isinstance(message, bytes) else message.encode())
            return message

        guest.recv = noting
        await forward(self, guest)

    monkeypatch.setattr(Relay, "_forward", watched)

    async def main() -> None:
        async with relaying_at() as url, pool_at(url) as pool:
            worker = await worker_at(url)
            ours = await pool.accepted.get()
            await ours.channel.send([b"only for the two ends" * 100])
            assert bytes(await worker.channel.recv()) == b"only for the two ends" * 100
            worker.channel.abort()

    run(main)
    assert len(seen) > 5
    everything = b"".join(seen)
    for secret in (b"only for", b"gpu1", TOKEN.material(), TOKEN.kid.encode(), TOKEN.reveal().encode()):
        assert secret not in everything


def test_errors_and_closing_leave_nothing(run: Any) -> None:
    """Closing at any moment ends every task."""

    async def main() -> None:
        async with relaying_at() as url:
            for seconds in (0.0, 0.005, 0.02):
                async with pool_at(url):
                    await asyncio.sleep(seconds)
        with contextlib.suppress(DistmapError):
            async with pool_at(url) as pool:
                await pool.spares.tried.wait()

    run(main)
