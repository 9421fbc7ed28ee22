"""`pool.check`: one way, all ways of a pool, and the way back to the pool itself."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.broken import drops
from support.services import free_port, running

from distmap import Pool
from distmap.calls import checking
from distmap.errors import ConnectError, PoolClosed
from distmap.testing.workers import WorkerProcess
from distmap.transport.first_hop import load_hop
from distmap.transport.token import load_token


@pytest.mark.timeout(60)
def test_one_way_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that serves the pool, one that does not run, and one that the pool does not know."""
    closed = f"wss://127.0.0.1:{free_port()}"
    with WorkerProcess("--port", "0", "--slots", "1") as worker, Pool([worker.url, closed]) as pool:
        one = pool.check(worker.url)
        assert one.ok
        assert one.summary.endswith("it serves this pool.")
        assert one["bandwidth"].facts["back"] > 0
        assert one._repr_mimebundle_() == {"text/plain": repr(one), "text/html": one._repr_mimebundle_()["text/html"]}
        good, bad = both = pool.check()
        assert [good.url, bad.url] == [worker.url, closed]
        assert (good.ok, bad.ok, both.ok) == (True, False, False)
        assert bad["TCP"].state == "failed"
        assert both.summary == "2 ways checked, 1 failed."
        first, second, last = repr(both).split("\n")
        assert first.startswith(f"ok {worker.url}  Every hop is passed")
        assert second.startswith(f"x  {closed}  TCP: nothing listens")
        assert last == both.summary
        assert "nothing listens" in both._repr_mimebundle_()["text/html"]
        assert pool.map(abs, [-1], progress=False) == [1]


def test_a_pool_checks_its_own_way_in() -> None:
    """A pool that listens dials itself, and finds itself."""
    with Pool(1, listen="wss://127.0.0.1:0") as pool:
        (own,) = found = pool.check()
        assert found.ok
        assert own.url == pool.url
        assert own.summary == "Every hop is passed, end to end. This pool itself answers."
        assert found.summary == "1 way checked, none failed."


def test_a_pool_at_a_relay_checks_the_way_there(tmp_path: Path) -> None:
    """It meets itself in the room; so does a worker's machine, and another room is empty."""
    port = free_port()
    relay = f"ws://127.0.0.1:{port}"
    with running([sys.executable, "-m", "distmap.relay.cli", "--port", str(port)], tmp_path / "log", port=port):
        with Pool(relay=relay) as pool:
            (own,) = pool.check()
            assert own.ok, own
            assert own["relay"].state == "ok"
            assert own.summary.endswith("This pool itself answers.")
            assert pool.url is not None
            assert pool.check(pool.url).ok
            command = [sys.executable, "-m", "distmap.worker.cli", "--check", "--relay", relay]
            found = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
            assert f"The pool {own.peer['name']} answers." in found.stdout
            assert pool.workers == []


def test_a_pool_of_this_machine_has_no_way() -> None:
    """There is nothing to check; a worker elsewhere can be checked all the same."""
    with Pool(1) as pool:
        nothing = pool.check()
        assert nothing == ()
        assert nothing.ok
        assert "All workers of this pool are on this machine" in repr(nothing)
        assert not pool.check(f"wss://127.0.0.1:{free_port()}").ok


def test_the_time_for_a_way_is_bounded() -> None:
    """`timeout` is for the way; the pool works meanwhile."""
    with drops() as url, Pool(1) as pool:
        found: list[Any] = []
        checking_ = threading.Thread(target=lambda: found.append(pool.check(str(url), timeout=0.5)))
        checking_.start()
        assert pool.map(abs, [-1], progress=False) == [1]
        checking_.join(15)
        assert found[0]["TCP"].state == "failed"
        assert "within 0.5 s" in found[0]["TCP"].words


def test_an_interrupt_ends_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun on the loop is cancelled, so nothing of it stays."""
    began, ended = threading.Event(), threading.Event()

    async def endless(*args: Any, **options: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(checking, "check", endless)
    with Pool(1) as pool:
        main = threading.main_thread().ident
        assert main is not None
        interrupting = threading.Thread(target=lambda: began.wait(10) and signal.pthread_kill(main, signal.SIGINT))
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            pool.check("wss://gpu1.invalid")
        interrupting.join()
        assert ended.wait(10)


def test_a_kernel_shows_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way from outside leads through the Jupyter server, which asks for one; headers that were given come first."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "abc")
    with Pool(1, listen=True) as pool:
        rest = (pool._remote, load_token(), 1.0)
        _, hop = checking._inwards("wss://hub/user/ann", load_hop(), *rest)
        assert hop.headers.reveal() == {"Authorization": "token abc"}
        _, hop = checking._inwards("wss://hub/user/ann", load_hop({"Authorization": "token mine"}), *rest)
        assert hop.headers.reveal() == {"Authorization": "token mine"}
        (own,) = pool.check()
        assert own["name"].state == "failed"
        assert "YOUR-HUB stands for the host of your hub" in own["name"].words
        assert "abc" not in repr(own)


def test_what_cannot_be_checked() -> None:
    """Arguments are checked, and so is whether the pool is open."""
    pool = Pool(1)
    with pytest.raises(ConnectError, match="is no wss:// URL"):
        pool.check("gpu1")
    with pytest.raises(TypeError, match="url must be an address"):
        pool.check(5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="timeout must be"):
        pool.check("wss://gpu1", timeout=-1)
    pool.terminate()
    with pytest.raises(PoolClosed):
        pool.check()
