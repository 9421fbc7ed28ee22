"""The sentence of each hop that fails: it names the hop, says what is wrong and what to do, and shows no secret."""

from __future__ import annotations

import socket
import ssl

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidProxy, InvalidProxyMessage, InvalidProxyStatus, InvalidStatus, ProxyError
from websockets.http11 import Response

from distmap.errors import AuthenticationError, ConnectError, ProtocolError
from distmap.transport.channel import CLOSE_PROTOCOL, CLOSE_TOKEN, ChannelClosed
from distmap.transport.hop_errors import (
    answered,
    failed_hop,
    failed_proxy,
    first_line,
    handshake_error,
    is_login_wanted,
    with_hint,
    without_hint,
)
from distmap.transport.token import Secret
from distmap.transport.url import parse_url

URL = parse_url("wss://hub.example/pool")
PROXY = "http://ann:s3cret@proxy.example:3128"


def response(status: int, body: str = "", **headers: str) -> Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, "", Headers(fields), body.encode())


def refused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


CERTIFICATE = ssl.SSLCertVerificationError(1, "failed")
CERTIFICATE.verify_message = "unable to get local issuer certificate"
NO_TLS = ssl.SSLError(1, "wrong version number")
NO_TLS.reason = "WRONG_VERSION_NUMBER"


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (301, False, "sends to https://login.example/in, and distmap does not follow"),
        (302, False, "--header-file"),
        (400, False, "does not pass on the WebSocket upgrade"),
        (401, False, "lets in only who shows a header"),
        (401, True, "does not accept the headers that were sent"),
        (403, False, "lets in only who shows a header"),
        (403, True, "Perhaps a token in them has expired"),
        (404, False, "nothing of distmap is at that path"),
        (407, False, "HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"),
        (418, False, "no distmap worker or pool"),
        (426, False, "proxy_set_header Upgrade"),
        (502, False, "reaches nothing behind it. Start distmap-worker"),
        (503, False, "nothing to lead to at present"),
        (504, False, "did not answer in time"),
    ],
)
def test_an_http_answer_is_told(status: int, headers: bool, expected: str) -> None:
    """Who answered, with which status, and what to do; nothing of a query, where tokens may stand."""
    location = "https://ann:s3cret@login.example/in?token=s3cret#s3cret"
    sentence = answered(URL, response(status, "Oops\nmore", Server="nginx/1.22.1", Location=location), headers)
    start = f"hub.example (nginx/1.22.1) answered the WebSocket upgrade with HTTP {status}, 'Oops': "
    assert sentence.startswith(start)
    assert expected in sentence
    assert "s3cret" not in sentence


def test_a_web_page_is_told_by_its_title() -> None:
    """A captive portal or a login page answers with a page: its title is shown, and that it is no distmap."""
    page = response(200, "<!DOCTYPE html><html><head><title>\n Hotel &amp; Wi-Fi \n</title>", Content_Type="text/html")
    sentence = answered(URL, page, False)
    assert "HTTP 200, 'Hotel & Wi-Fi': it is a web page" in sentence
    assert "a login page of the network" in sentence


@pytest.mark.parametrize(
    ("body", "kind", "line"),
    [
        ("", "text/plain", ""),
        ("\n  Bad\x1b[31m Gateway \nmore", "text/plain", "Bad [31m Gateway"),
        ("x" * 500, "text/plain", "x" * 79 + "…"),
        ("<html><body><h1>Hello</h1>", "text/html", ""),
        ("<html><TITLE lang=en>A\nB</TITLE>", "", "A B"),
    ],
)
def test_the_first_line_of_an_answer(body: str, kind: str, line: str) -> None:
    """The title of a page, else the first line of text: short, and without control characters."""
    assert first_line(response(200, body, Content_Type=kind)) == line


def test_a_worker_that_is_shutting_down() -> None:
    """That is what the 503 of a distmap means; that of a proxy means another thing."""
    assert answered(URL, response(503, "Server is shutting down.\n"), False) == "it is shutting down (HTTP 503)"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ImportError("python-socks"), "python -m pip install 'distmap[socks]'"),
        (InvalidProxyStatus(response(407)), "user name or password in its address is wrong"),
        (InvalidProxyStatus(response(403)), "refused to lead to hub.example port 443 (HTTP 403)"),
        (InvalidProxyStatus(response(502)), "cannot reach hub.example port 443 (HTTP 502)"),
        (InvalidProxyStatus(response(404)), "perhaps it is no proxy"),
        (refused(InvalidProxyMessage("x"), ValueError("expected HTTP/1.1: HTTP/1.0 407 Auth")), "'websockets>=16'"),
        (refused(InvalidProxyMessage("x"), ValueError("SSH-2.0")), "(SSH-2.0); perhaps it is no HTTP proxy"),
        (refused(ProxyError("x"), ValueError("Host unreachable")), "cannot lead to hub.example port 443 (Host unr"),
        (refused(ProxyError("x"), ValueError("Username and password authentication failure")), "refused the login"),
        (InvalidProxy("x", "scheme ftp isn't supported"), "scheme ftp isn't supported"),
        (ValueError("Port could not be cast"), "none that can be used (Port could not be cast)"),
        (socket.gaierror(-2, "Name or service not known"), "host name of the proxy http://proxy.example:3128 does not"),
        (CERTIFICATE, "certificate of the proxy http://proxy.example:3128 is not trusted"),
        (NO_TLS, "perhaps it is http://"),
        (ConnectionRefusedError(111, "refused"), "nothing listens at the proxy"),
        (TimeoutError(), "did not answer within 5 s"),
        (OSError(113, "No route to host"), "cannot be reached"),
    ],
)
def test_a_proxy_that_fails_is_told(error: Exception, expected: str) -> None:
    """The proxy is named without its user name and password."""
    sentence = failed_proxy(PROXY, URL, error, 5, given=False)
    assert expected in sentence
    assert "the proxy http://proxy.example:3128" in sentence
    assert "s3cret" not in sentence


def test_the_remedy_fits_where_the_proxy_comes_from() -> None:
    """A proxy of the environment is avoided by NO_PROXY, one that was given by leaving it out."""
    error = ConnectionRefusedError()
    assert "set NO_PROXY=hub.example if none is needed" in failed_proxy(PROXY, URL, error, 5, given=False)
    assert "leave out proxy= or --proxy if none is needed" in failed_proxy(PROXY, URL, error, 5, given=True)
    wants_login = InvalidProxyStatus(response(407))
    assert "put user name and password into its address" in failed_proxy("http://p:1", URL, wants_login, 5, given=True)


def test_a_name_that_only_a_socks_proxy_knows() -> None:
    """socks5:// looks names up here, socks5h:// at the proxy; the first one's failure says so."""
    error = socket.gaierror(-2, "Name or service not known")
    sentence = failed_proxy("socks5://p:1080", URL, error, 5, given=False)
    assert sentence.startswith("the host name hub.example does not resolve here")
    assert "socks5h://" in sentence


@pytest.mark.parametrize(
    ("error", "connected", "expected"),
    [
        (socket.gaierror(-2, "Name or service not known"), False, "the host name hub.example does not resolve"),
        (CERTIFICATE, False, "the certificate that hub.example shows is not trusted (unable to get"),
        (NO_TLS, False, "does not speak TLS"),
        (InvalidStatus(response(404)), True, "answered the WebSocket upgrade with HTTP 404"),
        (TimeoutError(), True, "did not answer the WebSocket upgrade within 5 s"),
        (EOFError(), True, "ended the connection"),
        (ValueError("x"), True, "no WebSocket (x)"),
        (OSError("Multiple exceptions: [Errno 111] ..., [Errno 111] ..."), False, "nothing listens on port 443"),
        (ConnectionResetError(), False, "instead of speaking TLS"),
        (TimeoutError(), False, "a firewall drops the connection"),
        (OSError(113, "No route to host"), False, "hub.example cannot be reached (No route to host)"),
    ],
)
def test_a_hop_that_fails_is_told(error: Exception, connected: bool, expected: str) -> None:
    """From the host name to the upgrade, the step that failed."""
    assert expected in failed_hop(URL, error, connected, 5, headers=False)


def test_headers_are_the_reason_to_ask_for_trust() -> None:
    """Where a certificate is refused because headers were to be sent, that is said, and how to trust it."""
    sentence = failed_hop(URL, CERTIFICATE, False, 5, headers=True)
    assert sentence.startswith("headers are sent only to a host that is trusted, and the certificate")
    assert "DISTMAP_CA, ca=, --ca" in sentence


@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        (AuthenticationError("x"), AuthenticationError, f"{URL}: x"),
        (TimeoutError(), ConnectError, "did not finish the handshake within 5 s"),
        (ChannelClosed(CLOSE_TOKEN), AuthenticationError, "wrong token"),
        (ChannelClosed(CLOSE_PROTOCOL), ProtocolError, "install one distmap on both sides"),
        (ChannelClosed(1006), ConnectError, "without a word"),
        (ChannelClosed(1011), ConnectError, "code 1011"),
        (KeyError("x"), KeyError, "x"),
    ],
)
def test_a_handshake_that_fails_is_told(error: Exception, kind: type[Exception], expected: str) -> None:
    """What came between the upgrade and the trust, as an error of distmap; a bug stays what it is."""
    made = handshake_error(URL, "worker", Secret(b"t" * 32), error, 5, heard=True)
    assert type(made) is kind
    assert expected in str(made)


@pytest.mark.parametrize(
    ("error", "hinted"),
    [
        (TimeoutError(), True),
        (CERTIFICATE, True),
        (EOFError(), True),
        (ConnectionResetError(), True),
        (ChannelClosed(1006), True),
        (ConnectionRefusedError(), False),
        (socket.gaierror(-2, "Name or service not known"), False),
        (InvalidStatus(response(404)), False),
    ],
)
def test_the_command_that_tells_more(error: Exception, hinted: bool) -> None:
    """It is named where a failure may have several causes, and only there; the command itself leaves it out."""
    sentence = with_hint(URL, "it failed", error)
    assert sentence == "it failed" + f"; to see at which hop:  distmap-worker --check {URL}" * hinted
    assert without_hint(URL, sentence) == "it failed"


def test_headers_that_come_twice() -> None:
    """A chain of proxies may name several servers; the first counts, and the sentence is made all the same."""
    twice = [("Server", "nginx"), ("Server", "tornado"), ("Location", "/a"), ("Location", "/b")]
    sentence = answered(
        URL, Response(302, "", Headers([*twice, ("Content-Type", "x"), ("Content-Type", "y")]), b""), False
    )
    assert "hub.example (nginx) answered" in sentence
    assert is_login_wanted(InvalidStatus(Response(302, "", Headers([("Location", "/login"), ("Location", "/")]), b"")))


def test_a_redirect_to_nonsense() -> None:
    """What is no URL is not shown, and breaks nothing."""
    assert "it sends to another address" in answered(URL, response(302, Location="http://[x"), False)
