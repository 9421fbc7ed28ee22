"""Workers and pools behind nginx, with the settings that the guide shows."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.certificates import Certificate, certificate
from support.nginx import Nginx
from support.noted import Noted
from support.waiting import until

import distmap
from distmap.core.limits import LIMITS
from distmap.engine.hub import HubEngine
from distmap.testing.workers import WorkerProcess

pytestmark = pytest.mark.usefixtures("no_proxies")

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "reverse-proxies.md"
ITEMS = 20


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The certificate of the proxy, by an authority of its own."""
    return certificate(tmp_path_factory.mktemp("certificates"))


def settings_of_the_guide(signed: Certificate, path: str, url: str) -> str:
    """The lines for nginx that the guide shows, for this machine."""
    shown = re.search(r"```nginx\n(server .*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    text = shown[1]
    inner = re.search(r"http://127\.0\.0\.1:\d+", url)
    assert inner is not None, url
    for old, new in {
        "listen 443 ssl": "listen 127.0.0.1:@PORT@ ssl",
        "server_name lab.example": "server_name localhost",
        "/etc/ssl/lab.example.pem": str(signed.cert),
        "/etc/ssl/lab.example.key": str(signed.key),
        "location /gpu1/": f"location {path}",
        "http://127.0.0.1:8786": inner[0],
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def before(tmp_path: Path, signed: Certificate) -> Iterator[Callable[..., Nginx]]:
    """Starts an nginx that leads a path to a URL of distmap."""
    started: list[Nginx] = []

    def start(path: str, url: str, *more: str) -> Nginx:
        text = settings_of_the_guide(signed, path, url.replace("ws://", "http://"))
        for line in more:
            text = text.replace("proxy_http_version", f"{line} proxy_http_version")
        started.append(Nginx(tmp_path / f"nginx{len(started)}", text))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def noted(tmp_path: Path) -> Noted:
    """A function that notes each of its runs."""
    return Noted(tmp_path)


def survives_a_restart(pool: distmap.Pool, server: Nginx, noted: Noted) -> None:
    """A map during which nginx is ended and started again: the session goes on, and no item runs twice."""
    job = pool.map_async(noted.run, range(ITEMS), chunksize=2)
    until(noted.is_held)
    server.stop()
    server.start()
    noted.go_on()
    assert job.result(18) == [-item for item in range(ITEMS)]
    assert set(noted.runs().values()) == {1}
    stats = dict(job.stats)
    assert stats["resumes"] >= 1
    assert (stats["losses"], stats["requeued"]) == (0, 0)


def test_a_pool_dials_a_worker_behind_nginx(before: Callable[..., Nginx], signed: Certificate, noted: Noted) -> None:
    """Large values both ways, and a restart of nginx in the middle of a map; the path says who sees what."""
    with WorkerProcess("--base-path", "/gpu1", "--port", "0", "--slots", "1", "--name", "gpu1") as worker:
        assert re.fullmatch(r"ws://127\.0\.0\.1:\d+/gpu1", worker.url)
        worker.line("stderr", f"lead /gpu1/ to {worker.url.replace('ws:', 'http:').removesuffix('/gpu1')}")
        worker.line("stderr", 'in the notebook:  Pool("wss://HOST-OF-THE-PROXY/gpu1")')
        server = before("/gpu1/", worker.url)
        with distmap.Pool(f"wss://localhost:{server.port}/gpu1/", ca=signed.ca) as pool:
            block = os.urandom(3_000_000)
            assert pool.map(lambda data: data[::-1], [block, block[:5]]) == [block[::-1], block[:5][::-1]]
            assert [one.way for one in pool.workers] == ["end to end through a proxy"]
            assert "end to end through a proxy" in worker.line("stderr", "joined")
            survives_a_restart(pool, server, noted)


def test_a_worker_dials_a_pool_behind_nginx(
    before: Callable[..., Nginx], signed: Certificate, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence of both programs outlasts the limit of nginx, as beats are data both ways; a restart costs nothing."""
    # The pool beats faster, and the worker answers each beat.
    monkeypatch.setitem(HubEngine.__init__.__kwdefaults__, "limits", LIMITS._replace(beat_every=0.4))
    with distmap.Pool(listen=True) as pool:
        server = before("/pool/", pool.url, "proxy_read_timeout 4s; proxy_send_timeout 4s;")
        url = f"wss://localhost:{server.port}/pool/"
        with WorkerProcess("--slots", "1", "--name", "lab7", "--ca", str(signed.ca), url) as worker:
            pool.wait_for_workers(1, 15)
            assert [one.way for one in pool.workers] == ["end to end through a proxy"]
            began = time.monotonic()
            until(lambda: time.monotonic() - began > 5)
            assert pool.map(abs, [-1]) == [1]
            assert dict(pool.last.stats)["resumes"] == 0
            assert not [line for line in worker.stderr if "out of reach" in line]
            survives_a_restart(pool, server, noted)
