"""Tests of distmap/worker/asking.py: real workers on a terminal; through a real hub: tests/reach/."""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.services import free_port, running
from support.terminals import terminal

from distmap import Pool
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import Secret, load_token


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(listen="wss://127.0.0.1:0") as pool:
        yield pool


def test_a_wrong_token_is_asked_for_and_kept_if_wanted(pool: Pool, tmp_path: Path) -> None:
    """The token of this machine is another one: what is typed is not shown, is used, and is kept for that host."""
    own = tmp_path / ".config" / "distmap" / "token"
    own.parent.mkdir(parents=True, mode=0o700)
    own.touch(0o600)
    own.write_text(Secret.generate().reveal())
    before = own.read_text()
    token = load_token().reveal()
    with terminal(tmp_path, str(pool.url), "--slots", "1") as shown:
        shown.until("is not that of the pool")
        shown.until("not shown): ")
        shown.type("dm1_nonsense")
        shown.until("not of the form")
        shown.until("not shown): ")
        shown.type(token)
        shown.until("[y/N] ")
        assert token not in shown.shown
        shown.type("y")
        shown.until("joined")
        assert pool.wait_for_workers(1)
    kept = own.parent / str(pool.url).removeprefix("wss://").replace(":", "_") / "token"
    assert kept.read_text().strip() == token
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert own.read_text() == before
    with terminal(tmp_path, str(pool.url), "--slots", "1") as shown:
        shown.until("joined")
        assert "not shown" not in shown.shown


def test_what_is_not_kept_is_told_where_to_put(pool: Pool, tmp_path: Path) -> None:
    """Without a yes nothing is written, and the options for the next time are named."""
    (tmp_path / ".config" / "distmap").mkdir(parents=True, mode=0o700)
    own = tmp_path / ".config" / "distmap" / "token"
    own.touch(0o600)
    own.write_text(Secret.generate().reveal())
    with terminal(tmp_path, str(pool.url), "--slots", "1") as shown:
        shown.until("not shown): ")
        shown.type(load_token().reveal())
        shown.until("[y/N] ")
        shown.type("")
        shown.until("--token-file")
        shown.until("joined")
    assert [path.name for path in own.parent.iterdir()] == ["token"]


def test_without_a_terminal_one_sentence(tmp_path: Path) -> None:
    """A worker that nobody can answer for says what is missing and ends, and makes no token of its own."""
    env = {"HOME": str(tmp_path), "DISTMAP_TOKEN_FILE": "", "XDG_CONFIG_HOME": ""}
    with WorkerProcess("wss://hub.example/user/ann/proxy/41234", "--slots", "1", env=env) as worker:
        assert worker.wait() == 2
        (line,) = worker.stderr
        assert "no token of the pool" in line
        assert re.search(r"chmod 600.*--token-file", line)
    assert list(tmp_path.iterdir()) == []


def test_at_a_relay_nothing_is_asked_that_it_cannot_know(tmp_path: Path) -> None:
    """A worker on a terminal meets its pool at a relay with the token that it has, without a question."""
    own = tmp_path / ".config" / "distmap" / "token"
    own.parent.mkdir(parents=True, mode=0o700)
    own.touch(0o600)
    own.write_text(load_token().reveal())
    port = free_port()
    command = [sys.executable, "-m", "distmap.relay.cli", "--port", str(port)]
    with running(command, tmp_path / "log", port=port), Pool(relay=f"ws://127.0.0.1:{port}") as pool:
        with terminal(tmp_path, "--relay", str(pool.url), "--slots", "1") as shown:
            shown.until("joined")
            assert pool.wait_for_workers(1)
            assert "not shown" not in shown.shown
