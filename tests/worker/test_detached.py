"""A worker that is started for one pool, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import until

from distmap.transport.token import load_token

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="listens on a Unix socket")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        (made := Path(path, "w")).mkdir(0o700)
        yield made


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "distmap.worker.detached", str(folder), "--slots=1", *options]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, env={**os.environ, "DISTMAP_TOKEN_FILE": "/no/file"}, **pipes)


def test_it_leaves_nothing(folder: Path) -> None:
    """It takes the token from standard input and listens in its folder; when it has left, the folder is gone."""
    with start(folder) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(load_token().reveal() + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"listening on unix:{folder}/socket\n"
        assert (folder / "socket").is_socket()
        process.terminate()
        assert process.wait(10) == 0
    until(lambda: not folder.exists())


def test_it_waits_for_no_pool_for_ever(folder: Path) -> None:
    """If its pool does not come, it leaves."""
    with start(folder, "--exit-if-orphaned=0.1") as process:
        process.communicate(load_token().reveal() + "\n", timeout=15)
        assert process.returncode == 0
    assert not folder.exists()


def test_a_start_that_fails_leaves_its_log(folder: Path) -> None:
    """Without a token it does not start, and what is in its folder stays for who looks."""
    with start(folder) as process:
        _, said = process.communicate("\n", timeout=15)
    assert process.returncode
    assert "what came on standard input is not of the form dm1_" in said
    assert folder.exists()
