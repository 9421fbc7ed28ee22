"""What a pool is told about workers elsewhere, and the hub that this makes.

Owns how `Pool(listen=, token=, headers=, ...)` and the addresses of workers become a hub. It must not know how a
connection is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distmap.calls.checks import checked
from distmap.core.ssh_limits import SSH_LIMITS
from distmap.tasks._typing import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from distmap.calls.jupyter_server import JupyterServer
    from distmap.engine.hub import HubEngine
    from distmap.transport.first_hop import FirstHop
    from distmap.transport.token import Secret
    from distmap.transport.url import WorkerURL

#: Where workers that a pool has started come to, if nobody says otherwise: any address of this machine, any port.
ANYWHERE = "wss://0.0.0.0:0"

#: Where `listen=True` waits: a port of this machine that only a proxy here leads to (jupyter-server-proxy, nginx).
_BEHIND_A_PROXY = "ws://127.0.0.1:{}"

#: Where `listen="ssh://..."` waits: a port of this machine that ssh leads to.
_BEHIND_A_LOGIN = "wss://127.0.0.1:0"


def is_ssh(url: str) -> bool:
    """Whether the worker of the URL is reached by an SSH login."""
    return url.strip().lower().startswith("ssh://")


def address_of(url: str) -> WorkerURL:
    """What the worker or pool of a URL is known by; ConnectError if it is none."""
    if is_ssh(url):
        from distmap.transport.ssh_url import parse_ssh

        return parse_ssh(url.partition("?")[0]).url
    from distmap.transport.url import parse_url

    return parse_url(url)


class Remote(NamedTuple):
    """The arguments of a pool that are about workers elsewhere; see `Pool`."""

    listen: str | None
    token: str | Secret | None
    tls_cert: str | Path | None
    tls_key: str | Path | None
    headers: Mapping[str, str] | str | Path | None
    ca: str | Path | None
    proxy: str | None
    connect_timeout: float
    #: The Jupyter server whose proxy leads to the port, if the pool listens for that.
    server: JupyterServer | None = None
    relay: str | None = None
    #: Whether nobody has said how long a call may wait for a worker.
    patient: bool = False
    #: Whether distmap is installed on hosts of ssh:// that lack it.
    install: bool = False
    #: What has workers started, and whether nobody else is expected to dial in.
    launches: tuple[str, ...] = ()
    only_launched: bool = False

    @property
    def at_relay(self) -> bool:
        """Whether what workers dial is a relay."""
        return self.listen is None and self.relay is not None

    @property
    def dialled(self) -> str | None:
        """Where workers dial in: at the pool, or at a relay."""
        return self.listen or self.relay

    def __repr__(self) -> str:
        return f"Remote(listen={self.listen!r})"  # the others may hold secrets

    def patience(self, urls: Sequence[str]) -> float:
        """Seconds in which a worker must have come: a login, and what is installed by it, may take long."""
        seconds = self.connect_timeout
        if self.patient and any(map(is_ssh, urls)):
            installs = self.install or any(re.search(r"[?&]install=", url) for url in urls)
            seconds = max(seconds, SSH_LIMITS.install if installs else SSH_LIMITS.login)
        return seconds

    def way(self, url: str) -> tuple[WorkerURL, FirstHop | None]:
        """How a hub gets to the worker of a URL: what it is known by, and its first hop, if it has one of its own.

        Raises:
            ConnectError: It is no such URL.
            TokenError: The token cannot be read.
        """
        if is_ssh(url):
            from distmap.launch.ssh import SSHWorker
            from distmap.transport.token import load_token

            worker = SSHWorker(url, load_token(self.token), self.install)
            return worker.url, worker.hop
        return address_of(url), None

    def hub(self, urls: Sequence[str]) -> HubEngine:
        """A hub that dials the URLs and, if the pool is told so, listens. Not started.

        Raises:
            ConnectError: An address, a file of headers or one of certificates cannot be used.
            TokenError: The token cannot be read.
        """
        from distmap.engine.hub import HubEngine
        from distmap.transport.first_hop import load_hop
        from distmap.transport.room import parse_relay
        from distmap.transport.token import load_token
        from distmap.transport.url import parse_url

        listen, meeting = None, None
        if self.listen is not None and is_ssh(self.listen):
            from distmap.transport.ssh_meeting import PoolAtLogin

            meeting = PoolAtLogin(self.listen)
            from dataclasses import replace

            listen = replace(parse_url(_BEHIND_A_LOGIN, listening=True), shown=meeting.url)
        elif self.listen is not None:
            listen = parse_url(self.listen, listening=True)
        hub = HubEngine(
            listen=listen,
            token=load_token(self.token),
            # 0 is for calls, which then wait for nobody; the dialling itself has to take some time.
            connect_timeout=min(10.0, self.connect_timeout) or 10.0,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            hop=load_hop(self.headers, self.ca, self.proxy),
        )
        if self.relay is not None:
            hub.relay = parse_relay(self.relay)
        hub.meeting = meeting
        hub.only_launched = self.only_launched
        for url in urls:
            hub.add(*self.way(url))
        return hub

    def reached_at(self, hub: HubEngine | None) -> str | None:
        """What workers dial, from elsewhere; None: the pool does not listen."""
        if hub is None or hub.url is None or self.server is None:
            return None if hub is None else hub.url
        from distmap.transport.jupyter_url import behind
        from distmap.transport.url import parse_url

        return str(behind(self.server.address, parse_url(hub.url).port))


def remote(
    *,
    listen: str | bool | None,
    token: str | Secret | None,
    tls_cert: str | Path | None,
    tls_key: str | Path | None,
    headers: Mapping[str, str] | str | os.PathLike[str] | None,
    ca: str | os.PathLike[str] | None,
    proxy: str | None,
    connect_timeout: float | None,
    relay: str | None = None,
    launches: tuple[str, ...] = (),
) -> Remote:
    """The arguments, checked; TypeError or ValueError if one cannot be meant."""
    where, server = _listening(checked("listen", listen))
    only_launched = bool(launches) and where is None and relay is None
    if only_launched:
        where = ANYWHERE
    timeout = checked("connect_timeout", connect_timeout)
    return Remote(
        where,
        checked("token", token),
        checked("tls_cert", tls_cert),
        checked("tls_key", tls_key),
        checked("headers", headers),
        checked("ca", ca),
        checked("proxy", proxy),
        (60.0 if where or relay else 10.0) if timeout is None else timeout,
        server,
        checked("relay", relay),
        timeout is None,
        launches=launches,
        only_launched=only_launched,
    )


def _listening(listen: str | bool | None) -> tuple[str | None, JupyterServer | None]:
    """Where to listen, and the Jupyter server that leads there."""
    if listen is None or listen is False:
        return None, None
    if isinstance(listen, str) and not listen.strip().lower().startswith(("https://", "http://")):
        return listen, None
    from distmap.calls.jupyter_server import find_server, port_of_notebook, server_at

    # An address for browsers is that of a page of the Jupyter server.
    server, port = (find_server(), 0) if listen is True else server_at(listen)
    return _BEHIND_A_PROXY.format(port or port_of_notebook()), server
