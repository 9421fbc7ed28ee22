"""What a Jupyter server or a JupyterHub on the way answers when it does not lead to the other side.

Owns these sentences: a server that does not run, a port where nobody listens, a token that is missing or of somebody
else, no proxy there, the address of a page. It must not know how a connection is made.
"""

from __future__ import annotations

from http import HTTPStatus

from distmap.transport.jupyter_url import UNKNOWN_HOST, hub_of, is_page, proxied_port, server_of, web
from distmap.transport.url import WorkerURL

_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
#: 424 is what a hub's own pages say of a server that does not run.
_DOWN = (HTTPStatus.FAILED_DEPENDENCY, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)


def page_sentence(url: WorkerURL) -> str:
    """For who gives the address of a page as that of a pool or worker."""
    return (
        f"{web(url)} is the address of a page, and no worker or pool is there. Paste what pool.worker_command() prints "
        f"in a notebook of that server, after pool = Pool(listen=True): a line like  distmap-worker {server_of(url)}"
        "/proxy/41234"
    )


def unknown_host(url: WorkerURL) -> str | None:
    """For who pastes an address whose host was left open; None if it was not."""
    if url.host.upper() != UNKNOWN_HOST:
        return None
    return f"{UNKNOWN_HOST} stands for the host of your hub: put that of the notebook's address in your browser there"


def wants_login(status: int, location: str) -> bool:
    """Whether the answer means that who dials has not shown a token, or none that counts there."""
    to_login = "/oauth2/authorize" in location or "/login" in location
    return status in _REFUSED or (300 <= status < 400 and to_login)


def jupyter_answered(url: WorkerURL, status: int, location: str, headers: bool) -> str | None:
    """Why the upgrade was refused, if a Jupyter server or hub did it.

    Args:
        url: What was dialled.
        status: Of the answer.
        location: Where the answer leads.
        headers: Whether extra headers were sent.
    """
    if is_page(url):
        return page_sentence(url)
    port = proxied_port(url)
    if port is None:
        return None
    hub = hub_of(url)
    server = "the Jupyter server there" if hub is None else f"the Jupyter server of {_owner(hub[1])}"
    if wants_login(status, location):
        return _no_token(hub, server, headers)
    start = "" if hub is None else f"; start it at {hub[0]}/home, and run the notebook that makes the pool"
    if 300 <= status < 400 and "/hub/" in location:
        return f"{server} is not running{start}"
    if status in _DOWN:
        return f"{server} is not running, or is starting (HTTP {status}){start}"
    if status == HTTPStatus.NOT_FOUND:
        return (
            f"{server} has no jupyter-server-proxy, which leads to port {port} (HTTP 404); in a terminal there: "
            "python -m pip install jupyter-server-proxy  (into the environment of the server), then restart the server"
        )
    return None


def nobody_listens(url: WorkerURL) -> str | None:
    """What it means that the connection ended before a word was said; None if no Jupyter server is on the way."""
    port = proxied_port(url)
    if port is None:
        return None
    return (
        f"the Jupyter server there is up, and nobody listens on its port {port}: the pool was closed or its kernel "
        "restarted; run Pool(listen=True) again, and see with pool.worker_command() whether the port is another one"
    )


def _no_token(hub: tuple[str, str] | None, server: str, headers: bool) -> str:
    if headers:
        return (
            f"{server} does not accept the token that the headers have: it has expired, or it is for another user or "
            "another server"
        )
    how = "--header-file FILE, with a line  Authorization: token ...  in it"
    if hub is None:
        return f"{server} wants its token (`jupyter server list` shows it there): give {how}"
    made = f"make one at {hub[0]}/token with the scope access:servers!server={hub[1]}"
    return f"{server} wants a token: {made}, and give {how}"


def _owner(name: str) -> str:
    """The user, and the server if it has a name."""
    user, _, server = name.partition("/")
    return f"{user} ({server})" if server else user
