"""Addresses of Jupyter servers: of a page in the browser, of the server, of a port of its machine behind its proxy.

Owns which part of a path is whose. It must not know sockets, or which server there is.

    https://hub.example/user/ann/gpu/lab/tree/fit.ipynb      a page: what people copy from their browser
    https://hub.example/user/ann/gpu                         the server; on a JupyterHub its name is "ann/gpu"
    wss://hub.example/user/ann/gpu/proxy/23456               port 23456 there, by way of jupyter-server-proxy
"""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import unquote

from distmap.transport.url import WorkerURL

#: What the address of a page has behind that of its server: JupyterLab, Notebook, the classic one, and their kin.
_PAGES = ("lab", "tree", "notebooks", "doc", "edit", "retro", "consoles", "terminals", "files", "view", "voila")

_SERVER = re.compile(r"(?P<hub>.*?)/user/(?P<user>[^/]+)")
_PAGE = re.compile(rf"/(?:{'|'.join(_PAGES)})(?:/|$)")
_HUB_PAGE = re.compile(r"/hub/(?:home|spawn|token|login|admin|user-redirect)(?:/|$)")
_PROXY = re.compile(r"/proxy/(?:absolute/)?(?P<port>\d{1,5})(?:/|$)")

#: Stands in an address for the host of a hub that did not tell its own.
UNKNOWN_HOST = "YOUR-HUB"


def proxied_port(url: WorkerURL) -> int | None:
    """The port behind jupyter-server-proxy that the address leads to."""
    found = _PROXY.search(url.path, _owner_ends(url.path))
    return int(found["port"]) if found else None


def is_page(url: WorkerURL) -> bool:
    """Whether it looks like the address of a page, or of a hub's server as a whole, and so of no pool or worker."""
    if proxied_port(url) is not None:
        return False
    start = _owner_ends(url.path)
    whole = 0 < start == len(url.path)
    return bool(whole or _PAGE.search(url.path, start) or _HUB_PAGE.search(url.path, start))


def server_of(url: WorkerURL) -> WorkerURL:
    """The server that the address of a page, or of a port behind its proxy, belongs to."""
    start = _owner_ends(url.path)
    ends = [found.start() for pattern in (_PROXY, _PAGE) if (found := pattern.search(url.path, start)) is not None]
    return replace(url, path=url.path[: min(ends)] if ends else url.path, options={})


def behind(server: WorkerURL, port: int) -> WorkerURL:
    """Where a port of the server's machine is dialled."""
    return replace(server, path=f"{server.path}/proxy/{port}")


def hub_of(url: WorkerURL) -> tuple[str, str] | None:
    """For the address of a server of a JupyterHub: the hub's own address, and the name of the server ("ann/").

    That name is what the hub's scopes call it. None: it is not on a hub.
    """
    server = server_of(url)
    found = _SERVER.match(server.path)
    if found is None:
        return None
    rest = server.path[found.end() :].strip("/")
    return web(replace(server, path=f"{found['hub']}/hub")), f"{unquote(found['user'])}/{unquote(rest)}"


def web(url: WorkerURL) -> str:
    """The address as a browser takes it."""
    return re.sub("^ws", "http", str(url))


def _owner_ends(path: str) -> int:
    """Where the part of the path ends that names a hub's user, who may be called "lab". 0: there is none."""
    found = _SERVER.match(path)
    return found.end() if found else 0
