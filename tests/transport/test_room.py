"""The address of a relay, and the way into a room of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.relays import Guest, relaying_at
from support.services import free_port
from support.waiting import eventually
from websockets.asyncio.server import serve

from distmap.core.relay_limits import RELAY
from distmap.errors import ConnectError
from distmap.transport import room as module
from distmap.transport.dial import open_link
from distmap.transport.first_hop import FirstHop
from distmap.transport.room import Room, parse_relay, shown
from distmap.transport.token import Secret
from distmap.wire import relaying

TOKEN = Secret(b"t" * 32)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("wss://relay.example", "wss://relay.example:443"),
        ("wss://relay.example/", "wss://relay.example:443"),
        ("https://relay.example/", "wss://relay.example:443"),
        ("wss://relay.example:8787", "wss://relay.example:8787"),
        (" wss://relay.example/a/b/ ", "wss://relay.example/a/b"),
        ("ws://127.0.0.1:8787", "ws://127.0.0.1:8787"),
        ("ws://lab7/r", "ws://lab7/r"),
        ("wss://relay.example/?room=night-run.2", "wss://relay.example:443?room=night-run.2"),
        ("wss://hub.example/user/ann/proxy/8787?room=b", "wss://hub.example/user/ann/proxy/8787?room=b"),
    ],
)
def test_an_address(text: str, url: str) -> None:
    """The port is that of HTTPS, and what is shown is understood again."""
    assert shown(parse_relay(text)) == url
    assert shown(parse_relay(url)) == url


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("relay.example", "no wss:// URL"),
        ("wss://relay.example/?rooms=a", r"takes \?room=NAME and nothing else; got 'rooms'"),
        ("wss://relay.example/?room=", "the name of a room is 1 to 64"),
        ("wss://relay.example/?room=a%20b", "got 'a b'"),
        (f"wss://relay.example/?room={'x' * 65}", "the name of a room is 1 to 64"),
        ("wss://relay.example/?token=dm1_x", "holds a token"),
    ],
)
def test_what_is_no_address(text: str, sentence: str) -> None:
    """A misspelled option would lead the two sides into different rooms: it is an error."""
    with pytest.raises(ConnectError, match=sentence):
        parse_relay(text)


def test_a_room_depends_on_the_token_and_its_name_only() -> None:
    """Both sides come to the same room; no part of the token can be seen in it."""
    other = Secret(b"o" * 32)
    rooms = {TOKEN.room(), TOKEN.room("a"), TOKEN.room("b"), other.room(), other.room("a")}
    assert len(rooms) == 5
    assert TOKEN.room("a") == Secret(b"t" * 32).room("a")
    for room in rooms:
        assert len(room) == 32
        assert TOKEN.kid not in room
    assert "dm1_" not in repr(Room(TOKEN, parse_relay("wss://relay.example"), "pool"))


async def entered(url: str, room: Room, patience: float | None = None) -> relaying.Notice:
    """What comes of going there."""
    link = await open_link(parse_relay(url), 10, FirstHop(room=room), True)
    try:
        assert set(room.underway) == {link}
        return await room.enter(link, patience)
    finally:
        link.transport.abort()
        await link.wait_closed()


def room_at(url: str, side: relaying.Side = "worker", **options: Any) -> Room:
    return Room(TOKEN, parse_relay(url), side, **options)


def test_both_sides_meet(run: Any) -> None:
    """Whoever comes first waits, and hears so once."""

    async def main() -> None:
        async with relaying_at() as url:
            waited: list[bool] = []
            worker, pool = room_at(url, on_waiting=waited.append), room_at(url, "pool")
            first = asyncio.create_task(entered(url, worker))
            await eventually(lambda: waited)
            assert len(worker.underway) == 1
            assert await entered(url, pool) == relaying.Notice("paired")
            assert await first == relaying.Notice("paired")
            assert waited == [False]

    run(main)


def test_nobody_comes(run: Any) -> None:
    """After its patience a worker says so, with the name of the room; when it waits again it is known that it does."""

    async def main() -> None:
        async with relaying_at() as url:
            waited: list[bool] = []
            worker = room_at(f"{url}?room=night", patience=0.1, on_waiting=waited.append)
            for _ in range(2):
                with pytest.raises(ConnectError, match="no pool with this token came to the relay in the room 'night'"):
                    await entered(url, worker)
            assert waited == [False, True]
            assert not worker.underway

    run(main)


def test_two_pools_with_one_token(run: Any) -> None:
    """The second one is told to use a room of its own, which it can."""

    async def main() -> None:
        async with relaying_at() as url:
            waits = asyncio.Event()
            room = room_at(url, "pool", on_waiting=lambda again: waits.set())
            first = asyncio.create_task(entered(url, room, 20.0))
            await waits.wait()
            with pytest.raises(ConnectError, match=r"another pool with this token uses the relay.*\?room=NAME"):
                await entered(url, room_at(url, "pool"))
            with pytest.raises(ConnectError, match="no worker with this token came"):
                await entered(url, room_at(f"{url}?room=second", "pool"), 0.1)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    run(main)


@pytest.mark.parametrize(
    ("allowed", "sentence"),
    [
        ({"rooms": 1}, "as many rooms as it allows"),
        ({"room_connections": 1, "rooms": 1}, "as many connections as the relay allows"),
        ({"connections": 1}, "does not take connections now .HTTP 503: distmap-relay has all the connections"),
    ],
)
def test_a_relay_that_is_full(allowed: dict[str, int], sentence: str, run: Any) -> None:
    """The sentence names the limit, so that who runs the relay can raise it."""

    async def main() -> None:
        async with relaying_at(**allowed) as url:
            room = TOKEN.room() if "room_connections" in allowed else "e" * 32
            await (await Guest.worker(url, room)).notice()
            with pytest.raises(ConnectError, match=sentence):
                await entered(url, room_at(url))

    run(main)


def test_a_relay_that_goes(run: Any) -> None:
    """Its last words are shown."""

    async def main() -> None:
        waiting = asyncio.Event()
        async with relaying_at() as url:
            room = room_at(url, on_waiting=lambda again: waiting.set())
            entering = asyncio.create_task(entered(url, room))
            await waiting.wait()
        with pytest.raises(ConnectError, match="the relay ended the connection: the relay is stopping"):
            await entering

    run(main)


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        ([], "says nothing; is it distmap-relay"),
        ([relaying.WAITING], "the relay has been silent for 0.4 s"),
        (["hello"], "no text of a relay"),
        ([b"\x16"], "a short text was expected"),
        ([relaying.write_refused("no more \x1b[2J today")], r"the relay refused this side: no more \[2J today"),
        ([None], "the connection ended before a relay answered"),
    ],
)
def test_what_only_looks_like_a_relay(
    says: list[Any], sentence: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence and nonsense end with a sentence, and never in a wait without end."""
    monkeypatch.setattr(module, "RELAY", RELAY._replace(join=0.3, silence=0.4))

    async def handle(link: Any) -> None:
        await link.recv()
        for text in says:
            if text is None:
                return
            await link.send(text)
        await link.wait_closed()

    async def main() -> None:
        async with serve(handle, "127.0.0.1", 0, subprotocols=[relaying.SUBPROTOCOL]) as server:  # type: ignore[list-item]
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(ConnectError, match=sentence):
                await entered(url, room_at(url))

    run(main)


def test_what_is_no_relay(run: Any, open_port: Any, unused: Any) -> None:
    """A worker's port, a path where nothing is and a port where nobody listens: each has its sentence."""

    async def main() -> None:
        async with open_port(address="ws://127.0.0.1:0") as worker:
            with pytest.raises(ConnectError, match=r"no distmap-relay answers there \(HTTP 404\); check the path"):
                await entered(str(worker.url), room_at(str(worker.url)))
        with pytest.raises(ConnectError, match=r"nothing listens on port \d+ of 127\.0\.0\.1 .*start distmap-relay"):
            await entered(unused, room_at(unused))

    run(main)


@pytest.fixture
def unused() -> str:
    """The address of a port where nobody listens."""
    return f"ws://127.0.0.1:{free_port()}"
