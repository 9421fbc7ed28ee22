"""What a real nginx answers in place of a connection, and what the user reads of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from support.certificates import certificate
from support.dialled import dialled
from support.nginx import nginx
from support.services import free_port

from distmap.errors import ConnectError
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import load_token

pytestmark = pytest.mark.usefixtures("no_proxies")

LOGIN = "<!DOCTYPE html><html><head><title>Sign in &middot; Lab</title></head><body><form>...</form></body></html>"
PORTAL = "<html><head><title>Welcome to the Hotel Wi-Fi</title></head><body>Accept our terms</body></html>"


@pytest.fixture(scope="module")
def hop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """An nginx whose paths go wrong in many ways: behind some of them is a worker, or nobody, or somebody silent."""
    folder = tmp_path_factory.mktemp("answers")
    signed = certificate(folder, "answers")
    (folder / "passwords").write_text("ann:{PLAIN}s3cret\n")
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        WorkerProcess("--base-path", "/", "--port", "0", "--slots", "1") as worker,
    ):
        inner = worker.url.replace("ws://", "http://")
        blocks = f"""
        server {{
            listen 127.0.0.1:@PORT@ ssl;
            ssl_certificate {signed.cert};
            ssl_certificate_key {signed.key};
            default_type text/html;
            root {folder};
            location /moved/ {{ return 301 https://lab.example/gpu1/distmap/1; }}
            location /login/ {{ return 302 https://login.example/signin?next=/gpu1&state=s3cret; }}
            location /basic/ {{ auth_basic "the lab"; auth_basic_user_file {folder}/passwords; }}
            location /denied/ {{ deny all; }}
            location /nobody/ {{ proxy_pass http://127.0.0.1:{free_port()}; }}
            location /busy/ {{ return 503; }}
            location /silent/ {{ proxy_pass http://127.0.0.1:{silent.getsockname()[1]}; proxy_read_timeout 200ms; }}
            location /no-upgrade/ {{ proxy_pass {inner}; }}
            location /http11-only/ {{ proxy_pass {inner}; proxy_http_version 1.1; }}
            location /sign-in/ {{ return 200 '{LOGIN}'; }}
            location /portal/ {{ return 200 '{PORTAL}'; }}
        }}"""
        with nginx(folder / "nginx", blocks) as server:
            yield SimpleNamespace(url=f"wss://localhost:{server.port}", token=load_token())


@pytest.mark.parametrize(
    ("path", "words", "remedy"),
    [
        ("/moved", "HTTP 301, '301 Moved Permanently': it sends to https://lab.example/gpu1, and", "into the URL"),
        ("/login", "HTTP 302, '302 Found': it sends to https://login.example/signin, and", "--header-file"),
        ("/basic", "HTTP 401, '401 Authorization Required': it lets in only who shows a header", "--header-file"),
        ("/denied", "HTTP 403, '403 Forbidden': it lets in only who shows a header", "--header-file"),
        ("/nowhere", "HTTP 404, '404 Not Found': nothing of distmap is at that path", "Compare the path"),
        ("/nobody", "HTTP 502, '502 Bad Gateway': it reaches nothing behind it", "Start distmap-worker"),
        ("/busy", "HTTP 503, '503 Service Temporarily Unavailable': it has nothing to lead to", "runs behind it"),
        ("/silent", "HTTP 504, '504 Gateway Time-out': what it leads to did not answer in time", "firewall"),
        ("/no-upgrade", "it does not pass on the WebSocket upgrade", "proxy_set_header Upgrade"),
        ("/http11-only", "it does not pass on the WebSocket upgrade", "proxy_set_header Upgrade"),
        ("/sign-in", "HTTP 200, 'Sign in · Lab': it is a web page", "Open it in a browser"),
        ("/portal", "HTTP 200, 'Welcome to the Hotel Wi-Fi': it is a web page", "login page of the network"),
    ],
)
def test_an_answer_is_one_sentence(hop: SimpleNamespace, path: str, words: str, remedy: str) -> None:
    """It names the host that answered and its software, the status, what the answer says, and what to do."""
    with pytest.raises(ConnectError) as caught:
        dialled(hop.url + path, hop.token)
    sentence = str(caught.value)
    assert sentence.startswith(f"{hop.url}{path}: localhost (nginx")
    assert words in sentence
    assert remedy in sentence
    assert "\n" not in sentence
    assert "s3cret" not in sentence


def test_a_url_without_tls_for_a_port_with_it(hop: SimpleNamespace) -> None:
    """Who writes ws:// where wss:// is meant is told so."""
    with pytest.raises(ConnectError, match=r"HTTP 400, '400 The plain HTTP .*': that port is for TLS: write wss://"):
        dialled(hop.url.replace("wss://localhost", "ws://127.0.0.1"), hop.token)
