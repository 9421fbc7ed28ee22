"""Both sides behind NAT, nothing in common: a real distmap-relay, alone, behind nginx and behind a Jupyter server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import certificate
from support.nginx import nginx
from support.relays import Guest, relaying_at
from support.services import free_port, needs, running
from support.waiting import until

from distmap import Pool
from distmap.core.relay_limits import RELAY
from distmap.errors import NoWorkers
from distmap.relay import relay as module
from distmap.testing.workers import WorkerProcess

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@contextlib.contextmanager
def relay_on(port: int, log: Path) -> Iterator[Any]:
    """A real relay on that port."""
    with running([sys.executable, "-m", "distmap.relay.cli", "--port", str(port)], log, port=port) as process:
        yield process


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real relay of the tests of this file; each test has a token of its own, and so a room."""
    port = free_port()
    with relay_on(port, tmp_path_factory.mktemp("relay") / "log"):
        yield f"ws://127.0.0.1:{port}"


def why_nobody_comes(pool: Pool, sentence: str) -> str:
    """What the pool says; waits until it is this."""

    def said() -> str:
        with pytest.raises(NoWorkers) as failed:
            pool.wait_for_workers(1, 0.1)
        return str(failed.value) if re.search(sentence, str(failed.value)) else ""

    return str(until(said, 15, sentence))


def worker_at(url: str, *args: str, **options: Any) -> WorkerProcess:
    return WorkerProcess("--relay", url, "--slots", "1", *args, **options)


def test_a_pool_and_its_workers_meet(relay: str, token_file: Path) -> None:
    """Results, data both ways, errors with the worker's name; the pool prints the line; nothing shows the token."""
    with Pool(relay=relay) as pool:
        assert pool.url == relay
        assert pool.worker_command().startswith(f"distmap-worker --relay {relay}\n")
        assert f"at relay {relay}" in repr(pool)
        with worker_at(relay, "--name", "ann") as first, worker_at(relay, "--name", "bob") as second:
            assert sorted(one.name for one in pool.wait_for_workers(2, 20)) == ["ann", "bob"]
            assert {one.way for one in pool.workers} == {"end to end through a proxy"}
            assert first.line("stdout", "registered") == f"registered with {relay}"
            assert pool.map(lambda x: x * x, range(200)) == [x * x for x in range(200)]
            data = [bytes([x]) * 1_000_000 for x in range(6)]
            assert pool.map(lambda block: block[:1] * 700_000, data) == [bytes([x]) * 700_000 for x in range(6)]
            with pytest.raises(ZeroDivisionError) as caught:
                pool.map(lambda x: 1 // (x - 5), range(20))
            assert any(name in "".join(caught.value.__notes__) for name in ("ann", "bob"))
            check = pool.check()[0]
            assert check.ok, check
            token = token_file.read_text().strip()
            said = "\n".join([*first.stderr, *second.stderr, repr(pool), repr(check), pool.worker_command()])
            assert token not in said
            assert token.split("_")[2] not in said


def test_who_comes_first_waits(relay: str) -> None:
    """A worker says that it waits, and is there as soon as its pool is; it waits for the next pool of its room."""
    with worker_at(relay) as worker:
        assert worker.line("stderr", "waiting at").endswith(f"waiting at {relay} for a pool")
        for _ in range(2):
            with Pool(relay=relay) as pool:
                assert pool.map(str, range(3)) == ["0", "1", "2"]


def test_two_pools_with_one_token_use_two_rooms(relay: str) -> None:
    """The second pool says what to do; with rooms of their own each has its own worker, and takes no other."""
    with Pool(relay=relay), Pool(relay=relay) as second:
        said = why_nobody_comes(second, r"another pool with this token uses the relay.*\?room=NAME")
        assert f"distmap-worker --relay {relay}" in said
    rooms = [f"{relay}?room={name}" for name in ("day", "night")]
    with (
        Pool(relay=rooms[0]) as day,
        Pool(relay=rooms[1]) as night,
        worker_at(rooms[0], "--name", "ann"),
        worker_at(rooms[1], "--name", "bob"),
    ):
        assert night.worker_command().startswith(f"distmap-worker --relay '{rooms[1]}'\n")
        assert [one.name for one in day.wait_for_workers(1, 20)] == ["ann"]
        assert [one.name for one in night.wait_for_workers(1, 20)] == ["bob"]
        assert day.map(str, [1]) == night.map(str, [1]) == ["1"]


def test_a_relay_that_restarts_in_the_middle_of_a_map(tmp_path: Path) -> None:
    """Polite or not, its end costs time only: sessions go on, each item is computed once."""
    port, ran, gate = free_port(), tmp_path / "ran", tmp_path / "gate"
    url = f"ws://127.0.0.1:{port}"

    def work(item: int) -> int:
        with open(ran, "a") as file:
            file.write(f"{item}\n")
        until(gate.exists, 20) if item >= 40 else None
        return item

    current: list[Any] = []
    with contextlib.ExitStack() as relays, Pool(relay=url) as pool:
        current.append(relays.enter_context(relay_on(port, tmp_path / "log")))
        with worker_at(url, "--name", "ann") as ann, worker_at(url, "--name", "bob") as bob:
            pool.wait_for_workers(2, 20)
            job = pool.map_async(work, range(60), chunksize=1, progress=False)
            for number in (signal.SIGTERM, signal.SIGKILL):
                until(lambda: len(ran.read_text().splitlines()) >= 42 if ran.exists() else False)
                current[-1].send_signal(number)
                current[-1].wait(10)
                relays.close()
                until(lambda: {one.state for one in pool.workers} == {"reconnecting"})
                current.append(relays.enter_context(relay_on(port, tmp_path / "log")))
                until(lambda: {one.state for one in pool.workers} == {"ready"}, 20)
            gate.touch()
            assert job.get(20) == list(range(60))
            assert sorted(map(int, ran.read_text().split())) == list(range(60))
            for worker in (ann, bob):
                assert len([line for line in worker.stderr if " joined (" in line]) == 1


def test_a_kernel_that_is_gone_and_its_successor(relay: str, tmp_path: Path) -> None:
    """A pool that dies without a word leaves its room to the next one, which gets the worker."""
    code = (
        f"from distmap import Pool; pool = Pool(relay={relay!r}); pool.wait_for_workers(1, 20); "
        "print('there', flush=True); input()"
    )
    with worker_at(relay) as worker:
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as kernel:
            assert kernel.stdout is not None
            assert kernel.stdout.readline() == "there\n"
            kernel.kill()
        with Pool(relay=relay) as pool:
            assert pool.map(str, [1]) == ["1"]
        assert worker.process.poll() is None


def test_no_relay_there(tmp_path: Path) -> None:
    """Both sides say that none listens, and a worker with --retry ends with that. When one comes, both are there."""
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    with worker_at(url, "--retry", "0.2") as worker:
        assert worker.wait(20) == 2
        worker.line("stderr", f"nothing listens on port {port} of 127.0.0.1 (connection refused); start distmap-relay")
    with Pool(relay=url) as pool:
        why_nobody_comes(pool, "start distmap-relay there")
        check = pool.check()[0]
        assert check.failed is not None
        assert check.failed.name == "TCP"
        with relay_on(port, tmp_path / "log"), worker_at(url):
            pool.wait_for_workers(1, 20)
            assert pool.map(str, [1]) == ["1"]


def test_no_pool_there(relay: str) -> None:
    """A worker with --retry, and one that only checks the way, say that nobody came."""
    with worker_at(relay, "--retry", "0.2") as worker:
        assert worker.wait(20) == 2
        worker.line("stderr", "no pool with this token came to the relay for 0.2 s")


@pytest.fixture(scope="module")
def proxied(relay: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """The address of the relay behind an nginx that ends TLS and wants a header; its CA, and a file with the header."""
    folder = tmp_path_factory.mktemp("nginx")
    shown = certificate(folder)
    header = folder / "header"
    header.touch(mode=0o600)
    header.write_text("X-Relay-Key: sesame\n")
    blocks = f"""
    server {{
        listen 127.0.0.1:@PORT@ ssl;
        ssl_certificate {shown.cert};
        ssl_certificate_key {shown.key};
        location /meet/here/ {{
            if ($http_x_relay_key != "sesame") {{ return 403; }}
            proxy_pass {relay.replace("ws", "http", 1)}/;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }}
    }}
    """
    with nginx(folder / "nginx", blocks) as server:
        yield f"wss://127.0.0.1:{server.port}/meet/here/", shown.ca, header


def test_behind_nginx(proxied: tuple[str, Path, Path], relay: str) -> None:
    """With TLS of nginx, a path and a header that it demands: the options for a proxy hold for the way to the relay."""
    url, ca, header = proxied
    with worker_at(url, "--ca", str(ca), "--header-file", str(header)) as worker:
        worker.line("stderr", "waiting at wss://")
        with Pool(relay=url, ca=ca, headers=header) as pool:
            assert pool.url == url.rstrip("/")
            data = [bytes([x]) * 1_000_000 for x in range(4)]
            assert pool.map(lambda block: block[:1] * 700_000, data) == [bytes([x]) * 700_000 for x in range(4)]
            assert pool.check().ok


@pytest.mark.parametrize(
    ("left_out", "sentence"),
    [("ca", "certificate that 127.0.0.1 shows is not trusted"), ("headers", "HTTP 403.*headers=, --header-file")],
)
def test_nginx_refuses(proxied: tuple[str, Path, Path], left_out: str, sentence: str) -> None:
    """The pool says what is missing for the way to the relay."""
    url, ca, header = proxied
    options = {"ca": ca, "headers": header}
    del options[left_out]
    with Pool(relay=url, **options) as pool:
        why_nobody_comes(pool, sentence)


def test_who_waits_outlives_the_idle_limit_of_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nginx cuts what is idle for a second here; the relay's signs of life come five times as often."""
    monkeypatch.setattr(module, "RELAY", RELAY._replace(beat=0.2))

    async def main() -> None:
        async with relaying_at() as url:
            blocks = f"""
            server {{
                listen 127.0.0.1:@PORT@;
                location / {{
                    proxy_pass {url.replace("ws", "http", 1)}/;
                    proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection "upgrade";
                    proxy_read_timeout 1s;
                }}
            }}
            """
            with nginx(tmp_path / "nginx", blocks) as server:
                guest = await Guest.pool(f"ws://127.0.0.1:{server.port}")
                for _ in range(12):
                    assert (await guest.notice()).kind == "waiting"
                    await guest.link.send("{}")
                worker = await Guest.worker(f"ws://127.0.0.1:{server.port}")
                assert (await worker.notice()).kind == "paired"
                for one in (guest, worker):
                    await one.link.close()

    asyncio.run(main())


@pytest.mark.timeout(60)
def test_a_jupyter_server_as_meeting_place(relay: str, tmp_path: Path) -> None:
    """Its proxy leads to a relay on its machine: both sides come in with the token of the server."""
    from importlib.util import find_spec

    needs(find_spec("jupyter_server_proxy") is not None, "jupyter-server-proxy")
    from support.jupyter_servers import server

    token = uuid.uuid4().hex
    header = tmp_path / "header"
    header.touch(mode=0o600)
    header.write_text(f"Authorization: token {token}\n")
    with server(tmp_path, free_port(), token) as home:
        url = f"{home}/proxy/{relay.rpartition(':')[2]}/"
        with worker_at(url, "--header-file", str(header)) as worker, Pool(relay=url, headers=header) as pool:
            assert pool.map(lambda x: x + 1, range(10)) == list(range(1, 11))
            assert pool.worker_command().startswith(f"distmap-worker --relay {url.replace('http', 'ws').rstrip('/')}\n")
            assert token not in "\n".join(worker.stderr)
        nowhere = f"{home}/proxy/{free_port()}/"
        with Pool(relay=nowhere, headers=header) as pool:
            why_nobody_comes(pool, "see that distmap-relay runs there")
