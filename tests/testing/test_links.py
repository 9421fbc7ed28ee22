"""Tests of distmap/testing/links.py: what happens to the bytes of one connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.echo import Echo, read

from distmap.testing.relay import Relay

Connect = Callable[..., tuple[Relay, socket.socket]]


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server


@pytest.fixture
def connect(echo: Echo) -> Iterator[Connect]:
    """A relay with these options before the echo, and a connection through it."""
    made: list[socket.socket | Relay] = []

    def connect(**options: object) -> tuple[Relay, socket.socket]:
        relay = Relay("127.0.0.1", echo.port, **options)  # type: ignore[arg-type]
        made.append(relay)
        connection = socket.create_connection(("127.0.0.1", relay.port), 10)
        made.append(connection)
        return relay, connection

    yield connect
    for one in reversed(made):
        one.close()


def test_megabytes_pass_unchanged_and_in_order(connect: Connect, echo: Echo) -> None:
    """More than all buffers hold, in both directions at once; the end of each direction passes by itself."""
    _, connection = connect(jitter=0.001)
    sent = bytes(range(251)) * 20_000
    sender = threading.Thread(target=connection.sendall, args=[sent])
    sender.start()
    found = read(connection, len(sent))
    sender.join(10)
    assert found == sent == bytes(echo.received)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""
    echo.wait(ends=1)
    assert echo.ends == ["end"]


def test_a_reset_of_one_side_is_passed_on(connect: Connect, echo: Echo) -> None:
    """The target hears of a client that reset its connection by a reset, not by an orderly end."""
    _, connection = connect()
    connection.sendall(b"x")
    read(connection, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    echo.wait(ends=1)
    assert echo.ends == ["ConnectionResetError"]


def test_a_target_that_does_not_listen_resets() -> None:
    """Who dials a relay whose target is down gets a reset, and the relay goes on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Relay("127.0.0.1", port) as relay:
        for _ in range(2):
            with (
                pytest.raises(ConnectionResetError),
                socket.create_connection(("127.0.0.1", relay.port), 10) as connection,
            ):
                connection.recv(1)


@pytest.mark.parametrize("at", [0, 1, 500, 999])
def test_one_bit_of_one_byte_is_flipped(at: int, connect: Connect, echo: Echo) -> None:
    """Of the byte that was named, once; all others arrive as they were."""
    relay, connection = connect()
    connection.sendall(b"before")
    read(connection, 6)
    flipped = relay.flip("to_target", at)
    sent = bytes(1000)
    connection.sendall(sent)
    found = read(connection, 1000)
    assert flipped.wait(10)
    [(where, byte)] = [pair for pair in enumerate(found) if pair[1]]
    assert (where, byte.bit_count()) == (at, 1)
    connection.sendall(sent)
    assert read(connection, 1000) == sent


def test_several_faults_at_one_byte_happen_all(connect: Connect) -> None:
    """Two flips and a stall at one place: none is forgotten."""
    relay, connection = connect(seed=1)
    events = [relay.flip("to_client", 3), relay.flip("to_client", 3), relay.stall_after(4, "to_client")]
    connection.sendall(bytes(10))
    read(connection, 4)
    assert all(event.wait(10) for event in events)
    relay.speak()
    assert read(connection, 6) == bytes(6)


def test_a_fault_that_has_not_come_can_be_forgotten(connect: Connect) -> None:
    """A mark that was not reached is taken back; its event is not set."""
    relay, connection = connect()
    events = [relay.cut_after(11, "to_target"), relay.flip("to_client", 10)]
    connection.sendall(bytes(10))
    assert read(connection, 10) == bytes(10)
    relay.forget()
    connection.sendall(bytes(10))
    assert read(connection, 10) == bytes(10)
    assert not any(event.is_set() for event in events)


@pytest.mark.parametrize("after", [0, 1, 700])
def test_a_cut_comes_after_exactly_so_many_bytes(after: int, connect: Connect, echo: Echo) -> None:
    """All bytes before it arrive, none behind it, and it happens once."""
    relay, connection = connect()
    cut = relay.cut_after(after, "to_target")
    connection.sendall(bytes(1000))
    assert cut.wait(10)
    with pytest.raises(ConnectionResetError):
        read(connection, 1000)
    echo.wait(ends=1)
    assert relay.bytes_passed["to_target"] == len(echo.received) == after
    assert relay.resets == 1
    with socket.create_connection(("127.0.0.1", relay.port), 10) as again:
        again.sendall(bytes(2000))
        assert read(again, 2000) == bytes(2000)


@pytest.mark.parametrize("after", [0, 5])
def test_a_stall_comes_after_exactly_so_many_bytes(after: int, connect: Connect, echo: Echo) -> None:
    """Nothing passes from there on, and nothing is lost when it goes on."""
    relay, connection = connect()
    stalled = relay.stall_after(after, "to_target")
    connection.sendall(b"0123456789")
    assert stalled.wait(10)
    connection.settimeout(0.1)
    with pytest.raises(TimeoutError):
        read(connection, after + 1)
    assert relay.bytes_passed["to_target"] == after
    connection.settimeout(10)
    relay.speak()
    echo.wait(size=10)
    assert bytes(echo.received) == b"0123456789"


def test_slices_are_small_and_whole(connect: Connect) -> None:
    """Byte by byte, the bytes are the same."""
    _, connection = connect(slice=1)
    sent = bytes(range(256)) * 8
    connection.sendall(sent)
    assert read(connection, len(sent)) == sent


def test_latency_holds_bytes_in_each_direction(connect: Connect) -> None:
    """An answer takes twice the latency at least; it can be changed."""
    relay, connection = connect(latency=0.1, jitter=0.02)
    began = time.monotonic()
    connection.sendall(b"x")
    read(connection, 1)
    assert time.monotonic() - began >= 0.2
    relay.shape()
    connection.sendall(b"y")
    assert read(connection, 1) == b"y"


def test_bandwidth_holds_bytes_back(connect: Connect) -> None:
    """20 kB at 100 kB/s take 0.2 s at least, less what one write may carry."""
    relay, connection = connect(bandwidth=100_000)
    began = time.monotonic()
    connection.sendall(bytes(20_000))
    read(connection, 20_000)
    assert time.monotonic() - began >= 0.17
    assert relay.bytes_passed["to_target"] == 20_000
