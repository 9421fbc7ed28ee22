"""Workers and pools behind nginx, with the settings that the guide shows."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Certificate, certificate
from support.nginx import Nginx

import distmap
from distmap.core.limits import LIMITS
from distmap.engine.hub import HubEngine
from distmap.testing.workers import WorkerProcess

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "reverse-proxies.md"
ITEMS = 40


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
def noted(tmp_path: Path) -> tuple[Callable[[int], int], Callable[[], Counter[int]]]:
    """A function that notes each of its runs, and what was noted: item -> runs."""
    path = str(tmp_path / "runs")

    def run(item: int) -> int:
        import os
        import time

        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"%d\n" % item)
        os.close(descriptor)
        time.sleep(0.02)
        return -item

    return run, lambda: Counter(map(int, Path(path).read_text().split())) if os.path.exists(path) else Counter()


def survives_a_restart(
    pool: distmap.Pool, server: Nginx, noted: tuple[Callable[[int], int], Callable[[], Counter[int]]], until: Any
) -> None:
    """A map during which nginx is ended and started again: the session goes on, and no item runs twice."""
    run, runs = noted
    job = pool.map_async(run, range(ITEMS), chunksize=2)
    until(lambda: len(runs()) >= 5)
    server.stop()
    server.start()
    assert job.result(18) == [-item for item in range(ITEMS)]
    assert set(runs().values()) == {1}
    stats = dict(job.stats)
    assert stats["resumes"] >= 1
    assert (stats["losses"], stats["requeued"]) == (0, 0)


def test_a_pool_dials_a_worker_behind_nginx(
    before: Callable[..., Nginx], signed: Certificate, noted: Any, until: Any
) -> None:
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
            survives_a_restart(pool, server, noted, until)


def test_a_worker_dials_a_pool_behind_nginx(
    before: Callable[..., Nginx],
    signed: Certificate,
    noted: Any,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Silence of both programs outlasts the limit of nginx, as beats are data both ways; a restart costs nothing."""
    # The pool beats faster, and the worker answers each beat.
    monkeypatch.setitem(HubEngine.__init__.__kwdefaults__, "limits", LIMITS._replace(beat_every=0.4))
    with distmap.Pool(listen=True) as pool:
        server = before("/pool/", pool.url, "proxy_read_timeout 2s; proxy_send_timeout 2s;")
        url = f"wss://localhost:{server.port}/pool/"
        with WorkerProcess("--slots", "1", "--name", "lab7", "--ca", str(signed.ca), url) as worker:
            pool.wait_for_workers(1, 15)
            assert [one.way for one in pool.workers] == ["end to end through a proxy"]
            began = time.monotonic()
            until(lambda: time.monotonic() - began > 3.5)
            assert pool.map(abs, [-1]) == [1]
            assert dict(pool.last.stats)["resumes"] == 0
            assert not [line for line in worker.stderr if "out of reach" in line]
            survives_a_restart(pool, server, noted, until)
