"""The check of ways through a real nginx: one that is good, and those that it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import Certificate, certificate
from support.nginx import Nginx, nginx
from support.services import free_port

from distmap import Pool
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import Secret

UPGRADE = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token that outlives a test."""
    path = tmp_path_factory.mktemp("token") / "token"
    path.touch(mode=0o600)
    path.write_text(Secret.generate().reveal(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def worker(token: Path) -> Iterator[WorkerProcess]:
    options = ("--base-path", "/", "--port", "0", "--slots", "1", "--name", "gpu1")
    with WorkerProcess(*options, token_file=token) as process:
        process.line("stdout", "listening")
        yield process


@pytest.fixture(scope="module")
def server(worker: WorkerProcess, signed: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """An nginx that leads /gpu1/ to the worker, /down/ to nobody, and keeps all from /closed/."""
    port = worker.line("stdout", "listening").rpartition(":")[2].rstrip("/")
    blocks = f"""
    server {{
        listen 127.0.0.1:@PORT@ ssl;
        ssl_certificate {signed.cert};
        ssl_certificate_key {signed.key};
        location /gpu1/ {{ {UPGRADE} proxy_pass http://127.0.0.1:{port}/; }}
        location /down/ {{ {UPGRADE} proxy_pass http://127.0.0.1:{free_port()}/; }}
        location /closed/ {{ deny all; }}
        location /old/ {{ proxy_pass http://127.0.0.1:{port}/; }}
        location /page/ {{ default_type text/html; return 200 "<html><title>Please log in</title></html>"; }}
    }}
    """
    with nginx(tmp_path_factory.mktemp("nginx") / "one", blocks) as running:
        yield running


@pytest.fixture
def pool(signed: Certificate, token: Path) -> Iterator[Pool]:
    with Pool(1, ca=signed.ca, token=token.read_text(encoding="utf-8")) as pool:
        yield pool


def test_a_way_through_nginx(server: Nginx, worker: WorkerProcess, pool: Pool) -> None:
    """Who signed its certificate, which server it is, and that the two ends speak TLS inside."""
    found = pool.check(f"wss://localhost:{server.port}/gpu1")
    assert found.ok, found
    assert found["TLS"].facts["issuer"] == "proxy authority"
    assert found["TLS"].facts["trusted"] is True
    assert found["TLS"].facts["direct"] is False
    assert found["HTTP upgrade"].facts["server"].startswith("nginx")
    assert found["inner TLS"].state == "ok"
    assert found.peer["name"] == "gpu1"
    worker.line("stderr", "checked by pool")
    assert not any("joined" in line for line in worker.stderr)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("down", 502, "502 Bad Gateway"),
        ("closed", 403, "403 Forbidden"),
        ("nowhere", 404, "404 Not Found"),
        ("old", 505, None),
        ("page", 200, "Please log in"),
    ],
)
def test_an_upgrade_that_nginx_ends(path: str, status: int, body: str | None, server: Nginx, pool: Pool) -> None:
    """Status, title of the page, and what to do about it."""
    found = pool.check(f"wss://localhost:{server.port}/{path}")
    assert found.failed == found["HTTP upgrade"], found
    assert found["HTTP upgrade"].facts["status"] == status
    assert f"HTTP {status}" in found["HTTP upgrade"].words
    if body is not None:
        assert found["HTTP upgrade"].facts["body"] == body
        assert body in found["HTTP upgrade"].words
    if path == "old":  # as nginx does where nothing is set
        assert "proxy_http_version 1.1" in found["HTTP upgrade"].words


def test_nginx_with_a_certificate_that_is_not_trusted(server: Nginx) -> None:
    """The pool that knows no authority for it is told who signed it."""
    with Pool(1) as pool:
        found = pool.check(f"wss://localhost:{server.port}/gpu1")
    assert found.failed == found["TLS"], found
    assert "signed by proxy authority" in found["TLS"].words
    assert found["TLS"].facts["trusted"] is False
