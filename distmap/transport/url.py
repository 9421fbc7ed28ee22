"""Addresses: `wss://host:port` of a worker or of a listening pool, or a URL with a path that a proxy leads there.

Owns what such a URL may be, and the errors for what it may not. Knows no socket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from distmap.errors import ConnectError

#: The port of a worker when its URL names none.
DEFAULT_PORT = 8786

#: What a URL may begin with -> the scheme it stands for, and the port of a proxy there.
_SCHEMES = {"wss": ("wss", 443), "https": ("wss", 443), "ws": ("ws", 80), "http": ("ws", 80)}
_PROXY_PORTS = dict(_SCHEMES.values())


@dataclass(frozen=True, slots=True)
class WorkerURL:
    """Where a worker (or a listening pool) is reached."""

    host: str
    port: int
    options: Mapping[str, str] = field(default_factory=dict)
    #: Of a proxy that leads there: "/user/ann/proxy/41234"; without a slash at its end.
    path: str = ""
    #: "wss": the first hop is reached over TLS. "ws": it is not, and only the two ends speak TLS, inside the messages.
    #: "unix", to listen on: the path is that of a Unix socket, and TLS is as for "wss".
    scheme: str = "wss"
    #: How it is shown if something else leads there: "ssh://ann@lab7".
    shown: str = ""
    #: Whether this is a relay, where the other side is met.
    relay: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether it can only be this machine."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.shown or self.uri

    @property
    def uri(self) -> str:
        """As a WebSocket is asked for."""
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.path and self.port == _PROXY_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_url(text: str, *, listening: bool = False) -> WorkerURL:
    """The address of `wss://host:port`, or of `wss://host/path` behind a proxy, with options after a `?`.

    Port 8786 if none is named; 443 (80 without TLS) with a path, and for `https://` and `http://`, which mean `wss://`
    and `ws://`. `listening` admits port 0, which picks a free one. Raises ConnectError with one sentence.
    """
    if "dm1_" in text or re.search(r"[?&](token|key|secret|password)=", text, re.IGNORECASE):
        raise ConnectError("the URL holds a token, and URLs end up in logs: take it out, and use a token file")
    if re.search(r"//[^/?#]*@", text):
        # Not shown, and seen before anything else is found wrong with it.
        raise ConnectError("the URL holds a user name or password, and URLs end up in logs: distmap uses a token file")
    # Spaces around it come with pasting; elsewhere urlsplit would drop some of them without a word.
    text = text.strip()
    try:
        if re.search(r"[\s\x00-\x1f\x7f]", text):
            raise ValueError("there is a space or control character in it")
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConnectError(f"{text!r} is no wss:// URL: {error}") from error
    if parts.scheme not in _SCHEMES:
        raise ConnectError(f"{text!r} is no wss:// URL; a worker's address looks like wss://host:8786")
    if not parts.hostname:
        raise ConnectError(f"{text!r} names no host; a worker's address looks like wss://host:8786")
    try:
        # As the look-up will: it refuses empty and overlong labels.
        possible = parts.hostname.encode("idna") and re.fullmatch(r"[\w.:%-]+", parts.hostname)
    except UnicodeError:
        possible = None
    if not possible:
        raise ConnectError(f"{text!r} names no possible host; a worker's address looks like wss://host:8786")
    if parts.fragment:
        raise ConnectError(f"{text!r} has a fragment (#...); a worker's address looks like wss://host:8786")
    if port == 0 and not listening:
        raise ConnectError(f"{text!r} has port 0; name the port that the other side prints")
    scheme, proxy_port = _SCHEMES[parts.scheme]
    path = parts.path.rstrip("/")
    if port is None:
        port = proxy_port if path or parts.scheme.startswith("http") else DEFAULT_PORT
    return WorkerURL(parts.hostname, port, dict(parse_qsl(parts.query)), path, scheme)
