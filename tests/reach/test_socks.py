"""SOCKS5 proxies on the way out: a real microsocks, with and without a login."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from support.dialled import NOT_KNOWN_AS_LOOPBACK, dialled
from support.optional import needs, optional
from support.services import free_port, program, running

import distmap
from distmap.errors import ConnectError
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import load_token

pytestmark = pytest.mark.usefixtures("no_proxies")


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Their ports: an open one, and one with a login."""
    optional("python_socks", needs)
    folder = tmp_path_factory.mktemp("microsocks")
    command = [program("microsocks"), "-i", "127.0.0.1", "-p"]
    plain, login = free_port(), free_port()
    with (
        running([*command, str(plain)], folder / "open", port=plain),
        running([*command, str(login), "-u", "ann", "-P", "s3cret"], folder / "login", port=login),
    ):
        yield SimpleNamespace(open=plain, login=login, log=folder / "open")


def test_a_pool_goes_out_through_a_socks_proxy(proxies: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ALL_PROXY` is used; the proxy looks the name up; a login stands in its address."""
    monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{proxies.open}")
    with WorkerProcess("--port", "0", "--slots", "1") as worker:
        url = worker.url.replace("127.0.0.1", NOT_KNOWN_AS_LOOPBACK)
        with distmap.Pool(url) as pool:
            assert pool.map(lambda data: data[::-1], [bytes(500_000) + b"x"]) == [b"x" + bytes(500_000)]
            assert [one.way for one in pool.workers] == ["end to end"]
        assert f"connected to {NOT_KNOWN_AS_LOOPBACK}:" in proxies.log.read_text()
        dialled(worker.url, load_token(), proxy=f"socks5h://ann:s3cret@127.0.0.1:{proxies.login}")
        dialled(worker.url, load_token(), proxy=f"socks5://127.0.0.1:{proxies.open}")


def test_a_worker_goes_out_through_a_socks_proxy(proxies: SimpleNamespace) -> None:
    """The same the other way round."""
    with distmap.Pool(listen="wss://127.0.0.1:0") as pool:
        url = pool.url.replace("127.0.0.1", NOT_KNOWN_AS_LOOPBACK)
        variable = {"ALL_PROXY": f"socks5h://ann:s3cret@127.0.0.1:{proxies.login}"}
        with WorkerProcess("--slots", "1", url, env=variable) as worker:
            pool.wait_for_workers(1, 15)
            assert pool.map(abs, [-1]) == [1]
            assert not [line for line in [*worker.stderr, *worker.stdout] if "s3cret" in line]


def test_what_a_socks_proxy_refuses_is_told(proxies: SimpleNamespace) -> None:
    """A missing and a wrong login, and a worker that is not there: one sentence each."""
    token, url = load_token(), f"wss://127.0.0.1:{free_port()}"
    for proxy, sentence in {
        f"socks5h://127.0.0.1:{proxies.login}": "refused the login",
        f"socks5h://ann:wrong-s3cret@127.0.0.1:{proxies.login}": "user name or password in its address is wrong",
        f"socks5h://127.0.0.1:{proxies.open}": r"cannot lead to 127\.0\.0\.1 port \d+ \(Connection refused",
        f"socks5h://127.0.0.1:{free_port()}": "nothing listens at the proxy",
    }.items():
        with pytest.raises(ConnectError, match=sentence) as caught:
            dialled(url, token, proxy=proxy)
        assert "the proxy socks5h://127.0.0.1:" in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_the_package_that_is_missing_is_named() -> None:
    """Without python-socks the sentence names the extra that brings it."""
    code = "import sys; sys.modules['python_socks'] = None; from distmap.worker.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--retry", "0", "--proxy", "socks5h://127.0.0.1:1", "wss://gpu1.example:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=18)
    assert done.returncode == 2
    assert "speaks SOCKS, which needs a package: python -m pip install 'distmap[socks]'" in done.stderr
