"""The Jupyter server that this kernel belongs to: where it is dialled from elsewhere.

Owns what the environment of a JupyterHub and the files of running servers say about that. It must not know pools.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag

from distmap.core.limits import LIMITS
from distmap.tasks._typing import NamedTuple

if TYPE_CHECKING:
    from distmap.transport.url import WorkerURL


class JupyterServer(NamedTuple):
    """A Jupyter server with jupyter-server-proxy, which leads to ports of its machine."""

    #: Of the server itself: https://hub.example/user/ann is wss://hub.example/user/ann.
    address: WorkerURL
    #: Whether the host in the address is the right one.
    known: bool = True

    @property
    def hub(self) -> tuple[str, str] | None:
        """Its hub's address and its name there; None: it belongs to no hub."""
        from distmap.transport.jupyter_url import hub_of

        return hub_of(self.address)


def find_server() -> JupyterServer | None:
    """The server that runs this kernel; None if there is none, or none that can be found."""
    from distmap.transport.jupyter_url import UNKNOWN_HOST
    from distmap.transport.url import WorkerURL, parse_url

    if prefix := _hub_prefix():
        # The first is set only if the hub has been told its address, the second only if each user has a host.
        if public := os.environ.get("JUPYTERHUB_PUBLIC_URL"):
            return JupyterServer(parse_url(public))
        if host := os.environ.get("JUPYTERHUB_HOST"):
            return JupyterServer(parse_url(host + prefix))
        return JupyterServer(WorkerURL(UNKNOWN_HOST, 443, path=prefix), known=False)
    said = _said_by_parent()
    return JupyterServer(parse_url(str(said["url"]))) if said else None


def server_at(address: str) -> tuple[JupyterServer, int]:
    """The server of an address that was copied from the browser, and the port that it names behind the proxy, or 0.

    Raises:
        ConnectError: It cannot be an address.
    """
    from distmap.transport.jupyter_url import proxied_port, server_of
    from distmap.transport.url import parse_url

    url = parse_url(urldefrag(address.strip()).url)
    server, prefix = server_of(url), _hub_prefix()
    if prefix:
        # A page of the hub itself, say: the host counts. A proxy in front of the hub may have a path of its own.
        front, found, _ = f"{url.path}/".partition(f"{prefix}/")
        server = replace(server, path=f"{front if found else ''}{prefix}")
    return JupyterServer(server), proxied_port(url) or 0


def port_of_notebook() -> int:
    """A free port that is the same each time the kernel of this notebook starts, so that workers find it; else 0.

    It is taken from the name of the notebook.
    """
    notebook = os.environ.get("JPY_SESSION_NAME")
    if not notebook:
        return 0
    first, count = LIMITS.notebook_ports
    digest = hashlib.sha256(f"{_hub_prefix()} {os.getuid() if hasattr(os, 'getuid') else ''} {notebook}".encode())
    port = first + int.from_bytes(digest.digest()[:4], "big") % count
    with socket.socket() as sock:
        if os.name == "posix":  # as the listener does: the last one's connections may linger
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _hub_prefix() -> str:
    """The path of this server on its hub: "/user/ann"; empty outside of one."""
    return os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "").rstrip("/")


def own_headers() -> dict[str, str]:
    """What this kernel shows to be led to its own ports: a token of its hub, or that of its server; empty without one.

    Both are this user's, and open nothing that the user cannot open.
    """
    token = os.environ.get("JUPYTERHUB_API_TOKEN") if _hub_prefix() else (_said_by_parent() or {}).get("token")
    return {"Authorization": f"token {token}"} if token else {}


def _said_by_parent() -> dict[str, Any] | None:
    """What the server that started this process says of itself, in its file; None if there is none."""
    try:
        from jupyter_core.paths import jupyter_runtime_dir
    except ImportError:
        return None
    # The server, or what it started the kernel by.
    parents = {str(os.getppid()), os.environ.get("JPY_PARENT_PID")}
    for path in Path(jupyter_runtime_dir()).glob("jpserver-*.json"):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if str(said["pid"]) in parents:
                return {"url": said["url"], "token": said.get("token")}
        except (OSError, ValueError, KeyError, TypeError):  # of another user, half written, or of another program
            continue
    return None
