"""HTTP proxies on the way out: a real tinyproxy, with and without a login."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.certificates import certificate
from support.dialled import NOT_KNOWN_AS_LOOPBACK, dialled
from support.services import free_port, program, running

import distmap
from distmap.errors import ConnectError
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import load_token

pytestmark = pytest.mark.usefixtures("no_proxies")

LOGIN = "ann:s3cret%41"


class Tinyproxy:
    """One on a port of its own."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self._log = folder / "log"
        self._settings = folder / "tinyproxy.conf"
        folder.mkdir()
        self._settings.write_text(
            "\n".join([f"Port {self.port}", "Listen 127.0.0.1", "Timeout 600", "LogLevel Connect", *lines, ""])
        )

    def run(self) -> contextlib.AbstractContextManager[object]:
        command = [program("tinyproxy"), "-d", "-c", self._settings]
        return running(command, self._log, port=self.port)

    @property
    def led_to(self) -> list[str]:
        """HOST:PORT of each connection that it was asked for."""
        return re.findall(r": CONNECT (\S+) HTTP/1.1$", self._log.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Three of them: open, with a login, and one that leads to port 443 only."""
    folder = tmp_path_factory.mktemp("tinyproxy")
    made = SimpleNamespace(
        open=Tinyproxy(folder / "open"),
        login=Tinyproxy(folder / "login", "BasicAuth ann s3cretA"),
        narrow=Tinyproxy(folder / "narrow", "ConnectPort 443"),
    )
    with made.open.run(), made.login.run(), made.narrow.run():
        yield made


def test_a_pool_goes_out_through_the_proxy_of_the_environment(
    proxies: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`HTTPS_PROXY` is used, `NO_PROXY` excludes, and the TLS of the two ends passes through as it is."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxies.open.port}")
    with WorkerProcess("--port", "0", "--slots", "1") as worker:
        port = worker.url.rpartition(":")[2]
        url = f"wss://{NOT_KNOWN_AS_LOOPBACK}:{port}"
        with distmap.Pool(url) as pool:
            assert pool.map(lambda data: data[::-1], [bytes(500_000) + b"x"]) == [b"x" + bytes(500_000)]
            assert [one.way for one in pool.workers] == ["end to end"]
        asked = [f"{NOT_KNOWN_AS_LOOPBACK}:{port}"]
        assert proxies.open.led_to == asked
        dialled(worker.url, load_token())
        monkeypatch.setenv("NO_PROXY", f"gpu1,{NOT_KNOWN_AS_LOOPBACK}")
        dialled(url, load_token())
        assert proxies.open.led_to == asked
        # What is given counts for every address, and more than NO_PROXY.
        dialled(worker.url, load_token(), proxy=f"127.0.0.1:{proxies.open.port}")
        assert proxies.open.led_to == [*asked, f"127.0.0.1:{port}"]
        monkeypatch.delenv("NO_PROXY")
        dialled(url, load_token(), proxy="")
        assert len(proxies.open.led_to) == 2


def test_a_worker_goes_out_through_a_proxy_with_a_login(proxies: SimpleNamespace, tmp_path: Path) -> None:
    """Name and password are shown to the proxy alone; if the proxy is started anew, the session goes on."""
    proxy = Tinyproxy(tmp_path / "own", "BasicAuth ann s3cretA")
    with distmap.Pool(listen="wss://127.0.0.1:0") as pool, contextlib.ExitStack() as stack:
        stack.enter_context(proxy.run())
        url = pool.url.replace("127.0.0.1", NOT_KNOWN_AS_LOOPBACK)
        variable = {"HTTPS_PROXY": f"http://{LOGIN}@127.0.0.1:{proxy.port}"}
        with WorkerProcess("--slots", "1", url, env=variable) as worker:
            pool.wait_for_workers(1, 15)
            assert pool.map(abs, [-1]) == [1]
            stack.close()
            assert "out of reach" in worker.line("stderr", "out of reach")
            stack.enter_context(proxy.run())
            assert "is back after" in worker.line("stderr", "is back")
            assert pool.map(abs, [-1]) == [1]
            assert len(proxy.led_to) >= 2
            assert not [line for line in [*worker.stderr, *worker.stdout] if "s3cret" in line]


def test_a_worker_is_told_its_proxy_on_the_command_line(proxies: SimpleNamespace) -> None:
    """`--proxy` counts for this machine's addresses too."""
    with distmap.Pool(listen="wss://127.0.0.1:0") as pool:
        with WorkerProcess("--slots", "1", "--proxy", f"http://127.0.0.1:{proxies.open.port}", pool.url):
            pool.wait_for_workers(1, 15)
            assert pool.map(abs, [-1]) == [1]
        assert proxies.open.led_to[-1] == pool.url.removeprefix("wss://")


def test_what_a_proxy_refuses_is_told(proxies: SimpleNamespace) -> None:
    """A missing and a wrong login, a port that is not allowed, a host that is not there: one sentence each."""
    token, url = load_token(), f"wss://127.0.0.1:{free_port()}"
    for proxy, sentence in {
        f"http://127.0.0.1:{proxies.login.port}": r"wants a login \(HTTP 407\); put user name and password into its ad",
        f"http://ann:s3cret@127.0.0.1:{proxies.login.port}": r"\(HTTP 40[17]\); the user name or password in",
        f"http://127.0.0.1:{proxies.narrow.port}": r"refused to lead to 127\.0\.0\.1 port \d+ \(HTTP 403\)",
        f"http://127.0.0.1:{proxies.open.port}": r"cannot reach 127\.0\.0\.1 port \d+ \(HTTP 50\d\)",
    }.items():
        with pytest.raises(ConnectError, match=sentence) as caught:
            dialled(url, token, proxy=proxy)
        assert str(caught.value).startswith(f"{url}: the proxy http://127.0.0.1:")
        assert "s3cret" not in str(caught.value)


def test_a_proxy_that_is_reached_over_tls(proxies: SimpleNamespace, tmp_path: Path) -> None:
    """`https://` of a proxy: its certificate is checked with `ca`, before a login is shown to it."""
    signed, port = certificate(tmp_path, "proxy"), free_port()
    listen = f"OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={signed.cert},key={signed.key}"
    with (
        running([program("socat"), listen, f"TCP:127.0.0.1:{proxies.login.port}"], tmp_path / "log", port=port),
        WorkerProcess("--port", "0", "--slots", "1") as worker,
    ):
        proxy, token, before = f"https://{LOGIN}@localhost:{port}", load_token(), proxies.login.led_to
        with pytest.raises(ConnectError, match=r"the certificate of the proxy https://localhost:\d+ is not") as caught:
            dialled(worker.url, token, proxy=proxy)
        assert "s3cret" not in str(caught.value)
        assert proxies.login.led_to == before
        dialled(worker.url, token, proxy=proxy, ca=signed.ca)
        assert proxies.login.led_to == [*before, worker.url.removeprefix("wss://")]
