"""Workers that come through jupyter-server-proxy of a plain Jupyter server, without a hub."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.jupyter_servers import server
from support.optional import needs
from support.services import free_port

from distmap import Pool
from distmap.errors import ConnectError
from distmap.testing.workers import WorkerProcess
from distmap.transport.dial import dial
from distmap.transport.first_hop import FirstHop, Headers
from distmap.transport.identity import worker_info
from distmap.transport.token import load_token
from distmap.transport.url import parse_url

TOKEN = "of-the-server"
#: More than the 10 MiB that the proxy takes in one message.
LARGE = 12 << 20


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    needs(find_spec("jupyter_server_proxy") is not None, "jupyter-server-proxy")


def gated(go: Path) -> Callable[[bytes], bytes]:
    """A function that gives back what it gets, once a file is there."""

    def echo(data: bytes) -> bytes:
        import time

        end = time.monotonic() + 30
        while not go.exists() and time.monotonic() < end:
            time.sleep(0.01)
        return data[::-1]

    return echo


@pytest.mark.timeout(90)
def test_a_server_that_is_restarted_costs_nothing(tmp_path: Path) -> None:
    """The worker goes on with what it has meanwhile, and hands it over: large inputs and results, none run twice."""
    port, go, headers = free_port(), tmp_path / "go", tmp_path / "headers"
    headers.touch(mode=0o600)
    headers.write_text(f"Authorization: token {TOKEN}\n")
    data = [bytes([number]) * LARGE for number in range(2)]
    with Pool(listen=f"http://127.0.0.1:{port}/here/lab/tree/fit.ipynb?reset") as pool:
        url = str(pool.url)
        assert url.startswith(f"ws://127.0.0.1:{port}/here/proxy/")
        assert pool.worker_command().startswith(f"distmap-worker {url}\n# It asks for the token of this Jupyter server")
        with WorkerProcess(url, "--slots", "2", "--header-file", str(headers)) as worker:
            with server(tmp_path, port, TOKEN):
                pool.wait_for_workers(1, 30)
                job = pool.map_async(gated(go), data, chunksize=1, progress=False)
                worker.line("stderr", "function received")
            worker.line("stderr", "is out of reach")
            go.touch()
            with server(tmp_path, port, TOKEN):
                assert job.get(60) == data
                worker.line("stderr", "is back after")
                (member,) = pool.workers
                assert member.way == "end to end through a proxy"
                assert (job.stats["requeued"], job.stats["duplicates"]) == (0, 0)
                pool.terminate()


@pytest.mark.timeout(60)
def test_a_server_without_the_proxy_is_told(tmp_path: Path) -> None:
    """What is missing there is named, with the command that installs it."""
    port = free_port()
    with server(tmp_path, port, TOKEN, proxy=False) as url, pytest.raises(ConnectError) as failed:
        asyncio.run(
            dial(
                parse_url(f"{url.replace('http', 'ws', 1)}/proxy/41234"),
                token=load_token(),
                role="worker",
                info=worker_info(name="far", slots=1, tags=frozenset()),
                hop=FirstHop(Headers({"Authorization": f"token {TOKEN}"})),
            )
        )
    assert "has no jupyter-server-proxy" in str(failed.value)
    assert "pip install jupyter-server-proxy" in str(failed.value)
