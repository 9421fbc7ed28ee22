"""The way to a worker over SSH, with a stand-in for ssh; the real one is in tests/reach/test_ssh.py."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.local_ssh import local_ssh
from support.waiting import until

from distmap import ConnectError, LaunchError, Pool
from distmap.launch.ssh import SSHWorker
from distmap.transport.token import load_token

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ssh:// needs Linux or macOS")

URL = f"ssh://lab7?python={sys.executable}&slots=1"


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the other side, with a short name; at the end the worker has left it."""
    with tempfile.TemporaryDirectory() as path:
        monkeypatch.setenv("DISTMAP_SSH", local_ssh(Path(path)))
        yield Path(path)
        until(lambda: not list(Path(path).glob("distmap-ssh-*/*")), 30)


def worker(url: str) -> SSHWorker:
    return SSHWorker(url, load_token())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ssh://lab7?python=a'b", "python=.* is no path"),
        ("ssh://lab7?install=maybe", "install='maybe' is neither 1 nor 0"),
        ("ssh://lab7?slot=1", "it takes slots, name, tag, memory_limit, python, install"),
    ],
)
def test_urls_that_cannot_be_meant(url: str, words: str) -> None:
    """What an option cannot be is said at once."""
    with pytest.raises(ConnectError, match=words):
        worker(url)


def test_pools_have_workers_of_their_own(far: Path) -> None:
    """Two pools at one host at one time each start one, and a second login of one of them finds the first's."""
    with Pool(URL) as pool, Pool(URL) as other:
        assert pool.map(abs, [-1]) == other.map(abs, [-1]) == [1]
        assert len(list(far.glob("distmap-ssh-*/*"))) == 2


def test_closing_ends_a_login_under_way(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that closes while ssh waits leaves no process."""
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(far, "sleep 20"))

    async def dial() -> None:
        way = worker(URL)
        with pytest.raises(ConnectError, match="still logging in"):
            await way.tunnel(0.1)
        await way.close()

    asyncio.run(dial())


def test_no_python_at_all(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell there says it by itself."""
    alone = far / "bin"
    alone.mkdir()
    (alone / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(far, f"PATH={alone}"))

    async def dial() -> None:
        way = worker("ssh://lab7")
        try:
            await way.tunnel(15)
        finally:
            await way.close()

    with pytest.raises(LaunchError, match="no Python is found there"):
        asyncio.run(dial())


@pytest.mark.parametrize("where", [">&2", ""], ids=["stderr", "stdout"])
def test_an_account_that_gives_back_what_it_is_sent(
    where: str, far: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the error nor the log has the token, which is among it."""
    told = f'while read -r l; do case $l in *dm1_*) echo "unknown command: $l" {where}; exit 1;; esac; done'
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(far, told))
    caplog.set_level("DEBUG", "distmap")

    async def dial() -> None:
        way = worker("ssh://lab7")
        try:
            await way.tunnel(15)
        finally:
            await way.close()

    with pytest.raises(LaunchError, match=r"said: unknown command: .*dm1_") as failed:
        asyncio.run(dial())
    secret = load_token().reveal().removeprefix(f"dm1_{load_token().kid}_")
    assert secret not in f"{failed.value}{caplog.text}"
