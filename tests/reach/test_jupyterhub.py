"""Workers that come through a JupyterHub into a running kernel: hub, proxy, spawner, server and kernel are real."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.jupyter_servers import Hub, Kernel, hub
from support.optional import needs
from support.terminals import terminal
from support.waiting import eventually

from distmap.core.limits import Limits
from distmap.errors import AuthenticationError, DistmapError
from distmap.testing.workers import WorkerProcess
from distmap.transport.check import check
from distmap.transport.dial import dial, nothing_listens
from distmap.transport.first_hop import FirstHop, Headers
from distmap.transport.hop_report import HopReport
from distmap.transport.identity import worker_info
from distmap.transport.token import Secret, load_token
from distmap.transport.url import parse_url
from distmap.worker.supervisor import OK, Settings, Supervisor

# The servers of the hub come and go with the tests; the fixture ends them all.
pytestmark = [pytest.mark.own_leaks("processes"), pytest.mark.timeout(90)]

#: All that a pool says goes into a file, that of its libraries too; its heartbeats are frequent.
FIRST_CELL = """
import logging
import distmap.core.limits as limits
logging.basicConfig(level=logging.DEBUG, filename="pool.log", force=True)
limits.LIMITS = limits.LIMITS._replace(beat_every=0.1)
from distmap import Pool
pool = Pool(listen=True)
print(pool.url)
"""


@pytest.fixture(scope="module", name="hub")
def _hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with the server of ann; bob may have one, and has none."""
    for package in ("jupyterhub", "jupyter_server_proxy"):
        needs(_is_installed(package), package)
    with hub(tmp_path_factory.mktemp("hub")) as found:
        found.start("ann")
        found.ask("users/bob", "POST")
        yield found


def _is_installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


@pytest.fixture(autouse=True)
def same_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools in the hub's kernels have the token of the time when it was started."""
    monkeypatch.setenv("DISTMAP_TOKEN_FILE", hub.token_file)


@pytest.fixture
def kernel(hub: Hub) -> Iterator[Kernel]:
    """A kernel of ann's, without a pool."""
    with hub.kernel("ann") as found:
        yield found


def token_of(hub: Hub, user: str) -> str:
    """The narrowest token that a worker can come with."""
    return hub.token(user, f"access:servers!server={user}/")


def header_file(folder: Path, token: str) -> Path:
    path = folder / "headers"
    path.touch(mode=0o600)
    path.write_text(f"Authorization: token {token}\n")
    return path


def test_one_pasted_line_brings_a_worker_into_the_kernel(hub: Hub, kernel: Kernel, tmp_path: Path) -> None:
    """The line that the pool prints is enough: the worker asks for the two tokens, and keeps them if wanted."""
    url = kernel.run(FIRST_CELL).strip()
    assert url.startswith(f"{hub.url.replace('http', 'ws')}/user/ann/proxy/")
    line, *notes = kernel.run("pool.worker_command()").splitlines()
    assert line == f"distmap-worker {url}"
    assert f"{hub.url}/hub/token with the scope `access:servers!server=ann/" in notes[0]
    login, token = token_of(hub, "ann"), load_token().reveal()
    with terminal(tmp_path, *line.split()[1:], "--slots", "2", "--name", "far") as worker:
        worker.until("not shown): ")
        assert f"{hub.url}/hub/token" in worker.shown
        worker.type(login)
        worker.until("not shown): ")
        worker.type(token)
        worker.until("[y/N] ")
        assert login not in worker.shown
        assert token not in worker.shown
        worker.type("y")
        worker.until("end to end through a proxy")
        code = "print(pool.map(lambda x: x * x, range(4), progress=False), pool.workers[0].name, pool.workers[0].way)"
        assert kernel.run(code).strip() == "[0, 1, 4, 9] far end to end through a proxy"
    kept = sorted((tmp_path / ".config" / "distmap").glob("127.0.0.1_*/*"))
    assert [path.name for path in kept] == ["headers", "token"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


def test_each_way_that_fails_has_its_sentence(hub: Hub, kernel: Kernel) -> None:
    """No token, that of another user, nobody at the port, a server that does not run, a page, a wrong pool's token."""
    url = kernel.run(FIRST_CELL).strip()
    port = url.rpartition("/")[2]
    ann, bob = token_of(hub, "ann"), token_of(hub, "bob")

    def why(address: str, token: str | None, secret: Secret | None = None) -> Any:
        hop = FirstHop(Headers({} if token is None else {"Authorization": f"token {token}"}))
        info = worker_info(name="far", slots=1, tags=frozenset())
        with pytest.raises(DistmapError) as failed:
            asyncio.run(dial(parse_url(address), token=secret or load_token(), role="worker", info=info, hop=hop))
        return failed.value

    without = why(url, None)
    assert "the Jupyter server of ann wants a token: make one at" in str(without)
    assert without.wants_login
    wrong = why(url, bob)
    assert "does not accept the token that the headers have" in str(wrong)
    assert bob not in str(wrong)
    nobody = why(url.replace(port, "1"), ann)
    assert "nobody listens on its port 1" in str(nobody)
    assert nothing_listens(nobody)
    stopped = why(url.replace("/ann/", "/bob/"), bob)
    assert "the Jupyter server of bob is not running; start it at" in str(stopped)
    assert not nothing_listens(stopped)
    assert isinstance(why(url, ann, Secret.generate()), AuthenticationError)
    assert "is the address of a page" in str(why(f"{hub.url}/user/ann/lab/tree/fit.ipynb", ann))


def test_a_check_names_the_hop_that_fails(hub: Hub, kernel: Kernel) -> None:
    """A kernel finds itself through the hub with its own token; from elsewhere the hub and the port are told apart."""
    url = kernel.run(FIRST_CELL).strip()
    itself = "Every hop is passed, end to end through a proxy. This pool itself answers."
    assert kernel.run("print(pool.check()[0].summary)").strip() == itself
    ann, bob = token_of(hub, "ann"), token_of(hub, "bob")

    def found(address: str, token: str | None) -> HopReport:
        hop = FirstHop(Headers({} if token is None else {"Authorization": f"token {token}"}))
        return asyncio.run(check(parse_url(address), token=load_token(), hop=hop))

    good = found(url, ann)
    assert good.ok, good
    assert (good["inner TLS"].state, good.peer["role"]) == ("ok", "pool")
    for token in (None, bob):
        refused = found(url, token)
        assert refused.failed == refused["HTTP upgrade"], refused
        assert refused["HTTP upgrade"].facts["status"] == 403
        assert refused["HTTP upgrade"].words.startswith("HTTP 403")
        assert bob not in repr(refused)
    stopped = found(url.replace("/ann/", "/bob/"), bob)
    assert stopped.failed == stopped["HTTP upgrade"], stopped
    assert "is not running; start it at" in stopped["HTTP upgrade"].words
    kernel.run("pool.terminate()")
    nobody = found(url, ann)
    assert nobody.failed == nobody["hello"], nobody
    assert "the Jupyter server there is up, and nobody listens" in nobody["hello"].words


def test_an_idle_worker_does_not_keep_the_server_alive(
    hub: Hub, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """Without work it waits, and the hub's proxy sees no activity; a map calls it back. No header is ever logged."""
    url, token = kernel.run(FIRST_CELL).strip(), token_of(hub, "ann")

    async def main() -> None:
        hop = FirstHop(Headers({"Authorization": f"token {token}"}))
        settings = Settings(name="far", slots=1, token=load_token(), idle=0.3, hop=hop)
        registered: list[str] = []
        worker = Supervisor(settings, announce=registered.append, limits=Limits(beat_every=0.1))
        done = asyncio.create_task(worker.dial(parse_url(url)))
        await eventually(lambda: "to call: no traffic" in caplog.text)
        clock = asyncio.get_running_loop().time

        async def quiet(seconds: float) -> bool:
            before, began = await asyncio.to_thread(hub.last_activity, "ann"), clock()
            await eventually(lambda: clock() > began + seconds)
            return await asyncio.to_thread(hub.last_activity, "ann") == before

        # The goodbye and the dial are on their way at first.
        async with asyncio.timeout(20):
            while not await quiet(0.7):
                pass
        assert len(registered) == 1
        code = "print(f'{pool}', pool.map(abs, [-1], progress=False), pool.workers[0].name)"
        said = await asyncio.to_thread(kernel.run, code)
        assert "0 workers (1 more on call)" in said
        assert said.strip().endswith("[1] far")
        worker.terminate("a test")
        assert await done == OK

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    for log in (caplog.text, kernel.run("print(open('pool.log').read())")):
        assert "joined" in log
        assert token not in log
        assert "authorization" not in log.lower()


def test_a_server_that_was_stopped_and_started_again(hub: Hub, tmp_path: Path) -> None:
    """The worker says that the server does not run; the same notebook has its worker back in the next kernel."""
    headers = header_file(tmp_path, token_of(hub, "ann"))
    with hub.kernel("ann") as kernel:
        url = kernel.run(FIRST_CELL).strip()
        worker = WorkerProcess(url, "--slots", "1", "--header-file", str(headers))
        with worker:
            kernel.run("pool.wait_for_workers(1)")
            hub.stop("ann")
            worker.line("stderr", "the Jupyter server of ann is not running; start it at")
            hub.start("ann")
            with hub.kernel("ann") as again:
                assert again.run(FIRST_CELL).strip() == url
                code = "pool.wait_for_workers(1, 30); print(pool.map(abs, [-1], progress=False))"
                assert again.run(code).strip() == "[1]"
            worker.line("stderr", "registered again")
