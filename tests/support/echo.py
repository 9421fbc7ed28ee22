"""A TCP server that keeps what it is sent: the far side of a relay. Knows nothing of distmap."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Echo:
    """Listens on a free port of this machine; sends back what comes, or only keeps it."""

    def __init__(self, *, answers: bool = True) -> None:
        self._answers = answers
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        #: What came, of all connections together, and how each connection ended: "end" or the name of an exception.
        self.received = bytearray()
        self.ends: list[str] = []
        self._news = threading.Condition()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._server.accept()
                with self._news:
                    self._connections.append(connection)
                    self._threads.append(threading.Thread(target=self._serve, args=[connection]))
                    self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        how = "end"
        try:
            while data := connection.recv(65536):
                with self._news:
                    self.received += data
                    self._news.notify_all()
                if self._answers:
                    connection.sendall(data)
        except OSError as error:
            how = type(error).__name__
        connection.close()
        with self._news:
            self.ends.append(how)
            self._news.notify_all()

    def wait(self, *, size: int = 0, ends: int = 0, timeout: float = 10.0) -> None:
        """Wait until so many bytes have come, and so many connections have ended."""
        with self._news:
            met = self._news.wait_for(lambda: len(self.received) >= size and len(self.ends) >= ends, timeout)
        assert met, (len(self.received), self.ends)

    def __enter__(self) -> Echo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._threads[0].join(10)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


def read(connection: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, within the timeout of the socket."""
    found = bytearray()
    while len(found) < size:
        data = connection.recv(size - len(found))
        assert data, f"the connection ended after {len(found)} of {size} bytes"
        found += data
    return bytes(found)
