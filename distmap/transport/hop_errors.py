"""The sentence for each hop that fails between the two ends: what failed, what was expected, what to do.

Owns these texts, for dialling and for the check of a URL. It must not know how a connection is made, and shows neither
passwords of proxies nor values of headers.
"""

from __future__ import annotations

import errno
import html
import re
import socket
import ssl
from http import HTTPStatus
from urllib.parse import urlsplit

from websockets.exceptions import InvalidProxy, InvalidProxyMessage, InvalidProxyStatus, InvalidStatus, ProxyError
from websockets.http11 import Response

from distmap.errors import AuthenticationError, ConnectError, ProtocolError, VersionMismatch
from distmap.transport.channel import CLOSE_PROTOCOL, CLOSE_TOKEN, ChannelClosed
from distmap.transport.jupyter_errors import jupyter_answered, nobody_listens, unknown_host, wants_login
from distmap.transport.proxies import has_password, shown_proxy
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.transport.websocket import PATH

#: How much of somebody else's text is shown.
_SHOWN_CHARS = 80

_NOT_OURS = "something listens there, but it is no distmap worker or pool"
_BEHIND = ". A worker with --base-path is reached through its proxy"
_HEADERS = "in a file of lines 'Name: value' that only you can read: headers=, --header-file, DISTMAP_HEADER_FILE"
_REDIRECTS = (301, 302, 303, 307, 308)

#: What a hop means by a status, and what to do.
_MEANINGS = {
    400: "it does not pass on the WebSocket upgrade. Its settings for this path need HTTP/1.1 and the headers Upgrade "
    "and Connection; in nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header "
    'Connection "upgrade"',
    404: "nothing of distmap is at that path. Compare the path with the settings of the proxy, and see that "
    "distmap-worker or the pool runs behind it",
    502: "it reaches nothing behind it. Start distmap-worker (or the pool) there, and compare its host and port with "
    "the settings of the proxy",
    503: "it has nothing to lead to at present. See that distmap-worker (or the pool) runs behind it",
    504: "what it leads to did not answer in time. See that distmap-worker (or the pool) runs behind it, and that no "
    "firewall is between them",
}
_MEANINGS[426] = _MEANINGS[505] = _MEANINGS[400]


def failed_proxy(proxy: str, url: WorkerURL, error: Exception, timeout: float, *, given: bool) -> str:
    """What is wrong with the way to the proxy, or through it. Without its password.

    Args:
        proxy: Its URL.
        url: Where it should lead.
        error: What was raised.
        timeout: The seconds that it had.
        given: Whether the user named it for distmap (`proxy=`); False: the environment did.
    """
    without = "leave out proxy= or --proxy" if given else f"set NO_PROXY={url.host}"
    return f"{_proxy_problem(proxy, url, error, timeout, given)}; {without} if none is needed"


def failed_hop(url: WorkerURL, error: Exception, connected: bool, timeout: float, headers: bool) -> str:
    """Which hop failed, host name to upgrade.

    Args:
        url: What was dialled.
        error: What was raised.
        connected: Whether TLS succeeded; for ws://, whether TCP did.
        timeout: The seconds that it had.
        headers: Whether there are some to be sent.
    """
    if isinstance(error, socket.gaierror):
        return unknown_host(url) or f"the host name {url.host} does not resolve ({error.strerror})"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = "headers are sent only to a host that is trusted, and" if headers else "TLS ends at a proxy there, and"
        return (
            f"{why} the certificate that {url.host} shows is not trusted ({error.verify_message}); "
            f"{_name_the_ca('that host')}"
        )
    if isinstance(error, ssl.SSLError):
        return f"{_NOT_OURS}: it does not speak TLS ({error.reason or error}){_BEHIND}"
    if isinstance(error, InvalidStatus):
        return answered(url, error.response, headers)
    if connected:
        speaks = "it speaks TLS" if url.scheme == "wss" else "it takes connections"
        if isinstance(error, TimeoutError):
            return f"{_NOT_OURS}: {speaks}, but did not answer the WebSocket upgrade within {timeout:g} s"
        if isinstance(error, OSError | EOFError) or isinstance(error.__cause__, EOFError):
            return f"{speaks}, but ended the connection: too many are waiting there, or it is no distmap at all"
        return f"{_NOT_OURS}: {speaks}, but no WebSocket ({error})"
    if is_refused(error):
        return (
            f"nothing listens on port {url.port} of {url.host} (connection refused); start distmap-worker there, with "
            f"--host 0.0.0.0 if it is another machine and --port {url.port}"
        )
    if isinstance(error, ConnectionAbortedError | ConnectionResetError) or not isinstance(error, OSError):
        return f"{_NOT_OURS}: it ended the connection instead of speaking TLS, or kept silent{_BEHIND}"
    if isinstance(error, TimeoutError):
        return f"{url.host} did not answer within {timeout:g} s; it is down, or a firewall drops the connection"
    return f"{url.host} cannot be reached ({error.strerror or error})"


def answered(url: WorkerURL, response: Response, headers: bool) -> str:
    """What an HTTP answer in place of the WebSocket upgrade means: who gave it, what it says, and what to do.

    Args:
        url: What was dialled.
        response: The answer.
        headers: Whether some were sent.
    """
    status = response.status_code
    if (said := jupyter_answered(url, status, header_of(response, "Location"), headers)) is not None:
        return said
    if status == HTTPStatus.SERVICE_UNAVAILABLE and response.body.startswith(b"Server is shutting down"):
        return "it is shutting down (HTTP 503)"
    software = _text(header_of(response, "Server"))
    who = f"{url.host} ({software})" if software else url.host
    words = first_line(response)
    says = f", {words!r}" if words else ""
    return f"{who} answered the WebSocket upgrade with HTTP {status}{says}: {_meaning(status, response, headers)}"


def header_of(response: Response, name: str) -> str:
    """The header of an answer, the first if it came several times; empty without one."""
    return next(iter(response.headers.get_all(name)), "")


def first_line(response: Response) -> str:
    """The title of the page that a hop answered with, or its first line; empty if there is none."""
    body = response.body[:20_000].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
    if title is None and _is_page(response):
        return ""
    lines = (title[1] if title is not None else body).strip().splitlines()
    return _text(html.unescape(" ".join(lines) if title is not None else lines[0])) if lines else ""


def is_login_wanted(error: Exception) -> bool:
    """Whether a hop did not let it through for want of a token."""
    if not isinstance(error, InvalidStatus):
        return False
    return wants_login(error.response.status_code, header_of(error.response, "Location"))


def is_refused(error: Exception) -> bool:
    """Whether the host is there and nothing listens on the port."""
    if isinstance(error, ConnectionRefusedError):
        return True
    # A host with several addresses: asyncio puts the errors of all of them into one text.
    codes = set(re.findall(r"\[Errno (\d+)\]", str(error)))
    return str(errno.ECONNREFUSED) in codes


def with_hint(url: WorkerURL, sentence: str, error: Exception) -> str:
    """The sentence; where it may have any of several causes, with the command at its end that tells them apart."""
    unclear = isinstance(error, TimeoutError | ssl.SSLCertVerificationError | EOFError | ConnectionError)
    return f"{sentence}{_hint(url)}" if unclear and not is_refused(error) else sentence


def without_hint(url: WorkerURL, sentence: str) -> str:
    """The sentence as it was; for the command itself."""
    return sentence.removesuffix(_hint(url))


def handshake_error(
    url: WorkerURL, peer: str, token: Secret, error: Exception, timeout: float, *, heard: bool
) -> Exception:
    """The error to raise for one that came after the upgrade and before both sides trusted each other.

    Args:
        url: What was dialled.
        peer: Who should be there: "worker" or "pool".
        token: That of this side.
        error: What was raised.
        timeout: The seconds that it had.
        heard: Whether the other side had said anything.
    """
    if isinstance(error, AuthenticationError | ProtocolError | VersionMismatch):
        return type(error)(f"{url}: {error}")
    if isinstance(error, TimeoutError):
        words = f"the {peer} did not finish the handshake within {timeout:g} s"
        return ConnectError(f"{url}: {with_hint(url, words, error)}")
    if not isinstance(error, ChannelClosed):
        return error
    if error.code == CLOSE_TOKEN:
        return AuthenticationError(
            f"{url}: wrong token: the {peer} holds another one than this side ({token.kid}), or TLS is terminated in "
            "between; give both sides the same token file (DISTMAP_TOKEN_FILE)"
        )
    if error.code == CLOSE_PROTOCOL:
        return ProtocolError(f"{url}: the {peer} did not understand the handshake; install one distmap on both sides")
    if not heard and (said := nobody_listens(url)) is not None:
        failed = ConnectError(f"{url}: {said}")
        failed.refused = True
        return failed
    how = "without a word" if error.code == 1006 else f"code {error.code}"
    words = f"the {peer} ended the connection during the handshake ({how})"
    return ConnectError(f"{url}: {with_hint(url, words, error)}")


def _hint(url: WorkerURL) -> str:
    # Only what the command takes: a tunnel is known by another kind of URL.
    how = "--check --relay" if url.relay else "--check"
    return f"; to see at which hop:  distmap-worker {how} {url}" if str(url).startswith("ws") else ""


def _without_secrets(location: str) -> str:
    """Without login and query, where a token may be; empty if it is no URL."""
    try:
        target = urlsplit(location)
    except ValueError:
        return ""
    return target._replace(netloc=target.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _meaning(status: int, response: Response, headers: bool) -> str:
    if status in _REDIRECTS:
        where = _text(_without_secrets(header_of(response, "Location")).removesuffix(PATH))
        return (
            f"it sends to {where or 'another address'}, and distmap does not follow. If a login is there, give the "
            f"headers that let a program in ({_HEADERS}); else put that address into the URL"
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        if headers:
            return (
                "it does not accept the headers that were sent. Perhaps a token in them has expired, or is for "
                "something else: put the right one into the file, which is read for each connection"
            )
        return f"it lets in only who shows a header, such as Authorization. Put it {_HEADERS}"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return f"a proxy on the way wants a login; {_proxy_login('')}"
    if status < 300 and _is_page(response):
        return (
            "it is a web page, and no distmap worker or pool: a login page of the network or of a proxy, or another "
            "server. Open it in a browser, and compare the URL"
        )
    if status == HTTPStatus.BAD_REQUEST and b"plain HTTP" in response.body:  # nginx and Apache
        return "that port is for TLS: write wss:// (or https://) in the URL"
    return _MEANINGS.get(status) or f"{_NOT_OURS}. Compare the URL with where distmap-worker or the pool runs"


def _proxy_problem(proxy: str, url: WorkerURL, error: Exception, timeout: float, given: bool) -> str:
    shown = shown_proxy(proxy)
    where = "proxy= or --proxy" if given else "HTTPS_PROXY or ALL_PROXY"
    if isinstance(error, ImportError):
        return f"{shown} speaks SOCKS, which needs a package: python -m pip install 'distmap[socks]'"
    if isinstance(error, InvalidProxyStatus):
        return f"{shown} {_answer_of_proxy(proxy, url, error.response)}"
    if isinstance(error, InvalidProxyMessage):
        why = str(error.__cause__ or error)
        # 16.0 of the library is the first that takes it, and tinyproxy speaks it.
        todo = "python -m pip install 'websockets>=16'" if "HTTP/1.0" in why else "perhaps it is no HTTP proxy"
        return f"{shown} did not answer as expected ({why}); {todo}"
    if isinstance(error, ProxyError):
        why = str(error.__cause__ or error)
        if "authenti" in why.lower():
            return f"{shown} refused the login ({why}); {_proxy_login(proxy)}"
        return f"{shown} cannot lead to {url.host} port {url.port} ({why})"
    # It is a ValueError too.
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {shown} is not trusted ({error.verify_message}); {_name_the_ca('it')}"
    if isinstance(error, InvalidProxy | ValueError):
        why = error.msg if isinstance(error, InvalidProxy) else str(error)
        return f"{shown} is none that can be used ({why}); {where} takes http://, https:// and socks5h://"
    if isinstance(error, socket.gaierror):
        if proxy.startswith("socks"):  # the name of the proxy fails with another exception
            return f"the host name {url.host} does not resolve here ({error.strerror}); socks5h:// lets {shown} do it"
        return f"the host name of {shown} does not resolve ({error.strerror}); set {where} right"
    if isinstance(error, ssl.SSLError):
        return f"{shown} does not speak TLS ({error.reason or error}); perhaps it is http://"
    if is_refused(error):
        return f"nothing listens at {shown} (connection refused)"
    if isinstance(error, TimeoutError):
        return f"{shown} did not answer within {timeout:g} s"
    return f"{shown} cannot be reached ({error})"


def _answer_of_proxy(proxy: str, url: WorkerURL, response: Response) -> str:
    status = response.status_code
    if status in (HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.UNAUTHORIZED):
        return f"wants a login (HTTP {status}); {_proxy_login(proxy)}"
    if status == HTTPStatus.FORBIDDEN:
        return (
            f"refused to lead to {url.host} port {url.port} (HTTP {status}). Ask who runs it to allow that; many "
            "proxies allow port 443 only"
        )
    if status >= 500:
        return f"cannot reach {url.host} port {url.port} (HTTP {status}). See that distmap runs there"
    return f"refused to lead to {url.host} port {url.port} (HTTP {status}); perhaps it is no proxy"


def _proxy_login(proxy: str) -> str:
    if has_password(proxy):
        return "the user name or password in its address is wrong"
    return "put user name and password into its address, in a variable: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"


def _name_the_ca(what: str) -> str:
    return f"if {what} is right, name the file of the CA that signed it, or of the certificate: DISTMAP_CA, ca=, --ca"


def _is_page(response: Response) -> bool:
    kind = header_of(response, "Content-Type")
    return "html" in kind.lower() or bool(re.match(rb"\s*<(!doctype|html|head|body)\b", response.body, re.IGNORECASE))


def _text(text: str) -> str:
    """Somebody else's text: printable, on one line, and not long."""
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
