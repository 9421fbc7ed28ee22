"""A proxy that lets in only who shows a header: read from a file, for each connection, and never shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from support.certificates import certificate
from support.dialled import dialled
from support.nginx import Nginx
from support.noted import Noted
from support.waiting import until

import distmap
from distmap.errors import ConnectError
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import load_token

pytestmark = pytest.mark.usefixtures("no_proxies")

FIRST, SECOND = "Bearer first-s3cret", "Bearer second-s3cret"


def demands(value: str, to: str, signed: SimpleNamespace) -> str:
    """An nginx that leads to a port of distmap who shows this value."""
    return f"""
    server {{
        listen 127.0.0.1:@PORT@ ssl;
        ssl_certificate {signed.cert};
        ssl_certificate_key {signed.key};
        location / {{
            if ($http_authorization != "{value}") {{ return 401 "Who are you?"; }}
            proxy_pass {to.replace("ws://", "http://")};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }}
    }}"""


@pytest.fixture
def header_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the file of headers, anew each time."""

    def write(value: str) -> Path:
        path = tmp_path / "headers"
        path.touch(mode=0o600)
        path.write_text(f"# for nginx\nAuthorization: {value}\nX-Lab: 7\n")
        return path

    return write


@pytest.fixture
def hop(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """The place for an nginx before a port of distmap."""
    signed = certificate(tmp_path, "hop")
    made: list[Nginx] = []

    def start(value: str, to: str) -> Nginx:
        made.append(Nginx(tmp_path / "nginx", demands(value, to, signed)))
        made[0].start()
        return made[0]

    yield SimpleNamespace(start=start, signed=signed, ca=signed.ca)
    for server in made:
        server.stop()


def test_the_header_is_demanded_and_never_shown(
    hop: SimpleNamespace, header_file: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Without it, with a wrong one and with the right one: one sentence each, and no text has the value."""
    caplog.set_level(logging.DEBUG)
    with WorkerProcess("--base-path", "/", "--port", "0", "--slots", "1") as worker:
        server = hop.start(FIRST, worker.url)
        url, token = f"wss://localhost:{server.port}/", load_token()
        with pytest.raises(
            ConnectError, match=r"HTTP 401, 'Who are you\?': it lets in only who shows a header"
        ) as none:
            dialled(url, token, ca=hop.ca)
        assert "--header-file, DISTMAP_HEADER_FILE" in str(none.value)
        with pytest.raises(ConnectError, match="it does not accept the headers that were sent") as wrong:
            dialled(url, token, ca=hop.ca, headers={"Authorization": SECOND})
        path = header_file(FIRST)
        with distmap.Pool(url, ca=hop.ca, headers=path) as pool:
            assert pool.map(abs, [-1]) == [1]
            texts = [repr(pool), repr(pool.workers), repr(vars(pool)), *map(str, (none.value, wrong.value))]
        assert "s3cret" not in "".join([*texts, *worker.stderr, *worker.stdout, caplog.text])
        path.chmod(0o644)
        with pytest.raises(ConnectError, match=r"header file .* is open to others \(mode 0644\); do: chmod 600"):
            dialled(url, token, ca=hop.ca, headers=path)


def test_an_untrusted_hop_is_not_shown_the_header(hop: SimpleNamespace, header_file: Callable[[str], Path]) -> None:
    """Its log has requests without the header only, as its certificate is not known."""
    with WorkerProcess("--base-path", "/", "--port", "0", "--slots", "1") as worker:
        server = hop.start(FIRST, worker.url)
        with pytest.raises(ConnectError, match="headers are sent only to a host that is trusted"):
            dialled(f"wss://localhost:{server.port}/", load_token(), headers=header_file(FIRST))
        # With the header it would have been let in.
        assert [line.split('"')[2].split()[0] for line in until(lambda: server.requests)] == ["401"]


def test_a_token_that_is_replaced_while_a_map_runs(
    hop: SimpleNamespace, header_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """A worker reads the file for each connection: with the new token its session goes on, and nothing runs twice."""
    noted = Noted(tmp_path)
    with distmap.Pool(listen=True) as pool:
        server = hop.start(FIRST, pool.url)
        path = header_file(FIRST)
        command = ["--slots", "1", "--ca", str(hop.ca), "--header-file", str(path), f"wss://localhost:{server.port}/"]
        with WorkerProcess(*command) as worker:
            pool.wait_for_workers(1, 15)
            job = pool.map_async(noted.run, range(20), chunksize=2)
            until(noted.is_held)
            server.stop()
            server.write(demands(SECOND, pool.url, hop.signed))
            server.start()
            until(lambda: [line for line in server.requests if '" 401 ' in line])  # the old token
            header_file(SECOND)
            noted.go_on()
            assert job.result(18) == [-item for item in range(20)]
            assert set(noted.runs().values()) == {1}
            assert dict(job.stats)["resumes"] >= 1
            process = psutil.Process(worker.pid)
            said = [*worker.stderr, *worker.stdout, *process.cmdline(), *process.environ().values()]
            assert not [line for line in said if "s3cret" in line]
