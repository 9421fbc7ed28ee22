"""Section 7: which hop failed, who serves whom, and what is left when a worker cannot go on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import distmap
from distmap.engine import hub
from distmap.errors import ConnectError, NoWorkers, WorkerBusy
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import load_token
from distmap.transport.url import WorkerURL
from distmap.worker import supervisor
from distmap.worker.supervisor import Settings, Supervisor

#: Beyond this machine, so that a proxy is asked; nobody is there.
AWAY = "wss://10.255.255.1:8786"

PROXIES = {
    "socks": (
        "socks5h://me:secret@127.0.0.1:1",
        r"pip install 'distmap\[socks\]'|nothing listens at the proxy socks5h",
    ),
    "an unknown scheme": ("ftp://me:secret@127.0.0.1:1", r"is none that can be used \(scheme ftp"),
    "no scheme": ("127.0.0.1:1", r"nothing listens at the proxy http://127\.0\.0\.1:1"),
    "a port that is no number": ("http://127.0.0.1:high", r"is none that can be used"),
    "nothing listens": (
        "http://me:secret@127.0.0.1:1",
        r"^wss://10\.255\.255\.1:8786: nothing listens at the proxy http://127",
    ),
}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the proxy of the environment."""
    for name in ("http", "https", "all", "no", "ws", "wss", "socks"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    return lambda url: monkeypatch.setenv("https_proxy", url)


@pytest.mark.parametrize(("url", "says"), PROXIES.values(), ids=PROXIES)
def test_a_pool_names_the_proxy_as_the_hop_that_failed(url: str, says: str, proxy: Callable[[str], None]) -> None:
    """Not the worker behind it, and whatever the library raises; the password is not shown."""
    proxy(url)
    with distmap.Pool(AWAY, connect_timeout=0.3) as pool:
        with pytest.raises(NoWorkers, match=r"set NO_PROXY=10\.255\.255\.1 if none is needed") as caught:
            pool.map(abs, [1])
        cause = caught.value.__cause__
        assert isinstance(cause, ConnectError)
        with pytest.raises(ConnectError, match=says):
            raise cause
        assert "secret" not in str(caught.value)


def test_a_worker_names_the_proxy_and_tries_again(proxy: Callable[[str], None]) -> None:
    """`distmap-worker URL` the same, in one line of its log, without a traceback."""
    proxy("ftp://127.0.0.1:1")
    command = [sys.executable, "-m", "distmap.worker.cli", AWAY, "--slots", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        lines = []
        for line in worker.stderr:
            lines.append(line)
            if "trying again" in line:
                break
        worker.terminate()
        rest = worker.stderr.read()
    assert "the proxy ftp://127.0.0.1:1 is none that can be used" in lines[-1]
    assert "Traceback" not in "".join(lines) + rest
    assert worker.returncode == 0


def test_a_bug_while_dialling_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an attempt to connect raises, it is told, and the URL is dialled again."""
    tried = threading.Semaphore(0)

    async def broken(*args: Any, **kwargs: Any) -> None:
        tried.release()
        raise ZeroDivisionError("of the library's own")

    monkeypatch.setattr(hub, "dial", broken)
    with distmap.Pool(AWAY, connect_timeout=1) as pool:
        with pytest.raises(NoWorkers, match="of the library's own"):
            pool.map(abs, [1])
        assert all(tried.acquire(timeout=10) for _ in range(3))


@pytest.fixture
def served(token_file: object) -> Iterator[Callable[[], str]]:
    """Starts a worker in a thread of this process; gives its URL. It has left at the end, with the exit code 0."""
    loop = asyncio.new_event_loop()
    url: Any = loop.create_future()
    codes: list[int] = []
    ready = threading.Event()
    worker: list[Supervisor] = []

    async def serve() -> None:
        def announce(line: str) -> None:
            url.set_result(line.rpartition(" ")[2])
            ready.set()

        worker.append(Supervisor(Settings("w", 1, load_token(), drain=0.0), announce=announce))
        codes.append(await worker[0].listen(WorkerURL("127.0.0.1", 0)))

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))

    def start() -> str:
        thread.start()
        assert ready.wait(10)
        return str(url.result())

    yield start
    loop.call_soon_threadsafe(worker[0].terminate, "test")
    thread.join(15)
    loop.close()
    assert codes == [0]


@pytest.mark.parametrize("failures", [1, 2, 99])
def test_a_worker_that_cannot_start_processes_takes_no_pool(
    failures: int, served: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old ones end at once, it says why it takes nobody, and it serves the next pool as soon as it can."""
    real, made = supervisor.PoolSession, 0

    def session(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        made += 1
        if 1 < made <= 1 + failures:
            raise OSError(11, "Resource temporarily unavailable")
        return real(*args, **kwargs)

    monkeypatch.setattr(supervisor, "PoolSession", session)
    url = served()
    with distmap.Pool(url) as pool:
        assert pool.map(abs, [-1]) == [1]
    if failures < 99:
        with distmap.Pool(url) as pool:
            assert pool.map(abs, [-2]) == [2]
    else:
        with (
            distmap.Pool(url, connect_timeout=0.3) as pool,
            pytest.raises(NoWorkers, match="it cannot start its task processes now"),
        ):
            pool.map(abs, [-2])


def test_a_worker_is_busy_whatever_its_pool_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in which nothing is printable lets nobody else in."""
    with WorkerProcess("--port", "0", "--slots", "1") as worker:
        info = hub.pool_info()
        with monkeypatch.context() as patch:
            patch.setattr(hub, "pool_info", lambda: {**info, "name": "\u200b"})
            first = distmap.Pool(worker.url)
        with first:
            assert first.map(abs, [-1]) == [1]
            with (
                distmap.Pool(worker.url, connect_timeout=0.3) as second,
                pytest.raises(NoWorkers, match="is busy: it serves of unknown name") as caught,
            ):
                second.map(abs, [-2])
            assert isinstance(caught.value.__cause__, WorkerBusy)
            assert first.map(abs, [-3]) == [3]
