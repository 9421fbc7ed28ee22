"""What the first hop of a connection needs: extra headers, certificates to trust, a proxy to go through.

Owns where these come from, and keeps the values of headers out of every text: a hub's token is among them. It must not
know sockets.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from distmap.errors import ConnectError
from distmap.transport.private import read_private
from distmap.transport.room import Room

#: RFC 9110, 5.6.2 and 5.5.
_NAME, _VALUE = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+"), re.compile(r"[\t -~\x80-\xff]*")
#: Those that the WebSocket upgrade itself sets (RFC 6455, 4.1). Origin is what a web page is refused for.
_OURS = ("host", "upgrade", "connection", "origin", "sec-websocket-")


class Headers:
    """Headers for the HTTP request. Shows names only, and refuses to be pickled."""

    __slots__ = ("__fields", "__file")

    def __init__(self, fields: Mapping[str, str] | None = None, file: str | Path | None = None) -> None:
        """Headers that are given, or the lines `Name: value` of a file, which is read anew for each connection."""
        self.__fields = dict(fields or {})
        self.__file = None if file is None else Path(file).expanduser()
        for name, value in self.__fields.items():
            _check(name, value)
        self.reveal()  # what is wrong is said now, and not at each dial

    def reveal(self) -> dict[str, str]:
        """Names and values; for the request alone."""
        if self.__file is None:
            return dict(self.__fields)
        remedy = "name another one (--header-file, DISTMAP_HEADER_FILE, headers=)"
        return dict(_parsed(read_private(self.__file, "header file", ConnectError, remedy), f"{self.__file}"))

    def __bool__(self) -> bool:
        return bool(self.__fields) or self.__file is not None

    def __repr__(self) -> str:
        return f"<headers {', '.join(self.__fields) or self.__file}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("headers do not pickle: a token in them must not leave this process")


@dataclass(frozen=True, slots=True)
class FirstHop:
    """How to reach what a URL names, beyond the URL.

    Whatever stands there, the two ends of distmap prove themselves to each other: none of this takes part in it.
    """

    headers: Headers = field(default_factory=Headers)
    #: A file of certificates (PEM), or a folder of them, to trust besides those of the system.
    ca: str | Path | None = None
    #: URL of a proxy; "" for none. None: what the environment or the system's settings say. It may hold a password.
    proxy: str | None = field(default=None, repr=False)
    #: Makes a connected socket that leads to the other side, in place of TCP to the host of the URL; given the seconds
    #: that it may take. It raises ConnectError with one sentence.
    tunnel: Callable[[float], Awaitable[socket.socket]] | None = None
    #: Where the other side is met, if the URL is that of a relay.
    room: Room | None = None
    #: Called once nothing is dialled any more: ends what `tunnel` has started.
    closed: Callable[[], Awaitable[None]] | None = None


def load_hop(
    headers: Mapping[str, str] | str | Path | Headers | None = None,
    ca: str | Path | None = None,
    proxy: str | None = None,
) -> FirstHop:
    """What is given, else what the environment has.

    Args:
        headers: A mapping, or a file with a line `Name: value` each; else the file `DISTMAP_HEADER_FILE`.
        ca: See FirstHop; else `DISTMAP_CA`.
        proxy: See FirstHop.

    Raises:
        ConnectError: A file cannot be read or is open to other users, or what it holds are no headers.
    """
    if headers is None:
        headers = os.environ.get("DISTMAP_HEADER_FILE") or {}
    if not isinstance(headers, Headers):
        headers = Headers(headers) if isinstance(headers, Mapping) else Headers(file=headers)
    ca = ca or os.environ.get("DISTMAP_CA")
    return FirstHop(headers, os.path.expanduser(ca) if ca else None, proxy)


def _parsed(lines: list[str], source: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if not colon:
            # Not shown: it may be a token.
            raise ConnectError(f"line {number} of {source} is no header; a line looks like  Authorization: token ...")
        _check(name, value.strip())
        yield name, value.strip()


def _check(name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConnectError(f"{name[:40]!r} is no name of a header")
    if name.lower().startswith(_OURS):
        raise ConnectError(f"the header {name} cannot be set: the WebSocket upgrade sets it")
    if not _VALUE.fullmatch(value):
        raise ConnectError(f"the value of the header {name} has characters that a header cannot have")
