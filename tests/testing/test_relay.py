"""Tests of distmap/testing/relay.py: each fault does what it says, to plain TCP connections."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from support.echo import Echo, read
from support.waiting import until

from distmap.testing.relay import Relay

Dial = Callable[[], socket.socket]


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server


@pytest.fixture
def relay(echo: Echo) -> Iterator[Relay]:
    with Relay("127.0.0.1", echo.port) as relay:
        yield relay


@pytest.fixture
def dial(relay: Relay) -> Iterator[Dial]:
    """Connects to the relay; a wait for an answer has 10 s."""
    made: list[socket.socket] = []

    def dial() -> socket.socket:
        made.append(socket.create_connection(("127.0.0.1", relay.port), 10))
        return made[-1]

    yield dial
    for connection in made:
        connection.close()


def is_silent(connection: socket.socket) -> bool:
    """Nothing comes for a moment, and nothing ends."""
    connection.settimeout(0.1)
    try:
        return connection.recv(1) is None
    except TimeoutError:
        return True
    finally:
        connection.settimeout(10)


def test_bytes_pass_both_ways_and_are_counted(relay: Relay, dial: Dial) -> None:
    """Two connections at once, each with its own bytes."""
    one, other = dial(), dial()
    one.sendall(b"one")
    other.sendall(b"other")
    assert (read(one, 3), read(other, 5)) == (b"one", b"other")
    until(lambda: relay.bytes_passed == {"to_target": 8, "to_client": 8}, what="both are counted")
    assert (relay.connections, relay.accepted, relay.resets) == (2, 2, 0)
    assert relay.url == f"wss://127.0.0.1:{relay.port}"


def test_a_reset_ends_all_connections_on_both_sides(relay: Relay, dial: Dial, echo: Echo) -> None:
    """Both sides see a reset, no orderly end; a new connection is taken."""
    connections = [dial(), dial()]
    for connection in connections:
        connection.sendall(b"x")
        read(connection, 1)
    relay.reset()
    for connection in connections:
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    echo.wait(ends=2)
    assert echo.ends == ["ConnectionResetError"] * 2
    assert (relay.connections, relay.resets) == (0, 2)
    again = dial()
    again.sendall(b"again")
    assert read(again, 5) == b"again"


def test_a_cut_refuses_until_it_is_restored(relay: Relay, dial: Dial) -> None:
    """Old connections are reset, new ones refused; afterwards the port is the same."""
    old, port = dial(), relay.port
    old.sendall(b"x")
    read(old, 1)
    for _ in range(2):  # telling it twice changes nothing
        relay.cut()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
        with pytest.raises(ConnectionRefusedError):
            dial()
        relay.restore()
        relay.restore()
        assert relay.port == port
        old = dial()
        old.sendall(b"x")
        assert read(old, 1) == b"x"


def test_silence_passes_nothing_and_closes_nothing(relay: Relay, dial: Dial, echo: Echo) -> None:
    """Neither bytes nor ends pass, in both directions; what was sent meanwhile comes afterwards."""
    old = dial()
    old.sendall(b"a")
    read(old, 1)
    relay.silence()
    old.sendall(b"b")
    old.shutdown(socket.SHUT_WR)
    new = dial()
    new.sendall(b"c")
    assert is_silent(old)
    assert is_silent(new)
    assert (bytes(echo.received), echo.ends) == (b"a", [])
    relay.speak()
    assert (read(old, 1), read(new, 1)) == (b"b", b"c")
    assert old.recv(1) == b""


def test_a_silent_relay_can_be_reset(relay: Relay, dial: Dial) -> None:
    """A fault that comes in another one ends the connections that wait in it."""
    old = dial()
    relay.silence()
    new = dial()
    until(lambda: relay.connections == 2, what="the relay has taken both")
    relay.reset()
    for connection in (old, new):
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_one_direction_alone_can_stop(relay: Relay, dial: Dial, echo: Echo) -> None:
    """The target hears, and is not heard."""
    connection = dial()
    relay.one_way("to_client")
    connection.sendall(b"abc")
    echo.wait(size=3)
    assert is_silent(connection)
    relay.speak()
    assert read(connection, 3) == b"abc"
    relay.one_way("to_target")
    connection.sendall(b"def")
    assert is_silent(connection)
    assert bytes(echo.received) == b"abc"
    relay.speak()
    assert read(connection, 3) == b"def"


def test_a_relay_finds_its_target_by_url(echo: Echo) -> None:
    """The URL that a worker prints is enough."""
    with (
        Relay.before(f"wss://127.0.0.1:{echo.port}", slice=1) as relay,
        socket.create_connection(("127.0.0.1", relay.port), 10) as connection,
    ):
        connection.sendall(b"abc")
        assert read(connection, 3) == b"abc"
        assert repr(relay).startswith(f"<Relay on port {relay.port}: 1 connections")


def test_a_closed_relay_is_gone(echo: Echo) -> None:
    """Its connections are reset, its port refuses, and closing again is fine."""
    relay = Relay("127.0.0.1", echo.port)
    with socket.create_connection(("127.0.0.1", relay.port), 10) as connection:
        connection.sendall(b"x")
        read(connection, 1)
        relay.close()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", relay.port), 10)
    relay.close()


def test_a_host_without_a_name_is_an_error() -> None:
    """A target that does not resolve is told at once, and nothing is left."""
    with pytest.raises(OSError, match=r"[Nn]ame"):
        Relay("no-such-host.invalid", 1)
