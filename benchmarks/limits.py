"""What no library can pass: the same work without one, and messages over sockets without anything around them.

Owns the raw processes. Each is started by spawn and ends with its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import multiprocessing
import pickle
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

#: Bytes of a message that goes there and back.
SMALL = 64
ORDER = struct.Struct("!cQQ")


def certificate(folder: str) -> tuple[str, str]:
    """A throw-away certificate for 127.0.0.1, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(here, critical=False)
    signed = builder.sign(key, hashes.SHA256())
    cert_path, key_path = Path(folder) / "cert.pem", Path(folder) / "key.pem"
    cert_path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return str(cert_path), str(key_path)


def server_tls() -> ssl.SSLContext:
    """TLS for a listener, with a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # nobody resumes
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*certificate(folder))
    return context


def client_tls() -> ssl.SSLContext:
    """TLS for who dials it; nobody is proved here, only bytes are encrypted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextlib.contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[None]:
    """A process that is ended at the end."""
    child = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    child.start()
    try:
        yield
    finally:
        child.terminate()
        child.join()


# --- the work alone ---------------------------------------------------------------------------------------------------


class Halves:
    """Two processes that are given half of the items each, in one pickle over a pipe."""

    def __init__(self, ends: list[Connection]) -> None:
        self._ends = ends

    def map(self, fn: Callable[[Any], Any], items: list[Any], *, answer: bool = True) -> list[Any]:
        """What `map` gives; without `answer` the results stay where they are, and [] comes back."""
        middle = len(items) // 2
        for end, half in zip(self._ends, (items[:middle], items[middle:]), strict=True):
            end.send_bytes(pickle.dumps((fn, half, answer), 5))
        first, second = (pickle.loads(end.recv_bytes()) for end in self._ends)
        return first + second  # type: ignore[no-any-return]


def _half(end: Connection) -> None:
    with contextlib.suppress(EOFError):
        while True:
            fn, items, answer = pickle.loads(end.recv_bytes())
            results = [fn(item) for item in items]
            end.send_bytes(pickle.dumps(results if answer else [], 5))


@contextlib.contextmanager
def halves() -> Iterator[Halves]:
    """Both processes, started."""
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for _, far in pipes:
            stack.enter_context(process(_half, far))
        yield Halves([near for near, _ in pipes])


# --- one small message there and back ---------------------------------------------------------------------------------


def _exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes; fewer at the end."""
    data = connection.recv(count)
    while data and len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            break
        data += more
    return data


def _echo(connection: socket.socket) -> None:
    with contextlib.suppress(OSError), connection:
        while data := _exactly(connection, SMALL):
            connection.sendall(data)


def _echo_unix(connection: socket.socket) -> None:
    _echo(connection)


def _echo_dial(port: int, tls: bool) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _echo(client_tls().wrap_socket(connection) if tls else connection)


def _echo_websockets(told: Connection) -> None:
    from websockets.asyncio.server import serve

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def run() -> None:
        async with serve(echo, "127.0.0.1", 0, ssl=server_tls(), compression=None, ping_interval=None) as server:
            told.send(next(iter(server.sockets)).getsockname()[1])
            await server.serve_forever()

    asyncio.run(run())


def _ping(connection: socket.socket) -> Callable[[int], bool]:
    message = bytes(SMALL)

    def ping(_: int) -> bool:
        connection.sendall(message)
        return _exactly(connection, SMALL) == message

    return ping


@contextlib.contextmanager
def echoes() -> Iterator[dict[str, Callable[[int], bool]]]:
    """Calls that send 64 bytes to another process and get them back, over each kind of connection."""
    found: dict[str, Callable[[int], bool]] = {}
    with contextlib.ExitStack() as stack:
        near, far = socket.socketpair()
        stack.enter_context(near)
        stack.enter_context(process(_echo_unix, far))
        found["unix socket"] = _ping(near)
        for name, tls in (("TCP", False), ("TLS", True)):
            with socket.create_server(("127.0.0.1", 0)) as server:
                stack.enter_context(process(_echo_dial, server.getsockname()[1], tls))
                server.settimeout(30)
                connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = server_tls().wrap_socket(connection, server_side=True) if tls else connection
            stack.enter_context(connection)
            found[name] = _ping(connection)
        yield found


@contextlib.contextmanager
def websockets_echo() -> Iterator[Callable[[int], float]]:
    """Median seconds of so many echoes by `websockets` over TLS, inside one loop."""
    import statistics
    import time

    from websockets.asyncio.client import connect

    async def rounds(url: str, count: int) -> float:
        times, message = [], bytes(SMALL)
        async with connect(url, ssl=client_tls(), compression=None, ping_interval=None) as connection:
            for _ in range(count):
                began = time.perf_counter()
                await connection.send(message)
                await connection.recv()
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    near, far = multiprocessing.Pipe()
    with process(_echo_websockets, far):
        if not near.poll(30):
            raise RuntimeError("the echo server did not start within 30 s")
        url = f"wss://127.0.0.1:{near.recv()}"
        yield lambda count: asyncio.run(rounds(url, count))


# --- large arrays over TLS --------------------------------------------------------------------------------------------


class Streams:
    """Raw TLS connections to two processes, a thread here for each."""

    def __init__(self, connections: list[ssl.SSLSocket]) -> None:
        self._connections = connections

    def send(self, arrays: list[Any]) -> None:
        """Half of the arrays to each process, which receives them into memory that it has."""

        def work(connection: ssl.SSLSocket, part: list[Any]) -> None:
            connection.sendall(ORDER.pack(b"i", len(part), part[0].nbytes))
            for array in part:
                connection.sendall(memoryview(array).cast("B"))
            if connection.recv(1) != b"!":
                raise RuntimeError("a raw process ended early")

        self._both(work, arrays[::2], arrays[1::2])

    def receive(self, count: int, size: int) -> list[bytearray]:
        """Arrays of `size` bytes, half of them from each process, into fresh memory."""
        got: list[bytearray] = []

        def work(connection: ssl.SSLSocket, part: int) -> None:
            connection.sendall(ORDER.pack(b"o", part, size))
            for _ in range(part):
                got.append(bytearray(size))
                _into(connection, memoryview(got[-1]))

        self._both(work, count - count // 2, count // 2)
        return got

    def _both(self, work: Callable[[ssl.SSLSocket, Any], None], *parts: Any) -> None:
        threads = [threading.Thread(target=work, args=pair) for pair in zip(self._connections, parts, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _into(connection: socket.socket, target: memoryview) -> None:
    got = 0
    while got < len(target):
        count = connection.recv_into(target[got : got + (256 << 10)])
        if not count:
            raise RuntimeError("a raw connection ended early")
        got += count


def _stream(port: int) -> None:
    """The other process: takes and gives what it is told to."""
    with client_tls().wrap_socket(socket.create_connection(("127.0.0.1", port))) as connection:
        memory: dict[int, memoryview] = {}
        while order := _exactly(connection, ORDER.size):
            way, count, size = ORDER.unpack(order)
            place = memory.setdefault(size, memoryview(bytearray(size)))
            for _ in range(count):
                if way == b"i":
                    _into(connection, place)
                else:
                    connection.sendall(place)
            if way == b"i":
                connection.sendall(b"!")


@contextlib.contextmanager
def tls_streams() -> Iterator[Streams]:
    """Both connections, ready."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(30)
        connections = []
        for _ in range(2):
            stack.enter_context(process(_stream, server.getsockname()[1]))
            plain, _ = server.accept()
            connections.append(stack.enter_context(server_tls().wrap_socket(plain, server_side=True)))
        yield Streams(connections)
