"""A relay pairs two connections, forwards what it cannot read, and takes no more than it allows."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.relays import OTHER_POOL, OTHER_ROOM, ROOM, Guest, relaying_at
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from distmap.core.limits import LIMITS
from distmap.core.relay_limits import RELAY
from distmap.relay import relay as module
from distmap.relay.relay import Relay
from distmap.wire.relaying import WAITING, Notice


@pytest.fixture
def run() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine in a loop of its own, and fails if it leaves a task behind."""

    async def watched(main: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.timeout(15):
            await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    return lambda main: asyncio.run(watched(main))


def limits(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    ours = {name: changed.pop(name) for name in list(changed) if name in RELAY._fields}
    monkeypatch.setattr(module, "RELAY", RELAY._replace(**ours))
    monkeypatch.setattr(module, "LIMITS", LIMITS._replace(**{"close_timeout": 0.2, **changed}))


async def paired(url: str) -> tuple[Guest, Guest]:
    """A pool and a worker that have been told of each other."""
    pool = await Guest.pool(url)
    assert await pool.notice() == Notice("waiting")
    worker = await Guest.worker(url)
    assert await worker.notice() == Notice("paired")
    assert await pool.notice() == Notice("paired")
    return pool, worker


def test_messages_are_forwarded_both_ways(run: Any) -> None:
    """In their order and as they are, whatever is in them; a text on its way is not for the other side."""

    async def main() -> None:
        async with relaying_at() as url:
            pool, worker = await paired(url)
            for sender, receiver in ((pool, worker), (worker, pool)):
                sent = [b"", b"\x00\xff", bytes(LIMITS.websocket_bytes)]
                await sender.link.send(WAITING)
                for message in sent:
                    await sender.link.send(message)
                assert [await receiver.link.recv() for _ in sent] == sent

    run(main)


def test_a_worker_that_waits_is_paired_when_its_pool_comes(run: Any) -> None:
    """The pool is told how many more there are."""

    async def main() -> None:
        async with relaying_at() as url:
            workers = []
            for _ in range(3):
                workers.append(await Guest.worker(url))
                assert await workers[-1].notice() == Notice("waiting")
            pool = await Guest.pool(url)
            assert await pool.notice() == Notice("paired", workers=2)
            assert await workers[0].notice() == Notice("paired"), "who came first is the first"
            await pool.link.send(b"for you")
            assert await workers[0].link.recv() == b"for you"

    run(main)


def test_the_newest_spare_is_taken(run: Any) -> None:
    """It is the least likely to be dead without a sign."""

    async def main() -> None:
        async with relaying_at() as url:
            spares = [await Guest.pool(url) for _ in range(2)]
            for spare in spares:
                assert await spare.notice() == Notice("waiting")
            worker = await Guest.worker(url)
            assert await worker.notice() == Notice("paired")
            assert await spares[1].notice() == Notice("paired")

    run(main)


def test_rooms_are_apart(run: Any) -> None:
    """A worker of another room waits for its own pool."""

    async def main() -> None:
        async with relaying_at() as url:
            pool, worker = await Guest.pool(url), await Guest.worker(url, OTHER_ROOM)
            assert await pool.notice() == Notice("waiting")
            assert await worker.notice() == Notice("waiting")
            other = await Guest.pool(url, OTHER_ROOM, OTHER_POOL)
            assert await worker.notice() == Notice("paired")
            assert await other.notice() == Notice("paired")

    run(main)


def test_a_room_belongs_to_one_pool(run: Any) -> None:
    """Another pool is refused until the first one has left, also while that has no connection to spare."""

    async def main() -> None:
        async with relaying_at() as url:
            first, worker = await paired(url)
            second = await Guest.pool(url, pool=OTHER_POOL)
            assert await second.notice() == Notice("refused", reason="taken")
            await second.closed()
            await first.link.close()
            await worker.closed()
            third = await Guest.pool(url, pool=OTHER_POOL)
            assert await third.notice() == Notice("waiting")

    run(main)


def test_a_room_whose_pool_is_silent_is_given_to_another_one(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool whose machine is gone, which nothing has told the relay, does not keep its successor out."""
    limits(monkeypatch, silence=0.0)

    async def main() -> None:
        async with relaying_at() as url:
            first = await Guest.pool(url)
            assert await first.notice() == Notice("waiting")
            second = await Guest.pool(url, pool=OTHER_POOL)
            assert await second.notice() == Notice("waiting")
            await first.closed()
            worker = await Guest.worker(url)
            assert await worker.notice() == Notice("paired")
            assert await second.notice() == Notice("paired")

    run(main)


@pytest.mark.parametrize("leaving", ["pool", "worker"])
@pytest.mark.parametrize(("code", "told"), [(4401, 4401), (1000, 1000), (1011, 1001)])
def test_who_is_left_alone_is_told(leaving: str, code: int, told: int, run: Any) -> None:
    """The codes of the two ends pass; of others it hears that the connection of the other side ended."""

    async def main() -> None:
        async with relaying_at() as url:
            pool, worker = await paired(url)
            leaves, stays = (pool, worker) if leaving == "pool" else (worker, pool)
            await leaves.link.send(b"last words")
            await leaves.link.close(code)
            assert await stays.link.recv() == b"last words"
            assert (await stays.closed())[0] == told

    run(main)


def test_a_worker_that_finds_a_dead_connection_is_told(run: Any) -> None:
    """It is no part of a pair with nobody, so it can dial again."""

    async def main() -> None:
        async with relaying_at() as url:
            pool, worker = await paired(url)
            pool.link.transport.abort()
            assert (await worker.closed())[0] == 1006

    run(main)


@pytest.mark.parametrize(
    ("allowed", "reason"), [({"rooms": 1}, "rooms"), ({"room_connections": 1, "rooms": 2}, "full")]
)
def test_more_than_is_allowed(allowed: dict[str, int], reason: str, run: Any) -> None:
    """One too many is refused with the limit that it is about; when another one has left it is taken."""

    async def main() -> None:
        async with relaying_at(**allowed) as url:
            first = await Guest.worker(url)
            assert await first.notice() == Notice("waiting")
            room = OTHER_ROOM if reason == "rooms" else ROOM
            second = await Guest.worker(url, room)
            assert await second.notice() == Notice("refused", reason=reason)
            await first.link.close()
            await second.closed()
            third = await Guest.worker(url, room)
            assert await third.notice() == Notice("waiting")

    run(main)


def test_more_connections_than_are_allowed(run: Any) -> None:
    """They get an answer of HTTP, which says so."""

    async def main() -> None:
        async with relaying_at(connections=1) as url:
            await (await Guest.worker(url)).notice()
            with pytest.raises(InvalidStatus) as failed:
                await Guest.at(url)
            assert failed.value.response.status_code == 503
            assert b"all the connections it allows" in bytes(failed.value.response.body or b"")

    run(main)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/distmap/1", {}, 404), ("/", {}, 404), ("/distmap-relay/1", {"Origin": "https://evil.example"}, 403)],
)
def test_who_is_no_guest(path: str, headers: dict[str, str], status: int, run: Any) -> None:
    """A worker's own path, a browser's start page and a web page are refused."""

    async def main() -> None:
        async with relaying_at() as url:
            with pytest.raises(InvalidStatus) as failed:
                await Guest.at(url, path, additional_headers=headers)
            assert failed.value.response.status_code == status

    run(main)


def test_a_proxy_may_leave_its_path(run: Any) -> None:
    """What stands before our own path does not matter, nor does what stands behind it."""

    async def main() -> None:
        async with relaying_at() as url:
            await Guest.at(url, "/prefix/of/a/proxy/distmap-relay/1?trace=1")

    run(main)


@pytest.mark.parametrize("message", ["nonsense", b"\x00", "x" * 10_000])
def test_a_guest_that_says_something_else_first(message: str | bytes, run: Any) -> None:
    """It is refused with a sentence, and its connection ends."""

    async def main() -> None:
        async with relaying_at() as url:
            guest = await Guest.at(url)
            await guest.link.send(message)
            assert await guest.notice() == Notice("refused", reason="join")
            assert (await guest.closed())[0] == 1008

    run(main)


def test_a_guest_that_speaks_with_nobody_there(run: Any) -> None:
    """What it sends before it is paired would have to be kept, so it is refused."""

    async def main() -> None:
        async with relaying_at() as url:
            pool = await Guest.pool(url)
            await pool.notice()
            await pool.link.send(b"hello?")
            assert await pool.notice() == Notice("refused", reason="join")

    run(main)


def test_a_guest_that_sends_long_texts(run: Any) -> None:
    """Texts count for no rate, so they are short."""

    async def main() -> None:
        async with relaying_at() as url:
            pool, worker = await paired(url)
            await pool.link.send("x" * (RELAY.text + 1))
            assert (await pool.closed())[0] == 1008
            await worker.closed()

    run(main)


def test_a_guest_that_says_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to name its room in time."""
    limits(monkeypatch, join=0.2)

    async def main() -> None:
        async with relaying_at() as url:
            guest = await Guest.at(url)
            assert (await guest.closed())[0] == 1008

    run(main)


def test_who_waits_gets_signs_of_life(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again while it answers, so that no proxy takes the connection for idle; the pair gets none."""
    limits(monkeypatch, beat=0.05)

    async def main() -> None:
        async with relaying_at() as url:
            pool = await Guest.pool(url)
            for _ in range(4):
                assert await pool.notice() == Notice("waiting")
                await pool.link.send(WAITING)
            worker = await Guest.worker(url)
            assert await worker.notice() == Notice("paired")
            while (notice := await pool.notice()) == Notice("waiting"):
                pass
            assert notice == Notice("paired")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.link.recv(), 0.3)

    run(main)


def test_who_waits_and_is_silent_is_given_up(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine may be gone without a sign, and a worker must not be led there."""
    limits(monkeypatch, beat=0.05, silence=0.2)

    async def main() -> None:
        async with relaying_at() as url:
            pool = await Guest.pool(url)
            assert (await pool.closed())[0] == 1006

    run(main)


@pytest.mark.parametrize("most", [64 << 10, 1 << 40], ids=["memory", "clock"])
def test_who_takes_no_answers_holds_nobody_up(most: int, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings whose answers are not taken end the connection; the relay goes on to tell others that it is there."""
    beat = 0.05 if most > LIMITS.untaken_bytes else 60.0
    limits(monkeypatch, beat=beat, untaken_bytes=most)
    pings = 4000 * Frame(Opcode.PING, bytes(125)).serialize(mask=True)

    async def main() -> None:
        async with relaying_at() as url:
            enemy = await Guest.worker(url, OTHER_ROOM)
            assert await enemy.notice() == Notice("waiting")
            writer = enemy.link.transport
            writer.pause_reading()
            if most < LIMITS.untaken_bytes:  # so that the buffers of the system are full soon, on a slow machine too
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            async with asyncio.timeout(15):
                while not writer.is_closing():
                    if writer.get_write_buffer_size() < len(pings):
                        writer.write(pings)
                    await asyncio.sleep(0)
            if most > LIMITS.untaken_bytes:
                guest = await Guest.pool(url)
                for _ in range(3):
                    assert await guest.notice() == Notice("waiting")

    run(main)


def test_a_side_that_takes_nothing_stops_the_other(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay reads no further than a few messages: its memory is bounded."""
    limits(monkeypatch)
    size = 256 << 10

    async def main() -> None:
        async with relaying_at() as url:
            pool, worker = await paired(url)
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while True:
                    await worker.link.send(bytes(size))
                    sent += 1

            flooding = asyncio.create_task(flood())
            before = -1
            while sent != before:  # until nothing has moved for a while
                before = sent
                await asyncio.sleep(0.3)
            # What the two clients and the system hold is in it: megabytes of sockets on loopback.
            assert sent * size < 64 << 20
            for _ in range(sent):
                assert len(await pool.link.recv()) == size
            assert not flooding.done()
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
            for guest in (pool, worker):
                guest.link.transport.abort()
                await guest.closed()

    run(main)


def test_who_sends_too_fast_waits(run: Any) -> None:
    """Beyond the rate the relay reads no more for as long as that takes; here, for the rest of the test."""

    async def main() -> None:
        async with relaying_at(rate=10.0) as url:
            pool, worker = await paired(url)
            await worker.link.send(bytes(1000))
            await worker.link.send(b"later")
            assert len(await pool.link.recv()) == 1000
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.link.recv(), 0.3)

    run(main)


def test_a_side_that_never_takes_anything_is_given_up(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message does not wait for ever."""
    limits(monkeypatch, stall=0.2)

    async def main() -> None:
        async with relaying_at() as url:
            pool, worker = await paired(url)

            async def flood() -> None:
                while True:
                    await worker.link.send(bytes(256 << 10))

            with pytest.raises(ConnectionClosed):
                await flood()
            assert worker.link.close_code == 1008
            pool.link.transport.abort()

    run(main)


def test_a_relay_that_stops_says_so(run: Any) -> None:
    """Those who wait and those who are paired are told, so that they dial again."""

    async def main() -> None:
        relay = Relay()
        url = f"ws://127.0.0.1:{await relay.open('127.0.0.1', 0)}"
        pool, worker = await paired(url)
        spare = await Guest.pool(url)
        await spare.notice()
        await asyncio.gather(relay.close(), *(guest.link.wait_closed() for guest in (pool, worker, spare)))
        for guest in (pool, worker, spare):
            assert await guest.closed() == (1012, "the relay is stopping")
        with pytest.raises(OSError, match="Connect call failed"):
            await Guest.at(url)
        await relay.close()  # twice is fine

    run(main)


def test_the_log_names_no_room_in_full(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Who reads the log learns who came and left, and cannot enter the room by it."""
    caplog.set_level("INFO")

    async def main() -> None:
        async with relaying_at() as url:
            pool, worker = await paired(url)
            await worker.link.close()
            await pool.closed()

    run(main)
    assert "a pool has come" in caplog.text
    assert "a worker is paired" in caplog.text
    assert "a worker has left" in caplog.text
    assert ROOM[:8] in caplog.text
    assert ROOM not in caplog.text
