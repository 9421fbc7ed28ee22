"""Addresses of the form `ssh://user@host`: an account that the system's OpenSSH client can log in to.

Owns what such a URL may be. What its options mean is the affair of who uses it. Knows no process and no socket.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from distmap.errors import ConnectError
from distmap.transport.url import WorkerURL

#: Nothing that a shell, or ssh itself, would take for more than a name: a ProxyCommand of the user may put it into one.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")


@dataclass(frozen=True, slots=True)
class SSHTarget:
    """An account on a host, as the user's settings of ssh know it."""

    host: str
    user: str = ""
    #: None: what the settings of ssh say, else 22.
    port: int | None = None
    #: A file there: "/run/user/1000/pool.sock"; "" for none.
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """For the command line of ssh: the account and the host, behind all options."""
        user = ["-l", self.user] if self.user else []
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*user, *port, "--", self.host]

    @property
    def login(self) -> str:
        """What a person types behind `ssh`."""
        port = "" if self.port is None else f"-p {self.port} "
        return f"{port}{self.user}{'@' * bool(self.user)}{self.host}"

    @property
    def url(self) -> WorkerURL:
        """What a worker, or a pool, that is reached by it is known by."""
        return WorkerURL("localhost", self.port or 22, shown=str(self))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"ssh://{self.user}{'@' * bool(self.user)}{host}{port}{self.path}"


def is_ssh(url: str) -> bool:
    """Whether the text is a URL of this form."""
    return url.strip().lower().startswith("ssh://")


def parse_ssh(text: str, options: Collection[str] = ()) -> SSHTarget:
    """The account of `ssh://user@host:port/path?option=value`.

    Args:
        text: The URL; all but the host may be missing.
        options: The names that its options may have.

    Raises:
        ConnectError: It is no such URL; one sentence.
    """
    text = text.strip()
    if re.search(r"//[^/?#@]*:[^/?#]*@", text):
        # Not shown, and seen before anything else is found wrong with it.
        raise ConnectError("the URL holds a password; ssh needs a key or an agent instead")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConnectError(f"{text!r} is no ssh:// URL: {error}") from error
    # Not `hostname`, which is in small letters: a name in the settings of ssh may have others.
    host = re.sub(r"^.*@|:\d*$", "", parts.netloc).strip("[]")
    user = unquote(parts.username or "")
    if not _HOST.fullmatch(host):
        raise ConnectError(f"{text!r} names no possible host; an address looks like ssh://user@host")
    if user and not _NAME.fullmatch(user):
        raise ConnectError(f"{text!r} names no possible user; an address looks like ssh://user@host")
    if parts.fragment or re.search(r"[\x00-\x20\x7f'\"\\]", unquote(parts.path)):
        raise ConnectError(f"{text!r} has a path that ssh cannot take; an address looks like ssh://user@host")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in given:
        if name not in options:
            takes = f"it takes {', '.join(options)}" if options else "it takes none"
            raise ConnectError(f"{text!r} has an option {name!r} that is not known; {takes}")
    path = unquote(parts.path)
    return SSHTarget(host, user, port, "" if path == "/" else path, given)
